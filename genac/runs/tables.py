"""The columns of the run folder's Parquet files, and how rollouts and estimates become rows.

pyarrow is imported inside the functions, so that importing the store stays light.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genac.pieces import Pieces
from genac.runs.files import encodable
from genac.runs.guard import refuse_special
from genac.types import Advantages, Estimate, Rationale, Rollout

Decode = Callable[[Sequence[int]], str]

BETWEEN = "\n---\n"  # the completions of several rationales about one state

ROLLOUT_COLUMNS = {
    "problem_id": "string",
    "prompt": "string",
    "answer": "string",
    "group": "int32",
    "member": "int32",
    "response": "string",
    "response_ids": "list<int32>",
    "logprobs": "list<float>",
    "reward": "double",  # null = could not be scored
    "reason": "string",
    "finish": "string",
    "actor_version": "int32",
    "tokens": "list<string>",  # the text of each response token; null without a decoder
    "entropies": "list<float>",  # nats, of what each token was drawn from; null where not known
}
ESTIMATE_COLUMNS = {
    "problem_id": "string",
    "group": "int32",
    "member": "int32",
    "start": "int32",
    "end": "int32",
    "step_text": "string",  # null unless the writer was given a decoder
    "value": "double",  # null = missing, never 0
    "reward": "double",
    "advantage": "double",
    "expected": "double",
    "rationale": "string",
    "critic_version": "int32",
    "state": "int64",  # hash of the prefix's token ids: equal states have equal numbers
    "critic_prompt": "string",  # what the critic read; null without a decoder of its tokens
    "rationale_tokens": "list<string>",  # joined they are `rationale`
    "rationale_logprobs": "list<float>",  # NaN between two rationales
    "score_probs": "list<float>",  # of the scores 0..10, mean over the rationales
    "rationale_entropies": "list<float>",  # nats, as rationale_logprobs
}


def encode(rows: Sequence[tuple], columns: Mapping[str, str]) -> bytes:
    """The rows as a Parquet file with exactly these columns and types."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    nested = {
        "list<int32>": pa.list_(pa.int32()),
        "list<float>": pa.list_(pa.float32()),
        "list<string>": pa.list_(pa.string()),
    }
    types = [nested.get(kind) or pa.type_for_alias(kind) for kind in columns.values()]
    values = list(zip(*rows, strict=True)) or [()] * len(types)
    arrays = [pa.array(value, kind) for value, kind in zip(values, types, strict=True)]
    buffer = io.BytesIO()
    parquet.write_table(pa.table(arrays, names=list(columns)), buffer, compression="zstd")
    return buffer.getvalue()


def read(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one file, of some columns or all, as they are stored.

    A column that the file does not have (older runs lack some) is absent from the rows.
    """
    import pyarrow.parquet as parquet

    refuse_special(path)
    with parquet.ParquetFile(path) as file:
        held = file.schema_arrow.names
        names = held if columns is None else [name for name in held if name in columns]
        return file.read(names).to_pylist()


class Words:
    """Text of sequences and of their tokens; None where there is no decoder."""

    def __init__(self, decode: Decode | None) -> None:
        self._decode = decode
        self._pieces = None if decode is None else Pieces(decode)
        self._latest: tuple[Sequence[int], list[str]] = (), []

    def pieces(self, ids: Sequence[int]) -> list[str] | None:
        if self._pieces is None:
            return None
        if self._latest[0] != ids:  # the states of a response come one after the other
            self._latest = ids, [encodable(piece) for piece in self._pieces.of(ids)]
        return self._latest[1]

    def between(self, ids: Sequence[int], start: int, end: int) -> str | None:
        """The text of ids[start:end] as a part of the whole."""
        pieces = self.pieces(ids)
        return None if pieces is None else "".join(pieces[start:end])

    def text(self, ids: Sequence[int]) -> str | None:
        return None if self._decode is None else encodable(self._decode(ids))


def rollout_row(rollout: Rollout, words: Words) -> tuple:
    problem = rollout.problem
    return (
        encodable(problem.id),
        encodable(problem.text),
        encodable(problem.answer),
        rollout.group,
        rollout.member,
        encodable(rollout.text),
        list(rollout.response_ids),
        rollout.logprobs,
        rollout.reward,
        encodable(rollout.reason),
        rollout.finish,
        rollout.actor_version,
        words.pieces(rollout.response_ids),
        None if rollout.entropies is None else _rounded(rollout.entropies),
    )


def by_token(estimates: Sequence[Estimate], advantages: Advantages) -> Advantages:
    """The advantages by segment, those of dense states by token."""
    out = dict(advantages)
    for estimate in estimates:
        state, rollout = estimate.state, estimate.state.rollout
        values = advantages.get((rollout.group, rollout.member, state.start))
        if estimate.token_values is not None and values is not None:
            for at, value in enumerate(np.asarray(values, float), start=state.start):
                out[rollout.group, rollout.member, at] = float(value)
    return out


def estimate_row(estimate: Estimate, advantages: Advantages, actor: Words, critic: Words) -> tuple:
    state, rollout, rationales = estimate.state, estimate.state.rollout, estimate.rationales
    expected = [t.expected for t in rationales if t.expected is not None]
    probs = [t.score_probs for t in rationales if t.score_probs is not None]
    tokens, logprobs, entropies = _written(rationales, critic)
    return (
        encodable(rollout.problem.id),
        rollout.group,
        rollout.member,
        state.start,
        state.end,
        actor.between(rollout.response_ids, state.start, state.end),
        estimate.value,
        rollout.reward,
        advantages.get((rollout.group, rollout.member, state.start)),
        sum(expected) / len(expected) if expected else None,
        encodable(BETWEEN.join(t.text for t in rationales)),
        estimate.version,
        state_hash(state.prefix_ids),
        critic.text(rationales[0].prompt_ids) if rationales else None,
        tokens,
        logprobs,
        _rounded(np.mean(probs, axis=0)) if probs else None,
        entropies,
    )


def _written(
    rationales: Sequence[Rationale], critic: Words
) -> tuple[list[str] | None, np.ndarray | None, np.ndarray | None]:
    """The tokens of all rationales, their log-probabilities and their entropies (None unless all
    are known), with BETWEEN in between.
    """
    tokens: list[str] = []
    logprobs: list[np.ndarray] = []
    entropies: list[np.ndarray | None] = []
    gap = np.full(1, np.nan, np.float32)
    for rationale in rationales:
        pieces = critic.pieces(rationale.completion_ids)
        if pieces is None:
            return None, None, None
        if tokens:
            tokens.append(BETWEEN)
            logprobs.append(gap)
            entropies.append(gap)
        tokens += pieces
        logprobs.append(rationale.logprobs)
        entropies.append(rationale.entropies)
    if not tokens:
        return None, None, None
    known = [part for part in entropies if part is not None]
    whole = _rounded(np.concatenate(known)) if len(known) == len(entropies) else None
    return tokens, _rounded(np.concatenate(logprobs)), whole


def _rounded(values: Any) -> np.ndarray:
    """To three decimals: these are looked at, not trained on, and so take a third of the space."""
    return np.round(np.asarray(values, np.float32), 3)


def state_hash(prefix_ids: Sequence[int]) -> int:
    """A signed 64-bit number that depends on the token ids only."""
    ids = np.asarray(prefix_ids, np.int32).tobytes()
    return int.from_bytes(hashlib.blake2b(ids, digest_size=8).digest(), "little", signed=True)
