# pyright: reportMissingImports=false
"""Advantages of a critic service in slime (docs/plugins.md).

    --custom-advantage-function-path genac.integrations.slime.advantages
    --custom-config-path genac.yaml      # genac: {url: http://HOST:8077}

slime calls the function once per step on every rank of the last pipeline stage, each with its own
part of the batch. Written against slime 0.3.1.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from functools import cache
from typing import Any

from genac.client.messages import Advantages, Responses
from genac.integrations.trajectories import Settings, Trajectory, taught, token_streams

PROBLEM = "<<problem>>"  # stands for it where the chat template is read


def advantages(args: Namespace, rollout_data: dict[str, Any]) -> None:
    """Sets `advantages` and `returns`: of each response (T,) float32, one value per token."""
    refuse(args)
    settings = Settings.of(getattr(args, "genac", None))
    own = trajectories(args, rollout_data)
    everyone = shared(own)  # groups are whole only over all ranks
    rows = [everyone[index] for index in sorted(everyone)]
    reply = first_rank(lambda: ask(settings, rows))
    streams = dict(zip(sorted(everyone), token_streams(reply, rows), strict=True))
    # `kl` has a tensor per response, of its length and on its device.
    rollout_data["advantages"] = [
        kl.new_tensor(streams[index]) for index, kl in zip(own, rollout_data["kl"], strict=True)
    ]
    rollout_data["returns"] = rollout_data["advantages"]


def refuse(args: Namespace) -> None:
    """ValueError for arguments under which the critic's advantages would be wrong."""
    if args.rewards_normalization:
        raise ValueError(
            "slime subtracts the group's mean from rewards, and a critic predicts the rewards "
            "themselves: add --disable-rewards-normalization"
        )
    if args.kl_coef:
        raise ValueError(
            f"--kl-coef {args.kl_coef} puts the KL penalty into rewards, which the critic's "
            "advantages do not read; use --use-kl-loss with --kl-loss-coef instead"
        )
    if args.context_parallel_size > 1:
        raise ValueError(
            f"--context-parallel-size {args.context_parallel_size} cuts responses between ranks, "
            "and the critic's advantages are for whole ones: set it to 1"
        )


def trajectories(args: Namespace, rollout_data: dict[str, Any]) -> dict[int, Trajectory]:
    """The rank's responses by slime's index, in which the responses of a group are neighbours."""
    rows: dict[int, Trajectory] = {}
    for index, tensor, length, reward in zip(
        rollout_data["sample_indices"],
        rollout_data["tokens"],
        rollout_data["response_lengths"],
        rollout_data["rewards"],
        strict=True,
    ):
        require_single(index, rows)
        tokens = tensor.tolist()
        start = len(tokens) - int(length)
        problem = problem_text(args.hf_checkpoint, tuple(tokens[:start]))
        group = str(index // args.n_samples_per_prompt)
        rows[index] = Trajectory(str(index), group, problem, tokens[:start], tokens[start:], reward)
    return rows


def ask(settings: Settings, rows: list[Trajectory]) -> Advantages:
    """The service's advantages of a whole batch, from which it learns before this returns.

    Several ranks may ask: the id is that of the content, so the critic learns it once.
    """
    content = repr([(r.name, r.group, r.prompt_ids, r.response_ids, r.reward) for r in rows])
    key = f"slime-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
    responses = tuple(row.message() for row in rows)
    with settings.client() as service:
        request = Responses(responses=responses, id=key if settings.learn else None)
        reply = service.advantages(request)
        if settings.learn:
            taught(service, request)
    return reply


def shared(own: dict[int, Trajectory]) -> dict[int, Trajectory]:
    """The responses of all ranks between which the batch is divided."""
    group = data_parallel_group()
    if group is None:
        return own
    import torch.distributed as dist

    parts: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(parts, own, group=group)
    rows: dict[int, Trajectory] = {}
    for part in parts:
        for index, row in part.items():
            require_single(index, rows)
            rows[index] = row
    return rows


def require_single(index: int, rows: dict[int, Trajectory]) -> None:
    """ValueError where a sample of slime became several, as a generate function may make it."""
    if index in rows:
        raise ValueError(
            f"the sample {index} comes more than once in the batch; the critic values one "
            "response per sample: return one Sample from the generate function, with the tools' "
            "tokens masked"
        )


def first_rank(work: Any) -> Any:
    """What `work` returns on the first of those ranks, on all; so with what it raises."""
    group = data_parallel_group()
    if group is None:
        return work()
    import torch.distributed as dist

    result: list[Any] = [None, None]
    if dist.get_rank(group) == 0:
        try:
            result[0] = work()
        except Exception as error:  # the other ranks wait: they must hear of it
            result[1] = RuntimeError(f"{type(error).__name__}: {error}")
    dist.broadcast_object_list(result, group=group, group_src=0)
    if result[1] is not None:
        raise result[1]
    return result[0]


def data_parallel_group() -> Any:
    """None where there is one process."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return None
    from megatron.core import mpu

    return mpu.get_data_parallel_group()


@cache
def tokenizer_of(checkpoint: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


def problem_text(checkpoint: str, prompt_ids: tuple[int, ...]) -> str:
    """The problem's text: slime keeps the prompt's tokens, in which a chat template surrounds it.

    A prompt of another form, such as several turns, is given as it is, without special tokens.
    """
    tokenizer = tokenizer_of(checkpoint)
    text = tokenizer.decode(prompt_ids)
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": PROBLEM}]
        frame = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, _, behind = frame.partition(PROBLEM)
        if text.startswith(before) and text.endswith(behind):
            return text[len(before) : len(text) - len(behind)]
    return tokenizer.decode(prompt_ids, skip_special_tokens=True)
