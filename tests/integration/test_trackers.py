"""Trackers get what metrics.jsonl gets, go on after an interruption, and never end a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro import results

from genac.config.recipes import resolve
from genac.runs import trackers
from genac.runs.store import Run
from genac.stages.pipeline import train


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers keep their files in the test's folder and ask no server."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


class Kept:
    """A sink that keeps what it gets in the run folder; fails when told to."""

    opened: list[Any] = []  # noqa: RUF012
    fail_at: int | None = None

    def __init__(self, library: Any, folder: Path, config: Any, name: str | None) -> None:
        del library
        self.name = name or f"{config['name']}-1"
        self.lines: list[tuple[str, int, dict[str, float]]] = []
        Kept.opened.append(self)

    def log(self, stage: str, step: int, values: dict[str, float]) -> None:
        if (stage, step) == ("joint", self.fail_at):
            raise ConnectionError("no server")
        self.lines.append((stage, step, values))

    def close(self) -> None:
        self.lines.append(("closed", 0, {}))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setitem(trackers.SINKS, "tensorboard", Kept)
    monkeypatch.setattr(Kept, "opened", [])
    return Kept


def test_a_sink_gets_every_line_of_every_stage(run_micro: Callable[..., Run], kept) -> None:
    run = run_micro(report_to=["tensorboard"])
    (sink,) = kept.opened
    *lines, last = sink.lines
    assert last[0] == "closed"
    logged = [(m["stage"], m["step"]) for m in run.metrics()]
    assert [(stage, step) for stage, step, _ in lines] == logged
    assert {"base", "critic_sft", "joint"} <= {stage for stage, _ in logged}
    expected = run.metrics("joint")[1]["reward"]
    assert next(v for s, n, v in lines if (s, n) == ("joint", 1))["reward"] == expected


def test_a_resumed_run_goes_on_under_the_same_name(micro, kept, monkeypatch, tmp_path) -> None:
    values = micro(report_to=["tensorboard"])
    log = Run.log

    def stop(self: Run, stage: str, at: int, row: Any) -> None:
        log(self, stage, at, row)
        if (stage, at) == ("joint", 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "log", stop)
        train(resolve(values))
    train(resolve(values))
    first, second = kept.opened
    assert second.name == first.name
    assert first.lines[-1][0] == "closed"
    assert {stage for stage, *_ in second.lines} == {"joint", "closed"}
    file = json.loads((tmp_path / "run" / "trackers.json").read_text())
    assert file == {"tensorboard": first.name}


def test_a_tracker_that_fails_is_left_out(
    run_micro: Callable[..., Run], kept, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Kept, "fail_at", 1)
    run = run_micro(report_to=["tensorboard"])
    assert len(run.metrics("joint")) == 3
    (event,) = run.events("tracker_failed")
    assert (event["tracker"], event["error"]) == ("tensorboard", "ConnectionError: no server")
    assert "tensorboard failed (ConnectionError: no server)" in capsys.readouterr().err


def test_trackers_change_no_result(run_micro: Callable[..., Run], kept, tmp_path) -> None:
    one = run_micro(report_to=["tensorboard"], output_dir=str(tmp_path / "a"))
    other = run_micro(output_dir=str(tmp_path / "b"))
    assert results(one) == results(other)
    assert one.summary()["config_hash"] == other.summary()["config_hash"]


def test_one_that_is_not_installed_says_so(monkeypatch) -> None:
    monkeypatch.setitem(trackers.LIBRARIES, "wandb", "no_such_tracker")
    with pytest.raises(ValueError, match=r"pip install 'genac\[wandb\]'"):
        trackers.load("wandb")
    with pytest.raises(ValueError, match="'neptune'; use one of"):
        trackers.load("neptune")


# --- the real ones --------------------------------------------------------------------------------


LINES = [("critic_sft", 0, {"loss": 2.0}), ("joint", 0, {"reward": 0.5, "critic/mse": 0.25}),
         ("joint", 1, {"reward": 0.75, "bad": float("nan"), "none": None})]  # fmt: skip


def sent(name: str, folder: Path) -> str | None:
    """Sends LINES in two sittings; the name it has there."""
    pytest.importorskip(trackers.LIBRARIES[name])
    config = {"name": "toy", "credit": {"lam": 1.0}}
    failures: list[Any] = []
    for part in (LINES[:2], LINES[2:]):
        result = trackers.Trackers([name], folder, config, lambda *f: failures.append(f))
        for line in part:
            result.log(*line)
        result.close()
    assert not failures
    return json.loads((folder / "trackers.json").read_text())[name]


def test_tensorboard(tmp_path: Path) -> None:
    sent("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = EventAccumulator(str(tmp_path / "tensorboard"))
    result.Reload()
    assert [(e.step, e.value) for e in result.Scalars("joint/reward")] == [(0, 0.5), (1, 0.75)]
    assert [e.value for e in result.Scalars("joint/critic/mse")] == [0.25]
    assert "joint/bad" not in result.Tags()["scalars"]


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path) -> None:
    name = sent("wandb", tmp_path)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and all(f.stem == f"run-{name}" for f in files)


@pytest.mark.slow
def test_wandb_takes_the_project_that_its_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "a-project-of-ours")
    sent("wandb", tmp_path)
    for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        assert b"a-project-of-ours" in file.read_bytes()


@pytest.mark.slow
def test_trackio_on_this_machine(tmp_path: Path) -> None:
    name = sent("trackio", tmp_path)
    import sqlite3

    (file,) = (tmp_path / "trackio").rglob("genac*.db")
    rows = sqlite3.connect(file).execute("select run_name, metrics from metrics").fetchall()
    result = [json.loads(metrics) for run, metrics in rows if run == name]
    assert [m.get("joint/reward") for m in result] == [None, 0.5, 0.75]


@pytest.mark.slow
def test_mlflow_in_a_file(tmp_path: Path) -> None:
    name = sent("mlflow", tmp_path)
    import mlflow

    client = mlflow.MlflowClient()
    history = client.get_metric_history(str(name), "joint/reward")
    assert [(m.step, m.value) for m in history] == [(0, 0.5), (1, 0.75)]
    assert client.get_run(str(name)).data.params["credit.lam"] == "1.0"
