"""Losses: values worked by hand, gradients known in closed form, and sums that split anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genac.ops.losses import (
    aggregate,
    critic_reward,
    expected_score_loss,
    hl_gauss_mean,
    hl_gauss_targets,
    kl_penalty,
    policy_loss,
    value_loss,
    values_of,
)

NAN = float("nan")
unit = st.floats(0, 1, width=32)
quick = settings(max_examples=30, deadline=None)


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float32)


# --- policy -------------------------------------------------------------------------------------


def test_policy_loss_by_hand():
    # clip .2 / .3.   ratio  A    unclipped  clipped         objective = the smaller
    #                 1.5    2    3          1.3*2 = 2.6     2.6   clipped high
    #                 1.5   -2   -3         -1.3*2 = -2.6   -3     the clip does not protect
    #                 .5     2    1          .8*2 = 1.6      1
    #                 .5    -2   -1         -.8*2 = -1.6    -1.6   clipped low
    #                 1.25   2    2.5        2.5             2.5   inside the higher bound
    ratio, advantages = row(1.5, 1.5, 0.5, 0.5, 1.25), row(2, -2, 2, -2, 2)
    loss, stats = policy_loss(ratio.log(), torch.zeros(1, 5), advantages, 0.2, 0.3)
    torch.testing.assert_close(loss, row(-2.6, 3, -1, 1.6, -2.5))
    torch.testing.assert_close(stats["ratio_BT"], ratio)
    assert stats["clipped_high_BT"].tolist() == [[True, False, False, False, False]]
    assert stats["clipped_low_BT"].tolist() == [[False, False, False, True, False]]


def test_policy_loss_dual_clip_by_hand():
    # ratio 10, A = -1: plain objective -10, dual clip 3 lifts it to 3 * -1 = -3, so the loss is 3.
    # ratio 2, A = -1: -2 > -3, unchanged.   ratio 10, A = 1: the dual clip is only for A < 0.
    logprobs = row(10, 2, 10).log().requires_grad_()
    loss, _ = policy_loss(logprobs, torch.zeros(1, 3), row(-1, -1, 1), 0.2, 0.2, dual_clip=3.0)
    torch.testing.assert_close(loss, row(3, 2, -1.2))
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, row(0, 2, 0))  # only the second still moves


def test_policy_loss_clamps_the_log_ratio():
    loss, stats = policy_loss(row(500, -500), row(0, 0), row(-1, 1), 0.2, 0.2)
    torch.testing.assert_close(stats["ratio_BT"], row(math.exp(20), math.exp(-20)))
    torch.testing.assert_close(loss, row(math.exp(20), -math.exp(-20)))


@quick
@given(st.lists(st.tuples(st.floats(-8, 0), st.floats(-3, 3)), min_size=1, max_size=8))
def test_policy_gradient_at_ratio_1_is_minus_advantage(pairs):
    logprobs = row(*(p for p, _ in pairs)).requires_grad_()
    advantages = row(*(a for _, a in pairs))
    loss, stats = policy_loss(logprobs, logprobs.detach(), advantages, 0.2, 0.2)
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)
    assert not stats["ratio_BT"].requires_grad
    assert not (stats["clipped_low_BT"] | stats["clipped_high_BT"]).any()


def test_policy_gradient_through_logits_is_the_score_function():
    # d(-A log p_k)/d logit_j = -A (1[j = k] - p_j); p = (1/2, 1/4, 1/4), k = 1, A = 2
    logits = torch.tensor([0.5, 0.25, 0.25]).log().requires_grad_()
    logp = logits.log_softmax(-1)[1].view(1, 1)
    policy_loss(logp, logp.detach(), row(2), 0.2, 0.2)[0].sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([1.0, -1.5, 0.5]))


def test_kl_penalty_by_hand():
    # log p = 0, log ref = ln 2, d = ln 2 = .6931472: k1 = -d, k2 = d^2/2 = .2402265,
    # k3 = 2 - 1 - .6931472 = .3068528
    logp, ref = row(0), row(math.log(2))
    torch.testing.assert_close(kl_penalty(logp, ref, "k1"), row(-0.6931472))
    torch.testing.assert_close(kl_penalty(logp, ref, "k2"), row(0.2402265))
    torch.testing.assert_close(kl_penalty(logp, ref, "k3"), row(0.3068528))
    assert kl_penalty(row(-300), row(0), "k3").isfinite().all()


def test_kl_k1_and_k3_are_unbiased_and_k2_has_the_gradient():
    p_logits = torch.tensor([0.2, -0.4, 0.9], requires_grad=True)
    logp, logq = p_logits.log_softmax(-1), torch.tensor([0.1, 0.3, -0.5]).log_softmax(-1)
    p = logp.exp()
    kl = (p * (logp - logq)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p * kl_penalty(logp[None], logq[None], kind)[0]).sum(), kl)
    # The samples are fixed, so their probabilities carry no gradient in a loss.
    as_loss = (p.detach() * kl_penalty(logp[None], logq[None], "k2")[0]).sum()
    (want,) = torch.autograd.grad(kl, p_logits, retain_graph=True)
    (got,) = torch.autograd.grad(as_loss, p_logits)
    torch.testing.assert_close(got, want)


# --- values -------------------------------------------------------------------------------------


def test_hl_gauss_targets_by_hand():
    # 2 bins, y = 1/2, symmetric: (1/2, 1/2).   y = 1/4 (centre of bin 0), sigma = 1/2 bin = 1/4:
    # edges 0, 1/2, 1 at z = -1, 1, 3; Phi = .1586553, .8413447, .9986501
    # masses .6826895, .1573054, together .8399948 -> .8127306, .1872694
    got = hl_gauss_targets(row(0.5, 0.25), bins=2, sigma_bins=0.5)
    want = torch.tensor([[[0.5, 0.5], [0.8127306, 0.1872694]]])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_hl_gauss_mean_by_hand():
    # 4 bins, centres 1/8 3/8 5/8 7/8; p = (1/2, 1/4, 1/4, 0): 2/32 + 3/32 + 5/32 = 10/32
    logits = torch.tensor([[[0.5, 0.25, 0.25, 0.0]]]).log()
    torch.testing.assert_close(hl_gauss_mean(logits), row(0.3125))


def test_hl_gauss_refuses_a_target_outside_its_support():
    with pytest.raises(AssertionError, match=r"\[0, 1\]"):
        hl_gauss_targets(row(1.5))


@quick
@given(unit)
def test_hl_gauss_mean_recovers_the_target(y):
    probs = hl_gauss_targets(row(y))
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0))
    assert (probs >= 0).all()
    tolerance = 1e-3 if 0.06 < y < 0.94 else 0.014  # cut tails shift it inwards at the ends
    assert abs(hl_gauss_mean(probs.log()).item() - y) <= tolerance


def test_value_loss_mse_by_hand():
    # (.3 - .5)^2 = .04, and no factor one half
    outputs = torch.tensor([[[0.3]]])
    torch.testing.assert_close(value_loss(outputs, row(0.5), "mse"), row(0.04))
    torch.testing.assert_close(values_of(outputs, "mse"), row(0.3))


def test_value_loss_hl_gauss_by_hand():
    # Uniform over 51 bins: ln 51 for any target; and the uniform histogram's mean is 1/2.
    outputs = torch.zeros(1, 2, 51)
    want = row(math.log(51), math.log(51))
    torch.testing.assert_close(value_loss(outputs, row(0.1, 1.0), "hl_gauss"), want)
    torch.testing.assert_close(values_of(outputs, "hl_gauss"), row(0.5, 0.5))


def test_value_loss_hl_gauss_is_least_at_the_target_itself():
    targets = row(0.2, 0.7)
    outputs = hl_gauss_targets(targets).clamp(min=1e-30).log().requires_grad_()
    value_loss(outputs, targets, "hl_gauss").sum().backward()
    torch.testing.assert_close(outputs.grad, torch.zeros_like(outputs), atol=1e-6, rtol=0)


def test_value_loss_refuses_a_wide_mse_head_and_an_unknown_kind():
    with pytest.raises(AssertionError, match="one output"):
        value_loss(torch.zeros(1, 1, 2), row(0.5), "mse")
    with pytest.raises(AssertionError, match="huber"):
        value_loss(torch.zeros(1, 1, 1), row(0.5), "huber")


# --- critic -------------------------------------------------------------------------------------


def test_critic_reward_by_hand():
    # 1 - (1 - .7)^2 = .91;  a wrong certainty gets 0;  .5 always gets .75 of an outcome of 0 or 1
    assert critic_reward(0.7, 1) == pytest.approx(0.91)
    assert critic_reward(1.0, 0.0) == 0
    np.testing.assert_allclose(critic_reward(np.array([0.5, 0.5]), np.array([0, 1])), [0.75, 0.75])
    torch.testing.assert_close(critic_reward(row(0.7), row(1)), row(0.91))


def test_expected_score_loss_by_hand():
    # Uniform over the eleven scores and one other token, r = 1. Over the scores the mean reward is
    # 1 - mean((1 - i/10)^2) = 1 - 3.85/11 = .65 (0 + 1 + 4 + ... + 100 = 385 hundredths), so
    # E[R] = 11 * .65 / 12 = .595833;  d loss/d logit_j = -(R_j - E[R]) / 12, R = 0 off the scores.
    scores, rewards = torch.arange(11)[None], critic_reward(torch.arange(11) / 10, 1.0)[None]
    logits = torch.zeros(1, 12, requires_grad=True)
    loss = expected_score_loss(logits, scores, rewards, torch.zeros(1))
    torch.testing.assert_close(loss, torch.tensor([-0.595833]))
    loss.sum().backward()
    every = torch.cat([rewards, torch.zeros(1, 1)], -1)
    torch.testing.assert_close(logits.grad, -(every - 0.595833) / 12)
    assert logits.grad[0, 11] > 0  # descent takes probability away from what is no score


def test_expected_score_loss_with_a_reward_for_other_tokens_by_hand():
    # Behind a 1, r = 1: a 0 makes it 10 and earns 1, other digits nothing, the rest .19 = R(1).
    # Half of the mass on "0", a quarter on "5", a quarter on what is no digit: E = .5 + .25 * .19.
    logits = torch.full((1, 12), -40.0)
    logits[0, [0, 5, 11]] = torch.tensor([0.5, 0.25, 0.25]).log()
    logits.requires_grad_()
    rewards = torch.eye(10)[:1]
    loss = expected_score_loss(logits, torch.arange(10)[None], rewards, torch.tensor([0.19]))
    torch.testing.assert_close(loss, torch.tensor([-0.5475]))
    loss.sum().backward()
    gains = torch.tensor([1 - 0.5475, 0 - 0.5475, 0.19 - 0.5475])
    torch.testing.assert_close(logits.grad[0, [0, 5, 11]], -torch.tensor([0.5, 0.25, 0.25]) * gains)


@quick
@given(st.lists(st.floats(-3, 3), min_size=13, max_size=13), unit)
def test_expected_score_gradient_is_the_mean_of_reinforce(numbers, outcome):
    logits, scores = row(*numbers).requires_grad_(), torch.arange(2, 13)[None]
    rewards = critic_reward(torch.arange(11) / 10, outcome)[None]
    loss = expected_score_loss(logits, scores, rewards, torch.zeros(1))
    (got,) = torch.autograd.grad(loss.sum(), logits)
    logp = logits.log_softmax(-1)
    every = torch.cat([torch.zeros(1, 2), rewards], -1)
    reinforce = -(logp.exp().detach() * every * logp).sum()
    (want,) = torch.autograd.grad(reinforce, logits)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


# --- aggregate ----------------------------------------------------------------------------------


def test_aggregate_by_hand():
    # Row sums 1 + 2 = 3 and 6; row means 1.5 and 6; the third row has no mask.
    loss = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, NAN], [NAN, NAN, NAN]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    token = aggregate(loss, mask, "token", 3)
    assert token.item() == pytest.approx(9 / 3)
    assert aggregate(loss, mask, "sequence", 2).item() == pytest.approx(7.5 / 2)
    token.backward()
    torch.testing.assert_close(loss.grad, mask / 3)


def test_aggregate_uses_weights_by_hand():
    # 2*1 + .5*4 = 4, over 10;   as a mean of the row 4 / 2.5 = 1.6, over 4 sequences
    loss, mask = row(1, 4), row(2, 0.5)
    assert aggregate(loss, mask, "token", 10).item() == pytest.approx(0.4)
    assert aggregate(loss, mask, "sequence", 4).item() == pytest.approx(0.4)


def test_aggregate_refuses_an_unknown_mode_and_no_count():
    with pytest.raises(AssertionError, match="batch"):
        aggregate(row(1), row(1), "batch", 1)
    with pytest.raises(AssertionError, match="denominator 0"):
        aggregate(row(1), row(1), "token", 0)


@quick
@given(
    st.lists(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=5), min_size=2, max_size=6),
    st.sampled_from(["token", "sequence"]),
    st.integers(1, 5),
    st.integers(0, 4),
)
def test_aggregate_is_the_same_however_rows_are_split_and_padded(ragged, mode, cut, padding):
    def pad(rows, width):
        return torch.tensor([r + [NAN] * (width - len(r)) for r in rows])

    cut = min(cut, len(ragged) - 1)
    count = sum(map(len, ragged)) if mode == "token" else len(ragged)
    parts = [ragged], [ragged[:cut], ragged[cut:]], [[r] for r in ragged]
    totals = []
    for part in parts:
        total = 0.0
        for rows in part:
            loss = pad(rows, max(map(len, rows)) + (padding if len(part) > 1 else 0))
            total += aggregate(loss, ~loss.isnan(), mode, count).item()
        totals.append(total)
    means = [sum(r) / (len(r) if mode == "sequence" else 1) for r in ragged]
    assert totals == pytest.approx([sum(means) / count] * 3, abs=1e-5)
