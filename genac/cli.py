"""The command line: genac VERB [RECIPE] [--dotted.key value ...].

Help and slips answer before torch is imported: a verb parses its arguments first, with a parser of
`commands/parsers.py` or the keys of a run, and imports what does its work afterwards.
"""

from __future__ import annotations

import difflib
import os
import select
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

Arguments = Sequence[str]
READER_LEFT = 141  # as shells report a program that SIGPIPE ended


def train(arguments: Arguments) -> None:
    from genac.config.recipes import parse

    parsed = parse(arguments, "genac train")
    from genac.commands.early import require_ready  # after --help, which needs no numpy

    require_ready(parsed.cfg)
    announce(parsed)
    # torch takes seconds to import, so it waits until the config is known to be right.
    from genac.commands.summary import console
    from genac.stages.pipeline import train as run_all

    print(console(run_all(parsed.cfg)))


def announce(parsed: Any) -> None:
    """What is about to run, and what differs from its recipe."""
    from genac.runs.manifest import is_finished

    cfg, place = parsed.cfg, Path(parsed.cfg.output_dir)
    print(f"genac train: {parsed.recipe or 'no recipe'}, {cfg.algorithm}, into {place}")
    if lines := parsed.lines():
        print("changed from the recipe:", *lines, sep="\n")
    print(f"every key: {place / 'config.json'} (or --print-config)", flush=True)
    if is_finished(place):
        print(finished_line(place, cfg.stages.joint.steps), flush=True)


def finished_line(place: Path, steps: int) -> str:
    """What `train` with so many joint steps does in a finished run's folder."""
    from genac.runs.files import read_json
    from genac.runs.listing import configured_steps

    file = place / "config.json"
    before = configured_steps(read_json(file), "joint") if file.exists() else None
    if before in (None, steps):
        return "this run is finished: what follows is its summary"
    return f"this run is finished and was configured for {before} joint steps; now it has {steps}"


def stage(until: str) -> Callable[[Arguments], None]:
    def run(arguments: Arguments) -> None:
        from genac.config.recipes import from_command_line

        cfg = from_command_line(arguments, f"genac {until}")
        from genac.commands.early import require_inputs

        require_inputs(cfg)
        from genac.stages.pipeline import prepare_until

        print(prepare_until(cfg, until))

    return run


def prints(module: str, function: str, parser: str) -> Callable[[Arguments], None]:
    """A verb that prints what a function of its arguments returns, after they were checked."""

    def run(arguments: Arguments) -> None:
        check(parser, arguments)
        print(getattr(import_module(f"genac.{module}"), function)(arguments))

    return run


def check(parser: str, arguments: Arguments) -> Any:
    """The arguments by the parser of that name; SystemExit or ValueError where they are wrong."""
    from genac.commands import parsers

    args = getattr(parsers, parser)().parse_args(list(arguments))
    parsers.require(args)
    return args


# What may follow `eval`.
EVALUATIONS = {
    "critic": prints("commands.eval_critics", "evaluate_critics", "eval_critic"),
    "states": prints("commands.eval_states", "judge_states", "eval_states"),
    "search": prints("commands.eval_search", "evaluate_search", "eval_search"),
    "benchmarks": prints("commands.eval_benchmarks", "evaluate_benchmarks", "eval_benchmarks"),
    "solutions": prints("commands.eval_solutions", "evaluate_solutions", "eval_solutions"),
}


def evaluate(arguments: Arguments) -> None:
    kind = arguments[0] if arguments else ""
    if kind in EVALUATIONS:
        EVALUATIONS[kind](arguments[1:])
        return
    if kind[:1] != "-" and not Path(kind).exists() and (hint := near(kind, EVALUATIONS)):
        raise ValueError(f"there is no run {kind!r}; did you mean eval {hint}?")
    args = check("eval_run", arguments)
    from genac.commands.eval_run import evaluate_run

    print(evaluate_run(args.run))


def score(arguments: Arguments) -> None:
    # A problem may begin with a minus sign, as options do.
    texts = len(arguments) == 3 and not arguments[0].startswith("-")
    args = check("score", ["--", *arguments] if texts else arguments)
    from genac.config.recipes import typed_text
    from genac.scoring import load_scorer

    judged = load_scorer(args.critic).score(typed_text(args.problem), typed_text(args.partial))
    print(f"value {judged.value}\n{judged.rationale}".rstrip("\n"))


def serve(arguments: Arguments) -> None:
    from genac.serving.options import parser, require_read_only

    options = parser()
    args, keys = options.parse_known_args(list(arguments))
    if not args.learn:
        require_read_only(options, args, keys)
    from genac.commands.early import require_place

    require_place(args.critic, "critic")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"genac serve needs {error.name}, which is not installed; pip install 'genac[serve]'"
        ) from error
    from genac.serving.command import serve as run

    run(arguments)


def view(arguments: Arguments) -> None:
    from genac.ui.viewer.command import view as run

    run(arguments)


def report(arguments: Arguments) -> None:
    args = check("report", arguments)
    from genac.ui.report.document import report as run

    print(run(args.paths, args.out))


def ls(arguments: Arguments) -> None:
    folder = check("ls", arguments).folder
    from genac.ui.viewer.command import ls as run

    run(folder)


def recipes(arguments: Arguments) -> None:
    args = check("recipes", arguments)
    from genac.commands.recipes import listed
    from genac.config.packaged import recipe_file

    print(recipe_file(args.name).read_text().rstrip("\n") if args.name else listed())


def doctor(arguments: Arguments) -> None:
    from genac.commands.doctor.command import doctor as run

    run(arguments)


def env(arguments: Arguments) -> None:
    check("env", arguments)
    from genac.runs.store import environment

    print("\n".join(f"{key}: {value}" for key, value in environment().items()))


class Verb(NamedTuple):
    run: Callable[[Arguments], None]
    usage: str  # what follows the verb
    says: str  # what it does
    more: tuple[str, ...] = ()  # what else may follow the verb


# Every verb, in the groups that help shows.
GROUPS: dict[str, dict[str, Verb]] = {
    "Train": {
        "train": Verb(train, "RECIPE", "all stages; resumes what was stopped"),
        "synthesize": Verb(
            stage("synthesize"), "RECIPE", "oracle traces for the critic (docs/oracle.md)"
        ),
        "sft": Verb(stage("sft"), "RECIPE", "up to critic SFT"),
        "pretrain-critic": Verb(
            stage("pretrain-critic"), "RECIPE", "up to critic SFT and critic RL"
        ),
        "recipes": Verb(recipes, "[NAME]", "the recipes that genac brings; prints one"),
        "doctor": Verb(doctor, "[RECIPE]", "examines a recipe, or this machine"),
    },
    "Use a critic": {
        "score": Verb(score, "CRITIC PROBLEM PARTIAL", "value and reasoning for a solution"),
        "generate": Verb(
            prints("commands.generate", "generate", "generate"),
            "ACTOR [PROBLEM ...]",
            "solutions, the best of several by a critic",
        ),
        "serve": Verb(serve, "CRITIC", "a critic over HTTP; --learn: for any trainer"),
        "push": Verb(prints("commands.push", "push", "push"), "RUN REPO_ID", "models onto the hub"),
    },
    "Measure": {
        "eval": Verb(
            evaluate,
            "RUN",
            "a finished run again: success, shifts, critic",
            (
                "critic RUN [CRITIC ...]    critics against panels of the run's actor",
                "states RUN CRITIC          another critic on stored states",
                "search RUN ...             best-of-n, votes and beam search by the critic",
                "benchmarks MODEL [NAME ..] avg@k and pass@k on data sets",
                "solutions CRITIC FILE      a critic on solutions that others wrote",
            ),
        ),
    },
    "Look": {
        "view": Verb(view, "RUN|FOLDER", "responses coloured by value, in a browser"),
        "report": Verb(
            report,
            "RUN ...",
            "report.html: curves, critic, alarms, cost",
        ),
        "ls": Verb(ls, "[FOLDER]", "the runs in a folder"),
        "env": Verb(env, "", "versions and machine"),
    },
}
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}


def usage() -> str:
    lines = ["genac VERB [ARGUMENTS]      genac VERB --help says more      genac --version"]
    for title, verbs in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, verb in verbs.items():
            lines.append(f"  {f'{name} {verb.usage}':<29} {verb.says}")
            lines += [f"  {name} {line}" for line in verb.more]
    lines += ["", "RECIPE is a YAML file or a name of 'genac recipes': genac train arithmetic"]
    return "\n".join(lines)


def near(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """The known name that was meant, or ''."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), "")


def own_paths(arguments: Arguments) -> list[str]:
    """What follows the verb, with ~/ expanded, but not in problems and solutions."""
    if "--help" in arguments or "-h" in arguments:
        return list(arguments[1:])
    from genac.config.recipes import typed_paths

    first, rest = arguments[1:2], arguments[2:]
    if arguments[0] in ("score", "generate"):
        kept = [[item] if item[:1] == "~" else typed_paths([item]) for item in rest]
        return [*typed_paths(first), *(item for items in kept for item in items)]
    return typed_paths([*first, *rest])


def main(arguments: Arguments | None = None) -> int:
    """Runs a verb. Exit codes: 0 done, 130 interrupted, 141 nobody reads the output any more, as
    behind `| head`; 2 bad input, a full disk, a server that failed or weights that diverged, which
    are reported in one message without a traceback.
    """
    try:
        code = run_verb(arguments)
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit):
        if not reader_left():  # a server's pipe; help, or a slip in the options
            raise
        return READER_LEFT


def reader_left() -> bool:
    """Whether a reader of the output has closed it; if so, nothing more is written there."""
    left, streams = False, (sys.stdout, sys.stderr)
    for stream in streams if hasattr(select, "poll") else ():
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):  # replaced by what is no file
            continue
        watch = select.poll()
        watch.register(descriptor, 0)
        if any(events & select.POLLERR for _, events in watch.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)  # else Python complains when it exits
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
            left = True
    return left


def run_verb(arguments: Arguments | None) -> int:
    """What `main` does where somebody reads the output."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        print(f"genac {import_module('genac').__version__}")
        return 0
    verb = VERBS.get(arguments[0])
    if verb is None:
        hint = f"; did you mean {meant}?" if (meant := near(arguments[0], VERBS)) else ""
        print(
            f"genac: there is no verb {arguments[0]!r}{hint} 'genac --help' lists them",
            file=sys.stderr,
        )
        return 2
    try:
        verb.run(own_paths(arguments))
    except (ValueError, OSError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError) and reader_left():
            return READER_LEFT
        print(f"genac {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
