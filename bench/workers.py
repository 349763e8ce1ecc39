"""A joint step on two workers against the workers of another checkout and against one process.

    python bench/workers.py [--before CHECKOUT] [--recipe FILE] [--steps N] [--set KEY=VALUE ...]

CHECKOUT is a working tree of another version (git worktree add). Steps are real: the recipe's first
stages are trained once, before anything is timed; the first step of a run is not counted. Prints
seconds per step and their ratios, then what starting workers costs: seconds, processor seconds of
all processes, processes and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import interleaved, parse, parser, ratio, table, write_json

HERE = Path(__file__).parents[1]
DEADLINE = 3600  # seconds for a run
MARK = "GENAC_BENCH_RUN"  # in the environment of all processes of a run
# Starts two workers and describes them; a checkout without Ray has another signature.
START = """
import json, os, sys, time
import torch
from pathlib import Path
from genac.distributed import pool as module
begin = time.perf_counter()
try:
    pool = module.pool_for(2, "cpu", False, 1)
    pids = [os.getpid(), *pool.pids]
except TypeError:
    from genac.distributed.keeper import marked
    from genac.hardware import Hardware
    pool = module.pool_for(Hardware(torch.device("cpu"), False, 2, 1), "actor")
    pids = [os.getpid(), *marked(pool.session.mark)]
started = time.perf_counter() - begin
ticks = os.sysconf("SC_CLK_TCK")
fields = lambda pid: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
memory = lambda pid: int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
cpu = lambda: sum(int(n) for pid in pids for n in fields(pid)[11:13]) / ticks
spent, mib = cpu(), sum(memory(pid) for pid in pids) / 1024
begin = time.perf_counter()
for _ in range(50):
    pool.call("_alone", [(), ()])  # does nothing on a CPU
call = (time.perf_counter() - begin) / 50
before = cpu()
time.sleep(5)
idle = (cpu() - before) / 5
begin = time.perf_counter()
getattr(module, "leave", module.close_all)()
print(json.dumps({"start_s": started, "cpu_s": spent, "processes": len(pids), "mib": mib,
                  "call_ms": 1e3 * call, "idle_cores": idle, "end_s": time.perf_counter() - begin}))
"""


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--before", type=Path, help="a checkout to compare with")
    options.add_argument("--recipe", default="recipes/arithmetic.yaml")
    options.add_argument("--steps", type=int, default=6, help="joint steps of a run")
    options.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    args = parse(options)
    places = {"ray": (HERE, 2), "one": (HERE, 1)}
    if args.before:
        places["before"] = (args.before.resolve(), 2)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: lambda turn, name=name, place=place: train(args, Path(folder), name, turn, *place)
            for name, place in places.items()
        }
        seconds = interleaved(runs, args.repeats, 1)
    starts = {
        name: [started(root) for _ in range(args.repeats)]
        for name, (root, processes) in places.items()
        if processes > 1
    }
    report(args, seconds, starts)


def train(
    args: argparse.Namespace, folder: Path, name: str, turn: int, root: Path, processes: int
) -> float:
    """Seconds per joint step of one run with the code under `root`; processor seconds of all its
    processes with --cpu-time."""
    out = folder / f"{name}{turn}"
    command = [sys.executable, "-m", "genac.cli", "train", str(HERE / args.recipe)]
    settings = {
        "output_dir": out,
        "seed": args.seed,
        "stages.folder": folder / "stages",
        "stages.joint.steps": args.steps,
        "stages.joint.eval_every": 0,
        "evaluate.num_problems": 1,
        "evaluate.panel_problems": 0,
        "hardware.processes": processes,
        "hardware.threads": 1,
    }
    settings |= dict(item.split("=", 1) for item in args.set)
    command += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    token = f"{MARK}={out}"
    with (folder / "log.txt").open("w+") as log:
        env = environment(root) | {MARK: str(out)}
        process = subprocess.Popen(command, env=env, cwd=root, stdout=log, stderr=log)
        begin, end, seen = time.monotonic(), time.monotonic() + DEADLINE, []
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
            if (steps := logged(out)) > len(seen):
                clock = processor_seconds(token) if args.cpu_time else time.monotonic() - begin
                seen += [clock] * (steps - len(seen))
        if process.wait(10):
            raise RuntimeError(f"{shlex.join(command)} failed; see {log.name}")
    return (seen[-1] - seen[0]) / (len(seen) - 1)


def logged(out: Path) -> int:
    """Joint steps in a run's metrics."""
    file = out / "metrics.jsonl"
    return file.read_text().count('"stage": "joint"') if file.exists() else 0


def processor_seconds(token: str) -> float:
    """Of all living processes whose environment has the token."""
    total = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (place / "environ").read_bytes().split(b"\0"):
                fields = (place / "stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        except OSError:  # it ended meanwhile
            continue
    return total / os.sysconf("SC_CLK_TCK")


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def started(root: Path) -> dict[str, float]:
    return json.loads(run([sys.executable, "-c", START], root).splitlines()[-1])


def run(command: list[str], root: Path) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment(root),
        cwd=root,  # which python searches first
        timeout=DEADLINE,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def report(
    args: argparse.Namespace,
    seconds: dict[str, list[float]],
    starts: dict[str, list[dict[str, float]]],
) -> None:
    ratios = {k: ratio(seconds["ray"], v) for k, v in seconds.items() if k != "ray"}
    shown = [
        [
            name,
            median(values),
            *(ratios.get(name, {}).get(k, 1.0) for k in ("value", "low", "high")),
        ]
        for name, values in seconds.items()
    ]
    print(table(["", "s/step", "ray / this", "low", "high"], shown))
    middle: dict[str, dict[str, Any]] = {
        name: {key: median(row[key] for row in rows) for key in rows[0]}
        for name, rows in starts.items()
    }
    columns = list(middle["ray"])
    rows = [[name, *(values[c] for c in columns)] for name, values in middle.items()]
    print(table(["", *columns], rows))
    write_json(args, {"ratios": ratios, "starts": middle}, seconds)


if __name__ == "__main__":
    main()
