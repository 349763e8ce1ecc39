"""What keys and hashes see of the files that a config names: what they hold, not where they lie."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.runs.manifest import write_done
from genac.stages import contents
from genac.stages.base_model import BaseInputs
from genac.stages.contents import data_digest, model_digest, model_key, reward_files
from genac.stages.critic_rl import CriticRLInputs
from genac.stages.finish import config_hash
from genac.stages.inputs import NO_RESULT
from genac.stages.panels import PanelInputs
from genac.stages.sft import SFTInputs
from genac.stages.traces.inputs import TraceInputs
from genac.stages.traces.states import CandidateInputs

ROWS = [{"prompt": f"{i} + 1", "answer": str(i + 1)} for i in range(8)]


def write_rows(file: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("a card")
    return folder


REWARD = "def fn(completions, **columns):\n    return [0.5]\n"


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Everything local that a config may name."""
    (tmp_path / "code" / "inner").mkdir(parents=True)
    (tmp_path / "code" / "rewards.py").write_text(
        "import json, helper\nfrom inner import deep\nfrom inner.part import thing\n" + REWARD
    )
    (tmp_path / "code" / "helper.py").write_text("def two():\n    import late\n    return 2\n")
    (tmp_path / "code" / "late.py").write_text("X = 1\n")
    (tmp_path / "code" / "inner" / "__init__.py").write_text("")
    (tmp_path / "code" / "inner" / "deep.py").write_text("from . import part\nfrom .. import up\n")
    (tmp_path / "code" / "inner" / "part.py").write_text("thing = 1\n")
    (tmp_path / "code" / "unrelated.py").write_text("thing = 1\n")
    write_rows(tmp_path / "set" / "data" / "train.jsonl")
    return {
        "task.path": write_rows(tmp_path / "rows.jsonl"),
        "task.reward/rewards.py": tmp_path / "code" / "rewards.py",
        "task.reward/helper.py": tmp_path / "code" / "helper.py",
        "task.reward/late.py": tmp_path / "code" / "late.py",
        "task.reward/inner/__init__.py": tmp_path / "code" / "inner" / "__init__.py",
        "task.reward/inner/deep.py": tmp_path / "code" / "inner" / "deep.py",
        "task.reward/inner/part.py": tmp_path / "code" / "inner" / "part.py",
        "task.options.heldout": write_rows(tmp_path / "held.jsonl"),
        "task.options.decontaminate.0": write_rows(tmp_path / "first.jsonl"),
        "task.options.decontaminate.1": tmp_path / "set" / "data" / "train.jsonl",
        "task.shift.far.heldout": write_rows(tmp_path / "far.jsonl"),
        "stages.synthesize.options.heldout": write_rows(tmp_path / "asked.jsonl"),
        "stages.base.options.heldout": write_rows(tmp_path / "shown.jsonl"),
        "stages.critic_rl.options.heldout": write_rows(tmp_path / "returns.jsonl"),
        "actor.model_name_or_path": write_model(tmp_path / "actor") / "model.safetensors",
        "critic.model_name_or_path": write_model(tmp_path / "critic") / "config.json",
    }


@pytest.fixture
def config(places: dict[str, Path], tmp_path: Path) -> RunConfig:
    options = {
        "heldout": str(places["task.options.heldout"]),
        "decontaminate": [str(tmp_path / "first.jsonl"), str(tmp_path / "set") + "@train"],
    }
    reward = f"0.9 * {tmp_path}/code/rewards.py:fn + 0.1 * match"
    return resolve(
        {
            "task": {
                "name": "file",
                "path": str(places["task.path"]),
                "reward": reward,
                "options": options,
                "shift": {"far": {"heldout": str(places["task.shift.far.heldout"])}},
            },
            "actor": {"model_name_or_path": str(tmp_path / "actor")},
            "critic": {"model_name_or_path": str(tmp_path / "critic")},
            "stages": {
                "base": {"options": {"heldout": str(tmp_path / "shown.jsonl")}},
                "critic_rl": {"options": {"heldout": str(tmp_path / "returns.jsonl")}},
                "synthesize": {
                    "oracle": "outcome",
                    "options": {"heldout": str(tmp_path / "asked.jsonl")},
                },
            },
            "hardware": {"device": "cpu"},
        }
    )


def test_every_local_file_counts_and_a_changed_one_is_named(config, places):
    before, name = contents.contents(config), config_hash(config)
    assert set(before) == set(places)
    for key, file in places.items():
        old = file.read_bytes()
        file.write_bytes(old + b"\n")
        now = contents.contents(config)
        assert {k for k in now if now[k] != before[k]} == {key}
        assert config_hash(config) != name
        assert config_hash(config, before) == name, "the hash is a function of the digests"
        file.write_bytes(old)
    assert (contents.contents(config), config_hash(config)) == (before, name)


def test_what_does_not_count(config, places, tmp_path):
    name = config_hash(config)
    (tmp_path / "code" / "unrelated.py").write_text("thing = 2\n")
    (tmp_path / "actor" / "README.md").write_text("an edited card")
    (tmp_path / "set" / ".hidden").write_text("")
    for file in tmp_path.rglob("*.jsonl"):
        file.touch()
    assert config_hash(config) == name


def test_moved_and_renamed_files_are_the_same(config, tmp_path):
    before = contents.contents(config), config_hash(config)
    text, names = config.model_dump_json(), sorted(p.name for p in tmp_path.iterdir())
    for name in names:
        shutil.move(tmp_path / name, tmp_path / f"new-{name}")
        text = text.replace(f"{tmp_path}/{name}", f"{tmp_path}/new-{name}")
    moved = RunConfig.model_validate_json(text)
    assert moved != config
    assert (contents.contents(moved), config_hash(moved)) == before


def stage_keys(cfg: RunConfig, tmp_path: Path) -> dict[str, str]:
    actor = Path(cfg.actor.model_name_or_path or tmp_path)
    critic = Path(cfg.critic.model_name_or_path or actor)
    queries = merge_config(cfg, {"stages": {"synthesize": MONTE_CARLO}})
    inputs = {
        "base": BaseInputs.of(cfg),
        "traces": TraceInputs.of(cfg, actor),
        "oracle": TraceInputs.of(queries, actor),
        "candidates": CandidateInputs.of(cfg, actor),
        "sft": SFTInputs.of(cfg, tmp_path / "traces-abc" / "traces.jsonl", actor, actor),
        "critic_rl": CriticRLInputs.of(cfg, critic, actor),
        "panel": PanelInputs.of(cfg, actor, {}),
        "far panel": PanelInputs.of(cfg, actor, cfg.task.shift.get("far", {})),
    }
    return {name: one.hash for name, one in inputs.items()}


MONTE_CARLO = {"oracle": "monte_carlo", "continuations": 2}


def merge_config(cfg: RunConfig, changes: dict[str, Any]) -> RunConfig:
    return RunConfig(**merge(cfg.model_dump(), changes))


ACTS = {"traces", "candidates", "oracle", "critic_rl", "panel", "far panel"}
ALL = ACTS | {"base"}
CHANGES = {
    "task.path": ALL,
    "task.reward/helper.py": ALL,
    "task.options.heldout": {"panel"},  # the others override it here
    "task.options.decontaminate.1": ALL,
    "task.shift.far.heldout": {"far panel"},
    "stages.synthesize.options.heldout": {"traces", "candidates", "oracle"},
    "stages.base.options.heldout": {"base"},
    "stages.critic_rl.options.heldout": {"critic_rl"},
    "actor.model_name_or_path": ACTS | {"sft"},
    "critic.model_name_or_path": {"critic_rl", "oracle"},
}


@pytest.mark.parametrize("key", CHANGES)
def test_each_stage_sees_the_files_that_it_reads(config, places, tmp_path, key):
    before = stage_keys(config, tmp_path)
    places[key].write_bytes(places[key].read_bytes() + b"\n")
    now = stage_keys(config, tmp_path)
    assert {stage for stage in now if now[stage] != before[stage]} == CHANGES[key]


@pytest.mark.parametrize("key", sorted(NO_RESULT))
def test_what_changes_no_result_is_in_no_hash(config, tmp_path, key):
    """Memory and speed among them: the remedy for too little memory must not end a run."""
    *path, last = key.split(".")
    value: Any = config
    for part in (*path, last):
        value = getattr(value, part)
    changed: Any = {
        bool: lambda v: not v,
        int: lambda v: v + 1,
        float: lambda v: v + 1,
        str: lambda v: {"api_key_env": "NONE_OTHER", "placement": "separate"}.get(last, v + "x"),
        list: lambda v: ["http://host:1"] if last == "urls" else ["wandb"],
        type(None): lambda v: {"url": "http://127.0.0.1", "cluster": "auto", "python": "x"}.get(
            last, 1.0
        ),
    }[type(value)](value)
    changes: Any = {last: changed}
    for part in reversed(path):
        changes = {part: changes}
    other = merge_config(config, changes)
    assert other != config
    assert config_hash(other) == config_hash(config)
    assert stage_keys(other, tmp_path) == stage_keys(config, tmp_path)


def test_other_keys_are_in_the_hash(config):
    for changes in (
        {"seed": 1},
        {"rollout": {"temperature": 0.5}},
        {"hardware": {"device": "auto"}},
    ):
        assert config_hash(merge_config(config, changes)) != config_hash(config)


@pytest.mark.parametrize("spec", ["match", "0.5 * math + 0.5 * format", "", "nothing", "a.b:c"])
def test_rewards_without_files(spec):
    assert reward_files(spec) == {}


@pytest.mark.parametrize(
    "spec", ["{}/one.py:fn", "verl:{}/one.py:fn", "0.5 * {}/one.py:fn + 0.5 * verl:{}/two.py:fn"]
)
def test_rewards_with_files(spec, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(REWARD)
    names = {"one.py", "1/two.py"} if "two" in spec else {"one.py"}
    assert set(reward_files(spec.replace("{}", str(tmp_path)))) == names


def test_a_reward_by_module_counts_with_its_package_and_not_with_what_is_installed(
    tmp_path, monkeypatch
):
    package = tmp_path / "own_rewards" / "kinds"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "exact.py").write_text("import numpy\nfrom ..shared import thing\n" + REWARD)
    (package.parent / "shared.py").write_text("thing = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    files = reward_files("own_rewards.kinds.exact:fn")
    assert set(files) == {"own_rewards/kinds/exact.py", "own_rewards/shared.py"}
    installed = reward_files("yaml.loader:fn")
    assert "yaml/loader.py" in installed and all(n.startswith("yaml/") for n in installed)
    assert reward_files("json:dumps") and "own_rewards" in sys.modules


def test_a_reward_that_cannot_be_parsed_still_counts(tmp_path):
    (tmp_path / "broken.py").write_text("def (\n")
    assert set(reward_files(f"{tmp_path}/broken.py:fn")) == {"broken.py"}


def test_imports_in_a_circle_end(tmp_path):
    (tmp_path / "one.py").write_text("import two\n" + REWARD)
    (tmp_path / "two.py").write_text("import one\n")
    assert set(reward_files(f"{tmp_path}/one.py:fn")) == {"one.py", "two.py"}


def test_data_by_folder_and_by_name(tmp_path):
    folder = tmp_path / "set"
    write_rows(folder / "train.jsonl")
    first = data_digest(str(folder))
    assert first and data_digest(f"{folder}@test") == f"{first}@test"
    (folder / "cache-1234.arrow").write_text("what the library keeps")
    assert data_digest(str(folder)) == first
    (folder / "train.jsonl").rename(folder / "test.jsonl")
    assert data_digest(str(folder)) not in (first, None)
    assert data_digest("gsm8k") is None and data_digest("owner/name@test") is None


def test_a_home_folder_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_rows(tmp_path / "rows.jsonl")
    assert data_digest("~/rows.jsonl") == data_digest(str(tmp_path / "rows.jsonl"))


def test_large_weights_count_by_blocks_and_small_ones_by_every_byte(tmp_path, monkeypatch):
    small = write_model(tmp_path / "small", bytes(3 << 20))
    first = model_digest(small)
    data = bytearray((small / "model.safetensors").read_bytes())
    data[(2 << 20) + 12345] ^= 1
    (small / "model.safetensors").write_bytes(data)
    assert model_digest(small) != first
    monkeypatch.setattr(contents, "WHOLE", 1 << 10)
    blocks = model_digest(small)
    for tensor in range(30):  # each of 100 kB
        trained = bytearray(data)
        begin = tensor * 100_000
        trained[begin : begin + 100_000] = b"\1" * 100_000
        (small / "model.safetensors").write_bytes(trained)
        assert model_digest(small) != blocks
    (small / "model.safetensors").write_bytes(data + b"0")
    assert model_digest(small) != blocks


def test_a_model_is_its_folder_a_stage_or_a_name(tmp_path):
    one, two = (write_model(tmp_path / name / "model") for name in ("one", "two"))
    assert model_key(one) == model_key(two) == model_digest(one)
    (two / "config.json").write_text('{"other": 1}')
    assert model_key(one) != model_key(two), "two folders of one name"
    assert model_key("owner/name") == "owner/name"


def test_a_damaged_model_of_a_finished_run_is_not_started_from(tmp_path, config):
    folder = write_model(tmp_path / "other" / "actor")
    write_done(tmp_path / "other", {})
    cfg = merge_config(config, {"actor": {"model_name_or_path": str(folder)}})
    assert contents.contents(cfg)["actor.model_name_or_path"] == model_key(folder)
    (folder / "model.safetensors").write_bytes(b"Weights")
    for reading in (lambda: contents.contents(cfg), lambda: model_key(folder)):
        with pytest.raises(ValueError, match=r"model\.safetensors is not as it was written"):
            reading()
