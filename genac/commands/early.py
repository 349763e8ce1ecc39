"""What a run is refused for before torch is imported, which takes seconds."""

from __future__ import annotations

import argparse
import ctypes
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from genac.config.models import ActorConfig, CriticConfig
from genac.config.recipes import explain, read_recipe
from genac.config.run import HardwareConfig, RunConfig
from genac.config.stages import EndpointConfig
from genac.distributed.cluster import require_answer
from genac.endpoint.address import checked_url, key_of, parse_endpoint
from genac.engines.vllm.checks import require_vllm
from genac.reach import at_hand, is_hub_name, local_path_reason
from genac.runs import trackers
from genac.runs.manifest import is_finished
from genac.tasks import make_task, options_of
from genac.tasks.rewards import parts_of
from genac.tasks.sources import require_source

ENDPOINT = "openai:"  # begins the name of a critic behind an API
WITH_MODEL = ("generative", "discriminative")  # kinds of critics; others load none
FILES = (".yaml", ".yml", ".gguf")  # a name that ends so is none of the hub


def require_ready(cfg: RunConfig) -> None:
    """`require_inputs`, and ValueError for a tracker that is not installed."""
    trackers.require(cfg.report_to)
    require_inputs(cfg)


def require_inputs(cfg: RunConfig) -> None:
    """ValueError for a GPU that this machine has not got, a library that is not installed, options
    that the task has not got, a data file that does not exist, models out of reach or behind an
    API, servers or a cluster that are not there, and an oracle behind an API without its key.
    """
    require_gpu(cfg.hardware)
    require_extras(cfg)
    require_task(cfg)
    for role, model in models_of(cfg):
        name, key = model.model_name_or_path, f"{role}.model_name_or_path"
        if name and name.startswith(ENDPOINT):
            raise ValueError(
                f"{key} is {name!r}: a model behind an API cannot be trained; give a folder, GGUF "
                "file or owner/name on the hub ('genac eval critic' compares such critics)"
            )
        if name:
            require_place(name, key)
    require_services(cfg)
    require_key(cfg)


def models_of(cfg: RunConfig) -> list[tuple[str, ActorConfig | CriticConfig]]:
    critics = [("critic", cfg.critic)] if cfg.critic.kind in WITH_MODEL else []
    return [("actor", cfg.actor), *critics]


def require_extras(cfg: RunConfig) -> None:
    """ValueError for a library that a key asks for and that is not installed."""
    for key, module, extra in extras_of(cfg):
        if find_spec(module) is None:
            raise ValueError(f"{key} needs {module}: pip install 'genac[{extra}]'")


def extras_of(cfg: RunConfig) -> Iterator[tuple[str, str, str]]:
    """What asks for a library besides genac's own, the library, and the extra that brings it."""
    hardware = cfg.hardware
    if cfg.task.reward and "math" in parts_of(cfg.task.reward):
        yield "the reward 'math'", "math_verify", "math"
    if hardware.backend == "tinker":
        yield "hardware.backend 'tinker'", "tinker", "tinker"
    elif hardware.cluster or hardware.processes > 1:
        yield "more than one process (hardware.processes, hardware.cluster)", "ray", "ray"
    for role, model in models_of(cfg):
        if model.lora.rank and hardware.backend != "tinker":
            yield f"{role}.lora.rank", "peft", "lora"
        if (model.model_name_or_path or "").endswith(".gguf"):
            yield f"{role}.model_name_or_path, a GGUF file,", "gguf", "gguf"


def require_services(cfg: RunConfig) -> None:
    """ValueError for a Ray cluster that does not answer, and where vLLM is to sample and cannot."""
    hardware = cfg.hardware
    if hardware.backend == "tinker":  # looked at with its models
        return
    if hardware.cluster:
        require_answer(hardware.cluster)
    engines = {"actor": cfg.actor.engine}
    if cfg.critic.kind == "generative":
        engines["critic"] = cfg.critic.engine
    roles = [role for role, engine in engines.items() if (engine or hardware.engine) == "vllm"]
    if roles:
        require_vllm(hardware.vllm, tuple(roles[: 1 if cfg.critic.share_base else None]))


def require_task(cfg: RunConfig) -> None:
    """ValueError for options that the task has not got, wherever they stand, and for data that is
    not there.
    """
    task, stages = cfg.task, cfg.stages
    sections = {
        "task.options": task.options,
        "stages.synthesize.options": stages.synthesize.options,
        "stages.critic_rl.options": stages.critic_rl.options,
        **{f"task.shift.{name}": options for name, options in task.shift.items()},
    }
    if cfg.actor.model_name_or_path is None:  # the base model is made
        sections["stages.base.options"] = stages.base.options
    for section, options in sections.items():
        if not options and section != "task.options":
            continue
        options_of(task, options, section)
        if task.name != "file":
            make_task(task, cfg.seed, **options)
    for name in (task.path, task.options.get("heldout")):
        if isinstance(name, str):
            require_source(name)
    if stages.synthesize.path and cfg.critic.kind == "generative" and stages.sft.epochs:
        require_source(stages.synthesize.path.partition("@")[0])


def require_place(name: str, role: str, on_hub: bool = True) -> None:
    """ValueError for a path where nothing is, and for a name of the hub that is out of reach.
    `role`: a verb's argument or a key, "critic" for a saved critic.
    """
    place = Path(name).expanduser()
    if place.exists() or name.startswith(ENDPOINT):
        return
    if place.name.startswith("step-") and place.parent.is_dir():
        return  # a checkpoint by its number, which whoever reads it completes or refuses
    # Single words are models of the hub's early days, and no critics.
    named = on_hub and is_hub_name(name) and (role != "critic" or "/" in name)
    if Path(name).suffix in FILES or not named:
        places = "a run or a folder with critic.json" if role == "critic" else "a folder or a file"
        more = ", or owner/name on the hub" if on_hub else ""
        if on_hub and (reason := local_path_reason(name)):
            more = f" ({reason})"
        raise ValueError(f"{role}: there is no {name!r} here; give {places}{more}")
    at_hand(name)


def require_key(cfg: RunConfig) -> None:
    """ValueError for an oracle behind an API whose address or key will not do, unless the run is
    finished and asks nobody.
    """
    stages = cfg.stages
    expected = cfg.critic.kind == "generative" and stages.sft.epochs
    if not expected or stages.synthesize.oracle != "endpoint" or is_finished(Path(cfg.output_dir)):
        return
    try:
        require_answering(stages.synthesize.endpoint)
    except ValueError as error:
        raise ValueError(f"stages.synthesize.endpoint: {error}") from None


def require_answering(endpoint: EndpointConfig) -> None:
    """ValueError for an address or a key that will not do; a dry run needs no key."""
    checked_url(endpoint)
    if not endpoint.dry_run:
        key_of(endpoint)


def endpoint_of(name: str, args: argparse.Namespace) -> EndpointConfig | None:
    """The endpoint that openai:MODEL@URL or a YAML file names; None for any other name."""
    dry = {"dry_run": args.dry_run}
    if name.startswith(ENDPOINT):
        result = parse_endpoint(name).model_copy(update=dry | {"api_key_env": args.api_key_env})
    elif Path(name).suffix in (".yaml", ".yml"):
        values = read_recipe(name)
        try:
            result = EndpointConfig(**{**values, **(dry if args.dry_run else {})})
        except ValidationError as error:
            raise ValueError(f"{name}: {explain(error)}") from None
    else:
        return None
    require_answering(result)
    return result


def require_gpu(cfg: HardwareConfig) -> None:
    """ValueError for `device: cuda` where the machine has no driver of a GPU. What torch makes of a
    driver is seen later.
    """
    if cfg.device != "cuda" or cfg.cluster or cfg.backend == "tinker" or has_driver():
        return
    raise ValueError(
        "hardware.device is 'cuda' but this machine has no driver of a GPU; use 'cpu' or 'auto'. "
        "'genac doctor RECIPE --gpu GIB' examines a run on a GPU elsewhere"
    )


def has_driver() -> bool:
    """Whether NVIDIA's or AMD's driver is there, which PyTorch calls cuda both."""
    if Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True
