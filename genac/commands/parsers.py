"""The options of every verb, in one module that needs no torch: help and slips answer at once.

A command parses its own arguments with the parser of its name here; `cli.py` does so before it
imports the command.
"""

from __future__ import annotations

import argparse

from genac.config.parser import Parser

DATA_SETS = "aime24, aime25, amc23, math500, minerva, olympiad"  # BENCHMARKS of tasks/sources.py
SIZES = (2, 4, 8)  # candidates of a search


def score() -> Parser:
    p = Parser(prog="genac score", description="A saved critic's value of a partial solution.")
    p.add_argument("critic", help="a run, a critic's folder, a checkpoint, or a name on the hub")
    p.add_argument("problem", help="as text (\\n: a line break, but not before a letter)")
    p.add_argument("partial", help="the solution so far, as text")
    p.set_defaults(on_hub=("critic",))
    return p


def eval_run() -> Parser:
    p = Parser(
        prog="genac eval",
        description="Measures a finished run again: held-out success, shifts, critic.",
        epilog="genac eval critic | states | search | benchmarks | solutions --help says more.",
    )
    p.add_argument("run", metavar="RUN", help="a finished run")
    return p


def eval_critic() -> Parser:
    p = Parser(
        prog="genac eval critic",
        description="Critics against panels of a run's actor, as a table.",
    )
    p.add_argument(
        "run", metavar="RUN", help="a finished run: its actor, task and shifts make the panels"
    )
    p.add_argument(
        "critics",
        nargs="*",
        help="further critics: runs, folders with critic.json, checkpoints, openai:MODEL@URL, "
        "endpoint.yaml",
    )
    p.add_argument("--api-key-env", default="", help="variable that holds the key of openai:...")
    p.add_argument("--dry-run", action="store_true", help="print what would be sent to endpoints")
    p.add_argument(
        "--problems", type=int, default=None, help="problems with mixed outcomes per panel"
    )
    p.add_argument("--continuations", type=int, default=None, help="K per state")
    return p


def eval_states() -> Parser:
    p = Parser(
        prog="genac eval states",
        description="What another critic says of a run's stored states, for the viewer.",
    )
    p.add_argument("run", metavar="RUN", help="a finished run whose stored states are judged")
    p.add_argument("critic", help="a run, a folder with critic.json, or a checkpoint")
    p.add_argument("--stage", default="joint", help="whose states (default joint)")
    p.add_argument("--step", type=int, nargs="+", help="stored steps; without it all of them")
    p.add_argument("--name", help="of the judgements; without it the critic's folder or step")
    return p


def eval_search() -> Parser:
    p = Parser(
        prog="genac eval search",
        description="Best-of-n, voting and beam search by the critic against majority vote.",
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="finished runs with a generative critic")
    p.add_argument("--n", type=int, nargs="+", default=SIZES, help="candidates per problem")
    p.add_argument("--problems", type=int, default=128, help="held-out problems")
    p.add_argument("--rationales", type=int, help="of the critic per state; else as in training")
    p.add_argument("--critic", default=None, help="another critic than the run's own")
    p.add_argument("--shift", default=None, help="a task.shift of the run instead of its own task")
    return p


def eval_benchmarks() -> Parser:
    p = Parser(
        prog="genac eval benchmarks",
        description="avg@k and pass@k of a run's actor, or of any model, on data sets.",
    )
    p.add_argument("model", help="a run, a Hugging Face folder, a GGUF file, or a name on the hub")
    p.add_argument("names", nargs="*", help=f"data sets or files; none: {DATA_SETS}")
    p.add_argument("--samples", type=int, default=8, help="responses per problem, the k of avg@k")
    p.add_argument("--max-tokens", type=int, default=4096, help="tokens per response at most")
    p.add_argument("--temperature", type=float, default=1.0)
    p.add_argument("--top-p", type=float, default=1.0)
    p.add_argument("--limit", type=int, default=None, help="a random choice of so many problems")
    p.add_argument("--reward", default="math", help="who judges, as task.reward")
    p.add_argument("--instruction", default=None, help="behind every problem; '' = none")
    p.add_argument("--system", default=None, help="the system's message")
    p.add_argument(
        "--chat-template-kwargs", default=None, help="JSON, e.g. '{\"enable_thinking\": false}'"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--output", default=None, help="folder; RUN/benchmarks or ./benchmarks if unset")
    p.set_defaults(on_hub=("model",))
    return p


def eval_solutions() -> Parser:
    p = Parser(
        prog="genac eval solutions",
        description="A critic on solutions that others wrote, with labels of outcome or steps.",
    )
    p.add_argument(
        "critic",
        help="a run, a saved critic's folder or hub name, a checkpoint, openai:MODEL@URL, "
        "endpoint.yaml",
    )
    p.add_argument("file", help="JSON lines, Parquet or CSV, or NAME@SPLIT of the hub")
    p.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=NAME",
        help="names of the file's columns: problem=, solution=, steps=, correct=, label=, labels=",
    )
    p.add_argument("--limit", type=int, default=None, help="the first so many rows")
    p.add_argument(
        "--samples", type=int, default=None, help="rationales per state; as in training if unset"
    )
    p.add_argument(
        "--states", type=int, default=None, help="states per solution at most; all if unset"
    )
    p.add_argument(
        "--threshold",
        type=float,
        default=None,
        help="a step with a value below it counts as wrong; chosen on half of the problems if "
        "unset",
    )
    p.add_argument("--api-key-env", default="", help="variable that holds the key of openai:...")
    p.add_argument("--out", default=None, help="folder; solutions/CRITIC-FILE if unset")
    p.set_defaults(dry_run=False, on_hub=("critic",))
    return p


def generate() -> Parser:
    from genac.search.rules import RULES

    p = Parser(prog="genac generate", description="Solutions, the best of several by a critic.")
    p.add_argument("actor", help="a finished run, or a language model: folder or GGUF file")
    p.add_argument("problems", nargs="*", help="problems as text (\\n: a line break)")
    p.add_argument("--heldout", type=int, default=0, help="instead: held-out problems of the run")
    p.add_argument("--critic", help="a run or a critic's folder; of a run, its own if unset")
    p.add_argument("--search", choices=[*RULES, "beam"], default="sample")
    p.add_argument("--n", type=int, default=8, help="candidates per problem (and round of a beam)")
    p.add_argument("--width", type=int, help="beams kept of n; half of them where not named")
    p.add_argument("--rationales", type=int, help="of the critic per state; else as in training")
    p.add_argument("--value-at", choices=("last", "end"), default="last")
    p.add_argument("--max-tokens", type=int, help="response limit")
    p.add_argument("--temperature", type=float)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", action="store_true", help="one JSON object per line")
    p.set_defaults(on_hub=("actor",))
    return p


def push() -> Parser:
    p = Parser(prog="genac push", description="Models and their cards onto the hub.")
    p.add_argument("source", help="a finished run, or the folder of one model")
    p.add_argument("repo_id", help="owner/name on the hub")
    p.add_argument("--only", choices=("actor", "critic"), help="of a run, this model alone")
    p.add_argument("--private", action="store_true", help="a repository that only you see")
    p.add_argument("--dry-run", action="store_true", help="list the files and upload nothing")
    return p


def report() -> Parser:
    p = Parser(
        prog="genac report",
        description="One HTML file: curves, critic, alarms, cost; several runs overlaid.",
    )
    p.add_argument("paths", nargs="+", metavar="RUN", help="runs, or folders that hold runs")
    p.add_argument("--out", metavar="FILE", help="report.html in the runs' folder if unset")
    return p


def ls() -> Parser:
    p = Parser(prog="genac ls", description="The runs in a folder, and how far each has come.")
    p.add_argument("folder", nargs="?", default="runs")
    return p


def recipes() -> Parser:
    p = Parser(prog="genac recipes", description="The recipes that genac brings, a line each.")
    p.add_argument("name", nargs="?", help="prints this one, to be copied and changed")
    return p


def env() -> Parser:
    return Parser(prog="genac env", description="Versions and the machine.")


def require(args: argparse.Namespace) -> None:
    """ValueError for a run that is none, for a critic or model that is neither here nor within
    reach, and for one behind an API without its key, before the models' libraries are imported.
    """
    from genac.commands.early import endpoint_of, require_place
    from genac.runs.store import Run

    for run in (getattr(args, "run", None), *(getattr(args, "runs", ()) or ())):
        if run is not None:
            Run.open(run)
    for role in ("critic", "actor", "model", "source"):
        if getattr(args, role, None) is not None:
            require_place(getattr(args, role), role, role in getattr(args, "on_hub", ()))
    for critic in getattr(args, "critics", ()):
        require_place(critic, "critic", on_hub=False)
    if hasattr(args, "api_key_env"):
        for critic in args.critics if hasattr(args, "critics") else [args.critic]:
            endpoint_of(critic, args)
