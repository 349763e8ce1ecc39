"""The command line: genac VERB [RECIPE.yaml] [--dotted.key value ...]."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

USAGE = """genac VERB [ARGUMENTS]

  train RECIPE [--key value ...]            all stages, then joint RL; resumes what was interrupted
                                            (--from RUN: from the models a finished run saved)
  synthesize RECIPE [--key value ...]       oracle traces for the critic (and the base model, if
                                            needed); an API as oracle: docs/oracle.md
  sft RECIPE [--key value ...]              stage 1 only: critic SFT
  pretrain-critic RECIPE [--key value ...]  stages 1 and 2 only: critic SFT and critic RL
  eval RUN                                  measures a finished run again: held-out success,
                                            shifts, critic
  eval critic RUN [CRITIC ...]              critics against panels of the run's actor, as a table
                                            (--problems N --continuations K);
                                            zero-shot ones: openai:MODEL@URL or endpoint.yaml
                                            (--dry-run)
  eval states RUN CRITIC                    what another critic says of the run's stored states,
                                            for the viewer (--step N ... --stage S --name NAME);
                                            CRITIC: also RUN/checkpoints/joint/step-000040
  eval search RUN [RUN ...]                 best-of-n, voting and beam search by the critic beside
                                            majority vote at equal tokens (--n N ... --problems N)
  eval benchmarks MODEL [NAME ...]          avg@k and pass@k of a run's actor or any model on data
                                            sets (none named: AIME24/25, AMC23, MATH500, Minerva,
                                            OlympiadBench)
  eval solutions CRITIC FILE                a critic (also openai:MODEL@URL) on solutions that
                                            others wrote, with labels of outcome or steps
                                            (--limit N --samples K --states N --out DIR)
  score CRITIC PROBLEM PARTIAL              a saved critic's value and reasoning for a partial
                                            solution; \\n in the texts is a line break,
                                            but not before a letter (LaTeX's \\neq):
                                            there give a real one, in bash $'2+3=5\\nnext line'
  generate ACTOR [PROBLEM ...]              solutions, the best by a critic (--critic CRITIC --n N
                                            --search sample|majority|best-of-n|weighted|beam)
  serve CRITIC                              a saved critic as an HTTP endpoint (extra `serve`)
  push RUN|FOLDER REPO_ID                   models and their cards onto the hub
                                            (--private --only actor|critic --dry-run)
  report RUN [RUN ...]                      report.html: curves, critic, alarms, cost; several runs
                                            overlaid, seeds as bands (--out FILE)
  view RUN                                  shows a run's responses, coloured by value, in a browser
                                            (--terminal: as text; --host, --port, --no-browser)
  ls [FOLDER]                               the runs in a folder, and how far each has come
  doctor RECIPE [--gpu GIB] [--key ...]     versions, threads, memory and context checks for a
                                            recipe, here or for a GPU elsewhere
  env                                       versions and machine

'genac train RECIPE --help' lists every key.
"""


# What may follow `eval`: module and function.
EVALUATIONS = {
    "critic": ("commands.eval_critics", "evaluate_critics"),
    "states": ("commands.eval_states", "judge_states"),
    "search": ("commands.eval_search", "evaluate_search"),
    "benchmarks": ("commands.eval_benchmarks", "evaluate_benchmarks"),
    "solutions": ("commands.eval_solutions", "evaluate_solutions"),
}


def train(arguments: Sequence[str]) -> None:
    from genac.config.recipes import as_yaml, from_command_line

    cfg = from_command_line(arguments, "genac train")
    print(as_yaml(cfg), flush=True)
    # torch takes seconds to import, so it waits until the config is known to be right.
    from genac.commands.summary import console
    from genac.stages.pipeline import train as run_all

    print(console(run_all(cfg)))


def stage(until: str) -> Callable[[Sequence[str]], None]:
    def run(arguments: Sequence[str]) -> None:
        from genac.config.recipes import from_command_line

        cfg = from_command_line(arguments, f"genac {until}")
        from genac.stages.pipeline import prepare_until

        print(prepare_until(cfg, until))

    return run


def prints(module: str, function: str) -> Callable[[Sequence[str]], None]:
    """A verb that prints what a function of its arguments returns; the import waits until then."""
    return lambda arguments: print(call(module, function, arguments))


def call(module: str, function: str, arguments: Sequence[str]) -> Any:
    return getattr(import_module(f"genac.{module}"), function)(arguments)


def evaluate(arguments: Sequence[str]) -> None:
    kind = arguments[0] if arguments else ""
    if kind in EVALUATIONS:
        print(call(*EVALUATIONS[kind], arguments[1:]))
        return
    from genac.commands.eval_run import evaluate_run

    print(evaluate_run(one(arguments, "eval RUN")))


def score(arguments: Sequence[str]) -> None:
    from genac.config.recipes import typed_text
    from genac.scoring import load_scorer

    if len(arguments) != 3:
        raise ValueError("usage: genac score CRITIC PROBLEM PARTIAL_RESPONSE")
    folder, problem, partial = arguments[0], *map(typed_text, arguments[1:])
    judged = load_scorer(folder).score(problem, partial)
    print(f"value {judged.value}\n{judged.rationale}".rstrip("\n"))


def serve(arguments: Sequence[str]) -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"genac serve needs {error.name}, which is not installed; pip install 'genac[serve]'"
        ) from error
    from genac.serving.command import serve as run

    run(arguments)


def doctor(arguments: Sequence[str]) -> None:
    from genac.commands.doctor.report import examine
    from genac.config.recipes import from_command_line, take_value

    gpu, args = take_value(arguments, "--gpu")
    lines, healthy = examine(from_command_line(args, "genac doctor"), gigabytes(gpu))
    print("\n".join(lines))
    if not healthy:
        raise SystemExit(2)


def env(arguments: Sequence[str]) -> None:
    from genac.runs.store import environment

    print("\n".join(f"{key}: {value}" for key, value in environment().items()))


def gigabytes(text: str | None) -> float | None:
    """The memory that --gpu names, in GiB."""
    try:
        size = None if text is None else float(text)
    except ValueError as error:
        raise ValueError(f"--gpu {text}: give the GPU's memory in GiB, e.g. --gpu 80") from error
    if size is not None and size <= 0:
        raise ValueError(f"--gpu {text}: give the GPU's memory in GiB, e.g. --gpu 80")
    return size


def one(arguments: Sequence[str], usage: str) -> str:
    if not arguments:
        raise ValueError(f"usage: genac {usage}")
    return arguments[0]


def own_paths(arguments: Sequence[str]) -> list[str]:
    """What follows the verb, with ~/ expanded, but not in problems and solutions."""
    from genac.config.recipes import typed_paths

    first, rest = arguments[1:2], arguments[2:]
    if arguments[0] in ("score", "generate"):
        kept = [[item] if item[:1] == "~" else typed_paths([item]) for item in rest]
        return [*typed_paths(first), *(item for items in kept for item in items)]
    return typed_paths([*first, *rest])


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "synthesize": stage("synthesize"),
    "sft": stage("sft"),
    "pretrain-critic": stage("pretrain-critic"),
    "eval": evaluate,
    "score": score,
    "generate": prints("commands.generate", "generate"),
    "serve": serve,
    "push": prints("commands.push", "push"),
    "report": prints("ui.report.document", "report"),
    "view": lambda arguments: call("ui.viewer.command", "view", arguments),
    "ls": lambda arguments: call("ui.viewer.command", "ls", arguments),
    "doctor": doctor,
    "env": env,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb. Exit codes: 0 done, 130 interrupted, 2 bad input or a full disk, which are told
    in one message without a traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    verb = VERBS.get(arguments[0])
    if verb is None:
        print(f"genac: there is no verb {arguments[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        verb(own_paths(arguments))
    except (ValueError, OSError) as error:
        print(f"genac {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
