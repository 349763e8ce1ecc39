"""Which models lie where, and whether they fit: learners, engines and servers on each device."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from genac.commands.doctor import engines, memory
from genac.commands.doctor.engines import ROOMY
from genac.commands.doctor.findings import Findings
from genac.commands.doctor.lengths import Candidate, Lengths
from genac.commands.doctor.memory import as_text
from genac.commands.doctor.model_bytes import FLOAT, HALF, Spread
from genac.config.run import RunConfig
from genac.engines import local
from genac.hardware import Hardware
from genac.stages.setup import served_roles


def placed(
    result: Findings,
    cfg: RunConfig,
    models: Mapping[str, Candidate],
    lengths: Lengths,
    hardware: Hardware,
    gpu_gib: float | None,
) -> None:
    """Everything about memory and placement; gpu_gib: as in report.examine."""
    served, bf16 = served_roles(cfg, hardware), hardware.computes_bf16(models["actor"].model)
    ask = partial(
        memory.demands,
        cfg,
        models,
        lengths,
        bf16=bf16,
        served=served,
        separate=hardware.placement == "separate",
    )
    needs = ask(where=spread(hardware))
    longest = {d.role: d.longest for d in needs}
    servers = engines.servers_of(cfg, models, longest, hardware)
    workers(result, hardware, needs, servers, gpu_gib)
    memories = device_memory(hardware, gpu_gib)
    if memories is None:
        text = "memory: this machine has not the GPUs of the run"
        return result.add("warn", f"{text}; ask with --gpu GIB, the memory of one of them")
    free, whole = memories
    cuda, urls = hardware.device.type == "cuda", bool(hardware.vllm.urls)
    engines.capacity(result, servers, whole if cuda else None, urls)
    if servers and not urls:
        if cuda:
            gpus = gpu_count(hardware, servers, gpu_gib)
            learners = memory.total(needs)
            engines.on_gpu(result, servers, learners, whole, gpus, hardware.workers)
        else:
            free = memory_left_by_servers(result, servers, hardware, free)
    fits(result, cfg, needs, free, hardware, served, more_processes(hardware, free, ask))
    if gpu_gib is None:
        disk(result, cfg, needs, published(cfg, needs, served, HALF if bf16 else FLOAT))


def spread(hardware: Hardware, processes: int | None = None) -> Spread:
    count = processes or hardware.processes
    gpu = hardware.device.type == "cuda"
    return Spread(count, resting=count > 1 and gpu, cpu=not gpu)


def device_memory(hardware: Hardware, gpu_gib: float | None) -> tuple[int, int] | None:
    """Bytes that one process finds free, and those of the whole device; None = unknown."""
    if gpu_gib is not None:
        return round(gpu_gib * 2**30), round(gpu_gib * 2**30)
    if hardware.device.type == "cuda":
        return torch.cuda.mem_get_info() if torch.cuda.is_available() else None
    free = local.free_ram()
    return free // hardware.workers, free


def memory_left_by_servers(
    result: Findings, servers: Sequence[engines.Served], hardware: Hardware, free: int
) -> int:
    """What servers on a CPU leave to each process."""
    need, count = engines.on_cpu(servers), sum(s.replicas for s in servers)
    whole = free * hardware.workers
    text = f"memory: {count} of vLLM's servers take about {as_text(need)} of {as_text(whole)} free"
    remedy = "lower hardware.vllm.kv_cache_gb or replicas, or set hardware.engine to local"
    result.judge(need < whole, text, remedy)
    return max(0, whole - need) // hardware.workers


def workers(
    result: Findings,
    hardware: Hardware,
    needs: Sequence[memory.Demand],
    servers: Sequence[engines.Served],
    gpu_gib: float | None,
) -> None:
    """Who computes where, and how many GPUs that takes."""
    cuda, own = hardware.device.type == "cuda", not hardware.vllm.urls
    count = gpu_count(hardware, servers, gpu_gib)
    parts = []
    for pool in dict.fromkeys(d.pool for d in needs) if hardware.remote else ():
        roles = [d.role for d in needs if d.pool == pool]
        plural = "workers" if hardware.processes > 1 else "worker"
        parts.append(f"{hardware.processes} {plural} with {' and '.join(roles)}")
    for s in servers:
        where = "behind urls" if not own else "on this machine"
        if cuda and own:
            where = f"on GPU {', '.join(map(str, sorted({*engines.numbers(s, count)})))}"
        plural = f"{s.replicas} server{'s' if s.replicas > 1 else ''}" if own else "servers"
        parts.append(f"{plural} of vLLM with {s.role} {where}")
    if not parts:
        return
    text = f"placement: {', '.join(parts)}"
    if not cuda:
        return result.add("ok", text)
    need = gpus_needed(hardware, servers)
    text = f"{text}; {need} GPU{'s' if need > 1 else ''} in all"
    known = gpu_gib is None and hardware.cluster is None
    visible = torch.cuda.device_count() if known else need
    remedy = "lower hardware.processes, hardware.vllm.replicas or --tensor-parallel-size"
    result.judge(need <= visible, text, f"{visible} are visible: {remedy}")


def gpus_needed(hardware: Hardware, servers: Sequence[engines.Served]) -> int:
    """Without which a run is refused. Servers may share GPUs with each other and with learners."""
    own = [] if hardware.vllm.urls else servers
    return max([hardware.workers, *(s.replicas * s.devices for s in own)])


def gpu_count(hardware: Hardware, servers: Sequence[engines.Served], gpu_gib: float | None) -> int:
    """Of this machine or, where another one is examined, as many as the run needs at least."""
    need = gpus_needed(hardware, servers)
    here = gpu_gib is None and hardware.cluster is None
    return max(need, torch.cuda.device_count()) if here else need


def more_processes(
    hardware: Hardware, free: int, ask: Callable[..., list[memory.Demand]]
) -> int | None:
    """The smallest number of GPUs, of one machine, over which models trained in full would fit."""
    if hardware.device.type != "cuda":
        return None
    for count in (n for n in (2, 4, 8) if n > hardware.processes):
        needs, limit = ask(where=spread(hardware, count)), ROOMY * free
        if memory.total(needs) <= limit or memory.smaller(needs, limit):
            return count
    return None


def fits(
    result: Findings,
    cfg: RunConfig,
    needs: Sequence[memory.Demand],
    free: int,
    hardware: Hardware,
    served: Collection[str],
    more: int | None,
) -> None:
    """What the models of the joint stage take of a process's memory, against what is free."""
    for d in needs:
        divided = hardware.processes > 1 and d.gathered > 0
        part = f" (its part of {hardware.processes})" if divided else ""
        caches = f"caches {as_text(d.kept)} ({d.rows} rows), works in {as_text(d.peak)}"
        if d.role in served:
            caches = f"is sampled by vLLM, learns in {as_text(d.peak)}"
        elif d.engine:
            caches = f"works in {as_text(d.peak)}, engine and caches ({d.rows} rows) included"
        text = f"{d.role} holds {as_text(d.held)}{part}, {caches} ({d.tokens} tokens)"
        result.add("ok", f"memory: {text}")
    need = memory.total(needs)
    each = f" by each of {hardware.workers} processes" if hardware.workers > 1 else ""
    text = f"memory: about {as_text(need)} needed{each}, {as_text(free)} free"
    remedy = cheaper(cfg, needs, memory.smaller(needs, ROOMY * free), more)
    result.judge(need <= ROOMY * free, text, remedy, "FAIL" if need > free else "warn")


def cheaper(
    cfg: RunConfig,
    needs: Sequence[memory.Demand],
    cut: Sequence[memory.Demand] | None,
    more: int | None,
) -> str:
    """Which keys to lower, and to what; `more`: processes that would be enough."""
    if cut is None:
        roles = [("actor", cfg.actor), ("critic", cfg.critic)][: len(needs)]
        full = [f"{role}.lora.rank 16 with {role}.load.dtype bf16" for role, m in roles
                if not m.lora.rank]  # fmt: skip
        several = [f"hardware.processes {more}, one GPU each"] if more else []
        ways = [*several, *full, "smaller models", "hardware.precision bf16"]
        return f"the models alone are too large: use {', or '.join(ways)}"
    steps = [("rollout.max_rows", *(max(d.rows for d in each) for each in (needs, cut)))]
    for old, new in zip(needs, cut, strict=True):
        steps += [(f"{key}.tokens_per_microbatch", old.tokens, new.tokens) for key in old.keys]
    changed = [f"{key} to {new}" for key, old, new in steps if new != old]
    return f"lower {', '.join(changed)}; no result changes"


def published(
    cfg: RunConfig, needs: Sequence[memory.Demand], served: Collection[str], number: int
) -> int:
    """Bytes of the weights that servers read: a version, and the next one that is being written."""
    whole = [d for d in needs if d.role in served and not getattr(cfg, d.role).lora.rank]
    return sum(2 * number * d.parameters for d in whole)


def disk(
    result: Findings, cfg: RunConfig, needs: Sequence[memory.Demand], published: int = 0
) -> None:
    """At most, checkpoints and models of the run folder and of the stages before it, and what is
    published to servers, per file system."""
    critics = [d for d in needs if d.role == "critic"]
    actors = needs[: 0 if cfg.actor.model_name_or_path else 1]
    actors = [*actors, *needs[: 1 if cfg.stages.warmup.steps else 0]]
    early = [*actors, *critics, *critics]
    # A stage's checkpoints go when it is finished, so those of two are never there together.
    largest = max((memory.checkpoint_bytes([d]) for d in early), default=0)
    queries: dict[int, tuple[Path, int, int]] = {}
    for key, models, passing in (
        (cfg.output_dir, needs, memory.checkpoint_bytes(needs) + published),
        (cfg.stages.folder, early, largest),
    ):
        place = next(p for p in (Path(key).absolute(), *Path(key).absolute().parents) if p.exists())
        place, kept, most = queries.get(place.stat().st_dev, (place, 0, 0))
        kept += memory.stored_bytes(models)
        queries[place.stat().st_dev] = (place, kept, max(most, passing))
    for place, kept, passing in queries.values():
        need = kept + passing
        free = shutil.disk_usage(place).free
        text = f"disk: about {as_text(need)} of checkpoints at {place}, {as_text(free)} free"
        remedy = f"free {as_text(max(0, need - free))}, or move output_dir or stages.folder"
        result.judge(need < free, text, remedy)
