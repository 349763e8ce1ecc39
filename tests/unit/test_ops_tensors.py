"""Shared tensor operations: values worked by hand, and the same in chunks and in bfloat16."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import settings

from genac.ops import tensors
from genac.ops.tensors import head_statistics

NAN = float("nan")
quick = settings(max_examples=30, deadline=None)


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def stats(logits, ids, temperature=None, *, head=identity, entropy_grad=False):
    heat = torch.ones(len(ids)) if temperature is None else temperature
    return head_statistics(logits, head, ids, heat, entropy_grad=entropy_grad)


def test_head_statistics_by_hand():
    # logits ln(1, 2, 5): probabilities 1/8, 2/8, 5/8. No shift: position n scores ids[n].
    logits = torch.tensor([[1.0, 2.0, 5.0], [5.0, 1.0, 2.0]]).log()
    logp, entropy = stats(logits, torch.tensor([2, 1]))
    torch.testing.assert_close(logp, torch.tensor([math.log(5 / 8), math.log(1 / 8)]))
    nats = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    torch.testing.assert_close(entropy, torch.tensor([nats, nats]))


def test_entropy_by_hand():
    # Uniform over 4: ln 4.   (1/2, 1/4, 1/4): 1.5 ln 2.   One allowed: 0.
    inf = -math.inf
    rows = [[0.0, 0, 0, 0], [math.log(2), 0, 0, inf], [3.0, inf, inf, inf]]
    logits = torch.tensor(rows, requires_grad=True)
    _, entropy = stats(logits, torch.zeros(3, dtype=torch.long), entropy_grad=True)
    expected = torch.tensor([math.log(4), 1.5 * math.log(2), 0])
    torch.testing.assert_close(entropy, expected, atol=1e-6, rtol=0)
    entropy.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_head_statistics_in_chunks_equal_those_at_once(monkeypatch, kept, entropy_grad):
    monkeypatch.setattr(tensors, "CHUNK_TOKENS", 4)  # 15 tokens make four chunks, one ragged
    monkeypatch.setattr(tensors, "KEPT_LOGITS", kept)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(15, 6, generator=generator, requires_grad=True)
    head = torch.nn.Linear(6, 7)
    ids = torch.randint(7, (15,), generator=generator)
    heat = torch.rand(15, generator=generator) + 0.5
    weight = torch.rand(15, generator=generator)
    logp, entropy = stats(hidden, ids, heat, head=head, entropy_grad=entropy_grad)
    ((logp + 0.3 * entropy) * weight).sum().backward()
    got = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    whole = torch.distributions.Categorical(logits=head(hidden) / heat[:, None])
    torch.testing.assert_close(logp, whole.log_prob(ids))
    torch.testing.assert_close(entropy, whole.entropy())
    gain = whole.log_prob(ids) + (0.3 * whole.entropy() if entropy_grad else 0.0)
    (gain * weight).sum().backward()
    torch.testing.assert_close(got, [hidden.grad, head.weight.grad])
    assert entropy.requires_grad == entropy_grad


def test_head_statistics_are_computed_in_float32():
    # 4096 equal logits: -ln 4096 = -8.3177662, which bfloat16 rounds to -8.3125.
    logp, entropy = stats(torch.zeros(1, 4096, dtype=torch.bfloat16), torch.zeros(1).long())
    assert logp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logp, torch.tensor([-math.log(4096)]))


def test_head_statistics_of_no_tokens():
    logp, entropy = stats(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert logp.shape == entropy.shape == (0,)
