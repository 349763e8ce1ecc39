"""Values of data rows as plain Python, however they were stored: Arrow tables, JSON, numbers.

What is kept is what was written: 0.1 stored in 32 bits is 0.1, an integer keeps all its digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from genac.types import Message, utf8

Row = dict[str, Any]
MOST_DIGITS = 4300  # Python turns no longer integer into text or back


def plain(value: Any) -> Any:
    """Texts without lone surrogates, arrays as lists, numpy's numbers as Python's."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, dict):
        return {utf8(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.floating):
        return shortest(value)
    if hasattr(value, "tolist"):  # numpy's and torch's arrays and numbers
        return plain(value.tolist())
    return value


def shortest(value: np.floating) -> float:
    """The number with the fewest digits that is stored as `value`: 0.1 for 32 bits of 0.1."""
    return float(str(value))


def whole_number(digits: str) -> int | str:
    """An integer of JSON; one of more digits than Python converts stays text."""
    return int(digits) if len(digits) < MOST_DIGITS else digits


def real_number(digits: str) -> float | str:
    """A number of JSON with a point or an exponent; one beyond what a float holds stays text."""
    value = float(digits)
    return digits if math.isinf(value) else value


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, an empty text or list, or NaN."""
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    return value is None or (isinstance(value, str | list | bytes) and not value)


def as_text(value: Any) -> str:
    """The value of a cell as a text. ValueError for bytes that are no UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    # A decimal is written out: 1E+2 is how 100 is stored.
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def chat(value: Any) -> str | list[Message] | None:
    """A prompt: a text, or chat messages whose content is a text or a list of text parts; None for
    anything else. Keys without a value, which tables fill up, are left out."""
    if isinstance(value, bytes):
        return as_text(value)
    if isinstance(value, str):
        return value
    messages = [_message(m) for m in value] if isinstance(value, list) else []
    return None if not messages or None in messages else messages  # pyright: ignore[reportReturnType]


def _message(value: Any) -> Message | None:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return None
    content = value.get("content")
    if isinstance(content, list):
        parts = [p if isinstance(p, str) else _part(p) for p in content]
        content = None if None in parts else "".join(map(str, parts))
    if not isinstance(content, str):
        return None
    return {k: v for k, v in value.items() if v is not None} | {"content": content}


def _part(part: Any) -> str | None:
    """The text of one part of a message's content; None for an image and the like."""
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) and part.get("type", "text") == "text" else None


# --- Arrow tables ---------------------------------------------------------------------------------


def table_rows(tables: Iterable[Any], where: str) -> list[Row]:
    """Rows of pyarrow tables. ValueError where two columns have one name."""
    rows: list[Row] = []
    for table in tables:
        unique(table.column_names, where)
        columns = [column_values(column) for column in table.columns]
        rows += [
            dict(zip(table.column_names, values, strict=True))
            for values in zip(*columns, strict=True)
        ]
    return rows


def unique(names: Sequence[str], where: str) -> None:
    """ValueError where a name stands twice: one of the two would be lost."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where} has the column {twice[0]!r} more than once; rename one of them")


def column_values(column: Any) -> list[Any]:
    """A column as a list, with floats of 16 and 32 bits as they were written."""
    import pyarrow

    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, pyarrow.ArrowException):  # nanoseconds, year 10000
        return column.cast(pyarrow.string()).to_pylist()
    if not is_narrow(column.type):
        return values
    return [narrow(column.type, value) for value in values]


def is_narrow(kind: Any) -> bool:
    """Whether an Arrow type is, or holds, a float of fewer than 64 bits."""
    import pyarrow

    if kind in (pyarrow.float16(), pyarrow.float32()):
        return True
    if isinstance(kind, pyarrow.BaseExtensionType):
        return is_narrow(kind.storage_type)
    if isinstance(kind, pyarrow.DictionaryType | pyarrow.RunEndEncodedType):
        return is_narrow(kind.value_type)
    return any(is_narrow(kind.field(i).type) for i in range(kind.num_fields))


def narrow(kind: Any, value: Any) -> Any:
    """The value of an Arrow type with every narrow float in it as it was written."""
    import pyarrow

    if isinstance(value, float):
        form = {pyarrow.float16(): np.float16, pyarrow.float32(): np.float32}.get(kind)
        return shortest(form(value)) if form else value
    if isinstance(kind, pyarrow.BaseExtensionType):
        return narrow(kind.storage_type, value)
    if isinstance(kind, pyarrow.DictionaryType | pyarrow.RunEndEncodedType):
        return narrow(kind.value_type, value)
    if isinstance(value, dict):
        return {name: narrow(kind.field(name).type, item) for name, item in value.items()}
    if isinstance(kind, pyarrow.MapType):
        return [(narrow(kind.key_type, k), narrow(kind.item_type, v)) for k, v in value or ()]
    if isinstance(value, list):
        return [narrow(kind.value_type, item) for item in value]
    return value
