"""A run is finished when its last file is: killed at any write, the rerun makes what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, holds, killed_after
from micro import MICRO, Answer, Values

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.runs.listing import status
from genac.runs.manifest import DONE
from genac.runs.store import Run
from genac.stages.pipeline import train

SMALL = {"joint": {"steps": 2, "save_every": 1, "eval_every": 0, "log_rollouts_every": 1}}


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed: its values, what its folder holds, and a copy of that folder."""

    values: Values
    holds: dict[str, Any]
    copy: Path

    @property
    def folder(self) -> Path:
        return Path(self.values["output_dir"])

    def finished(self) -> Path:
        """The folder as the run left it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return shutil.copytree(self.copy, self.folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Whole:
    folder = tmp_path_factory.mktemp("finishing")
    places = {"output_dir": str(folder / "run"), "stages": {"folder": str(stages), **SMALL}}
    values = merge(MICRO, places)
    path = train(resolve(values))
    return Whole(values, holds(path), shutil.copytree(path, folder / "copy"))


@pytest.fixture
def whole(trained: Whole) -> Whole:
    """With nothing where the run writes."""
    shutil.rmtree(trained.folder, ignore_errors=True)
    return trained


def writes(whole: Whole, patched: pytest.MonkeyPatch) -> list[str]:
    with killed_after(0, patched) as done:
        train(resolve(whole.values))
    shutil.rmtree(whole.folder)
    return done


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_write_the_rerun_ends_with_the_same_folder(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(writes(whole, monkeypatch))
    copied = len(whole.holds["metrics"]) - SMALL["joint"]["steps"]  # lines of the earlier stages
    for write in [*range(1, 6), *range(copied, count + 1)]:
        assert_rerun(write, whole, monkeypatch)


def test_killed_behind_its_last_files_the_rerun_makes_the_others(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = writes(whole, monkeypatch)
    last = [Path(name).relative_to(whole.folder).as_posix() for name in done[-7:]]
    assert (
        last
        == [
            *("actor", "critic", "critic/critic.json", "summary.json"),
            *("actor/README.md", "critic/README.md", DONE, "report.html"),
        ][-7:]
    )
    for write in (len(done) - 7, len(done) - 4, len(done) - 2, len(done) - 1, len(done)):
        assert_rerun(write, whole, monkeypatch)


def assert_rerun(write: int, whole: Whole, patched: pytest.MonkeyPatch) -> None:
    folder = whole.folder
    with killed_after(write, patched) as done, pytest.raises(Killed):
        train(resolve(whole.values))
    if (folder / "config.json").exists():
        ended = "report.html" in done[-1] or DONE in done[-1]
        assert (status(Run(folder)).state == "finished") == ended, done[-1]
    train(resolve(whole.values))
    held = holds(folder)
    for part, value in whole.holds.items():
        assert held[part] == value, f"killed behind write {write} ({done[-1]}): {part}"
    shutil.rmtree(folder)


MADE_AGAIN = (
    *("report.html", "summary.json", "actor/README.md", "critic/critic.json", "actor", "critic"),
    *("actor/model.safetensors", "critic/tokenizer.json", DONE),
)


@pytest.mark.parametrize("missing", [*((name,) for name in MADE_AGAIN), MADE_AGAIN], ids=str)
def test_what_a_finished_run_lacks_is_made_again(missing: tuple[str, ...], whole: Whole) -> None:
    folder = whole.finished()
    for name in missing:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    train(resolve(whole.values))
    assert holds(folder) == whole.holds


def test_what_a_killed_writer_left_is_swept_away(whole: Whole) -> None:
    folder = whole.finished()
    (folder / "summary.json").rename(folder / f".summary.json.{2**30}.tmp")
    (folder / "rollouts" / f".joint-000001.parquet.{2**30}.tmp").write_bytes(b"half")
    train(resolve(whole.values))
    assert holds(folder) == whole.holds


def test_a_run_of_an_older_version_stays_finished_and_is_completed(
    whole: Whole, genac: Callable[..., Answer]
) -> None:
    """It has neither done.json nor digests of what its config names."""
    folder = whole.finished()
    (folder / DONE).unlink()
    environment = json.loads((folder / "environment.json").read_text())
    del environment["contents"]
    (folder / "environment.json").write_text(json.dumps(environment))
    assert status(Run(folder)).state == "finished"
    assert genac("eval", str(folder)).code == 0
    (folder / "evaluation.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    train(resolve(whole.values))
    assert (folder / DONE).exists() and not list(folder.glob("checkpoints/*/*"))
    assert holds(folder)["summary"] == whole.holds["summary"]
