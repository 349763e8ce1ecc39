"""Files of other people's solutions: their columns and labels, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genac.evals.solution_files import read_solutions


def written(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> str:
    file = folder / name
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_texts_are_cut_at_lines_and_a_blank_line_belongs_to_the_one_before(tmp_path):
    text = "\n2+3=5\n\n5*2=10\nA: 10"
    file = written(tmp_path, {"problem": "p", "solution": text, "correct": True})
    (one,) = read_solutions(file)
    assert one.segments == ("\n2+3=5\n\n", "5*2=10\n", "A: 10")
    assert one.prefix(3) == text and one.prefix(0) == "" and one.correct is True
    assert one.fraction(0) == 0 and one.fraction(3) == 1
    assert one.first_error is None and one.labels is None


def test_processbench_rows_are_read_as_they_are(tmp_path):
    row = {"id": "gsm8k-0", "generator": "m", "problem": "p", "steps": ["one", "two\n", "three"]}
    file = written(
        tmp_path,
        row | {"final_answer_correct": False, "label": 1},
        row | {"final_answer_correct": True, "label": -1},
    )
    first, second = read_solutions(file)
    assert first.segments == ("one\n", "two\n", "three\n")
    assert (first.correct, first.first_error) == (False, 1)
    assert (second.correct, second.first_error) == (True, -1)


@pytest.mark.parametrize(
    ("labels", "result"),
    [
        ([True, False], (True, False)),
        ([1, 0], (True, False)),
        (["+", "-"], (True, False)),
        ([0, -1], (None, False)),  # with a -1, 0 is neutral
        ("[1, 0]", (True, False)),  # a list in a cell of CSV
        ([1, None], (True, None)),
    ],
)
def test_step_labels_in_each_notation(tmp_path, labels, result):
    file = written(tmp_path, {"problem": "p", "steps": ["a", "b"], "labels": labels})
    assert read_solutions(file)[0].labels == result


def test_other_names_and_csv(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('q,text,label\np,"a\nb",0\np,c,1\n')
    columns = {"problem": "q", "solution": "text", "correct": "label"}
    first, second = read_solutions(str(file), columns)
    assert (first.correct, second.correct) == (False, True)
    assert first.segments == ("a\n", "b") and first.first_error is None


STEPS = {"problem": "p", "steps": ["a", "b"]}
TEXT = {"problem": "p", "solution": "a"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TEXT, r"has no labels: its columns are \['problem', 'solution'\]; expected are problem"),
        (TEXT | {"label": 1}, r"has no labels.*--columns correct="),
        ({"question": "p", "correct": 1}, "has no problems with solutions"),
        (TEXT | {"correct": "maybe"}, r"row 1 of .*'correct' is 'maybe'; write true or false"),
        (TEXT | {"solution": "", "correct": 1}, r"row 1 of .*'solution' is ''; write it, or take"),
        (TEXT | {"solution": " \n", "correct": 1}, "is empty; take the row out"),
        (TEXT | {"solution": 7, "correct": 1}, "'solution' is 7; write a text"),
        (STEPS | {"labels": [1]}, "has 1 labels for 2 steps"),
        (STEPS | {"labels": "good"}, "write a list, one label per step"),
        (STEPS | {"label": 2}, "has 2 steps; write the index of the first wrong step, 0 to 1"),
        (STEPS | {"steps": ["a", ""], "label": 0}, "write a list of texts, none of them empty"),
        (STEPS | {"steps": "a", "label": 0}, "write a list of texts"),
    ],
)
def test_what_cannot_be_read_is_named_with_row_column_and_remedy(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_solutions(written(tmp_path, row))


def test_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(TEXT | {"correct": 1}) + "\n{broken\n")
    with pytest.raises(ValueError, match=r"line 2 of .*rows\.jsonl' is not JSON"):
        read_solutions(str(tmp_path / "rows.jsonl"))


def test_misnamed_columns_are_refused(tmp_path):
    file = written(tmp_path, TEXT | {"correct": 1})
    with pytest.raises(ValueError, match=r"--columns truth=\.\.\.: use problem, solution"):
        read_solutions(file, {"truth": "correct"})
    with pytest.raises(ValueError, match="has no column 'ok', only"):
        read_solutions(file, {"correct": "ok"})
    with pytest.raises(ValueError, match="has labels of steps but no column steps"):
        read_solutions(file, {"label": "correct"})
