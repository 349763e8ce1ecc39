"""Block attention over packed trees: equal to dense masks and to sequences read one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forests import CPU, Forest, plan_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from genac.models.packed import plan as plan_module
from genac.models.packed.attention import (
    BlockAttention,
    FusedAttention,
    attention,
    fuses,
    tree_attention,
)
from genac.models.packed.plan import Segment, TreePlan
from genac.models.tiny import build_model
from genac.native.library import library
from genac.native.tree_attention import attend

EXACT: dict[str, Any] = {"atol": 1e-11, "rtol": 1e-10}


@st.composite
def forests(draw: Any) -> Forest:
    out = []
    for prefix in draw(st.lists(st.integers(1, 24), min_size=1, max_size=3)):
        suffix = st.tuples(st.integers(0, prefix), st.integers(1, 12))
        out.append((prefix, draw(st.lists(suffix, max_size=6))))
    return out


def inputs_of(length: int, heads: int = 2, dim: int = 8, keys: int | None = None) -> list[Tensor]:
    """Queries, keys, values (H, L, D) that ask for gradients, and a gradient of the output."""
    made = torch.Generator().manual_seed(length)
    sizes = [heads, keys or heads, keys or heads, heads]
    drawn = [torch.randn(h, length, dim, generator=made, dtype=torch.float64) for h in sizes]
    return [*(2 * x.requires_grad_() for x in drawn[:3]), drawn[3]]


def dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) v where `seen`, by the formula."""
    logits = (q @ k.transpose(-1, -2) * scale).masked_fill(~seen, -torch.inf)
    return torch.softmax(logits, -1) @ v


def alone(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Every segment as an ordinary causal sequence behind what it shares."""
    rows = []
    for s in plan.segments:
        own, shared = range(s.start, s.start + s.length), range(s.prefix, s.prefix + s.shared)
        path = torch.tensor([*shared, *own])
        causal = torch.ones(len(path), len(path)).tril().bool()
        rows.append(dense(q[:, path], k[:, path], v[:, path], causal, scale)[:, s.shared :])
    return torch.cat(rows, 1)


def blocks(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """The kernel, which has tokens before heads."""
    tokens = (x.transpose(0, 1) for x in (q, k, v))
    return BlockAttention.apply(*tokens, plan, scale).transpose(0, 1)


def close(plan: TreePlan, heads: int = 2, dim: int = 8) -> None:
    q, k, v, grad = inputs_of(plan.length, heads, dim)
    result = blocks(q, k, v, plan, 0.3)
    got = torch.autograd.grad(result, (q, k, v), grad)
    for expected in (alone(q, k, v, plan, 0.3), dense(q, k, v, plan.seen, 0.3)):
        torch.testing.assert_close(result, expected, **EXACT)
        for own, theirs in zip(got, torch.autograd.grad(expected, (q, k, v), grad), strict=True):
            torch.testing.assert_close(own, theirs, **EXACT)


# --- the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix_block", [1, 10, 256])
@settings(max_examples=60, deadline=None)
@given(forests())
@example([(1, [])])
@example([(1, [(1, 1), (0, 1), (1, 1)]), (1, [])])  # nothing but single tokens
@example([(8, [(5, 7), (5, 8), (3, 8)]), (9, [(9, 8), (0, 7), (2, 1)])])  # padded groups
@example([(6, [(0, 4), (6, 4)]), (6, [(6, 4), (6, 4), (2, 4)])])  # shared 0 between others
def test_blocks_equal_dense_masks_and_separate_sequences(prefix_block, forest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "PREFIX_BLOCK_TOKENS", prefix_block)
        close(plan_of(forest))


@pytest.mark.parametrize("waste", [1.0, 1.25, 100.0])
@settings(max_examples=30, deadline=None)
@given(forests())
def test_padding_of_a_group_takes_part_in_nothing(waste, forest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "WASTE", waste)
        plan = plan_of(forest)
        close(plan)
        padded = any(valid is not None for _, valid in plan.groups)
        ragged = len({s.length for s in plan.segments}) > 1
        assert waste == 1.25 or padded == (ragged and waste == 100)


def test_long_rows_cross_the_tiles_of_the_kernel():
    # The kernel cuts queries at 192 and 768 tokens and keys at 512.
    close(plan_of([(770, [(770, 195), (513, 31)])]), heads=1, dim=4)


def fused(plan: TreePlan, heads: int, keys: int, dim: int) -> list[Tensor]:
    """The native kernel's output and gradients, equal to the formula's."""
    *inputs, grad = (x.detach().float() for x in inputs_of(plan.length, heads, dim, keys))
    tokens = [x.transpose(0, 1).contiguous().requires_grad_() for x in inputs]
    result = FusedAttention.apply(*tokens, plan, dim**-0.5)
    own = [result, *torch.autograd.grad(result, tokens, grad.transpose(0, 1))]
    q, k, v = (x.double().requires_grad_() for x in inputs)
    of = torch.arange(heads) // (heads // keys)
    expected = dense(q, k[of], v[of], plan.seen, dim**-0.5)
    theirs = [expected, *torch.autograd.grad(expected, (q, k, v), grad.double())]
    for one, other in zip(own, theirs, strict=True):
        close = {"atol": 5e-5, "rtol": 5e-5}
        torch.testing.assert_close(one.transpose(0, 1), other.float(), **close)
    return [x.detach() for x in own]


native = pytest.mark.skipif(library() is None, reason="no C++ compiler here")


@native
@pytest.mark.parametrize(("heads", "keys", "dim"), [(2, 2, 8), (2, 2, 40), (4, 2, 16), (3, 1, 32)])
@settings(max_examples=30, deadline=None)
@given(forest=forests())
@example(forest=[(1, [])])
@example(forest=[(1, [(1, 1)] * 20), (1, []), (3, [(0, 1)] * 20)])  # nothing but single tokens
@example(forest=[(15, [(15, 16), (7, 17), (0, 15), (15, 1)])])  # across the ends of query blocks
def test_the_kernel_in_native_code_computes_the_same(heads, keys, dim, forest):
    fused(plan_of(forest), heads, keys, dim)


# The native kernel takes 16 queries and 96 keys at a time, and products in tiles of 6 and 16.
@native
@pytest.mark.parametrize(
    "forest",
    [
        [(95, [(95, 33)]), (96, [(96, 32)]), (97, [(97, 31), (96, 2), (1, 1)])],
        [(300, [(290, 7), (10, 101), (0, 64), (299, 1), (100, 50)])],
        [(5, [(5, 100), (2, 97), (5, 96), (5, 1), (5, 95)]), (191, []), (193, [])],
    ],
)
@pytest.mark.parametrize(("heads", "keys", "dim"), [(1, 1, 64), (6, 2, 24), (2, 2, 128)])
def test_native_tiles_meet_at_any_length(forest, heads, keys, dim):
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(fused(plan_of(forest), heads, keys, dim))
    finally:
        torch.set_num_threads(threads)
    for one in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, results[0], strict=True))


@native
@pytest.mark.parametrize("slope", [-4, 0, 4])
def test_native_weights_where_scores_climb_from_key_to_key(slope):
    # Scores of 0, slope, 2 slope, ...: exp of most of them overflows, or is nothing, on its own.
    plan = plan_of([(250, [(200, 40)])])
    k = torch.zeros(plan.length, 1, 8)
    k[:, 0, 0] = slope * torch.arange(plan.length)
    v = torch.eye(8)[torch.arange(plan.length) % 8][:, None]
    q = torch.eye(8)[torch.zeros(plan.length, dtype=torch.long)][:, None]
    heads = [x.double().transpose(0, 1) for x in (q, k, v)]
    expected = dense(heads[0], heads[1], heads[2], plan.seen, 1.0)[0].float()
    result = FusedAttention.apply(q, k, v, plan, 1.0)[:, 0]
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)


@native
def test_the_native_kernel_reads_and_writes_slices_of_wider_arrays():
    plan = plan_of([(40, [(20, 9), (0, 3)])])
    wide, pulled = torch.randn(plan.length, 8, 16), torch.full((plan.length, 8, 16), 7.0)
    names = {"q": slice(0, 4), "k": slice(4, 6), "v": slice(6, 8)}
    apart = {name: wide[:, at] for name, at in names.items()}
    whole = {name: x.contiguous() for name, x in apart.items()}
    out, grad = torch.randn(2, plan.length, 4, 16)
    lse = torch.empty(plan.length, 4)
    for given_, result in (
        (apart, {f"d{name}": pulled[:, at] for name, at in names.items()}),
        (whole, {f"d{name}": torch.empty_like(x) for name, x in whole.items()}),
    ):
        attend(plan.table, plan.prefix_groups, 0.3, **given_, out=out, lse=lse)
        attend(plan.table, plan.prefix_groups, 0.3, **given_, out=out, lse=lse, grad=grad, **result)
    assert torch.equal(torch.cat([result[f"d{name}"] for name in names], 1), pulled)


@native
def test_a_number_that_is_none_does_not_vanish():
    plan = plan_of([(20, [(20, 20)])])
    for place in range(3):
        tokens = [torch.randn(plan.length, 1, 8) for _ in range(3)]
        tokens[place][25, 0, 3] = torch.nan
        result = FusedAttention.apply(*tokens, plan, 0.3)
        assert result[25].isnan().any() and result[:16].isfinite().all()


def test_prefix_groups_read_no_tokens_of_each_other():
    assert plan_of([(3, [(2, 1), (0, 2)]), (4, []), (2, [(1, 1)])]).prefix_groups.tolist() == [
        *(0, 2, 3, 4, 6)  # a suffix that shares nothing is a prefix group, and the last is the end
    ]
    # A suffix far behind its shared prefix holds together what stands between.
    segments = (Segment(0, 3), Segment(3, 2), Segment(5, 2, 0, 1), Segment(7, 1))
    assert TreePlan(8, segments, CPU).prefix_groups.tolist() == [0, 3, 4]


def test_the_requests_to_the_native_kernel():
    plan = plan_of([(10, [(3, 2)])])
    q = torch.zeros(1, 2, 3, 8)
    assert fuses(q, plan) == (library() is not None)
    assert not fuses(q[..., :4], plan) and not fuses(q.double(), plan)
    assert not fuses(q, plan_of([(10, [])], torch.device("meta")))


def test_gradients_by_finite_differences():
    plan = plan_of([(3, [(2, 2), (3, 2), (0, 1)]), (2, [(1, 3)])])
    assert any(valid is not None for _, valid in plan.groups) and len(plan.prefix_blocks) == 2
    q, k, v, _ = inputs_of(plan.length, heads=1, dim=3)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *x: blocks(*x, plan, 0.7), leaves)


def test_who_sees_whom_by_hand():
    # A shared prefix of 3, one token that saw 2 of it, two tokens that saw nothing.
    seen = plan_of([(3, [(2, 1), (0, 2)])]).seen
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@settings(max_examples=60, deadline=None)
@given(forests(), st.integers(1, 20))
def test_groups_and_prefix_blocks_cover_every_segment_once(forest, prefix_block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "PREFIX_BLOCK_TOKENS", prefix_block)
        plan = plan_of(forest)
        kept = [index if valid is None else index[valid] for index, valid in plan.groups]
        assert sorted(torch.cat([x.flatten() for x in kept]).tolist()) == list(range(plan.length))
        for index, _ in plan.groups:
            own = sum(s.length for s in plan.segments if s.start in index[:, 0].tolist())
            assert index.numel() <= plan_module.WASTE * own
        crossed = [t for c in plan.prefix_blocks for t in range(c.start, c.end)]
        behind = [s for s in plan.segments if s.shared]
        assert crossed == [t for s in behind for t in range(s.start, s.start + s.length)]


# --- transformers' interface ---------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "keys"), [(4, 2), (6, 1), (3, 3)])
@pytest.mark.parametrize("scaling", [None, 0.4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_grouped_query_heads(heads, keys, scaling, dtype):
    plan = plan_of([(7, [(7, 3), (4, 3), (4, 1)]), (4, [(2, 5)])])
    q, k, v, grad = inputs_of(plan.length, heads, 8, keys)
    own = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    out, weights = attention(None, *(x[None] for x in own), None, scaling, plan=plan)
    assert weights is None and out.shape == (1, plan.length, heads, 8)
    result = out[0].transpose(0, 1)
    got = torch.autograd.grad(result, own, grad.to(dtype))
    # Query head h reads key head h // (heads / keys), as transformers' repeat_kv lays them out.
    of = torch.arange(heads) // (heads // keys)
    expected = dense(q, k[of], v[of], plan.seen, scaling or 8**-0.5)
    theirs = torch.autograd.grad(expected, (q, k, v), grad)
    bound = EXACT if dtype == torch.float64 else {"atol": 5e-5, "rtol": 5e-5}
    for one, other in zip((result, *got), (expected, *theirs), strict=True):
        torch.testing.assert_close(one, other.to(dtype), **bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_within_its_rounding(dtype):
    plan = plan_of([(40, [(40, 9), (31, 10), (0, 9)]), (20, [(20, 30)])])
    q, k, v, grad = inputs_of(plan.length)
    expected = alone(q, k, v, plan, 0.3)
    theirs = torch.autograd.grad(expected, (q, k, v), grad)
    expected = expected.detach()
    low = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    result = blocks(*low, plan, 0.3)
    assert result.dtype == dtype
    own = torch.autograd.grad(result, low, grad.to(dtype))
    bound = 2e-5 if dtype == torch.float32 else 0.15
    for one, other in zip([result.detach(), *own], [expected, *theirs], strict=True):
        assert float((one.double() - other).norm() / other.norm()) < bound
        assert float((one.double() - other).abs().max()) < bound * float(other.abs().max())


def test_the_models_attention_is_restored_after_use_and_after_an_exception():
    model = build_model(40, 16, 1, 2, 64, seed=0)
    ids = torch.tensor([[5, 6, 7, 8]])
    plan = plan_of([(3, [(1, 1)])])
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        before = model(ids).logits
        written = model.generate(ids, max_new_tokens=4, do_sample=False)
        with tree_attention(model.base_model):
            used = model(ids, plan=plan, use_cache=False).logits
        assert not torch.allclose(used[0, -1], before[0, -1])  # the plan hid tokens 1 and 2
        assert model.config._attn_implementation == name
        with pytest.raises(RuntimeError, match="inside"), tree_attention(model.base_model):
            raise RuntimeError("inside")
        assert model.config._attn_implementation == name
        assert torch.equal(model(ids).logits, before)
        assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), written)


def test_without_a_plan_it_is_transformers_own_attention():
    model = build_model(40, 16, 1, 2, 64, seed=0)
    ids = torch.tensor([[5, 6, 7, 8]])
    with tree_attention(model.base_model):
        result = model(ids, use_cache=False).logits
    torch.testing.assert_close(result, model(ids, use_cache=False).logits)


@pytest.mark.gpu
@pytest.mark.parametrize("keys", [4, 2])
def test_other_devices_give_the_same(keys):
    forest = [(7, [(7, 3), (4, 3), (4, 1)]), (4, [(2, 5)])]
    drawn = [x.detach() for x in inputs_of(plan_of(forest).length, 4, 8, keys)]
    results = []
    for name in ("cpu", "cuda"):
        q, k, v, grad = (x.to(name)[None] for x in drawn)
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out, _ = attention(None, *leaves, None, plan=plan_of(forest, torch.device(name)))
        given_back = torch.autograd.grad(out, leaves, grad.transpose(1, 2))
        results.append([x.detach().cpu() for x in (out, *given_back)])
    torch.testing.assert_close(results[0], results[1], **EXACT)
