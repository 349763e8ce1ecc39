"""Low-rank adapters (LoRA, 2106.09685) through peft: only they are trained.

Engines and saved models get the merged weights, so that everything downstream sees an ordinary
model. Its subfolder `adapter` holds the adapters in PEFT's layout, which resumed runs go on with:

    PeftModel.from_pretrained(base, "RUN/actor/adapter")

In the model's own folder transformers would take them for what is to be loaded on top of it.
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

ADAPTER = "adapter"  # subfolder of a saved model
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # PEFT's names
PREFIX = "base_model.model."  # of PEFT's names of weights
SCALING = ("r", "lora_alpha", "use_rslora", "use_dora")  # equal weights act alike if these are


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
        task_type="CAUSAL_LM",
        base_model_name_or_path=hub_name(model.name_or_path),
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


def hub_name(name: str) -> str | None:
    """The base's name where it is the hub's. A folder's would show where the adapters were made."""
    return name if name and not Path(name).exists() else None


def save_merged(model: Any, folder: str | Path, whole: Mapping[str, Tensor] | None = None) -> None:
    """An ordinary Hugging Face folder and, inside it, the adapters that a resumed run goes on with.
    `whole`: the weights of a model that is sharded.
    """
    if not adapters(model):
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
    save_adapters(model, Path(folder) / ADAPTER)


def save_adapters(model: Any, folder: Path) -> None:
    """The adapters alone, as peft lays them out and servers load them."""
    import peft

    folder.mkdir(parents=True, exist_ok=True)
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({PREFIX + n: x.contiguous() for n, x in state.items()}, folder / WEIGHTS_FILE)
    config = {**model.peft_config["default"].to_dict(), "inference_mode": True}
    # Not by peft's own writer, which leaves the order of target_modules to chance.
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True, default=sorted))


def load_adapters(model: Any, folder: Path) -> bool:
    """Restores the adapters of a model that has some from a folder that `save_merged` or peft
    wrote; False for a model without. ValueError where there are none, or others than the model's.
    """
    if not adapters(model):
        return False
    place = folder if (folder / CONFIG_FILE).exists() else folder / ADAPTER
    if not (place / WEIGHTS_FILE).exists():
        raise ValueError(
            f"{folder} holds no {ADAPTER}/{WEIGHTS_FILE}, so it was written without lora; start a "
            "new output_dir, or set lora.rank to 0"
        )
    import peft

    saved, own = peft.PeftConfig.from_pretrained(str(place)), model.peft_config["default"]
    state = {n.removeprefix(PREFIX): x for n, x in load_file(place / WEIGHTS_FILE).items()}
    expected = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    differ = [n for n in SCALING if getattr(saved, n, None) != getattr(own, n)]
    if differ := differ or sorted(state.keys() ^ expected.keys())[:1]:
        raise ValueError(
            f"the adapters in {place} differ from the model's in {', '.join(differ)}; set "
            "lora.rank, lora.alpha and lora.target_modules to what they were trained with"
        )
    peft.set_peft_model_state_dict(model, state)
    return True
