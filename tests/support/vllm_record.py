"""Records what a real vLLM server answers, for tests/unit/test_vllm_replies.py.

    GENAC_VLLM_PYTHON=.vllm-env/bin/python python tests/support/vllm_record.py

Starts one server (a minute of processor time) over a tiny model that a seed makes, so that the
tests can compute what it must have answered.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from genac.config.engines import VllmConfig
from genac.config.models import LoraConfig
from genac.engines.base import Request
from genac.engines.vllm.http import Client
from genac.engines.vllm.messages import body_of
from genac.engines.vllm.process import Launch, ServerProcess
from genac.models.lora import attach, save_adapters
from genac.models.tiny import save_tiny

FILE = Path(__file__).parents[1] / "data" / "vllm_replies.json"
ALPHABET = "abcdefghij+-*=> \n"
SHAPE: dict[str, Any] = {"hidden_size": 64, "layers": 2, "heads": 2, "max_length": 128}
LORA = LoraConfig(rank=4, alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
PROMPT = tuple(3 + i % 13 for i in range(40))
REQUESTS = {
    "plain": Request(PROMPT, 12, seed=11),
    "greedy": Request(PROMPT[:5], 12, seed=0, temperature=0.0, token_prob_ids=(9, 4, 7)),
    "warm": Request(PROMPT, 12, seed=5, temperature=0.7, token_prob_ids=(3, 4, 5, 6)),
    "nucleus": Request(PROMPT[:7], 12, seed=6, top_p=0.6),
    "stop id": Request(PROMPT[:9], 40, seed=3, stop_ids=(5, 6, 7)),
    "stop string": Request(PROMPT[:9], 60, seed=4, stop=("a", "b=", "c")),
    "line": Request(PROMPT[:9], 60, seed=4, line_ids=(3, 4, 5, 6, 7, 8)),
}


def tiny(folder: Path, seed: int) -> Path:
    """A model of that seed whose distributions are far from uniform."""
    save_tiny(folder, ALPHABET, seed=seed, **SHAPE)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    model.save_pretrained(folder)
    return folder


def adapters(folder: Path, base: Path) -> Any:
    """The base under adapters that do something; their PEFT folder is written."""
    model = attach(AutoModelForCausalLM.from_pretrained(base), LORA, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2, generator=generator)
    save_adapters(model, folder)
    return model


def record(client: Client, place: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def keep(name: str, method: str, path: str, body: Any = None, **query: str) -> Any:
        call = partial(client.post, path, body, **query) if method == "POST" else client.get
        try:
            reply, error = (call() if method == "POST" else call(path)), None
        except ValueError as refused:
            reply, error = None, str(refused).partition(" refused ")[2]
        if path == "/metrics":
            reply = [line for line in reply.splitlines() if "prefix_cache" in line]
        rows.append({"name": name, "path": path, "body": body, "reply": reply, "error": error})
        return reply

    completions = "/v1/completions"
    for path in ("/health", "/v1/models", "/is_paused", "/weight_info"):
        keep(path, "GET", path)
    for name, request in REQUESTS.items():
        keep(name, "POST", completions, body_of(request, "actor", "salt-0"))
    keep("again", "POST", completions, body_of(REQUESTS["plain"], "actor", "salt-0"))
    long = Request(PROMPT * 4, 4, seed=0)
    keep("too long", "POST", completions, body_of(long, "actor", "salt-0"))
    folder = str(tiny(place / "second", 1))
    keep("pause", "POST", "/pause", mode="abort")
    method = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
    keep("reload", "POST", "/collective_rpc", method)
    keep("stale", "GET", "/is_paused")
    keep("reset", "POST", "/reset_prefix_cache")
    keep("version", "POST", "/update_weight_version", {"new_version": "7"})
    keep("resume", "POST", "/resume")
    keep("new version", "GET", "/weight_info")
    keep("published", "POST", completions, body_of(REQUESTS["warm"], "actor", "salt-0"))
    adapters(place / "adapter", place / "second")
    load = {"lora_name": "critic-1", "lora_path": str(place / "adapter")}
    keep("load adapter", "POST", "/v1/load_lora_adapter", load)
    keep("adapted", "POST", completions, body_of(REQUESTS["warm"], "critic-1", "salt-1"))
    keep("load twice", "POST", "/v1/load_lora_adapter", load)
    keep("unload adapter", "POST", "/v1/unload_lora_adapter", {"lora_name": "critic-1"})
    keep("unload twice", "POST", "/v1/unload_lora_adapter", {"lora_name": "critic-1"})
    keep("metrics", "GET", "/metrics")
    return rows


def main() -> None:
    python = os.environ.get("GENAC_VLLM_PYTHON")
    if not python:
        sys.exit("set GENAC_VLLM_PYTHON to the interpreter of an environment with vLLM")
    with tempfile.TemporaryDirectory(prefix="genac-") as text:
        place = Path(text)
        launch = Launch("actor", VllmConfig(python=python), 128, 8, False, False, rank=LORA.rank)
        server = ServerProcess(launch, tiny(place / "first", 0), place / "log", place / "none")
        try:
            server.wait(launch.cfg.startup_seconds)
            rows = record(server.client, place)
        except BaseException:
            print(server.tail())
            raise
        finally:
            server.close()
    text = json.dumps(rows).replace(str(place), "PLACE")
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in json.loads(text)) + "\n]\n")


if __name__ == "__main__":
    main()
