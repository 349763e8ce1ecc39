"""In-context conditioning by stage, with actors of different strength so that the context matters.

The actors are one base model and runs of it that were trained for a while (`actors`: name ->
overrides of a GRPO run; {} is the base model itself). A critic is fine-tuned on the base actor's
traces and then learns from the returns of all actors in turn; it is judged on a panel of each.
`oracle` stands where a zero-shot API model would stand: it knows the mathematics, not the actor.
"""

from __future__ import annotations

from typing import Any

from genac.config import RunConfig
from genac.evals.critic import compare
from genac.experiments.approximation import brackets, pooled, verdict
from genac.experiments.critics import bring_up, judged, panel_made
from genac.experiments.plan import Findings, Plan
from genac.experiments.runs import interval, joint_run, placed
from genac.rollout import collect, problems_at
from genac.runs.figures import dots
from genac.runs.store import Run
from genac.stages.critic_rl import FIRST_PROBLEM, subset
from genac.stages.outputs import ensure
from genac.stages.setup import Setup, save_critic
from genac.states import split

STAGES = ("untrained", "oracle", "SFT", "SFT + RL")
TOLD = {"with ICC": True, "without ICC": False}


def run(plan: Plan) -> Findings:
    actors = {seed: strengths(plan, seed) for seed in plan.seeds}
    panels = all_panels(plan, actors)
    critics = all_critics(plan, actors, panels)
    jobs, items = [], []
    for (stage, told, seed), critic in critics.items():
        for actor, path in actors[seed].items():
            rate = panels[seed, actor]["rate"] if TOLD[told] else None
            jobs.append((stage, told))
            items.append(item(plan, told, seed, path, critic, rate))
    for seed in plan.seeds:  # what knowing nothing but the actor's strength is worth
        for actor, path in actors[seed].items():
            jobs.append(("strength only", "with ICC"))
            items.append(item(plan, "with ICC", seed, path, "rate", panels[seed, actor]["rate"]))
    table: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job, cell in zip(jobs, plan.cells.map(judged, items), strict=True):
        table.setdefault(job, []).append(cell)
    return report(plan, table, panels)


def config(plan: Plan, told: str, seed: int) -> dict[str, Any]:
    icc = {"critic": {"generative": {"icc": {"enabled": TOLD[told]}}}}
    return plan.config({"algorithm": "genac"}, plan.values["critic"], icc, seed=seed).model_dump()


def item(
    plan: Plan, told: str, seed: int, actor: str, critic: str, rate: float | None
) -> dict[str, Any]:
    found = config(plan, told, seed)
    return {"config": found, "actor": actor, "critic": critic, "options": {}, "rate": rate}


def strengths(plan: Plan, seed: int) -> dict[str, Any]:
    """Actor -> folder: the base model, and runs of it."""
    base = plan.cells.map(bring_up, [{"config": grpo(plan, seed, {})}])[0]["actor"]
    trained = {name: over for name, over in plan.values["actors"].items() if over}
    runs = [placed(plan.config(GRPO, o, seed=seed), plan.folder) for o in trained.values()]
    found = plan.cells.map(joint_run, [{"config": c} for c in runs])
    folders = {name: f"{r['folder']}/actor" for name, r in zip(trained, found, strict=True)}
    return {name: folders.get(name, base) for name in plan.values["actors"]}


GRPO = {"algorithm": "grpo"}


def grpo(plan: Plan, seed: int, over: dict[str, Any]) -> dict[str, Any]:
    return plan.config(GRPO, over, seed=seed).model_dump()


def all_panels(plan: Plan, actors: dict[int, dict[str, str]]) -> dict[tuple[int, str], Any]:
    jobs = [(seed, name) for seed, mine in actors.items() for name in mine]
    items = [
        {"config": config(plan, "with ICC", seed), "actor": actors[seed][name], "options": {}}
        for seed, name in jobs
    ]
    return dict(zip(jobs, plan.cells.map(panel_made, items), strict=True))


def all_critics(
    plan: Plan, actors: dict[int, dict[str, str]], panels: dict[tuple[int, str], Any]
) -> dict[tuple[str, str, int], str]:
    """(stage, told, seed) -> folder or predictor."""
    jobs = [(told, seed) for told in TOLD for seed in plan.seeds]
    brought = plan.cells.map(bring_up, [{"config": sft_only(plan, t, s)} for t, s in jobs])
    items = [
        {
            "config": config(plan, told, seed),
            "start": found["sft"],
            "actors": list(actors[seed].values()),
            "rates": [panels[seed, name]["rate"] for name in actors[seed]],
        }
        for (told, seed), found in zip(jobs, brought, strict=True)
    ]
    trained = plan.cells.map(taught_by_many, items)
    out: dict[tuple[str, str, int], str] = {}
    for (told, seed), found, last in zip(jobs, brought, trained, strict=True):
        folders = (found["untrained"], "oracle", found["sft"], last)
        out |= {(stage, told, seed): f for stage, f in zip(STAGES, folders, strict=True)}
    return out


def sft_only(plan: Plan, told: str, seed: int) -> dict[str, Any]:
    found = config(plan, told, seed)
    found["stages"]["critic_rl"]["steps"] = 0
    return found


def taught_by_many(
    config: dict[str, Any], start: str, actors: list[str], rates: list[float]
) -> str:
    """A cell: critic RL with several frozen actors in turn, told the rate of the one it judges."""
    cfg = RunConfig(**config)
    setup, stage = Setup.of(cfg), cfg.stages.critic_rl
    key = {"config": config, "start": start, "actors": actors, "rates": rates}

    def build(run: Run) -> None:
        runtimes = [setup.actor(path) for path in actors]
        steps = stage.steps * len(actors)
        critic: Any = setup.critic(start, runtimes[0], stage.learning_rate, steps)
        count = stage.num_prompts or cfg.rollout.num_prompts
        for step in range(steps):
            actor, rate = runtimes[step % len(actors)], rates[step % len(actors)]
            problems = problems_at(setup.world, "train", FIRST_PROBLEM + step * count, count)
            groups = collect(actor, setup.world, problems, "critic_rl", step)
            rollouts = [r for group in groups for r in group]
            states = split(rollouts, cfg.states, actor.tokenizer)
            critic.rate.value = rate
            chosen = subset(states, stage.max_states, f"{cfg.seed}/{step}")
            estimates = critic.estimate(chosen, step)
            run.log("critic_rl", step, critic.learn(estimates, step))
            critic.runtime.publish(step + 1)
        save_critic(critic, cfg, run.path / "model")

    return str(ensure(cfg.stages.folder, "critic_rl_mixed", key, build) / "model")


# --- the account ----------------------------------------------------------------------------------


def report(
    plan: Plan, table: dict[tuple[str, str], list[dict[str, Any]]], panels: dict[Any, Any]
) -> Findings:
    icc: dict[str, Any] = {}
    for stage in STAGES:
        a, b = table[stage, "with ICC"], table[stage, "without ICC"]
        icc[stage] = {
            "with": summary(a),
            "without": summary(b),
            "difference": compare(a, b, "mse", "difference"),
            "auc_difference": compare(a, b, "auc_within_problem", "difference")
            if summary(a)["auc"] is not None and summary(b)["auc"] is not None
            else None,
        }
    strength = summary(table["strength only", "with ICC"])
    stage2 = {
        told: compare(table["SFT + RL", told], table["SFT", told], "mse", "difference")
        for told in TOLD
    }
    rates = {
        name: interval([p["rate"] for (_, n), p in panels.items() if n == name])
        for name in plan.values["actors"]
    }
    asked = [s for s in STAGES if s != "untrained"]
    rows = [
        {
            "claim": "ICC lowers the error at every stage",
            "ours": "; ".join(f"{s} {brackets(icc[s]['difference'], 4)}" for s in asked),
            "verdict": verdict(
                all(icc[s]["difference"]["high"] < 0 for s in asked),
                any(icc[s]["difference"]["low"] > 0 for s in asked),
            ),
        },
        {
            "claim": "the RL-trained critic has the lowest error of all stages, with ICC",
            "ours": "; ".join(f"{s} {icc[s]['with']['mse']:.4f}" for s in STAGES)
            + f"; RL minus SFT {brackets(stage2['with ICC'], 4)}",
            "verdict": verdict(stage2["with ICC"]["high"] < 0, stage2["with ICC"]["low"] > 0),
        },
        {
            "claim": "(ours) conditioning is more than actor strength: AUC within a problem",
            "ours": f"strength only {strength['auc']:.2f}, SFT + RL with ICC "
            f"{icc['SFT + RL']['with']['auc']:.2f}",
            "verdict": "agrees" if icc["SFT + RL"]["with"]["auc"] > 0.6 else "disagrees",
        },
    ]
    drawn = {
        told: {s: {"mean": icc[s][told.split()[0]]["mse"], "low": None} for s in STAGES[1:]}
        for told in TOLD
    }
    return Findings(
        {"icc": icc, "icc_rl_minus_sft": stage2, "strength_only": strength},
        rows,
        text(plan, icc, strength, rates, stage2),
        {"": dots("Squared error with and without in-context conditioning", drawn, "MSE")},
        {"actors": rates, "panels": {f"seed {s} | {n}": p for (s, n), p in panels.items()}},
    )


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Pooled over actors and seeds; `bias` by cell, in the order of the panels."""
    return {
        "mse": pooled(cells, "mse"),
        "mse_corrected": pooled(cells, "mse_corrected"),
        "auc": pooled(cells, "auc_within_problem"),
        "parse_rate": sum(c["parse_rate"] for c in cells) / len(cells),
        "bias": [c["bias"] for c in cells],
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
    shown = lambda x: "-" if x is None else f"{x:.3f}"  # noqa: E731
    for stage, row in icc.items():
        lines.append(
            f"| {stage} | {row['with']['mse']:.4f} | {row['without']['mse']:.4f} "
            f"| {brackets(row['difference'], 4)} | {shown(row['with']['auc'])} "
            f"| {shown(row['without']['auc'])} | {row['with']['parse_rate']:.3f} |"
        )
    lines += [
        f"| strength only | {strength['mse']:.4f} | - | - | {shown(strength['auc'])} | - | - |",
        "",
        "RL minus SFT: " + "; ".join(f"{t} {brackets(d, 4)}" for t, d in stage2.items()) + ".",
    ]
    return "\n".join(lines)
