"""New weights for servers: a folder per version, loaded and then proved by a probe."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genac.config.models import LoraConfig
from genac.engines.base import Completion, Request
from genac.engines.vllm.http import Client, NoAnswer
from genac.types import Sample

RESETS, PAUSE = 20, 0.1  # tries to empty the prefix cache, which fails while something runs
PROBE_TOKENS = 8
# Other than 1, so that a server which returns log-probabilities before temperature is noticed.
PROBE_TEMPERATURE = 0.7
# Mean difference of a log-probability between engine and learner, by what the engine computes in.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.15}


class WeightsDiffer(OSError):
    """A server does not sample from the weights that the learner has: so it would in a new attempt,
    as with a `ServerError`."""


@dataclass(frozen=True)
class Source:
    """The model that an engine samples from, wherever it lives."""

    role: str
    path: str  # folder or hub name of the weights that it was loaded from
    # writes a Hugging Face folder, or with adapters those alone in PEFT's layout
    export: Callable[[Path], None]
    logprobs: Callable[[Sequence[Sample]], list[np.ndarray]]  # the learner's
    lora: LoraConfig
    vocabulary: int
    context: int  # tokens of a sequence
    shape: str = ""  # equal for models whose weights one server can hold in turn


class Folders:
    """One folder per published version; only those in use are kept."""

    def __init__(self, parent: Path | None) -> None:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        # A name that `runs.files.sweep` knows, should this process be killed.
        names = {"prefix": ".weights-", "suffix": f".{os.getpid()}.tmp"}
        self.root = Path(tempfile.mkdtemp(**names, dir=parent)).absolute()

    def write(self, source: Source, number: int) -> Path:
        """The folder of a source's publish of that number. OSError on a full disk."""
        folder = self.root / f"{source.role}-{number}"
        folder.mkdir()
        source.export(folder)
        return folder

    def drop_all_but(self, newest: Path) -> None:
        """The role's older versions."""
        role = newest.name.rpartition("-")[0]
        for folder in self.root.iterdir():
            if folder != newest and folder.name.rpartition("-")[0] == role:
                shutil.rmtree(folder, ignore_errors=True)


def load_weights(client: Client, folder: Path, label: str) -> None:
    """The server takes all weights from the folder, and forgets what it computed with others."""
    if not any(folder.glob("*.safetensors")):  # a server that gets such a folder ends
        raise FileNotFoundError(f"{folder} holds no weights to publish")
    client.post("/pause", mode="abort")
    # What vLLM calls its own method: the workers read the folder into the weights they have.
    client.post(
        "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
    )
    reset_cache(client)
    client.post("/update_weight_version", {"new_version": label})
    client.post("/resume")


def reset_cache(client: Client) -> None:
    """Empties the prefix cache. NoAnswer where the server does not, as its keys are old then."""
    for _ in range(RESETS):
        reply = client.post("/reset_prefix_cache")
        if not isinstance(reply, dict) or reply.get("success", True):
            return
        time.sleep(PAUSE)
    raise NoAnswer(f"{client.url} did not empty its prefix cache")


def load_adapter(client: Client, name: str, folder: Path, old: str | None = None) -> None:
    """Adapters under a name of their own; the old ones go, where the server has them."""
    if not (folder / "adapter_model.safetensors").exists():
        raise FileNotFoundError(f"{folder} holds no adapters to publish")
    if old is not None:
        with contextlib.suppress(ValueError):
            client.post("/v1/unload_lora_adapter", {"lora_name": old})
    client.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})


def probe_request(prompt_ids: tuple[int, ...], context: int) -> Request:
    """A few tokens after a prompt, cut where that leaves no room for them."""
    tokens = min(PROBE_TOKENS, context - 1)
    room = context - tokens
    return Request(prompt_ids[:room], tokens, seed=0, temperature=PROBE_TEMPERATURE)


def require_same_weights(
    source: Source, request: Request, completion: Completion, precision: str, where: str
) -> float:
    """The mean difference of the completion's log-probabilities from the learner's.

    Raises WeightsDiffer beyond TOLERANCE, FloatingPointError where the weights have diverged.
    """
    ids, start = (*request.prompt_ids, *completion.ids), len(request.prompt_ids)
    weights = np.zeros(len(ids), np.float32)
    weights[start:] = 1.0
    sample = Sample(ids, weights, "sft", temperature=request.temperature)
    own = source.logprobs([sample])[0][start:]
    if not np.isfinite(own).all():
        raise FloatingPointError(
            f"the {source.role}'s weights have diverged: its log-probabilities are not finite; "
            "lower the learning rate or resume an earlier checkpoint"
        )
    difference = float(np.abs(completion.logprobs - own).mean())
    if not difference <= TOLERANCE[precision]:
        raise WeightsDiffer(
            f"{where} gives log-probabilities of the {source.role} that are off by "
            f"{difference:.2g} from the learner's ({TOLERANCE[precision]:g} is allowed in "
            f"{precision}): it samples from other weights, or computes otherwise. Servers behind "
            "hardware.vllm.urls need --logprobs-mode processed_logprobs and the same dtype, and "
            "must see the output folder; of servers that a run starts the logs are in its folder "
            "engines. hardware.engine local does without servers"
        )
    return difference
