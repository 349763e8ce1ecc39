"""SIGKILLs at random moments of a small run on two workers, and how it goes on.

    python bench/faults.py --results FILE [--kills 20] [--kinds worker engine ...]

A *worker* is killed at any moment, as an *engine* while it samples and as a *learner* while it
computes gradients: it holds both. *ray* is one of Ray's own processes (raylet, GCS, agents, log
monitor). The *controller* is the command itself, which is then started again, as it is where it
ended with a Ray that was killed. Recovered: the run came to its end. Equal: metrics and weights are
those of a run that nobody killed. Seconds: from a kill until a step is logged that was not logged
before it. Left: processes, files and shared memory that was there at a kill, ten seconds after the
end. FILE has a line per run; what it holds is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from common import table

HERE = Path(__file__).parents[1]
sys.path += [str(HERE), str(HERE / "tests" / "support")]

from micro import MICRO, results, weights  # noqa: E402

from genac.config.algorithms import merge  # noqa: E402
from genac.engines.vllm.guardian import shared_by  # noqa: E402
from genac.runs.store import Run  # noqa: E402

WORKERS = {"worker": "ray::Host", "engine": "ray::Host.generate", "learner": "ray::Host.step_on"}
KINDS = (*WORKERS, "ray", "controller")
RAYS = ("raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "log_monitor.py")
TOKEN = "GENAC_FAULTS"
TORCH = f"torchinductor_{getpass.getuser()}"  # an empty folder of every process with torch
DEADLINE = 1800.0  # seconds of a run, and of a recovery
REST = 10.0  # seconds after which nothing may be left


class Job:
    """One run of a recipe, started again as often as it takes."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder, self.token = folder, f"faults-{os.getpid()}-{time.monotonic_ns()}"
        self.temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # short: sockets lie in it
        places = {"output_dir": str(folder / "run"), "stages": {"folder": str(folder / "stages")}}
        self.recipe = folder / "recipe.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(merge(recipe, places)))
        self.starts = 0
        self.shared: set[str] = set()  # files in /dev/shm
        self.start()

    def start(self) -> None:
        env = {**os.environ, TOKEN: self.token, "TMPDIR": str(self.temporary)}
        env |= {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "genac.cli", "train", str(self.recipe)]
        self.log = (self.folder / "log.txt").open("a")
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)
        self.starts += 1

    @property
    def steps(self) -> int:
        """Joint steps that are logged."""
        file = self.folder / "run" / "metrics.jsonl"
        return file.read_text().count('"stage": "joint"') if file.exists() else 0

    def processes(self) -> dict[int, str]:
        """Everything that this run started, with its command line."""
        line, out = f"{TOKEN}={self.token}".encode(), {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if line in (place / "environ").read_bytes().split(b"\0"):
                    text = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    out[int(place.name)] = text
            except OSError:
                continue
        return {pid: text for pid, text in out.items() if text}

    def victims(self, kind: str) -> list[tuple[int, str]]:
        """Processes and their names."""
        if kind == "controller":
            return [(self.process.pid, "controller")]
        names = (WORKERS[kind],) if kind in WORKERS else RAYS
        every = self.processes().items()
        pairs = [(pid, name) for pid, text in every for name in names if is_of(text, name)]
        return [(pid, name) for pid, name in pairs if pid != self.process.pid]

    def revive(self) -> None:
        """Starts the command again where it has ended without a result."""
        if self.process.poll() not in (None, 0):
            self.start()

    def await_step(self, after: int) -> bool:
        """Whether a step beyond `after` is logged before the deadline; or the run has ended."""
        end = time.monotonic() + DEADLINE
        while self.steps <= after and self.process.poll() != 0 and time.monotonic() < end:
            self.revive()
            time.sleep(0.02)
        return self.steps > after or self.process.poll() == 0

    def finish(self) -> bool:
        end = time.monotonic() + DEADLINE
        while self.process.poll() != 0 and time.monotonic() < end:
            self.revive()
            time.sleep(0.05)
        return self.process.poll() == 0

    def look(self) -> None:
        """Notes the shared memory that its processes have now: a killed one may leave it."""
        for pid in self.processes():
            with contextlib.suppress(OSError):  # it ended meanwhile
                self.shared |= shared_by(pid)

    def left(self) -> list[str]:
        end = time.monotonic() + REST
        files = lambda: [f for f in self.temporary.iterdir() if f.name != TORCH]  # noqa: E731
        while time.monotonic() < end and (self.processes() or files()):
            time.sleep(0.1)
        result = [text[:60] for text in self.processes().values()]
        result += [str(file) for file in files()]
        result += [file for file in self.shared if Path(file).exists()]
        shutil.rmtree(self.temporary, ignore_errors=True)
        return result


def is_of(text: str, name: str) -> bool:
    """Whether a command line is of that part of Ray: its programs name each other's."""
    head = text.split(" --", 1)[0]
    return name in head


def ppo(steps: int) -> dict[str, Any]:
    """The recipe: a micro run on two workers."""
    joint = {"steps": steps, "save_every": 2, "eval_every": 0, "log_rollouts_every": 0}
    return merge(
        MICRO, {"algorithm": "ppo", "stages": {"joint": joint}, "hardware": {"processes": 2}}
    )


def one(
    make: Callable[[Path], Job], folder: Path, kind: str, number: int, kills: int, within: float
) -> dict[str, Any]:
    """A run with some kills, each at most `within` seconds after the last; seeded by its number."""
    draw = random.Random(f"{kind}/{number}")
    whole = folder / "whole"
    target = folder / f"{kind}-{number}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    if (whole / "stages").exists():
        shutil.copytree(whole / "stages", target / "stages")
    job, seconds, killed, ok = make(target), [], [], True
    ok = job.await_step(0)
    while ok and len(killed) < kills and job.process.poll() != 0:
        time.sleep(draw.uniform(0, within))
        job.look()
        while not (victims := job.victims(kind)) and job.process.poll() is None:
            time.sleep(draw.uniform(0, 0.1))
        if not victims:  # it has ended, with or without a result
            ok = job.await_step(job.steps)
            continue
        pid, name = draw.choice(sorted(victims))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        begin, logged = time.monotonic(), job.steps
        killed.append(name)
        ok = job.await_step(logged)
        seconds.append(time.monotonic() - begin)
    ok = ok and job.finish()
    equal = ok and same(Run.open(target / "run"), Run.open(whole / "run"))
    left = job.left()
    if job.process.poll() is None:
        job.process.kill()
    return {
        "kind": kind,
        "number": number,
        "killed": killed,
        "recovered": ok,
        "equal": equal,
        "seconds": seconds,
        "starts": job.starts,
        "left": left,
    }


def same(run: Run, whole: Run) -> bool:
    """Metrics, without the account of what was computed, and weights."""
    lines = [
        [{k: v for k, v in line.items() if not k.startswith("cost/")} for line in results(one)]
        for one in (run, whole)
    ]
    return lines[0] == lines[1] and weights(run) == weights(whole)


def report(rows: list[dict[str, Any]], kinds: list[str]) -> str:
    lines = []
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind]
        seconds = [s for row in own for s in row["seconds"]] or [0.0]
        lines.append(
            [
                kind,
                sum(len(row["killed"]) for row in own),
                len(own),
                sum(row["recovered"] for row in own),
                sum(row["equal"] for row in own),
                median(seconds),
                max(seconds),
                sum(len(row["left"]) for row in own),
            ]
        )
    header = ["killed", "kills", "runs", "recovered", "equal", "median s", "max s", "left"]
    return table(header, lines)


def measure(args: argparse.Namespace, make: Callable[[Path], Job], kinds: Sequence[str]) -> None:
    """Runs until every kind has its kills; prints the table."""
    read = lambda: [json.loads(x) for x in args.results.read_text().splitlines()]  # noqa: E731
    rows = read() if args.results.exists() else []
    folder = args.results.with_suffix("").absolute()
    if not (folder / "whole" / "run" / "done.json").exists():
        shutil.rmtree(folder / "whole", ignore_errors=True)
        job = make(folder / "whole")
        if not job.finish():
            raise RuntimeError(f"the run that nobody killed failed; see {job.folder / 'log.txt'}")
        job.left()
    for kind in kinds:
        done = [row for row in rows if row["kind"] == kind]
        left = args.kills - sum(len(row["killed"]) for row in done)
        number = len(done)
        while left > 0:
            row = one(make, folder, kind, number, min(args.per_run, left), args.within)
            with args.results.open("a") as file:
                print(json.dumps(row), file=file)
            print(json.dumps(row), flush=True)
            number, left = number + 1, left - max(1, len(row["killed"]))
    print(report(read(), list(kinds)))


def options(description: str, steps: int, within: float) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--results", type=Path, required=True, help="JSONL, a line per run")
    result.add_argument("--kills", type=int, default=20, help="of each kind, over all runs")
    result.add_argument("--per-run", type=int, default=5, help="kills in one run")
    result.add_argument("--steps", type=int, default=steps, help="joint steps of a run")
    result.add_argument("--within", type=float, default=within, help="seconds until the next kill")
    return result


def main() -> None:
    assert __doc__ is not None
    parser = options(__doc__.splitlines()[0], 60, 4.0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    args = parser.parse_args()
    measure(args, lambda folder: Job(folder, ppo(args.steps)), args.kinds)


if __name__ == "__main__":
    main()
