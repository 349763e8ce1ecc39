"""Widths, vocabularies and context lengths of models whose config hides them, and padding ids."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_learner_models import HEADS, OPT, SHAPE, VOCAB, model_of, samples_of
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
)
from work import Sizes

from genac.commands.doctor.memory import language, value_head
from genac.config.models import OptimizerConfig
from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.hardware import Hardware
from genac.learner import Learner
from genac.models.heads import backbone, hidden_width, positions, vocabulary
from genac.models.loading import load_model, on_meta
from genac.models.value_head import ValueModel
from genac.runtime import ModelSpec, build
from genac.types import Sample

# --- widths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_a_value_head_is_as_wide_as_the_hidden_states(name):
    model = model_of(HEADS[name][0])
    value_model = ValueModel(model, 1)
    torch.nn.init.normal_(value_model.head.weight)
    learner = Learner(value_model, OptimizerConfig(), head="mse")
    (values,) = learner.values([(3, 4, 5, 6)])
    single = value_model(torch.tensor([[3, 4, 5, 6]]))[0, :, 0].detach().numpy()
    np.testing.assert_allclose(values[1:], single, atol=1e-5)
    sample = Sample(
        (3, 4, 5, 6), np.array([0, 0, 1, 1], np.float32), "value", targets=np.zeros(4, np.float32)
    )
    assert learner.learn([sample], seed=0)["grad_norm"] > 0


@pytest.mark.parametrize("name", HEADS)
def test_numbers_of_nested_and_projected_models(name):
    config = HEADS[name][0]
    model = model_of(config)
    assert vocabulary(model) == VOCAB
    assert backbone(model) is not model
    assert hidden_width(model) == (16 if name == "opt, projected" else 32)
    if name not in ("recurrent_gemma", "xlstm"):  # which have no limit
        assert positions(model.config) == 64
    with torch.device("meta"):  # as processes that hold no weights see it
        outline = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    assert hidden_width(outline) == hidden_width(model)
    language(model, "actor", (8, 16, 8), 4, bf16=False)
    value_head(model, 16, bf16=False)
    assert Sizes.of(model, 4).vocab == VOCAB


# --- padding -------------------------------------------------------------------------------------

FAMILIES = {"llama": LlamaConfig, "gpt_neox": GPTNeoXConfig, "opt": OPTConfig}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_padding_id_changes_nothing(tmp_path, family):
    """None, a word, the end of a sequence, -1 and beyond the vocabulary: one result."""
    shape = (OPT | {"word_embed_proj_dim": 32}) if family == "opt" else SHAPE
    shape = {k: v for k, v in shape.items() if family != "gpt_neox" or k != "num_key_value_heads"}
    torch.manual_seed(0)
    source = AutoModelForCausalLM.from_config(FAMILIES[family](**shape | {"pad_token_id": None}))
    source.save_pretrained(tmp_path)
    file, results = tmp_path / "config.json", []
    samples = [replace(s, ids=(*s.ids[:-2], VOCAB - 1, 1)) for s in samples_of(source.eval())]
    requests = [Request((5, 6, 7), 4, seed=0), Request((5, 6, 7, 8, 9), 4, seed=1)]
    for pad in (None, 0, 1, -1, VOCAB, VOCAB + 5):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": pad}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = load_model(str(tmp_path))
            written = [c.ids for c in LocalEngine(model, 64).generate(requests)]
            on_meta(AutoConfig.from_pretrained(tmp_path))
        learner = Learner(model, OptimizerConfig(learning_rate=1e-2))
        loss = learner.learn(samples, seed=0)
        model.save_pretrained(tmp_path / "again")
        load_model(str(tmp_path / "again"))
        results.append((written, loss, [p.detach().clone() for p in model.parameters()]))
    for written, loss, weights in results[1:]:
        assert (written, loss) == results[0][:2]
        for one, other in zip(weights, results[0][2], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gemma3, nested", "gemma4, nested", "opt, projected"])
def test_runtimes_of_nested_and_projected_models(tmp_path, tokenizer, name):
    """Sampled, published and trained as actor and as value head, without a number in the config's
    first level."""
    model_of(HEADS[name][0]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    place = Hardware(torch.device("cpu"), bf16=False)
    optimizer = OptimizerConfig(learning_rate=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actor = build(ModelSpec("actor", str(tmp_path), optimizer, max_rows=4), place)
        (done,) = actor.sampler.generate([Request((5, 6, 7), 6, seed=0)])
        before = actor.probe((5, 6, 7))
        ids, first = (5, 6, 7, *done.ids), 3
        old = np.r_[np.zeros(first), done.logprobs].astype(np.float32)
        weights = (np.arange(len(ids)) >= first).astype(np.float32)
        measured = actor.learner.learn([Sample(ids, weights, "policy", weights, old)], seed=0)
        actor.publish(1)
    assert measured["sampling/sampling_logp_difference/mean"] < 1e-4
    assert before.shape == (VOCAB,) and abs(actor.probe((5, 6, 7)) - before).max() > 0
    assert actor.max_length == 64
    critic = build(ModelSpec("critic", str(tmp_path), optimizer, head="mse"), place)
    assert len(critic.learner.values([ids])[0]) == len(ids) + 1 and critic.max_length == 64


@pytest.mark.parametrize(("row", "trained"), [(0.0, False), (0.5, True)])
def test_a_padding_row_of_zeros_is_left_untrained(tmp_path, row, trained):
    """Behind a norm the gradient of an empty row is without measure; any other row learns."""
    model = model_of(LlamaConfig(**SHAPE))
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = row
    model.config.pad_token_id = 2
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    loaded(input_ids=torch.tensor([[5, 2, 6, 7]])).logits[0, -1, 3].backward()
    assert bool(loaded.get_input_embeddings().weight.grad[2].any()) == trained
