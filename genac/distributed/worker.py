"""A worker: holds models by number and answers the commands of genac/distributed/pool.py.

Every command runs on all workers at once, since most of them meet in collective operations.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import socket
import struct
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from transformers import AutoConfig

from genac.distributed.build import unsupported
from genac.distributed.learner import WorkerLearner
from genac.distributed.pool import PATIENCE, STARTED, Place
from genac.engines.base import Completion, Request
from genac.engines.decoder import Decoder
from genac.engines.local import LocalEngine
from genac.hardware import Hardware, keep_freed_memory
from genac.learner import Totals
from genac.models.loading import (
    context_length,
    load_model,
    load_tokenizer,
    on_meta,
    parameter_count,
)
from genac.models.lora import save_adapters
from genac.models.sharding import fill, root_of, shard, whole_state
from genac.models.value_head import ValueModel
from genac.reach import at_hand
from genac.runtime import (
    ModelSpec,
    Runtime,
    build_runtime,
    in_bf16,
    load_with_head,
    with_shared_base,
)
from genac.types import Sample

SEEN = 15.0  # seconds in which a file that one machine wrote has to be seen on another
SIOCGIFADDR = 0x8915  # Linux: asks for an interface's address


class Worker:
    """The models of this process, by number. What begins without _ is a command."""

    def __init__(self) -> None:
        self._models: dict[int, Runtime] = {}
        self._store: TCPStore | None = None

    def meet(self, address: str, workers: int) -> int:
        """Opens the store where all meet, on a free port, which is returned; 0 where another worker
        opens it (`workers` 0)."""
        if not workers:
            return 0
        listener = socket.create_server((address, 0))
        port = listener.getsockname()[1]
        self._store = TCPStore(
            address,
            port,
            workers,
            is_master=True,
            timeout=datetime.timedelta(seconds=STARTED),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),  # the store closes it
        )
        return port

    def join(self, place: Place) -> None:
        """Takes its place among the workers."""
        if place.rank:  # all say the same; one is heard
            warnings.simplefilter("ignore")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(place.threads or max(1, cores // place.sharing))
        cuda = place.device == "cuda"
        if not cuda:
            keep_freed_memory()
        device = torch.device("cuda", 0) if cuda else torch.device("cpu")  # Ray hides the others
        if interface := interface_of(place.address):  # whatever the machine's name resolves to
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        store = self._store or TCPStore(
            *place.meeting, place.processes, timeout=datetime.timedelta(seconds=STARTED)
        )
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.processes,
            timeout=datetime.timedelta(seconds=PATIENCE),
            device_id=device if cuda else None,
        )
        self._hardware = Hardware(device, place.bf16)

    def _alone(self, number: int | None = None) -> None:
        """On a GPU only the engine that is at work keeps its weights there: none while a model
        learns. What was freed is given back, as engines fill what is free with their rows.
        """
        if self._hardware.device.type != "cuda":
            return
        for other, runtime in self._models.items():
            if isinstance(runtime.engine, LocalEngine):
                runtime.engine.wake_up() if other == number else runtime.engine.sleep()
        torch.cuda.empty_cache()

    # --- making models -----------------------------------------------------------------------

    def build(self, number: int, spec: ModelSpec, base: int | None) -> dict[str, Any]:
        """A model by its spec; `base`: the number of the one whose frozen weights it shares."""
        self._alone()
        if base is not None:
            model, tokenizer = with_shared_base(spec, self._models[base])
        elif spec.lora.rank:
            tokenizer, model = load_with_head(spec, self._hardware)
            model = model.to(self._hardware.device)
        else:
            tokenizer, model = self._sharded(spec)
            limit = context_length(model, tokenizer)
            if spec.head is None and not Decoder.supports(model, limit):
                family = model.config.model_type
                raise ValueError(unsupported(spec.role, spec.path, family))
        self._models[number] = build_runtime(spec, model, tokenizer, self._hardware, WorkerLearner)
        return self._facts(number)

    def _sharded(self, spec: ModelSpec) -> tuple[Any, Any]:
        """Tokenizer and sharded model. The first worker alone reads the weights."""
        source = None
        if dist.get_rank() == 0:
            tokenizer, source = load_with_head(spec, self._hardware)
        else:
            tokenizer = load_tokenizer(spec.path, spec.load.chat_template_kwargs)
        config = AutoConfig.from_pretrained(at_hand(spec.path), trust_remote_code=False)
        model = on_meta(config, spec.load.attn_implementation)
        if spec.outputs is not None:
            with torch.device("meta"):
                model = ValueModel(model, spec.outputs)
        shard(model, self._hardware.device)
        fill(model, source)
        self._share_padding(model, source)
        if source is not None:
            getattr(model, "causal_lm", model).generation_config = getattr(
                source, "causal_lm", source
            ).generation_config
        return tokenizer, model

    def _share_padding(self, model: Any, source: Any) -> None:
        """Whether the padding token is trained, as the worker that read the weights has it."""
        trained = [source is not None and input_embeddings(source).padding_idx is None]
        dist.broadcast_object_list(trained, 0)
        if trained[0]:
            input_embeddings(model).padding_idx = None

    def _facts(self, number: int) -> dict[str, Any]:
        """What the controller has to know of a model that it does not hold."""
        runtime = self._models[number]
        base = getattr(runtime.model, "causal_lm", runtime.model)
        return {
            "parameters": parameter_count(runtime.model),
            "config": base.config,
            "generation_config": base.generation_config,
            "max_length": runtime.max_length,
            "bf16": runtime.bf16,
        }

    def drop(self, numbers: Sequence[int]) -> None:
        """Frees models."""
        for number in numbers:
            self._models.pop(number, None)
        gc.collect()
        if self._hardware.device.type == "cuda":
            torch.cuda.empty_cache()

    # --- using them --------------------------------------------------------------------------

    def generate(self, number: int, requests: Sequence[Request]) -> tuple[list[Completion], int]:
        """Completions, and the tokens that this worker's engine has processed so far."""
        self._alone(number)
        engine = self._models[number].sampler
        return engine.generate(requests), engine.processed_tokens

    def step_on(self, number: int, samples: Sequence[Sample], counts: Totals) -> tuple[Totals, int]:
        learner = self._learner(number)
        return learner.step_on(samples, counts), learner.processed_tokens

    def logprobs(self, number: int, samples: Sequence[Sample]) -> tuple[list[np.ndarray], int]:
        learner = self._learner(number)
        return learner.logprobs(samples), learner.processed_tokens

    def values(
        self, number: int, sequences: Sequence[tuple[int, ...]]
    ) -> tuple[list[np.ndarray], int]:
        learner = self._learner(number)
        return learner.values(sequences), learner.processed_tokens

    def _learner(self, number: int) -> WorkerLearner:
        self._alone()
        learner = self._models[number].learner
        assert isinstance(learner, WorkerLearner)
        return learner

    def publish(self, number: int, version: int) -> None:
        self._alone(number)
        self._models[number].publish(version)

    def fingerprint(self, number: int) -> str:
        return self._models[number].fingerprint()

    def base(self, number: int) -> str:
        return self._models[number].base()

    def sees(self, file: Path, text: str) -> bool:
        """Whether this machine reads what the controller wrote, which may take a while."""
        end = time.monotonic() + SEEN
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if file.read_text() == text:
                    return True
            time.sleep(0.2)
        return False

    # --- files -------------------------------------------------------------------------------

    def save_model(self, number: int, folder: Path, bf16: bool = False) -> None:
        """The first worker writes; all gather. bf16: for a server, see runtime.in_bf16."""
        runtime = self._models[number]
        state = whole_state(runtime.model)
        state = in_bf16(state) if bf16 and state is not None else state
        if dist.get_rank() == 0:
            runtime.save_model(folder, state)

    def save_adapters(self, number: int, folder: Path) -> None:
        if dist.get_rank() == 0:  # adapters are whole on every worker
            save_adapters(self._models[number].model, folder)

    def load_weights(self, number: int, folder: Path) -> None:
        runtime = self._models[number]
        if root_of(runtime.model) is None:
            runtime.load_weights(folder)
            return
        source = None
        if dist.get_rank() == 0:
            source = load_model(str(folder), dtype=torch.float32)
            if isinstance(runtime.model, ValueModel):
                source = ValueModel(source, runtime.model.head.out_features)
                source.load_head(folder)
        fill(runtime.model, source)

    def save_optimizer(self, number: int, file: Path) -> None:
        self._learner(number).save(file)

    def load_optimizer(self, number: int, file: Path) -> None:
        self._learner(number).load(file)


def input_embeddings(model: Any) -> Any:
    return getattr(model, "causal_lm", model).get_input_embeddings()


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where none has, or not on Linux."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(any_socket, SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
