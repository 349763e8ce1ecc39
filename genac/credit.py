"""Credit assignment: groups + estimates -> Samples for the actor. One function per strategy.

Shapes: _P problem, _G group member, _B response, _S state, _T token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genac.config import CreditConfig
from genac.ops.advantages import batch_relative, gae, group_relative, leave_one_out
from genac.rollout import Group
from genac.types import Estimate, Rollout, Sample

Advantages = dict[tuple[int, int, int], float]  # (group, member, segment start) -> advantage


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

    With `mask_truncated` a response that was cut at the length limit is no sample. Its reward still
    counts in the baselines of its group, as in TRL.
    """
    rollouts = [r for group in groups for r in group]
    streams, by_segment, metrics = ESTIMATORS[cfg.estimator](groups, estimates, cfg)
    kept = [
        (r, a)
        for r, a in zip(rollouts, streams, strict=True)
        if r.reward is not None and len(r.response_ids) and not (mask_truncated and truncated(r))
    ]
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
    """(P, G) rewards and validity; an unscored response is invalid, never 0."""
    reward_PG = torch.tensor(
        [[np.nan if r.reward is None else r.reward for r in g] for g in groups]
    )
    valid_PG = torch.isfinite(reward_PG)
    return torch.where(valid_PG, reward_PG, 0.0), valid_PG


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


def gae_over_states(
    groups: Sequence[Group], estimates: Sequence[Estimate], cfg: CreditConfig
) -> Result:
    """GAE over the states of each response; the tokens of a segment share its advantage.

    A missing value is bridged: its segment joins the one before it. At the start there is none, and
    the mean of the group's other responses takes the value's place.
    """
    rollouts = [r for group in groups for r in group]
    place = {id(r): i for i, r in enumerate(rollouts)}
    rows: list[list[Estimate]] = [[] for _ in rollouts]
    for estimate in estimates:
        rows[place[id(estimate.state.rollout)]].append(estimate)
    value_BS = fill_rows([[np.nan if e.value is None else e.value for e in row] for row in rows])
    spoken_BS = torch.isfinite(value_BS)
    reward_PG, valid_PG = rewards_of(groups)
    baseline_PG = reward_PG - leave_one_out(reward_PG, valid_PG)
    if cfg.missing == "group_mean":
        absent = fill_rows([[e.value is None for e in row] for row in rows], False).bool()
        value_BS = torch.where(absent, baseline_PG.flatten()[:, None], value_BS)
    # The first state must have a value: the next one already holds the tokens that the first
    # segment's advantage is about, so bridging from there would not be causal.
    first_B = torch.isfinite(value_BS).any(-1) & ~torch.isfinite(value_BS[:, 0])
    value_BS[:, 0] = torch.where(first_B, baseline_PG.flatten(), value_BS[:, 0])
    known_BS = torch.isfinite(value_BS) & valid_PG.flatten()[:, None]
    advantage_BS, _ = gae(value_BS, reward_PG.flatten(), known_BS, cfg.gamma, cfg.lam)
    group_free_B = leave_one_out(reward_PG, valid_PG).flatten()
    # Without a single value, and where the gate is shut, the leave-one-out advantage stands in.
    free_B = ~known_BS.any(-1) | gate(value_BS, spoken_BS, reward_PG, valid_PG, cfg.gate)
    advantage_BS = torch.where(free_B[:, None], group_free_B[:, None], advantage_BS)
    filled = carry(advantage_BS, known_BS | free_B[:, None])
    streams, by_segment = [], {}
    for rollout, row, advantages in zip(rollouts, rows, filled.tolist(), strict=True):
        stream = np.zeros(len(rollout.response_ids), np.float32)
        for estimate, advantage in zip(row, advantages, strict=False):
            stream[estimate.state.start : estimate.state.end] = advantage
            by_segment[rollout.group, rollout.member, estimate.state.start] = advantage
        streams.append(stream)
    return streams, by_segment, {"critic/gated": float(free_B.float().mean())}


def fill_rows(rows: Sequence[Sequence[float]], value: float = float("nan")) -> Tensor:
    """Ragged rows to (B, longest), at least one column."""
    out = np.full((len(rows), max(1, *(len(r) for r in rows))), value, np.float64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)


def carry(advantage_BS: Tensor, known_BS: Tensor) -> Tensor:
    """Entries without a value take the advantage of the nearest known entry before (else after)
    them.
    """
    out = advantage_BS.clone()
    for s in range(1, out.shape[1]):
        out[:, s] = torch.where(known_BS[:, s], out[:, s], out[:, s - 1])
    first = known_BS.float().argmax(-1)
    head = out.gather(1, first[:, None])
    return torch.where(torch.arange(out.shape[1]) < first[:, None], head, out)


def gate(
    value_BS: Tensor, spoken_BS: Tensor, reward_PG: Tensor, valid_PG: Tensor, kind: str
) -> Tensor:
    """(B,) responses whose critic is not to be trusted (after EVPO, 2604.19485), judged by what it
    said (spoken_BS), not by what stands in for it.

    "group": those of a group with both outcomes in which the critic's values miss the rewards by
    more than the leave-one-out mean does. "batch": also all of them, where that holds of the whole
    batch and its leave-one-out mean; an error common to all problems shows there, even where every
    group's outcomes agree.
    """
    if kind == "none":
        return torch.zeros(len(value_BS), dtype=torch.bool)
    reward_B = reward_PG.flatten()[:, None]
    error_BS = torch.where(spoken_BS, (reward_B - value_BS).square(), 0.0)
    critic_PG = (error_BS.sum(-1) / spoken_BS.sum(-1).clamp(min=1)).view(reward_PG.shape)
    judged_PG = valid_PG & spoken_BS.any(-1).view(valid_PG.shape)
    shut_PG = worse(critic_PG, reward_PG, valid_PG, judged_PG).expand(reward_PG.shape)
    if kind == "batch":
        row = [x.reshape(1, -1) for x in (critic_PG, reward_PG, valid_PG, judged_PG)]
        shut_PG = shut_PG | worse(*row)
    return shut_PG.flatten()


def worse(error_PG: Tensor, reward_PG: Tensor, valid_PG: Tensor, judged_PG: Tensor) -> Tensor:
    """(P, 1) rows in which the critic's squared errors sum to more than those of the leave-one-out
    mean. Where all outcomes of a row agree there is no variance to explain, and the critic is all
    there is.
    """
    mean_PG = torch.where(judged_PG, leave_one_out(reward_PG, valid_PG).square(), 0.0)
    critic_P1 = torch.where(judged_PG, error_PG, 0.0).sum(-1, keepdim=True)
    mean_P1 = mean_PG.sum(-1, keepdim=True)
    return (critic_P1 > mean_P1) & (mean_P1 > 0)


def rescale(streams: list[np.ndarray], kind: str) -> list[np.ndarray]:
    """Divides by the standard deviation over all tokens of the batch ("scale"), centring first
    ("full").
    """
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
    ids, first = rollout.prompt_ids + rollout.response_ids, len(rollout.prompt_ids)
    mask, old, stream = (np.zeros(len(ids), np.float32) for _ in range(3))
    mask[first:], old[first:], stream[first:] = 1.0, rollout.logprobs, advantages
    return Sample(ids, mask, "policy", advantages=stream, old_logprobs=old, temperature=temperature)


ESTIMATORS: dict[str, Callable[[Sequence[Group], Sequence[Estimate], CreditConfig], Result]] = {
    "gae": gae_over_states,
    "group_mean": per_response("group_mean"),
    "leave_one_out": per_response("leave_one_out"),
    "batch_mean": per_response("batch_mean"),
}
