"""What a run needs of memory and disk, from the shapes of its models alone: nothing is loaded.

    needs = demands(cfg, candidates(cfg), lengths, bf16=False)
    total(needs)              # bytes at the run's largest moment
    smaller(needs, limit)     # the same work in pieces that fit

The per-row and per-token terms follow what engines/decoder.py and learner.py allocate; their
constants were measured on Qwen2 and Qwen3 models, whose training peaks they meet within a third,
with and without gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genac.checkpoint import KEEP
from genac.config import ActorConfig, CriticConfig, LoraConfig, RunConfig
from genac.engines.batch import TURN_OVER_BELOW
from genac.engines.cache import READ_AT_ONCE
from genac.engines.decoder import Decoder
from genac.evals.lengths import Candidate, Lengths
from genac.models.fused import known
from genac.models.heads import size, text_config, vocabulary
from genac.models.loading import parameter_count
from genac.native.library import library
from genac.ops.tensors import CHUNK_TOKENS, KEPT_LOGITS

FLOAT, HALF = 4, 2
ADAMW = 2 * FLOAT  # two moments per trained parameter
SCORES = 12  # bytes per attention score in the decoder's explicit softmax
LOGITS = 5 * FLOAT  # bytes per logit with its temporaries
AGAIN = 2  # layers' worth of activations while one is computed again
BACKWARD, AUTOCAST = 1.3, 0.7  # peak over what autograd keeps; what of it remains under bf16
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


@dataclass(frozen=True)
class Spread:
    """Over how many processes a run is spread, whether an engine that does not sample leaves
    nothing on the device, neither weights nor caches (as those of GPU workers do), and whether the
    device is a CPU."""

    processes: int = 1
    resting: bool = False
    cpu: bool = True

    @property
    def fuses(self) -> bool:
        """Whether layers in training may be one operation each (models/fused.py)."""
        return self.cpu and self.processes == 1 and library() is not None


ALONE = Spread()


@dataclass(frozen=True)
class Trained:
    """How a model is stored and trained."""

    stored: int = FLOAT  # bytes of a weight
    shared: bool = False  # the weights are the actor's, in memory; a checkpoint has its own
    adapters: int = 0  # LoRA's parameters, 0 = all weights are trained
    checkpointing: bool = False
    where: Spread = ALONE

    @classmethod
    def of(cls, model: Any, cfg: ActorConfig | CriticConfig, where: Spread = ALONE) -> Trained:
        return cls(
            HALF if cfg.load.dtype == "bf16" else FLOAT,
            isinstance(cfg, CriticConfig) and cfg.share_base,
            adapter_count(model, cfg.lora),
            cfg.optimizer.gradient_checkpointing,
            where,
        )

    @property
    def shares(self) -> int:
        """Into how many parts weights, gradients and moments are divided: under adapters every
        process has all of them.
        """
        return 1 if self.adapters else self.where.processes

    def held(self, count: int, trained: int | None = None) -> int:
        """Weights, and of what is trained gradients and both moments."""
        own = self.adapters or (count if trained is None else trained)
        weights = 0 if self.shared else count * self.stored
        return (weights + own * (FLOAT + ADAMW)) // self.shares + self.adapters * FLOAT

    def gathered(self, model: Any, bf16: bool) -> int:
        """What is whole while a divided model learns: what lies outside the layers with its
        gradients and their copy on the way to the others, and two layers likewise; without
        checkpointing also all weights as autocast has cast them, for the backward pass.
        """
        if self.shares == 1:
            return 0
        layer = parameter_count(model.base_model.layers[0])
        outside = parameter_count(model) - len(model.base_model.layers) * layer
        cast = 0 if self.checkpointing or not bf16 else parameter_count(model) * HALF
        return (3 * outside + 4 * layer) * FLOAT + cast

    def saved(self, count: int) -> int:
        """A checkpoint: the weights, and the moments (and adapters) that go on."""
        return count * self.stored + (self.adapters or count) * ADAMW + self.adapters * FLOAT


FULL = Trained()


def adapter_count(model: Any, cfg: LoraConfig) -> int:
    """Parameters of the adapters: rank * (in + out) for each linear layer that gets one."""
    found = [m for n, m in model.named_modules() if n.split(".")[-1] in cfg.target_modules]
    return sum(cfg.rank * (m.in_features + m.out_features) for m in found)


def demands(
    cfg: RunConfig,
    models: Mapping[str, Candidate],
    lengths: Lengths,
    *,
    bf16: bool,
    where: Spread = ALONE,
) -> list[Demand]:
    """One Demand per model of the joint stage, the largest of a run; of each process."""
    actor, kind, rows = models["actor"].model, cfg.critic.kind, cfg.rollout.max_rows
    new = cfg.rollout.max_completion_length
    longest = lengths.prompt + new
    # Monte-Carlo continuations start from prefixes as long as a response.
    branches = kind == "monte_carlo" or cfg.evaluate.panel_problems > 0
    read = longest if branches else lengths.prompt
    sizes = (read, longest, new)
    found = [language(actor, "actor", sizes, rows, bf16, Trained.of(actor, cfg.actor, where))]
    if kind == "generative":
        thought = cfg.critic.generative.max_new_tokens
        read = max(1, min(lengths.question + new, models["critic"].limit - thought))
        critic = models["critic"].model
        sizes = (read, read + thought, thought)
        how = Trained.of(critic, cfg.critic, where)
        found.append(language(critic, "critic", sizes, rows, bf16, how))
    elif kind == "discriminative":
        critic = models["critic"].model
        found.append(value_head(critic, longest, bf16, Trained.of(critic, cfg.critic, where)))
    if cfg.loss.beta:
        how, count = Trained.of(actor, cfg.actor, where), parameter_count(actor)
        engine = 0 if where.resting else engine_bytes(actor, bf16, how.stored)
        found.append(Demand("reference", count, count * how.stored // how.shares + engine))
    return [with_microbatch(cfg, demand) for demand in found]


def with_microbatch(cfg: RunConfig, demand: Demand) -> Demand:
    """The largest micro-batch that the model ever trains on, and the keys that set it."""
    base, sft = cfg.stages.base, cfg.stages.sft
    users = {
        "actor": [
            ("actor.optimizer", cfg.actor.optimizer, True),
            ("stages.base.optimizer", base.optimizer, not cfg.actor.model_name_or_path),
        ],
        "critic": [
            ("critic.optimizer", cfg.critic.optimizer, True),
            ("stages.sft.optimizer", sft.optimizer, cfg.critic.kind == "generative" and sft.epochs),
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
) -> Demand:
    """Actor or generative critic. lengths: read at once, whole sequence, written, at most."""
    read, longest, new = lengths
    count, vocab = parameter_count(model), vocabulary(model)
    engine, resting = engine_bytes(model, bf16, how.stored), how.where.resting
    cache = round(cache_bytes(model, longest, bf16) * (1 + TURN_OVER_BELOW))
    return Demand(
        role,
        count,
        held=how.held(count) + (0 if resting else engine),
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
    return sum(d.held + d.kept for d in needs) + max(d.peak for d in needs)


def smaller(needs: Sequence[Demand], limit: float) -> list[Demand] | None:
    """The same work in smaller pieces that fits: micro-batches halved until it does, else rows,
    else both. None where the models alone are too large.
    """
    for keys in (("tokens",), ("rows",), ("tokens", "rows")):
        for halvings in range(1, MOST_HALVINGS):
            cut = [
                replace(d, **{key: max(1, getattr(d, key) >> halvings) for key in keys})
                for d in needs
            ]
            if total(cut) <= limit:
                return cut
    return None


def as_text(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def checkpoint_bytes(needs: Sequence[Demand]) -> int:
    """A loop's checkpoints, those kept and the one being written, and the models at its end."""
    return sum((KEEP + 1) * d.saved + d.parameters * FLOAT for d in needs if d.saved)


# --- models --------------------------------------------------------------------------------------


def engine_bytes(model: Any, bf16: bool, stored: int = FLOAT) -> int:
    """The decoder's copy of the weights; a tied LM head is copied as well. Architectures without a
    decoder are copied as they are, `stored` bytes per weight.
    """
    if not Decoder.supports(model):
        return parameter_count(model) * stored
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    copied = parameter_count(model) + (embedding.numel() if head is embedding else 0)
    return copied * (HALF if bf16 else FLOAT)


def widths(model: Any) -> tuple[int, int, int, int, int]:
    """Layers, hidden, MLP, all query heads, all key heads."""
    config, heads = text_config(model), heads_of(model)
    hidden = size(config, "hidden_size", default=1)
    dim = size(config, "head_dim", default=hidden // heads)
    keys = size(config, "num_key_value_heads", default=heads) * dim
    inner = size(config, "intermediate_size", "ffn_dim", default=4 * hidden)
    return size(config, "num_hidden_layers", default=1), hidden, inner, heads * dim, keys


def heads_of(model: Any) -> int:
    """Query heads; 1 where the architecture has none."""
    return size(text_config(model), "num_attention_heads", "num_heads", default=1)


def cache_bytes(model: Any, length: int, bf16: bool) -> int:
    layers, _, _, _, keys = widths(model)
    return layers * 2 * keys * length * (HALF if bf16 else FLOAT)


def decoding_bytes(model: Any, read: int, length: int, bf16: bool) -> int:
    """Per row: its longest step, and without a decoder of our own reading its whole prompt."""
    _, _, _, queries, _ = widths(model)
    heads, number = heads_of(model), HALF if bf16 else FLOAT
    step = length * (SCORES * heads + FLOAT)
    if Decoder.supports(model, length):
        return step
    whole = read * flow_bytes(model, bf16) + read**2 * (SCORES * heads + 2 * FLOAT)
    return max(whole, 2 * length * queries * number)


def reading_bytes(model: Any, read: int, bf16: bool, cpu: bool = True) -> int:
    """Prompts are read READ_AT_ONCE tokens at a time, each against a trunk of up to `read`."""
    if not Decoder.supports(model, read):
        return 0
    heads = heads_of(model)
    # What reads in fp32 on a CPU holds a mask only, all else the scores as well.
    pairs = FLOAT + (SCORES * heads if bf16 or not cpu else 0)
    return (READ_AT_ONCE + read) * (flow_bytes(model, bf16) + read * pairs)


def flow_bytes(model: Any, bf16: bool) -> int:
    """What one token takes on its way through a layer."""
    _, hidden, inner, queries, keys = widths(model)
    return (HALF if bf16 else FLOAT) * (3 * hidden + 3 * inner + 3 * (queries + 2 * keys))


def activation_bytes(model: Any, bf16: bool, how: Trained) -> int:
    """Per token, what a backward pass needs; with checkpointing each layer's input, and what
    computing one again takes."""
    layers, hidden, inner, queries, keys = widths(model)
    if how.where.fuses and not bf16 and not how.adapters and known(model.base_model):
        layer = 2 * (hidden + queries + keys + inner) * FLOAT
        beside = (3 * hidden + 7 * queries) * FLOAT  # of the layer that is at work
        return (
            layers * hidden * FLOAT + layer + beside
            if how.checkpointing
            else layers * layer + beside
        )
    layer = (6 * hidden + 4 * (queries + keys) + 4 * inner) * FLOAT * BACKWARD
    layer *= AUTOCAST if bf16 else 1.0
    return round(layers * hidden * FLOAT + AGAIN * layer if how.checkpointing else layers * layer)
