"""What the benchmarks share: arguments, interleaved timing, the machine's limits, tables, JSON.

Candidates are timed in one run and in rotating order, so that a slow minute falls on all of them.
No torch is imported before it is needed: processes whose memory is measured import this file too.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Seconds = dict[str, list[float]]
CPU_TIME = "GENAC_BENCH_CPU_TIME"
SWITCHES = ("GENAC_NATIVE", "GENAC_FLEX")


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    out = argparse.ArgumentParser(description=description)
    out.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    out.add_argument("--quick", action="store_true", help="less work, at most 3 repeats")
    out.add_argument("--repeats", type=int, default=5, help="timed rounds")
    out.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument(
        "--cpu-time",
        action="store_true",
        help="seconds of one thread's processor time: for a machine that does other work as well",
    )
    return out


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Parsed arguments; `--threads` holds for torch here and in child processes."""
    args = options.parse_args()
    if min(args.repeats, args.threads) < 1:
        options.error("--repeats and --threads must be at least 1")
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            options.error("--device is cuda, but no CUDA device is visible")
        if args.cpu_time or os.environ.get(CPU_TIME):
            options.error("--cpu-time counts what a processor does; a GPU's work is not in it")
    args.repeats = min(args.repeats, 3 if args.quick else args.repeats)
    if args.cpu_time or os.environ.get(CPU_TIME):  # child processes see the variable
        os.environ[CPU_TIME] = "1"
        args.cpu_time, args.threads, time.perf_counter = True, 1, time.process_time
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    return args


def interleaved(
    candidates: Mapping[str, Callable[[int], Any]], repeats: int, warmup: int = 1, device: str = ""
) -> Seconds:
    """Seconds per candidate and round. Each is called with the round's number, negative in warm-up;
    a float that it returns is its own measurement and replaces ours.
    """
    names, seconds = list(candidates), {name: [] for name in candidates}
    for turn in range(-warmup, repeats):
        for name in [names[(turn + i) % len(names)] for i in range(len(names))]:
            gc.collect()
            begin = time.perf_counter()
            own = candidates[name](turn)
            synchronise(device)
            spent = own if isinstance(own, float) else time.perf_counter() - begin
            if turn >= 0:
                seconds[name].append(spent)
    return seconds


def synchronise(device: str) -> None:
    """Waits for the accelerator, where one is used."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def memory_mib(field: str, device: str = "cpu") -> float:
    """VmRSS (now) or VmHWM (peak, without that of the parent, unlike ru_maxrss); CUDA's peak."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def ratio(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """Ratio of the medians, and the extremes of the ratios within each round."""
    rounds = [a / b for a, b in zip(slower, faster, strict=True)]
    value = statistics.median(slower) / statistics.median(faster)
    return {"value": value, "low": min(rounds), "high": max(rounds)}


def precision(device: str) -> Any:
    """What models compute in there, unless stated otherwise."""
    import torch

    return torch.bfloat16 if device == "cuda" else torch.float32


def roofline(device: str, repeats: int = 5, dtype: Any = None) -> dict[str, float]:
    """The best rates of square products in `dtype` (None = the device's precision; GFLOP/s) and of
    a copy beyond any cache (GB/s).
    """
    import torch

    def best(work: Callable[[], Any]) -> float:
        return min(interleaved({"": lambda _: work()}, repeats, 1, device)[""])

    # So large that starting the work is nothing next to it.
    sizes, copied = (
        ((4096, 8192, 16384), 2**28) if device == "cuda" else ((1024, 1536, 2048), 2**26)
    )
    rates = []
    for size in sizes:
        a = torch.randn(size, size, device=device, dtype=dtype or precision(device))
        rates.append(2 * size**3 / best(lambda a=a: a @ a) / 1e9)
    source = torch.ones(copied, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / best(lambda: target.copy_(source)) / 1e9
    return {"gemm_gflops": max(rates), "copy_gbs": copied}


def model_flops(model: Any, tokens: int, contexts: int, predictions: int) -> float:
    """Operations of a decoder-only model's forward over `tokens` positions, which attend to
    `contexts` positions in sum and of which `predictions` pass the LM head.
    """
    import torch

    cfg, head = model.config, model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    dim = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    attention = 4 * cfg.num_hidden_layers * cfg.num_attention_heads * dim * contexts
    products = 2 * sum(m.weight.numel() for m in layers) * tokens
    return float(products + attention + 2 * head.weight.numel() * predictions)


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Where the numbers come from."""
    import torch
    import transformers

    cpu = Path("/proc/cpuinfo").read_text().split("model name", 1)[-1]
    gpu = torch.cuda.get_device_properties(0) if args.device == "cuda" else None
    return {
        "cpu": cpu.splitlines()[0].strip("\t :"),
        "cores": len(os.sched_getaffinity(0)),
        "threads": args.threads,
        "cpu_time": args.cpu_time,
        "vector": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": gpu.name if gpu else "cpu",
        "cuda": torch.version.cuda if gpu else None,
        "memory_gib": gpu.total_memory / 2**30 if gpu else None,
        "switches": {k: os.environ[k] for k in SWITCHES if k in os.environ},
    }


class Peer:
    """A candidate in a process of its own: one line of JSON in, one line out."""

    def __init__(self, command: Sequence[str], **env: str) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, text=True, env={**os.environ, **env}, **pipes)
        self.ready = self.read()  # what it says of itself once it is set up

    def ask(self, message: Any) -> Any:
        print(json.dumps(message), file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> Any:
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.log.seek(0)
        raise RuntimeError(f"a benchmark process ended:\n{self.log.read()[-3000:]}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


class Channel:
    """The other end of a Peer. What libraries print goes to the log instead."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def send(self, message: Any) -> None:
        print(json.dumps(message), file=self.answers, flush=True)

    def receive(self) -> Any:
        """The next question; ends this process once nobody will ask any more."""
        line = sys.stdin.readline()
        return json.loads(line) if line else os._exit(0)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns."""
    text = lambda c: f"{c:,.3f}" if isinstance(c, float) else str(c)  # noqa: E731
    lines = [list(header), *([text(c) for c in row] for row in rows)]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, wide, strict=True)) for r in lines)


def write_json(args: argparse.Namespace, result: Mapping[str, Any], seconds: Any) -> None:
    """The result's keys at the top level, with what is needed to judge and to repeat them."""
    out = {**result, "seconds": seconds, "repeats": args.repeats, "seeds": [args.seed]}
    out |= {"machine": machine(args), "command": shlex.join(["python", *sys.argv])}
    require_finite(out, "result")
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")


def require_finite(value: Any, where: str) -> None:
    """ValueError naming the first number that is none."""
    items = dict(enumerate(value)) if isinstance(value, list | tuple) else value
    for key, item in items.items() if isinstance(items, Mapping) else ():
        require_finite(item, f"{where}.{key}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which is no result; see what the run printed")
