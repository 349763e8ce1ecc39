"""Credit assignment worked by hand: groups and estimates in, per-token advantages out.

The standing example: response A of 4 tokens, cut at tokens 0, 1 and 3, with reward 1; its mate B of
2 tokens, cut at 0, with reward 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import make_rollout
from hypothesis import given
from hypothesis import strategies as st

from genac.config.run import CreditConfig
from genac.credit import Credit, credit, rescale
from genac.types import Estimate, State

CUTS = [(0, 1), (1, 3), (3, 4)]
Values = list[float | None]


def pair(reward_a: float | None = 1.0, reward_b: float | None = 0.0) -> list[Any]:
    return [make_rollout((5, 6, 7, 8), reward_a), make_rollout((5, 9), reward_b, member=1)]


def example(group: list[Any], values_a: Values, value_b: float | None, **cfg: Any) -> Credit:
    a, b = group
    estimates = [Estimate(State(a, *c), v) for c, v in zip(CUTS, values_a, strict=True)]
    estimates.append(Estimate(State(b, 0, 2), value_b))
    return credit([group], estimates, CreditConfig(**cfg), temperature=0.9)


def streams(result: Credit) -> list[list[float]]:
    """Advantages of the response tokens; prompts have 2 tokens."""
    return [s.advantages[2:].tolist() for s in result.samples if s.advantages is not None]


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [
        # lambda = 1: r - V. Values 0.5, 0.25, 0.75.
        (1.0, 1.0, [0.5, 0.75, 0.75, 0.25]),
        # lambda = 0: V_next - V, and r - V at the end.
        (1.0, 0.0, [-0.25, 0.5, 0.5, 0.25]),
        # A_3 = 0.25, A_2 = 0.5 + 0.5 * 0.25 = 0.625, A_1 = -0.25 + 0.5 * 0.625 = 0.0625.
        (1.0, 0.5, [0.0625, 0.625, 0.625, 0.25]),
        # gamma 0.5, lambda 1: deltas 0.25, 0.375 - 0.25 = 0.125, and 0.125 - 0.5 = -0.375;
        # A_3 = 0.25, A_2 = 0.125 + 0.5 * 0.25 = 0.25, A_1 = -0.375 + 0.5 * 0.25 = -0.25.
        (0.5, 1.0, [-0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_gae_over_states_by_hand(gamma, lam, expected):
    result = example(pair(), [0.5, 0.25, 0.75], 0.5, gamma=gamma, lam=lam)
    assert streams(result)[0] == pytest.approx(expected)
    assert streams(result)[1] == pytest.approx([-0.5, -0.5])
    segments = {start: result.advantages[0, 0, start] for start, _ in CUTS}
    assert segments == pytest.approx({0: expected[0], 1: expected[1], 3: expected[3]})


def test_samples_carry_tokens_mask_and_old_logprobs():
    sample = example(pair(), [0.5, 0.25, 0.75], 0.5).samples[0]
    assert sample.ids == (3, 4, 5, 6, 7, 8) and sample.loss == "policy"
    assert sample.weights.tolist() == [0, 0, 1, 1, 1, 1] and sample.temperature == 0.9
    assert sample.old_logprobs is not None and sample.advantages is not None
    assert sample.old_logprobs.tolist() == [0, 0, -1, -1, -1, -1]
    assert sample.advantages[:2].tolist() == [0, 0]


TAIL, LATE = [0.25], [0.75] * 3  # of the last token, and of all but the first


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # The middle value is missing: its segment joins the one before it.
        ([0.5, None, 0.75], {0: [0.25] * 3 + TAIL, 1: [0.5] * 3 + TAIL, 0.5: [0.375] * 3 + TAIL}),
        # The first is missing: the mean of the other responses (0) takes its place, because the
        # next value already knows the first token. Deltas .25, .5, .25.
        ([None, 0.25, 0.75], {0: [0.25, 0.5, 0.5, 0.25], 1: [1.0, 0.75, 0.75, 0.25],
                              0.5: [0.5625, 0.625, 0.625, 0.25]}),
        # The last is missing: the middle value meets the reward.
        ([0.5, 0.25, None], {0: [-0.25, *LATE], 1: [0.5, *LATE], 0.5: [0.125, *LATE]}),
        # All are missing: leave-one-out, 1 - 0.
        ([None, None, None], {0: [1.0] * 4, 1: [1.0] * 4, 0.5: [1.0] * 4}),
    ],
)  # fmt: skip
def test_missing_values_are_bridged_and_never_zero(lam, values, expected):
    result = example(pair(), values, 0.5, lam=lam)
    assert streams(result)[0] == pytest.approx(expected[lam])


def test_a_missing_first_value_blames_the_first_segment_causally():
    """The later value equals the outcome; the first segment still gets the credit for it."""
    group = [make_rollout((5, 6), r, member=m) for m, r in enumerate((0.0, 1.0))]
    states = [State(r, start, start + 1) for r in group for start in (0, 1)]
    values = [None, 0.0, None, 1.0]
    estimates = [Estimate(s, v) for s, v in zip(states, values, strict=True)]
    result = credit([group], estimates, CreditConfig(), 1.0)
    assert result.advantages[0, 0, 0] == -1.0 and result.advantages[0, 1, 0] == 1.0


def test_advantages_all_alike_are_not_blown_up():
    streams = rescale([np.full(4, 0.1, np.float32), np.full(4, 0.1, np.float32)], "scale")
    assert np.allclose(streams, 1.0)


def test_missing_values_can_take_the_group_mean():
    """The mean of the other responses: 0 for A (reward 1), 1 for B (reward 0)."""
    result = example(pair(), [0.5, None, 0.75], None, missing="group_mean")
    assert streams(result)[0] == pytest.approx([0.5, 1.0, 1.0, 0.25])
    assert streams(result)[1] == pytest.approx([-1.0, -1.0])


@pytest.mark.parametrize("estimator", ["gae", "group_mean", "leave_one_out", "batch_mean"])
def test_an_unscored_response_is_left_out_and_is_no_zero(estimator):
    """Three responses, one unscored: the two others get what they get without it."""
    rewards = (1.0, None, 0.0)
    group = [make_rollout((5, 6), r, member=m) for m, r in enumerate(rewards)]
    known = [r for r in group if r.reward is not None]

    def run(members: list[Any]) -> Credit:
        estimates = [Estimate(State(r, 0, 2), None) for r in members]
        return credit([members], estimates, CreditConfig(estimator=estimator), 1.0)

    with_it, without = run(group), run(known)
    assert len(with_it.samples) == 2
    np.testing.assert_allclose(streams(with_it), streams(without), atol=1e-6)
    assert streams(with_it)[0][0] > 0 > streams(with_it)[1][0]


def test_an_empty_response_is_left_out():
    group = [make_rollout(()), make_rollout((5,), 0.0, member=1)]
    estimates = [Estimate(State(r, 0, len(r.response_ids)), 0.5) for r in group]
    assert [s.ids for s in credit([group], estimates, CreditConfig(), 1.0).samples] == [(3, 4, 5)]


rewards_PG = st.integers(2, 6).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 0.25, None]), min_size=size, max_size=size),
        min_size=1,
        max_size=4,
    )
)


def groups_of(rewards: list[list[float | None]]) -> list[list[Any]]:
    return [
        [make_rollout((5, 6), r, (3, 4 + p), group=p, member=m) for m, r in enumerate(row)]
        for p, row in enumerate(rewards)
    ]


@given(rewards_PG, st.sampled_from(["group_mean", "leave_one_out"]))
def test_group_advantages_sum_to_zero(rewards, estimator):
    groups = groups_of(rewards)
    result = credit(groups, [], CreditConfig(estimator=estimator, scale_rewards="group"), 1.0)
    for p, group in enumerate(groups):
        total = sum(result.advantages[p, r.member, 0] for r in group)
        assert total == pytest.approx(0, abs=1e-4)


@given(rewards_PG, st.floats(0, 1))
def test_one_value_for_all_states_with_lambda_1_is_return_minus_value(rewards, value):
    groups = groups_of(rewards)
    states = [State(r, *c) for g in groups for r in g for c in ((0, 1), (1, 2))]
    result = credit(groups, [Estimate(s, value) for s in states], CreditConfig(), 1.0)
    scored = [r.reward for g in groups for r in g if r.reward is not None]
    for reward, stream in zip(scored, streams(result), strict=True):
        assert stream == pytest.approx([reward - value] * 2, abs=1e-6)


def test_value_free_estimators_by_hand():
    """Rewards 1, 0, 0, 0: mean 1/4, population std sqrt(3)/4."""
    groups = groups_of([[1.0, 0.0, 0.0, 0.0]])

    def first(**cfg: Any) -> list[float]:
        return [s[0] for s in streams(credit(groups, [], CreditConfig(**cfg), 1.0))]

    assert first(estimator="group_mean") == pytest.approx([0.75, -0.25, -0.25, -0.25])
    scaled = first(estimator="group_mean", scale_rewards="group")
    assert scaled == pytest.approx([3**0.5, *[-(3**-0.5)] * 3], rel=1e-4)
    assert first(estimator="leave_one_out") == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert first(estimator="batch_mean") == pytest.approx([3**0.5, *[-(3**-0.5)] * 3], rel=1e-4)


def test_all_tokens_of_a_response_share_a_value_free_advantage():
    result = credit([pair()], [], CreditConfig(estimator="group_mean"), 1.0)
    assert streams(result) == [[0.5] * 4, [-0.5] * 2]


@pytest.mark.parametrize(
    ("values_a", "value_b", "shut"),
    [
        # Leave-one-out misses by 1 in both responses; a critic better than that is used.
        ([0.9, 0.9, 0.9], 0.1, False),
        ([0.5, 0.5, 0.5], 0.5, False),
        # It ranks the loser above the winner, beyond what 0..1 values should.
        ([-0.5, -0.5, -0.5], 1.5, True),
    ],
)
def test_the_gate_shuts_where_the_critic_misses_by_more_than_the_group(values_a, value_b, shut):
    result = example(pair(), values_a, value_b, gate="group")
    free = [[1.0] * 4, [-1.0] * 2]
    assert (streams(result) == free) == shut
    assert result.metrics["critic/gated"] == float(shut)
    assert streams(example(pair(), values_a, value_b)) != free  # without a gate


def test_the_gate_looks_at_each_problem_alone():
    """Group 0 has a good critic, group 1 one that is sure of the wrong outcome (among 4 responses
    leave-one-out misses by 2/3 where it misses by 1), group 2 one outcome only."""
    rewards = [[1.0, 1.0, 0.0, 0.0]] * 2 + [[1.0] * 4]
    groups = groups_of(rewards)  # type: ignore[arg-type]
    values = [[0.9, 0.9, 0.1, 0.1], [0.0, 0.0, 1.0, 1.0], [0.2] * 4]
    estimates = [
        Estimate(State(r, 0, 2), v)
        for g, row in zip(groups, values, strict=True)
        for r, v in zip(g, row, strict=True)
    ]
    results = [s[0] for s in streams(credit(groups, estimates, CreditConfig(gate="group"), 1.0))]
    assert results[:4] == pytest.approx([0.1, 0.1, -0.1, -0.1])
    assert results[4:8] == pytest.approx([2 / 3, 2 / 3, -2 / 3, -2 / 3])
    assert results[8:] == pytest.approx([0.8] * 4)


@pytest.mark.parametrize(("value", "shut"), [(1.9, False), (2.2, True)])
def test_responses_without_a_value_count_for_neither_side_of_the_gate(value, shut):
    """The critic spoke of one response and misses it by 0.81 or 1.44, the group's mean by 1 (and
    the silent one by 1 more)."""
    groups = groups_of([[1.0, 0.0], [1.0, 1.0]])  # type: ignore[arg-type]
    spoken = [Estimate(State(r, 0, 2), value) for r in groups[0][:1]]
    result = credit(groups, spoken, CreditConfig(gate="group"), 1.0)
    expected = 1.0 if shut else 1.0 - value
    assert streams(result)[0][0] == pytest.approx(expected)


@pytest.mark.parametrize("missing", ["bridge", "group_mean"])
def test_what_stands_in_for_a_missing_value_is_not_the_critics(missing):
    """It misses by 1.44 where it spoke; with two states of the mean's error 1 it would be 1.15."""
    groups = groups_of([[1.0, 0.0]])  # type: ignore[arg-type]
    rollout, other = groups[0]
    made = [State(rollout, 0, 1), State(rollout, 1, 2)]
    estimates = [Estimate(made[0], None), Estimate(made[1], 2.2), Estimate(State(other, 0, 2), 0.9)]
    result = credit([[*groups[0]]], estimates, CreditConfig(gate="group", missing=missing), 1.0)
    assert result.metrics["critic/gated"] == 1.0


def test_rescaling_is_over_the_tokens_of_the_batch():
    """A's four tokens have advantage 0.5, B's two -1: mean 0, population std sqrt(0.5)."""
    tokens = np.array([0.5] * 4 + [-1.0] * 2)
    result = {
        kind: np.concatenate(streams(example(pair(), [0.5, 0.5, 0.5], 1.0, whiten_advantages=kind)))
        for kind in ("none", "scale", "full")
    }
    np.testing.assert_allclose(result["none"], tokens)
    np.testing.assert_allclose(result["scale"], tokens / np.sqrt(0.5), rtol=1e-5)
    np.testing.assert_allclose(result["full"], tokens / np.sqrt(0.5), rtol=1e-5)
    shifted = example(pair(), [0.0, 0.0, 0.0], 1.0, whiten_advantages="full")  # 1 x4, -1 x2
    flat = np.concatenate(streams(shifted))
    assert flat.mean() == pytest.approx(0, abs=1e-6) and flat.std() == pytest.approx(1, abs=1e-5)


def test_unscored_responses_do_not_enter_the_scale():
    group = [*pair(), make_rollout((5, 6), None, member=2)]
    estimates = [Estimate(State(r, 0, len(r.response_ids)), 0.5) for r in group]
    result = credit([group], estimates, CreditConfig(whiten_advantages="scale"), 1.0)
    tokens = np.array([0.5] * 4 + [-0.5] * 2)
    np.testing.assert_allclose(np.concatenate(streams(result)), tokens / tokens.std(), rtol=1e-5)


def test_gae_over_tokens_is_gae_over_one_token_segments():
    rollout = make_rollout((5, 6, 7), 1.0)
    estimates = [Estimate(State(rollout, t, t + 1), v) for t, v in enumerate((0.5, 0.25, 0.75))]
    cfg = CreditConfig(granularity="tokens", lam=0.5)
    expected = pytest.approx([0.0625, 0.625, 0.25])
    assert streams(credit([[rollout]], estimates, cfg, 1.0))[0] == expected
    values = np.array([0.5, 0.25, 0.75], np.float32)
    dense = Estimate(State(rollout, 0, 3, dense=True), 0.5, token_values=values)
    result = credit([[rollout]], [dense], cfg, 1.0)
    assert streams(result)[0] == expected
    assert result.advantages[0, 0, 0] == expected


# --- responses cut at the length limit -----------------------------------------------------------


@pytest.mark.parametrize("estimator", ["gae", "group_mean", "leave_one_out", "batch_mean"])
def test_cut_responses_train_nothing_if_configured_but_stay_in_the_baselines(estimator):
    """Three responses, the second one cut: the others' advantages are those of the whole group."""
    rewards, ends = (1.0, 0.0, 0.5), ("stop", "length", "stop")
    group = [
        replace(make_rollout((5, 6 + i), reward, member=i), finish=end)
        for i, (reward, end) in enumerate(zip(rewards, ends, strict=True))
    ]
    estimates = [Estimate(State(r, 0, 2), 0.4) for r in group]
    cfg = CreditConfig(estimator=estimator)
    whole = credit([group], estimates, cfg, 1.0)
    result = credit([group], estimates, cfg, 1.0, mask_truncated=True)
    assert [s.ids for s in result.samples] == [s.ids for s in whole.samples if 7 not in s.ids]
    kept = [stream for i, stream in enumerate(streams(whole)) if i != 1]
    assert streams(result) == kept and result.advantages == whole.advantages
    assert result.metrics["completions/masked_ratio"] == pytest.approx(1 / 3)
    assert "completions/masked_ratio" not in whole.metrics and len(whole.samples) == 3


def test_the_scale_of_advantages_does_not_see_cut_responses():
    group = [make_rollout((5, 6), 1.0), make_rollout((5, 7), 0.0, member=1)]
    group.append(replace(make_rollout((5,) * 40, 0.0, member=2), finish="length"))
    cfg = CreditConfig(estimator="group_mean", whiten_advantages="full")
    result = credit([group], [], cfg, 1.0, mask_truncated=True)
    assert [s[0] for s in streams(result)] == pytest.approx([1.0, -1.0])


def test_a_group_that_was_cut_whole_leaves_no_sample():
    group = [replace(r, finish="length") for r in pair()]
    result = credit([group], [], CreditConfig(estimator="group_mean"), 1.0, mask_truncated=True)
    assert result.samples == [] and result.metrics["completions/masked_ratio"] == 1.0
