"""Whether this processor computes faster in bf16: measured once, kept in the user's cache folder.

    measured()  ->  Speedup(decoding=1.6, training=2.1)

Processors without instructions for bf16 emulate it and are several times slower in it. Products
alone are timed: they are most of the work of a model that is large enough for this to matter.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch

from genac.runs.files import write_json
from genac.runs.store import stable_hash

# Rows of a product with a weight of 1024 x 2048: sequences decoded together, tokens trained.
DECODED, TRAINED, WEIGHT = 64, 512, (1024, 2048)
SECONDS = 0.4  # for each shape; at least one round, however slow
LARGE = 50_000_000  # parameters below which fp32 stays, so that small models give the same anywhere
WORTH = 1.2  # times as fast: what is lost in precision has to pay


@dataclass(frozen=True)
class Speedup:
    """How many times as fast products are in bf16 as in fp32."""

    decoding: float
    training: float

    @property
    def pays(self) -> bool:
        return min(self.decoding, self.training) >= WORTH


def summary(chosen: str) -> tuple[str, bool]:
    """What this processor gains by bf16 under a value of `hardware.precision`, in words, and
    whether that value is a sensible one.
    """
    speedup = measured()
    text = (
        f"precision {chosen}: products in bf16 are {speedup.decoding:.1f} (decoding) and "
        f"{speedup.training:.1f} (training) times as fast as in fp32 here"
    )
    if chosen == "auto":
        large = f"models of {LARGE // 10**6}M parameters and more"
        text += f"; {large if speedup.pays else 'no models'} compute in bf16"
    return text, chosen != "bf16" or speedup.pays


def uses_bf16(parameters: int) -> bool:
    """What `hardware.precision: auto` means for a model of that size on a CPU."""
    return parameters >= LARGE and measured().pays


@lru_cache(maxsize=1)
def measured() -> Speedup:
    """From the cache folder, or measured now (about a second). A folder that cannot be written is
    no error."""
    file = cache_file()
    try:
        values = json.loads(file.read_text())
        return Speedup(float(values["decoding"]), float(values["training"]))
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged
        result = Speedup(speedup(DECODED), speedup(TRAINED))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(result))
    except OSError:
        pass
    return result


def cache_file() -> Path:
    """One per processor, number of threads and torch version."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genac"
    key = [processor(), torch.get_num_threads(), torch.__version__]
    return folder / f"bf16-{stable_hash(key)}.json"


def processor() -> str:
    """The processor's model name, where the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(names[:2]) or platform.processor() or platform.machine()


def speedup(rows: int) -> float:
    """Best time in fp32 over best time in bf16; in turn, so that a slow moment falls on both."""
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    pairs = {d: (torch.ones(rows, WEIGHT[0], dtype=d), torch.ones(WEIGHT, dtype=d)) for d in best}
    for x, weight in pairs.values():  # the first product also prepares
        torch.mm(x, weight)
    end = time.perf_counter() + SECONDS
    while True:
        for dtype, (x, weight) in pairs.items():
            begin = time.perf_counter()
            torch.mm(x, weight)
            best[dtype] = min(best[dtype], time.perf_counter() - begin)
        if time.perf_counter() > end:
            break
    return best[torch.float32] / best[torch.bfloat16]
