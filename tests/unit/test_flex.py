"""Packed trees through FlexAttention: which blocks are listed, and that they give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from genac.models import flex as module
from genac.models.flex import BLOCK, block_tables, flexes, listed
from genac.models.tree_attention import attention
from genac.models.tree_plan import Stretch, TreePlan

CPU = torch.device("cpu")


def plan_of(seed: int, trunks: int = 3, device: torch.device = CPU) -> TreePlan:
    """Trunks of up to 500 tokens with branches of one to 300 behind parts of them."""
    rng, stretches, at = np.random.default_rng(seed), [], 0
    for _ in range(trunks):
        start, trunk = at, int(rng.integers(1, 500))
        stretches.append(Stretch(at, trunk, start, 0))
        at += trunk
        for _ in range(int(rng.integers(0, 4))):
            own = int(rng.choice([1, 17, 128, 300]))
            stretches.append(Stretch(at, own, start, int(rng.integers(0, trunk + 1))))
            at += own
    return TreePlan(at, tuple(stretches), device)


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


def test_wholly_seen_blocks_are_found_and_listed_apart():
    # 300 tokens, then 128 on a block boundary that see 256 of them: two whole blocks.
    plan = TreePlan(512, (Stretch(0, 384), Stretch(384, 128, 0, 256)), CPU)
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
    found = sees(none, none, token[:, None], token)
    assert torch.equal(found, plan.seen)


@pytest.mark.slow
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
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)


def test_it_is_for_gpus(monkeypatch):
    monkeypatch.setattr(module, "_off", [])
    meta = torch.device("cuda")
    assert flexes(meta, torch.bfloat16, 32)
    assert not flexes(torch.device("cpu"), torch.bfloat16, 32)
    assert not flexes(meta, torch.float64, 32) and not flexes(meta, torch.float32, 8)
    monkeypatch.setenv("GENAC_FLEX", "0")
    assert not flexes(meta, torch.bfloat16, 32)


def test_where_it_fails_rows_are_masked(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no Triton here")

    monkeypatch.setattr(module, "_off", [])
    monkeypatch.setattr(module, "compiled", lambda: broken)
    q, k, v = torch.randn(3, 1, 2, 5, 32)
    with pytest.warns(UserWarning, match="no Triton here.*GENAC_FLEX=0"):
        found = module.flex(q, k, v, TreePlan(5, (Stretch(0, 5),), CPU).blocks, 1.0)
    assert found is None
    assert not flexes(torch.device("cuda"), torch.bfloat16, 32)  # it is not tried again


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_output_and_gradients_are_those_of_a_dense_mask(dtype, monkeypatch):
    monkeypatch.setattr(module, "_off", [])
    plan = plan_of(3, device=torch.device("cuda"))
    made = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, h, plan.length, 32, generator=made) for h in (4, 2, 2, 4)]
    found = []
    for way in ("1", "0"):
        monkeypatch.setenv("GENAC_FLEX", way)
        leaves = [x.to("cuda", dtype).requires_grad_() for x in drawn[:3]]
        out, _ = attention(None, leaves[0], leaves[1], leaves[2], None, plan=plan)
        grad = drawn[3].to("cuda", dtype).transpose(1, 2)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, grad)])
    assert not module._off
    close = (
        {"atol": 3e-2, "rtol": 3e-2} if dtype is torch.bfloat16 else {"atol": 1e-3, "rtol": 1e-3}
    )
    torch.testing.assert_close(*found, **close)
