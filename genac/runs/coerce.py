"""Arrow columns of another program, brought to the types of the run folder's tables.

All work is done on whole columns. `kind` is a type as the tables of columns in `tables` name it.
"""

from __future__ import annotations

from typing import Any

LARGEST = 1e30  # of a number: within float32, so that differences of two stay finite
WORDS = {
    "string": "text",
    "int32": "whole numbers",
    "int64": "whole numbers",
    "float": "numbers",
    "double": "numbers",
}


def kernels() -> Any:
    """pyarrow.compute; its functions are made on import, so that no type checker knows them."""
    import pyarrow.compute

    return pyarrow.compute


def in_words(kind: str) -> str:
    inner = kind.removeprefix("list<").removesuffix(">")
    return WORDS[inner] if inner == kind else f"lists of {WORDS[inner]}"


def fits(kind: str, held: Any) -> bool:
    """Whether a column of the Arrow type `held` can be shown as `kind`."""
    import pyarrow.types as t

    if t.is_null(held):
        return True
    if t.is_dictionary(held):
        return fits(kind, held.value_type)
    if kind.startswith("list<"):
        lists = (t.is_list, t.is_large_list, t.is_fixed_size_list)
        inside = any(is_kind(held) for is_kind in lists) and held.value_type
        return bool(inside) and not is_view(inside) and fits(kind[5:-1], inside)
    if kind == "string":
        texts = (t.is_string, t.is_large_string, t.is_binary, t.is_large_binary, is_view)
        return any(is_kind(held) for is_kind in texts)
    is_number = t.is_integer(held) or t.is_floating(held) or t.is_decimal(held)
    return is_number or (kind in ("float", "double") and t.is_boolean(held))


def is_view(held: Any) -> bool:
    """Whether it is one of the types of text that pyarrow cannot filter."""
    import pyarrow.types as t

    return t.is_string_view(held) or t.is_binary_view(held)


def coerced(column: Any, kind: str) -> tuple[Any, str]:
    """A chunked array that `fits`, as `kind`, and what had to be left out of it in words ("" where
    nothing was). ArrowException where the column as a whole cannot be brought to its type.
    """
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if t.is_null(column.type):
        return column.cast(target(kind)), ""
    if kind.startswith("list<"):
        return _lists(column, kind)
    if kind == "string":
        return _texts(column)
    if kind == "double":
        return _numbers(column)
    whole, dropped = _whole(column, pa.type_for_alias(kind))
    bits = kind.removeprefix("int")
    return whole, _remark(dropped, f"is no whole number of {bits} bits", "shown as missing")


def target(kind: str) -> Any:
    """The Arrow type of a kind."""
    import pyarrow as pa

    alias = kind.removeprefix("list<").removesuffix(">")
    inner = pa.type_for_alias(alias)
    return pa.list_(inner) if alias != kind else inner


def _remark(rows: int, what: str, consequence: str) -> str:
    return f"{what} in {rows} row{'s' * (rows != 1)}: {consequence}" if rows else ""


def _texts(column: Any) -> tuple[Any, str]:
    import pyarrow as pa

    try:
        return _valid(column, pa.string()), ""
    except pa.ArrowInvalid:
        raw = column.cast(pa.large_binary()).to_pylist()
    texts = [None if data is None else data.decode("utf-8", "replace") for data in raw]
    wrong = sum(
        data is not None and data != (text or "").encode()
        for data, text in zip(raw, texts, strict=True)
    )
    remark = _remark(wrong, "is not UTF-8", "other bytes are shown as replacement characters")
    return pa.chunked_array([pa.array(texts, pa.string())]), remark


def _valid(column: Any, kind: Any) -> Any:
    """The column as text; ArrowInvalid where it is not UTF-8, which Parquet files may hold."""
    cast = column if column.type == kind else column.cast(kind)
    cast.validate(full=True)
    return cast


def _numbers(column: Any) -> tuple[Any, str]:
    """As doubles. NaN is missing, silently; what is infinite or huge is missing and counted."""
    import pyarrow as pa

    pc = kernels()

    values = column if column.type == pa.float64() else column.cast(pa.float64(), safe=False)
    # Without a scalar of Python's, which has pyarrow import pandas: most columns are as they should
    ends = [end for end in pc.min_max(values).as_py().values() if end is not None]
    if all(abs(end) <= LARGEST for end in ends) and not pc.any(pc.is_nan(values)).as_py():
        return values, ""
    good = pc.less_equal(pc.abs(values), LARGEST)
    kept = pc.if_else(good, values, pa.scalar(None, pa.float64()))
    nans = pc.sum(pc.is_nan(values)).as_py() or 0
    dropped = kept.null_count - values.null_count - nans
    return kept, _remark(dropped, f"is infinite or beyond {LARGEST:g}", "shown as missing")


def _whole(column: Any, kind: Any) -> tuple[Any, int]:
    """As integers, and how many values are none or do not fit into `kind`."""
    import pyarrow as pa

    pc = kernels()

    if column.type == kind:
        return column, 0
    try:
        return column.cast(kind), 0
    except pa.ArrowInvalid:
        values = column.cast(pa.float64(), safe=False)
    # 2**63 - 1 is no double; the largest one below it is 1024 less
    low, high = -(2.0 ** (kind.bit_width - 1)), 2.0 ** (kind.bit_width - 1)
    inside = pc.and_(pc.greater_equal(values, low), pc.less(values, high))
    good = pc.and_(inside, pc.equal(values, pc.floor(values)))
    kept = pc.if_else(good, column, pa.scalar(None, column.type))
    return kept.cast(kind), kept.null_count - column.null_count


def _lists(column: Any, kind: str) -> tuple[Any, str]:
    """A list that holds null is missing as a whole. In lists of numbers null means not known."""
    import pyarrow as pa

    pc = kernels()

    column = _valid(column, target(kind))
    if kind == "list<float>" or not pc.list_flatten(column).null_count:
        return column, ""
    rows = [None if row is None or None in row else row for row in column.to_pylist()]
    kept = pa.chunked_array([pa.array(rows, column.type)])
    dropped = kept.null_count - column.null_count
    return kept, _remark(dropped, "holds null within its list", "shown as missing")


def unequal(column: Any, other: Any, name: str) -> tuple[Any, str]:
    """`column` without the lists whose length is not that of `other`, which is called `name`."""
    import pyarrow as pa

    pc = kernels()

    apart = pc.not_equal(pc.list_value_length(column), pc.list_value_length(other))
    rows = pc.sum(apart).as_py() or 0
    if not rows:
        return column, ""
    bad = pc.fill_null(apart, False)
    kept = pc.if_else(bad, pa.scalar(None, column.type), column)
    return kept, _remark(rows, f"is not as long as {name}", "shown as missing")
