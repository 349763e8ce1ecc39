"""genac eval benchmarks MODEL [NAME ...]: avg@k and pass@k of a policy on data sets.

MODEL is a run (its trained actor and its task's instruction) or any Hugging Face folder or name;
NAMEs are known data sets (`sources.BENCHMARKS` when none is given), files, or names on the hub.
Responses are judged as they come and kept: rewards as lines of NAME-HASH.jsonl, texts and tokens in
the form of a run folder, rollouts/NAME-HASH-*.parquet, which `genac view` opens. So an interrupted
evaluation goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genac.commands import parsers
from genac.config.recipes import recorded
from genac.config.run import RolloutConfig, RunConfig, TaskConfig
from genac.evals.policy import success
from genac.evals.room import require_room
from genac.ops.stats import bootstrap_interval, pass_at_k
from genac.rollout import World, collect
from genac.runs.files import alone, append_line, read_lines
from genac.runs.store import Run, atomic_write, stable_hash
from genac.runtime import Runtime
from genac.stages.contents import task_key
from genac.stages.finish import require_trained
from genac.stages.setup import Setup, evaluated_here
from genac.tasks import make_task
from genac.tasks.base import Task
from genac.tasks.sources import BENCHMARKS
from genac.tasks.verifier import Verifier
from genac.types import Problem

AT_ONCE = 16  # problems per engine call; what is lost by an interruption is at most their responses
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
Row = dict[str, Any]


def evaluate_benchmarks(arguments: Sequence[str]) -> str:
    """The command; returns the table."""
    args = parsers.eval_benchmarks().parse_args(list(arguments))
    if args.samples < 1 or (args.limit is not None and args.limit < 1):
        raise ValueError("--samples and --limit must be at least 1")
    run = Path(args.model) if (Path(args.model) / "actor").is_dir() else None
    if run:
        require_trained(Run.open(run))
    model = str(run / "actor") if run else args.model
    cfg = evaluated_here(recorded(run, Run.open(run).config()) if run else RunConfig())
    cfg = with_template(cfg, args.chat_template_kwargs)
    setup = Setup.of(cfg)
    actor = setup.actor(model)
    settings = settings_of(args, cfg, model) | {
        "weights": actor.fingerprint(),
        "load": cfg.actor.load.model_dump(),
        "bf16": actor.bf16,
    }
    folder = Path(args.output or (run / "benchmarks" if run else "benchmarks"))
    tasks = {name: fitting_task(actor, name, settings) for name in args.names or BENCHMARKS}
    table = {
        name: summary(measured(actor, name, task, settings, folder)) for name, task in tasks.items()
    }
    text = markdown(table, settings)
    text += f"\n\n'genac view {folder}' shows the responses."
    atomic_write(folder / "benchmarks.json", json.dumps({"settings": settings, **table}, indent=1))
    atomic_write(folder / "benchmarks.md", text)
    return text


def settings_of(args: argparse.Namespace, cfg: RunConfig, model: str) -> Row:
    """Everything a response depends on; a run's own instruction is the default."""
    options = cfg.task.options if cfg.task.name == "file" else {"instruction": INSTRUCTION}
    chosen = {
        key: value if value is not None else options.get(key, "")
        for key, value in (("instruction", args.instruction), ("system", args.system))
    }
    rollout = RolloutConfig(
        num_generations=args.samples,
        max_completion_length=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        max_rows=cfg.rollout.max_rows,
    )
    choices = {"limit": args.limit, "reward": args.reward, "seed": args.seed}
    return {"model": model, **choices, **chosen, "rollout": rollout.model_dump()}


def with_template(cfg: RunConfig, kwargs: str | None) -> RunConfig:
    """The config whose actor's chat template gets these arguments (JSON); None: the run's own."""
    if kwargs is None:
        return cfg
    try:
        template_kwargs = json.loads(kwargs)
    except json.JSONDecodeError as error:
        raise ValueError(f"--chat-template-kwargs {kwargs!r} is not JSON ({error})") from error
    load = cfg.actor.load.model_copy(update={"chat_template_kwargs": template_kwargs})
    return cfg.model_copy(update={"actor": cfg.actor.model_copy(update={"load": load})})


def source_of(name: str, settings: Row) -> TaskConfig:
    """A data set as the task of its rows."""
    options = {k: settings[k] for k in ("instruction", "system")} | {"heldout_fraction": 0.0}
    return TaskConfig(name="file", path=name, reward=settings["reward"], options=options)


def fitting_task(actor: Runtime, name: str, settings: Row) -> Task:
    """The problems of a data set; ValueError naming the rows that are too long to be answered."""
    task = make_task(source_of(name, settings), settings["seed"])
    require_room(
        {name: chosen_of(task, settings)},
        actor.tokenizer,
        actor.max_length,
        settings["rollout"]["max_completion_length"],
        "model",
        "lower --max-tokens, or use a model with a longer context",
    )
    return task


def chosen_of(task: Task, settings: Row) -> list[Problem]:
    """The problems to be solved: all, or a random choice."""
    size = task.size("train")
    assert size is not None, "a benchmark is a file, which ends"
    return [task.problem("train", i) for i in range(min(size, settings["limit"] or size))]


def measured(actor: Runtime, name: str, task: Task, settings: Row, folder: Path) -> list[Row]:
    """One row per problem, from disk where it was measured before under the same settings."""
    rollout = RolloutConfig(**settings["rollout"])
    folder.mkdir(parents=True, exist_ok=True)
    chosen = chosen_of(task, settings)
    count = len(chosen)
    queries = [(p.id, p.prompt, p.answer) for p in chosen]
    # Neither where data and reward lie nor how many rows are decoded at once counts.
    answer = settings | {"reward": None, "rollout": rollout.model_dump(exclude={"max_rows"})}
    key = stable_hash([queries, answer, task_key(source_of(name, settings))])
    file = folder / f"{Path(name).stem}-{key}.jsonl"
    decode = actor.tokenizer.decode
    with alone(file), Verifier(task) as verifier:
        rows = whole_parts(file, count)
        world = World(task, verifier, rollout, settings["seed"])
        while len(rows) < count:
            first = len(rows)
            last = min(count, first + AT_ONCE)
            groups = collect(actor, world, chosen[first:last], "benchmark", first)
            # Written before the lines that say that these problems are done.
            Run(folder).write_rollouts(
                file.stem,
                first // AT_ONCE,
                [response for group in groups for response in group],
                decode=lambda ids: decode(list(ids), skip_special_tokens=True),
            )
            for group in groups:
                row = {
                    "id": group[0].problem.id,
                    "rewards": [r.reward for r in group],
                    "tokens": [len(r.response_ids) for r in group],
                    "cut": sum(r.finish == "length" for r in group),
                }
                rows.append(row)
                append_line(file, row)
            print(f"{name}: {len(rows)} of {count} problems", flush=True)
    return rows


def whole_parts(file: Path, count: int) -> list[Row]:
    """What was kept of `count` problems. Of a part of AT_ONCE problems that an interruption cut
    off, the lines are taken out of the file: its responses are drawn together.
    """
    text = file.read_text() if file.exists() else ""
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < count:
        whole = whole[: len(whole) // AT_ONCE * AT_ONCE]
    if whole != lines:
        atomic_write(file, "".join(whole))
    return [row for _, row in read_lines(file)]


def summary(rows: Sequence[Row]) -> Row:
    """avg@k and pass@k with 95 % bootstrap intervals over problems; unjudged counts as wrong."""
    rewards = [np.array([success(r) for r in row["rewards"]]) for row in rows]
    k = len(rewards[0])
    low, high = bootstrap_interval(rewards)
    right = [int((row == 1.0).sum()) for row in rewards]
    passes = {}
    for size in sorted({*(2**i for i in range(k.bit_length())), k}):
        solved = [pass_at_k(k, c, size) for c in right]
        interval = bootstrap_interval([np.array([s]) for s in solved])
        passes[str(size)] = {"value": float(np.mean(solved)), "interval": list(interval)}
    responses = k * len(rows)
    return {
        "problems": len(rows),
        "k": k,
        "avg_at_k": float(np.concatenate(rewards).mean()),
        "interval": [low, high],
        "pass_at": passes,
        "unjudged": sum(r is None for row in rows for r in row["rewards"]),
        "cut_off": sum(row["cut"] for row in rows) / responses,
        "mean_tokens": float(np.mean([t for row in rows for t in row["tokens"]])),
    }


def markdown(table: dict[str, Row], settings: Row) -> str:
    rollout = settings["rollout"]
    k = rollout["num_generations"]
    head = [
        f"`{settings['model']}`, {k} responses per problem at temperature "
        f"{rollout['temperature']}, top-p {rollout['top_p']}, at most "
        f"{rollout['max_completion_length']} tokens, judged by `{settings['reward']}`. "
        "[95 % bootstrap interval over problems]; a response that cannot be judged counts as "
        "wrong.",
        "",
        f"| data | problems | avg@{k} | pass@{k} | cut off | unjudged | tokens |",
        "|---" * 7 + "|",
    ]
    body = [
        f"| {name} | {row['problems']} | {percent(row['avg_at_k'], row['interval'])} "
        f"| {percent(row['pass_at'][str(k)]['value'], row['pass_at'][str(k)]['interval'])} "
        f"| {100 * row['cut_off']:.1f} % | {row['unjudged']} | {row['mean_tokens']:.0f} |"
        for name, row in table.items()
    ]
    return "\n".join([*head, *body])


def percent(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
