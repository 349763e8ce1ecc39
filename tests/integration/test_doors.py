"""A new critic or engine is one class and one line of a table; everything else finds it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from micro import Answer

from genac.config.recipes import read_recipe
from genac.critics import CRITICS
from genac.critics.base import Critic, CriticInputs
from genac.engines import ENGINES
from genac.engines.base import Completion, Request
from genac.runs.store import Run
from genac.types import Estimate, State


class HalfCritic(Critic):
    """Every response is as likely to succeed as not."""

    @classmethod
    def build(cls, inputs: CriticInputs) -> HalfCritic:
        return cls()

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        return [Estimate(state, 0.5) for state in states]


class PlainEngine:
    """Reads everything again for every token. It names no probabilities and answers no probes."""

    def __init__(self, model: Any, max_length: int, max_rows: int, dtype: Any, **_: Any) -> None:
        self.model, self.version, self.processed_tokens = model, 0, 0

    def publish(self, model: Any, version: int) -> None:
        self.model, self.version = model, version

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.model.eval()
        return [self.one(request) for request in requests]

    def one(self, request: Request) -> Completion:
        rng, ids, logprobs = np.random.default_rng(request.seed), [*request.prompt_ids], []
        while len(logprobs) < request.max_new_tokens:
            logits = self.model(torch.tensor([ids])).logits[0, -1]
            logp = torch.log_softmax(logits / (request.temperature or 1.0), -1).double().numpy()
            p = np.exp(logp)
            greedy = request.temperature == 0
            ids.append(int(p.argmax() if greedy else rng.choice(len(p), p=p / p.sum())))
            logprobs.append(logp[ids[-1]])
            self.processed_tokens += len(ids)
            if ids[-1] in request.stop_ids:
                break
        done = tuple(ids[len(request.prompt_ids) :])
        finish = "stop" if done[-1] in request.stop_ids else "length"
        return Completion(done, np.array(logprobs, np.float32), finish)


def test_a_new_critic_runs_the_whole_pipeline(
    monkeypatch: pytest.MonkeyPatch,
    recipe: Callable[..., str],
    genac: Callable[..., Answer],
) -> None:
    monkeypatch.setitem(CRITICS, "half", HalfCritic)
    file = recipe(critic={"kind": "half"}, credit={"granularity": "states"})
    answer = genac("train", file)
    assert answer.code == 0, answer.err
    run = Run.open(recipe_output(file))
    assert {row["critic/score_mean"] for row in run.metrics("joint")} == {0.5}
    assert genac("eval", str(run.path)).code == 0
    assert genac("doctor", file).code == 0


@pytest.mark.parametrize("algorithm", ["genac", pytest.param("grpo", marks=pytest.mark.slow)])
def test_a_new_engine_runs_the_whole_pipeline(
    algorithm: str,
    monkeypatch: pytest.MonkeyPatch,
    recipe: Callable[..., str],
    genac: Callable[..., Answer],
) -> None:
    monkeypatch.setitem(ENGINES, "plain", PlainEngine)
    file = recipe(
        algorithm=algorithm,
        hardware={"engine": "plain"},
        stages={"joint": {"steps": 1}, "critic_rl": {"steps": 1}},
    )
    answer = genac("train", file)
    assert answer.code == 0, answer.err
    run = Run.open(recipe_output(file))
    (row,) = run.metrics("joint")
    assert row["sampling/sampling_logp_difference/mean"] < 1e-4
    assert genac("eval", str(run.path)).code == 0
    assert genac("doctor", file).code == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"critic": {"kind": "oracel"}}, "critic.kind is 'oracel'; use one of"),
        ({"hardware": {"engine": "vlm"}}, "hardware.engine is 'vlm'; use one of"),
    ],
)
def test_a_name_that_is_in_no_table_is_refused(
    overrides: dict[str, Any],
    message: str,
    recipe: Callable[..., str],
    genac: Callable[..., Answer],
) -> None:
    answer = genac("train", recipe(**overrides))
    assert answer.code == 2 and message in answer.err


def recipe_output(file: str) -> str:
    return read_recipe(file)["output_dir"]
