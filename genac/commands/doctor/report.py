"""`genac doctor RECIPE`: what would go wrong in a run, found before anything large is loaded.

Every line begins with "ok   ", "warn " or "FAIL ", gives the number and, where bad, the remedy.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from genac.commands.doctor import memory
from genac.commands.doctor.lengths import LETTERS, Candidate, Lengths, candidates, measure
from genac.commands.doctor.memory import as_text
from genac.commands.doctor.model_bytes import Spread
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.critics.prompts import size_text
from genac.critics.scores import score_tokens
from genac.engines import local
from genac.models.loading import parameter_count
from genac.runtime import Hardware
from genac.stages.traces.endpoint import check as check_endpoint
from genac.tasks import make_task, row_counts
from genac.tasks.base import SPLITS, Task
from genac.tasks.check import check

ROOMY = 0.8  # of what is free: the estimates are rough


@dataclass
class Findings:
    """The lines so far."""

    lines: list[str] = field(default_factory=list)

    def add(self, level: str, text: str) -> None:
        self.lines.append(f"{level:<5}{' '.join(text.split())}")

    def judge(self, good: bool, text: str, remedy: str, bad: str = "FAIL") -> None:
        """ok with the number, or the bad level with number and remedy."""
        self.add("ok" if good else bad, text if good else f"{text}; {remedy}")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A ValueError or OSError inside is a finding, told once; its message is the remedy."""
        try:
            yield
        except (ValueError, OSError) as error:
            if not any(" ".join(str(error).split()) in line for line in self.lines):
                self.add("FAIL", f"{what}: {error}")


def examine(cfg: RunConfig, gpu_gib: float | None = None) -> tuple[list[str], bool]:
    """The findings about a recipe, and whether none of them is a FAIL. `gpu_gib`: for a run on a
    GPU of that memory, wherever this is asked."""
    result, hardware = Findings(), None
    versions(result)
    threads(result, cfg)
    with result.attempt("device"):
        hardware = Hardware.resolve(cfg.hardware) if gpu_gib is None else elsewhere(cfg)
        result.add("ok", f"device: {named(hardware, gpu_gib)}")
    with result.attempt("task"):
        task = make_task(cfg.task, cfg.seed)
        splits(result, cfg, task)
        gold(result, cfg, task)
        oracle(result, cfg, task)
    with result.attempt("models"):
        models = candidates(cfg)
        tokenizers(result, cfg, models)
        lengths = measure(cfg, models)
        contexts(result, cfg, models, lengths)
        if hardware is not None:
            free = free_bytes(hardware) if gpu_gib is None else round(gpu_gib * 2**30)
            ask = partial(memory.demands, cfg, models, lengths, bf16=hardware.bf16)
            needs = ask(where=spread(hardware))
            more = more_processes(hardware, free, ask)
            fits(result, cfg, needs, free, hardware, more)
            if gpu_gib is None:
                disk(result, cfg, needs)
    return result.lines, not any(line.startswith("FAIL") for line in result.lines)


# --- the machine ---------------------------------------------------------------------------------


def versions(result: Findings) -> None:
    """Installed packages against the ranges that genac was installed with."""
    try:
        own = metadata.metadata("genac")
    except metadata.PackageNotFoundError:
        result.add("warn", "versions: genac is not installed, so none is checked; pip install -e .")
        return
    python, expected = platform.python_version(), SpecifierSet(own["Requires-Python"] or "")
    result.judge(
        expected.contains(python, prereleases=True), f"python {python}", f"needs {expected}"
    )
    for need in map(Requirement, metadata.requires("genac") or ()):
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            version = None
        fits = version is not None and need.specifier.contains(version, prereleases=True)
        if not fits or need.name in ("torch", "transformers"):
            result.judge(fits, f"{need.name} {version or 'is missing'}", f"pip install '{need}'")


def threads(result: Findings, cfg: RunConfig) -> None:
    """Threads of matrix products against the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = max(1, cfg.hardware.processes)
    share = max(1, (cores or 1) // processes)
    number = cfg.hardware.threads or (share if processes > 1 else torch.get_num_threads())
    omp = os.environ.get("OMP_NUM_THREADS", "not set")
    each = f" in each of {processes} processes" if processes > 1 else ""
    text = f"threads: {number}{each} on {cores} cores (OMP_NUM_THREADS {omp})"
    remedy = f"they wait for each other: set hardware.threads {share}"
    result.judge(number * processes <= max(cores or 1, processes), text, remedy, "warn")


def elsewhere(cfg: RunConfig) -> Hardware:
    """The CUDA devices that a run will have on another machine."""
    processes = cfg.hardware.processes
    if not processes:
        raise ValueError("hardware.processes is 0, all GPUs: say how many that machine has")
    bf16 = cfg.hardware.precision != "fp32"
    return Hardware(torch.device("cuda"), bf16=bf16, processes=processes)


def named(hardware: Hardware, gpu_gib: float | None) -> str:
    """'cpu, fp32' or '8 processes, each on a GPU of 80 GiB, bf16'."""
    where = hardware.device.type if gpu_gib is None else f"a GPU of {gpu_gib:g} GiB"
    several = f"{hardware.processes} processes, each on " if hardware.processes > 1 else ""
    return f"{several}{where}, {'bf16' if hardware.bf16 else 'fp32'}"


def spread(hardware: Hardware, processes: int | None = None) -> Spread:
    count = processes or hardware.processes
    gpu = hardware.device.type == "cuda"
    return Spread(count, resting=count > 1 and gpu, cpu=not gpu)


def free_bytes(hardware: Hardware) -> int:
    """For one process."""
    if hardware.device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return local.free_ram() // hardware.processes


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
    more: int | None,
) -> None:
    """What the models of the joint stage take of a process's memory, against what is free."""
    for d in needs:
        shared = hardware.processes > 1 and d.gathered > 0
        part = f" (its part of {hardware.processes})" if shared else ""
        caches = f"caches {as_text(d.kept)} ({d.rows} rows), works in {as_text(d.peak)}"
        if d.engine:
            caches = f"works in {as_text(d.peak)}, engine and caches ({d.rows} rows) included"
        text = f"{d.role} holds {as_text(d.held)}{part}, {caches} ({d.tokens} tokens)"
        result.add("ok", f"memory: {text}")
    need = memory.total(needs)
    each = f" by each of {hardware.processes} processes" if hardware.processes > 1 else ""
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
    steps = [("rollout.max_rows", needs[0].rows, cut[0].rows)]
    for old, new in zip(needs, cut, strict=True):
        steps += [(f"{key}.tokens_per_microbatch", old.tokens, new.tokens) for key in old.keys]
    changed = [f"{key} to {new}" for key, old, new in steps if new != old]
    return f"lower {', '.join(changed)}; no result changes"


def disk(result: Findings, cfg: RunConfig, needs: Sequence[memory.Demand]) -> None:
    """Checkpoints and models of the run folder and of the stages before it, per file system."""
    critics = [d for d in needs if d.role == "critic"]
    early = [*(() if cfg.actor.model_name_or_path else needs[:1]), *critics, *critics]
    queries: dict[int, tuple[Path, int]] = {}
    for key, models in ((cfg.output_dir, needs), (cfg.stages.folder, early)):
        place = next(p for p in (Path(key).absolute(), *Path(key).absolute().parents) if p.exists())
        place, before = queries.get(place.stat().st_dev, (place, 0))
        queries[place.stat().st_dev] = (place, before + memory.checkpoint_bytes(models))
    for place, need in queries.values():
        free = shutil.disk_usage(place).free
        text = f"disk: about {as_text(need)} of checkpoints at {place}, {as_text(free)} free"
        remedy = f"free {as_text(max(0, need - free))}, or move output_dir or stages.folder"
        result.judge(need < free, text, remedy)


# --- the task ------------------------------------------------------------------------------------


def splits(result: Findings, cfg: RunConfig, task: Task) -> None:
    """Both splits hold problems, and enough of them."""
    for split in SPLITS:
        size = "unlimited" if task.size(split) is None else task.size(split)
        remedy = "add rows, or change task.options.heldout_fraction"
        result.judge(size != 0, f"task: {size} {split} problems", remedy)
    for name, count in row_counts(task).get("removed", {}).items():
        result.add("ok", f"task: {count} training rows left out that hold a problem of {name}")
    size, queries = task.size("heldout"), cfg.evaluate.num_problems
    if size and size < queries:
        text = f"evaluate.num_problems is {queries} but there are {size} held-out problems"
        result.add("warn", f"{text}, which are asked again; lower it to {size}")


def gold(result: Findings, cfg: RunConfig, task: Task) -> None:
    """Gold answers score 1 and corrupted ones less, where the task can demonstrate."""
    proof, name = check(task, time_limit=cfg.task.verify_seconds), cfg.task.reward or cfg.task.name
    if not proof.judged:
        result.add("warn", f"reward {name!r} is not tried on gold answers: {proof.reason}")
        return
    # A user's reward may want more than the bare reference answer, a format for example.
    level = "warn" if cfg.task.reward else "FAIL"
    text = f"reward {name!r}: {proof.full} of {proof.judged} gold answers score 1"
    remedy = f"{proof.reason}; compare the reward with the answers in the data"
    result.judge(proof.full == proof.judged, text, remedy, level)
    text = f"reward {name!r}: {proof.fooled} of {proof.judged} corrupted answers score as high"
    result.judge(proof.fooled == 0, text, "it does not tell right from wrong: correct it", level)


def oracle(result: Findings, cfg: RunConfig, task: Task) -> None:
    """Traces for the critic and checks for the base model need an oracle."""
    stages = cfg.stages
    traces = critic_class(cfg.critic.kind).needs_traces and stages.sft.epochs > 0
    traces = traces and stages.synthesize.oracle in ("task", "calibrated")
    with result.attempt("endpoint"):
        check_endpoint(cfg)
    base = not cfg.actor.model_name_or_path and stages.base.check_fraction > 0
    if traces or base:
        with result.attempt("oracle" if traces else "oracle (set stages.base.check_fraction 0)"):
            task.oracle(task.problem("train", 0), "", None)


# --- the models ----------------------------------------------------------------------------------


def tokenizers(result: Findings, cfg: RunConfig, models: Mapping[str, Candidate]) -> None:
    """Sizes, end-of-sequence and padding tokens, and whether actor and critic understand scores."""
    for role, m in models.items():
        text = f"{role}: {size_text(parameter_count(m.model))} parameters, context {m.limit}"
        if m.tokenizer is None:
            remedy = f"lengths are guessed at {LETTERS} characters per token: download the model"
            result.add("warn", f"{text}, tokenizer not at hand; {remedy}")
            continue
        eos, pad = m.tokenizer.eos_token, m.tokenizer.pad_token
        text = f"{text}, {len(m.tokenizer)} tokens, eos {eos!r}, padding {pad!r}"
        remedy = f"its embedding has {m.vocabulary} rows only: resize it, or take its own tokenizer"
        result.judge(len(m.tokenizer) <= m.vocabulary, text, remedy)
    actor, critic = models["actor"].tokenizer, models.get("critic", models["actor"]).tokenizer
    kind = critic_class(cfg.critic.kind)
    if critic is not None and actor is not None and kind.reads_actor_tokens:
        same = critic.get_vocab() == actor.get_vocab()
        text = f"critic: {'the' if same else 'not the'} vocabulary of the actor"
        result.judge(same, text, "a value head reads the actor's tokens: start both from one model")
    g = cfg.critic.generative
    exact = kind.needs_traces and (g.readout == "expected" or g.exact_score_gradient)
    if exact and critic is not None:
        scores = score_tokens(critic)
        text = "critic: scores 0..10 are one token each"
        if scores is None:
            text = "critic: the digits 0..9 are not one token each"
        elif scores.one is not None:
            text = "critic: scores 0..9 are one token each, 10 two"
        remedy = "expected readout and exact gradient need that; scores are read as sampled"
        result.judge(scores is not None, text, remedy, "warn")


def contexts(
    result: Findings, cfg: RunConfig, models: Mapping[str, Candidate], lengths: Lengths
) -> None:
    """Prompts and what is written after them, against the models' contexts."""
    new, kind = cfg.rollout.max_completion_length, critic_class(cfg.critic.kind)
    for role in ("actor", "critic") if kind.reads_actor_tokens else ("actor",):
        limit = models[role].limit
        text = f"{role} context: prompt {lengths.prompt} + max_completion_length {new} of {limit}"
        remedy = f"lower rollout.max_completion_length to {limit - lengths.prompt}"
        if limit <= lengths.prompt:
            remedy = "drop long prompts, or use a longer context (actor.tiny.max_length)"
        result.judge(lengths.prompt + new <= limit, text, remedy)
    if lengths.gold:
        text = f"actor: the longest gold answer takes {lengths.gold} of {new} tokens"
        remedy = f"raise rollout.max_completion_length to {lengths.gold + 1} or more"
        result.judge(lengths.gold < new, text, remedy, "warn")
    if kind.needs_traces:
        rationale, limit = cfg.critic.generative.max_new_tokens, models["critic"].limit
        room = limit - rationale - lengths.question
        text = f"prompt {lengths.question} + response {new} + rationale {rationale} of {limit}"
        remedy = f"responses get no value behind token {room}: lower max_new_tokens or the response"
        if room < 0:
            remedy = "nothing fits: lower critic.generative.max_new_tokens, or set prompt compact"
        level = "warn" if room >= 0 else "FAIL"
        result.judge(room >= new, f"critic context: {text}", remedy, level)
