"""Packed trees through FlexAttention: which blocks are listed, and that they give the same."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forests import CPU
from forests import plan_of as plan_from
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from genac.models.packed import flex as module
from genac.models.packed.attention import attention
from genac.models.packed.flex import BLOCK, block_tables, flexes, listed
from genac.models.packed.plan import Segment, TreePlan
from genac.native.library import library


def plan_of(seed: int, prefixes: int = 3, device: torch.device = CPU) -> TreePlan:
    """Shared prefixes of up to 500 tokens with suffixes of one to 300 behind parts of them."""
    rng, forest = np.random.default_rng(seed), []
    for _ in range(prefixes):
        prefix = int(rng.integers(1, 500))
        suffix = lambda t=prefix: (int(rng.integers(0, t + 1)), int(rng.choice([1, 17, 128, 300])))  # noqa: E731
        forest.append((prefix, [suffix() for _ in range(int(rng.integers(0, 4)))]))
    return plan_from(forest, device)


def tiles(seen: torch.Tensor, outside: bool) -> torch.Tensor:
    """(N, N, BLOCK, BLOCK); places behind the last token count as `outside`."""
    full = F.pad(seen, (0, -len(seen) % BLOCK) * 2, value=outside)
    return full.view(len(full) // BLOCK, BLOCK, -1, BLOCK).transpose(1, 2)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_those_that_hold_something_to_see(seed):
    plan = plan_of(seed)
    some, whole = block_tables(plan.table)
    seen = tiles(plan.seen, outside=False)
    assert np.array_equal(some, seen.any(-1).any(-1).numpy())
    assert np.array_equal(whole, seen.all(-1).all(-1).numpy())


def test_wholly_visible_blocks_are_listed_apart():
    # 300 tokens, then 128 on a block boundary that see 256 of them: two whole blocks.
    plan = TreePlan(512, (Segment(0, 384), Segment(384, 128, 0, 256)), CPU)
    some, whole = block_tables(plan.table)
    count, columns = listed(whole, CPU)
    assert count.flatten().tolist() == [0, 1, 2, 2]
    assert columns[0, 0, 3, :2].tolist() == [0, 1]
    count, columns = listed(some & ~whole, CPU)
    assert count.flatten().tolist() == [1, 1, 1, 1]
    assert columns[0, 0, :, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_the_mask_of_tokens_is_the_plans(seed):
    plan = plan_of(seed)
    token, none = torch.arange(plan.length), torch.tensor(0)
    sees: Any = plan.blocks.mask_mod
    result = sees(none, none, token[:, None], token)
    assert torch.equal(result, plan.seen)


@pytest.mark.slow
@pytest.mark.skipif(library() is None, reason="needs a compiler")
def test_compiled_it_gives_what_a_dense_mask_gives():
    """Forward only, and for one length: on CPU there is no more of it."""
    plan = plan_of(0)
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, plan.length, 32, generator=made) for h in (4, 2, 2))
    options = {"scale": 0.3, "enable_gqa": True}
    with torch.no_grad():
        compiled = torch.compile(flex_attention, dynamic=False)
        out = compiled(q, k, v, block_mask=plan.blocks, **options)
    mask = plan.dense(torch.float32)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:flex_attention called without torch.compile")
def test_no_head_shape_falls_back_to_the_uncompiled_attention(monkeypatch):
    """Actor and critic with and without gradients pass Dynamo's own limit of 8 kernels."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_(f, backend="eager", **how))
    torch._dynamo.reset()
    module.compiled.cache_clear()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    plan = plan_of(0, prefixes=1)
    try:
        with torch.no_grad():
            for heads, keys, dim in ((h, k, d) for d in (16, 32, 64) for h, k in ((4, 2), (2, 2))):
                for dtype in (torch.float32, torch.bfloat16):
                    q, k, v = (
                        torch.ones(1, h, plan.length, dim, dtype=dtype) for h in (heads, keys, keys)
                    )
                    module.flex(q, k, v, plan.blocks, 1.0)
    finally:
        module.compiled.cache_clear()
        torch._dynamo.reset()


class Failing(torch.autograd.Function):
    """Its backward pass cannot be compiled."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no Triton here")


@pytest.mark.parametrize("fails", [True, False])
def test_it_is_tried_forward_and_backward_before_it_is_used(fails, monkeypatch):
    queries = []

    def kernel(q, k, v, **options):
        queries.append(options)
        return Failing.apply(q) if fails else q + k.sum() + v.sum()

    monkeypatch.setattr(module, "compiled", lambda: kernel)
    module.works.cache_clear()
    with warnings.catch_warnings(record=True) as answer:
        warnings.simplefilter("always")
        for _ in range(2):
            assert module.works(CPU, torch.float32, 4, 2, 16) is not fails
    module.works.cache_clear()
    assert len(queries) == (1 if fails else 2) and queries[0]["enable_gqa"]  # two rows, tried once
    rows = [str(w.message) for w in answer]
    assert len(rows) == fails and all("no Triton here" in t and "GENAC_FLEX=0" in t for t in rows)


def test_it_is_for_gpus(monkeypatch):
    def heads(device: str, dtype: torch.dtype, dim: int) -> Any:
        return SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 4, 9, dim))

    monkeypatch.setattr(module, "works", lambda *about: True)
    good = heads("cuda", torch.bfloat16, 32)
    assert flexes(good, good)
    for bad in (("cpu", torch.bfloat16, 32), ("cuda", torch.float64, 32), ("cuda", torch.half, 8)):
        assert not flexes(heads(*bad), heads(*bad))
    monkeypatch.setenv("GENAC_FLEX", "0")
    assert not flexes(good, good)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_output_and_gradients_are_those_of_a_dense_mask(dtype, monkeypatch):
    plan = plan_of(3, device=torch.device("cuda"))
    made = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, h, plan.length, 32, generator=made) for h in (4, 2, 2, 4)]
    results = []
    for way in ("1", "0"):
        monkeypatch.setenv("GENAC_FLEX", way)
        leaves = [x.to("cuda", dtype).requires_grad_() for x in drawn[:3]]
        assert way == "0" or flexes(leaves[0], leaves[1])
        out, _ = attention(None, leaves[0], leaves[1], leaves[2], None, plan=plan)
        grad = drawn[3].to("cuda", dtype).transpose(1, 2)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, grad)])
    close = (
        {"atol": 3e-2, "rtol": 3e-2} if dtype is torch.bfloat16 else {"atol": 1e-3, "rtol": 1e-3}
    )
    torch.testing.assert_close(*results, **close)
