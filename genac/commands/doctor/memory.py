"""What a run needs of memory and disk, from the shapes of its models alone: nothing is loaded.

    needs = demands(cfg, candidates(cfg), lengths, bf16=False)
    total(needs)              # bytes at the run's largest moment
    smaller(needs, limit)     # the same work in pieces that fit

A model that vLLM samples from has its engine elsewhere (engines.py), so that only its learner
counts. Where actor and critic have workers each (`separate`), the larger of both counts.

What one model takes is in model_bytes.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genac.checkpoint import KEEP
from genac.commands.doctor.lengths import Candidate, Lengths
from genac.commands.doctor.model_bytes import (
    ADAMW,
    ALONE,
    FLOAT,
    FULL,
    Spread,
    Trained,
    activation_bytes,
    cache_bytes,
    decoding_bytes,
    engine_bytes,
    reading_bytes,
)
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.engines.scheduler import REFILL_BELOW
from genac.models.heads import vocabulary
from genac.models.loading import parameter_count
from genac.ops.tensors import CHUNK_TOKENS, KEPT_LOGITS

LOGITS = 5 * FLOAT  # bytes per logit with its temporaries
MOST_HALVINGS = 10


@dataclass(frozen=True)
class Demand:
    """Bytes of one model: always held, per row decoded together, per token of a micro-batch."""

    role: str
    parameters: int
    held: int
    keys: tuple[str, ...] = ()  # of the settings that `tokens` comes from
    rows: int = 0
    tokens: int = 0  # of a micro-batch
    longest: int = 0  # sequence in tokens; a micro-batch holds at least one
    cache: int = 0  # per row, kept between calls of the engine
    row: int = 0  # per row, while sampling
    reading: int = 0  # while prompts are read, whatever the number of rows
    token: int = 0  # per token, while training
    logits: int = 0  # per token besides, up to `most_logits`: the learner takes them in chunks
    most_logits: int = 0
    saved: int = 0  # in one checkpoint
    engine: int = 0  # its weights, where they are on the device only while it samples
    gathered: int = 0  # while training: what is whole of a model that is divided
    pool: str = "all"  # the workers that it lies on

    @property
    def kept(self) -> int:
        return self.rows * self.cache

    @property
    def peak(self) -> int:
        """What comes and goes: the larger of sampling and training."""
        tokens = max(self.tokens, self.longest)
        training = tokens * self.token + min(tokens * self.logits, self.most_logits)
        sampling = self.engine + max(self.rows * self.row, self.reading)
        return max(sampling, training + self.gathered)


def demands(
    cfg: RunConfig,
    models: Mapping[str, Candidate],
    lengths: Lengths,
    *,
    bf16: bool,
    where: Spread = ALONE,
    served: Collection[str] = (),
    separate: bool = False,
) -> list[Demand]:
    """One Demand per model of the joint stage, the largest of a run; of each process. served: the
    roles that servers sample from.
    """
    actor, kind = models["actor"].model, critic_class(cfg.critic.kind)
    rows = cfg.rollout.max_rows
    new = cfg.rollout.max_completion_length
    longest = lengths.prompt + new
    # Monte-Carlo continuations start from prefixes as long as a response.
    branches = kind.continues_states or cfg.evaluate.panel_problems > 0
    read = longest if branches else lengths.prompt
    sizes = (read, longest, new)
    own = Trained.of(actor, cfg.actor, where)
    results = [language(actor, "actor", sizes, rows, bf16, own, "actor" in served)]
    if kind.needs_traces:
        rationale = cfg.critic.generative.max_new_tokens
        read = max(1, min(lengths.question + new, models["critic"].limit - rationale))
        critic = models["critic"].model
        sizes = (read, read + rationale, rationale)
        how = Trained.of(critic, cfg.critic, where)
        results.append(language(critic, "critic", sizes, rows, bf16, how, "critic" in served))
    elif kind.learns:
        critic = models["critic"].model
        results.append(value_head(critic, longest, bf16, Trained.of(critic, cfg.critic, where)))
    if cfg.actor.loss.beta:
        count, idle = parameter_count(actor), where.resting or "actor" in served
        engine = 0 if idle else engine_bytes(actor, bf16, own.stored)
        results.append(Demand("reference", count, count * own.stored // own.shares + engine))
    results = [with_microbatch(cfg, demand) for demand in results]
    if not separate:
        return results
    return [replace(d, pool="critic" if d.role == "critic" else "actor") for d in results]


def with_microbatch(cfg: RunConfig, demand: Demand) -> Demand:
    """The largest micro-batch that the model ever trains on, and the keys that set it."""
    base, warmup, sft = cfg.stages.base, cfg.stages.warmup, cfg.stages.sft
    traces = critic_class(cfg.critic.kind).needs_traces
    users = {
        "actor": [
            ("actor.optimizer", cfg.actor.optimizer, True),
            ("stages.base.optimizer", base.optimizer, not cfg.actor.model_name_or_path),
            ("stages.warmup.optimizer", warmup.optimizer, warmup.steps > 0),
        ],
        "critic": [
            ("critic.optimizer", cfg.critic.optimizer, True),
            ("stages.sft.optimizer", sft.optimizer, traces and sft.epochs),
        ],
    }
    sizes = {k: o.tokens_per_microbatch for k, o, used in users.get(demand.role, ()) if used}
    return replace(demand, keys=tuple(sizes), tokens=max(sizes.values(), default=0))


def language(
    model: Any,
    role: str,
    lengths: tuple[int, int, int],
    rows: int,
    bf16: bool,
    how: Trained = FULL,
    served: bool = False,
) -> Demand:
    """Actor or generative critic. lengths: read at once, whole sequence, written, at most."""
    read, longest, new = lengths
    count, vocab = parameter_count(model), vocabulary(model)
    engine, resting = engine_bytes(model, bf16, how.stored), how.where.resting
    cache = round(cache_bytes(model, longest, bf16) * (1 + REFILL_BELOW))
    demand = Demand(
        role,
        count,
        held=how.held(count) + (0 if resting or served else engine),
        rows=rows,
        longest=longest,
        cache=0 if resting else cache,
        row=decoding_bytes(model, read, longest, bf16) + vocab * LOGITS + (cache if resting else 0),
        reading=reading_bytes(model, read, bf16, how.where.cpu),
        token=activation_bytes(model, bf16, how),
        logits=round(vocab * LOGITS * new / longest),  # only written tokens pass the LM head
        most_logits=max(CHUNK_TOKENS * vocab, KEPT_LOGITS) * LOGITS,
        saved=how.saved(count),
        engine=engine if resting else 0,
        gathered=how.gathered(model, bf16),
    )
    if served:
        return replace(demand, rows=0, cache=0, row=0, reading=0, engine=0)
    return demand


def value_head(model: Any, longest: int, bf16: bool, how: Trained = FULL) -> Demand:
    """A discriminative critic: never samples, and its LM head is not trained."""
    count = parameter_count(model)
    trained = count - sum(p.numel() for p in model.get_output_embeddings().parameters())
    token = activation_bytes(model, bf16, how)
    saved = count * how.stored + (how.adapters or trained) * ADAMW
    return Demand(
        "critic", count, how.held(count, trained), longest=longest, token=token, saved=saved,
        gathered=how.gathered(model, bf16),
    )  # fmt: skip


def total(needs: Sequence[Demand]) -> int:
    """Bytes at the largest moment: everything held, and one model at work."""
    pools = [[d for d in needs if d.pool == name] for name in {d.pool for d in needs}]
    return max(sum(d.held + d.kept for d in pool) + max(d.peak for d in pool) for pool in pools)


def smaller(needs: Sequence[Demand], limit: float) -> list[Demand] | None:
    """The same work in smaller pieces that fits: micro-batches halved until it does, else rows,
    else both. None where the models alone are too large.
    """
    for keys in (("tokens",), ("rows",), ("tokens", "rows")):
        for halvings in range(1, MOST_HALVINGS):
            cut = [
                replace(
                    d, **{k: v and max(1, v >> halvings) for k in keys for v in [getattr(d, k)]}
                )
                for d in needs
            ]
            if total(cut) <= limit:
                return cut
    return None


def as_text(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def checkpoint_bytes(needs: Sequence[Demand]) -> int:
    """A loop's checkpoints, those kept and the one being written."""
    return sum((KEEP + 1) * d.saved for d in needs)


def stored_bytes(needs: Sequence[Demand]) -> int:
    """The models that a loop leaves."""
    return sum(d.parameters * FLOAT for d in needs if d.saved)
