"""What a finished folder lists, the faults detected in it, and stages that are used again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from genac.runs import manifest
from genac.runs.files import sweep
from genac.runs.manifest import DONE, damaged, digest, is_finished, read_done, suspects, write_done
from genac.runs.store import Run
from genac.stages.artifacts import build_once, import_metrics

KEY = {"seed": 0}


def build(run: Run) -> None:
    run.log("base", 0, {"loss": float("nan")})
    run.event("alarm", stage="base", alarm="loud")
    (run.path / "model").mkdir(exist_ok=True)
    (run.path / "model" / "weights").write_bytes(b"0123456789")
    (run.path / "checkpoints" / "base").mkdir(exist_ok=True)
    (run.path / "checkpoints" / "base" / "large").write_bytes(b"has its own manifest")


def never(run: Run) -> None:
    raise AssertionError(f"{run.path} was built again")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return build_once(tmp_path, "base", KEY, build)


def test_a_stage_lists_all_its_files_and_is_used_as_it_is(stage, tmp_path):
    names = {"config.json", "environment.json", "metrics.jsonl", "events.jsonl", "model/weights"}
    assert set(read_done(stage)) == names
    assert json.loads((stage / DONE).read_text())["key"] == KEY
    (stage / "model" / "README.md").write_text("a card")
    (stage / "report.html").write_text("a report")
    assert build_once(tmp_path, "base", KEY, never) == stage


@pytest.mark.parametrize("name", ["model/weights", "metrics.jsonl", "config.json"])
@pytest.mark.parametrize("damage", ["flip", "longer", "empty", "missing", "folder"])
def test_a_damaged_stage_is_refused_by_the_files_name(stage, tmp_path, name, damage):
    file = stage / name
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        changed = {"flip": bytes([data[0] ^ 1]) + data[1:], "longer": data + b"\n", "empty": b""}
        file.write_bytes(changed[damage])
    with pytest.raises(ValueError, match=rf"{name} .*delete the folder .*made|makes it again"):
        build_once(tmp_path, "base", KEY, never)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", "{}", '{"files": []}', '{"files": {"a": 1}}', "\xff\xfe"]
)
def test_a_damaged_list_is_refused_by_its_name(stage, tmp_path, content):
    (stage / DONE).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"done\.json .*delete it"):
        build_once(tmp_path, "base", KEY, never)
    assert DONE in suspects(stage)


def test_a_half_built_stage_goes_on_under_its_own_key(stage, tmp_path):
    (stage / DONE).unlink()
    for text in ("[1]", '{"seed": 1}'):
        (stage / "config.json").write_text(text)
        build_once(tmp_path, "base", KEY, lambda run: None)
        assert Run.open(stage).config() == KEY
        (stage / DONE).unlink()


def test_large_files_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
    read: list[str] = []
    monkeypatch.setattr(manifest, "_digest", lambda file: read.append(file) or str(len(read)))
    manifest._remembered.cache_clear()
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(manifest.REMEMBERED))
    small.write_bytes(b"1")
    assert digest(large) == digest(large) and len(read) == 1
    assert digest(small) != digest(small)
    os.utime(large, ns=(0, 0))
    digest(large)
    assert len(read) == 4
    manifest._remembered.cache_clear()


def test_a_log_may_have_grown_where_the_folder_is_being_written(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text("one\n")
    (tmp_path / "table").write_text("rows")
    listed = {name: manifest.entry(tmp_path / name) for name in ("metrics.jsonl", "table")}
    log.write_text("one\ntwo\n")
    assert damaged(tmp_path, listed, growing=True) == {}
    assert set(damaged(tmp_path, listed)) == {"metrics.jsonl"}
    log.write_text("One\ntwo\n")
    (tmp_path / "table").write_text("rows and more")
    assert set(damaged(tmp_path, listed, growing=True)) == {"metrics.jsonl", "table"}


@pytest.mark.parametrize(
    ("summary", "environment", "done", "ended"),
    [
        (True, {}, False, True),  # of a version that ended with the summary
        (True, {"contents": {}}, False, False),  # killed behind it
        (True, {"contents": {}}, True, True),
        (False, {}, False, False),
    ],
)
def test_when_a_run_is_finished(tmp_path, summary, environment, done, ended):
    run = Run.create(tmp_path / "run", {"name": "a"}, environment)
    if summary:
        run.write_summary({"success_after": 1.0})
    if done:
        write_done(run.path, {})
    assert is_finished(run.path) == ended
    assert (DONE in suspects(run.path)) == (summary and not ended)


def test_a_stages_metrics_are_copied_again_where_the_copy_is_not_the_same(stage, tmp_path):
    run = Run.create(tmp_path / "run", {"name": "a"}, {})
    for _ in range(2):
        import_metrics(run, stage)
        assert len(run.metrics("base")) == 1 and len(run.events("alarm")) == 1
    text = (run.path / "metrics.jsonl").read_text()
    (run.path / "metrics.jsonl").write_text(text.replace('"step": 0', '"step": 5'))
    import_metrics(run, stage)
    assert (run.path / "metrics.jsonl").read_text() == text


def test_a_stage_that_was_made_again_in_other_time_leaves_the_runs_lines(tmp_path):
    """Checkpoints of the run have recorded them."""
    run = Run.create(tmp_path / "run", {"name": "a"}, {})
    for seconds in (1.5, 2.5):
        stage = Run.create(tmp_path / f"base-{seconds}", {}, {})
        stage.log("base", 0, {"loss": 0.5, "cost/seconds": seconds, "cost/tokens": 7.0})
        import_metrics(run, stage.path)
    assert [line["cost/seconds"] for line in run.metrics("base")] == [1.5]


@pytest.mark.parametrize(
    "line",
    [
        *('{"stage": "a"}', '{"stage": "a", "step": "3"}', '{"step": 3}', "{}"),
        *('{"stage": "a", "step": 1.5}', '{"stage": "a", "step": null}'),
        *('{"stage": 1, "step": 1}', '{"stage": "a", "step": true}'),
    ],
)
def test_a_line_without_stage_or_step_is_refused_by_its_number(tmp_path, line):
    run = Run.create(tmp_path / "run", {"name": "a"}, {})
    run.log("a", 0, {})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    for reading in (run.metrics, lambda: run.truncate_after("a", 0)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 has stage .* and step"):
            reading()


def test_only_what_dead_processes_left_is_swept_away(tmp_path):
    dead = tmp_path / "below" / f".summary.json.{2**30}.tmp"
    dead.parent.mkdir()
    kept: list[Any] = [tmp_path / f".a.{os.getppid()}.tmp", tmp_path / ".step-1.tmp"]
    kept.append(tmp_path / "notes.tmp")
    for file in (dead, *kept):
        file.write_text("half")
    sweep(tmp_path)
    assert not dead.exists() and all(file.exists() for file in kept)
