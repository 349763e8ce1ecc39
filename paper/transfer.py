"""One critic for many actors: trained over some, judged on actors that it has never met.

Actors are base models and GRPO runs of them: `met` and `unmet` in the plan, name -> overrides (its
`seed`, temperature, steps of joint training). For each seed a critic is taught by all met actors,
with in-context conditioning (ICC) and without. For each unmet actor another one is taught by that
actor alone, with the same numbers of traces and steps. All are judged on panels of the unmet
actors. `critic` are overrides for every critic, `training` for the GRPO runs.

With ICC and without, the traces are the same. Their oracle knows a success rate, which only the
prompt with ICC repeats; the default draws it for each state, so that without ICC the scores scatter
by a rate that the critic cannot see. What ICC can be worth depends on how much the actors differ at
equal prefixes: see `outlook`. `policy`, which may be left out, is what the critics are worth in
joint training: see paper/transfer_policy.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.run import RunConfig
from genac.critics.actor_likelihood import ActorLikelihoodCritic
from genac.evals.policy import evaluate_policy
from genac.stages.panels import stored_panel
from genac.stages.setup import Setup
from genac.types import Sample, State
from paper import transfer_policy
from paper.critics import bring_up, judged, panel_made
from paper.plan import Findings, Plan
from paper.runs import joint_run, placed
from paper.taught import taught
from paper.transfer_report import MEAN_RATE, OWN, PREDICTORS, WITH, WITHOUT, Judged, report

GRPO, GENAC = {"algorithm": "grpo"}, {"algorithm": "genac"}
ICC = {"critic": {"generative": {"icc": {"enabled": True}}}}


@dataclass(frozen=True)
class Actor:
    """A frozen actor: its config names its folder and its temperature."""

    name: str
    config: dict[str, Any]

    @property
    def folder(self) -> str:
        return self.config["actor"]["model_name_or_path"]

    @property
    def as_overrides(self) -> dict[str, Any]:
        """What a critic's run must set to be taught by this actor."""
        return {
            "rollout": {"temperature": self.config["rollout"]["temperature"]},
            "actor": {"model_name_or_path": self.folder},
        }


def run(plan: Plan) -> Findings:
    transfer_policy.check(plan)
    met, unmet = actors(plan, "met"), actors(plan, "unmet")
    measured = plan.jobs.map(panel_made, [panel_item(a) for a in unmet])
    panels = {a.name: panel for a, panel in zip(unmet, measured, strict=True)}
    rates = plan.jobs.map(success, [{"config": a.config} for a in met])
    starts = {seed: bases(plan, [{"seed": seed}])[0] for seed in plan.seeds}
    critics = shared(plan, met, rates, starts) | own(plan, unmet, starts)
    table = judge(plan, unmet, panels, critics, float(np.mean(rates)))
    outlooks = plan.jobs.map(outlook, [outlook_item(owner, met) for owner in unmet])
    success_of = dict(zip([a.name for a in met], rates, strict=True))
    findings = report(plan, table, success_of, panels, dict(zip(panels, outlooks, strict=True)))
    if "policy" not in plan.values:
        return findings
    starts_from = {actor.name: actor.as_overrides for actor in unmet}
    policy = transfer_policy.trained(plan, starts_from, critics)
    return transfer_policy.with_policy(findings, policy)


# --- actors ---------------------------------------------------------------------------------------


def actors(plan: Plan, key: str) -> list[Actor]:
    """The actors of one kind, trained where their plan says so."""
    specs: Mapping[str, dict[str, Any]] = plan.values[key]
    folders = dict(zip(specs, bases(plan, list(specs.values())), strict=True))
    trained = [name for name, spec in specs.items() if untrained(spec) != spec]
    runs = [
        placed(plan.config(GRPO, plan.values["training"], specs[n]), plan.folder) for n in trained
    ]
    results = plan.jobs.map(joint_run, [{"config": c} for c in runs])
    folders |= {n: f"{r['folder']}/actor" for n, r in zip(trained, results, strict=True)}
    named = {n: {"actor": {"model_name_or_path": folder}} for n, folder in folders.items()}
    configs = {n: plan.config(GRPO, untrained(specs[n]), named[n]) for n in specs}
    return [Actor(name, configs[name].model_dump()) for name in specs]


def bases(plan: Plan, specs: list[dict[str, Any]]) -> list[str]:
    """The base model that each actor or critic starts from."""
    configs = [plan.config(GRPO, untrained(spec)).model_dump() for spec in specs]
    return [r["actor"] for r in plan.jobs.map(bring_up, [{"config": c} for c in configs])]


def untrained(spec: dict[str, Any]) -> dict[str, Any]:
    """An actor's overrides without those of joint training."""
    stages = {k: v for k, v in spec.get("stages", {}).items() if k != "joint"}
    return {k: v for k, v in spec.items() if k != "stages"} | ({"stages": stages} if stages else {})


def success(config: dict[str, Any]) -> float:
    """A job: an actor's held-out success."""
    cfg = RunConfig(**config)
    setup = Setup.of(cfg)
    actor = setup.actor(str(cfg.actor.model_name_or_path))
    score = evaluate_policy(actor, setup.world, cfg.evaluate.num_problems, cfg.evaluate.num_samples)
    return score.mean


def panel_item(actor: Actor) -> dict[str, Any]:
    return {"config": actor.config, "actor": actor.folder, "options": {}}


# --- critics --------------------------------------------------------------------------------------


def critic_config(
    plan: Plan, actor: Actor, seed: int, start: str, *overrides: dict[str, Any]
) -> dict[str, Any]:
    """How a critic is taught by one actor, with ICC."""
    parts = (plan.values["critic"], ICC, actor.as_overrides, *overrides)
    model = {"critic": {"model_name_or_path": start}}
    return plan.config(GENAC, *parts, model, seed=seed).model_dump()


def shared(
    plan: Plan, met: list[Actor], rates: list[float], starts: dict[int, str]
) -> dict[tuple[str, str, int], dict[str, str]]:
    """(form, "", seed) -> folders by stage; each met actor gives an equal share of the traces."""
    jobs = [(form, seed) for seed in plan.seeds for form in (WITH, WITHOUT)]
    count = plan.config(GENAC, plan.values["critic"]).stages.synthesize.num_states // len(met)
    share = {"stages": {"synthesize": {"num_states": count}}}
    items = [
        {
            "configs": [critic_config(plan, a, seed, starts[seed], share) for a in met],
            "rates": rates,
            "conditioned": form == WITH,
        }
        for form, seed in jobs
    ]
    results = plan.jobs.map(taught, items)
    return {(form, "", seed): r for (form, seed), r in zip(jobs, results, strict=True)}


def own(
    plan: Plan, unmet: list[Actor], starts: dict[int, str]
) -> dict[tuple[str, str, int], dict[str, str]]:
    """(form, actor, seed) -> folders by stage of a critic that was taught by this actor alone."""
    jobs = [(actor, seed) for seed in plan.seeds for actor in unmet]
    items = [{"config": critic_config(plan, a, seed, starts[seed])} for a, seed in jobs]
    results = plan.jobs.map(bring_up, items)
    return {(OWN, a.name, seed): r for (a, seed), r in zip(jobs, results, strict=True)}


def judge(
    plan: Plan,
    unmet: list[Actor],
    panels: dict[str, dict[str, float]],
    critics: dict[tuple[str, str, int], dict[str, str]],
    mean_rate: float,
) -> list[Judged]:
    """Every critic on the panel of every unmet actor that it can judge, after both stages."""
    jobs: list[tuple[str, str, int, str, int]] = []
    items: list[dict[str, Any]] = []

    def add(form: str, stage: str, seed: int, actor: Actor, critic: str, rate: float) -> None:
        jobs.append((form, stage, seed, actor.name, actor.config["seed"]))
        items.append(panel_item(actor) | {"critic": critic, "rate": rate})

    for actor in unmet:
        rate = panels[actor.name]["rate"]
        for (form, teacher, seed), folders in critics.items():
            if teacher not in ("", actor.name):
                continue
            for stage in ("sft", "rl"):
                add(form, stage, seed, actor, folders[stage], rate)
            if form == WITH:  # if it reads the rate, another one does harm
                add(MEAN_RATE, "rl", seed, actor, folders["rl"], mean_rate)
        for predictor in PREDICTORS:  # which learn nothing, so that one seed is all
            add(predictor, "rl", plan.seeds[0], actor, predictor, rate)
    results = plan.jobs.map(judged, items)
    return [Judged(*job, result) for job, result in zip(jobs, results, strict=True)]


# --- what theory predicts -------------------------------------------------------------------------


def outlook_item(owner: Actor, met: Sequence[Actor]) -> dict[str, Any]:
    return {"config": owner.config, "met": [actor.config for actor in met]}


def outlook(config: dict[str, Any], met: list[dict[str, Any]]) -> dict[str, float]:
    """A job: the error of a perfect critic of the met actors on an actor that it has not met.

    With equal prior odds a prefix x makes the met actor a responsible with the weight
    w_a(x) = p_a(x) / sum_b p_b(x). The perfect critic without conditioning answers
    m(x) = sum_a w_a(x) V_a(x). Values and p are the actors' own probabilities. Over the states of
    the unmet actor's panel, as means:
    `variance`: sum_a w_a (V_a - m)^2, the value's variance between met actors given the prefix;
    `from_met`: (V - m)^2, what m errs by on the unmet actor, whose value is V;
    `from_met_blind`: the same with equal weights, as if a prefix showed nothing of its actor.
    """
    setup = Setup.of(RunConfig(**config))
    owner = str(setup.cfg.actor.model_name_or_path)
    states = stored_panel(setup, Path(owner), setup.actor(owner), {}).states
    values_AS, logprobs_AS = map(np.array, zip(*(seen_by(c, states) for c in met), strict=True))
    own_S = np.array(seen_by(config, states)[0])
    weights_AS = np.exp(logprobs_AS - logprobs_AS.max(axis=0))
    weights_AS /= weights_AS.sum(axis=0)
    mean_S = (weights_AS * values_AS).sum(axis=0)
    return {
        "variance": float((weights_AS * (values_AS - mean_S) ** 2).sum(axis=0).mean()),
        "from_met": float(((own_S - mean_S) ** 2).mean()),
        "from_met_blind": float(((own_S - values_AS.mean(axis=0)) ** 2).mean()),
    }


def seen_by(config: dict[str, Any], states: Sequence[State]) -> tuple[list[float], list[float]]:
    """Each state's value under an actor, and the log-probability of its prefix."""
    setup = Setup.of(RunConfig(**config))
    actor = setup.actor(str(setup.cfg.actor.model_name_or_path))
    estimates = ActorLikelihoodCritic(actor, setup.world).estimate(states, -1)
    values = [e.value for e in estimates if e.value is not None]
    assert len(values) == len(states), "states begin at lines"
    samples = []
    for state in states:
        # One task has one alphabet: the tokens of one actor are those of another.
        prompt = state.rollout.prompt_ids
        ids = (*prompt, *state.rollout.response_ids[: state.start])
        weights = np.zeros(len(ids), np.float32)
        weights[len(prompt) :] = 1.0
        samples.append(Sample(ids, weights, "policy", temperature=setup.world.rollout.temperature))
    return values, [float(row.sum()) for row in actor.learner.logprobs(samples)]
