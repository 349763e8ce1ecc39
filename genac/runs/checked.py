"""The one reader of a run folder's tables for those who show them: viewer, report, exports.

A table of another program is brought to the columns of `tables`. What does not fit is left out and
named with its file and column; what can be shown is shown. `problems` are such sentences.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.runs.coerce import coerced, fits, in_words, is_view, kernels, unequal
from genac.runs.files import encodable
from genac.runs.guard import refuse_special, short_name
from genac.runs.tables import ESTIMATE_COLUMNS, ROLLOUT_COLUMNS
from genac.runs.trajectory import Trajectory, group_of

STEP_FILE = re.compile(r"(.*\w.*)-([0-9]{6,10})\.parquet", re.DOTALL)
LAST_STEP = 2**31 - 1
# lists that speak of the same tokens
EQUAL_LENGTHS = (
    ("tokens", "response_ids"),
    ("logprobs", "response_ids"),
    ("logprobs", "tokens"),
    ("entropies", "logprobs"),
    ("rationale_logprobs", "rationale_tokens"),
    ("rationale_entropies", "rationale_logprobs"),
)


@dataclass(frozen=True)
class Schema:
    """The columns of a table. Those in `required` are never null; all others may be, or absent."""

    columns: Mapping[str, str]
    required: tuple[str, ...]


ROLLOUTS = Schema(ROLLOUT_COLUMNS, ("group", "member"))
ESTIMATES = Schema(ESTIMATE_COLUMNS, ("group", "member", "start", "end"))


def schema_of(folder: str) -> Schema:
    """Of "rollouts", "estimates" and "judged/NAME"."""
    return ROLLOUTS if folder == "rollouts" else ESTIMATES


def step_files(root: Path, folder: str) -> tuple[list[tuple[str, int]], list[str]]:
    """(stage, step) of the files of a folder, sorted; and problems: files with other names."""
    try:
        names = sorted(os.listdir(root / folder))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{folder} could not be read: {error.strerror or error}"]
    keys, problems = [], []
    for name in names:
        if name.startswith(".") or not name.endswith(".parquet"):
            continue
        if (key := _key(name)) is None:
            problems.append(
                f"{folder}/{short_name(name)} is left out: its name is not STAGE-STEP.parquet with "
                f"a step of six digits, at most {LAST_STEP}"
            )
        else:
            keys.append(key)
    return sorted(keys), problems


def _key(name: str) -> tuple[str, int] | None:
    match = STEP_FILE.fullmatch(name)
    if match is None or encodable(name) != name:
        return None
    stage, step = match[1], int(match[2])
    return (stage, step) if match[2] == f"{step:06d}" and step <= LAST_STEP else None


def file_name(folder: str, stage: str, step: int) -> str:
    """A table's file within its run."""
    return f"{folder}/{stage}-{step:06d}.parquet"


def read_checked(
    root: Path,
    folder: str,
    key: tuple[str, int],
    columns: Sequence[str] | None = None,
    group: int | None = None,
) -> tuple[Any, list[str]]:
    """(pyarrow table, problems) of one file: of its known columns those that are named, and the
    required ones; with `group` its rows only.

    ValueError, which names the file, where nothing of it can be shown.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    name, schema = file_name(folder, *key), schema_of(folder)
    label = f"{folder}/{short_name(name.removeprefix(folder + '/'))}"
    try:
        refuse_special(root / name, root)
        with parquet.ParquetFile(root / name) as file:
            held, problems = _fitting(file.schema_arrow, schema)
            names = [n for n in held if columns is None or n in columns or n in schema.required]
            table = _columns(file, names, problems)
        table = _required(table, schema, problems)
        if group is not None:
            table = _rows_of(table, group)
        table = _all(table, schema, problems)
    except (pa.ArrowException, ValueError, OSError) as error:
        text = str(error).replace(f"{root / name}", "it").replace("\n", " ")
        raise ValueError(f"{label} could not be read: {text[:300]}") from error
    return table, [f"{label}: {problem}" for problem in problems]


def _fitting(held: Any, schema: Schema) -> tuple[list[str], list[str]]:
    """The known columns whose type can be shown, and what is wrong with others."""
    names, problems = [], []
    for name, kind in schema.columns.items():
        places = held.get_all_field_indices(name)
        if not places:
            continue
        if len(places) > 1:
            problems.append(
                f"the column {name} stands there {len(places)} times, the first is read"
            )
        arrow_type = held.field(places[0]).type
        if fits(kind, arrow_type):
            names.append(name)
        else:
            text = f"the column {name} holds {str(arrow_type)[:60]}, not {in_words(kind)}"
            problems.append(f"{text}, and is left out")
    return names, problems


def _columns(file: Any, names: Sequence[str], problems: list[str]) -> Any:
    """The columns, each once; where one is damaged, the others."""
    import pyarrow as pa

    try:
        return _first_of_each(file.read(list(names)), names)
    except (pa.ArrowException, OSError):
        pass
    parts = {}
    for name in names:
        try:
            parts[name] = _first_of_each(file.read([name]), [name]).column(0)
        except (pa.ArrowException, OSError) as error:
            problems.append(f"the column {name} could not be read: {str(error)[:200]}")
    return pa.table(parts)


def _first_of_each(table: Any, names: Sequence[str]) -> Any:
    import pyarrow as pa

    if table.column_names == list(names) and not any(map(is_view, table.schema.types)):
        return table
    places = [table.schema.get_all_field_indices(name)[0] for name in names]
    columns = [table.column(place) for place in places]
    plain = [c.cast(pa.large_binary()) if is_view(c.type) else c for c in columns]
    return pa.table(plain, names=list(names))


def _required(table: Any, schema: Schema, problems: list[str]) -> Any:
    """The rows that have every required column."""
    pc = kernels()

    if absent := [name for name in schema.required if name not in table.column_names]:
        reason = f"the file lacks {', '.join(absent)}"
        raise ValueError("; ".join([reason, *problems]))
    for name in schema.required:
        table = _replaced(table, name, *coerced(table[name], schema.columns[name]), problems)
        if nulls := table[name].null_count:
            problems.append(f"the column {name} is missing in {nulls} rows, which are left out")
            table = table.filter(pc.is_valid(table[name]))
    if "start" in schema.required and len(table):
        start, end = table["start"], table["end"]
        if pc.min(start).as_py() < 0:
            good = pc.and_(pc.greater_equal(start, 0), pc.greater_equal(end, start))
        else:
            good = pc.greater_equal(end, start)
        if wrong := len(table) - pc.sum(good).as_py():
            problems.append(
                f"the columns start and end are no segment in {wrong} rows, which are left out"
            )
            table = table.filter(good)
    return table


def _rows_of(table: Any, group: int) -> Any:
    import pyarrow as pa

    pc = kernels()

    if abs(group) > LAST_STEP:
        return table.slice(0, 0)
    # From a buffer, as pa.scalar would import pandas, which takes longer than all of this.
    data = pa.py_buffer(group.to_bytes(4, sys.byteorder, signed=True))
    number = pa.Array.from_buffers(pa.int32(), 1, [None, data])[0]
    return table.filter(pc.equal(table["group"], number))


def _all(table: Any, schema: Schema, problems: list[str]) -> Any:
    """The table with every column of its type, and lists of the same tokens of one length."""
    import pyarrow as pa

    for name in table.column_names:
        kind = schema.columns[name]
        try:
            table = _replaced(table, name, *coerced(table[name], kind), problems)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).replace("\n", " ")[:100]
            problems.append(f"the column {name} is left out: not {in_words(kind)} ({reason})")
            table = table.drop_columns([name])
    for name, other in EQUAL_LENGTHS:
        if name in table.column_names and other in table.column_names:
            table = _replaced(table, name, *unequal(table[name], table[other], other), problems)
    return table


def _replaced(table: Any, name: str, column: Any, remark: str, problems: list[str]) -> Any:
    if remark:
        problems.append(f"the column {name} {remark}")
    if column is table[name]:
        return table
    return table.set_column(table.column_names.index(name), name, column)


def read_group(
    root: Path,
    key: tuple[str, int],
    group: int,
    columns: Sequence[str] | None = None,
    values: str = "estimates",
) -> tuple[list[Trajectory], list[str]]:
    """The responses of one group with the values in the folder `values`, and problems. A file that
    cannot be read is a problem, and the other one is shown.
    """
    rows, problems = [], []
    for folder in ("rollouts", values):
        rows.append([])
        if not os.path.lexists(root / file_name(folder, *key)):
            continue
        try:
            table, own = read_checked(root, folder, key, columns, group)
        except ValueError as error:
            own = [str(error)]
        else:
            rows[-1] = table.to_pylist()
        problems += own
    return group_of(*key, rows[0], rows[1], problems), problems
