"""The columns of the run folder's Parquet files, and how rollouts and estimates become rows.

pyarrow is imported inside the functions, so that importing the store stays light.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genac.runs.files import encodable
from genac.types import Estimate, Rollout

Advantages = Mapping[tuple[int, int, int], float]  # (group, member, start) -> advantage
Decode = Callable[[Sequence[int]], str]

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
}


def encode(rows: Sequence[tuple], columns: Mapping[str, str]) -> bytes:
    """The rows as a Parquet file with exactly these columns and types."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    nested = {"list<int32>": pa.list_(pa.int32()), "list<float>": pa.list_(pa.float32())}
    types = [nested.get(kind) or pa.type_for_alias(kind) for kind in columns.values()]
    values = list(zip(*rows, strict=True)) or [()] * len(types)
    arrays = [pa.array(value, kind) for value, kind in zip(values, types, strict=True)]
    buffer = io.BytesIO()
    parquet.write_table(pa.table(arrays, names=list(columns)), buffer, compression="zstd")
    return buffer.getvalue()


def read(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one file, of some columns or all."""
    import pyarrow.parquet as parquet

    return parquet.read_table(path, columns=columns and list(columns)).to_pylist()


def rollout_row(rollout: Rollout) -> tuple:
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
    )


def estimate_row(estimate: Estimate, advantages: Advantages, decode: Decode | None) -> tuple:
    state, rollout = estimate.state, estimate.state.rollout
    expected = [t.expected for t in estimate.thoughts if t.expected is not None]
    segment = rollout.response_ids[state.start : state.end]
    return (
        encodable(rollout.problem.id),
        rollout.group,
        rollout.member,
        state.start,
        state.end,
        encodable(decode(segment)) if decode else None,
        estimate.value,
        rollout.reward,
        advantages.get((rollout.group, rollout.member, state.start)),
        sum(expected) / len(expected) if expected else None,
        encodable("\n---\n".join(t.text for t in estimate.thoughts)),
        estimate.version,
    )
