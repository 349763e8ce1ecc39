"""A pretrained actor in TRL, a pretrained critic in a server of its own, text in English."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from smollm2 import gguf_file

pytest.importorskip("trl")

from datasets import Dataset
from trl_critic import server
from trl_runs import config, trainer

from genac.client import Client
from genac.stages.local_models import local_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
QUESTIONS = {
    "Tom has 3 apples and buys 4 more. How many apples has he? Reason line by line.": "7",
    "A box holds 6 eggs. How many eggs are in 2 boxes? Reason line by line.": "12",
}


def right(completions: list[list[dict[str, str]]], answer: list[str], **_: object) -> list[float]:
    """1 where the answer stands anywhere in the text, else 0."""
    return [float(a in c[0]["content"]) for c, a in zip(completions, answer, strict=True)]


def test_a_pretrained_actor_and_critic_train_on_real_text(tmp_path: Path) -> None:
    model = local_model(gguf_file(), tmp_path)
    rows = [
        {"prompt": [{"role": "user", "content": question}], "answer": answer}
        for question, answer in QUESTIONS.items()
    ]
    args = config(tmp_path / "run", max_completion_length=40, max_steps=2, learning_rate=1e-5)
    short = ("--critic.generative.max_new_tokens", "48", "--states.max_states", "4")
    kept = ("--checkpoints", str(tmp_path / "kept"), "--device", "cpu")
    with server(model, model, 1, *kept, *short) as url:
        run = trainer(model, url, args, right, train_dataset=Dataset.from_list(rows * 2))
        before = {k: v.detach().clone() for k, v in run.model.named_parameters()}
        run.train()
        with Client(url) as client:
            state = client.version()
    assert state.step == state.version == 2
    logged = [line for line in run.state.log_history if "critic/states" in line]
    assert len(logged) == 2 and all(line["critic/states"] >= 4 for line in logged)
    assert all("critic/parse_failure_rate" in line for line in logged)
    for inputs in run.losses:
        assert torch.isfinite(inputs["advantages"]).all()
    if any(inputs["advantages"].any() for inputs in run.losses):
        after = dict(run.model.named_parameters())
        assert any(not torch.equal(v, after[k]) for k, v in before.items())
