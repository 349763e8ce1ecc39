"""In-context conditioning by stage, with actors of different strength so that the context matters.

The actors are one base model and runs of it that were trained for a while (`actors`: name ->
overrides of a GRPO run; {} is the base model itself). A critic is fine-tuned on the base actor's
traces and then learns from the returns of all actors in turn; it is judged on a panel of each.
`oracle` stands where a zero-shot API model would stand: it knows the mathematics, not the actor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.config.run import RunConfig
from genac.runs.store import Run
from genac.stages.critic_rl import CriticRLInputs, stage_groups, stage_world
from genac.stages.inputs import Artifact, StageInputs
from genac.stages.setup import save_critic
from genac.states import split, subset
from paper.approximation_report import pooled
from paper.critics import bring_up, judged, panel_made
from paper.figures import dots
from paper.pairs import compare
from paper.plan import Findings, Plan
from paper.runs import interval, joint_run, placed
from paper.verdicts import above, below, brackets, shown, verdict

STAGES = ("untrained", "oracle", "SFT", "SFT + RL")
CONDITIONED = {"with ICC": True, "without ICC": False}
GRPO = {"algorithm": "grpo"}


def run(plan: Plan) -> Findings:
    actors = {seed: strengths(plan, seed) for seed in plan.seeds}
    panels = all_panels(plan, actors)
    critics = all_critics(plan, actors, panels)
    jobs, items = [], []
    for (stage, answer, seed), critic in critics.items():
        for actor, path in actors[seed].items():
            rate = panels[seed, actor]["rate"] if CONDITIONED[answer] else None
            jobs.append((stage, answer, seed))
            items.append(item(plan, answer, seed, path, critic, rate))
    for seed in plan.seeds:  # what knowing nothing but the actor's strength is worth
        for actor, path in actors[seed].items():
            jobs.append(("strength only", "with ICC", seed))
            items.append(item(plan, "with ICC", seed, path, "rate", panels[seed, actor]["rate"]))
    table: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (stage, answer, seed), result in zip(jobs, plan.jobs.map(judged, items), strict=True):
        table.setdefault((stage, answer), []).append(result | {"seed": seed})
    return report(plan, table, panels)


def config(plan: Plan, message: str, seed: int) -> dict[str, Any]:
    icc = {"critic": {"generative": {"icc": {"enabled": CONDITIONED[message]}}}}
    return plan.config({"algorithm": "genac"}, plan.values["critic"], icc, seed=seed).model_dump()


def item(
    plan: Plan, message: str, seed: int, actor: str, critic: str, rate: float | None
) -> dict[str, Any]:
    result = config(plan, message, seed)
    return {"config": result, "actor": actor, "critic": critic, "options": {}, "rate": rate}


def strengths(plan: Plan, seed: int) -> dict[str, Any]:
    """Actor -> folder: the base model, and runs of it."""
    base = plan.jobs.map(bring_up, [{"config": grpo(plan, seed, {})}])[0]["actor"]
    trained = {name: over for name, over in plan.values["actors"].items() if over}
    runs = [placed(plan.config(GRPO, o, seed=seed), plan.folder) for o in trained.values()]
    result = plan.jobs.map(joint_run, [{"config": c} for c in runs])
    folders = {name: f"{r['folder']}/actor" for name, r in zip(trained, result, strict=True)}
    return {name: folders.get(name, base) for name in plan.values["actors"]}


def grpo(plan: Plan, seed: int, over: dict[str, Any]) -> dict[str, Any]:
    return plan.config(GRPO, over, seed=seed).model_dump()


def all_panels(plan: Plan, actors: dict[int, dict[str, str]]) -> dict[tuple[int, str], Any]:
    jobs = [(seed, name) for seed, own in actors.items() for name in own]
    items = [
        {"config": config(plan, "with ICC", seed), "actor": actors[seed][name], "options": {}}
        for seed, name in jobs
    ]
    return dict(zip(jobs, plan.jobs.map(panel_made, items), strict=True))


def all_critics(
    plan: Plan, actors: dict[int, dict[str, str]], panels: dict[tuple[int, str], Any]
) -> dict[tuple[str, str, int], str]:
    """(stage, told, seed) -> folder or predictor."""
    jobs = [(answer, seed) for answer in CONDITIONED for seed in plan.seeds]
    brought = plan.jobs.map(bring_up, [{"config": sft_only(plan, t, s)} for t, s in jobs])
    items = [
        {
            "config": config(plan, answer, seed),
            "start": result["sft"],
            "actors": list(actors[seed].values()),
            "rates": [panels[seed, name]["rate"] for name in actors[seed]],
        }
        for (answer, seed), result in zip(jobs, brought, strict=True)
    ]
    trained = plan.jobs.map(taught_by_many, items)
    out: dict[tuple[str, str, int], str] = {}
    for (answer, seed), result, last in zip(jobs, brought, trained, strict=True):
        folders = (result["untrained"], "oracle", result["sft"], last)
        out |= {(stage, answer, seed): f for stage, f in zip(STAGES, folders, strict=True)}
    return out


def sft_only(plan: Plan, message: str, seed: int) -> dict[str, Any]:
    result = config(plan, message, seed)
    result["stages"]["critic_rl"]["steps"] = 0
    return result


def taught_by_many(
    config: dict[str, Any], start: str, actors: list[str], rates: list[float]
) -> str:
    """A job: critic RL with several frozen actors in turn, told the rate of the one it judges."""
    stage = CriticRLInputs.of(RunConfig(**config), Path(start), Path(actors[0]))
    models = tuple(Artifact.model(path) for path in actors)
    inputs = MixedRLInputs(stage.cfg, stage.digests, stage, models, tuple(rates))
    return str(inputs.folder(train_mixed) / "model")


@dataclass(frozen=True)
class MixedRLInputs(StageInputs):
    """Critic RL with several actors; the problems of a step are those of the stage."""

    stage = "critic_rl_mixed"

    critic_rl: CriticRLInputs
    actors: tuple[Artifact, ...]
    rates: tuple[float, ...]  # success of each actor


def train_mixed(inputs: MixedRLInputs, run: Run) -> None:
    setup = inputs.setup()
    cfg, stage, world = setup.cfg, setup.cfg.stages.critic_rl, stage_world(setup)
    actors = [setup.actor(model.path) for model in inputs.actors]
    steps, optimizer = stage.steps * len(actors), setup.critic_optimizer(stage.learning_rate)
    decay = steps if stage.decay else None
    critic: Any = setup.critic(inputs.critic_rl.start.path, actors[0], optimizer, decay)
    run.truncate_after("critic_rl", -1)  # an interrupted one starts again
    for step in range(steps):
        actor = actors[step % len(actors)]
        rollouts = [r for group in stage_groups(setup, world, actor, step) for r in group]
        states = split(rollouts, cfg.states, actor.tokenizer)
        critic.set_success_rate(inputs.rates[step % len(actors)])
        chosen = subset(states, stage.max_states, f"{cfg.seed}/{step}")
        estimates = critic.estimate(chosen, step)
        run.log("critic_rl", step, critic.learn(estimates, step))
        critic.runtime.publish(step + 1)
    save_critic(critic, cfg, run.path / "model")


# --- the summary ----------------------------------------------------------------------------------


def report(
    plan: Plan, table: dict[tuple[str, str], list[dict[str, Any]]], panels: dict[Any, Any]
) -> Findings:
    icc: dict[str, Any] = {}
    for stage in STAGES:
        a, b = table[stage, "with ICC"], table[stage, "without ICC"]
        icc[stage] = {
            "with": summary(a),
            "without": summary(b),
            "difference": paired(a, b),
        }
    strength = summary(table["strength only", "with ICC"])
    stage2 = {
        message: {
            stage: paired(table["SFT + RL", message], table[stage, message])
            for stage in STAGES
            if stage != "SFT + RL"
        }
        for message in CONDITIONED
    }
    ranks = paired(
        table["SFT + RL", "with ICC"], table["strength only", "with ICC"], "auc_within_problem"
    )
    rates = {
        name: interval([p["rate"] for (_, n), p in panels.items() if n == name])
        for name in plan.values["actors"]
    }
    drawn = {
        message: {s: {"mean": icc[s][message.split()[0]]["mse"], "low": None} for s in STAGES[1:]}
        for message in CONDITIONED
    }
    return Findings(
        {"icc": icc, "icc_rl_minus_sft": stage2, "strength_only": strength},
        verdicts(icc, stage2, strength, ranks),
        text(plan, icc, strength, rates, stage2),
        {"": dots("Squared error with and without in-context conditioning", drawn, "MSE")},
        {"actors": rates, "panels": {f"seed {s} | {n}": p for (s, n), p in panels.items()}},
    )


def verdicts(icc: Any, stage2: Any, strength: Any, ranks: Any) -> list[dict[str, str]]:
    queries = [s for s in STAGES if s != "untrained"]
    return [
        {
            "claim": "ICC lowers the error at every stage",
            "ours": "; ".join(f"{s} {brackets(icc[s]['difference'], 4)}" for s in queries)
            + " (untrained: no scores); the oracle's gain is built in: untold it guesses",
            "verdict": verdict(
                all(below(icc[s]["difference"], 0) for s in queries),
                any(above(icc[s]["difference"], 0) for s in queries),
            ),
        },
        {
            "claim": "the RL-trained critic has the lowest error of all stages, with ICC",
            "ours": "; ".join(f"{s} {icc[s]['with']['mse']:.4f}" for s in STAGES)
            + "; RL minus "
            + "; ".join(f"{s} {brackets(d, 4)}" for s, d in stage2["with ICC"].items()),
            "verdict": verdict(
                all(below(d, 0) for d in stage2["with ICC"].values()),
                any(above(d, 0) for d in stage2["with ICC"].values()),
            ),
        },
        {
            "claim": "(ours) conditioning is more than actor strength: AUC within a problem",
            "ours": f"strength only {shown(strength['auc'])}, SFT + RL with ICC "
            f"{shown(icc['SFT + RL']['with']['auc'])}, gap {brackets(ranks, 3)}",
            "verdict": verdict(above(ranks, 0), below(ranks, 0)),
        },
    ]


def paired(a: list[dict[str, Any]], b: list[dict[str, Any]], key: str = "mse") -> dict[str, Any]:
    """a - b; the panels of one seed's actors share problems, which are resampled together."""
    return compare(a, b, key, "difference", groups=[result["seed"] for result in a])


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Pooled over actors and seeds; `bias` by job, in the order of the panels."""
    return {
        "mse": pooled(results, "mse"),
        "mse_corrected": pooled(results, "mse_corrected"),
        "auc": pooled(results, "auc_within_problem"),
        "parse_rate": sum(c["parse_rate"] for c in results) / len(results),
        "bias": [c["bias"] for c in results],
    }


def text(plan: Plan, icc: Any, strength: Any, rates: Any, stage2: Any) -> str:
    lines = [
        f"Critics judged on panels of {len(rates)} actors ("
        + ", ".join(f"{n}: success {r['mean']:.2f}" for n, r in rates.items())
        + f"), seeds {plan.seeds}; error pooled over actors and seeds, difference with a [95 % "
        "bootstrap interval over problems, trainings fixed].",
        "",
        "| stage | MSE with ICC | without | difference | AUC with | without | parsed with |",
        "|---" * 7 + "|",
    ]
    for stage, row in icc.items():
        lines.append(
            f"| {stage} | {row['with']['mse']:.4f} | {row['without']['mse']:.4f} "
            f"| {brackets(row['difference'], 4)} | {shown(row['with']['auc'])} "
            f"| {shown(row['without']['auc'])} | {row['with']['parse_rate']:.3f} |"
        )
    lines += [
        f"| strength only | {strength['mse']:.4f} | - | - | {shown(strength['auc'])} | - | - |",
        "",
        "SFT + RL minus each other stage (MSE): "
        + "; ".join(
            f"{answer}: " + ", ".join(f"{s} {brackets(d, 4)}" for s, d in rows.items())
            for answer, rows in stage2.items()
        )
        + ". The untold oracle guesses from progress alone, so its gain from ICC is built in.",
    ]
    return "\n".join(lines)
