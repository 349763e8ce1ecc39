"""A finished stage has its model and no checkpoint, whenever its process was killed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import syncs_and_drops

from genac import checkpoint
from genac.runs.manifest import DONE, damaged, read_done
from genac.runs.store import Run
from genac.stages import artifacts
from genac.stages.artifacts import build_once

KEY = {"seed": 0}
STEPS = ("step-000010", "step-000020")


class Killed(BaseException):
    """As no handler expects it."""


def write_checkpoints(folder: Path) -> None:
    for step in STEPS:
        place = folder / "checkpoints" / "base" / step
        (place / "base").mkdir(parents=True)
        for name in ("base/model.safetensors", "base.optimizer.pt", "manifest.json"):
            (place / name).write_bytes(b"0123456789")


def build(run: Run) -> None:
    write_checkpoints(run.path)
    (run.path / "model").mkdir()
    (run.path / "model" / "model.safetensors").write_bytes(b"0123456789")


def never(run: Run) -> None:
    raise AssertionError(f"{run.path} was built again")


def left(folder: Path) -> list[str]:
    """What is below the checkpoints of a stage, the hidden included."""
    return sorted(p.name for p in (folder / "checkpoints" / "base").iterdir())


def assert_complete(folder: Path) -> None:
    files = read_done(folder)
    assert damaged(folder, files) == {} and "model/model.safetensors" in files


def test_a_finished_stage_has_no_checkpoint(tmp_path: Path) -> None:
    folder = build_once(tmp_path, "base", KEY, build)
    assert left(folder) == []
    assert_complete(folder)
    assert build_once(tmp_path, "base", KEY, never) == folder


def killed_behind(number: int, patched: pytest.MonkeyPatch) -> list[str]:
    """Raises behind the deletion step of that number; fills the list of all of them."""
    done: list[str] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            done.append(str(args[0]))
            result = function(*args, **kwargs)
            if len(done) == number:
                raise Killed
            return result

        return call

    for module, name in ((os, "rename"), (os, "unlink"), (os, "rmdir")):
        patched.setattr(module, name, counted(getattr(module, name)))
    return done


def test_killed_anywhere_in_the_deletion_it_is_complete_and_the_rest_goes_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        steps = killed_behind(0, patched)
        build_once(tmp_path / "whole", "base", KEY, build)
    assert len(steps) > 2 * len(STEPS)
    for number in range(1, len(steps) + 1):
        root = tmp_path / str(number)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            killed_behind(number, patched)
            build_once(root, "base", KEY, build)
        (folder,) = root.glob("base-*")
        assert_complete(folder)
        for place in checkpoint.named(folder / "checkpoints" / "base"):
            assert len([f for f in place.rglob("*") if f.is_file()]) == 3, "half deleted"
        assert build_once(root, "base", KEY, never) == folder and left(folder) == []
        assert_complete(folder)


def test_killed_between_the_mark_and_the_deletion_it_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(_: Path) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(artifacts, "drop_checkpoints", kill)
        build_once(tmp_path, "base", KEY, build)
    (folder,) = tmp_path.glob("base-*")
    assert left(folder) == list(STEPS)
    assert_complete(folder)
    assert build_once(tmp_path, "base", KEY, never) == folder and left(folder) == []


def test_killed_before_the_mark_every_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    for name in ("sync_below", "write_done"):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(artifacts, name, kill)
            build_once(tmp_path / name, "base", KEY, build)
        (folder,) = (tmp_path / name).glob("base-*")
        assert left(folder) == list(STEPS) and not (folder / DONE).exists()


def test_all_is_on_the_disk_before_a_checkpoint_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model, the mark and the mark's name, in the order in which a power cut may ask."""
    order = syncs_and_drops(monkeypatch)
    folder = build_once(tmp_path, "base", KEY, build)
    names = [name.replace(str(folder), "") for name in order]
    last = names[names.index("drop") - 2 :]
    assert last[0].startswith(f"/.{DONE}.") and last[1:] == ["", "drop"]
    assert {"/model", "/model/model.safetensors"} <= set(names[: names.index("drop") - 2])


def test_copies_under_another_name_stay(tmp_path: Path) -> None:
    def kept(run: Run) -> None:
        build(run)
        place = run.path / "checkpoints" / "base"
        shutil.copytree(place / STEPS[0], place / "kept-10")

    folder = build_once(tmp_path, "base", KEY, kept)
    assert left(folder) == ["kept-10"]
    assert build_once(tmp_path, "base", KEY, never) == folder and left(folder) == ["kept-10"]


def test_a_stage_that_may_only_be_read_is_used_with_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_once(tmp_path, "base", KEY, build)
    write_checkpoints(folder)

    def refuse(source: Path, _: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(source))

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        assert build_once(tmp_path, "base", KEY, never) == folder
    assert left(folder) == list(STEPS)
    assert build_once(tmp_path, "base", KEY, never) == folder and left(folder) == []


def test_the_newest_stay_and_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    write_checkpoints(tmp_path)
    root = tmp_path / "checkpoints" / "base"
    (root / ".step-000030.tmp" / "base").mkdir(parents=True)
    (root / "step-000005").mkdir()  # begun to be deleted by an older version
    checkpoint.drop(root, keep=1)
    assert left(tmp_path) == ["step-000020"]
    checkpoint.drop(root)
    assert left(tmp_path) == []
