"""The embedded default engine: samples in process from a transformers model.

Prompts that begin alike are read once. The families of decoder.py run on it, every other
architecture on transformers' forward.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genac.engines.agreement import Disagreement, require_agreement
from genac.engines.base import Completion, Request, probed, require_servable
from genac.engines.cache import INLINE_PREFIX_BELOW, Cache, row_bytes
from genac.engines.decoder import Decoder
from genac.engines.native_cache import NativeCache
from genac.engines.scheduler import Batch, StopStrings
from genac.engines.transformers import RereadSteps, TransformersRunner
from genac.models.rope import within_fixed_rotation
from genac.models.sharding import root_of
from genac.prefixes import Suffix, Tree, balanced, trees


class LocalEngine:
    """Engine over a model in this process; `publish` copies its weights."""

    answers_probes = True

    def __init__(
        self,
        model: Any,
        max_length: int,
        max_rows: int = 512,
        dtype: torch.dtype | None = None,
        *,
        tokenizer: Any = None,
        share: bool = True,
        memory: int | None = None,
    ) -> None:
        """tokenizer is needed for stop strings only. share=False reads every prompt alone (to
        measure what sharing saves). memory: bytes that keys and values may take at a time; half of
        what is free by default.
        """
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}; at least one row has to run")
        self.max_length = max_length = within_fixed_rotation(model.config, max_length)
        self.max_rows, self.version = max_rows, 0
        self.processed_tokens = 0
        self.tokenizer, self.share, self.memory = tokenizer, share, memory
        self.device = next(model.parameters()).device
        self._pieces: list[str] | None = None
        self._warned = False  # that rows are split for want of memory
        self.decoder: Decoder | None = None
        if Decoder.supports(model, max_length):
            self.decoder = Decoder(model, dtype or next(model.parameters()).dtype)
        else:
            self.model = TransformersRunner.copied(model)
        self._rereads = False  # whether rows are read from their first token at every step
        self._settle(model)

    @torch.no_grad()
    def _settle(self, model: Any) -> None:
        """Takes the fastest way to sample that predicts what the model's forward does. ValueError
        where none does.
        """
        name = f"architecture {model.config.model_type!r} (as configured)"
        if self.decoder is not None:
            try:
                return require_agreement(
                    model, self._steps(True), self.max_length, self.decoder.dtype
                )
            except Disagreement as error:
                if root_of(model) is not None:
                    raise ValueError(
                        f"{name} cannot be sampled over several processes: {error}; use "
                        "hardware.processes 1"
                    ) from error
                warnings.warn(f"{name} is not sampled by the fast decoder: {error}", stacklevel=4)
                self.decoder, self.model = None, TransformersRunner.copied(model)
        dtype = next(self.model.parameters()).dtype
        try:
            require_agreement(self.model, self._steps(True), self.max_length, dtype)
            warnings.warn(
                f"{name} has no fast decoder; sampling through its transformers forward, which is "
                "slower",
                stacklevel=4,
            )
        except Disagreement as error:
            self._rereads = True
            self._require_causal(name, dtype)
            warnings.warn(
                f"{name} cannot be sampled with a cache: {error}. Every token is sampled by "
                "reading its row again from the first token, which is right and slow: the time of "
                "a response grows with the square of its length. Keep "
                "rollout.max_completion_length short, or use a model of another architecture",
                stacklevel=4,
            )

    def _require_causal(self, name: str, dtype: torch.dtype) -> None:
        try:
            require_agreement(self.model, self._steps(True), self.max_length, dtype)
        except Disagreement as error:
            raise ValueError(f"{name} cannot be sampled: {error}; {error.remedy}") from error

    def publish(self, model: Any, version: int) -> None:
        if self.decoder is not None:
            self.decoder.load(model)
        else:
            self.model = TransformersRunner.copied(model)
        self.version = version

    def sleep(self) -> None:
        """Its weights leave the device for main memory, until `wake_up`."""
        self._weights.to("cpu")

    def wake_up(self) -> None:
        self._weights.to(self.device)

    @property
    def _weights(self) -> Any:
        return self.model if self.decoder is None else self.decoder

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        for request in requests:
            require_servable(request, self.vocab_size, self.max_length)
        if not requests:
            return []
        rows = self._rows_that_fit(requests)
        prompts = [r.prompt_ids for r in requests]
        chosen = trees(prompts, rows) if self.share else alone(prompts)
        inline = inline_prefixes(chosen)
        if self.decoder is not None and self.decoder.native is None and not inline:
            chosen = balanced(chosen)
        runner = self._steps(inline)
        stops = self._stop_strings(requests)
        done = Batch(requests, runner, rows, self.device, stops).run(chosen)
        self.processed_tokens += runner.read
        return done if runner.can_rewind else probed(self.generate, requests, done)

    def _steps(self, inline: bool) -> NativeCache | Cache | TransformersRunner | RereadSteps:
        """An empty batch's model. inline: as in Cache."""
        if self.decoder is None:
            return RereadSteps(self.model) if self._rereads else TransformersRunner(self.model)
        if self.decoder.native is not None:
            return NativeCache(self.decoder.native)
        return Cache(self.decoder, inline)

    def _rows_that_fit(self, requests: Sequence[Request]) -> int:
        """max_rows, or fewer where their keys and values would pass the memory limit."""
        if self.decoder is None:
            return self.max_rows
        memory = self.memory or free_memory(self.device) // 2
        longest = max(len(r.prompt_ids) for r in requests) + max(r.max_new_tokens for r in requests)
        fit = max(1, memory // row_bytes(self.decoder, longest))
        if fit < min(self.max_rows, len(requests)) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{min(self.max_rows, len(requests))} rows of {longest} tokens do not fit into "
                f"{memory / 2**20:.1f} MiB of keys and values; sampling {fit} at a time. "
                "Lower rollout.max_rows or the completion limit to choose the split yourself",
                stacklevel=3,
            )
        return min(fit, self.max_rows)

    def _stop_strings(self, requests: Sequence[Request]) -> StopStrings | None:
        if not any(r.stop for r in requests):
            return None
        if any(not string for r in requests for string in r.stop):
            raise ValueError("a stop string is empty; it would end every completion at once")
        if self.tokenizer is None:
            raise ValueError(
                "stop strings need the engine's tokenizer: LocalEngine(..., tokenizer=tokenizer)"
            )
        pieces = self._pieces
        if pieces is None:
            size = max(len(self.tokenizer), self.vocab_size)
            pieces = self._pieces = self.tokenizer.batch_decode([[i] for i in range(size)])
        return StopStrings(requests, pieces, self.tokenizer.decode, self.device)

    @property
    def vocab_size(self) -> int:
        if self.decoder is not None:
            return self.decoder.head.shape[0]
        return self.model.get_input_embeddings().weight.shape[0]


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on the device: free, or kept by torch while no tensor uses them (after
    training that is most of a GPU).
    """
    if device.type != "cuda":
        return free_ram()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def free_ram() -> int:
    """Bytes that can be had without swapping, under the container's limit if there is one."""
    info, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    free = free or [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    most = limit.read_text().strip() if limit.exists() else "max"
    return min(free[0], int(most)) if most.isdigit() else free[0]


def alone(prompts: Sequence[tuple[int, ...]]) -> list[Tree]:
    """Every prompt a tree of its own, the longest first."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    return [
        Tree(prompts[i][:-1], (Suffix(len(prompts[i]) - 1, prompts[i][-1:], (i,)),)) for i in order
    ]


def inline_prefixes(results: Sequence[Tree]) -> bool:
    """Whether shared prefixes are copied into their rows: where they are short or hardly shared,
    one attention over a row costs less than two that are merged.
    """
    rows = sum(tree.rows for tree in results)
    tokens = sum(len(tree.prefix) * tree.rows for tree in results) / rows
    unseen = any(suffix.shared == 0 for tree in results for suffix in tree.suffixes)
    return unseen or tokens < INLINE_PREFIX_BELOW or rows < 2 * len(results)
