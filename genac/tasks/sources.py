"""Where rows come from: a file, a folder, a known data set by its short name, or the hub.

    rows("problems.jsonl")                        a file, see READERS
    rows("gsm8k"), rows("math500")                SOURCES: hub name, configuration, split, columns
    rows("owner/name", split="train")             any data set of the Hugging Face hub
    rows("folder", split="test")                  saved by save_to_disk, or a folder of data files

Data sets need the `datasets` library (extra `data`).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.reach import may_be_hub_name
from genac.tasks.hub_data import library_offline, locate
from genac.tasks.values import Row, plain, real_number, table_rows, unique, whole_number

LONGEST_CELL = 2**31 - 1  # characters of a CSV cell; the csv module's own limit is 131,072
AT_ONCE = 10_000  # rows of a data set


@dataclass(frozen=True)
class Source:
    """A data set of the hub. `prompt` and `answer` name its columns."""

    hub: str
    split: str
    prompt: str = "problem"
    answer: str = "answer"
    config: str | None = None


SOURCES: dict[str, Source] = {
    # to train on
    "gsm8k": Source("openai/gsm8k", "train", "question", config="main"),
    "gsm8k-test": Source("openai/gsm8k", "test", "question", config="main"),
    "math": Source("DigitalLearningGmbH/MATH-lighteval", "train", answer="solution"),
    "math-test": Source("DigitalLearningGmbH/MATH-lighteval", "test", answer="solution"),
    "deepscaler": Source("agentica-org/DeepScaleR-Preview-Dataset", "train"),
    "dapo-math": Source(
        "open-r1/DAPO-Math-17k-Processed", "train", "prompt", "solution", config="en"
    ),
    # to evaluate on: the six benchmarks of the paper's tables
    "aime24": Source("HuggingFaceH4/aime_2024", "train"),
    "aime25": Source("math-ai/aime25", "test"),
    "amc23": Source("math-ai/amc23", "test", "question"),
    "math500": Source("HuggingFaceH4/MATH-500", "test"),
    "minerva": Source("math-ai/minervamath", "test", "question"),
    "olympiad": Source(
        "Hothan/OlympiadBench", "train", "question", "final_answer", config="OE_TO_maths_en_COMP"
    ),
}
BENCHMARKS = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiad")

# Looked for in this order where the columns are not named: TRL's, then those of the sets above.
PROMPTS = ("prompt", "problem", "question")
ANSWERS = ("answer", "final_answer", "solution", "ground_truth")


def rows(name: str, split: str | None = None, config: str | None = None) -> list[Row]:
    """All rows of a source, at least one; verl's with their answer as a column.

    Raises ValueError naming what was looked for and the remedy.
    """
    name = os.path.expanduser(name)
    path = Path(name)
    if path.suffix in READERS:
        if split or config:
            raise ValueError(f"{name!r} is a file: split and config belong to data sets; drop them")
        result = read_file(path)
    else:
        require_no_file(name)
        result = from_hub(name, split, config)
    if not result:
        raise ValueError(f"{name!r} has no rows; write at least one")
    try:
        return [from_verl(plain(row)) for row in result]
    except RecursionError as error:
        raise ValueError(
            f"{name!r} holds values that are nested too deeply; flatten them"
        ) from error


def from_hub(name: str, split: str | None, config: str | None) -> list[Row]:
    """Rows of a known or hub data set, or of a folder.

    Raises ValueError where it cannot be had (offline, misspelt, no such split), naming what was
    looked for and how to give a local copy.
    """
    known = SOURCES.get(name)
    split = split or (known.split if known else "train")
    config = config or (known.config if known else None)
    hub = known.hub if known else name
    place, prepared = locate(hub, config, on_hub=known is not None)
    import datasets

    try:
        saved = [Path(place) / name for name in ("state.json", "dataset_dict.json")]
        with library_offline(prepared):
            result: Any = (
                datasets.load_from_disk(place)
                if any(file.exists() for file in saved)
                else datasets.load_dataset(place, config, split=split)
            )
        chosen = result[split] if isinstance(result, datasets.DatasetDict) else result
        # As a table: neither the format that it was saved with nor pictures that nobody reads.
        return table_rows(chosen.with_format("arrow").iter(AT_ONCE), repr(hub))
    except Exception as error:  # whatever the library, the network or a missing file raises
        expected = f"{hub!r}" + (f", configuration {config!r}" if config else "")
        reason = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
        raise ValueError(
            f"data set {expected}, split {split!r} could not be loaded ({reason:.200}); without a "
            "network, name a local copy in its place: a .jsonl or .parquet file, or a folder "
            "written by dataset.save_to_disk()"
        ) from error


def require_source(name: str) -> None:
    """ValueError where a source is a file that is not there or of another kind, or a data set that
    is neither here nor within reach."""
    path = Path(name).expanduser()
    if path.suffix in READERS:
        require_file(path)
        return
    require_no_file(name)
    known = SOURCES.get(name)
    if not known and not path.exists() and not may_be_hub_name(name) and "://" not in name:
        raise ValueError(
            f"there is no data set {name!r} here, and those on the hub are named as owner/name; "
            "give its split, if that is what '@' means, as task.options.split or heldout_split"
            if "@" in name
            else f"there is no data set {name!r} here; give a path from {Path.cwd()}, or owner/name"
        )
    locate(known.hub if known else name, known.config if known else None, known is not None)


def require_no_file(name: str) -> None:
    """ValueError for a file that no reader reads; owner/name.v1 is a data set."""
    path = Path(name).expanduser()
    if path.is_file() or (path.suffix and name.count("/") != 1 and not path.is_dir()):
        raise ValueError(
            f"data file {name!r} has the extension {path.suffix!r}; use one of {list(READERS)}, or "
            f"name a data set: {sorted(SOURCES)} or owner/name on the hub"
        )


def columns(
    row: Row, where: str, prompt: str | None, answer: str | None, known: Source | None
) -> tuple[str, str]:
    """Names of the columns of prompt and answer. ValueError showing the row's keys."""
    return (
        _column(row, where, "prompt", [prompt] if prompt else [*named(known, "prompt"), *PROMPTS]),
        _column(row, where, "answer", [answer] if answer else [*named(known, "answer"), *ANSWERS]),
    )


def named(known: Source | None, which: str) -> list[str]:
    return [getattr(known, which)] if known else []


def _column(row: Row, where: str, which: str, candidates: Sequence[str]) -> str:
    result = next((c for c in candidates if c in row), None)
    if result is None:
        raise ValueError(
            f"row 1 of {where!r} has no {candidates[0]!r}, only {list(row)}; set "
            f"task.options.{which}_column to the name that the data use"
        )
    return result


def from_verl(row: Row) -> Row:
    """A row of verl's parquet files with the reference answer as a column of its own.

    verl keeps {"reward_model": {"ground_truth": ...}} with a chat prompt; `data_source` and
    `extra_info` stay, for a compute_score.
    """
    model = row.get("reward_model")
    if not isinstance(model, Mapping) or "ground_truth" not in model or "answer" in row:
        return row
    rest = {k: v for k, v in row.items() if k != "reward_model"}
    return rest | {"answer": model["ground_truth"]}


# --- files --------------------------------------------------------------------------------------


def require_file(path: Path) -> None:
    """ValueError where there is no such file."""
    if not path.is_file():
        raise ValueError(f"data file {str(path)!r} does not exist; give the path from {Path.cwd()}")


def read_file(path: Path) -> list[Row]:
    """The rows of a data file, at least one. Raises ValueError naming the file and the place."""
    require_file(path)
    try:
        rows = READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"data file {str(path)!r} is not UTF-8 ({error}); convert it") from error
    if not rows:
        raise ValueError(f"data file {str(path)!r} has no rows; write at least one")
    return rows


def read_jsonl(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_as_row(_parse(line, f"line {number} of {str(path)!r}"), number, path))
    return rows


def read_json(path: Path) -> list[Row]:
    data = _parse(path.read_text(encoding="utf-8-sig"), f"{str(path)!r}")
    if not isinstance(data, list):
        raise ValueError(f"{str(path)!r} holds a {type(data).__name__}; write a list of objects")
    return [_as_row(value, number, path) for number, value in enumerate(data, 1)]


def read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader, limit = csv.DictReader(lines, strict=True), csv.field_size_limit(LONGEST_CELL)
        try:
            unique(list(reader.fieldnames or ()), repr(str(path)))
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} of {str(path)!r}: {error}") from error
        finally:
            csv.field_size_limit(limit)
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(
                f"row {number} of {str(path)!r} has more fields than columns; quote the commas"
            )
    return rows


def read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return table_rows([pyarrow.parquet.ParquetFile(path).read()], repr(str(path)))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{str(path)!r} is no readable Parquet file: {error}") from error


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(
            text,
            parse_int=whole_number,
            parse_float=real_number,
            object_pairs_hook=_as_dict,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON ({error}); write one value per line") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}; write plain columns") from error


def _as_dict(pairs: list[tuple[str, Any]]) -> Row:
    result = dict(pairs)
    if len(result) < len(pairs):
        unique([key for key, _ in pairs], "it")
    return result


def _as_row(value: Any, number: int, path: Path) -> Row:
    if not isinstance(value, dict):
        raise ValueError(
            f"line {number} of {str(path)!r} is {value!r:.60}; write an object with named columns"
        )
    return value


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
}
