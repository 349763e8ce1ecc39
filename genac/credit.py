"""Credit assignment: groups + estimates -> Samples for the actor. One function per strategy.

Shapes: _P problem, _G group member, _B response, _S state, _T token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genac.config.run import CreditConfig
from genac.ops.advantages import batch_relative, gae, group_relative, leave_one_out
from genac.types import Advantages, Estimate, Group, Rollout, Sample


@dataclass(frozen=True)
class Credit:
    """What credit assignment returns: training samples, advantages by segment, and measurements."""

    samples: list[Sample]
    advantages: Advantages
    metrics: dict[str, float]


def credit(
    groups: Sequence[Group],
    estimates: Sequence[Estimate],
    cfg: CreditConfig,
    temperature: float,
    mask_truncated: bool = False,
) -> Credit:
    """Advantages of every scored response by the configured estimator, as policy Samples.

    `temperature` is that of the rollouts, at which the learner computes probabilities again.
    With `mask_truncated` a response that was cut at the length limit is no sample. Its reward still
    counts in the baselines of its group, as in TRL.
    """
    rollouts = [r for group in groups for r in group]
    # Baselines are made of the whole group; which of its responses train is decided afterwards.
    streams, by_segment, metrics = ESTIMATORS[cfg.estimator](groups, estimates, cfg)
    kept = [
        (r, a)
        for r, a in zip(rollouts, streams, strict=True)
        if r.reward is not None and len(r.response_ids) and not (mask_truncated and truncated(r))
    ]
    # Responses that are no samples take no part in the scale either.
    scaled = rescale([a for _, a in kept], cfg.whiten_advantages)
    samples = [policy_sample(r, a, temperature) for (r, _), a in zip(kept, scaled, strict=True)]
    if mask_truncated:
        share = float(np.mean([truncated(r) for r in rollouts]))
        metrics = metrics | {"completions/masked_ratio": share}
    return Credit(samples, by_segment, metrics)


def truncated(rollout: Rollout) -> bool:
    """Whether the length limit cut the response."""
    return rollout.finish == "length"


def rewards_of(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """(P, G) rewards and validity. An unscored response is invalid; its 0 must not be read."""
    reward_PG = torch.tensor(
        [[np.nan if r.reward is None else r.reward for r in g] for g in groups]
    )
    valid_PG = torch.isfinite(reward_PG)
    # Masked here once: a NaN times a weight of 0 would still be NaN in every sum that follows.
    return torch.where(valid_PG, reward_PG, 0.0), valid_PG


# Per response the advantage of each token (T,); the same by segment; what was measured.
Result = tuple[list[np.ndarray], Advantages, dict[str, float]]


def per_response(
    name: str,
) -> Callable[[Sequence[Group], Sequence[Estimate], CreditConfig], Result]:
    """Value-free strategies: one advantage for all tokens of a response."""

    def assign(groups: Sequence[Group], estimates: Sequence[Estimate], cfg: CreditConfig) -> Result:
        del estimates
        reward_PG, valid_PG = rewards_of(groups)
        if name == "group_mean":
            advantage_PG = group_relative(reward_PG, valid_PG, cfg.scale_rewards)
        elif name == "leave_one_out":
            advantage_PG = leave_one_out(reward_PG, valid_PG)
        else:
            advantage_PG = batch_relative(reward_PG, valid_PG)
        flat = advantage_PG.flatten().tolist()
        rollouts = [r for group in groups for r in group]
        streams = [
            np.full(len(r.response_ids), a, np.float32) for r, a in zip(rollouts, flat, strict=True)
        ]
        return streams, {(r.group, r.member, 0): a for r, a in zip(rollouts, flat, strict=True)}, {}

    return assign


@dataclass(frozen=True)
class ValueTable:
    """The values of a batch, one row per response and one column per state (or token).

    given_BS: the critic's values, NaN where there is none and behind the end of a row.
    state_BS: whether there is a state. rewards_B, valid_B: 0 and False of a response that nobody
    could score. loo_B: the leave-one-out advantage.
    """

    given_BS: Tensor
    state_BS: Tensor
    rewards_B: Tensor
    valid_B: Tensor
    loo_B: Tensor

    @property
    def others_B(self) -> Tensor:
        """The mean reward of the group's other responses; a response alone has its own."""
        return self.rewards_B - self.loo_B


def gae_over_states(
    groups: Sequence[Group], estimates: Sequence[Estimate], cfg: CreditConfig
) -> Result:
    """GAE over the states of each response; the tokens of a segment share its advantage.

    The equation is that of `ops.advantages.gae` (1506.02438) with one transition per segment.
    """
    rows = rows_of_estimates(groups, estimates)
    table = value_table(groups, rows)
    values_BS = fill_missing(table, cfg.missing)
    # A response that nobody scored has no return, so its values lead to nothing.
    usable_BS = torch.isfinite(values_BS) & table.valid_B[:, None]
    advantages_BS, _ = gae(values_BS, table.rewards_B, usable_BS, cfg.gamma, cfg.lam)
    # Without a single value, and where the gate is shut, the leave-one-out advantage stands in.
    use_loo_B = ~usable_BS.any(-1) | gate(groups, table, cfg.gate)
    advantages_BS = torch.where(use_loo_B[:, None], table.loo_B[:, None], advantages_BS)
    # GAE passed over the unusable states: the advantage before one spans its segment too.
    bridged_BS = carry(advantages_BS, usable_BS | use_loo_B[:, None])
    streams, by_segment = spread_over_tokens(groups, rows, bridged_BS)
    return streams, by_segment, {"critic/gated": float(use_loo_B.float().mean())}


def rows_of_estimates(
    groups: Sequence[Group], estimates: Sequence[Estimate]
) -> list[list[Estimate]]:
    """The estimates of each response, in the order of the groups."""
    rollouts = [r for group in groups for r in group]
    place = {id(r): i for i, r in enumerate(rollouts)}  # by identity: equal responses are two rows
    rows: list[list[Estimate]] = [[] for _ in rollouts]
    for estimate in estimates:
        rows[place[id(estimate.state.rollout)]].append(estimate)
    return rows


def value_table(groups: Sequence[Group], rows: Sequence[Sequence[Estimate]]) -> ValueTable:
    """The table of a batch, rows in the order of the groups."""
    values = [values_of_row(row) for row in rows]
    width = max(1, *(len(v) for v in values))  # a column at least, for responses without a state
    given_BS = np.full((len(rows), width), np.nan)
    state_BS = np.zeros(given_BS.shape, bool)
    for b, row in enumerate(values):
        given_BS[b, : len(row)], state_BS[b, : len(row)] = row, True
    reward_PG, valid_PG = rewards_of(groups)
    loo_PG = leave_one_out(reward_PG, valid_PG)
    return ValueTable(
        torch.from_numpy(given_BS),
        torch.from_numpy(state_BS),
        reward_PG.flatten(),
        valid_PG.flatten(),
        loo_PG.flatten(),
    )


def values_of_row(row: Sequence[Estimate]) -> np.ndarray:
    """(S,) values of one response, NaN where missing."""
    parts = [
        np.array([np.nan if e.value is None else e.value])
        if e.token_values is None
        else e.token_values
        for e in row
    ]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def fill_missing(table: ValueTable, rule: str) -> Tensor:
    """(B, S) values; under "bridge" missing ones stay NaN, which GAE passes over.

    The first state must have a value: the next one already holds the tokens that the first
    segment's advantage is about, so bridging from there would not be causal.
    """
    values_BS, others_B1 = table.given_BS, table.others_B[:, None]
    missing_BS = table.state_BS & ~torch.isfinite(values_BS)
    if rule == "group_mean":
        # The others' mean knows no token of this response, so it may baseline any of them.
        return torch.where(missing_BS, others_B1, values_BS)
    # A response without any value needs none here: it takes its leave-one-out advantage.
    needed_B = torch.isfinite(values_BS).any(-1) & missing_BS[:, 0]
    first_BS = torch.zeros_like(missing_BS)
    first_BS[:, 0] = needed_B
    return torch.where(first_BS, others_B1, values_BS)


def carry(advantage_BS: Tensor, known_BS: Tensor) -> Tensor:
    """(B, S) advantages; an entry without a value takes that of the nearest known entry before it,
    or behind it where there is none before.
    """
    # The place of the last known entry so far: a running maximum over the places of known ones.
    place_S = torch.arange(advantage_BS.shape[1])
    before_BS = torch.where(known_BS, place_S, -1).cummax(-1).values
    first_B1 = known_BS.float().argmax(-1, keepdim=True)
    return advantage_BS.gather(-1, torch.where(before_BS < 0, first_B1, before_BS))


def spread_over_tokens(
    groups: Sequence[Group], rows: Sequence[Sequence[Estimate]], advantages_BS: Tensor
) -> tuple[list[np.ndarray], Advantages]:
    """Per response the advantage of every token (T,), and by segment; (T,) for a dense state."""
    streams: list[np.ndarray] = []
    by_segment: Advantages = {}
    rollouts = [r for group in groups for r in group]
    for rollout, row, advantages in zip(rollouts, rows, advantages_BS.numpy(), strict=True):
        stream = np.zeros(len(rollout.response_ids), np.float32)
        column = 0  # a dense state has as many columns as its segment has tokens, others have one
        for estimate in row:
            state = estimate.state
            dense = estimate.token_values is not None
            width = state.end - state.start if dense else 1
            part = advantages[column : column + width]
            stream[state.start : state.end] = part
            segment = (rollout.group, rollout.member, state.start)
            by_segment[segment] = part if dense else float(part[0])
            column += width
        streams.append(stream)
    return streams, by_segment


def gate(groups: Sequence[Group], table: ValueTable, kind: str) -> Tensor:
    """(B,) responses whose critic is not to be trusted (after EVPO, 2604.19485), judged by what it
    gave, not by what stands in for it.

    "group": those of a group with both outcomes in which the critic's values miss the rewards by
    more than the leave-one-out mean does.
    """
    if kind == "none":
        return torch.zeros(len(table.rewards_B), dtype=torch.bool)
    shape = (len(groups), -1)
    given_BS = torch.isfinite(table.given_BS)
    error_BS = torch.where(given_BS, (table.rewards_B[:, None] - table.given_BS).square(), 0.0)
    # A mean over states, so that a response counts once however many states it has.
    error_B = error_BS.sum(-1) / given_BS.sum(-1).clamp(min=1)
    judged_PG = (table.valid_B & given_BS.any(-1)).view(shape)
    reward_PG, valid_PG = table.rewards_B.view(shape), table.valid_B.view(shape)
    shut_P1 = worse(error_B.view(shape), reward_PG, valid_PG, judged_PG)
    return shut_P1.expand(reward_PG.shape).flatten()


def worse(error_PG: Tensor, reward_PG: Tensor, valid_PG: Tensor, judged_PG: Tensor) -> Tensor:
    """(P, 1) rows in which the critic's squared errors sum to more than those of the leave-one-out
    mean. Where all outcomes of a row agree there is no variance to explain, and the critic is all
    there is.
    """
    # Both sums run over the same responses, those that the critic judged.
    mean_PG = torch.where(judged_PG, leave_one_out(reward_PG, valid_PG).square(), 0.0)
    critic_P1 = torch.where(judged_PG, error_PG, 0.0).sum(-1, keepdim=True)
    mean_P1 = mean_PG.sum(-1, keepdim=True)
    return (critic_P1 > mean_P1) & (mean_P1 > 0)


def rescale(streams: list[np.ndarray], kind: str) -> list[np.ndarray]:
    """Divides by the standard deviation over all tokens of the batch; "full" centres first."""
    if kind == "none" or not streams:
        return streams
    everything = np.concatenate(streams)
    centre = everything.mean() if kind == "full" else 0.0
    spread = everything.std() + 1e-8
    size = np.sqrt(np.square(everything - centre).mean())
    # Advantages that are all alike have next to no spread; dividing by it would blow them up.
    spread = size if size > 3 * spread else spread
    return [((s - centre) / spread).astype(np.float32) for s in streams]


def policy_sample(rollout: Rollout, advantages: np.ndarray, temperature: float) -> Sample:
    """The response's tokens with their advantages; the prompt is not trained."""
    ids = rollout.prompt_ids + rollout.response_ids
    # Every stream begins with the prompt's zeros: entry t speaks of token t in all of them.
    prompt = np.zeros(len(rollout.prompt_ids), np.float32)
    return Sample(
        ids=ids,
        weights=np.append(prompt, np.ones(len(rollout.response_ids), np.float32)),
        loss="policy",
        advantages=np.append(prompt, advantages).astype(np.float32),
        old_logprobs=np.append(prompt, rollout.logprobs).astype(np.float32),
        temperature=temperature,
    )


ESTIMATORS: dict[str, Callable[[Sequence[Group], Sequence[Estimate], CreditConfig], Result]] = {
    "gae": gae_over_states,
    "group_mean": per_response("group_mean"),
    "leave_one_out": per_response("leave_one_out"),
    "batch_mean": per_response("batch_mean"),
}
