"""The learner on packed rows: what it learns is what each sequence alone would teach.

Everything runs in float64 (`exact` lifts the casts to float32), so that "the same" leaves no room.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.gemma import GemmaConfig
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from genac import learner as learning
from genac.config.models import LossConfig, OptimizerConfig
from genac.learner import Learner
from genac.models.packed.attention import packs
from genac.models.value_head import ValueModel
from genac.ops import tensors
from genac.types import Sample, ScoreTarget

SHAPE = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **k: LlamaConfig(**SHAPE, num_key_value_heads=2, **k),
    "qwen2": lambda **k: Qwen2Config(**SHAPE, num_key_value_heads=2, **k),
    "qwen3": lambda **k: Qwen3Config(**SHAPE, num_key_value_heads=4, head_dim=6, **k),
    "mistral": lambda **k: MistralConfig(**SHAPE, num_key_value_heads=2, **k),
    "gemma": lambda **k: GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=8, **k),
    "gpt_neox": lambda **k: GPTNeoXConfig(**SHAPE, **k),
}
PACKED = [name for name in CONFIGS if name != "gpt_neox"]
SCORE_IDS = tuple(range(3, 14))
EXACT = {"atol": 1e-11, "rtol": 1e-9}
POLICY = {"beta": 0.1, "entropy_coef": 0.02, "dual_clip": 2.0, "epsilon": 0.1, "epsilon_high": 0.28}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Casts to float32 become casts to float64, in our code and in transformers' norms."""

    def norm(self: Any, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, True) + self.variance_epsilon)

    monkeypatch.setattr(Tensor, "float", Tensor.double)
    for name in ("llama", "qwen2", "qwen3", "mistral"):
        for module in model_of(name).modules():
            if hasattr(module, "variance_epsilon"):
                monkeypatch.setattr(type(module), "forward", norm)


def model_of(name: str, **options: Any) -> Any:
    """A tiny model in float64 whose every parameter matters (norms and biases are drawn too)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](**options)).double()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def learner_of(model: Any, tokens: int = 8192, head: str | None = None, **loss: Any) -> Learner:
    optimizer = OptimizerConfig(
        learning_rate=1e-2, weight_decay=0.1, max_grad_norm=1e9, tokens_per_microbatch=tokens
    )
    return Learner(copy.deepcopy(model), optimizer, LossConfig(**loss), head=head)


def family_ids() -> list[tuple[int, ...]]:
    """Responses to one prompt, states of one of them, twins, a stranger, another prefix group."""
    rng = np.random.default_rng(1)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(int(i) for i in rng.integers(3, 30, length))

    prompt, other = draw(8), draw(5)
    longest = prompt + draw(14)
    ids = [longest, *(prompt + draw(n) for n in (9, 8, 3, 1))]
    ids += [longest[:17], longest[:12], longest[:12] + draw(4), prompt[:4] + draw(6)]
    ids += [longest, ids[1], draw(7), other, other + draw(9), other + draw(2), draw(2)]
    return [ids[i] for i in rng.permutation(len(ids))]


def samples_of(loss: str) -> list[Sample]:
    """Streams, masks and temperatures of their own for every sequence, twins too."""
    rng, samples = np.random.default_rng(2), []

    def stream(low: float, high: float, size: int) -> np.ndarray:
        return rng.uniform(low, high, size).astype(np.float32)

    for ids in family_ids():
        size = len(ids)
        weights = (rng.random(size) < 0.6) * stream(0.5, 1.5, size)
        weights[-1], weights[0] = 1.0, 0.0
        streams: dict[str, Any] = {}
        if loss == "score":
            streams = {
                "advantages": stream(-1, 1, size),
                "old_logprobs": stream(-5, -2, size),
                "ref_logprobs": stream(-5, -2, size),
            }
            if size > 7:
                streams["scores"] = tuple(
                    ScoreTarget(at, SCORE_IDS, tuple(rng.random(11).tolist()), other)
                    for at, other in ((size - 3, 0.0), (size - 2, 0.25))[: 1 + size % 2]
                )
        elif loss == "value":
            streams = {"targets": stream(0, 1, size)}
        heat = float(rng.choice([0.75, 1.0, 1.25]))  # float32 holds these
        samples.append(Sample(ids, weights.astype(np.float32), loss, temperature=heat, **streams))
    return samples


def logprobs_alone(model: Any, sample: Sample) -> Tensor:
    """(T - 1,) log-probabilities of tokens 1.., from one sequence without any batching."""
    logits = model(torch.tensor([sample.ids]), use_cache=False).logits[0, :-1] / sample.temperature
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(sample.ids[1:])[:, None])[:, 0]


def parameters_of(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in learner.model.named_parameters()}


def gradients_of(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def padded_tokens(samples: list[Sample]) -> int:
    return len(samples) * max(len(s.ids) for s in samples)


# --- against sequences one by one ----------------------------------------------------------------


@pytest.mark.parametrize("tokens", [8192, 30])
@pytest.mark.parametrize("name", PACKED)
def test_logprobs_and_gradients_are_those_of_each_sequence_alone(exact, name, tokens):
    model, samples = model_of(name), samples_of("sft")
    learner = learner_of(model, tokens)
    result = learner.logprobs(samples)
    assert learner.processed_tokens < sum(len(s.ids) for s in samples) / 1.3  # it did share
    loss, weights = torch.zeros(()).double(), 0
    for sample, row in zip(samples, result, strict=True):
        mask = torch.tensor(sample.weights[1:]).double()
        logp = logprobs_alone(model, sample)
        expected = np.r_[0, (logp * (mask != 0)).detach().numpy()]
        np.testing.assert_allclose(row, expected, rtol=1e-9)
        loss, weights = loss - (mask * logp).sum(), weights + int((mask != 0).sum())
    (loss / weights).backward()
    measured = learner._minibatch(samples)
    assert measured["loss"] == pytest.approx(loss.item() / weights, rel=1e-9)
    torch.testing.assert_close(gradients_of(learner.model), gradients_of(model), **EXACT)


def test_the_policy_loss_is_that_of_each_sequence_alone(exact):
    """Clipped surrogate, KL (k3), entropy bonus and score targets, by plain autograd."""
    model, samples = model_of("qwen3"), samples_of("score")
    learner = learner_of(model, tokens=60, **POLICY)
    measured = learner._minibatch(samples)
    terms, scored = [], []
    for s in samples:
        logits = model(torch.tensor([s.ids]), use_cache=False).logits[0] / s.temperature
        of_sample = []
        for score in s.scores:
            p = torch.softmax(logits[score.at - 1], -1)[list(SCORE_IDS)]
            expected = (p * torch.tensor(score.rewards)).sum()
            of_sample.append(expected + (1 - p.sum()) * score.otherwise)
        scored += [sum(of_sample)] if of_sample else []
        entropy = torch.distributions.Categorical(logits=logits[:-1]).entropy()
        logp, mask = logprobs_alone(model, s), torch.tensor(s.weights[1:])
        old, ref, gain = (
            torch.tensor(x)[1:] for x in (s.old_logprobs, s.ref_logprobs, s.advantages)
        )
        ratio, d = (logp - old).exp(), ref - logp
        best = torch.minimum(ratio * gain, ratio.clamp(0.9, 1.28) * gain)
        best = torch.where(gain < 0, torch.maximum(best, 2 * gain), best)
        terms.append((mask * (0.1 * (d.exp() - 1 - d) - best - 0.02 * entropy)).sum())
    loss = (torch.stack(terms).sum() - torch.stack(scored).sum()) / len(samples)
    loss.backward()
    assert len(scored) > 5 and measured["loss"] == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(gradients_of(learner.model), gradients_of(model), **EXACT)


@pytest.mark.parametrize(("head", "outputs"), [("mse", 1), ("hl_gauss", 51)])
def test_values_are_those_of_each_sequence_alone(tiny_model, head, outputs):
    model = ValueModel(tiny_model, outputs)
    torch.nn.init.normal_(model.head.weight)
    sequences = family_ids()
    learner = Learner(model, OptimizerConfig(), head=head)
    values = learner.values(sequences)
    for ids, row in zip(sequences, values, strict=True):
        out = model(torch.tensor([ids]))[0].detach()
        centres = (torch.arange(51) + 0.5) / 51
        expected = out[:, 0] if head == "mse" else torch.softmax(out, -1) @ centres
        np.testing.assert_allclose(row[1:], expected.numpy(), atol=2e-5)
    assert learner.processed_tokens < sum(map(len, sequences)) / 1.3


# --- against the learner without packing ---------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "head", "options"),
    [
        ("sft", None, {}),
        ("score", None, {**POLICY, "loss_type": "token"}),
        ("score", None, {**POLICY, "loss_type": "sequence", "kl_estimator": "k1"}),
        ("value", "mse", {}),
        ("value", "hl_gauss", {}),
    ],
)
def test_one_step_is_that_of_padded_rows(exact, monkeypatch, loss, head, options):
    model, samples = model_of("qwen2"), samples_of(loss)
    if head:
        model = ValueModel(model, 1 if head == "mse" else 51).double()
        torch.nn.init.normal_(model.head.weight)
    options = {"num_minibatches": 2, "num_iterations": 2, **options}
    packed, padded = (learner_of(model, 60, head, **options) for _ in range(2))
    first = packed.learn(samples, seed=3)
    monkeypatch.setattr(learning, "packs", lambda *_: False)
    second = padded.learn(samples, seed=3)
    assert packed.steps == padded.steps == 4
    assert packed.processed_tokens < padded.processed_tokens / 1.3
    assert first == pytest.approx(second, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(parameters_of(packed), parameters_of(padded), **EXACT)
    moved = [
        float((p - q).detach().abs().max())
        for p, q in zip(packed.model.parameters(), model.parameters(), strict=True)
    ]
    assert max(moved) > 1e-2


def test_results_do_not_depend_on_tokens_per_microbatch(exact):
    model, samples = model_of("qwen3"), samples_of("score")
    first = learner_of(model, **POLICY)
    measured, logprobs = first._minibatch(samples), first.logprobs(samples)
    read = [first.processed_tokens]
    for tokens in (1, 20, 25, 40, 75):
        other = learner_of(model, tokens, **POLICY)
        assert other._minibatch(samples) == pytest.approx(measured, rel=1e-9, abs=1e-12)
        torch.testing.assert_close(gradients_of(other.model), gradients_of(first.model), **EXACT)
        for one, two in zip(logprobs, other.logprobs(samples), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-9)
        read.append(other.processed_tokens)
    assert len(set(read)) > 3 and min(read) == read[0]  # the cuts were not all the same


def test_a_chunked_head_and_an_absent_entropy_gradient_change_nothing(exact, monkeypatch):
    model, samples = model_of("llama"), samples_of("score")
    whole, chunked = learner_of(model, beta=0.1), learner_of(model, beta=0.1)
    first = whole._minibatch(samples)
    monkeypatch.setattr(tensors, "KEPT_LOGITS", 0)
    monkeypatch.setattr(tensors, "CHUNK_TOKENS", 7)
    assert chunked._minibatch(samples) == pytest.approx(first, rel=1e-9)
    torch.testing.assert_close(gradients_of(chunked.model), gradients_of(whole.model), **EXACT)


# --- models that do not pack ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [("gpt_neox", {}), ("mistral", {"sliding_window": 6}), ("llama", {"attention_dropout": 0.1})],
)
def test_a_model_that_does_not_pack_takes_padded_rows(exact, name, options):
    model, samples = model_of(name, **options), samples_of("sft")
    assert not packs(model, max(len(s.ids) for s in samples))
    learner = learner_of(model)
    for sample, row in zip(samples, learner.logprobs(samples), strict=True):
        expected = logprobs_alone(model, sample).detach() * (torch.tensor(sample.weights[1:]) != 0)
        np.testing.assert_allclose(row[1:], expected, rtol=1e-9)
    assert learner.processed_tokens == padded_tokens(samples)
    if "attention_dropout" not in options:
        assert learner.learn(samples, seed=0)["loss"] == pytest.approx(
            learner_of(model, tokens=1).learn(samples, seed=0)["loss"], rel=1e-9
        )


def test_a_window_matters_only_beyond_its_length():
    longest = max(map(len, family_ids()))
    assert packs(model_of("mistral", sliding_window=longest), longest)
    assert not packs(model_of("mistral", sliding_window=longest - 1), longest)
    assert packs(model_of("qwen2", sliding_window=4), longest)  # off unless use_sliding_window
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert not packs(model_of("qwen2", **window), longest)
    assert packs(model_of("qwen2", **window), 4)


@pytest.mark.parametrize("length", [7, 8])
def test_a_window_as_long_as_the_sequence_hides_nothing(exact, length):
    """`packs` and transformers count a window alike: at its length the two paths agree."""
    model, ids = model_of("mistral", sliding_window=7), torch.arange(5, 5 + length)[None]
    full = model_of("mistral", sliding_window=None)
    same = torch.allclose(model(ids).logits, full(ids).logits, rtol=1e-9)
    assert same == packs(model, length) == (length == 7)


# --- what is counted, and what is left behind ----------------------------------------------------


def test_shared_tokens_are_counted_once():
    prefix = tuple(range(5, 15))
    sequences = [prefix, prefix[:6], prefix, (*prefix[:5], 20, 21), (25, 26, 27)]
    samples = [Sample(ids, np.ones(len(ids), np.float32), "sft") for ids in sequences]
    learner = learner_of(model_of("llama"))
    learner.logprobs(samples)
    assert learner.processed_tokens == 10 + 2 + 3
    learner.learn(samples, seed=0)
    assert learner.processed_tokens == 2 * 15
    learner.logprobs(samples[:1] * 5)
    assert learner.processed_tokens == 2 * 15 + 10


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(exact, reentrant):
    model, samples = model_of("llama"), samples_of("sft")
    plain, saving = learner_of(model), learner_of(model)
    saving.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert saving.learn(samples, 0) == pytest.approx(plain.learn(samples, 0), rel=1e-9)
    torch.testing.assert_close(gradients_of(saving.model), gradients_of(plain.model), **EXACT)


def test_bfloat16_on_packed_rows_stays_within_its_rounding(tiny_model):
    samples = samples_of("sft")
    full, half = (
        Learner(copy.deepcopy(tiny_model), OptimizerConfig(max_grad_norm=1e9), bf16=bf16)
        for bf16 in (False, True)
    )
    for one, two in zip(full.logprobs(samples), half.logprobs(samples), strict=True):
        np.testing.assert_allclose(one, two, atol=0.1)
    full.learn(samples, seed=0)
    half.learn(samples, seed=0)
    theirs = gradients_of(full.model)
    for name, grad in gradients_of(half.model).items():
        assert float((grad - theirs[name]).norm()) < 0.05 * float(theirs[name].norm()), name


def test_no_sequences_are_no_work():
    model = model_of("llama")
    assert learner_of(model).logprobs([]) == []
    assert learner_of(ValueModel(model, 1), head="mse").values([]) == []


def test_learning_leaves_the_models_attention_as_it_was(monkeypatch):
    model, samples = model_of("llama"), samples_of("sft")
    learner, ids = learner_of(model), torch.tensor([samples[0].ids])
    before = learner.model(ids).logits
    learner.logprobs(samples)
    assert learner.model.config._attn_implementation == "sdpa"
    assert torch.equal(learner.model(ids).logits, before)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr(learner.model.base_model.layers[1], "forward", broken)
    with pytest.raises(RuntimeError, match="inside"):
        learner.learn(samples, seed=0)
    assert learner.model.config._attn_implementation == "sdpa"
