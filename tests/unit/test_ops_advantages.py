"""Advantages: values worked by hand, and the identities that make them what they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genac.ops.advantages import batch_relative, gae, group_relative, leave_one_out

NAN = float("nan")
unit = st.floats(0, 1, width=32)
quick = settings(max_examples=30, deadline=None)


def rows(max_rows=4, max_length=6):
    """(values, rewards) with B rows of T values in [0, 1]."""
    sizes = st.tuples(st.integers(1, max_rows), st.integers(1, max_length))
    return sizes.flatmap(
        lambda bt: st.tuples(
            st.lists(
                st.lists(unit, min_size=bt[1], max_size=bt[1]), min_size=bt[0], max_size=bt[0]
            ),
            st.lists(unit, min_size=bt[0], max_size=bt[0]),
        )
    )


def groups():
    """Rewards of P groups of G members and a mask of the same shape."""
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 6))

    def table(pg, entry):
        return st.lists(
            st.lists(entry, min_size=pg[1], max_size=pg[1]), min_size=pg[0], max_size=pg[0]
        )

    return sizes.flatmap(lambda pg: st.tuples(table(pg, unit), table(pg, st.booleans())))


# --- gae ----------------------------------------------------------------------------------------


def test_gae_by_hand():
    # V = .5 .4 .8, r = 1, gamma = .9, lambda = .5, gamma lambda = .45
    # deltas: .9*.4 - .5 = -.14;  .9*.8 - .4 = .32;  1 - .8 = .2 (the reward is not discounted)
    # A2 = .2;  A1 = .32 + .45*.2 = .41;  A0 = -.14 + .45*.41 = .0445;  R = A + V
    values, mask = torch.tensor([[0.5, 0.4, 0.8]]), torch.ones(1, 3)
    advantages, returns = gae(values, torch.tensor([1.0]), mask, gamma=0.9, lam=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.0445, 0.41, 0.2]]))
    torch.testing.assert_close(returns, torch.tensor([[0.5445, 0.81, 1.0]]))


def test_gae_bridges_a_missing_state_by_hand():
    # The middle value is missing: V = .5 _ .8, r = 1, gamma = 1, lambda = .5
    # A2 = 1 - .8 = .2;  A0 = (.8 - .5) + .5*.2 = .4;  0 for the missing one
    values, mask = torch.tensor([[0.5, NAN, 0.8]]), torch.tensor([[1, 0, 1]])
    advantages, returns = gae(values, torch.tensor([1.0]), mask, gamma=1.0, lam=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.4, 0.0, 0.2]]))
    torch.testing.assert_close(returns, torch.tensor([[0.9, 0.0, 1.0]]))


def test_gae_of_a_row_without_any_value_is_zero_and_needs_no_reward():
    values = torch.tensor([[NAN, NAN], [0.25, 0.5]])
    advantages, returns = gae(
        values, torch.tensor([NAN, 1.0]), torch.tensor([[0, 0], [1, 1]]), 1.0, 1.0
    )
    assert advantages.tolist() == [[0.0, 0.0], [0.75, 0.5]]
    assert returns.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_gae_carries_no_gradient():
    values = torch.tensor([[0.5, 0.5]], requires_grad=True)
    advantages, returns = gae(values, torch.tensor([1.0]), torch.ones(1, 2), 1.0, 1.0)
    assert not advantages.requires_grad and not returns.requires_grad


@quick
@given(rows())
def test_gae_with_lambda_1_gamma_1_is_reward_minus_value(case):
    values, rewards = torch.tensor(case[0]), torch.tensor(case[1])
    advantages, returns = gae(values, rewards, torch.ones_like(values), 1.0, 1.0)
    torch.testing.assert_close(advantages, rewards[:, None] - values, atol=1e-5, rtol=0)
    torch.testing.assert_close(returns, rewards[:, None].expand_as(values), atol=1e-5, rtol=0)


@quick
@given(rows())
def test_gae_with_lambda_0_telescopes(case):
    values, rewards = torch.tensor(case[0]), torch.tensor(case[1])
    advantages, _ = gae(values, rewards, torch.ones_like(values), 1.0, 0.0)
    torch.testing.assert_close(advantages.sum(-1), rewards - values[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(advantages[:, -1], rewards - values[:, -1])


@quick
@given(rows(), unit, unit, st.integers(0, 3), st.integers(0, 3))
def test_gae_ignores_padding_on_either_side(case, gamma, lam, before, after):
    values, rewards = torch.tensor(case[0]), torch.tensor(case[1])
    plain = gae(values, rewards, torch.ones_like(values), gamma, lam)
    left, right = (torch.full((len(values), n), NAN) for n in (before, after))
    padded = torch.cat([left, values, right], dim=1)
    got = gae(padded, rewards, ~padded.isnan(), gamma, lam)
    for a, b in zip(plain, got, strict=True):
        inside = slice(before, before + values.shape[1])
        assert torch.equal(b[:, inside], a)
        b[:, inside] = 0
        assert (b == 0).all()


@quick
@given(rows(), unit, unit, st.integers(0, 6))
def test_gae_missing_state_equals_removing_it(case, gamma, lam, at):
    values, rewards = torch.tensor(case[0]), torch.tensor(case[1])
    at = min(at, values.shape[1])
    hole = torch.full((len(values), 1), NAN)
    holed = torch.cat([values[:, :at], hole, values[:, at:]], dim=1)
    plain = gae(values, rewards, torch.ones_like(values), gamma, lam)
    got = gae(holed, rewards, ~holed.isnan(), gamma, lam)
    for a, b in zip(plain, got, strict=True):
        assert torch.equal(torch.cat([b[:, :at], b[:, at + 1 :]], dim=1), a)
        assert (b[:, at] == 0).all()


# --- groups -------------------------------------------------------------------------------------


def test_leave_one_out_by_hand():
    # (1, 0, 0, missing): others' means 0, 1/2, 1/2 -> 1, -1/2, -1/2, 0.   Alone: no other, so 0.
    rewards = torch.tensor([[1.0, 0.0, 0.0, NAN], [1.0, NAN, NAN, NAN]])
    got = leave_one_out(rewards, ~rewards.isnan())
    torch.testing.assert_close(got, torch.tensor([[1.0, -0.5, -0.5, 0.0], [0.0] * 4]))


def test_group_relative_by_hand():
    # Group 0: (1, 0), mean 1/2, centred +-1/2, std 1/2.  Group 1: (.6, .2), mean .4, std .2
    # Batch 1 0 .6 .2: mean .45, squares .3025 .2025 .0225 .0625, their mean .1475, std .3840573
    rewards = torch.tensor([[1.0, 0.0, NAN], [0.6, 0.2, NAN]])
    mask = ~rewards.isnan()
    centred = torch.tensor([[0.5, -0.5, 0.0], [0.2, -0.2, 0.0]])
    signs = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, 0.0]])
    torch.testing.assert_close(group_relative(rewards, mask, "none"), centred)
    torch.testing.assert_close(group_relative(rewards, mask, "batch"), centred / 0.3840583)
    torch.testing.assert_close(group_relative(rewards, mask, "group"), signs, atol=1e-5, rtol=0)


def test_batch_relative_by_hand():
    # The same batch: mean .45, std .3840573
    rewards = torch.tensor([[1.0, 0.0, NAN], [0.6, 0.2, NAN]])
    want = torch.tensor([[0.55, -0.45, 0.0], [0.15, -0.25, 0.0]]) / 0.3840583
    torch.testing.assert_close(batch_relative(rewards, ~rewards.isnan()), want)


def test_group_relative_refuses_an_unknown_scale():
    with pytest.raises(AssertionError, match="median"):
        group_relative(torch.ones(1, 2), torch.ones(1, 2), "median")


@quick
@given(groups(), st.sampled_from(["none", "group", "batch"]))
def test_group_advantages_sum_to_zero_within_the_group(case, scale):
    rewards, mask = torch.tensor(case[0]), torch.tensor(case[1])
    rewards = torch.where(mask, rewards, NAN)
    for got in (leave_one_out(rewards, mask), group_relative(rewards, mask, scale)):
        torch.testing.assert_close(got.sum(-1), torch.zeros(len(rewards)), atol=1e-4, rtol=0)
        assert (got[~mask] == 0).all()


@quick
@given(groups())
def test_leave_one_out_is_reward_minus_mean_of_the_others(case):
    rewards, mask = torch.tensor(case[0]), torch.tensor(case[1])
    got = leave_one_out(rewards, mask)
    for p, g in mask.nonzero().tolist():
        others = [rewards[p, j] for j in range(rewards.shape[1]) if mask[p, j] and j != g]
        want = rewards[p, g] - sum(others) / len(others) if others else torch.tensor(0.0)
        torch.testing.assert_close(got[p, g], want, atol=1e-5, rtol=0)


@quick
@given(unit, st.integers(1, 9))
def test_equal_rewards_give_no_advantage(reward, size):
    rewards = torch.full((2, size), reward)
    mask = torch.ones_like(rewards)
    for got in (
        leave_one_out(rewards, mask),
        group_relative(rewards, mask, "group"),
        group_relative(rewards, mask, "batch"),
        batch_relative(rewards, mask),
    ):
        assert got.abs().max() < 1e-5
