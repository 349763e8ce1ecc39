"""What vLLM's servers need, read from the arguments that a run would start them with.

    servers = servers_of(cfg, models, sequences, hardware, total)   # one Served per model of them
    capacity(result, servers, ...)  # do as many sequences fit as are sampled together?
    on_gpu(result, servers, learners, total)
    on_cpu(servers)             # bytes of main memory

Nothing is started here, and speed is not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from genac.commands.doctor.findings import Findings
from genac.commands.doctor.lengths import Candidate
from genac.commands.doctor.memory import as_text
from genac.commands.doctor.model_bytes import FLOAT, HALF, adapter_count, cache_bytes
from genac.config.models import LoraConfig
from genac.config.run import RunConfig
from genac.engines.vllm.process import Launch, gpu_numbers, number_of, width_of
from genac.hardware import Hardware
from genac.models.loading import parameter_count
from genac.stages.setup import served_roles

GIB = 2**30
SHARE = 0.92  # of a GPU that a server of vLLM 0.32 takes unless its arguments say otherwise
# Of a server on a CPU, apart from weights and cache: servers_gib - kv_cache_gb, as
# bench/vllm_tokens.py prints them.
OVERHEAD = round(1.4 * GIB)
ARGS = "hardware.vllm.args"
ROOMY = 0.8  # of what is free: the estimates are rough
BLOCK, CPU_BLOCK = 16, 32  # tokens: vLLM's own on CUDA; on a CPU a multiple of that


@dataclass(frozen=True)
class Served:
    """What one kind of servers samples from. Bytes are those on one device of one server."""

    role: str  # or two, of one base
    replicas: int
    weights: int
    token: int  # bytes of keys and values per token
    block: int  # tokens
    context: int  # of the longest sequence that the server accepts; its cache must hold one
    longest: int  # tokens of the longest sequence of this run
    rows: int  # sequences decoded together
    devices: int  # over which a server is spread
    share: float  # of a GPU
    cache: int | None  # bytes that are set, None = vLLM takes what its share leaves
    command: str  # that starts one by hand

    def blocks(self, tokens: int) -> int:
        return math.ceil(tokens / self.block)

    def bytes_of(self, rows: int, tokens: int) -> int:
        """Keys and values of sequences that share nothing; vLLM keeps one block for itself."""
        return (rows * self.blocks(tokens) + 1) * self.block * self.token

    @property
    def least(self) -> int:
        """Bytes of cache without which vLLM does not start."""
        return self.bytes_of(1, self.context)

    def cache_within(self, gpu: int) -> int:
        """Bytes for keys and values on a GPU of that size, at most: vLLM's own work comes off."""
        return self.cache if self.cache is not None else int(self.share * gpu) - self.weights

    def fitting(self, cache: int) -> int:
        """Sequences of the longest kind that the cache holds, up to `rows`."""
        blocks = cache // (self.block * self.token) - 1
        return max(0, min(self.rows, blocks // self.blocks(self.longest)))

    def taken(self, gpu: int) -> int:
        """Bytes that a server holds on a GPU while it runs."""
        return int(self.share * gpu) if self.cache is None else self.weights + self.cache


def servers_of(
    cfg: RunConfig,
    models: Mapping[str, Candidate],
    longest: Mapping[str, int],
    hardware: Hardware,
) -> list[Served]:
    """longest: tokens of a sequence by role."""
    names = [(role,) for role in served_roles(cfg, hardware)]
    if cfg.critic.share_base and names:
        names = [tuple(role for (role,) in names)]
    return [
        served(cfg, roles, models[roles[0]], max(longest[role] for role in roles), hardware)
        for roles in names
    ]


def served(
    cfg: RunConfig, roles: tuple[str, ...], model: Candidate, longest: int, hardware: Hardware
) -> Served:
    role = roles[0]  # as which the server is started
    lora = cfg.actor.lora if role == "actor" else cfg.critic.lora
    bf16, cuda = hardware.computes_bf16(model.model), hardware.device.type == "cuda"
    launch = Launch(
        role, hardware.vllm, model.limit, cfg.rollout.max_rows, bf16, cuda, rank=lora.rank
    )
    arguments, number = launch.arguments(role), HALF if bf16 else FLOAT
    option = partial(number_of, arguments)
    weights = parameter_count(model.model) * number
    if rank := int(option("--max-lora-rank", 0)):
        # Room for adapters on all layers that vLLM can put some on.
        each = adapter_count(model.model, LoraConfig(rank=rank)) * number
        weights += int(option("--max-loras", 1)) * each
    devices = width_of(arguments)
    cache = int(option("--kv-cache-memory-bytes", 0))
    return Served(
        " and ".join(roles),
        hardware.vllm.replicas,
        weights // devices,
        cache_bytes(model.model, 1, bf16) // devices,
        int(option("--block-size", BLOCK)),
        int(option("--max-model-len", model.limit + 1)),
        longest,
        int(option("--max-num-seqs", cfg.rollout.max_rows)),
        devices,
        option("--gpu-memory-utilization", SHARE),
        cache or None,
        launch.by_hand(model_of(cfg, role)),
    )


def model_of(cfg: RunConfig, role: str) -> str:
    """What a server of a role may start from: any model of that shape, as it gets its weights."""
    own = cfg.critic.model_name_or_path if role == "critic" else None
    return own or cfg.actor.model_name_or_path or "MODEL"


# --- findings -----------------------------------------------------------------------------------


def capacity(result: Findings, servers: Sequence[Served], gpu: int | None, elsewhere: bool) -> None:
    """Whether each cache holds what is sampled together. gpu: bytes of one, None = unknown.
    elsewhere: servers behind addresses, of which this says what they need only.
    """
    most = max((max(s.bytes_of(s.rows, s.longest), s.least) for s in servers), default=0)
    longest = max((s.longest for s in servers), default=0)
    larger = f"set hardware.vllm.kv_cache_gb to {math.ceil(10 * most / GIB) / 10:g}"
    shorter = f"add --max-model-len {longest + 1} to {ARGS}"
    for s in servers:
        need = as_text(s.bytes_of(s.rows, s.longest))
        text = (
            f"vllm: {s.role} takes {as_text(s.weights)} of weights and {s.token / 2**10:.4g} KiB "
            f"per token; {s.rows} rows of {s.longest} tokens {need}"
        )
        cache = s.cache if gpu is None else s.cache_within(gpu)
        if elsewhere or cache is None:
            result.add("ok", f"{text}; the cache has to hold {as_text(s.least)} at least")
            if elsewhere:
                result.add("ok", f"vllm: such a server is started by: {s.command}")
            continue
        size = as_text(max(0, cache))
        if gpu is None and s.block % CPU_BLOCK:
            remedy = f"on a CPU vLLM wants a multiple of {CPU_BLOCK}; correct it in {ARGS}"
            result.add("FAIL", f"{text}; --block-size is {s.block}; {remedy}")
        elif s.longest > s.context:
            result.add("FAIL", f"{text}; none fits, as --max-model-len is {s.context}; {shorter}")
        elif cache < s.least:
            least = f"{as_text(s.least)}, which one of {s.context} tokens takes"
            why = f"with {size} of cache vLLM does not start, which wants {least}"
            way = f", or {shorter}" if cache >= s.bytes_of(1, longest + 1) else ""
            result.add("FAIL", f"{text}; {why}; {larger}{way}")
        else:
            rows = s.fitting(cache)
            remedy = f"{larger} or rollout.max_rows to {rows}, or others are computed again"
            result.judge(rows == s.rows, f"{text}; {rows} fit into {size}", remedy, "warn")


def on_cpu(servers: Sequence[Served]) -> int:
    """Bytes of main memory of all of them."""
    return sum(s.replicas * (OVERHEAD + s.taken(0)) for s in servers)


def numbers(served: Served, gpus: int) -> list[int]:
    """The GPU of each server, several times where it is spread over as many."""
    return [
        number
        for place in range(served.replicas)
        for number in gpu_numbers(served.role, place, served.replicas, served.devices, gpus)
    ]


def on_gpu(
    result: Findings,
    servers: Sequence[Served],
    learners: int,
    gpu: int,
    gpus: int = 1,
    workers: int = 1,
) -> None:
    """The GPU on which most lies: servers of our own, and learners of that many bytes on each of
    the first `workers`. gpu: bytes of one; gpus: how many there are.
    """
    on = [[s for s in servers for n in numbers(s, gpus) if n == number] for number in range(gpus)]
    learns = [learners if number < workers else 0 for number in range(gpus)]
    most = [learns[number] + sum(s.taken(gpu) for s in on[number]) for number in range(gpus)]
    number = max((n for n in range(gpus) if on[n]), key=most.__getitem__)
    fit_together(result, on[number], learns[number], gpu, number)


def fit_together(
    result: Findings, servers: Sequence[Served], learners: int, gpu: int, number: int
) -> None:
    held = [s.taken(gpu) for s in servers]
    first = servers[0]  # all are started with the same arguments
    # Before it starts a server wants its whole share free, even where its cache is set.
    start = max(0, int(first.share * gpu) - min(held))
    need = learners + sum(held) + start
    each = f"{first.share:g} of the GPU{' each' if len(held) > 1 else ''}"
    if first.cache is not None:
        each = f"{as_text(sum(held))} in all, and {first.share:g} of the GPU free at every start"
    text = (
        f"vllm: {len(held)} server{'s' if len(held) > 1 else ''} ({each}) and learners of "
        f"{as_text(learners)} share GPU {number}: {as_text(need)} of {as_text(gpu)}"
    )
    roomy = need + learners * (1 / ROOMY - 1) <= gpu
    level = "warn" if need <= gpu else "FAIL"
    result.judge(roomy, text, smaller_share(servers, round(learners / ROOMY), held, gpu), level)


def smaller_share(servers: Sequence[Served], learners: int, held: Sequence[int], gpu: int) -> str:
    """The share of the GPU under which all fits, or what to do instead."""
    cached = servers[0].cache is not None
    room = gpu - learners - (sum(held) - min(held) if cached else 0)
    share = math.floor(100 * room / gpu / (1 if cached else len(held))) / 100
    least = max(s.weights + (s.least if s.cache is None else s.cache) for s in servers)
    if share > 0 and share * gpu >= least:
        return f"add --gpu-memory-utilization {share:g} to {ARGS}"
    return (
        f"a server needs {as_text(least)} at least: start servers on other GPUs and name them in "
        f"hardware.vllm.urls, add a shorter --max-model-len to {ARGS}, or set hardware.engine to "
        "local"
    )
