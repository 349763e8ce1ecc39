"""python -m paper FILE: one experiment, a plan of recipes/paper, into docs/results."""

from __future__ import annotations

import argparse
import sys

from paper.plan import render, run_experiment


def main() -> int:
    parser = argparse.ArgumentParser("python -m paper", description=__doc__)
    parser.add_argument("file", metavar="recipes/paper/NAME.yaml")
    parser.add_argument(
        "--stages",
        action="store_true",
        help="Run the stages before joint training alone, and add their cost to the page that is "
        "there.",
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="Measure nothing: write the page that is there anew from its JSON.",
    )
    arguments = parser.parse_args()
    try:
        if arguments.stages:
            from paper.stages import add_to_page  # imports torch, which takes seconds

            print(add_to_page(arguments.file))
        elif arguments.render:
            print(render(arguments.file))
        else:
            print(run_experiment(arguments.file))
    except (ValueError, OSError) as error:
        print(f"paper: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
