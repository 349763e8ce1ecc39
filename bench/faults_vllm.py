"""Kills vLLM's server at random moments of a run, and compares the end with a run left alone.

    python bench/faults_vllm.py --python .vllm-env/bin/python --kills 20

A tiny GenAC run, whose actor is sampled on vLLM. Each kill is a SIGKILL of one of the server's
processes, drawn at random, at a random moment after the server was last seen well. `recovery` is
the time from there until a server answers again: nearly all of it is vLLM's start. Compared are the
metrics of every step and the final weights of actor and critic.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parents[1]
OPTIMIZER = {"learning_rate": 1e-2, "warmup_steps": 5}
RECIPE: dict[str, Any] = {
    "task": {"name": "arithmetic", "options": {"min_steps": 1, "max_steps": 2, "operators": "+"}},
    "rollout": {"num_prompts": 8, "num_generations": 4, "max_completion_length": 14},
    "actor": {
        "tiny": {"hidden_size": 64, "layers": 1, "heads": 2, "max_length": 64},
        "optimizer": {"learning_rate": 1e-3},
    },
    "critic": {
        "optimizer": {"learning_rate": 1e-3},
        "generative": {"prompt": "compact", "max_new_tokens": 16},
    },
    "stages": {
        "base": {"steps": 100, "batch_size": 16, "check_fraction": 0.3, "optimizer": OPTIMIZER},
        "synthesize": {"num_prompts": 16, "num_generations": 2, "num_states": 48},
        "sft": {"epochs": 6, "batch_size": 8, "optimizer": OPTIMIZER},
        "critic_rl": {"steps": 2},
    },
    "evaluate": {"num_problems": 4, "num_samples": 2, "during": 2, "panel_problems": 0},
    "hardware": {"device": "cpu", "threads": 1},
}
NOT_RESULTS = ("time", "cost/seconds")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--python", required=True, help="interpreter of an environment with vLLM")
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--steps", type=int, default=300, help="of the joint stage")
    options.add_argument("--within", type=float, default=2.0, help="seconds until the next kill")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--quick", action="store_true", help="2 kills in 6 steps")
    options.add_argument("--json", type=Path, metavar="FILE")
    args = options.parse_args()
    if args.quick:
        args.kills, args.steps = min(args.kills, 2), min(args.steps, 6)
    with tempfile.TemporaryDirectory() as place:
        result = compare(Path(place), args)
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def compare(place: Path, args: argparse.Namespace) -> dict[str, Any]:
    begin = start(place / "prepared", RECIPE, {"stages": {"joint": {"steps": 1}}}, place)
    finish(begin, place / "prepared")
    newest = lambda name: str(next((place / "stages").glob(name)))  # noqa: E731
    changes = {
        "actor": {"model_name_or_path": newest("base-*/model"), "engine": "vllm"},
        "critic": {"model_name_or_path": newest("critic_rl-*/model")},
        "stages": {"sft": {"epochs": 0}, "critic_rl": {"steps": 0}, "joint": {"steps": args.steps}},
        "hardware": {"vllm": {"python": args.python, "startup_seconds": 1800}},
    }
    seconds = {}
    for name in ("killed", "alone"):
        clock, run = time.monotonic(), start(place / name, RECIPE, changes, place)
        recoveries = kill(run, args) if name == "killed" else []
        finish(run, place / name)
        seconds[name] = time.monotonic() - clock
        if recoveries:
            seconds["recoveries"] = recoveries
    return {
        "kills": len(seconds["recoveries"]),
        "recovery": {
            "median": statistics.median(seconds["recoveries"]),
            "max": max(seconds["recoveries"]),
        },
        "seconds": seconds,
        "steps": args.steps,
        "metrics_difference": difference(metrics(place / "killed"), metrics(place / "alone")),
        "weights_difference": max(weights_difference(place, role) for role in ("actor", "critic")),
        "command": " ".join(["python", *sys.argv]),
    }


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(values)
    for key, value in changes.items():
        inner = out.get(key)
        out[key] = merged(inner, value) if isinstance(inner, dict) else value
    return out


def start(folder: Path, recipe: Any, changes: Any, place: Path) -> subprocess.Popen:
    """genac train in a process of its own, into the folder."""
    places = {"output_dir": str(folder), "stages": {"folder": str(place / "stages")}}
    file = place / f"{folder.name}.yaml"
    file.write_text(yaml.safe_dump(merged(merged(recipe, changes), places)))
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    log = open(place / f"{folder.name}.log", "w")  # noqa: SIM115  (lives as long as the process)
    command = [sys.executable, "-m", "genac.cli", "train", str(file)]
    return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)


def finish(run: subprocess.Popen, folder: Path) -> None:
    if run.wait(7200):
        sys.exit((folder.parent / f"{folder.name}.log").read_text()[-4000:])


def kill(run: subprocess.Popen, args: argparse.Namespace) -> list[float]:
    """Kills servers until it has done so often enough or the run has ended; seconds to recover."""
    rng, recoveries = random.Random(args.seed), []
    seen = well(run, 0)
    while len(recoveries) < args.kills and seen:
        time.sleep(rng.uniform(0, args.within))
        group = members(seen)
        if not group or run.poll() is not None:
            break
        clock = time.monotonic()
        os.kill(rng.choice(group), signal.SIGKILL)
        again = well(run, seen)
        if again:
            recoveries.append(time.monotonic() - clock)
            print(f"kill {len(recoveries)}: {recoveries[-1]:.1f} s", file=sys.stderr, flush=True)
        seen = again
    return recoveries


def well(run: subprocess.Popen, old: int) -> int:
    """The process group of a server, other than the old one, that answers; 0 = the run ended."""
    while run.poll() is None:
        for guardian in children(run.pid):
            words = Path(f"/proc/{guardian}/cmdline").read_bytes().decode().split("\0")
            for server in children(guardian):
                if server != old and "--port" in words and answers(words):
                    return server
        time.sleep(0.2)
    return 0


def children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(p) for t in tasks for p in (t / "children").read_text().split()]
    except OSError:
        return []


def answers(words: list[str]) -> bool:
    port = words[words.index("--port") + 1]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def members(group: int) -> list[int]:
    """The processes of a group."""
    result = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(name)) == group:
                result.append(int(name))
        except OSError:  # it ended meanwhile
            continue
    return sorted(result)


def metrics(folder: Path) -> list[dict[str, float]]:
    from genac.runs.store import Run

    return [
        {k: v for k, v in row.items() if isinstance(v, float) and not k.startswith(NOT_RESULTS)}
        for row in Run.open(folder).metrics("joint")
    ]


def difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The largest difference of a metric of a step."""
    assert [row.keys() for row in one] == [row.keys() for row in other]
    pairs = ((a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)
    return max((abs(a - b) for a, b in pairs), default=0.0)


def weights_difference(place: Path, role: str) -> float:
    from safetensors.torch import load_file

    one, other = (load_file(place / n / role / "model.safetensors") for n in ("killed", "alone"))
    return max(float((one[k] - other[k]).abs().max()) for k in one)


if __name__ == "__main__":
    main()
