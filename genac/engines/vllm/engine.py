"""An `Engine` over vLLM's servers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genac.engines.base import Completion, Request, probed, require_servable
from genac.engines.vllm.http import Client
from genac.engines.vllm.messages import (
    body_of,
    completion_of,
    require_room,
    require_supported,
    tokens_of,
)
from genac.engines.vllm.process import Launch
from genac.engines.vllm.sharing import servers_for
from genac.engines.vllm.weights import Source, probe_request, require_same_weights


class VllmEngine:
    """Samples on servers, which it starts at the first request.

    Weights reach them as folders: those of a model, or with LoRA its adapters, which share the
    servers of their base. Models that share servers (sharing.py) load their weights again when it
    is their turn. Entropies are not known.
    """

    answers_probes = True

    def __init__(
        self,
        source: Source,
        launch: Launch,
        folder: Path | None = None,
        base: VllmEngine | None = None,
    ) -> None:
        """folder: for weights and logs, None = a temporary one. base: the engine of a model whose
        frozen weights are also this one's.
        """
        self.source, self.version, self.processed_tokens = source, 0, 0
        self.servers = base.servers if base else servers_for(launch, source, folder)
        self._token = uuid.uuid4().hex[:8]  # servers may have served others
        self._name = self.servers.launch.role
        self._precision = "bf16" if launch.bf16 else "fp32"
        self._published = 0  # its number among the servers' publishes: a version may come again
        self._proved = False  # whether the servers' weights were compared with the learner's
        # The longest prompt of the last call: one that the servers hold in their cache.
        self._prompt: tuple[int, ...] = ()
        self.servers.label = self.servers.label or self._label
        if source.lora.rank:
            self._export()
        elif self._loaded and launch.cfg.urls and not Path(source.path).is_dir():
            self.servers.model = str(self.servers.folders.write(source, 0))

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """As the protocol says. ValueError before anything is sent; ServerError or ConnectionError
        where a server cannot be brought back.
        """
        for request in requests:
            require_servable(request, self.source.vocabulary, self.source.context)
            require_supported(request)
        if not requests:
            return []
        if not self._loaded:
            self._export()
        if self.servers.ensure():
            self._proved = False
        for request in requests:
            require_room(request, self.servers.context)
        self._prompt = max((r.prompt_ids for r in requests), key=len)
        if not self._proved:
            self.prove()
        return probed(self._sample, requests, self._sample(requests))

    def publish(self, model: Any, version: int) -> None:
        """The learner's present weights. Raises WeightsDiffer where a server does not take them."""
        del model  # its weights come as the source says
        self.version = version
        self._export()
        if self.servers.running and self._prompt:
            self.prove()

    def prove(self) -> None:
        """Compares a few log-probabilities of every server with the learner's."""
        context = min(self.source.context, self.servers.context or self.source.context)
        request = probe_request(self._prompt, context)
        for url, (completion, _) in self.servers.each(request, self._send).items():
            require_same_weights(self.source, request, completion, self._precision, url)
        self._proved = True

    @property
    def _loaded(self) -> bool:
        """Whether no other engine on these servers has published since."""
        if self.source.lora.rank:
            return self.servers.adapters[self.source.role][0] == self._name
        return self.servers.label == self._label

    def _export(self) -> None:
        self._proved = False
        self.servers.published += 1
        self._published = self.servers.published
        folder = self.servers.folders.write(self.source, self._published)
        if self.source.lora.rank:
            self._name = self._label
            self.servers.publish_adapter(self.source.role, folder, self._label)
        else:
            self.servers.publish(folder, self.version, self._label)

    def _sample(self, requests: Sequence[Request]) -> list[Completion]:
        if not requests:
            return []
        answers = self.servers.answers(requests, self._send)
        self.processed_tokens += sum(tokens for _, tokens in answers)
        return [completion for completion, _ in answers]

    def _send(self, client: Client, request: Request) -> tuple[Completion, int]:
        """A completion, and the tokens that were read or written for it."""
        # A completion that is cut at a line costs what was written.
        reply = client.post("/v1/completions", body_of(request, self._name, self._salt))
        return completion_of(request, reply), tokens_of(reply)

    @property
    def _label(self) -> str:
        """Names the present weights and no others."""
        return f"{self.source.role}-{self._token}-{self._published}"

    @property
    def _salt(self) -> str:
        """Keys that were computed under another one are not used."""
        return self._label
