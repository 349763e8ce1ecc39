"""Who computes what, what is refused before anything is loaded, and what a process will need."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import tiny_llama, write_gguf
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config

from genac.config.models import ActorConfig, LossConfig, OptimizerConfig
from genac.config.run import HardwareConfig, RunConfig
from genac.config.stages import StagesConfig
from genac.distributed import build, partition
from genac.engines.base import Request
from genac.engines.decoder import Decoder, Layer
from genac.engines.local import LocalEngine
from genac.hardware import Hardware
from genac.learner import Learner
from genac.stages.finish import config_hash
from genac.stages.setup import Setup
from genac.types import Sample

prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), max_size=12)


@given(prompts, st.integers(1, 4))
def test_every_sequence_has_one_worker(results: list[tuple[int, ...]], workers: int) -> None:
    out = partition.partition_sequences(results, workers)
    assert len(out) == workers
    assert sorted(i for part in out for i in part) == list(range(len(results)))
    assert all(part == sorted(part) for part in out)


def test_groups_stay_together_and_loads_are_equal() -> None:
    # Eight problems with four responses each, on four workers: two whole problems for each.
    requests = [Request((problem,) * 20, 30, seed=i) for problem in range(8) for i in range(4)]
    out = partition.partition_requests(requests, 4)
    assert [len(part) for part in out] == [8] * 4
    for part in out:
        problems = [requests[i].prompt_ids[0] for i in part]
        assert all(problems.count(p) == 4 for p in problems)


def test_one_large_group_is_divided_and_its_neighbours_stay_neighbours() -> None:
    # The states of one response: each is the beginning of the next.
    response = tuple(range(64))
    out = partition.partition_requests(
        [Request(response[: 4 + 4 * i], 50, seed=i) for i in range(16)], 2
    )
    assert all(6 <= len(part) <= 10 for part in out)
    neighbours = sum(b - a == 1 for part in out for a, b in itertools.pairwise(part))
    assert neighbours >= 11  # sixteen in two shares of about two pieces each


def test_long_sequences_weigh_more() -> None:
    out = partition.partition_sequences([(1,) * 90, *[(i,) * 30 for i in range(2, 5)]], 2)
    assert sorted(map(len, out)) == [1, 3]


def sample(ids: tuple[int, ...], loss: str = "policy") -> Sample:
    length = len(ids)
    streams = {
        "weights": np.ones(length, np.float32),
        "advantages": np.linspace(-1, 1, length).astype(np.float32),
        "old_logprobs": np.full(length, -1.0, np.float32),
    }
    return Sample(ids=ids, loss=loss, **streams)


def test_an_idle_sample_changes_no_gradient_and_no_total(tiny_model) -> None:
    learner = Learner(tiny_model, OptimizerConfig(), LossConfig(entropy_coef=0.1))
    own = [sample((3, 4, 5, 6)), sample((7, 8))]
    counts = {"token": 4.0, "sequence": 2.0}
    results = []
    for samples in (own, [*own, partition.dummy_sample(own[0])]):
        learner.optimizer.zero_grad()
        total = 0.0
        for rows, _ in learner._microbatches(samples):
            with learner._attention(rows):
                loss, _ = learner._loss("policy", rows, counts)
                loss.backward()
            total += float(loss.detach())
        results.append((total, [p.grad.clone() for p in learner.parameters]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b)
    # One that is computed by itself reaches every weight, since other processes wait for each.
    learner.optimizer.zero_grad()
    (rows,) = [rows for rows, _ in learner._microbatches([partition.dummy_sample(own[0])])]
    loss, _ = learner._loss("policy", rows, counts)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in learner.parameters)


def test_all_weights_of_an_engine_leave_the_device(tiny_model) -> None:
    engine = LocalEngine(tiny_model, 64)
    decoder = engine.decoder
    assert isinstance(decoder, Decoder)
    decoder.to("meta")
    tensors = [v for v in vars(decoder).values() if isinstance(v, torch.Tensor)]
    for layer in decoder.layers:
        tensors += [
            v for f in dataclasses.fields(Layer) if (v := getattr(layer, f.name)) is not None
        ]
    assert tensors and all(t.is_meta for t in tensors)


def test_publishing_replaces_every_layer(tiny_model) -> None:
    engine = LocalEngine(tiny_model, 64)
    assert engine.decoder is not None
    before = [layer.out.clone() for layer in engine.decoder.layers]
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.add_(1.0)
    engine.publish(tiny_model, 1)
    assert len(engine.decoder.layers) == len(before)
    for old, new in zip(before, engine.decoder.layers, strict=True):
        torch.testing.assert_close(new.out, old + 1)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="processes is 8 but 2 CUDA devices are visible"):
        Hardware.resolve(HardwareConfig(processes=8))
    assert Hardware.resolve(HardwareConfig(processes=0)).processes == 2
    assert Hardware.resolve(HardwareConfig()).processes == 1
    assert Hardware.resolve(HardwareConfig(device="cpu", processes=0)).processes == 1


def test_a_family_without_a_decoder_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    several = Hardware(torch.device("cpu"), bf16=False, processes=2)
    cfg = RunConfig().model_dump()
    cfg["actor"]["model_name_or_path"] = str(tmp_path)
    with pytest.raises(ValueError, match=r"actor: .* family 'gpt2'.*hardware.processes to 1, or"):
        build.require_supported(RunConfig(**cfg), several, critic=True)
    build.require_supported(
        RunConfig(**cfg), dataclasses.replace(several, processes=1), critic=True
    )
    cfg["actor"]["lora"]["rank"] = 4  # every process holds all of it
    build.require_supported(RunConfig(**cfg), several, critic=True)


def test_a_gguf_file_of_such_a_family_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "old.gguf", tiny_llama(), architecture="gpt2")
    cfg = RunConfig(
        actor=ActorConfig(model_name_or_path=str(file)),
        stages=StagesConfig(folder=str(tmp_path / "stages")),
        hardware=HardwareConfig(device="cpu", processes=2),
    )
    with pytest.raises(ValueError, match=r"old.gguf' is of the family 'gpt2'.*processes to 1, or"):
        Setup.of(cfg)
    assert not (tmp_path / "stages").exists()


def test_the_number_of_processes_is_no_part_of_a_runs_identity() -> None:
    one = RunConfig()
    two = one.model_copy(update={"hardware": HardwareConfig(processes=2)})
    assert config_hash(one) == config_hash(two)
