"""The critic as a service computes what the joint stage computes on the same responses."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from micro import MICRO
from safetensors.torch import load_file
from service import Start, equal, micro_start, weights

from genac.client.messages import Learn, Response, Responses
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.runs.store import Run
from genac.service import LearningCritic
from genac.stages.pipeline import train

STEPS = 5
MAX_STATES = 12  # so that some states are valued for the actor's advantages alone


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> tuple[RunConfig, Run]:
    places = {
        "output_dir": str(tmp_path_factory.mktemp("joint") / "run"),
        "stages": {"folder": str(stages), "joint": {"steps": STEPS, "max_states": MAX_STATES}},
    }
    cfg = resolve(merge(MICRO, places))
    return cfg, Run.open(train(cfg))


@pytest.fixture(scope="module")
def start(stages: Path) -> Start:
    return micro_start(stages, steps=0)


def responses_at(critic: LearningCritic, run: Run, step: int, form: str) -> tuple[Response, ...]:
    """What the actor answered at a step, in the order in which the stage had it: as tokens, which
    the service cuts, or as text with the stage's own segments in characters.
    """
    starts = defaultdict(list)
    for row in run.table("estimates", "joint", step):
        starts[row["group"], row["member"]].append(row["start"])
    decode = critic.reader.tokenizer.decode

    def content(row: dict[str, Any]) -> dict[str, Any]:
        ids = row["response_ids"]
        if form == "tokens":
            return {"tokens": ids}
        own = starts[row["group"], row["member"]]
        places = [len(decode(ids[:start], skip_special_tokens=True)) for start in own]
        return {"text": row["response"], "boundaries": places}

    return tuple(
        Response(
            problem=row["prompt"], group=str(row["group"]), reward=row["reward"], **content(row)
        )
        for row in run.table("rollouts", "joint", step)
    )


def learn_step(critic: LearningCritic, run: Run, step: int, form: str) -> list[Any]:
    """The values and advantages of all segments; metrics must be those of the run."""
    responses = Responses(
        responses=responses_at(critic, run, step, form), id=f"ask-{step}", step=step
    )
    reply = critic.advantages(responses)
    learnt = critic.learn(Learn(request_id=f"learn-{step}", estimates=responses.id))
    assert reply.version == step and learnt.version == learnt.step == step + 1
    measured, row = reply.metrics | learnt.metrics, run.metrics("joint")[step]
    assert {"critic/mse", "critic/loss", "critic/reward"} <= measured.keys()
    for name, value in measured.items():
        assert value == pytest.approx(row[name], abs=1e-5), name
    return [pair for r in reply.responses for pair in zip(r.values, r.advantages, strict=True)]


@pytest.mark.parametrize("form", ["tokens", "text"])
def test_five_steps_give_the_advantages_metrics_and_weights_of_the_joint_stage(
    joint: tuple[RunConfig, Run], start: Start, tmp_path: Path, form: str
) -> None:
    _, run = joint
    critic = start.load(max_states=MAX_STATES)
    before = weights(critic, tmp_path / "before")
    for step in range(STEPS):
        pairs = learn_step(critic, run, step, form)
        stored = run.table("estimates", "joint", step)
        assert [value for value, _ in pairs] == [row["value"] for row in stored]
        # A text does not hold the token that ended it, which may be all of the last segment.
        known = [(a, row["advantage"]) for (_, a), row in zip(pairs, stored, strict=True)]
        known = [pair for pair in known if form == "tokens" or pair[0] is not None]
        ours, theirs = zip(*known, strict=True)
        assert np.allclose(ours, theirs, atol=1e-5) and np.ptp(ours) > 0
    own, theirs = (
        weights(critic, tmp_path / "own"),
        load_file(run.path / "critic/model.safetensors"),
    )
    assert own.keys() == theirs.keys() and not equal(own, before)
    assert all(np.allclose(own[k], theirs[k], atol=1e-5) for k in own)
