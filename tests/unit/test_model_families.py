"""One table says which families are computed here, and one list which activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_models import FAST, SLOW, random_model
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN

from genac.engines.decoder import Decoder
from genac.models.activations import ACTIVATIONS, activation_of
from genac.models.families import FAMILIES, Family, family_of
from genac.models.packed.attention import packs
from genac.models.packed.layers import known
from genac.native import library


def test_every_family_of_the_table_is_tried_and_computed():
    configs = {config.model_type: config for config in FAST.values()}
    assert set(configs) == set(FAMILIES)
    for name, config in configs.items():
        model, family = random_model(config), FAMILIES[name]
        assert (Decoder.supports(model, 64), packs(model, 64)) == (family.decodes, family.packs)


@pytest.mark.parametrize("name", SLOW)
def test_a_family_or_a_window_that_is_not_computed_is_left_to_transformers(name):
    model = random_model(SLOW[name])
    assert not Decoder.supports(model, 64) and not packs(model, 64)
    assert family_of("gpt_neox") == Family() == family_of("no such family")


def wide(name: str) -> Any:
    """A model of the family whose heads are wide enough to be fused."""
    config = next(c for c in FAST.values() if c.model_type == name).to_dict()
    return random_model(type(FAST["llama"]).from_dict(config | {"head_dim": 16}))


def test_a_model_is_fused_where_its_family_is(monkeypatch):
    base = wide("llama").base_model
    assert known(base)
    monkeypatch.setitem(FAMILIES, "llama", Family(decodes=True, packs=True))
    assert not known(base)


def by_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def test_an_activations_place_is_its_number_in_the_library():
    by_name = {"silu": F.silu, "gelu_tanh": by_tanh, "gelu": F.gelu}
    x = torch.linspace(-4, 4, 33)
    for number, name in enumerate(library.ACTIVATIONS):
        assert torch.equal(ACTIVATIONS[number](x), by_name[name](x))
        assert activation_of(by_name[name]) == number
        if (loaded := library.library()) is not None:
            assert loaded.genac_activation(name.encode()) == number
    assert activation_of(ACT2FN["gelu_pytorch_tanh"]) == 1
    assert activation_of(ACT2FN["relu"]) is None
