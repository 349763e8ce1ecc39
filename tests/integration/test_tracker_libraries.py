"""Trackers with the real libraries, on this machine: what they hold is read back."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genac.config.tracking import TrackingConfig
from genac.runs import trackers

pytestmark = pytest.mark.usefixtures("trackers_at_home")


LINES = [("critic_sft", 0, {"loss": 2.0}), ("joint", 0, {"reward": 0.5, "critic/mse": 0.25}),
         ("joint", 1, {"reward": 0.75, "bad": float("nan"), "none": None})]  # fmt: skip
BLOCK = 32768  # bytes of a block in a .wandb file
STEP = {"group": 4, "member": 1, "reward": 0.0}
ROWS = [
    STEP | {"start": 0, "step_text": "3 | 4\n", "value": 0.9, "rationale": "So far so good."},
    STEP | {"start": 2, "step_text": "= 8", "value": None, "rationale": "3 + 4 is $7$."},
]
EXPECTED = [  # prompt, step_text, value, reasoning, outcome
    ["joint/1/4/1", "3 + 4?", "3 | 4\n", 0.9, "So far so good.", 0.0],
    ["joint/1/4/1", "3 + 4?", "= 8", None, "3 + 4 is $7$.", 0.0],
]
FULL = {"project": "a-project", "name": "a-name", "group": "a-group", "tags": ["fast", "tiny"]}


def sent(name: str, folder: Path, /, **tracking: Any) -> str:
    """Sends LINES in two sittings, at the end ROWS and a report; the name it has there."""
    pytest.importorskip(trackers.LIBRARIES[name])
    cfg = TrackingConfig(judged_rows=8, **tracking)
    loss = {"num_iterations": 1, "num_minibatches": 2}
    config = {"name": "toy", "credit": {"lam": 1.0}, "actor": {"loss": loss}}
    (folder / "report.html").write_text("<html>a report</html>")
    failures: list[Any] = []
    for part in (LINES[:2], LINES[2:]):
        result = trackers.Trackers([name], folder, config, cfg, lambda *_, **f: failures.append(f))
        for line in part:
            result.log(*line)
        if part == LINES[2:]:
            result.judged("joint", 1, {4: "3 + 4?"}, ROWS)
            result.attach(folder / "report.html")
        result.close()
    assert failures == []
    return json.loads((folder / "trackers.json").read_text())[name]


@pytest.fixture
def no_failure(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert "the run goes on without it" not in capsys.readouterr().err


def scalars(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = accumulator.EventAccumulator(str(folder / "tensorboard"))
    result.Reload()
    return result


def test_tensorboard(tmp_path: Path, no_failure) -> None:
    sent("tensorboard", tmp_path)
    result = scalars(tmp_path)
    assert [(e.step, e.value) for e in result.Scalars("joint/reward")] == [(0, 0.5), (1, 0.75)]
    assert [e.value for e in result.Scalars("joint/critic/mse")] == [0.25]
    assert "joint/bad" not in result.Tags()["scalars"]
    (text,) = result.Tensors("joint/judged/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines[2] == "| joint/1/4/1 | 3 + 4? | 3 \\| 4  | 0.9 | So far so good. | 0.0 |"
    assert lines[3] == "| joint/1/4/1 | 3 + 4? | = 8 |  | 3 + 4 is $7$. | 0.0 |"


def test_tensorboard_has_the_curve_of_trl(tmp_path: Path, no_failure) -> None:
    sent("tensorboard", tmp_path, trl_names=True)
    result = scalars(tmp_path)
    assert [(e.step, e.value) for e in result.Scalars("train/reward")] == [(2, 0.5), (4, 0.75)]
    assert "joint/reward" not in result.Tags()["scalars"]


def wandb_records(folder: Path) -> list[Any]:
    """Everything in the offline files, in their order, once wandb's process has written the end."""
    for _ in range(120):
        files = [records_of(f) for f in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
        if all(any(record.HasField("exit") for record in records) for records in files):
            return [record for records in files for record in records]
        time.sleep(0.5)
    raise AssertionError("a file of wandb has no end")


def records_of(file: Path) -> list[Any]:
    """LevelDB's log format behind seven bytes."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    result: list[Any] = []
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:  # a header never spans two blocks
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole record, or its last part
            result.append(messages.Record.FromString(whole))
            whole = b""
    return result


def wandb_history(records: list[Any]) -> list[dict[str, Any]]:
    items = [record.history.item for record in records if record.HasField("history")]
    return [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row} for row in items
    ]


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, no_failure) -> None:
    name = sent("wandb", tmp_path, **FULL)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and all(f.stem == f"run-{name}" for f in files)
    records = wandb_records(tmp_path)
    for record in records:
        if record.HasField("run"):
            run = record.run
            assert (run.project, run.display_name, run.run_group) == (
                *(FULL["project"], FULL["name"], FULL["group"]),
            )
            assert list(run.tags) == FULL["tags"]
    history = wandb_history(records)
    assert [h["joint/reward"] for h in history if "joint/reward" in h] == [0.5, 0.75]
    assert [h["joint/step"] for h in history if h.get("joint/judged/nrows") == 2] == [1]
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/joint/judged_*.json")
    content = json.loads(table.read_text())
    assert (tuple(content["columns"]), content["data"]) == (trackers.JUDGED, EXPECTED)
    artifacts = [r.request.log_artifact.artifact for r in records if r.HasField("request")]
    artifacts += [r.artifact for r in records if r.HasField("artifact")]
    report = next(a for a in artifacts if a.name == f"report-{name}")
    assert [entry.path for entry in report.manifest.contents] == ["report.html"]


@pytest.mark.slow
def test_wandb_has_the_axis_of_trl(tmp_path: Path, no_failure) -> None:
    sent("wandb", tmp_path, trl_names=True)
    rows = [h for h in wandb_history(wandb_records(tmp_path)) if "train/reward" in h]
    assert [(h["train/global_step"], h["train/reward"]) for h in rows] == [(2, 0.5), (4, 0.75)]


@pytest.mark.slow
def test_wandb_takes_from_its_variables_what_the_config_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_failure
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "their-project")
    monkeypatch.setenv("WANDB_NAME", "their-name")
    monkeypatch.setenv("WANDB_RUN_GROUP", "their-group")
    monkeypatch.setenv("WANDB_TAGS", "slow,large")
    sent("wandb", tmp_path)
    runs = [record.run for record in wandb_records(tmp_path) if record.HasField("run")]
    for run in runs:
        assert (run.project, run.display_name) == ("their-project", "their-name")
        assert (run.run_group, list(run.tags)) == ("their-group", ["slow", "large"])
    assert runs


@pytest.mark.slow
def test_trackio_on_this_machine(tmp_path: Path, no_failure) -> None:
    name = sent("trackio", tmp_path, **FULL)
    assert name == FULL["name"]
    import sqlite3

    (file,) = (tmp_path / "trackio").rglob("a-project*.db")
    rows = sqlite3.connect(file).execute("select run_name, metrics from metrics").fetchall()
    result = [json.loads(metrics) for run, metrics in rows if run == name]
    assert [m["joint/reward"] for m in result if "joint/reward" in m] == [0.5, 0.75]
    (table,) = [m["joint/judged"]["_value"] for m in result if "joint/judged" in m]
    assert [list(row.values()) for row in table] == EXPECTED
    assert tuple(table[0]) == trackers.JUDGED


@pytest.mark.slow
def test_mlflow_in_a_file(tmp_path: Path, no_failure) -> None:
    name = sent("mlflow", tmp_path, **FULL)
    import mlflow

    client = mlflow.MlflowClient()
    history = client.get_metric_history(name, "joint/reward")
    assert [(m.step, m.value) for m in history] == [(0, 0.5), (1, 0.75)]
    run = client.get_run(name)
    assert run.data.params["credit.lam"] == "1.0" and run.info.run_name == FULL["name"]
    assert client.get_experiment(run.info.experiment_id).name == FULL["project"]
    own = {key: run.data.tags.get(key) for key in ("group", *FULL["tags"])}
    assert own == {"group": "a-group", "fast": "true", "tiny": "true"}
    file = client.download_artifacts(name, "joint/judged-000001.json", str(tmp_path))
    table = json.loads(Path(file).read_text())
    assert (tuple(table["columns"]), table["data"]) == (trackers.JUDGED, EXPECTED)
    report = client.download_artifacts(name, "report.html", str(tmp_path / "mlruns"))
    assert Path(report).read_text() == "<html>a report</html>"


@pytest.mark.slow
def test_mlflow_has_the_names_that_transformers_gives_it(tmp_path: Path, no_failure) -> None:
    name = sent("mlflow", tmp_path, trl_names=True)
    import mlflow

    history = mlflow.MlflowClient().get_metric_history(name, "reward")
    assert [(m.step, m.value) for m in history] == [(2, 0.5), (4, 0.75)]
