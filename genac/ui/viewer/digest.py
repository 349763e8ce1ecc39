"""One stored step of a run as one row per response: what the list shows, sorts and filters by.

A table is a list per column; None is missing. Values are packed, so that a row is one object.

Shapes: _R response, _S state (rows of estimates, sorted by response and start).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genac.runs.checked import read_checked
from genac.runs.coerce import kernels
from genac.runs.store import Run

KEY = ("group", "member")
NEEDED = (*KEY, "start", "end", "value", "problem_id", "reward", "state")  # of the estimates
SNIPPET = 160  # characters of the prompt that the list keeps
# name -> SQL type
WRITTEN = {
    "group": "INT",
    "member": "INT",
    "problem_id": "VARCHAR",
    "prompt": "VARCHAR",
    "reward": "DOUBLE",
    "finish": "VARCHAR",
}
JUDGED = {
    "group": "INT",
    "member": "INT",
    "problem_id": "VARCHAR",
    "reward": "DOUBLE",
    "states": "INT",
    "missing": "INT",  # scores that could not be read
    "length": "INT",  # tokens up to the end of the last judged segment
    "packed": "BLOB",  # the values as float32, NaN where missing
    "first": "FLOAT",
    "fall": "FLOAT",  # largest fall between neighbouring known values, >= 0
    "gap": "FLOAT",  # largest |value - mean reward of the group's responses through its state|
}
Table = dict[str, list[Any]]


def written(run: Run, stage: str, step: int) -> tuple[Table, list[str]]:
    """The columns WRITTEN, one row per response, and what of them could not be read.

    Raises ValueError where nothing could.
    """
    rows, problems = read_checked(run.path, "rollouts", (stage, step), tuple(WRITTEN))
    columns = {name: rows[name].to_pylist() for name in WRITTEN if name in rows.column_names}
    if "prompt" in columns:
        columns["prompt"] = [text and text[:SNIPPET] for text in columns["prompt"]]
    return _shaped(columns, WRITTEN), problems


def judged(run: Run, stage: str, step: int) -> tuple[Table, list[str]]:
    """The columns JUDGED, one row per response with values, and what could not be read. ValueError
    where nothing could.
    """
    key = (stage, step)
    rows, problems = read_checked(run.path, "estimates", key, NEEDED)
    return _judged(run, key, rows), problems


def _judged(run: Run, key: tuple[str, int], rows: Any) -> Table:
    if not len(rows):
        return _shaped({name: [] for name in KEY}, JUDGED)
    places = (*KEY, "start", "end", "value")
    column = {name: _numbers(rows, name) for name in places}
    order = np.lexsort((column["start"], column["member"], column["group"]))
    group_S, member_S, end_S = (column[name][order] for name in ("group", "member", "end"))
    value_S = column["value"][order].astype(np.float32)
    new_S = np.r_[True, (np.diff(group_S) != 0) | (np.diff(member_S) != 0)]
    first_R, owner_S = np.flatnonzero(new_S), np.cumsum(new_S) - 1
    missing_S = (~np.isfinite(value_S)).astype(np.int32)
    out: Table = {"group": group_S[first_R].tolist(), "member": member_S[first_R].tolist()}
    for name in ("problem_id", "reward"):
        if name in rows.column_names:
            whole = rows[name].to_pylist()
            out[name] = [whole[row] for row in order[first_R].tolist()]
    out |= {
        "states": np.diff(np.r_[first_R, len(value_S)]).tolist(),
        "missing": np.add.reduceat(missing_S, first_R).tolist(),
        "length": np.maximum.reduceat(end_S, first_R).tolist(),
        "packed": [part.tobytes() for part in np.split(value_S, first_R[1:])],
        "first": _plain(value_S[first_R]),
        "fall": falls(value_S, owner_S, len(first_R)).tolist(),
    }
    if "reward" in rows.column_names:
        state_S = _states(run, key, rows, order, owner_S)
        gap_S = gaps(value_S, _numbers(rows, "reward")[order], state_S)
        out["gap"] = _plain(np.fmax.reduceat(gap_S, first_R))
    return _shaped(out, JUDGED)


def matching(
    run: Run, folder: str, key: tuple[str, int], columns: Sequence[str], needle: str
) -> tuple[list[int], list[int]]:
    """(group, member) of the rows of which a column holds `needle`, a text in small letters."""
    pc = kernels()

    rows, _ = read_checked(run.path, folder, key, columns)
    hit = None
    for name in columns:
        if name in rows.column_names:
            one = pc.match_substring(pc.utf8_lower(rows[name]), needle)
            hit = one if hit is None else pc.or_kleene(hit, one)
    if hit is None:
        return [], []
    hits = rows.select(list(KEY)).filter(hit)
    return hits["group"].to_pylist(), hits["member"].to_pylist()


def unpack(packed: bytes | None) -> list[float | None]:
    """The values of a response, None where one is missing."""
    return [] if packed is None else _plain(np.frombuffer(packed, np.float32).round(4))


def falls(value_S: np.ndarray, owner_S: np.ndarray, responses: int) -> np.ndarray:
    """(R,) the largest fall between neighbouring known values of a response; 0 where none falls."""
    known = np.isfinite(value_S)
    value, owner = value_S[known], owner_S[known]
    fall = np.where(owner[1:] == owner[:-1], value[:-1] - value[1:], 0)
    out = np.zeros(responses, np.float32)
    np.maximum.at(out, owner[1:], fall)
    return out


def gaps(value_S: np.ndarray, reward_S: np.ndarray, state_S: np.ndarray) -> np.ndarray:
    """(S,) |value - mean reward of the responses through the same state|; NaN where fewer than two
    were scored, or the value is missing.
    """
    _, place_S = np.unique(state_S, return_inverse=True)
    scored = np.isfinite(reward_S)
    total = np.bincount(place_S, np.where(scored, reward_S, 0))
    count = np.bincount(place_S, scored)
    mean = np.where(count > 1, total / np.maximum(count, 1), np.nan)
    return np.abs(value_S - mean[place_S]).astype(np.float32)


def _numbers(rows: Any, name: str) -> np.ndarray:
    """A column as an array, with NaN for null, and throughout where there is no such column.
    Straight from its buffers: pyarrow's own way imports pandas, which takes longer than the rest of
    opening a run.
    """
    if name not in rows.column_names:
        return np.full(len(rows), np.nan)
    parts = [np.zeros(0)]
    for chunk in rows[name].chunks:
        valid, data = chunk.buffers()
        if data is None:  # all of it is null
            parts.append(np.full(len(chunk), np.nan))
            continue
        span = slice(chunk.offset, chunk.offset + len(chunk))
        values = np.frombuffer(data, chunk.type.to_pandas_dtype())[span]
        if chunk.null_count:
            bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[span]
            values = np.where(bits, values, np.nan)
        parts.append(values)
    return np.concatenate(parts[1:] or parts)


def _shaped(columns: Table, names: Mapping[str, str]) -> Table:
    """Exactly these columns; what a file lacks is None throughout."""
    rows = len(columns["group"])
    return {name: columns[name] if name in columns else [None] * rows for name in names}


def _states(
    run: Run, key: tuple[str, int], rows: Any, order: np.ndarray, owner_S: np.ndarray
) -> np.ndarray:
    """(S,) equal numbers for equal states. Older runs have no such column: there the text of the
    steps before decides, and without it only the empty prefix is known to be shared.
    """
    if "state" in rows.column_names and not rows["state"].null_count:
        return _numbers(rows, "state")[order]
    texts, _ = read_checked(run.path, "estimates", key, ("step_text",))
    known = "step_text" in texts.column_names and not texts["step_text"].null_count
    text_S: list[Any] = texts["step_text"].to_pylist() if known else []
    group_S, start_S = _numbers(rows, "group")[order], _numbers(rows, "start")[order]
    seen: dict[Any, int] = {}
    out = np.empty(len(order), np.int64)
    prefix: tuple = ()
    for place, row in enumerate(order.tolist()):
        if place == 0 or owner_S[place] != owner_S[place - 1]:
            prefix = (int(group_S[place]),)
        shared = known or start_S[place] == 0
        out[place] = seen.setdefault(prefix if shared else (prefix, place), len(seen))
        prefix = (hash(prefix), text_S[row]) if known else prefix
    return out


def _plain(values: np.ndarray) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]
