"""The arguments of `genac view` and `genac ls`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from genac.runs.listing import list_runs
from genac.runs.store import Run

NEEDED = ("duckdb", "fastapi", "uvicorn")
PORT = 8265


class Parser(argparse.ArgumentParser):
    """One that refuses by ValueError, as every verb does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}\n{self.format_usage().strip()}")


def view(arguments: Sequence[str]) -> None:
    """Serves the viewer, or prints it (--terminal)."""
    args = _options().parse_args(list(arguments))
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"the viewer needs {', '.join(absent)}: pip install 'genac[view]'")
    if not Path(args.run).is_dir():
        raise ValueError(f"{args.run} is not a folder: name a folder that a run wrote")
    run = Run(args.run)
    if args.terminal:
        from genac.ui.viewer.index import Filters
        from genac.ui.viewer.terminal import show

        filters = Filters(
            outcome=args.outcome, sort=args.sort, q=args.search, page=args.page, size=args.rows
        )
        show(run, args.address, filters, tokens=args.tokens)
        return
    if args.address is not None:
        raise ValueError(f"{args.address}: an address is for --terminal; a browser has links")
    if args.tokens:
        raise ValueError("--tokens is for --terminal; in a browser unfold the tokens, or press e")
    from genac.ui.viewer.server import serve

    serve(run, args.host, args.port, not args.no_browser)


def ls(arguments: Sequence[str]) -> None:
    """Prints the runs below a folder."""
    parser = Parser(prog="genac ls", add_help=True)
    parser.add_argument("folder", nargs="?", default="runs")
    folder = parser.parse_args(list(arguments)).folder
    result = list_runs(folder)
    if not result:
        print(f"{folder} holds no runs")
        return
    from genac.ui.viewer.terminal import runs

    runs(result)


def _options() -> Parser:
    parser = Parser(prog="genac view")
    parser.add_argument("run", help="folder that a run wrote")
    parser.add_argument("address", nargs="?", help="with --terminal: STAGE/STEP/GROUP/MEMBER")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=PORT, help="0 for any free one")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--terminal", action="store_true", help="print instead of serving")
    parser.add_argument(
        "--tokens", action="store_true", help="with an address: each token, also the critic's"
    )
    parser.add_argument("--outcome", help="with --terminal: right, wrong, unscored or cut")
    parser.add_argument("--sort", default="step", help="with --terminal: step, drop, gap, ...")
    parser.add_argument("--search", help="with --terminal: text in problem, response or reasoning")
    parser.add_argument("--page", type=int, default=1)
    parser.add_argument("--rows", type=int, default=20, help="responses per page")
    return parser
