"""genac eval solutions CRITIC FILE: a critic on solutions that others wrote, with their labels.

CRITIC is a run, a saved critic of any kind (folder, checkpoint, name on the hub), openai:MODEL@URL
or a YAML file with the keys of an endpoint. FILE is a data file or NAME@SPLIT of the hub, see
`evals/solution_files.py`. Every solution that was judged is a line of a file at once, so that what
was interrupted goes on. Written into the output folder: solutions.json, solutions.md, and the
values in the form of a run folder, which `genac view` opens.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genac.commands import parsers
from genac.commands.eval_critics import critic_source
from genac.commands.solution_output import markdown, write_tables
from genac.config.stages import EndpointConfig
from genac.critics.saved import critic_card, shown_name
from genac.endpoint.client import Endpoint, answers_file
from genac.evals.solution_files import Solution, read_solutions
from genac.evals.solutions import Judged, measure
from genac.runs.files import (
    alone,
    append_line,
    atomic_write,
    read_lines,
    repair_tail,
    stable_hash,
    write_json,
)
from genac.runs.manifest import require_saved
from genac.runs.progress import Progress
from genac.scoring import Judgement, Scorer, TooLong, ZeroShot, critic_place, load_scorer
from genac.stages.contents import model_digest
from genac.states import thin

AT_ONCE = 128  # rationales per engine call; what an interruption costs is at most these
Row = dict[str, Any]
Plan = tuple[Solution, tuple[int, ...]]  # a solution, and after how many segments it is judged


def evaluate_solutions(arguments: Sequence[str]) -> str:
    """The command; returns the table."""
    args = parsers.eval_solutions().parse_args(list(arguments))
    require_options(args)
    source = source_of(args)
    require_samples(args, source)
    solutions = read_solutions(args.file, named_columns(args.columns))[: args.limit]
    plans = [(s, counts_of(s, args.states)) for s in solutions]
    folder = Path(args.out or Path("solutions") / default_name(source, args.file))
    scorer, identity = opened(source, folder)
    samples = args.samples or scorer.rationales
    settings = {"critic": args.critic, "file": args.file, "samples": samples, "limit": args.limit}
    file = folder / f"judged-{stable_hash([identity, samples])}.jsonl"
    rows = judged_rows(scorer, plans, samples, file)
    judged = [Judged(s, c, tuple(r["values"])) for (s, c), r in zip(plans, rows, strict=True)]
    result: Row = {
        "settings": settings,
        "about": scorer.describe(),
        **measure(judged, args.threshold),
    }
    unique = {row["key"]: row for row in rows}.values()  # equal solutions were judged once
    result |= {key: sum(row[key] for row in unique) for key in ("tokens", "seconds")}
    result["too_long"] = sum(row["too_long"] for row in rows)
    result["unanswered"] = sum(unanswered(row) for row in rows)
    text = markdown(result, folder)
    write_tables(folder, judged, [row["rationales"] for row in rows])
    write_json(folder / "solutions.json", result)
    atomic_write(folder / "solutions.md", text + "\n")
    return text


def require_options(args: argparse.Namespace) -> None:
    for name, least in (("limit", 1), ("samples", 1), ("states", 2)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} {value}: use at least {least}")


def require_samples(args: argparse.Namespace, source: Path | EndpointConfig) -> None:
    """ValueError where several rationales are requested of what gives one value per state."""
    if args.samples in (None, 1):
        return
    if isinstance(source, EndpointConfig):
        what = "a model behind an API judges each state once"
    elif critic_card(source)["kind"] == "discriminative":
        what = f"{args.critic} is a value head, which writes none and has one value per state"
    else:
        return
    raise ValueError(f"--samples {args.samples} rationales: {what}; leave --samples out")


def named_columns(items: Sequence[str]) -> dict[str, str]:
    """['correct=is_right'] -> {'correct': 'is_right'}."""
    for item in items:
        if not all(item.partition("=")):
            raise ValueError(f"--columns {item}: write OURS=NAME, for example correct=is_right")
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def counts_of(solution: Solution, states: int | None) -> tuple[int, ...]:
    """After how many segments there is a value: after each, or after a few, evenly spread."""
    every = range(len(solution.segments) + 1)
    if states is None:
        return tuple(every)
    if solution.labels is not None or solution.first_error is not None:
        raise ValueError(
            "--states cannot be combined with labels of steps, each of which needs a value; leave "
            "it out"
        )
    return tuple(thin(every, states))


# --- the critic -----------------------------------------------------------------------------------


def source_of(args: argparse.Namespace) -> Path | EndpointConfig:
    """Whom the user named; a folder that is no critic is refused before anything is loaded."""
    name = args.critic
    if name.startswith("openai:") or Path(name).suffix in (".yaml", ".yml"):
        return critic_source(name, args)
    place = critic_place(name)
    require_saved(place)
    return place


def default_name(source: Path | EndpointConfig, file: str) -> str:
    critic = shown_name(source) if isinstance(source, Path) else source.model
    return re.sub(r"[^\w.-]+", "_", f"{critic}-{Path(file.partition('@')[0]).stem}")


def opened(source: Path | EndpointConfig, folder: Path) -> tuple[Scorer, Row]:
    """The critic, and all that its values depend on."""
    if isinstance(source, EndpointConfig):
        scorer = ZeroShot(Endpoint(source), answers_file(folder, source))
        return scorer, scorer.describe()
    return load_scorer(source), {"critic": model_digest(source)}


# --- judging --------------------------------------------------------------------------------------


def judged_rows(scorer: Scorer, plans: Sequence[Plan], samples: int, file: Path) -> list[Row]:
    """One row per solution: values and rationales by state. The file is not judged again: it
    holds no row with a state that no answer came for.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = [stable_hash([s.problem, s.segments, counts]) for s, counts in plans]
    with alone(file):
        repair_tail(file)
        rows = {row["key"]: row for _, row in read_lines(file)}
        pending = {k: plan for k, plan in zip(keys, plans, strict=True) if k not in rows}
        with Progress("judging", len(pending)) as bar:
            for chunk in chunks(pending, samples):
                for row in judge(scorer, chunk, samples):
                    rows[row["key"]] = row
                    if not unanswered(row):
                        append_line(file, row)
                bar.update(sum(k in rows for k in pending))
    return [rows[key] for key in keys]


def chunks(pending: dict[str, Plan], samples: int) -> list[dict[str, Plan]]:
    """The solutions by problem, so that what they share is read once, in parts of AT_ONCE."""
    order = {s.problem: i for i, (s, _) in reversed(list(enumerate(pending.values())))}
    result: list[dict[str, Plan]] = []
    rows = AT_ONCE
    for key, plan in sorted(pending.items(), key=lambda item: order[item[1][0].problem]):
        if rows >= AT_ONCE:
            result.append({})
            rows = 0
        result[-1][key] = plan
        rows += len(plan[1]) * samples
    return result


def judge(scorer: Scorer, chunk: dict[str, Plan], samples: int) -> list[Row]:
    """Equal prompts are judged once; one beyond the context is missing and counted."""
    before, begin = scorer.processed_tokens, time.perf_counter()
    prompts = {
        key: [prompt_of(scorer, solution, count) for count in counts]
        for key, (solution, counts) in chunk.items()
    }
    unique = list(dict.fromkeys(p for some in prompts.values() for p in some if p is not None))
    answers = scorer.judge(unique, [0] * len(unique), samples) if unique else []
    of: dict[Any, Judgement] = dict(zip(unique, answers, strict=True))
    share = 1 / len(chunk)
    costs = {
        "tokens": (scorer.processed_tokens - before) * share,
        "seconds": (time.perf_counter() - begin) * share,
    }
    return [
        {
            "key": key,
            "values": [None if p is None else of[p].value for p in some],
            "rationales": [[] if p is None else texts(of[p]) for p in some],
            "too_long": sum(p is None for p in some),
            **costs,
        }
        for key, some in prompts.items()
    ]


def prompt_of(scorer: Scorer, solution: Solution, count: int) -> Any:
    try:
        return scorer.prompt(solution.problem, solution.prefix(count))
    except TooLong:
        return None


def unanswered(row: Row) -> int:
    """States without a value and without a text, which a server left unanswered."""
    pairs = zip(row["values"], row["rationales"], strict=True)
    return sum(value is None and written == [""] for value, written in pairs)


def texts(judgement: Judgement) -> list[str]:
    return list(judgement.rationales) or [judgement.rationale]
