"""Evaluation: success with intervals, the critic against a panel, and the panel itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import EchoTask, FixedCritic, ScriptedEngine, make_rollout, runtime_with, says

from genac.commands.eval_critics import markdown
from genac.config.models import OptimizerConfig
from genac.config.run import RolloutConfig, StatesConfig
from genac.critics.monte_carlo import MonteCarloValue
from genac.evals.cost import Cost
from genac.evals.critic import evaluate_critic, trivial_baselines
from genac.evals.ground_truth import (
    FIRST_PROBLEM,
    NoPanel,
    Panel,
    build_panel,
    load_panel,
    revalue,
    save_panel,
)
from genac.evals.online import critic_metrics, rollout_metrics
from genac.evals.policy import PolicyScore, evaluate_policy, policy_score
from genac.learner import Learner
from genac.rollout import World
from genac.tasks.verifier import Verifier
from genac.types import Estimate, Problem, State
from paper.pairs import compare


def groups_of(rewards: list[list[float | None]]) -> list[list[Any]]:
    return [
        [make_rollout((5,), r, group=p, member=m) for m, r in enumerate(row)]
        for p, row in enumerate(rewards)
    ]


# --- policy ---------------------------------------------------------------------------------------


def test_policy_score_by_hand():
    """Means 1/2, 1, 0, 0; something right in two of four problems. Unscored is a failure here."""
    score = policy_score(groups_of([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [None, 0.0]]))
    assert (score.mean, score.pass_at_k, score.k, score.problems) == (0.375, 0.5, 2, 4)
    assert 0.0 <= score.low < 0.375 < score.high <= 1.0


def test_a_gain_is_paired_by_problem():
    """Problems of all difficulties, each solved once more of four: +.25 at each, whatever the
    spread of the problems themselves, which the two scores' own intervals hold.
    """
    rows = [[1.0] * solved + [0.0] * (4 - solved) for solved in (0, 1, 2, 3)] * 2
    more = [[1.0] * (sum(map(int, row)) + 1) + [0.0] * (3 - sum(map(int, row))) for row in rows]
    before, after = policy_score(groups_of(rows)), policy_score(groups_of(more))
    assert after.low < before.high  # the intervals overlap
    assert after.gain_over(before) == {"mean": 0.25, "low": 0.25, "high": 0.25}
    assert PolicyScore.of(before.as_dict()) == before
    few = policy_score(groups_of(rows[:3]))
    assert few.gain_over(before) is None
    older = {key: value for key, value in before.as_dict().items() if key != "by_problem"}
    assert after.gain_over(PolicyScore.of(older)) is None


def test_intervals_are_over_problems_and_not_over_responses():
    """40 copies of a response say no more than one; with 80 problems the interval is narrow."""
    few = policy_score(groups_of([[1.0] * 40, [0.0] * 40]))
    many = policy_score(groups_of([[1.0], [0.0]] * 40))
    assert (few.low, few.high) == (0.0, 1.0)
    assert many.high - many.low < 0.3
    sure = policy_score(groups_of([[1.0, 1.0]] * 3))
    assert (sure.low, sure.high) == (1.0, 1.0)


def world_of(task: EchoTask, **rollout: Any) -> World:
    cfg = RolloutConfig(num_generations=2, max_completion_length=6, **rollout)
    return World(task, Verifier(task), cfg, seed=0)


def actor_of(tokenizer: Any, model: Any, words: str) -> Any:
    """An actor that writes one letter at a time, in turn."""
    calls = iter(words * 10_000)
    return runtime_with(
        ScriptedEngine(lambda request: says(tokenizer, next(calls))), tokenizer, model
    )


def test_evaluate_policy_uses_the_same_problems_and_draws_every_time(tokenizer, tiny_model):
    actor, world = actor_of(tokenizer, tiny_model, "xy"), world_of(EchoTask({"x": 1.0}))
    score = evaluate_policy(actor, world, num_problems=3, num_samples=4)
    assert (score.mean, score.problems, score.k, score.pass_at_k) == (0.5, 3, 4, 1.0)
    first = list(actor.engine.requests)
    evaluate_policy(actor, world, 3, 4)
    assert actor.engine.requests[len(first) :] == first and len({r.seed for r in first}) == 12


def test_evaluate_policy_takes_what_a_small_task_has(tokenizer, tiny_model):
    actor = actor_of(tokenizer, tiny_model, "x")
    assert evaluate_policy(actor, world_of(EchoTask(count=2)), 50, 1).problems == 2
    with pytest.raises(ValueError, match="no held-out problem"):
        evaluate_policy(actor, world_of(EchoTask(count=0)), 50, 1)


# --- critic ---------------------------------------------------------------------------------------


def panel_of(values: list[float], starts: list[int], rewards: list[float]) -> Panel:
    """Two states per problem, each of a response of its own."""
    states = [
        State(make_rollout((5, 6, 7), r, group=i // 2, member=i % 2), s, 3)
        for i, (s, r) in enumerate(zip(starts, rewards, strict=True))
    ]
    truth = [MonteCarloValue(v, 5) for v in values]
    return Panel(states, truth, [0.5, 0.5, 0.25, 0.25])


@pytest.fixture
def panel() -> Panel:
    return panel_of([0.8, 0.2, 0.6, 0.4], [1, 2, 1, 0], [1.0, 0.0, 1.0, 0.0])


def fixed(panel: Panel, values: list[float | None]) -> FixedCritic:
    of = {id(s): v for s, v in zip(panel.states, values, strict=True)}
    return FixedCritic(lambda s: of[id(s)])


def test_a_perfect_critic(panel):
    result = evaluate_critic(fixed(panel, [0.8, 0.2, 0.6, 0.4]), panel)
    assert result["mse"] == result["mse_parsed"] == result["mae"] == 0
    assert result["mse_interval"] == (0, 0) and result["parse_rate"] == 1
    assert result["pearson"] == pytest.approx(1) and result["explained_variance"] == pytest.approx(
        1
    )
    assert result["auc_within_problem"] == result["auc_ceiling"] == 1.0
    assert (result["states"], result["problems"]) == (4, 2)
    # v (1 - v) / 4 for 0.8, 0.2, 0.6, 0.4
    assert result["mse_noise"] == pytest.approx((0.16 + 0.16 + 0.24 + 0.24) / 16)


def test_a_missing_score_is_an_error_of_one(panel):
    result = evaluate_critic(fixed(panel, [0.7, None, 0.6, None]), panel)
    assert result["mse"] == pytest.approx((0.01 + 1 + 0 + 1) / 4)
    assert result["mse_parsed"] == pytest.approx(0.005) and result["parse_rate"] == 0.5
    assert result["mse"] > trivial_baselines(panel)["mse_constant"]


def test_silence_looks_like_no_skill(panel):
    result = evaluate_critic(fixed(panel, [None] * 4), panel)
    assert result["mse"] == 1 and result["parse_rate"] == 0
    assert result["auc_within_problem"] == 0.5


def test_auc_is_inside_a_problem_and_leaves_the_start_out(panel):
    """The second problem has one state after the start: no ranking; the first is reversed."""
    result = evaluate_critic(fixed(panel, [0.1, 0.2, 0.9, 0.9]), panel)
    assert result["auc_within_problem"] == 0.0
    starts_only = panel_of([0.8, 0.2, 0.6, 0.4], [0] * 4, [1.0, 0.0, 1.0, 0.0])
    result = evaluate_critic(fixed(starts_only, [0.5] * 4), starts_only)
    assert result["auc_within_problem"] is None and result["mse"] == pytest.approx(0.05)


def test_noise_is_taken_off_known_values_only(panel):
    """Errors .01 and 0 less the variances .16/4 and .24/4; missing ones stay 1."""
    result = evaluate_critic(fixed(panel, [0.7, None, 0.6, None]), panel)
    assert result["mse_corrected"] == pytest.approx((0.01 - 0.04 + 1 + 0 - 0.06 + 1) / 4)
    assert result["mse_corrected_interval"][0] <= result["mse_corrected"]


def test_error_by_part_of_the_response(panel):
    """Starts 1, 2, 1, 0 of 3 tokens: second third, last third, second third, start."""
    by_part = evaluate_critic(fixed(panel, [0.7, 0.4, 0.6, 0.9]), panel)["mse_by_fraction"]
    assert by_part["start"] == pytest.approx(0.25) and by_part["first third"] is None
    assert by_part["second third"] == pytest.approx(0.005)
    assert by_part["last third"] == pytest.approx(0.04)


def test_top1_in_pools_of_one_problem():
    """Two later states per problem: the first problem is ranked rightly, the second wrongly."""
    panel = panel_of([0.8, 0.2, 0.6, 0.4], [1, 2, 1, 2], [1.0, 0.0, 1.0, 0.0])
    result = evaluate_critic(fixed(panel, [0.9, 0.1, 0.2, None]), panel)["top1_by_pool"]
    assert result["2"]["accuracy"] == 1.0 and result["2"]["chance"] == 0.5
    result = evaluate_critic(fixed(panel, [0.9, 0.1, 0.2, 0.3]), panel)["top1_by_pool"]
    assert result["2"]["accuracy"] == 0.5 and result["2"]["interval"] == (0.0, 1.0)
    assert result["4"] == {"accuracy": None, "interval": None, "chance": None}


def test_two_critics_on_one_panel_are_compared_problem_by_problem(panel):
    good = evaluate_critic(fixed(panel, [0.7, 0.3, 0.5, 0.5]), panel)
    bad = evaluate_critic(fixed(panel, [0.6, 0.4, 0.4, 0.6]), panel)
    result = compare([good], [bad], "mse", "ratio")
    assert [result[k] for k in ("value", "low", "high")] == pytest.approx([0.25] * 3)
    assert result["by_training"] == pytest.approx([0.25])
    gap = compare([good], [good], "auc_within_problem", "difference")
    assert gap["value"] == 0.0


def test_panels_of_one_training_are_resampled_together(panel):
    """Two panels with the same problems: as clusters of one training they are two, not four."""
    good = evaluate_critic(fixed(panel, [0.8, 0.2, 0.5, 0.4]), panel)
    bad = evaluate_critic(fixed(panel, [0.6, 0.4, 0.4, 0.9]), panel)
    apart = compare([good, good], [bad, bad], "mse", "difference")
    together = compare([good, good], [bad, bad], "mse", "difference", groups=[0, 0])
    assert apart["value"] == pytest.approx(together["value"])
    assert len(apart["by_training"]) == 2 and len(together["by_training"]) == 1
    single = compare([good], [bad], "mse", "difference")
    assert together["low"] == pytest.approx(single["low"])
    none = compare([good], [good], "mse", "ratio")
    assert none["value"] == 1.0


def test_trivial_baselines_by_hand(panel):
    """Variance of 0.8, 0.2, 0.6, 0.4, and squared distance to the rates 1/2, 1/2, 1/4, 1/4."""
    result = trivial_baselines(panel)
    assert result["mse_constant"] == pytest.approx(0.05)
    assert result["mse_success_rate"] == pytest.approx((0.09 + 0.09 + 0.1225 + 0.0225) / 4)


def test_the_gain_over_the_best_trivial_baseline_is_paired_by_problem(panel):
    """Both baselines are best in hindsight; the better one, the constant with 0.05, counts."""
    result = evaluate_critic(fixed(panel, [0.8, 0.2, 0.6, 0.4]), panel)
    assert result["mse_gain"] == pytest.approx(0.05 - 0)
    # drawn alone, the first problem has the variance 0.09 and the second 0.01
    assert result["mse_gain_interval"] == pytest.approx((0.01, 0.09))
    worse = evaluate_critic(fixed(panel, [0.2, 0.8, 0.6, 0.4]), panel)
    assert worse["mse_gain"] == pytest.approx(0.05 - 0.18)
    assert worse["mse_gain_interval"] == pytest.approx((0.09 - 0.36, 0.01))
    rate = panel_of([0.5, 0.5, 0.25, 0.25], [1, 2, 1, 0], [1.0, 0.0, 1.0, 0.0])
    assert evaluate_critic(fixed(rate, [0.5] * 4), rate)["mse_gain"] == pytest.approx(-0.0625 / 2)


def test_the_table_of_critics_has_the_gain_with_its_interval(panel):
    good, worse = (
        evaluate_critic(fixed(panel, values), panel) | trivial_baselines(panel)
        for values in ([0.8, 0.2, 0.6, 0.4], [0.2, 0.8, 0.6, 0.4])
    )
    cfg = SimpleNamespace(evaluate=SimpleNamespace(panel_continuations=4))
    table = {"none": {"good": good, "worse": worse}, "far": {"skipped": {"reason": "too easy"}}}
    head, line, *rows = markdown(table, "run", cfg).split("\n\n")[1].splitlines()
    assert len({row.count("|") for row in (head, line, *rows)}) == 1
    names = [cell.strip() for cell in head.split("|")]
    first, second, _ = ([cell.strip() for cell in row.split("|")] for row in rows)
    baseline, gain = names.index("best baseline"), names.index("MSE below it")
    assert first[baseline] == second[baseline] == "0.0500"
    assert (first[gain], second[gain]) == ("0.0500 [0.0100, 0.0900]", "-0.1300 [-0.2700, 0.0100]")


def test_the_difference_is_surer_than_two_intervals():
    """An error that follows the baseline's from problem to problem hides in its own interval."""
    values = [0.5 + sign * size for size in (0.05, 0.1, 0.3, 0.45) * 5 for sign in (1, -1)]
    panel = panel_of(values, [1, 2] * 20, [1.0, 0.0] * 20)
    panel = replace(panel, problem_rate=[0.5] * 40)
    result = evaluate_critic(fixed(panel, [0.5 + 0.1 * (v - 0.5) for v in values]), panel)
    constant = trivial_baselines(panel)["mse_constant"]
    assert result["mse_interval"][0] < constant < result["mse_interval"][1]
    assert result["mse_gain"] == pytest.approx(constant - result["mse"])
    assert 0 < result["mse_gain_interval"][0] < result["mse_gain"]


# --- panel ----------------------------------------------------------------------------------------


def test_build_panel_keeps_problems_with_mixed_outcomes_and_unique_states(tokenizer, tiny_model):
    """Responses x, y: both outcomes everywhere. One line each, so one unique state a problem."""
    actor = actor_of(tokenizer, tiny_model, "xy")
    panel = build_panel(actor, world_of(EchoTask({"x": 1.0})), StatesConfig(), 3, 4)
    assert len(panel.states) == 3 and [v.value for v in panel.values] == [0.5] * 3
    assert panel.problem_rate == [0.5] * 3 and [v.count for v in panel.values] == [4] * 3
    ids = [s.rollout.problem.id for s in panel.states]
    assert ids == [f"heldout-{FIRST_PROBLEM + i}" for i in range(3)]


def test_one_sided_problems_make_no_panel(tokenizer, tiny_model):
    actor = actor_of(tokenizer, tiny_model, "x")
    with pytest.raises(ValueError, match=r"evaluate\.panel_problems to 0"):
        build_panel(actor, world_of(EchoTask({"x": 1.0})), StatesConfig(), 3, 4)


@pytest.mark.parametrize("count", [None, 30])
def test_panel_round_trip(tokenizer, tiny_model, tmp_path: Path, count):
    actor, world = (
        actor_of(tokenizer, tiny_model, "xyx\n"),
        world_of(EchoTask({"x": 1.0}, count=count)),
    )
    panel = build_panel(actor, world, StatesConfig(), 3, 2)
    file = tmp_path / "panel.jsonl"
    save_panel(panel, file, actor)
    again = load_panel(file, world, actor)
    assert again.values == [MonteCarloValue(v.value, v.count) for v in panel.values]
    assert again.problem_rate == panel.problem_rate
    for one, other in zip(panel.states, again.states, strict=True):
        assert (one.prefix_ids, one.start, one.end) == (other.prefix_ids, other.start, other.end)
        assert one.rollout.response_ids == other.rollout.response_ids
        assert one.rollout.problem == other.rollout.problem
        assert (one.rollout.reward, one.rollout.text) == (other.rollout.reward, other.rollout.text)
    critic = FixedCritic(lambda s: len(s.prefix_ids) / 100)
    one, other = evaluate_critic(critic, panel), evaluate_critic(critic, again)
    one.pop("seconds_per_value"), other.pop("seconds_per_value")
    assert one == other


def test_a_panel_of_another_actor_tokenizer_or_task_is_refused(tokenizer, tiny_model, tmp_path):
    actor, task = actor_of(tokenizer, tiny_model, "xy"), EchoTask({"x": 1.0}, count=30)
    world, file = world_of(task), tmp_path / "panel.jsonl"
    save_panel(build_panel(actor, world, StatesConfig(), 3, 2), file, actor)
    stranger = copy.deepcopy(tiny_model)
    with torch.no_grad():
        next(stranger.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="by another actor"):
        load_panel(file, world, actor_of(tokenizer, stranger, "xy"))
    words = copy.deepcopy(tokenizer)
    words.add_tokens(["<new>"])
    with pytest.raises(ValueError, match="another tokenizer"):
        load_panel(file, world, actor_of(words, tiny_model, "xy"))
    with pytest.raises(ValueError, match="problems that this task does not"):
        load_panel(file, world_of(EchoTask({"x": 1.0}, count=2)), actor)


def test_too_few_problems_with_mixed_outcomes_make_no_panel(tokenizer, tiny_model):
    actor = actor_of(tokenizer, tiny_model, "xy")
    tried = "1 held-out problems were tried with 8 responses each; 1 had mixed outcomes"
    with pytest.raises(NoPanel, match=f"{tried}.*2 are needed.*more held-out problems"):
        build_panel(actor, world_of(EchoTask({"x": 1.0}, count=1)), StatesConfig(), 3, 4)
    sure = actor_of(tokenizer, tiny_model, "x")
    with pytest.raises(NoPanel, match=r"0 had mixed .* 1 were always solved, 0 never: .* a harder"):
        build_panel(sure, world_of(EchoTask({"x": 1.0}, count=1)), StatesConfig(), 3, 4)
    with pytest.raises(NoPanel, match="0 were always solved, 1 never: choose an easier"):
        build_panel(sure, world_of(EchoTask({"y": 1.0}, count=1)), StatesConfig(), 3, 4)


def test_revalue_keeps_the_states(tokenizer, tiny_model):
    world = world_of(EchoTask({"x": 1.0}))
    panel = build_panel(actor_of(tokenizer, tiny_model, "xy"), world, StatesConfig(), 2, 4)
    later = revalue(panel, actor_of(tokenizer, tiny_model, "x"), world, 4)
    assert later.states == panel.states and [v.value for v in later.values] == [1.0, 1.0]


# --- what a step says of itself -------------------------------------------------------------------


def test_rollout_metrics_by_hand():
    result = rollout_metrics(groups_of([[1.0, 0.0], [1.0, None], [0.0, 0.0]]))
    assert result["reward"] == pytest.approx(0.4) and result["reward_none_rate"] == pytest.approx(
        1 / 6
    )
    assert result["frac_reward_zero_std"] == pytest.approx(2 / 3) and result["num_tokens"] == 6
    nothing = rollout_metrics(groups_of([[None, None]]))
    assert nothing["reward"] is None and nothing["reward_none_rate"] == 1


def test_critic_metrics_by_hand(panel):
    """0.9 and 0.3 within a right and a wrong response; one missing; one at the start."""
    estimates = [Estimate(s, v) for s, v in zip(panel.states, (0.9, 0.3, None, 0.5), strict=True)]
    result = critic_metrics(estimates)
    assert result["critic/parse_failure_rate"] == 0.25
    assert result["critic/advantage_gap"] == pytest.approx(0.6)
    assert result["critic/mse"] == pytest.approx((0.01 + 0.09 + 0.25) / 3)
    assert result["critic/auc_within_problem"] == 1.0
    assert critic_metrics([]) == {}
    assert critic_metrics([Estimate(panel.states[0], None)])["critic/parse_failure_rate"] == 1


def test_costs_are_charged_to_roles_and_go_on_after_a_resume(tokenizer, tiny_model):
    runtime, cost = runtime_with(None, tokenizer, tiny_model), Cost()
    runtime.learner = Learner(tiny_model, OptimizerConfig())
    with cost.clock("critic_training", runtime):
        runtime.learner.processed_tokens += 9
    with cost.clock("evaluation", runtime):
        runtime.learner.processed_tokens += 100
    with cost.clock("critic_sampling", None):
        pass
    size = sum(p.numel() for p in tiny_model.parameters())
    assert dict(cost.tokens) == {"critic_training": 9, "evaluation": 100}
    assert cost.flops["critic_training"] == 6 * size * 9
    assert cost.flops["evaluation"] == 2 * size * 100
    assert cost.totals()["cost/tokens"] == 9
    again = Cost()
    again.restore(cost.state())
    with again.clock("critic_training", runtime):
        runtime.learner.processed_tokens += 1
    assert again.tokens["critic_training"] == 10 and cost.tokens["critic_training"] == 9


def test_a_problem_is_identified_by_its_id():
    """Clusters of the bootstrap are problems: two states of one are one cluster."""
    panel = panel_of([0.8, 0.2, 0.6, 0.4], [1, 2, 1, 2], [1.0, 0.0, 1.0, 0.0])
    same = [
        State(make_rollout((5, 6), problem=Problem("p", "", "")), s.start, 2) for s in panel.states
    ]
    result = evaluate_critic(FixedCritic(lambda s: 0.5), Panel(same, panel.values, [0.5] * 4))
    assert result["problems"] == 1 and result["mse_interval"] == pytest.approx((0.05, 0.05))
