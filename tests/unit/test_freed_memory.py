"""What a tensor freed is there for the next one, without the system clearing its pages again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from genac.hardware import keep_freed_memory

keep_freed_memory()

def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touch()
print(touch())
"""


def faults(**variables: str) -> int:
    """Pages that the system clears for eight tensors of 64 MiB, one after the other."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES",)}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(
        command, env=kept | variables, capture_output=True, text=True, check=True, timeout=100
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_unless_the_environment_sets_the_allocator() -> None:
    assert faults() < 1000
    assert faults(GLIBC_TUNABLES="glibc.malloc.mmap_max=65536") > 10_000
