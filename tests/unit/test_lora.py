"""Adapters: only they are trained, and everything downstream sees an ordinary model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from genac import checkpoint
from genac.config.models import LoadConfig, LoraConfig, OptimizerConfig
from genac.config.run import HardwareConfig
from genac.engines.base import Request
from genac.hardware import Hardware
from genac.models.loading import load_model
from genac.models.lora import adapters
from genac.models.tiny import save_tiny
from genac.runtime import ModelSpec, Runtime, build
from genac.types import Sample

peft = pytest.importorskip("peft")

ASK = Request((5, 6, 7), 8, seed=0, temperature=0.0)
IDS = (5, 6, 7, 8, 9, 10)
ONES = np.ones(len(IDS), np.float32)
FAST = OptimizerConfig(learning_rate=1e-2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shape = {"hidden_size": 32, "layers": 2, "heads": 2}
    save_tiny(tmp_path / "model", list("abc"), max_length=64, seed=0, **shape)
    return tmp_path / "model"


def runtime(folder: Path, rank: int = 4) -> Runtime:
    hardware = Hardware.resolve(HardwareConfig(device="cpu"))
    return build(ModelSpec("actor", str(folder), FAST, lora=LoraConfig(rank=rank)), hardware)


def trained(folder: Path) -> Runtime:
    out = runtime(folder)
    for step in range(3):
        out.learner.learn([Sample(IDS, ONES, "sft")], step)
    out.publish(1)
    return out


def test_adapters_start_as_the_identity_and_alone_are_trained(folder):
    plain, adapted = runtime(folder, rank=0), runtime(folder)
    before = plain.sampler.generate([ASK])[0]
    after = adapted.sampler.generate([ASK])[0]
    assert before.ids == after.ids
    np.testing.assert_array_equal(before.logprobs, after.logprobs)
    frozen = {n: p.clone() for n, p in adapted.model.named_parameters() if not p.requires_grad}
    adapted.learner.learn([Sample(IDS, ONES, "sft")], 0)
    now = dict(adapted.model.named_parameters())
    assert set(now) - set(frozen) == set(adapters(adapted.model))
    assert all(torch.equal(now[n], p) for n, p in frozen.items())
    adapted.publish(1)
    assert adapted.sampler.generate([ASK])[0].logprobs.tolist() != after.logprobs.tolist()


def test_the_engine_samples_from_the_merged_weights(folder):
    model = trained(folder)
    done = model.sampler.generate([ASK])[0]
    sample = Sample(
        ASK.prompt_ids + done.ids, np.r_[np.zeros(3), np.ones(8)].astype(np.float32), "sft"
    )
    result = model.learner.logprobs([sample])[0][3:]
    np.testing.assert_allclose(result, done.logprobs, atol=1e-5)


def test_a_saved_model_is_an_ordinary_one(folder, tmp_path):
    model = trained(folder)
    model.save_model(tmp_path / "saved")
    again = runtime(tmp_path / "saved", rank=0)
    one, other = (r.sampler.generate([ASK])[0] for r in (model, again))
    assert one.ids == other.ids
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_a_checkpoint_resumes_exactly(folder, tmp_path):
    whole, first = runtime(folder), runtime(folder)
    for step in range(4):
        whole.learner.learn([Sample(IDS, ONES, "sft")], step)
    for step in range(2):
        first.learner.learn([Sample(IDS, ONES, "sft")], step)
    checkpoint.save(tmp_path / "points", 2, {"actor": first}, {})
    second = runtime(folder)
    checkpoint.load(checkpoint.complete(tmp_path / "points")[-1], {"actor": second})
    for step in range(2, 4):
        second.learner.learn([Sample(IDS, ONES, "sft")], step)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, dict(second.model.named_parameters())[name]), name


def test_a_checkpoint_without_adapters_is_refused(folder, tmp_path):
    plain = runtime(folder, rank=0)
    checkpoint.save(tmp_path / "points", 1, {"actor": plain}, {})
    with pytest.raises(ValueError, match="written without lora"):
        checkpoint.load(checkpoint.complete(tmp_path / "points")[-1], {"actor": runtime(folder)})


def test_a_value_head_with_adapters(folder, tmp_path):
    hardware = Hardware.resolve(HardwareConfig(device="cpu"))

    def model(path: Path, *, is_trained: bool, rank: int) -> Runtime:
        lora = LoraConfig(rank=rank)
        return build(
            ModelSpec("critic", str(path), FAST, head="mse", bins=1, trained=is_trained, lora=lora),
            hardware,
        )

    one = model(folder, is_trained=False, rank=4)
    targets = np.zeros(len(IDS), np.float32)
    for step in range(3):
        one.learner.learn([Sample(IDS, ONES, "value", targets=targets)], step)
    one.save_model(tmp_path / "critic")
    other = model(tmp_path / "critic", is_trained=True, rank=0)
    expected, result = one.learner.values([IDS])[0], other.learner.values([IDS])[0]
    assert abs(expected[1:] - 0.5).max() > 0.01
    np.testing.assert_allclose(result[1:], expected[1:], atol=1e-5)


def test_heads_and_embeddings_take_no_adapter(folder):
    hardware = Hardware.resolve(HardwareConfig(device="cpu"))
    lora = LoraConfig(rank=2, target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match=r"\['lm_head'\]"):
        build(ModelSpec("actor", str(folder), FAST, lora=lora), hardware)


def test_unknown_targets_are_named(folder):
    hardware = Hardware.resolve(HardwareConfig(device="cpu"))
    lora = LoraConfig(rank=2, target_modules=["c_attn"])
    with pytest.raises(ValueError, match=r"c_attn.*'qwen3'"):
        build(ModelSpec("actor", str(folder), FAST, lora=lora), hardware)


def test_a_base_in_bf16_under_adapters_in_fp32(folder, tmp_path):
    hardware = Hardware.resolve(HardwareConfig(device="cpu", precision="bf16"))
    lora, load = LoraConfig(rank=4), LoadConfig(dtype="bf16")
    model = build(ModelSpec("actor", str(folder), FAST, lora=lora, load=load), hardware)
    kinds = {p.requires_grad: p.dtype for p in model.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    losses = [model.learner.learn([Sample(IDS, ONES, "sft")], step)["loss"] for step in range(8)]
    assert losses[-1] < losses[0]
    model.publish(1)
    before = model.sampler.generate([ASK])[0]
    model.save_model(tmp_path / "saved")
    again = build(ModelSpec("actor", str(tmp_path / "saved"), FAST), hardware)
    np.testing.assert_allclose(before.logprobs, again.sampler.generate([ASK])[0].logprobs, atol=0.1)


def test_bf16_weights_are_only_stored_where_bf16_is_computed(folder):
    hardware = Hardware.resolve(HardwareConfig(device="cpu"))
    load = LoadConfig(dtype="bf16")
    with pytest.raises(ValueError, match=r"actor\.load\.dtype is 'bf16' but .* is in fp32"):
        build(ModelSpec("actor", str(folder), FAST, lora=LoraConfig(rank=2), load=load), hardware)


def critic_on(actor: Runtime, folder: Path, *, is_trained: bool = False) -> Runtime:
    hardware = Hardware.resolve(HardwareConfig(device="cpu"))
    return build(
        ModelSpec("critic", str(folder), FAST, trained=is_trained, seed=3), hardware, actor
    )


def test_one_base_under_two_sets_of_adapters(folder, tmp_path):
    actor = runtime(folder)
    actor.learner.learn([Sample(IDS, ONES, "sft")], 0)
    actor.publish(1)
    expected = actor.sampler.generate([ASK])[0].logprobs
    critic = critic_on(actor, folder)
    own, theirs = (dict(r.model.named_parameters()) for r in (actor, critic))
    for name, parameter in own.items():
        same = parameter.data_ptr() == theirs[name].data_ptr()
        assert same == (".lora_" not in name), name
    plain = runtime(folder, rank=0).sampler.generate([ASK])[0].logprobs
    np.testing.assert_array_equal(critic.sampler.generate([ASK])[0].logprobs, plain)
    other = Sample(IDS[::-1], ONES, "sft")
    for step in range(3):
        critic.learner.learn([other], step)
    critic.publish(1)
    actor.publish(2)  # from weights that the critic's training must not have touched
    np.testing.assert_array_equal(actor.sampler.generate([ASK])[0].logprobs, expected)
    critic.save_model(tmp_path / "critic")
    again = critic_on(actor, tmp_path / "critic", is_trained=True)
    one, two = (r.sampler.generate([ASK])[0].logprobs for r in (critic, again))
    np.testing.assert_array_equal(one, two)
    alone = runtime(tmp_path / "critic", rank=0)  # an ordinary folder, adapters merged
    np.testing.assert_allclose(alone.sampler.generate([ASK])[0].logprobs, one, atol=1e-5)


def test_training_on_a_shared_base_is_training_alone(folder):
    actor, alone = runtime(folder), runtime(folder)
    critic = critic_on(actor, folder)
    with torch.no_grad():  # the same start: adapters are drawn by role
        for name, parameter in adapters(alone.model).items():
            parameter.copy_(adapters(critic.model)[name])
    for step in range(3):
        for model in (critic, alone):
            model.learner.learn([Sample(IDS, ONES, "sft")], step)
    for name, parameter in adapters(alone.model).items():
        assert torch.equal(parameter, adapters(critic.model)[name]), name


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits.numpy()


def test_peft_loads_the_adapters_of_a_saved_model(folder, tmp_path):
    model = trained(folder)
    model.save_model(tmp_path / "saved")
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = logits(base)
    result = logits(peft.PeftModel.from_pretrained(base, tmp_path / "saved" / "adapter"))
    np.testing.assert_allclose(result, logits(model.model), atol=1e-6)
    assert abs(result - before).max() > 0.01
    # transformers takes the folder for the merged model, and adds no adapter to it
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(logits(whole), result, atol=1e-5)
    config = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None  # the base is a folder: its path is private


def test_adapters_of_peft_are_loaded(folder, tmp_path):
    targets = LoraConfig().target_modules
    settings = peft.LoraConfig(
        r=4, lora_alpha=32, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    other = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), settings)
    other.save_pretrained(tmp_path / "peft")
    model = runtime(folder)
    model.load_weights(tmp_path / "peft")
    np.testing.assert_allclose(logits(model.model), logits(other), atol=1e-6)


@pytest.mark.parametrize(
    ("lora", "match"),
    [
        (LoraConfig(rank=2), "in r;"),
        (LoraConfig(rank=4, alpha=8), "in lora_alpha;"),
        (LoraConfig(rank=4, target_modules=["q_proj"]), "down_proj"),
    ],
)
def test_other_adapters_are_refused(folder, tmp_path, lora, match):
    trained(folder).save_model(tmp_path / "saved")
    hardware = Hardware.resolve(HardwareConfig(device="cpu"))
    model = build(ModelSpec("actor", str(folder), FAST, lora=lora), hardware)
    with pytest.raises(ValueError, match=match):
        model.load_weights(tmp_path / "saved")


def test_a_folder_of_adapters_alone_is_no_model(folder, tmp_path):
    trained(folder).save_model(tmp_path / "saved")
    with pytest.raises(ValueError, match="merge them into their base first"):
        load_model(str(tmp_path / "saved" / "adapter"))
