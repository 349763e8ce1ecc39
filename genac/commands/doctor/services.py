"""What of a run goes on outside this process: vLLM's servers, Ray's workers."""

from __future__ import annotations

import os
from importlib import metadata

from genac.commands.doctor.findings import Findings
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.distributed.build import require_supported
from genac.distributed.cluster import require_answer
from genac.engines.vllm.checks import version_in
from genac.hardware import Hardware
from genac.stages.setup import require_engines, roles_of_servers


def environment(result: Findings, cfg: RunConfig, hardware: Hardware) -> None:
    """vLLM where it samples, Ray where workers run: installed here, and answering."""
    kind, roles = critic_class(cfg.critic.kind), roles_of_servers(cfg, hardware)
    with result.attempt("vllm"):
        require_engines(cfg, hardware)
        if roles and cfg.hardware.vllm.urls:
            text = f"hardware.vllm.urls answer and serve {' and '.join(roles)}"
            result.add("ok", f"vllm: {text}")
        elif roles:
            python = cfg.hardware.vllm.python
            result.add("ok", f"vllm {version_in(python)} in {python or 'this environment'}")
    if not hardware.remote:
        return
    with result.attempt("workers"):
        require_supported(cfg, hardware, critic=kind.learns)
        where = "started here"
        if hardware.cluster is not None:
            require_answer(hardware.cluster)
            where = f"the cluster at {hardware.cluster}, which answers"
            if hardware.cluster == "auto" and "RAY_ADDRESS" not in os.environ:
                where = "whichever cluster this machine belongs to when the run starts"
        result.add("ok", f"workers: ray {metadata.version('ray')}, {where}")
