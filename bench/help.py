"""Processor time of `genac VERB --help`, for every verb, in fresh processes.

python bench/help.py        a table; exit 1 where a verb fails or takes more than 0.5 s
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Sequence

from genac.cli import EVALUATIONS, VERBS

LIMIT = 0.5  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description="Processor time of every verb's --help")
    p.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    repeats = p.parse_args(arguments).repeats
    lines = [["--version"], ["--help"], *([verb, "--help"] for verb in VERBS)]
    lines += [["eval", kind, "--help"] for kind in EVALUATIONS]
    rows = [(line, *min(measured(line) for _ in range(repeats))) for line in lines]
    print("| command | seconds | exit |\n|---|---|---|")
    for line, seconds, code in rows:
        print(f"| genac {' '.join(line)} | {seconds:.2f} | {code} |")
    return int(any(code or seconds > LIMIT for _, seconds, code in rows))


def measured(line: Sequence[str]) -> tuple[float, int]:
    """Processor seconds (user and system) and exit code of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run(
        [sys.executable, "-m", "genac", *line], stdout=subprocess.DEVNULL
    ).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, code


if __name__ == "__main__":
    sys.exit(main())
