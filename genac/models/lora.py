"""Low-rank adapters (LoRA, 2106.09685) through peft: only they are trained.

Engines and saved models get the merged weights, so that everything downstream sees an ordinary
model; a checkpoint holds the adapters as well, which a resumed run goes on with.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genac.config.models import LoraConfig

ADAPTER_FILE = "adapter.safetensors"


def attach(model: Any, cfg: LoraConfig, seed: int) -> Any:
    """Puts adapters into the model (in place); everything else is frozen. Rank 0 does nothing.

    They start as the identity. ValueError without peft, or where no module has a target's name.
    """
    if not cfg.rank:
        return model
    heads = {"lm_head", "embed_tokens"} & set(cfg.target_modules)
    if heads:
        raise ValueError(
            f"lora.target_modules names {sorted(heads)}; embeddings and LM heads take no adapter "
            "here: name linear layers inside the transformer blocks"
        )
    try:
        import peft
    except ImportError as error:
        raise ValueError("lora.rank needs peft: pip install 'genac[lora]'") from error
    settings = peft.LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        target_modules=list(cfg.target_modules),
        lora_dropout=0.0,
        bias="none",
    )
    with drawn_from(seed, model):
        try:
            model = peft.inject_adapter_in_model(settings, model)
        except ValueError as error:
            raise ValueError(
                f"lora.target_modules {list(cfg.target_modules)} do not fit "
                f"{model.config.model_type!r} ({error}); list its linear layers' names"
            ) from error
    for parameter in adapters(model).values():  # trained, so fp32 whatever the base is stored in
        parameter.data = parameter.data.float()
    return model


def second_adapters(model: Any, seed: int) -> Any:
    """A second model on the same frozen weights (one copy in memory) with adapters of its own,
    which start as the identity."""
    shared = {id(x): x for x in (*model.parameters(), *model.buffers()) if not x.requires_grad}
    twin = copy.deepcopy(model, shared)
    with drawn_from(seed, model):
        for module in twin.modules():
            if hasattr(module, "reset_lora_parameters"):
                module.reset_lora_parameters("default", True)
    return twin


@contextmanager
def drawn_from(seed: int, model: Any) -> Iterator[None]:
    """Inside, torch draws from the seed; afterwards it goes on as if nothing had been drawn."""
    # Without their names the state of every visible GPU would be read, which takes memory on each.
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        torch.manual_seed(seed)
        yield


def weight_of(module: Any) -> Tensor:
    """The weight that a linear layer acts with, its adapter merged in."""
    if not hasattr(module, "get_delta_weight"):
        return module.weight.detach()
    base = module.get_base_layer().weight.detach()
    return base + module.get_delta_weight("default").detach().to(base.dtype)


def adapters(model: Any) -> dict[str, Tensor]:
    """The adapters' parameters by name; empty for a model without."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def save_merged(model: Any, folder: str | Path, whole: Mapping[str, Tensor] | None = None) -> None:
    """An ordinary Hugging Face folder and, beside it, the adapters that a resumed run goes on
    with. `whole`: the weights of a model that is sharded.
    """
    result = adapters(model)
    if not result:
        model.save_pretrained(folder, state_dict=whole)
        return
    merged = {n: weight_of(m) for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    state = {}
    for name, value in model.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        owner = plain.removesuffix(".weight")
        state[plain] = merged[owner] if plain.endswith(".weight") and owner in merged else value
    model.save_pretrained(folder, state_dict=state)
    save_file({n: p.detach().contiguous() for n, p in result.items()}, Path(folder) / ADAPTER_FILE)


def save_peft(model: Any, folder: Path, lora: LoraConfig) -> None:
    """The adapters alone, as peft lays them out and servers load them."""
    plain = {name.replace(".default.", "."): p for name, p in adapters(model).items()}
    tensors = {f"base_model.model.{n}": p.detach().cpu().contiguous() for n, p in plain.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(lora.target_modules),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))


def load_adapters(model: Any, folder: Path) -> bool:
    """Restores the adapters of a model that has some; False for a model without."""
    result = adapters(model)
    if not result:
        return False
    path = folder / ADAPTER_FILE
    if not path.exists():
        raise ValueError(
            f"{folder} holds no {ADAPTER_FILE}, so it was written without lora; start a new "
            "output_dir, or set lora.rank to 0"
        )
    saved = load_file(path)
    with torch.no_grad():
        for name, parameter in result.items():
            parameter.copy_(saved[name])
    return True
