"""Padding and grouping: nothing is lost, nothing is invented, and mixed batches are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genac.batching import STREAMS, microbatches, pad
from genac.types import Sample, ScoreTarget


def sample(ids, **streams) -> Sample:
    arrays = {k: np.array(v, np.float32) for k, v in streams.items()}
    mask = arrays.pop("mask", np.ones(len(ids), np.float32))
    return Sample(tuple(ids), mask, "policy", **arrays)


@given(st.lists(st.integers(1, 30), max_size=25), st.integers(1, 100))
def test_microbatches_are_a_partition_within_the_budget(lengths, budget):
    groups = microbatches(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_microbatches_by_hand():
    assert microbatches([3, 9, 4, 20], 10) == [[3], [1], [2, 0]]


def test_pad_by_hand():
    score = ScoreTarget(2, tuple(range(11)), (0.5,) * 11)
    mask = np.array([0, 1, 0.1], np.float32)
    rows = pad([sample((5,)), Sample((7, 8, 9), mask, "policy", score=score, temperature=0.7)])
    assert rows.ids_BT.tolist() == [[5, 0, 0], [7, 8, 9]]
    torch.testing.assert_close(rows.mask_BT, torch.tensor([[1.0, 0, 0], [0, 1, 0.1]]))
    torch.testing.assert_close(rows.temperature_B, torch.tensor([1.0, 0.7]))
    assert all(getattr(rows, f"{name}_BT") is None for name in STREAMS if name != "mask")
    assert rows.score_row is not None and rows.score_at is not None
    assert rows.score_row.tolist() == [1] and rows.score_at.tolist() == [2]


@pytest.mark.parametrize("name", [s for s in STREAMS if s != "mask"])
def test_a_stream_that_only_some_samples_carry_is_an_error(name):
    with pytest.raises(ValueError, match=f"carry {name} and some do not"):
        pad([sample((5, 6), **{name: [1, 2]}), sample((5, 6))])
