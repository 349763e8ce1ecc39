"""The computing server of vllm_fake.py over our own local engine: it gives what a local run gives.

As a program it is what an interpreter with vLLM runs:

    python vllm_local.py -m vllm.entrypoints.cli.main serve FOLDER --port N --served-model-name ROLE
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import vllm_fake
from safetensors.torch import load_file
from vllm_fake import reply

from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.models.loading import context_length, load_model, load_tokenizer


class Local:
    """The server's model: our own engine over a folder."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def load(self, folder: str) -> LocalEngine:
        self.folder = folder
        return self.engine(load_model(folder))

    def engine(self, model: Any) -> LocalEngine:
        tokenizer = load_tokenizer(self.folder)
        return LocalEngine(model, context_length(model, tokenizer), tokenizer=tokenizer)

    def adapt(self, weights: LocalEngine, folder: str) -> LocalEngine:
        """The base with an adapter merged in, by what PEFT's two files say."""
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
        model = load_model(self.folder)
        for name, a in tensors.items():
            if not name.endswith(".lora_A.weight"):
                continue
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[name.replace("lora_A", "lora_B")]
            scale = config["lora_alpha"] / config["r"]
            model.get_submodule(module).weight.data += scale * (b @ a)
        return self.engine(model)

    def complete(self, weights: LocalEngine, body: dict[str, Any]) -> dict[str, Any]:
        names = tuple(body.get("logprob_token_ids", ()))
        request = Request(
            tuple(body["prompt"]),
            body["max_tokens"],
            body["seed"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            stop_ids=tuple(body["stop_token_ids"]),
            stop=tuple(body["stop"]),
            token_prob_ids=names,
        )
        with self.lock:
            (done,) = weights.generate([request])
        top = [
            {f"token_id:{n}": float(np.log(max(p, 1e-30))) for n, p in zip(names, row, strict=True)}
            for row in done.token_probs
        ]
        return reply(
            list(done.ids), done.logprobs.tolist(), top, done.finish, len(request.prompt_ids)
        )


def interpreter(folder: Path) -> str:
    """A program that answers as an interpreter with vLLM does, over the local engine."""
    root, here = Path(__file__).parents[2], Path(__file__)
    file = folder / "python"
    file.write_text(
        "#!/bin/sh\n"
        'case "$2" in -c) echo \'"0.32.0"\'; exit;; esac\n'  # without importing torch
        f'PYTHONPATH={root}:{here.parent} exec {sys.executable} {here} "$@"\n'
    )
    file.chmod(0o755)
    return str(file)


if __name__ == "__main__":
    vllm_fake.main(sys.argv[1:], Local)
