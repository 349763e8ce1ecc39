"""What stands in a data file reaches problem and answer as it was written."""

from __future__ import annotations

import csv
import datetime
import json
import math
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from genac.tasks.files import FileTask, instructed, problem_texts
from genac.tasks.sources import rows
from genac.tasks.values import plain
from genac.types import Problem

datasets = pytest.importorskip("datasets")

# Levels that json reads; from 3.12 on its own depth is no longer that of Python's calls.
DEEP = 800 if sys.version_info < (3, 12) else 3000
QUESTION = {"role": "user", "content": "2+3?"}
BEGUN = {"role": "assistant", "content": "Let us see:"}


def only(path: Path | str, **options: Any) -> Problem:
    """The problem of a source of one row."""
    task = FileTask(str(path), 0.0, **options)
    assert task.size("train") == 1
    return task.problem("train", 0)


def parquet(path: Path, **columns: Any) -> Path:
    """A Parquet file of given Arrow arrays."""
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


# --- how it is stored -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, "numpy", "torch", "pandas", "arrow"])
@pytest.mark.parametrize("saved", ["set", "dictionary"])
def test_a_set_saved_in_any_format_gives_plain_values(tmp_path, kind, saved):
    data = datasets.Dataset.from_list(
        [{"prompt": [QUESTION], "answer": 5, "weights": [0.5, 0.25], "name": "a"}]
    ).with_format(kind)
    whole = datasets.DatasetDict({"train": data}) if saved == "dictionary" else data
    whole.save_to_disk(tmp_path / "set")
    problem = only(tmp_path / "set")
    assert (problem.prompt, problem.answer) == ([QUESTION], "5")
    assert problem.extras == {"answer": 5, "weights": [0.5, 0.25], "name": "a"}
    assert type(problem.extras["weights"]) is list


def test_a_chosen_part_of_a_saved_set_keeps_its_order(tmp_path):
    data = datasets.Dataset.from_list([{"prompt": f"{i}?", "answer": str(i)} for i in range(9)])
    data.select([7, 2, 5]).with_format("torch").save_to_disk(tmp_path / "set")
    assert [row["answer"] for row in rows(str(tmp_path / "set"))] == ["7", "2", "5"]


NARROW = [
    (pyarrow.float32(), 0.1, "0.1"),
    (pyarrow.float16(), np.float16(0.1), "0.1"),
    (pyarrow.float64(), 0.1, "0.1"),
    (pyarrow.float32(), 16777216.0, "16777216.0"),
    (pyarrow.float32(), -1.1754944e-38, "-1.1754944e-38"),
    (pyarrow.list_(pyarrow.float32()), [0.1], "0.1"),
    (pyarrow.large_list(pyarrow.float32()), [0.1, 0.3], "[0.1, 0.3]"),
    (pyarrow.struct([("x", pyarrow.float32())]), {"x": 0.7}, '{"x": 0.7}'),
]


@pytest.mark.parametrize(("kind", "value", "text"), NARROW)
@pytest.mark.parametrize("source", ["parquet", "set"])
def test_narrow_floats_are_the_numbers_that_were_written(tmp_path, kind, value, text, source):
    table = pyarrow.table({"prompt": ["2?"], "answer": pyarrow.array([value], kind)})
    if source == "parquet":
        path = tmp_path / "rows.parquet"
        pyarrow.parquet.write_table(table, path)
    else:
        path = tmp_path / "set"
        datasets.Dataset(table).save_to_disk(path)
    assert only(path).answer == text


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pyarrow.array([Decimal("0.10")]), "0.10"),
        (pyarrow.array([Decimal("1E-8")]), "0.00000001"),
        (pyarrow.array([datetime.date(2026, 1, 2)]), "2026-01-02"),
        (pyarrow.array([1], pyarrow.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pyarrow.array([b"5"]), "5"),
        (pyarrow.array(["5"], pyarrow.large_string()), "5"),
        (pyarrow.array(["5"], pyarrow.string_view()), "5"),
        (pyarrow.array(["5"]).dictionary_encode(), "5"),
        (pyarrow.array([2**63], pyarrow.uint64()), str(2**63)),
        (pyarrow.array([True]), "True"),
    ],
)
def test_answers_of_every_column_type(tmp_path, column, text):
    assert only(parquet(tmp_path / "rows.parquet", prompt=["2?"], answer=column)).answer == text


def test_numpys_values_become_pythons():
    row = {"a": np.float32(0.1), "b": np.int64(3), "c": np.array([{"x": np.array([1.5])}])}
    assert plain(row) == {"a": 0.1, "b": 3, "c": [{"x": [1.5]}]}
    assert [type(v) for v in plain(row).values()] == [float, int, list]


@pytest.mark.parametrize("digits", [4299, 4300, 4301, 5000, 100_000])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_integers_keep_all_their_digits(tmp_path, digits, name):
    number = "-" + "7" * digits
    row = f'{{"prompt": "2?", "answer": {number}, "list": [{number}]}}'
    (tmp_path / name).write_text(f"[{row}]" if name.endswith(".json") else row)
    problem = only(tmp_path / name)
    assert problem.answer == number
    task = FileTask(str(tmp_path / name), 0.0)
    assert task.verify(problem, f"ans={number}") == 1.0
    assert task.verify(problem, f"ans={number[:-1]}8") == 0.0


def test_numbers_beyond_a_float_keep_their_digits(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "2?", "answer": 1.5e999, "x": 0.25}')
    problem = only(tmp_path / "a.jsonl")
    assert (problem.answer, problem.extras["x"]) == ("1.5e999", 0.25)


def test_cells_of_any_length(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text(f'prompt,answer\n"{"x" * 200_000}",5\n')
    assert len(only(tmp_path / "rows.csv").text) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "prompt", ['"\\ud83d go"', '"go \\udc00"', '[{"role": "user", "content": "\\ud83d go"}]']
)
def test_half_a_surrogate_pair_in_a_row_is_replaced(tmp_path, prompt):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": {prompt}, "answer": "\\ud83d", "more": ["\\udc00"]}}')
    problem = only(path)
    assert "go" in problem.text and "?" in problem.text
    problem.text.encode(), problem.answer.encode(), problem.extras["more"][0].encode()
    path.write_text('{"prompt": "\\ud83d\\ude00?", "answer": "5"}')
    assert only(path).prompt == "\U0001f600?"  # a whole pair is a character


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_line_ends_and_empty_lines(tmp_path, name, newline, mark):
    lines = ['{"prompt": "2+3?\\u2028\\u0000", "answer": "5"}', "", ""]
    if name.endswith(".csv"):
        lines = ["prompt,answer", "", "2+3?\u2028\x00,5", ""]
    (tmp_path / name).write_bytes((mark + newline.join(lines)).encode())
    problem = only(tmp_path / name)
    assert (problem.prompt, problem.answer) == ("2+3?\u2028\x00", "5")


def test_content_in_parts_and_empty_keys(tmp_path):
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "3?"}]
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"prompt": [{"role": "user", "content": parts}], "answer": "5"})
    )
    assert only(tmp_path / "rows.jsonl").prompt == [QUESTION]
    messages = [[QUESTION | {"tool_calls": None, "name": None}]]
    kind = pyarrow.list_(
        pyarrow.struct([(k, pyarrow.string()) for k in ("role", "content", "tool_calls", "name")])
    )
    path = parquet(tmp_path / "rows.parquet", prompt=pyarrow.array(messages, kind), answer=["5"])
    assert only(path).prompt == [QUESTION]


# --- what is refused ------------------------------------------------------------------------------

IMAGE = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "a", "answer": NaN}', r"row 1 of .*no 'answer' \(it is nan\)"),
        ("a.jsonl", '{"prompt": "a", "answer": "1", "answer": "2"}', "line 1 .*'answer' more than"),
        ("a.csv", "prompt,answer,answer\na,1,2\n", "'answer' more than once"),
        ("a.csv", "prompt,answer\na\n", r"row 1 of .* no 'answer'"),
        ("a.jsonl", '{"prompt": "a", "answer": ' + "[" * 5000, "line 1 .*recursion"),
        (
            "a.jsonl",
            '{"prompt": "a", "answer": ' + "[" * DEEP + "]" * DEEP + "}",
            "nested too deeply|recursion",
        ),
        ("a.jsonl", json.dumps({"prompt": IMAGE, "answer": "1"}), "row 1 of .*list of messages"),
        ("a.jsonl", '{"prompt": [], "answer": "1"}', "row 1 of .*no 'prompt'"),
        ("a.jsonl", '{"prompt": ["a"], "answer": "1"}', "row 1 of .*list of messages"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        FileTask(str(tmp_path / name))


def test_columns_that_cannot_be_read_are_named(tmp_path):
    path = parquet(tmp_path / "a.parquet", prompt=["a?"], answer=[math.nan])
    with pytest.raises(ValueError, match=r"row 1 of .*no 'answer' \(it is nan\)"):
        FileTask(str(path))
    path = parquet(tmp_path / "b.parquet", prompt=["a?"], answer=[b"\xff"])
    with pytest.raises(ValueError, match=r"row 1 of .*bytes that are no UTF-8"):
        FileTask(str(path))
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(["a?"]), pyarrow.array(["1"]), pyarrow.array(["2"])],
        names=["prompt", "answer", "answer"],
    )
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="'answer' more than once; rename"):
        FileTask(str(tmp_path / "c.parquet"))


# --- instruction and home -------------------------------------------------------------------------

SYSTEM, TOOL = {"role": "system", "content": "You add."}, {"role": "tool", "content": "5"}
INSTRUCTED = {"role": "user", "content": "2+3?\n\nBox it."}
ALONE = {"role": "user", "content": "Box it."}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([QUESTION], [INSTRUCTED]),
        ([QUESTION, BEGUN], [INSTRUCTED, BEGUN]),
        ([SYSTEM, QUESTION, BEGUN], [SYSTEM, INSTRUCTED, BEGUN]),
        ([QUESTION, BEGUN, QUESTION], [QUESTION, BEGUN, INSTRUCTED]),
        ([QUESTION, BEGUN, QUESTION, TOOL], [QUESTION, BEGUN, INSTRUCTED, TOOL]),
        ([SYSTEM], [SYSTEM, ALONE]),
        ([SYSTEM, BEGUN], [SYSTEM, ALONE, BEGUN]),
        ([BEGUN], [ALONE, BEGUN]),
    ],
)
def test_the_instruction_stands_behind_the_last_message_of_the_user(tmp_path, before, after):
    assert instructed(before, "Box it.") == after
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": before, "answer": "5"}))
    assert only(tmp_path / "a.jsonl", instruction="Box it.").prompt == after


def test_a_begun_answer_hides_no_problem_of_another_source(tmp_path):
    rows_ = [{"prompt": [SYSTEM, QUESTION, BEGUN], "answer": "5"}, {"prompt": "9?", "answer": "9"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows_)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "2+3?", "answer": "5"}))
    task = FileTask(str(tmp_path / "train.jsonl"), heldout=str(tmp_path / "test.jsonl"))
    assert task.row_counts()["removed"] == {"heldout": 1}
    assert problem_texts(str(tmp_path / "train.jsonl")) == ["2+3?", "9?"]


def test_a_source_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "2+3?", "answer": "5"}))
    datasets.Dataset.from_list([{"prompt": "9?", "answer": "9"}]).save_to_disk(tmp_path / "set")
    assert only("~/a.jsonl").prompt == "2+3?"
    task = FileTask("~/a.jsonl", 0.0, heldout="~/set", decontaminate=["~/set"])
    assert task.problem("heldout", 0).prompt == "9?"
