"""What a one-shot value head can represent: tasks with exact values, over length and depth.

Two kinds of states (`states` of a task): "answered", behind the scripted actor's answer, which is
right with probability 1 - noise, so the state is worth 1 or 0, and deciding which takes as many
steps as the problem has; and "faultless", behind the first lines of a right solution, whose value
is a function of how many steps are left. For each task a value head of each depth is trained on
exact values, and a generative critic of the smallest depth on traces that end with them: fresh
problems, from nothing, the same number of states. Plan: `tasks` (name -> task section and
`states`), `controls` (tasks on which theory predicts no gap), `depths`, `width`, `steps`, `batch`,
`learning_rates` (chosen, as the heads' depth, on `tuning_seed`), `lengths`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.models import GenerativeConfig, ICCConfig, OptimizerConfig
from genac.config.run import HardwareConfig, TaskConfig
from genac.critics.discriminative import value_sample
from genac.critics.generative import GenerativeCritic
from genac.hardware import Hardware
from genac.models.chat import encode_prompt
from genac.models.tiny import save_tiny
from genac.ops.stats import bootstrap_sums
from genac.runs.files import alone
from genac.runs.store import stable_hash
from genac.runtime import ModelSpec, build
from genac.seeding import derive_seed
from genac.stages.sft import completion_ids
from genac.tasks import make_task
from genac.types import Problem, Rollout, Sample, State
from paper.figures import lines
from paper.plan import Findings, Plan, Record
from paper.runs import interval, show
from paper.verdicts import above, below, brackets, verdict

GENERATIVE = "generative"


def run(plan: Plan) -> Findings:
    values = plan.values
    critics = [GENERATIVE, *(f"depth {d}" for d in values["depths"])]
    rates, seed = values["learning_rates"], values["tuning_seed"]
    common = {k: values[k] for k in ("width", "steps", "batch", "lengths", "problems")}
    tuning = [(t, c, r) for t in values["tasks"] for c in critics for r in rates]
    result = plan.jobs.map(learnt, [job_of(plan, common, t, c, r, seed) for t, c, r in tuning])
    errors = {job: overall(f) for job, f in zip(tuning, result, strict=True)}
    best = {
        (t, c): min(rates, key=lambda r, t=t, c=c: errors[t, c, r])
        for t in values["tasks"]
        for c in critics
    }
    heads = {
        t: min(critics[1:], key=lambda c, t=t: errors[t, c, best[t, c]]) for t in values["tasks"]
    }
    jobs = [(t, c, s) for t in values["tasks"] for c in critics for s in plan.seeds]
    items = [job_of(plan, common, t, c, best[t, c], s) for t, c, s in jobs]
    result = plan.jobs.map(learnt, items)
    return report(plan, dict(zip(jobs, result, strict=True)), critics, best, heads)


def job_of(
    plan: Plan, common: dict[str, Any], task: str, critic: str, rate: float, seed: int
) -> dict[str, Any]:
    depth = plan.values["depths"][0] if critic == GENERATIVE else int(critic.split()[1])
    return {
        **common,
        "task": plan.values["tasks"][task],
        "generative": critic == GENERATIVE,
        "depth": depth,
        "learning_rate": rate,
        "seed": seed,
        "folder": str(plan.folder / "stages"),
    }


def learnt(
    task: dict[str, Any], generative: bool, depth: int, width: int, steps: int, batch: int,
    lengths: list[int], problems: int, learning_rate: float, seed: int, folder: str,
) -> dict[str, Any]:  # fmt: skip
    """A job: trains one critic. -> squared errors by length, one per held-out problem."""
    cfg, kind = TaskConfig(**{k: v for k, v in task.items() if k != "states"}), task["states"]
    trained = make_task(cfg, seed, min_steps=min(lengths), max_steps=max(lengths))
    start = initial(Path(folder), trained, width, depth, seed)
    optimizer = OptimizerConfig(
        learning_rate=learning_rate, warmup_steps=50, tokens_per_microbatch=8192
    )
    hardware = Hardware.resolve(HardwareConfig())
    spec = ModelSpec("critic", str(start), optimizer, decay_steps=steps)
    critic = None
    if generative:
        runtime = build(spec, hardware)
        settings = GenerativeConfig(
            prompt="compact", max_new_tokens=8 + 4 * max(lengths), readout="expected",
            icc=ICCConfig(enabled=False),
        )  # fmt: skip
        critic = GenerativeCritic(runtime, runtime, settings, seed)
    else:
        runtime = build(replace(spec, head="mse", bins=51, trained=False), hardware)
    losses = []
    for step in range(steps):
        samples = [
            example(critic, runtime.tokenizer, trained, kind, step * batch + i, seed)
            for i in range(batch)
        ]
        losses.append(runtime.learner.learn(samples, step)["loss"])
    if critic is not None:
        runtime.publish(steps)
    errors = {}
    for length in lengths:
        fixed = make_task(cfg, seed, min_steps=length, max_steps=length)
        errors[str(length)] = held_out_errors(critic, runtime, fixed, kind, problems, seed)
    return {"errors": errors, "loss": float(np.mean(losses[-50:]))}


def initial(folder: Path, task: Any, width: int, depth: int, seed: int) -> Path:
    """An untrained model with the task's words."""
    name = stable_hash([task.name, task.modulus, width, depth, seed])
    path = folder / f"untrained-{name}"
    with alone(path):
        if not (path / "config.json").exists():
            save_tiny(
                path, task.alphabet(), seed=derive_seed(seed, "init"), hidden_size=width,
                layers=depth, heads=4, max_length=256,
            )  # fmt: skip
    return path


def written(task: Any, kind: str, split: str, index: int, seed: int) -> tuple[Problem, str, float]:
    """A problem, what the scripted actor has written, and the exact value behind it."""
    problem = task.problem(split, index)
    rng = random.Random(f"{seed}/{split}/answer/{index}")
    if kind == "answered":
        text = task.scripted_response(problem, rng, task.noise)
    else:
        text_lines = task.scripted_response(problem, rng, 0.0).split("\n")[:-1]
        text = "".join(line + "\n" for line in text_lines[: rng.randrange(len(text_lines))])
    value = task.exact_value(problem, text)
    assert value is not None
    return problem, text, value


def example(
    critic: GenerativeCritic | None, tokenizer: Any, task: Any, kind: str, index: int, seed: int
) -> Sample:
    problem, text, value = written(task, kind, "train", index, seed)
    partial = tuple(tokenizer.encode(text, add_special_tokens=False))
    if critic is None:
        state = state_of(tokenizer, problem, partial)
        return value_sample(state.rollout, [state.start], [value])
    prompt = critic.prompts.render_ids(problem, partial, None)
    reasoning = task.oracle(problem, text, 1.0).reasoning
    ids = (*prompt, *completion_ids(critic, reasoning, round(10 * value)))
    weights = np.zeros(len(ids), np.float32)
    weights[len(prompt) :] = 1.0
    return Sample(ids=ids, weights=weights, loss="sft")


def state_of(tokenizer: Any, problem: Problem, partial: tuple[int, ...]) -> State:
    """The state behind a written answer, before the end of the sequence."""
    ids = (*partial, tokenizer.eos_token_id)
    rollout = Rollout(
        problem, 0, 0, encode_prompt(tokenizer, problem), ids, np.zeros(len(ids), np.float32),
        "", "stop", 0,
    )  # fmt: skip
    return State(rollout, len(partial), len(ids))


def held_out_errors(
    critic: GenerativeCritic | None, runtime: Any, task: Any, kind: str, problems: int, seed: int
) -> list[float]:
    """(v - V)^2 per held-out problem, each text once; a missing score is an error of 1.

    Short problems are few: then there are fewer than `problems`.
    """
    drawn = (written(task, kind, "heldout", i, seed) for i in range(4 * problems))
    queries = list({results[0].text: results for results in drawn}.values())[:problems]
    tokenizer = runtime.tokenizer
    partials = [tuple(tokenizer.encode(text, add_special_tokens=False)) for _, text, _ in queries]
    states = [state_of(tokenizer, p, ids) for (p, _, _), ids in zip(queries, partials, strict=True)]
    if critic is None:
        read = runtime.learner.values(
            [s.rollout.prompt_ids + s.rollout.response_ids for s in states]
        )
        results = [
            float(v[len(s.rollout.prompt_ids) + s.start]) for v, s in zip(read, states, strict=True)
        ]
    else:
        prompts = [critic.prompts.render(s, None) for s in states]
        results = [critic.value(t) for t in critic.think(prompts, derive_seed(seed, "heldout"))]
    return [
        1.0 if v is None else (v - value) ** 2
        for v, (_, _, value) in zip(results, queries, strict=True)
    ]


# --- the summary ----------------------------------------------------------------------------------


def report(
    plan: Plan,
    results: dict[Any, dict[str, Any]],
    critics: list[str],
    best: dict[Any, float],
    heads: dict[str, str],
) -> Findings:
    tasks, controls = list(plan.values["tasks"]), plan.values["controls"]
    lengths = [str(n) for n in plan.values["lengths"]]
    table = {
        t: {
            c: {
                n: interval([float(np.mean(results[t, c, s]["errors"][n])) for s in plan.seeds])
                for n in [*lengths]
            }
            | {"all": interval([overall(results[t, c, s]) for s in plan.seeds])}
            for c in critics
        }
        for t in tasks
    }
    gaps = {t: {"best head": heads[t], **gap(plan, results, t, heads[t])} for t in tasks}
    rows = [task_row(t, gaps[t], t in controls) for t in tasks]
    svg = lines(
        "Squared error by problem length",
        {
            f"{t}, {c}": [(float(n), table[t][c][n]) for n in lengths]
            for t in tasks
            for c in (GENERATIVE, gaps[t]["best head"])
        },
        "steps of the problem",
        "MSE against the exact value",
    )
    return Findings(
        {"control_gap": {t: gaps[t] for t in controls}, "gap_by_task": gaps},
        rows,
        {"": svg},
        {"table": table, "learning_rates": {f"{t} | {c}": r for (t, c), r in best.items()}},
    )


def task_row(task: str, gap: dict[str, Any], control: bool) -> dict[str, str]:
    """A control must show next to nothing: less than 0.02 either way."""
    ours = f"best head ({gap['best head']}) minus generative {brackets(gap, 3)}"
    if control:
        claim = f"(theory) no gap on the control, {task}"
        none = gap["low"] > -0.02 and gap["high"] < 0.02
        return {"claim": claim, "ours": ours, "verdict": verdict(none, gap["low"] > 0.02)}
    claim = f"(theory) a gap on {task}: one-shot error above the generative one"
    return {"claim": claim, "ours": ours, "verdict": verdict(above(gap, 0), below(gap, 0))}


def overall(result: dict[str, Any]) -> float:
    return float(np.mean([np.mean(row) for row in result["errors"].values()]))


def gap(plan: Plan, results: dict[Any, Any], task: str, head: str) -> dict[str, Any]:
    """Error of a head minus that of the generative critic: mean over lengths of the means, so that
    short problems, of which there are few, count as much; resampled by problem."""
    lengths = plan.values["lengths"]
    rows, owners = [], []
    for seed in plan.seeds:
        for place, length in enumerate(lengths):
            errors = [results[task, c, seed]["errors"][str(length)] for c in (head, GENERATIVE)]
            for a, b in zip(*errors, strict=True):
                row = np.zeros((len(lengths), 2))
                row[place] = a - b, 1.0
                rows.append(row.flatten())
                owners.append(seed)

    def statistic(sums: np.ndarray) -> np.ndarray:
        parts = sums.reshape(*sums.shape[:-1], len(lengths), 2)
        with np.errstate(invalid="ignore"):
            return (parts[..., 0] / parts[..., 1]).mean(-1)

    sums_PD, owner_P = np.array(rows), np.array(owners)
    low, high = bootstrap_sums(sums_PD, statistic)
    each = [float(statistic(sums_PD[owner_P == seed].sum(0))) for seed in plan.seeds]
    value = float(statistic(sums_PD.sum(0)))
    return {"value": value, "low": low, "high": high, "by_training": each}


def text(plan: Plan, record: Record) -> str:
    gaps, rates = record["gap_by_task"], record["learning_rates"]
    lengths = [str(n) for n in plan.values["lengths"]]
    parts = [
        f"Squared error against exact values, seeds {plan.seeds}, {plan.values['steps']} steps of "
        f"{plan.values['batch']} fresh states, width {plan.values['width']}; the generative critic "
        f"has depth {plan.values['depths'][0]}. [95 % t interval over seeds] in the last column."
    ]
    for t, rows in record["table"].items():
        parts += [
            "",
            f"**{t}**",
            "",
            "| critic | lr | " + " | ".join(f"{n} steps" for n in lengths) + " | all |",
            "|---" * (3 + len(lengths)) + "|",
            *(
                f"| {c} | {rates[f'{t} | {c}']:g} | "
                + " | ".join(f"{row[n]['mean']:.3f}" for n in lengths)
                + f" | {show(row['all'])} |"
                for c, row in rows.items()
            ),
            "",
            f"Best head ({gaps[t]['best head']}) minus generative: {brackets(gaps[t], 3)}.",
        ]
    return "\n".join(parts)
