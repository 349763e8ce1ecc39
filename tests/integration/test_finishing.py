"""A run is finished when its last file is: killed at any write, the rerun makes what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, holds, killed_after
from micro import Answer, Values

from genac.config.recipes import resolve
from genac.runs.listing import status
from genac.runs.manifest import DONE
from genac.runs.store import Run
from genac.stages.pipeline import train

SMALL = {"joint": {"steps": 2, "save_every": 1, "eval_every": 0, "log_rollouts_every": 1}}


@pytest.fixture
def whole(micro: Callable[..., Values], tmp_path: Path) -> tuple[Values, dict[str, Any]]:
    """The values of a run that nobody killed, and what its folder holds."""
    values = micro(stages=SMALL)
    train(resolve(values))
    expected = holds(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    return values, expected


def writes(values: Values, patched: pytest.MonkeyPatch, folder: Path) -> list[str]:
    with killed_after(0, patched) as done:
        train(resolve(values))
    shutil.rmtree(folder)
    return done


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_write_the_rerun_ends_with_the_same_folder(
    whole: tuple[Values, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, expected = whole
    count = len(writes(values, monkeypatch, tmp_path / "run"))
    copied = len(expected["metrics"]) - SMALL["joint"]["steps"]  # lines of the earlier stages
    for write in [*range(1, 6), *range(copied, count + 1)]:
        assert_rerun(write, values, expected, tmp_path / "run", monkeypatch)


def test_killed_behind_its_last_files_the_rerun_makes_the_others(
    whole: tuple[Values, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, expected = whole
    done = writes(values, monkeypatch, tmp_path / "run")
    last = [Path(name).relative_to(tmp_path / "run").as_posix() for name in done[-7:]]
    assert (
        last
        == [
            *("actor", "critic", "critic/critic.json", "summary.json"),
            *("actor/README.md", "critic/README.md", DONE, "report.html"),
        ][-7:]
    )
    for write in (len(done) - 7, len(done) - 4, len(done) - 2, len(done) - 1, len(done)):
        assert_rerun(write, values, expected, tmp_path / "run", monkeypatch)


def assert_rerun(
    write: int, values: Values, expected: dict[str, Any], folder: Path, patched: pytest.MonkeyPatch
) -> None:
    with killed_after(write, patched) as done, pytest.raises(Killed):
        train(resolve(values))
    if (folder / "config.json").exists():
        ended = "report.html" in done[-1] or DONE in done[-1]
        assert (status(Run(folder)).state == "finished") == ended, done[-1]
    train(resolve(values))
    held = holds(folder)
    for part, value in expected.items():
        assert held[part] == value, f"killed behind write {write} ({done[-1]}): {part}"
    shutil.rmtree(folder)


MADE_AGAIN = (
    *("report.html", "summary.json", "actor/README.md", "critic/critic.json", "actor", "critic"),
    *("actor/model.safetensors", "critic/tokenizer.json", DONE),
)


@pytest.mark.parametrize("missing", [*((name,) for name in MADE_AGAIN), MADE_AGAIN], ids=str)
def test_what_a_finished_run_lacks_is_made_again(
    missing: tuple[str, ...], whole: tuple[Values, dict[str, Any]], tmp_path: Path
) -> None:
    values, expected = whole
    folder = train(resolve(values))
    for name in missing:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    train(resolve(values))
    assert holds(folder) == expected


def test_what_a_killed_writer_left_is_swept_away(
    whole: tuple[Values, dict[str, Any]], tmp_path: Path
) -> None:
    values, expected = whole
    folder = train(resolve(values))
    (folder / "summary.json").rename(folder / f".summary.json.{2**30}.tmp")
    (folder / "rollouts" / f".joint-000001.parquet.{2**30}.tmp").write_bytes(b"half")
    train(resolve(values))
    assert holds(folder) == expected


def test_a_run_of_an_older_version_stays_finished_and_is_completed(
    whole: tuple[Values, dict[str, Any]], tmp_path: Path, genac: Callable[..., Answer]
) -> None:
    """It has neither done.json nor digests of what its config names."""
    values, expected = whole
    folder = train(resolve(values))
    (folder / DONE).unlink()
    environment = json.loads((folder / "environment.json").read_text())
    del environment["contents"]
    (folder / "environment.json").write_text(json.dumps(environment))
    assert status(Run(folder)).state == "finished"
    assert genac("eval", str(folder)).code == 0
    (folder / "evaluation.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    train(resolve(values))
    assert (folder / DONE).exists() and not list(folder.glob("checkpoints/*/*"))
    assert holds(folder)["summary"] == expected["summary"]
