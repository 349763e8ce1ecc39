"""Scripted stand-ins and small builders for tests: no mocks, only objects that keep the protocols.

ScriptedEngine answers requests from a function, so that a test decides every completion;
FixedCritic answers states from a function; EchoTask rewards responses by their text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from genac.critics.base import Critic
from genac.engines.base import Completion, Request
from genac.runtime import Runtime
from genac.types import Estimate, Problem, Rollout, State

ALPHABET = [*"abcdefghijklmnopqrstuvwxyz+-*=>.? ", "ans="]
CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass
class ScriptedEngine:
    """An engine whose completions are written by `script(request)`; keeps the requests."""

    script: Callable[[Request], Completion]
    version: int = 0
    processed_tokens: int = 0
    requests: list[Request] = field(default_factory=list)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.requests += requests
        return [self.script(request) for request in requests]

    def publish(self, model: Any, version: int) -> None:
        self.version = version


def says(tokenizer: Any, text: str, probs: np.ndarray | None = None) -> Completion:
    """A completion of the text; `probs` (11,) are the watched probabilities at every position."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    token_probs = np.zeros((0, 0)) if probs is None else np.tile(probs, (len(ids), 1))
    return Completion(
        ids, np.full(len(ids), -0.5, np.float32), "stop", np.asarray(token_probs, np.float32)
    )


class FixedCritic(Critic):
    """Values from a function of the state."""

    def __init__(self, value: Callable[[State], float | None]) -> None:
        self.value = value

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        return [Estimate(state, self.value(state)) for state in states]


@dataclass(frozen=True)
class EchoTask:
    """Rewards by text: `rewards[text]`, or `default`. Problems are numbered."""

    rewards: dict[str, float | None] = field(default_factory=dict)
    default: float | None = 0.0
    count: int | None = None
    name: str = "echo"
    trusted: bool = True

    def problem(self, split: str, index: int) -> Problem:
        return Problem(f"{split}-{index}", f"{index}>", str(index), task=self.name)

    def size(self, split: str) -> int | None:
        return self.count

    def verify(self, problem: Problem, text: str) -> float | None:
        return self.rewards.get(text, self.default)

    def answer_of(self, text: str) -> str | None:
        return text.rpartition("ans=")[2] or None


def make_rollout(
    response: Sequence[int] = (5, 6, 7),
    reward: float | None = 1.0,
    prompt: Sequence[int] = (3, 4),
    group: int = 0,
    member: int = 0,
    logprobs: Sequence[float] | None = None,
    problem: Problem | None = None,
    text: str = "",
) -> Rollout:
    """A rollout with invented tokens."""
    logp = np.full(len(response), -1.0) if logprobs is None else np.array(logprobs)
    return Rollout(
        problem=problem or Problem(f"p{group}", f"{group}>", "1"),
        group=group,
        member=member,
        prompt_ids=tuple(prompt),
        response_ids=tuple(response),
        logprobs=logp.astype(np.float32),
        text=text,
        finish="stop",
        actor_version=0,
        reward=reward,
    )


def runtime_with(engine: Any, tokenizer: Any, model: Any, role: str = "actor") -> Runtime:
    """A runtime around a scripted engine; `learner` is None unless the test sets one."""
    learner: Any = None
    return Runtime(role, model, tokenizer, learner, engine, max_length=4096)


def byte_tokenizer(chat_template: str | None = None, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges, with special tokens: like a hub tokenizer, but
    tiny.
    """
    special = ["<pad>", "<eos>", "<bos>", "<|user|>", "<|assistant|>"]
    words = [*special, *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteDecoder()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>" if bos else None,
        extra_special_tokens=["<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    return fast


def parameters_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models of one architecture hold the same numbers."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fallback_tokenizer() -> Any:
    """Like Llama 2's: a space is a part of the word behind it, the first one is dropped where text
    begins, and characters without a token are written byte by byte.
    """
    letters = [chr(i) for i in range(33, 127)]
    starts = [f"\u2581{c}" for c in letters]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["<unk>", "<s>", "</s>", *pieces, "\u2581", *letters, *starts]
    merges = [("\u2581", c) for c in letters]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    begins = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(begins)
    written = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*written, decoders.Strip(" ", 1, 0)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="</s>", **special)
