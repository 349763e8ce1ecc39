"""Does a way to sample say what the model's forward says? Compared once, when an engine is made.

A forward that ignores the cache it is given, a padding that is not hidden, a layer that is not
computed as configured, or a model that is not causal: each makes sampling wrong without an error.
Short rows of several lengths are read, written to token by token and dropped, as a batch does it,
and every distribution on the way is compared with that of one forward over the whole row, which is
what the learner trains.

Shapes: _B row, _T position, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genac.engines.scheduler import ModelRunner
from genac.engines.transformers import RereadSteps, TransformersRunner, arguments_of
from genac.models.sharding import root_of
from genac.prefixes import Ids, trees

LENGTHS = (5, 2, 5, 3)  # prompt tokens of the rows; the first and the third begin alike
STEPS = 3  # tokens written to each
# Nats per token that rounding may cost, in fp32 and in half precision: at least, and at most where
# it is measured to cost more; and where a model in fp32 is sampled in half precision.
ROUNDING, ROUNDING_HALF, ROUNDING_MIXED = (1e-5, 1e-3), (0.05, 0.1), 0.25
# What foreign code raises on inputs that it was not made for.
FAULTS = (
    *(AssertionError, AttributeError, LookupError, NotImplementedError),
    *(RuntimeError, TypeError, ValueError),
)


NOT_CAUSAL = (
    "its predictions do not come from the tokens before them alone, so no response has a "
    "probability under it: use a decoder-only causal language model, or set is_decoder or causal "
    "to true in its config.json where it has that key"
)
NOT_TOKENS = "use a language model whose forward needs nothing but tokens"


class Disagreement(Exception):
    """Why a way to sample cannot be used, and what to do where no other way can either; both follow
    the architecture's name.
    """

    def __init__(self, reason: str, remedy: str = NOT_CAUSAL) -> None:
        super().__init__(reason)
        self.remedy = remedy


def require_agreement(model: Any, steps: ModelRunner, max_length: int, dtype: torch.dtype) -> None:
    """Raises Disagreement where `steps` predicts something else than `model` does.

    dtype: what `steps` computes in. Says nothing where the model's own logits are not finite: the
    first sampled token names that.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        compare(model, steps, max_length, dtype)
    finally:
        for module, mode in modes:
            module.training = mode


def compare(model: Any, steps: ModelRunner, max_length: int, dtype: torch.dtype) -> None:
    prompts, rows = probes(model, max_length)
    full = attempt(
        lambda: whole_rows(model, rows), "its forward cannot read a row of tokens", NOT_TOKENS
    )
    if not all(bool(torch.isfinite(logits).all()) for logits in full):
        return

    def measured(steps: ModelRunner) -> float:
        reason = "it cannot be read token by token"
        return attempt(lambda: largest_gap(steps, prompts, rows, full), reason)

    nats, stored = measured(steps), next(model.parameters()).dtype
    least, limit = ROUNDING_HALF if torch.finfo(dtype).bits == 16 else ROUNDING
    if dtype != stored:
        limit = ROUNDING_MIXED
    elif isinstance(steps, TransformersRunner) and nats > least:
        # Rows that are read again differ from one whole row by rounding only.
        limit = min(limit, max(least, 10 * measured(RereadSteps(model))))
    if not nats <= limit:  # not a number disagrees too
        raise Disagreement(
            "read token by token it predicts something else than its forward over the whole row: "
            f"{nats:.3g} nats apart, where rounding explains {limit:.3g}"
        )


def attempt(call: Callable[[], Any], reason: str, remedy: str = NOT_CAUSAL) -> Any:
    """The call's result; foreign code's refusal as a Disagreement."""
    try:
        return call()
    except torch.OutOfMemoryError:
        raise
    except FAULTS as error:
        text = str(error).strip().splitlines() or [""]
        reason = f"{reason} ({type(error).__name__}: {text[0][:200]})"
        raise Disagreement(reason, remedy) from error


def probes(model: Any, max_length: int) -> tuple[list[Ids], list[Ids]]:
    """Prompts of several lengths, and each with what is written behind it. Tokens are ordinary
    ones: those that the config names stand for padding, ends and images.
    """
    config = model.config.get_text_config(decoder=True)
    named = {v for k, v in config.to_dict().items() if k.endswith(("token_id", "token_index"))
             for v in (v if isinstance(v, list) else [v])}  # fmt: skip
    vocab = model.get_input_embeddings().weight.shape[0]
    spread = dict.fromkeys((5 + 7 * i) % vocab for i in range(64))
    words = [word for word in spread if word not in named] or [0]
    written = min(STEPS, max_length - 1)
    prompts, rows = [], []
    for row, length in enumerate(LENGTHS):
        length = min(length, max_length - written)
        first = tuple(words[i % len(words)] for i in range(length - 1))
        rest = tuple(words[(row * 5 + i) % len(words)] for i in range(written + 1))
        prompts.append(first + rest[:1])
        rows.append(first + rest)
    return prompts, rows


def whole_rows(model: Any, rows: list[Ids]) -> list[Tensor]:
    """(T, V) of each row, from one forward over it without a cache."""
    no_cache = {"use_cache": False} if "use_cache" in arguments_of(model) else {}
    device = next(model.parameters()).device
    read = lambda: [  # noqa: E731
        model(input_ids=torch.tensor([row], device=device), **no_cache).logits[0].float()
        for row in rows
    ]
    root = root_of(model)
    return read() if root is None else root(read)


def largest_gap(
    steps: ModelRunner, prompts: list[Ids], rows: list[Ids], full: list[Tensor]
) -> float:
    """The largest mean gap of a step; the first row leaves on the way."""
    chosen = trees(prompts, len(prompts))
    live = [m for tree in chosen for suffix in tree.suffixes for m in suffix.members]
    place = [len(prompt) - 1 for prompt in prompts]
    written = len(rows[0]) - len(prompts[0])
    logits, gaps = steps.prefill(chosen, written), []
    for step in range(written + 1):
        exact = torch.stack([full[row][place[row] + step] for row in live])
        gaps.append(float(gap(logits, exact)))
        if step == written:
            break
        if step == 1:
            live = live[1:]
            steps.select(torch.arange(1, len(live) + 1, device=logits.device))
        tokens = [rows[row][place[row] + step + 1] for row in live]
        logits = steps.decode_step(torch.tensor(tokens, device=logits.device))
    return max(gaps)


def gap(ours_BV: Tensor, exact_BV: Tensor) -> Tensor:
    """Mean over rows of the expected distance, in nats, of a sampled token's log-probability.

    A model that is hardly trained predicts all tokens alike, whatever it has read; its logits are
    spread to a standard deviation of one, so that what is lost shows.
    """
    spread_B1 = exact_BV.std(-1, keepdim=True).clamp(1e-6, 1.0)
    ours_BV, exact_BV = (torch.log_softmax(x / spread_B1, -1) for x in (ours_BV, exact_BV))
    return (exact_BV.exp() * (ours_BV - exact_BV).abs()).sum(-1).mean()
