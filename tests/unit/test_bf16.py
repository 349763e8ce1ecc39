"""bf16 on a CPU: only large models, only where it was measured to be faster, measured once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from genac.commands.doctor.report import examine
from genac.config.engines import VllmConfig
from genac.config.models import OptimizerConfig
from genac.config.run import HardwareConfig, RunConfig
from genac.config.stages import LoopStage
from genac.engines.vllm.engine import VllmEngine
from genac.hardware import Hardware
from genac.models import bf16
from genac.models.bf16 import Speedup, cache_file, measured
from genac.models.loading import on_meta
from genac.runs.files import write_json
from genac.runs.store import Run
from genac.runtime import ModelSpec, Runtime, build
from genac.stages.loop import Loop


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured.cache_clear()
    yield
    measured.cache_clear()


@pytest.fixture
def processor() -> Callable[..., None]:
    """processor(decoding=..., training=...): what was measured on it before."""

    def known(**values: Any) -> None:
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_json(cache_file(), values)
        measured.cache_clear()

    return known


def hardware(precision: str = "auto") -> Hardware:
    return Hardware.resolve(HardwareConfig(device="cpu", precision=precision))  # pyright: ignore[reportArgumentType]


def model(width: int) -> Any:
    return on_meta(LlamaConfig(hidden_size=width, num_hidden_layers=2, vocab_size=1000))


def test_it_is_measured_once_and_kept(processor: Callable[..., None]):
    first = measured()
    assert first.decoding > 0 and first.training > 0 and cache_file().exists()
    measured.cache_clear()
    assert measured() == first
    processor(decoding=3.0, training=2.0)
    assert measured() == Speedup(3.0, 2.0)


@pytest.mark.parametrize("text", ["{}", '{"decoding": "fast", "training": 1}'])
def test_a_damaged_record_is_measured_again(text: str):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(text)
    assert measured().decoding > 0
    assert "decoding" in cache_file().read_text()


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measured().training > 0


def test_auto_is_bf16_for_large_models_where_it_is_faster(processor: Callable[..., None]):
    large, small = model(1536), model(64)
    for decoding, training, expected in ((2.0, 2.5, True), (2.0, 0.3, False), (1.0, 2.0, False)):
        processor(decoding=decoding, training=training)
        assert hardware().computes_bf16(large) is expected
        assert not hardware().computes_bf16(small)
        assert not hardware("fp32").computes_bf16(large)
        assert hardware("bf16").computes_bf16(small)


def test_small_models_compute_in_fp32_whatever_the_processor(
    tiny_runtime: Callable[..., Runtime],
    processor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("GENAC_NATIVE", "0")  # a compiler would begin anew in another cache folder
    processor(decoding=9.0, training=9.0)
    runtime = tiny_runtime()
    assert not runtime.bf16 and next(runtime.model.parameters()).dtype == torch.float32


def test_a_stage_that_goes_on_in_another_precision_says_so(
    tiny_runtime: Callable[..., Runtime],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("GENAC_NATIVE", "0")
    run, runtime = Run.create(tmp_path / "run", {}, {}), tiny_runtime()

    def loop(runtime: Runtime) -> Loop:
        return Loop(run, "joint", LoopStage(steps=2), {"actor": runtime}, None, "hash")

    loop(runtime).save(1)
    assert list(loop(runtime)) == [1] and "goes on in" not in capsys.readouterr().err
    assert list(loop(replace(runtime, bf16=True))) == [1]
    assert "joint goes on in bf16 (actor), but began in fp32 (actor)" in capsys.readouterr().err


def test_several_processes_get_bf16_by_name_only(processor: Callable[..., None]):
    processor(decoding=9.0, training=9.0)
    cfg = HardwareConfig(device="cpu", processes=2)
    assert not Hardware.resolve(cfg).computes_bf16(model(1536))


@pytest.mark.parametrize(
    ("chosen", "speed", "line"),
    [
        ("auto", 2.0, "ok   precision auto: .*2.0 .decoding. .*models of 50M parameters and more"),
        ("auto", 0.5, "ok   precision auto: .*no models compute in bf16"),
        ("bf16", 0.5, "warn precision bf16: .*set hardware.precision to auto or fp32"),
        ("bf16", 2.0, "ok   precision bf16"),
        ("fp32", 2.0, "ok   precision fp32"),
    ],
)
def test_the_doctor_says_what_it_comes_to(
    chosen: str, speed: float, line: str, processor: Callable[..., None]
):
    processor(decoding=speed, training=speed)
    hardware = HardwareConfig(device="cpu", precision=chosen)  # pyright: ignore[reportArgumentType]
    lines, _ = examine(RunConfig(hardware=hardware))
    assert sum(bool(re.match(line, text)) for text in lines) == 1


def test_the_threshold_is_about_parameters(processor: Callable[..., None]):
    processor(decoding=2.0, training=2.0)
    assert bf16.uses_bf16(bf16.LARGE) and not bf16.uses_bf16(bf16.LARGE - 1)


def test_servers_in_bf16_get_weights_of_half_the_bytes(tiny_folder: Path, tmp_path: Path):
    files = []
    for half in (False, True):
        vllm = VllmConfig(urls=["http://127.0.0.1:9"])
        where = Hardware(torch.device("cpu"), half, engine="vllm", vllm=vllm)
        engine = build(ModelSpec("actor", str(tiny_folder), OptimizerConfig()), where).engine
        assert isinstance(engine, VllmEngine)
        folder = tmp_path / str(half)
        folder.mkdir()
        engine.source.export(folder)
        files.append(folder / "model.safetensors")
    full, rounded = map(load_file, files)
    assert full.keys() == rounded.keys()
    for name, weight in full.items():
        torch.testing.assert_close(rounded[name], weight.bfloat16(), rtol=0, atol=0)
