"""python -m paper FILE: one experiment, a plan of recipes/paper, into docs/results."""

from __future__ import annotations

import sys

from paper.plan import run_experiment


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m paper recipes/paper/NAME.yaml", file=sys.stderr)
        return 2
    try:
        print(run_experiment(sys.argv[1]))
    except (ValueError, OSError) as error:
        print(f"paper: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
