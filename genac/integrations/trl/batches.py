"""Between TRL's tensors and a critic's messages.

Shapes: _B response of this process, _T token of a response, _N response of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genac.client import Response
from genac.integrations.trajectories import texts_of

ROUNDING = 1e-6  # of a weighted sum of fp32 rewards


def total_rewards(per_function_NF: Tensor, weights_F: Tensor) -> list[float | None]:
    """(N,) TRL's weighted sum of the reward functions; None where none of them gave a reward.

    ValueError for a sum outside [0, 1], which a critic cannot predict.
    """
    total_N = (per_function_NF * weights_F.to(per_function_NF.device)).nansum(dim=1)
    missing_N = torch.isnan(per_function_NF).all(dim=1)
    rewards = [
        None if missing else reward
        for reward, missing in zip(total_N.tolist(), missing_N.tolist(), strict=True)
    ]
    for reward in rewards:
        if reward is not None and not -ROUNDING <= reward <= 1 + ROUNDING:
            raise ValueError(
                f"a response's reward is {reward:.6g}; the critic's scores stand for rewards in "
                "[0, 1]: scale the reward functions, or set reward_weights so that their sum stays "
                "inside"
            )
    return [None if reward is None else min(1.0, max(0.0, reward)) for reward in rewards]


def responses_of(
    output: Mapping[str, Tensor],
    prompts: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    rewards: Sequence[float | None],
) -> list[Response]:
    """The responses of this process, their groups not yet named."""
    # The sampler's numbers come first: it is the policy that the tokens were drawn from.
    logprobs_BT = output.get("sampling_per_token_logps", output.get("old_per_token_logps"))
    return [
        Response(
            problem=texts_of(prompt, str(i)),
            tokens=tuple(ids),
            prompt_tokens=tuple(prompt_ids[mask.bool()].tolist()),
            logprobs=None if logprobs_BT is None else known(logprobs_BT[i, : len(ids)]),
            reward=reward,
        )
        for i, (prompt, ids, reward, prompt_ids, mask) in enumerate(
            zip(
                prompts,
                completion_ids,
                rewards,
                output["prompt_ids"],
                output["prompt_mask"],
                strict=True,
            )
        )
    ]


def known(logprobs_T: Tensor) -> tuple[float, ...] | None:
    """None where vLLM gave no number for one of them."""
    values = logprobs_T.float().tolist()
    return tuple(values) if torch.isfinite(logprobs_T).all() else None


def in_groups(responses: Sequence[Response], size: int) -> tuple[Response, ...]:
    """The responses of all processes, each named after its group: TRL keeps groups together."""
    assert len(responses) % size == 0, "a generation batch holds whole groups"
    return tuple(r.model_copy(update={"group": str(i // size)}) for i, r in enumerate(responses))


def padded(streams: Sequence[Sequence[float]], completion_mask_BT: Tensor) -> Tensor:
    """(B, T) advantages, 0 wherever TRL's completion mask is."""
    out_BT = torch.zeros(completion_mask_BT.shape, dtype=torch.float32)
    for row_T, stream in zip(out_BT, streams, strict=True):
        row_T[: len(stream)] = torch.tensor(stream)
    return out_BT.to(completion_mask_BT.device) * (completion_mask_BT > 0)
