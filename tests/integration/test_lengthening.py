"""A run is given another number of joint steps: it goes on at its newest checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from micro import Answer, Values, results, weights

from genac import learner
from genac.config.models import OptimizerConfig
from genac.config.recipes import resolve
from genac.hardware import with_engines
from genac.ops.schedule import learning_rate
from genac.runs.manifest import DONE, LENGTHENED, entry, read_done, suspects
from genac.runs.store import Run
from genac.stages import finish, joint, pipeline
from genac.stages.callbacks import StopTraining
from genac.stages.pipeline import train

Micro = Callable[..., Values]
Refused = Callable[..., str]


def steps(number: int, folder: Path) -> Values:
    return {"output_dir": str(folder), "stages": {"joint": {"steps": number, "eval_every": 1}}}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Path:
    """A finished run of two joint steps. Tests copy it."""
    from micro import MICRO

    from genac.config.algorithms import merge

    values = merge(MICRO, {"stages": {"folder": str(stages)}, "evaluate": {"panel_problems": 8}})
    folder = tmp_path_factory.mktemp("two")
    return train(resolve(merge(values, steps(2, folder / "run"))))


@pytest.fixture
def longer(two: Path, micro: Micro, tmp_path: Path) -> Callable[[int], Values]:
    """longer(n) -> the values of a copy of that run with n steps."""
    shutil.copytree(two, tmp_path / "run")
    return lambda n: micro(evaluate={"panel_problems": 8}, **steps(n, tmp_path / "run"))


def assert_as_in_one_go(run: Run, whole: Run) -> None:
    assert weights(run) == weights(whole)
    assert results(run) == results(whole)
    own, other = run.summary(), whole.summary()
    assert finish.AFTER_JOINT in own["critic"] and own["critic"]["stages"]
    for part in ("success_before", "success_after", "critic", "tokens", "flops", "config_hash"):
        assert own[part] == other[part], part
    assert run.config()["stages"]["joint"]["steps"] == 4
    assert run.config_hash() == whole.config_hash()
    assert set(read_done(run.path)) >= set(weights(run))
    assert suspects(run.path) == {}


def test_two_steps_and_two_more_are_the_same_as_four(
    longer: Callable[[int], Values], micro: Micro, tmp_path: Path
) -> None:
    page = (tmp_path / "run" / "report.html").read_text()
    success = Run.open(tmp_path / "run").summary()["success_after"]
    run = Run.open(train(resolve(longer(4))))
    values = micro(evaluate={"panel_problems": 8}, **steps(4, tmp_path / "whole"))
    assert_as_in_one_go(run, Run.open(train(resolve(values))))
    assert [e["step"] for e in run.events("resumed")] == [2]
    (event,) = run.events(LENGTHENED)
    assert (event["steps_before"], event["steps"]) == (2, 4)
    assert event["success_after"] == {k: v for k, v in success.items() if k != "by_problem"}
    assert (run.path / "report.html").read_text() != page
    events = run.events()
    train(resolve(longer(4)))
    assert run.events() == events, "a finished run is left as it is"


@pytest.mark.parametrize(
    ("moment", "then"), [("event", 3), ("environment.json", 2), ("training", 3)]
)
def test_killed_meanwhile_it_goes_on_with_any_number(
    moment: str,
    then: int,
    longer: Callable[[int], Values],
    two: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed behind the event, between both files, and before the first new checkpoint. What was
    measured before joint training is not measured again."""
    folder = Path(longer(4)["output_dir"])

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    def measure(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(pipeline, "critic_report", measure)
    with monkeypatch.context() as patched:
        if moment == "training":
            patched.setattr(joint, "collect", kill)
        else:
            write = finish.write_json
            patched.setattr(
                finish,
                "write_json",
                lambda path, obj: (
                    kill()
                    if path.name == {"event": "environment.json"}.get(moment, "config.json")
                    else write(path, obj)
                ),
            )
        with pytest.raises(KeyboardInterrupt):
            train(resolve(longer(4)))
    assert not (folder / DONE).exists() and suspects(folder) == {}
    assert len(Run.open(folder).events(LENGTHENED)) == 1
    if moment == "training":
        config = folder / "config.json"
        whole = config.read_text()
        config.write_text(json.dumps(json.loads(whole) | {"name": "other"}))
        assert config.name in suspects(folder)
        with pytest.raises(ValueError, match=r"config\.json has \d+ bytes"):
            train(resolve(longer(4) | {"name": "other"}))
        config.write_text(whole)
    run = Run.open(train(resolve(longer(then))))
    assert run.config_hash() == finish.config_hash(with_engines(resolve(longer(then))))
    assert then != 2 or weights(run) == weights(Run.open(two))
    assert len(run.metrics("joint")) == then and suspects(folder) == {}
    assert len(Run.open(train(resolve(longer(4)))).metrics("joint")) == 4


def test_killed_before_the_event_it_ends_as_it_was(
    longer: Callable[[int], Values], two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = Path(longer(4)["output_dir"]), finish.write_json

    def killed(path: Path, obj: Values) -> None:
        write(path, obj)
        if path.name == finish.BEFORE:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(finish, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            train(resolve(longer(4)))
    assert (folder / finish.BEFORE).exists()
    run = Run.open(train(resolve(longer(2))))
    assert run.summary() == Run.open(two).summary() and not run.events(LENGTHENED)
    assert (folder / DONE).exists() and not (folder / finish.BEFORE).exists()


def test_a_stopped_run_goes_on_and_loses_no_step(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop:
        def on_step(self, step: int, metrics: Values) -> None:
            if step == 1:
                raise StopTraining("enough")

    def values(n: int, name: str) -> Values:
        return micro(algorithm="grpo", **steps(n, tmp_path / name))

    run = Run.open(train(resolve(values(2, "run")), [Stop()]))
    assert run.summary()["stopped"]["step"] == 1
    train(resolve(values(3, "run")))
    assert "stopped" not in run.summary()
    whole = Run.open(train(resolve(values(3, "whole"))))
    assert weights(run) == weights(whole) and results(run) == results(whole)


def test_what_cannot_be_continued_is_refused(
    longer: Callable[[int], Values], refused: Refused, recipe: Callable[..., str]
) -> None:
    folder = Path(longer(4)["output_dir"])
    recipe_file = recipe(evaluate={"panel_problems": 8}, **steps(1, folder))
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert "has done 2 joint steps, more than stages.joint.steps 1" in refused("train", recipe_file)
    more = ("--stages.joint.steps", "4")
    message = refused("train", recipe_file, *more, "--seed", "5")
    assert "seed: 0 -> 5" in message and "another config" in message
    assert before == {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    state = max(folder.glob("checkpoints/joint/*/state.json"))
    manifest = state.parent / "manifest.json"
    whole = {file: file.read_text() for file in (state, manifest)}
    state.write_text(json.dumps(json.loads(whole[state]) | {"config_hash": "of another version"}))
    manifest.write_text(
        json.dumps(json.loads(whole[manifest]) | {"state.json": entry(state)["sha256"]})
    )
    assert "or genac itself changed" in refused("train", recipe_file, *more)
    for changed, text in whole.items():
        changed.write_text(text)
    assert before == {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    for file in (state.parent / "actor.optimizer.pt", *state.parent.glob("actor/*.safetensors")):
        held = file.read_bytes()
        file.write_bytes(held[:-1])
        assert f"{file.name} is missing or differs" in refused("train", recipe_file, *more)
        file.unlink()
        assert f"{file.name} is missing or differs" in refused("train", recipe_file, *more)
        file.write_bytes(held)
    assert before == {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    (folder / "checkpoints").rename(folder.parent / "elsewhere")
    assert "holds no checkpoint to go on from" in refused("train", recipe_file, *more)


def test_what_was_edited_before_is_noticed(
    longer: Callable[[int], Values], refused: Refused, recipe: Callable[..., str]
) -> None:
    folder = Path(longer(4)["output_dir"])
    file = recipe(evaluate={"panel_problems": 8}, **steps(4, folder))
    config = folder / "config.json"
    whole = config.read_text()
    config.write_text(json.dumps(json.loads(whole) | {"name": "other"}))
    assert "config.json" in refused("train", file)
    (folder / DONE).unlink()
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert "config.json" in refused("train", file)
    assert before == {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    config.write_text(whole)
    assert Run.open(train(resolve(longer(4)))).config()["stages"]["joint"]["steps"] == 4


def test_the_command_line_says_that_it_goes_on(
    longer: Callable[[int], Values], genac: Callable[..., Answer], recipe: Callable[..., str]
) -> None:
    folder = Path(longer(3)["output_dir"])
    answer = genac("train", recipe(evaluate={"panel_problems": 8}, **steps(3, folder)))
    assert answer.code == 0, answer.err
    assert "was configured for 2 joint steps; now it has 3" in answer.out
    assert pipeline.BEFORE not in {f.name for f in folder.iterdir()}


def test_with_decay_another_number_of_steps_is_another_run(
    micro: Micro,
    recipe: Callable[..., str],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Both models' rates fall over the optimiser steps of joint training."""
    rates: list[tuple[int, int | None]] = []

    def recorded(cfg: OptimizerConfig, done: int, decay_steps: int | None) -> float:
        rates.append((done, decay_steps))
        return learning_rate(cfg, done, decay_steps)

    def values(number: int) -> Values:
        joint = {"steps": number, "decay": True, "eval_every": 0}
        folder = {"output_dir": str(tmp_path / "run"), "evaluate": {"panel_problems": 0}}
        return folder | {"stages": {"joint": joint}, "actor": {"loss": {"num_minibatches": 2}}}

    monkeypatch.setattr(learner, "learning_rate", recorded)
    run = Run.open(train(resolve(micro(**values(2)))))
    joint = [r for r in rates if r[1] in (4, 2)]
    assert (3, 4) in joint and (1, 2) in joint
    before = weights(run)
    message = refused("train", recipe(**values(3)))
    assert "stages.joint.steps" in message and "stages.joint.decay" in message
    assert weights(run) == before
