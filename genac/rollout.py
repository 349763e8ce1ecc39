"""Sampling responses and verifying them: problems in, groups of Rollouts out.

Which problems a step sees is a pure function of (seed, step), so a resumed run sees the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from genac.config.run import RolloutConfig
from genac.engines.base import Request
from genac.models.chat import encode_prompt, special_ids
from genac.runtime import Runtime
from genac.seeding import derive_seed, shuffled
from genac.tasks.base import Task
from genac.tasks.final_answer import THOUGHT, opens_thought
from genac.tasks.verifier import Verifier
from genac.types import Group, Problem, Rollout

# Tokens at a prompt's end in which an opening tag is looked for: enough for a tag that is written
# character by character, and for blanks behind it.
THOUGHT_TOKENS = 16


@dataclass(frozen=True)
class World:
    """Everything outside the models that rollouts depend on."""

    task: Task
    verifier: Verifier
    rollout: RolloutConfig
    seed: int


def problems_at(world: World, split: str, first: int, count: int) -> list[Problem]:
    """Problems first, ..., first + count - 1 of endless passes over the split, each shuffled anew.

    Raises ValueError where the split is empty.
    """
    size = world.task.size(split)
    if size is None:  # the task draws a new problem for every number
        return [world.task.problem(split, i) for i in range(first, first + count)]
    if size == 0:
        raise ValueError(
            f"the {split} split of task {world.task.name!r} is empty; give it more data"
        )
    return [
        world.task.problem(split, _shuffled(world.seed, split, i, size))
        for i in range(first, first + count)
    ]


# A function of the position alone, so that a resumed run needs no data loader's state.
def _shuffled(seed: int, split: str, position: int, size: int) -> int:
    epoch, offset = divmod(position, size)
    return shuffled(seed, split, epoch, size)[offset]


def collect(
    actor: Runtime, world: World, problems: Sequence[Problem], *seed: int | str
) -> list[Group]:
    """num_generations scored responses per problem. `seed` names what they are drawn for, such as
    stage and step: the same words give the same responses from the same weights.
    """
    size = world.rollout.num_generations
    # One seed per response, made from its place, so that no draw depends on another's length.
    seeds = [
        derive_seed(world.seed, *seed, p, g) for p in range(len(problems)) for g in range(size)
    ]
    rollouts = sample(actor, world.rollout, problems, seeds)
    # In one call, because the verifier works on several responses at a time.
    scores = world.verifier.verify([(r.problem, r.text) for r in rollouts])
    scored = [
        replace(r, reward=v, reason=why) for r, (v, why) in zip(rollouts, scores, strict=True)
    ]
    return [scored[i : i + size] for i in range(0, len(scored), size)]


def sample(
    actor: Runtime, cfg: RolloutConfig, problems: Sequence[Problem], seeds: Sequence[int]
) -> list[Rollout]:
    """Unscored responses, the same number for every problem: one per seed, in order."""
    size = len(seeds) // len(problems)
    assert size * len(problems) == len(seeds), "seeds are as many for every problem"
    prompts = [encode_prompt(actor.tokenizer, problem) for problem in problems]
    # The verifier needs to know whether an answer begins as a thought, which only the prompt shows.
    problems = [as_read(actor.tokenizer, p, ids) for p, ids in zip(problems, prompts, strict=True)]
    # Each response is a request of its own: what they share, the engine finds from the tokens.
    limit = cfg.max_completion_length
    requests = [
        request(actor, cfg, prompts[i // size], limit, seed) for i, seed in enumerate(seeds)
    ]
    return [
        Rollout(
            problem=problems[i // size],
            group=i // size,
            member=i % size,
            prompt_ids=prompts[i // size],
            response_ids=completion.ids,
            logprobs=completion.logprobs,
            text=response_text(actor.tokenizer, completion.ids),
            finish=completion.finish,
            actor_version=actor.version,
            entropies=completion.entropies,
        )
        for i, completion in enumerate(actor.sampler.generate(requests))
    ]


def as_read(tokenizer: Any, problem: Problem, prompt_ids: Sequence[int]) -> Problem:
    """The problem, marked where its prompt ends inside a thought, as many chat templates let it."""
    opened = opens_thought(tokenizer.decode(list(prompt_ids[-THOUGHT_TOKENS:])))
    return replace(problem, opens_thought=True) if opened else problem


def request(
    actor: Runtime, cfg: RolloutConfig, prompt_ids: tuple[int, ...], limit: int, seed: int
) -> Request:
    """A request under the run's sampling settings."""
    return Request(
        prompt_ids=prompt_ids,
        max_new_tokens=limit,
        seed=seed,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        stop_ids=stop_ids(actor),
    )


def stop_ids(runtime: Runtime) -> tuple[int, ...]:
    """End-of-sequence tokens of tokenizer and generation config, each once.

    Chat models end a turn with another token than a text, and name it in the config only.
    """
    # A number, a list or nothing: transformers allows each.
    configured = runtime.model.generation_config.eos_token_id
    more = configured if isinstance(configured, list) else [configured]
    return tuple(
        dict.fromkeys([runtime.tokenizer.eos_token_id, *(i for i in more if i is not None)])
    )


def response_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The response as the verifier reads it: without special tokens, but for the tags of a thought,
    which are special in some tokenizers.
    """
    tags = thought_tags(tokenizer)
    if tags.isdisjoint(ids):
        return tokenizer.decode(list(ids), skip_special_tokens=True)
    dropped = special_ids(tokenizer) - tags
    return tokenizer.decode([i for i in ids if i not in dropped], skip_special_tokens=False)


@lru_cache(maxsize=4)
def thought_tags(tokenizer: Any) -> frozenset[int]:
    """Special tokens that begin or end a thought."""
    names = {i: tokenizer.convert_ids_to_tokens(i) for i in special_ids(tokenizer)}
    return frozenset(i for i, name in names.items() if THOUGHT.fullmatch(name))
