"""How fast `genac view` is on a large run: opening, pages, filters, one trajectory, memory.

    python bench/view.py [--quick] [--json FILE] [--estimates 2000000] [--folder FOLDER]

The run is synthetic: arithmetic-like responses of eight states, each with a prompt, a reasoning and
its tokens. The server is a process of its own and is queried over HTTP, as a browser would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from common import parse, parser, summary, table, write_json

STATES, MEMBERS, PER_STEP = 8, 8, 1024  # states per response, responses per problem and per step
LIMITS = {"open": 2.0, "memory_mb": 500.0}  # what the viewer promises; requests: REQUEST seconds
REQUEST = 0.3
REQUESTS = {
    "first page": "rollouts",
    "page 200": "rollouts?page=200",
    "largest drops": "rollouts?sort=drop",
    "worst mistakes, as the page opens": "rollouts?sort=telling",
    "a problem over training": "history?problem=synthetic-77",
    "wrong only": "rollouts?outcome=wrong&sort=drop",
    "drop over 0.8": "rollouts?min_drop=0.8",
    "unparsable": "rollouts?unparsable=true",
    "critic apart from outcomes": "rollouts?min_gap=0.5&sort=gap",
    "one problem": "rollouts?problem=synthetic-77",
    "steps 10 to 20": "rollouts?step_min=10&step_max=20",
    "text search, first answer": "rollouts?q=needle-{turn}",
    "trajectory": "trajectory/joint/{step}/5/3",
    "tree": "tree/joint/{step}/7",
    "versions of a state": "versions/joint/{step}/5/3?start=12",
    "run": "run",
}


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--estimates", type=int, default=2_000_000)
    options.add_argument("--folder", type=Path, help="keep the synthetic run there")
    args = parse(options)
    args.estimates = args.estimates // 10 if args.quick else args.estimates
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "run"
        if not folder.exists():
            synthesize(folder, args.estimates, args.seed)
        measured, seconds = measure(args, folder)
    print(table(["", "median", "min", "max", "limit"], rows(measured)))
    write_json(args, {"estimates": args.estimates, **measured}, seconds)


def rows(measured: dict) -> list[list]:
    out = []
    for name, result in measured.items():
        limit = LIMITS.get(name, REQUEST if name in REQUESTS else "")
        out.append([name, result["median"], result["min"], result["max"], limit])
    return out


def measure(args, folder: Path) -> tuple[dict, dict]:
    """Opens the run `repeats` times; sends every request that often to each server."""
    seconds = {
        name: [] for name in ("open", "open_cpu", "indexed", "indexed_cpu", "memory_mb", *REQUESTS)
    }
    for turn in range(args.repeats):
        with Server(folder) as server:
            seconds["open"].append(server.opened)
            seconds["open_cpu"].append(server.opened_cpu)
            seconds["indexed"].append(server.wait_for_index())
            seconds["indexed_cpu"].append(server.cpu())
            for name, path in REQUESTS.items():
                for ask in range(args.repeats):
                    filled = path.format(turn=f"{turn}-{ask}", step=(37 * ask + turn) % server.last)
                    begin = time.perf_counter()
                    server.get(filled)
                    seconds[name].append(time.perf_counter() - begin)
            seconds["memory_mb"].append(server.peak_mb())
    return {name: summary(values) for name, values in seconds.items()}, seconds


class Server:
    """`genac view` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        begin = time.perf_counter()
        command = [sys.executable, "-m", "genac.cli", "view", str(folder), "--no-browser"]
        self.process = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        line = self.process.stdout.readline()
        self.url = next(word for word in line.split() if word.startswith("http")).rstrip("/")
        self.begin = begin
        result = self.get("rollouts")
        assert len(result["rows"]), "the first page is empty"
        self.opened = time.perf_counter() - begin
        self.opened_cpu = self.cpu()
        self.last = max(row["step"] for row in result["rows"])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"{self.url}/api/{path}", timeout=60) as answer:
            return json.load(answer)

    def wait_for_index(self) -> float:
        """Seconds from the start until every file has been read."""
        while (result := self.get("run")["indexed"])["done"] != result["total"]:
            pass
        return time.perf_counter() - self.begin

    def cpu(self) -> float:
        """Processor seconds so far: on a busy machine the wall clock says more of other work."""
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


def synthesize(folder: Path, estimates: int, seed: int) -> None:
    """A run of about that many estimates, written file by file in the store's own format."""
    from genac.runs.store import Run, environment

    run = Run.create(folder, {"name": "synthetic", "algorithm": "genac"}, environment())
    steps = max(1, round(estimates / (STATES * PER_STEP)))
    begin = time.perf_counter()
    for step in range(steps):
        rng = np.random.default_rng((seed, step))
        reward = rng.random(PER_STEP) < 0.2 + 0.6 * step / steps
        write(run, "rollouts", step, rollouts(step, reward, rng))
        write(run, "estimates", step, values(step, reward, rng))
        run.log("joint", step, {"reward": float(reward.mean())})
    print(f"wrote {steps * PER_STEP * STATES:,} estimates in {time.perf_counter() - begin:.0f} s")


def write(run, folder: str, step: int, columns: dict) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = run.table_path(folder, "joint", step)
    parquet.write_table(pa.table(columns), path, compression="zstd")


def rollouts(step: int, reward: np.ndarray, rng: np.random.Generator) -> dict:
    """Columns of one step's responses: STATES lines of four tokens each."""
    import pyarrow as pa

    number = np.arange(PER_STEP)
    digits = rng.integers(0, 10, (PER_STEP, STATES))
    lines = [[f"{'abcdefgh'[s]}+{s}={d}\n" for s, d in enumerate(row)] for row in digits]
    tokens = [[c for line in row for c in (line[0], line[1:3], "=", line[4:])] for row in lines]
    length = STATES * 4
    return {
        "problem_id": [f"synthetic-{(step * PER_STEP + i) // MEMBERS % 5000}" for i in number],
        "prompt": [f"{i // MEMBERS} a+3 b*7 c-8 d+1 e*3>" for i in number],
        "answer": ["1"] * PER_STEP,
        "group": pa.array(number // MEMBERS, pa.int32()),
        "member": pa.array(number % MEMBERS, pa.int32()),
        "response": ["".join(row) for row in lines],
        "response_ids": pa.array(
            [[t for s, d in enumerate(row) for t in (s, 20, 30, 40 + d)] for row in digits.tolist()]
        ).cast(pa.list_(pa.int32())),
        "logprobs": list(-rng.exponential(0.2, (PER_STEP, length)).astype(np.float32)),
        "reward": reward.astype(float),
        "reason": [""] * PER_STEP,
        "finish": ["stop"] * PER_STEP,
        "actor_version": pa.array(np.full(PER_STEP, step), pa.int32()),
        "tokens": tokens,
    }


def values(step: int, reward: np.ndarray, rng: np.random.Generator) -> dict:
    """Columns of one step's states; a fiftieth of the scores is missing."""
    import pyarrow as pa

    count = PER_STEP * STATES
    response, state = np.divmod(np.arange(count), STATES)
    drift = np.where(reward[response], 1, -1) * state / STATES * 0.5
    value = np.clip(0.5 + drift + rng.normal(0, 0.15, count), 0, 1)
    missing = rng.random(count) < 0.02
    probs = np.exp(-(((np.arange(11) / 10 - value[:, None]) / 0.15) ** 2)).astype(np.float32)
    words = [["line ", f"{s} ", "ok" if v > 0.4 else "no", "\n", "<answer>", f"{round(10 * v)}"]
             for s, v in zip(state.tolist(), value.tolist(), strict=True)]  # fmt: skip
    int32 = lambda array: pa.array(array, pa.int32())  # noqa: E731
    return {
        "problem_id": [f"synthetic-{(step * PER_STEP + i) // MEMBERS % 5000}" for i in response],
        "group": int32(response // MEMBERS),
        "member": int32(response % MEMBERS),
        "start": int32(state * 4),
        "end": int32(state * 4 + 4),
        "step_text": [f"{'abcdefgh'[s]}+{s}=1\n" for s in state],
        "value": pa.array(value, mask=missing),
        "reward": reward[response].astype(float),
        "advantage": rng.normal(0, 0.2, count),
        "expected": pa.array(value, mask=missing),
        "rationale": ["".join(row) for row in words],
        "critic_version": int32(np.full(count, step)),
        # Half of the states of a group are shared, as prefixes of one problem are.
        "state": (step * PER_STEP + response // MEMBERS * MEMBERS) * STATES * 3
        + np.where(state < STATES // 2, 0, response % MEMBERS + 1) * STATES + state,
        "critic_prompt": [f"problem {r} partial response of {s} lines, how likely is success?"
                          for r, s in zip(response, state, strict=True)],
        "rationale_tokens": words,
        "rationale_logprobs": list((-rng.exponential(0.2, (count, 6))).round(3).astype(np.float32)),
        "score_probs": list((probs / probs.sum(1, keepdims=True)).round(3)),
    }  # fmt: skip


if __name__ == "__main__":
    main()
