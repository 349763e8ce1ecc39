"""Padding, grouping and packing: nothing is lost, nothing is invented, and mixed batches are
refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genac.batching import STREAMS, Rows, build_microbatches, cut, microbatches, pad, rows_of
from genac.prefixes import GroupedSequence, PrefixGroup, prefix_groups
from genac.types import Sample, ScoreTarget

Ids = tuple[int, ...]


def sample(ids, **streams) -> Sample:
    arrays = {k: np.array(v, np.float32) for k, v in streams.items()}
    weights = arrays.pop("weights", np.ones(len(ids), np.float32))
    return Sample(tuple(ids), weights, "policy", **arrays)


@st.composite
def forests(draw: st.DrawFn) -> list[Ids]:
    """Sequences that share much: each goes on from somewhere in an earlier one, or is a twin."""
    tokens = st.lists(st.integers(1, 3), min_size=1, max_size=9)
    out: list[Ids] = [tuple(draw(tokens)) * 2]
    for _ in range(draw(st.integers(0, 14))):
        before = draw(st.sampled_from(out))
        kept = before[: draw(st.integers(0, len(before)))]
        out.append(kept + tuple(draw(tokens)) if draw(st.booleans()) or not kept else kept)
    return draw(st.permutations(out))


def members_of(results: list[list[PrefixGroup]]) -> list[int]:
    return sorted(i for microbatch in results for group in microbatch for i in group.members)


def holds(rows: Rows, chosen: list[Sample]) -> None:
    """The packed row holds every sample: its tokens, its positions, and it sees itself alone."""
    assert rows.packed is not None
    seen_LL = rows.packed.plan.seen
    assert rows.packed.plan.length == len(rows.packed.ids_L) == rows.tokens == len(seen_LL)
    for row, one in enumerate(chosen):
        place = rows.place_BT[row, : len(one.ids)]
        assert rows.packed.ids_L[place].tolist() == list(one.ids)
        assert rows.packed.position_L[place].tolist() == list(range(len(one.ids)))
        for t in range(len(one.ids)):
            assert set(seen_LL[place[t]].nonzero()[:, 0].tolist()) == set(place[: t + 1].tolist())


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
    weights = np.array([0, 1, 0.1], np.float32)
    scored = Sample((7, 8, 9), weights, "score", scores=(score,), temperature=0.7)
    rows = pad([replace(sample((5,)), loss="score"), scored])
    assert rows.ids_BT.tolist() == [[5, 0, 0], [7, 8, 9]]
    torch.testing.assert_close(rows.weights_BT, torch.tensor([[1.0, 0, 0], [0, 1, 0.1]]))
    torch.testing.assert_close(rows.temperature_B, torch.tensor([1.0, 0.7]))
    assert all(getattr(rows, f"{name}_BT") is None for name in STREAMS if name != "weights")
    assert rows.score_row is not None and rows.score_at is not None
    assert rows.score_row.tolist() == [1] and rows.score_at.tolist() == [2]


@pytest.mark.parametrize("name", [s for s in STREAMS if s != "weights"])
def test_a_stream_that_only_some_samples_carry_is_an_error(name):
    with pytest.raises(ValueError, match=f"carry {name} and some do not"):
        pad([sample((5, 6), **{name: [1, 2]}), sample((5, 6))])


# --- what samples share --------------------------------------------------------------------------


@settings(deadline=None)
@given(forests(), st.integers(1, 80))
@example([(1,), (1,)], 1)
def test_microbatches_hold_every_sample_once_within_the_budget(sequences, budget):
    for packed in (True, False):
        result = build_microbatches(sequences, budget, packed=packed)
        assert members_of(result) == list(range(len(sequences)))
        for microbatch in result:
            for group in microbatch:
                longest, *rest = group.sequences
                for sequence in rest:
                    assert sequence.ids[: sequence.shared] == longest.ids[: sequence.shared]
                    assert all(sequences[i] == sequence.ids for i in sequence.members)
                assert all(sequences[i] == longest.ids for i in longest.members)
            tokens = sum(group.tokens for group in microbatch)
            alone = len(microbatch) == 1 and len(microbatch[0].sequences) <= 2
            assert tokens <= budget or alone
            if not packed:
                assert all(len(group.sequences) == 1 for group in microbatch)


@settings(deadline=None)
@given(forests(), st.integers(1, 80))
def test_packed_rows_hold_each_sample_as_if_it_were_alone(sequences, budget):
    samples = [sample(ids, advantages=[i] * len(ids)) for i, ids in enumerate(sequences)]
    for microbatch in build_microbatches(sequences, budget, packed=True):
        rows = rows_of(samples, microbatch, packed=True)
        members = [i for group in microbatch for i in group.members]
        assert rows.tokens == sum(group.tokens for group in microbatch)
        assert rows.advantages_BT is not None and len(rows.ids_BT) == len(members)
        assert rows.advantages_BT[:, 0].tolist() == members
        for row, i in enumerate(members):
            assert tuple(rows.ids_BT[row, : len(sequences[i])].tolist()) == sequences[i]
        holds(rows, [samples[i] for i in members])


@settings(deadline=None)
@given(forests())
def test_padded_rows_place_every_token_where_it_stands(sequences):
    samples = [sample(ids) for ids in sequences]
    [microbatch] = build_microbatches(sequences, 10**6, packed=False)
    rows = rows_of(samples, microbatch, packed=False)
    assert rows.packed is None and rows.tokens == len(samples) * max(map(len, sequences))
    assert torch.equal(rows.ids_BT.flatten()[rows.place_BT], rows.ids_BT)


def test_a_packed_row_by_hand():
    sequences = [(5, 6, 7, 9), (5, 6, 7, 8, 1), (5, 6), (5, 6, 7, 8, 1), (2, 3)]
    [microbatch] = build_microbatches(sequences, 100, packed=True)
    rows = rows_of([sample(ids) for ids in sequences], microbatch, packed=True)
    assert rows.packed is not None
    assert rows.packed.ids_L.tolist() == [5, 6, 7, 8, 1, 9, 2, 3]
    assert rows.packed.position_L.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]
    assert [i for group in microbatch for i in group.members] == [1, 3, 0, 2, 4]
    assert rows.place_BT[0].tolist() == rows.place_BT[1].tolist() == [0, 1, 2, 3, 4]
    assert rows.place_BT[2, :4].tolist() == [0, 1, 2, 5]
    assert rows.place_BT[3, :2].tolist() == [0, 1]
    assert rows.place_BT[4, :2].tolist() == [6, 7]


def test_a_prefix_group_beyond_the_budget_is_cut_by_hand():
    # A prompt of 4 tokens, answered four times with 3, 3, 2 and 2 tokens.
    prompt = (1, 2, 3, 4)
    rests = [(5, 5, 5), (6, 6, 6), (7, 7), (8, 8)]
    [group] = prefix_groups([prompt + rest for rest in rests])
    assert group.tokens == 14
    assert cut(group, 14) == [group]
    longest, *rest = (GroupedSequence(prompt + r, 4, (i,)) for i, r in enumerate(rests))
    longest = GroupedSequence(longest.ids, 7, (0,))
    again = GroupedSequence(prompt, 4, ())
    assert cut(group, 12) == [PrefixGroup((longest, *rest[:2])), PrefixGroup((again, rest[2]))]
    one_by_one = [PrefixGroup((longest, rest[0])), *(PrefixGroup((again, r)) for r in rest[1:])]
    assert cut(group, 1) == one_by_one
    assert [part.tokens for part in one_by_one] == [10, 6, 6]


def test_a_cut_prefix_group_whose_shared_part_outgrows_its_last_members():
    # The second part reads 5 shared tokens again, of which its only sample has 3.
    sequences = [(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 7), (1, 2, 3)]
    result = cut(prefix_groups([*sequences, (1, 2, 3, 9)])[0], 7)
    samples = [sample(ids) for ids in [*sequences, (1, 2, 3, 9)]]
    assert members_of([[part] for part in result]) == [0, 1, 2, 3] and len(result) == 2
    for part in result:
        chosen = [samples[i] for i in part.members]
        holds(rows_of(samples, [part], packed=True), chosen)
