"""No architecture is trained wrong in silence: engine and learner agree, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, config_of, outcome, read_alone, tiny
from safetensors.torch import save_file

from genac.models.loading import load_model

CAUSAL = "do not come from the tokens before them alone"
REFUSED = {
    "cpmant": CAUSAL,  # reads its prompt in both directions
    "prophetnet": CAUSAL,  # its n-gram streams read what follows
    "reformer": "compute gradients in training mode only",
    "xlm": CAUSAL,  # unless `causal` is set
    "xlnet": CAUSAL,
}
# Not built in a tiny form, nor in any other: refused as they are loaded, with transformers' reason.
NO_CAUSAL_LM = {
    "gemma3n": "timm",  # its vision tower needs another library; gemma3n_text stands for it
    "gemma4_assistant": "validate_architecture",  # drafts for another model, whose keys it reads
    "gemma4_unified_assistant": "layer types",  # the same
    "musicgen": "'MusicgenConfig' object",  # the mapped config is that of a codec and two models
    "musicgen_melody": "'MusicgenMelodyConfig' object",
}
# One of each kind: keys and values read fast; others' keys; a state; both; neither; a head that
# scales; positions that are learned; an encoder's family.
QUICK = ("qwen3", "gemma", "gpt2", "opt", "mamba", "falcon_h1", "rwkv", "bert", "whisper")
SLOW = [name for name in ARCHITECTURES if name not in QUICK]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_engine_and_learner_agree_or_it_is_refused(name: str, tmp_path: Path) -> None:
    if name in NO_CAUSAL_LM:
        return refused_as_it_is_loaded(name, tmp_path)
    model = tiny(name)
    assert read_alone(model) > 5e-3, "what is read first has to matter, or nothing is shown"
    result = outcome(model)
    if name not in REFUSED:
        assert result == "agrees"
    else:
        assert result.startswith("refused: ") and REFUSED[name] in result
        assert " use " in result  # the remedy


def refused_as_it_is_loaded(name: str, folder: Path) -> None:
    # The first of them is no valid config even as transformers makes it.
    values = {} if name == "gemma4_assistant" else config_of(name).to_dict()
    (folder / "config.json").write_text(json.dumps(values | {"model_type": name}, default=str))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"no causal LM could be loaded from .*; give a"):
        try:
            load_model(str(folder))
        except ValueError as error:
            assert NO_CAUSAL_LM[name] in str(error)
            raise


@pytest.mark.parametrize(
    ("name", "key"), [("bert", "is_decoder"), ("roberta", "is_decoder"), ("xlm", "causal")]
)
def test_a_model_that_reads_both_ways_is_refused_until_configured_not_to(name: str, key: str):
    result = outcome(tiny(name, **{key: False}))
    assert result.startswith(f"refused: architecture '{name}'") and "nats apart" in result
    assert CAUSAL in result and key in result
    assert outcome(tiny(name, **{key: True})) == "agrees"
