"""Checkpoints: the continuation is bit-identical, damage is noticed, a full disk costs nothing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import parameters_equal
from killing import syncs_and_drops
from safetensors import SafetensorError

from genac import checkpoint
from genac.config.models import OptimizerConfig
from genac.config.run import HardwareConfig
from genac.engines.base import Request
from genac.hardware import Hardware
from genac.runtime import ModelSpec, Runtime, build
from genac.types import Sample

STATE = {"critic": {"success_rate": {"momentum": 0.9, "value": 0.25}}, "hash": "abc"}
MASK = np.array([0, 1, 1, 1], np.float32)


def learn(runtime: Runtime, step: int) -> float:
    """One optimiser step whose data depend on the step alone."""
    kind = "sft" if runtime.engine else "value"
    rng = np.random.default_rng(step)
    targets = None if runtime.engine else MASK
    rows = rng.integers(3, 40, (3, 4)).tolist()
    samples = [Sample(tuple(ids), MASK, kind, targets=targets) for ids in rows]
    return runtime.learner.learn(samples, seed=step)["loss"]


@pytest.fixture
def pair(tiny_runtime: Any, tiny_folder: Path) -> Any:
    """pair() -> fresh runtimes of an actor and of a value-head critic."""

    def make() -> dict[str, Runtime]:
        hardware = Hardware.resolve(HardwareConfig(device="cpu"))
        optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=5)
        critic = build(
            ModelSpec("critic", str(tiny_folder), optimizer, head="mse", bins=51, trained=False),
            hardware,
        )
        return {"actor": tiny_runtime(1e-2), "critic": critic}

    return make


def test_round_trip_continues_bit_identically(pair, tmp_path):
    saved, resumed = pair(), pair()
    for runtime in saved.values():
        for step in range(3):
            learn(runtime, step)
        runtime.publish(3)
    folder = checkpoint.save(tmp_path, 3, saved, STATE)
    for runtime in resumed.values():  # whatever it did before must not shine through
        learn(runtime, 99)
    state = checkpoint.load(folder, resumed)
    assert state == STATE | {"step": 3, "versions": {"actor": 3, "critic": 3}}
    request = Request((5, 6), 8, seed=0)
    for name, one in saved.items():
        other = resumed[name]
        assert parameters_equal(one.model, other.model)
        assert (other.learner.steps, other.version) == (3, 3)
        assert [learn(one, step) for step in (3, 4)] == [learn(other, step) for step in (3, 4)]
        assert parameters_equal(one.model, other.model)
    one, other = (r["actor"].sampler.generate([request])[0] for r in (saved, resumed))
    assert one.ids == other.ids and np.array_equal(one.logprobs, other.logprobs)
    assert resumed["actor"].sampler.version == 3


def test_optimiser_moments_matter(pair, tmp_path):
    """The test above could not fail if a fresh optimiser went on in the same way."""
    saved, resumed = pair(), pair()
    for step in range(3):
        learn(saved["actor"], step)
    resumed["actor"].model.load_state_dict(saved["actor"].model.state_dict())
    for runtimes in (saved, resumed):
        learn(runtimes["actor"], 3)
    assert not parameters_equal(saved["actor"].model, resumed["actor"].model)


def test_only_the_newest_are_kept(pair, tmp_path):
    runtimes = {"actor": pair()["actor"]}
    for step in (1, 2, 30, 4):
        checkpoint.save(tmp_path, step, runtimes, {})
    names = [p.name for p in checkpoint.complete(tmp_path)]
    assert names == ["step-000004", "step-000030"] and len(names) == checkpoint.KEEP
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    checkpoint.save(tmp_path, 30, runtimes, {"again": True})  # the same step, once more
    assert checkpoint.load(tmp_path / "step-000030", runtimes)["again"] is True


@pytest.mark.parametrize(
    "name", ["state.json", "actor.optimizer.pt", "critic/model.safetensors", "actor/tokenizer.json"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_noticed_before_anything_is_loaded(pair, tmp_path, name, damage):
    runtimes = pair()
    folder = checkpoint.save(tmp_path, 1, runtimes, STATE)
    file = folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[:-1])
    learn(runtimes["actor"], 0)
    before = {k: v.clone() for k, v in runtimes["actor"].model.state_dict().items()}
    with pytest.raises(ValueError, match=f"is damaged: {name}"):
        checkpoint.load(folder, runtimes)
    after = runtimes["actor"].model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_checkpoint_without_the_critic_is_refused(pair, tmp_path):
    runtimes = pair()
    folder = checkpoint.save(tmp_path, 1, {"actor": runtimes["actor"]}, STATE)
    with pytest.raises(ValueError, match="holds no critic"):
        checkpoint.load(folder, runtimes)


def test_a_critic_without_its_optimiser_is_refused(pair, tmp_path):
    """Even where someone removed it from the manifest as well."""
    runtimes = pair()
    folder = checkpoint.save(tmp_path, 1, runtimes, STATE)
    (folder / "critic.optimizer.pt").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["critic.optimizer.pt"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"holds no critic \(model and optimiser state\)"):
        checkpoint.load(folder, runtimes)


@pytest.mark.parametrize(
    "left_out", ["critic/model.safetensors", "state.json", "critic/", "actor/tokenizer.json"]
)
def test_a_manifest_that_leaves_files_out_is_refused(pair, tmp_path, left_out):
    runtimes = pair()
    folder = checkpoint.save(tmp_path, 1, runtimes, STATE)
    gone = left_out_of_manifest(folder, left_out)
    with pytest.raises(ValueError, match=f"is damaged: {gone[0]} is not in manifest.json"):
        checkpoint.load(folder, runtimes)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("critic/model.safetensors", "no causal LM could be loaded"),
        ("critic/value_head", "holds no value_head.safetensors"),
        ("critic/", "holds no critic"),
        ("state.json", "state.json is not in manifest.json"),
    ],
)
def test_files_that_are_gone_and_left_out_of_the_manifest_are_missed(
    pair, tmp_path, left_out, message
):
    runtimes = pair()
    folder = checkpoint.save(tmp_path, 1, runtimes, STATE)
    for name in left_out_of_manifest(folder, left_out):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=message):
        checkpoint.load(folder, runtimes)


def left_out_of_manifest(folder: Path, start: str) -> list[str]:
    manifest = json.loads((folder / "manifest.json").read_text())
    gone = sorted(name for name in manifest if name.startswith(start))
    kept = {name: one for name, one in manifest.items() if name not in gone}
    (folder / "manifest.json").write_text(json.dumps(kept))
    return gone


@pytest.mark.parametrize("content", ["[]", "null", '"text"', "", "{", "{}", '{"a": 1}'])
def test_a_manifest_that_is_none_is_refused_by_its_name(pair, tmp_path, content):
    runtimes = {"actor": pair()["actor"]}
    folder = checkpoint.save(tmp_path, 1, runtimes, STATE)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        checkpoint.load(folder, runtimes)


def test_other_folders_are_no_checkpoints(pair, tmp_path):
    kept = checkpoint.save(tmp_path, 7, {"actor": pair()["actor"]}, STATE)
    for name in ("step-x", "step-²²²²²²", "step-" + 20 * "9", "step-7", "step-copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert checkpoint.complete(tmp_path) == [kept]


def test_a_folder_without_manifest_is_no_checkpoint(pair, tmp_path):
    folder = checkpoint.save(tmp_path, 1, {"actor": pair()["actor"]}, STATE)
    (folder / "manifest.json").unlink()
    assert checkpoint.complete(tmp_path) == []


def test_a_checkpoint_has_its_name_on_the_disk_before_older_ones_go(pair, tmp_path, monkeypatch):
    order = syncs_and_drops(monkeypatch, "step-000001")
    checkpoint.save(tmp_path, 1, {"actor": pair()["actor"]}, STATE)
    hidden = str(tmp_path / ".step-000001.tmp")
    assert order[-3:] == [hidden, str(tmp_path), "drop"]


def raises(error: Exception) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise error

    return function


FULL = OSError(errno.ENOSPC, "No space left on device")
WRITERS = {
    "python": (os, "fsync", FULL),
    "torch": (torch, "save", RuntimeError("[enforce fail at inline_container.cc:672]")),
    "safetensors": (
        Runtime,
        "save_model",
        SafetensorError("I/O error: No space left (os error 28)"),
    ),
    "rename": (os, "rename", FULL),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_previous_checkpoint(pair, tmp_path, monkeypatch, writer):
    """What Python, torch and safetensors really raise there are three different exceptions."""
    runtimes = {"actor": pair()["actor"]}
    kept = checkpoint.save(tmp_path, 1, runtimes, STATE)
    owner, name, error = WRITERS[writer]
    learn(runtimes["actor"], 0)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raises(error))
        with pytest.raises(OSError, match="previous checkpoint is intact"):
            checkpoint.save(tmp_path, 2, runtimes, STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.load(kept, runtimes)["step"] == 1
    checkpoint.save(tmp_path, 2, runtimes, STATE)
    assert len(checkpoint.complete(tmp_path)) == 2


SILENT = [ChildProcessError("worker 1 died"), TimeoutError("no answer"), ConnectionError("failed")]


@pytest.mark.parametrize("error", SILENT)
def test_a_writer_that_failed_is_not_called_a_full_disk(pair, tmp_path, monkeypatch, error):
    monkeypatch.setattr(Runtime, "save_model", raises(error))
    with pytest.raises(type(error), match=f"^{error}$"):
        checkpoint.save(tmp_path, 1, {"actor": pair()["actor"]}, STATE)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_behind_is_swept_away(pair, tmp_path):
    debris = tmp_path / ".step-000002.tmp"
    debris.mkdir()
    (debris / "rubbish").write_text("half")
    runtimes = {"actor": pair()["actor"]}
    folder = checkpoint.save(tmp_path, 2, runtimes, STATE)
    assert not (folder / "rubbish").exists() and not debris.exists()
    assert checkpoint.load(folder, runtimes)["step"] == 2
