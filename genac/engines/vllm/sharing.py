"""One set of servers per role, for models that sample one after the other.

    with shared_servers():
        ...      # critics of one shape take turns on the same servers, which end here

A server takes a minute to start and a tenth of a second to change its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genac.engines.vllm.process import Launch
from genac.engines.vllm.servers import Servers
from genac.engines.vllm.weights import Source

_kept: dict[str, tuple[Any, Servers]] = {}  # by role: what its servers fit, and they
_depth: list[None] = []


@contextmanager
def shared_servers() -> Iterator[None]:
    """Within it a role has one set of servers, also where blocks are nested. They end with it."""
    _depth.append(None)
    try:
        yield
    finally:
        _depth.pop()
        if not _depth:
            for _, servers in _kept.values():
                servers.close()
            _kept.clear()


def servers_for(launch: Launch, source: Source, folder: Path | None) -> Servers:
    """Servers for a model: those of its role where they fit it, else new ones, and the role's old
    ones end. Outside of `shared_servers` every model has its own.
    """
    if not _depth:
        return Servers(launch, source.path, folder)
    # Adapters are published alone, so that their servers keep the base that they started from.
    fit = (launch, folder, source.shape, source.path if source.lora.rank else None)
    known = _kept.get(launch.role)
    if known is not None and known[0] == fit:
        return known[1]
    if known is not None:
        known[1].close()
    _kept[launch.role] = fit, Servers(launch, source.path, folder)
    return _kept[launch.role][1]
