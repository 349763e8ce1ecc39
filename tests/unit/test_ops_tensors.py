"""Shared tensor operations: values worked by hand, and the same in chunks and in bfloat16."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genac.ops import tensors
from genac.ops.tensors import masked_mean, pad_rows, token_logprobs

NAN = float("nan")
quick = settings(max_examples=30, deadline=None)


def test_token_logprobs_by_hand():
    # logits ln(1, 2, 5): probabilities 1/8, 2/8, 5/8.  No shift: position t scores ids[t].
    logits = torch.tensor([[1.0, 2.0, 5.0], [5.0, 1.0, 2.0]]).log()[None]
    got = token_logprobs(logits, torch.tensor([[2, 1]]))
    torch.testing.assert_close(got, torch.tensor([[math.log(5 / 8), math.log(1 / 8)]]))


def test_token_logprobs_of_a_batch_equal_log_softmax(monkeypatch):
    monkeypatch.setattr(tensors, "CHUNK_TOKENS", 4)  # 15 tokens make four chunks, one ragged
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator)
    ids = torch.randint(7, (3, 5), generator=generator)
    want = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(token_logprobs(logits, ids), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_logprobs_gradient_is_one_hot_minus_softmax(monkeypatch, dtype):
    monkeypatch.setattr(tensors, "CHUNK_TOKENS", 4)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator).to(dtype).requires_grad_()
    ids = torch.randint(5, (2, 3), generator=generator)
    token_logprobs(logits, ids).sum().backward()
    one_hot = torch.nn.functional.one_hot(ids, 5)
    want = one_hot - logits.detach().float().softmax(-1)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(logits.grad.float(), want, atol=tolerance, rtol=0)


def test_token_logprobs_are_computed_in_float32():
    # 4096 equal logits: -ln 4096 = -8.3177662, which bfloat16 rounds to -8.3125.
    logits = torch.zeros(1, 1, 4096, dtype=torch.bfloat16)
    got = token_logprobs(logits, torch.zeros(1, 1, dtype=torch.long))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([[-math.log(4096)]]))


def test_token_logprobs_of_no_tokens():
    assert token_logprobs(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0)


def test_pad_rows_by_hand():
    read_only = np.array([5, 6, 7])
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = pad_rows([(1, 2), read_only, ()], value=9, dtype=torch.long)
    assert got.tolist() == [[1, 2, 9], [5, 6, 7], [9, 9, 9]]
    assert got.dtype == torch.long


def test_pad_rows_copies_and_takes_no_rows():
    source = np.array([1.0, 2.0], dtype=np.float32)
    got = pad_rows([source], value=0.0, dtype=torch.float32)
    source[0] = 7
    assert got.tolist() == [[1.0, 2.0]]
    assert pad_rows([], value=0, dtype=torch.long).shape == (0, 0)


def test_masked_mean_by_hand():
    # (2*1 + 1*4) / 3 = 2; NaN is behind the mask.  Nothing to average: 0.
    x, mask = torch.tensor([[1.0, 4.0, NAN]]), torch.tensor([[2, 1, 0]])
    assert masked_mean(x, mask).item() == pytest.approx(2.0)
    assert masked_mean(x, torch.zeros(1, 3)).item() == 0.0
    assert masked_mean(x, torch.tensor([[True, True, False]])).item() == pytest.approx(2.5)


@quick
@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=9), st.integers(0, 4))
def test_masked_mean_is_the_mean_of_what_is_there(numbers, padding):
    x = torch.tensor(numbers + [NAN] * padding)
    want = pytest.approx(np.mean(numbers), abs=1e-5)
    assert masked_mean(x, ~x.isnan()).item() == want
