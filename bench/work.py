"""What an iteration has to compute and to move, from its shape alone.

    todo = work(Iteration(16, 8, prompt=300, response=1024), "grpo", actor, critic)
    seconds(todo, rates)        # by phase, at assumed or fitted rates

Operations are 2 per weight and token, 4 per pair of query and key, layer and width; training takes
three times a forward pass. Sampling reads keys, values and weights at every decoding step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genac.models.heads import size, text_config, vocabulary
from genac.models.loading import parameter_count

SAMPLING, TRAINING = ("actor_sampling", "critic_sampling"), ("actor_training", "critic_training")
METHODS = ("genac", "ppo", "vineppo", "grpo")


@dataclass(frozen=True)
class Sizes:
    """A model: weights that every token passes, layers, widths of hidden states, queries and keys,
    vocabulary.

    `training` is the cost of a training pass in forward passes: 3, and 1 more where activations
    are computed again; 1 less where only adapters have gradients of weights.
    """

    linear: float
    layers: int
    hidden: int
    queries: int
    keys: int
    vocab: int
    bytes_per_number: int = 4
    training: int = 3

    @classmethod
    def of(cls, model: Any, bytes_per_number: int, training: int = 3) -> Sizes:
        """Of a causal LM, also one on the meta device."""
        cfg = text_config(model)
        tables = {id(m.weight): m.weight.numel() for m in
                  (model.get_input_embeddings(), model.get_output_embeddings())}  # fmt: skip
        heads = size(cfg, "num_attention_heads", "num_heads", default=1)
        dim = size(cfg, "head_dim", default=cfg.hidden_size // heads)
        return cls(
            parameter_count(model) - sum(tables.values()),
            cfg.num_hidden_layers,
            cfg.hidden_size,
            heads * dim,
            size(cfg, "num_key_value_heads", default=heads) * dim,
            vocabulary(model),
            bytes_per_number,
            training,
        )


@dataclass(frozen=True)
class Iteration:
    """Problems, responses to each, tokens of prompts and responses, states per response; of the
    critic rationales per state, their tokens, those of its question, how many rationales learn;
    VinePPO's continuations per state; rows that an engine decodes together (0 = all at once)."""

    prompts: int
    generations: int
    prompt: int
    response: int
    states: int = 8
    samples: float = 1  # on average
    rationale: int = 0
    question: int = 0
    learn: int | None = None
    continuations: int = 9
    rows: int = 0

    @property
    def responses(self) -> int:
        return self.prompts * self.generations

    def steps(self, requests: float, length: float) -> float:
        """Decoding steps of so many requests, in waves."""
        return length * max(1.0, requests / self.rows if self.rows else 1.0)


@dataclass(frozen=True)
class Work:
    """Operations; bytes of keys, values and weights read in sampling; layers x decoding steps."""

    flops: float
    bytes: float = 0.0
    steps: float = 0.0


def work(it: Iteration, method: str, actor: Sizes, critic: Sizes) -> dict[str, Work]:
    """Per phase. A shared prefix is read once; suffixes see as much of it as was written before
    them.
    """
    assert method in METHODS, method
    written = it.responses * it.response
    pairs = it.responses * it.response * (it.prompt + it.response / 2)
    read = it.prompts * it.prompt + written
    act = forward(actor, read, pairs, written)
    steps = it.steps(it.responses, it.response)
    out = {
        "actor_sampling": streamed(actor, act, steps, pairs),
        "actor_training": Work(actor.training * act),
    }
    if method == "ppo":
        whole = forward(critic, read, pairs, 0)
        out["critic_sampling"] = Work(whole)
        out["critic_training"] = Work(critic.training * whole)
    if method == "genac":
        out["critic_sampling"] = rationales(it, critic, it.states * it.responses * it.samples, True)
        count = it.states * it.responses * it.samples
        learnt = rationales(it, critic, min(count, it.learn or count), False)
        out["critic_training"] = Work(critic.training * learnt.flops)
    if method == "vineppo":
        out["critic_sampling"] = continuations(it, actor)
    return out


def rationales(it: Iteration, critic: Sizes, count: float, decode: bool) -> Work:
    """`count` rationales about the states of all responses, whose shared prefixes are read once."""
    suffix, prefix = (
        it.question + it.rationale,
        it.prompt + it.response * (it.states - 1) / it.states,
    )
    seen = it.prompt + it.response * (it.states - 1) / it.states / 2
    pairs = it.responses * prefix**2 / 2 + count * suffix * (seen + suffix / 2)
    flops = forward(critic, it.responses * prefix + count * suffix, pairs, count * it.rationale)
    if not decode:
        return Work(flops)
    # Each step reads a shared prefix once for all of its states, and every row's own tokens.
    read = it.rationale * (it.responses * prefix + count * suffix / 2)
    return streamed(critic, flops, it.steps(count, it.rationale), read)


def continuations(it: Iteration, actor: Sizes) -> Work:
    """VinePPO's: from every state to the end, each as long as what the response still wrote."""
    tokens = pairs = read = 0.0
    for k in range(it.states):
        start = it.response * k / it.states
        rest, before = it.response - start, it.prompt + start
        tokens += it.continuations * rest
        pairs += it.continuations * rest * (before + rest / 2)
        read += rest * (before + it.continuations * rest / 2)
    prefix = it.prompt + it.response * (it.states - 1) / it.states
    flops = forward(
        actor,
        it.responses * (prefix + tokens),
        it.responses * (prefix**2 / 2 + pairs),
        it.responses * tokens,
    )
    count = it.responses * it.states * it.continuations
    steps = it.steps(count, tokens / (it.states * it.continuations))
    return streamed(actor, flops, steps, it.responses * read)


def forward(m: Sizes, tokens: float, pairs: float, predictions: float) -> float:
    """Operations of a forward pass over `pairs` of query and key in each layer."""
    products = 2 * m.linear * tokens + 2 * m.vocab * m.hidden * predictions
    return products + 4 * m.layers * m.queries * pairs


def streamed(m: Sizes, flops: float, steps: float, read: float) -> Work:
    """Sampling in `steps` decoding steps: the weights each time, `read` keys and values in sum."""
    moved = m.bytes_per_number * (2 * m.layers * m.keys * read + m.linear * steps)
    return Work(flops, moved, m.layers * steps)


@dataclass(frozen=True)
class Rates:
    """Operations per second of sampling and of training, bytes per second of sampling, seconds
    that a layer takes at a decoding step however little there is to compute."""

    sampling_flops: float
    sampling_bytes: float
    training_flops: float
    layer: float = 0.0


def seconds(todo: Mapping[str, Work], rates: Rates) -> dict[str, float]:
    """By phase."""
    out = {}
    for phase, w in todo.items():
        if phase in TRAINING:
            out[phase] = w.flops / rates.training_flops
        else:
            moved = w.bytes / rates.sampling_bytes
            out[phase] = w.flops / rates.sampling_flops + moved + w.steps * rates.layer
    return out
