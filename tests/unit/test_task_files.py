"""Data files: reading, errors that name the place, splits, verification."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from genac.tasks.base import normalised
from genac.tasks.files import FileTask, hash_fraction

GYM = Path(__file__).parents[1] / "data" / "gym_chain_sum.jsonl"
ROWS = [
    {"prompt": f"{a} + {b}?", "answer": str(a + b), "a": str(a)}
    for a in range(9)
    for b in (1, 2, 3)
]


def write(path: Path, rows: list[dict]) -> str:
    """The rows in the format of the extension."""
    lines = [json.dumps(row) for row in rows]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        cells = [",".join(map(str, row.values())) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *cells]))
    else:
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    return str(path)


def everything(task: FileTask) -> list:
    return [task.problem(s, i) for s in ("train", "heldout") for i in range(task.size(s))]


@pytest.mark.parametrize("extension", ["jsonl", "json", "parquet", "csv"])
def test_every_format_gives_the_same_problems(tmp_path, extension):
    task = FileTask(write(tmp_path / f"rows.{extension}", ROWS), heldout_fraction=0.3)
    problems = sorted(everything(task), key=lambda p: int(p.id.split("-")[1]))
    assert [(p.prompt, p.answer, p.extras) for p in problems] == [
        (r["prompt"], r["answer"], {"a": r["a"]}) for r in ROWS
    ]


def test_the_data_of_another_project():
    """200 rows of reasoning-gym 0.1.25, made by

    GymTask("chain_sum", entries=200, config={"min_terms": 2, "max_terms": 3, "min_digits": 1,
    "max_digits": 1}).export("tests/data/gym_chain_sum.jsonl", 200)
    """
    task = FileTask(str(GYM))
    assert task.trusted
    assert task.size("train") + task.size("heldout") == 200
    assert 5 <= task.size("heldout") <= 40
    for problem in everything(task):
        gold = task.demonstration(problem, random.Random(0), 1.0)
        assert task.verify(problem, gold) == task.verify(problem, f"thus\nans={gold}") == 1.0
        assert task.verify(problem, str(int(gold) + 1)) == task.verify(problem, "") == 0.0
    assert {"State", "answer", "7", "+", " ", "=", "\n"} <= set(task.alphabet())
    with pytest.raises(ValueError, match="oracle: outcome"):
        task.oracle(problem, "", None)


def test_order_is_pure_and_epochs_are_shuffled_anew():
    task, same, other = FileTask(str(GYM)), FileTask(str(GYM)), FileTask(str(GYM), seed=1)
    n = task.size("train")
    first, second = ([task.problem("train", e * n + i).id for i in range(n)] for e in (0, 1))
    assert first == [same.problem("train", i).id for i in range(n)]
    assert sorted(first) == sorted(second) == sorted(other.problem("train", i).id for i in range(n))
    assert first != second
    assert first != [other.problem("train", i).id for i in range(n)]


def test_white_space_variants_never_cross_the_line(tmp_path):
    spaced = ["{}", " {}", "{}\n", "\t{}  "]
    rows = [
        {"prompt": form.format(f"what{gap}is {i}?"), "answer": "1"}
        for i in range(40)
        for form in spaced
        for gap in (" ", "\n\n", "\u00a0")
    ]
    task = FileTask(write(tmp_path / "rows.jsonl", rows), heldout_fraction=0.3)
    texts = {
        s: {task.problem(s, i).text for i in range(task.size(s))} for s in ("train", "heldout")
    }
    train, heldout = ({normalised(t) for t in texts[s]} for s in ("train", "heldout"))
    assert not train & heldout
    assert len(train) + len(heldout) == 40
    assert heldout
    assert 0 <= hash_fraction("a  b") == hash_fraction(" a\nb ") < 1


def test_chat_prompts_and_other_column_names(tmp_path):
    chat = [{"role": "user", "content": "2 + 3?"}]
    rows = [{"messages": chat, "solution": 5, "answer": "see solution"}]
    for name in ("rows.jsonl", "rows.parquet"):
        path = write(tmp_path / name, rows)
        task = FileTask(path, 0.0, prompt_column="messages", answer_column="solution")
        problem = task.problem("train", 0)
        assert (problem.prompt, problem.answer) == (chat, "5")
        assert problem.extras == {"solution": 5, "answer": "see solution"}
        assert task.verify(problem, "5.0") == 1.0
    with pytest.raises(ValueError, match=r"heldout split .* is empty"):
        task.problem("heldout", 0)


def test_a_task_is_sent_without_its_rows():
    task = FileTask(str(GYM))
    assert len(pickle.dumps(task)) < 1000
    copy = pickle.loads(pickle.dumps(task))
    assert copy.verify(task.problem("train", 0), task.problem("train", 0).answer) == 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, "does not exist"),
        ("a.txt", "", r"extension '.txt'; use one of \['.jsonl'"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.csv", "prompt,answer\n", "has no rows"),
        ("a.json", '{"prompt": "a"}', "holds a dict; write a list"),
        ("a.json", "[1,", "is not JSON"),
        ("a.jsonl", '{"prompt": "a", "answer": "b"}\n{"prompt": ', "line 2 of .* is not JSON"),
        ("a.jsonl", '{"prompt": "a", "answer": "b"}\n\n[1]', "line 3 of .* write an object"),
        (
            "a.jsonl",
            '{"text": "a", "answer": "b"}',
            r"no 'prompt', only \['text', 'answer'",
        ),
        ("a.jsonl", '{"prompt": "a", "gold": "b"}', r"no 'answer', only \['prompt', 'gold'\]"),
        ("a.jsonl", '{"prompt": "", "answer": "b"}', "row 1 of .* no 'prompt'"),
        ("a.jsonl", '{"prompt": [{"role": "user"}], "answer": "b"}', "list of messages"),
        ("a.jsonl", '{"prompt": 5, "answer": "b"}', "'prompt' is 5; write a string"),
        ("a.csv", "prompt,answer\na,b,c\n", "row 1 of .* more fields than columns"),
        ("a.csv", 'prompt,answer\n"a,b', "line 1 of"),
        ("a.parquet", "no parquet", "no readable Parquet"),
        ("a.csv", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        FileTask(str(path))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="heldout_fraction is 1"):
        FileTask(str(GYM), heldout_fraction=1)
    with pytest.raises(ValueError, match="split is 'dev'"):
        FileTask(str(GYM)).problem("dev", 0)
    with pytest.raises(ValueError, match="'best' is unknown"):
        FileTask(str(GYM), reward="best")
