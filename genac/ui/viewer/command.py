"""What `genac view` and `genac ls` do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

NEEDED = ("duckdb", "fastapi", "uvicorn")
PORT = 8265


class Parser(argparse.ArgumentParser):
    """One that refuses by ValueError, as every verb does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}\n{self.format_usage().strip()}")


def view(arguments: Sequence[str]) -> None:
    """Serves the viewer, prints it (--terminal), or writes it as one file (--export)."""
    args = _options().parse_intermixed_args(list(arguments))  # addresses may follow an option
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"the viewer needs {', '.join(absent)}: pip install 'genac[ui]'")
    if args.run is None:
        raise ValueError("name a run, or a folder that holds runs, for example: genac view runs")
    if not Path(args.run).is_dir():
        raise ValueError(f"{args.run} is not a folder: name a folder that a run wrote")
    if args.terminal:
        _print(args)
    elif args.export:
        _export(args)
    else:
        _serve(args)


def _print(args: argparse.Namespace) -> None:
    from genac.runs.store import Run
    from genac.ui.viewer.terminal import show

    if len(args.address) > 1:
        raise ValueError(f"{args.address[1]}: --terminal shows one response, name one address")
    address = args.address[0] if args.address else None
    show(Run(args.run), address, _filters(args, "step"), tokens=args.tokens)


def _export(args: argparse.Namespace) -> None:
    from genac.runs.store import Run
    from genac.ui.viewer.page import write_page

    target = Path(args.export)
    if not target.parent.is_dir():
        raise ValueError(f"{target.parent} is not a folder: name a file in one that exists")
    many = write_page(Run(args.run), target, args.address, _filters(args, "telling"))
    print(f"{target}: {many} responses, {target.stat().st_size / 1e6:.1f} MB")


def _serve(args: argparse.Namespace) -> None:
    if args.address:
        text = f"{args.address[0]}: an address is for --terminal or --export; a browser has links"
        raise ValueError(text)
    if args.tokens:
        raise ValueError("--tokens is for --terminal; in a browser unfold the tokens, or press e")
    from genac.runs.store import Run
    from genac.ui.viewer.library import holds_run, is_library, make_library
    from genac.ui.viewer.server import make_app, serve

    folder = Path(args.run)
    several = is_library(folder)
    if not several and not holds_run(folder):
        raise ValueError(
            f"{folder} holds no run, and no folder below it does: name a folder that 'genac train' "
            "wrote; 'genac ls FOLDER' lists those in a folder"
        )
    app = make_library(folder, args.host) if several else make_app(Run(folder), args.host)
    serve(app, folder, args.host, args.port, not args.no_browser)


def _filters(args: argparse.Namespace, sort: str) -> Any:
    from genac.ui.viewer.filters import Filters

    return Filters(
        outcome=args.outcome,
        problem=args.problem,
        sort=args.sort or sort,
        q=args.search,
        page=args.page,
        size=args.rows,
    )


def ls(folder: str) -> None:
    """Prints the runs below a folder."""
    from genac.runs.listing import list_runs

    result = list_runs(folder)
    if not result:
        print(f"{folder} holds no runs")
        return
    from genac.ui.viewer.terminal import runs

    runs(result)


def _options() -> Parser:
    parser = Parser(prog="genac view")
    parser.add_argument("run", nargs="?", help="folder that a run wrote, or one that holds runs")
    parser.add_argument(
        "address", nargs="*", help="with --terminal or --export: STAGE/STEP/GROUP/MEMBER"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=PORT, help="0 for any free one")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--terminal", action="store_true", help="print instead of serving")
    parser.add_argument(
        "--tokens", action="store_true", help="with an address: each token, also the critic's"
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="write one interactive page with the responses that are named or chosen below",
    )
    choice = parser.add_argument_group("which responses --terminal lists and --export holds")
    choice.add_argument("--outcome", help="right, wrong, unscored or cut")
    choice.add_argument("--problem", help="part of the problem's name")
    choice.add_argument("--search", help="text in problem, response or reasoning")
    choice.add_argument("--sort", help="step, telling (worst mistakes), drop, gap, reward, ...")
    choice.add_argument("--page", type=int, default=1)
    choice.add_argument("--rows", type=int, default=20, help="responses per page")
    return parser
