"""A run whose tokenizer writes 10 as 1 and 0, and its critic read by transformers alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import save_family
from micro import MICRO, Answer
from transformers import AutoModelForCausalLM

from genac import Critic
from genac.critics.scores import score_tokens
from genac.models import tiny
from genac.models.loading import load_tokenizer
from genac.runs.store import Run
from genac.types import Rationale

PARTIALS = [("3 a+4>", ""), ("3 a+4>", "a+4=7\n"), ("3 a+4>", "a+4=6\n"), ("9 a+9>", "")]
SHORT: dict[str, Any] = {
    "base": MICRO["stages"]["base"] | {"steps": 60},
    "joint": {"steps": 1, "eval_every": 0},
}


@pytest.fixture
def run(run_micro: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Under the improved preset; that its readout could not be had would be an error."""
    words = [word for word in tiny.CRITIC_WORDS if word != "10"]
    monkeypatch.setattr(tiny, "CRITIC_WORDS", words)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the critic's tokenizer")
        return run_micro(stages=SHORT | {"folder": str(tmp_path / "stages")})


def distribution(model: Any, rationale: Rationale, digits: list[int]) -> np.ndarray:
    """The scores' probabilities, read from the beginning."""

    def following(ids: tuple[int, ...]) -> np.ndarray:
        with torch.no_grad():
            return torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()

    before = (*rationale.prompt_ids, *rationale.completion_ids[: rationale.score_at])
    first, behind = following(before)[digits], following((*before, digits[1]))[digits]
    ends, zero = 1 - behind.sum(), behind[0]
    probs = np.append(first, first[1] * zero / (zero + ends)) / first.sum()
    probs[10] = first[1] * zero / (zero + ends) / first.sum()
    probs[1] = first[1] * ends / (zero + ends) / first.sum()
    return probs


def test_a_run_and_its_critic(run: Run, genac: Callable[..., Answer]) -> None:
    rl = run.metrics("critic_rl")
    assert len(rl) == 2 and all(line["critic/grad_norm"] > 0 for line in rl)
    rows = run.table("estimates", "joint", 0)
    known = [row for row in rows if row["score_probs"]]
    assert len(known) > len(rows) / 2
    for row in known:
        assert sum(row["score_probs"]) == pytest.approx(1, abs=0.01)
        assert row["expected"] == pytest.approx(row["score_probs"] @ np.arange(11) / 10, abs=0.01)
    saved = Critic.from_pretrained(run.path / "critic")
    judged = saved.score_many(PARTIALS, rationales=4)
    assert all(j.value is None or j.spread is not None for j in judged)
    assert any(v is not None and round(10 * v, 6) % 1 for j in judged for v in j.values)
    answer = genac("score", str(run.path / "critic"), *PARTIALS[1])
    assert answer.code == 0 and "value" in answer.out
    agrees_with_transformers(saved, run.path / "critic")


def agrees_with_transformers(saved: Critic, folder: Path) -> None:
    model, critic = AutoModelForCausalLM.from_pretrained(folder).eval(), saved._critic
    prompts = [saved.prompt(*pair) for pair in PARTIALS]
    rationales = [t for many in critic.think(prompts, 0, 8) for t in many if t.value is not None]
    digits = critic.runtime.tokenizer.convert_tokens_to_ids(list("0123456789"))
    ones = 0
    for rationale in rationales:
        assert rationale.score_probs is not None and rationale.score_at is not None
        np.testing.assert_allclose(
            rationale.score_probs, distribution(model, rationale, digits), atol=1e-4
        )
        ones += rationale.completion_ids[rationale.score_at] == digits[1]
    assert 0 <= ones < len(rationales)  # most were counterfactual tokens


@pytest.mark.parametrize(("family", "split"), [("qwen3", True), ("llama", False)])
def test_families(family: str, split: bool, tmp_path: Path) -> None:
    """Qwen's digits stand alone; the Llama tokenizer made here melts a 7 into the closing tag."""
    result = score_tokens(load_tokenizer(save_family(family, tmp_path / family)))
    assert (result is not None and result.one is not None) == split
    assert split or result is None
