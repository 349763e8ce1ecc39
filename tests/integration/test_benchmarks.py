"""genac eval benchmarks: a policy on data sets, kept as it goes, resumed, with intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genac.commands.eval_benchmarks import evaluate_benchmarks, summary, whole_lines
from genac.models.tiny import save_tiny

SHAPED = [*"0123456789+? \n", "Box", "it", "."]  # the words of the problems


@pytest.fixture
def model(tmp_path: Path) -> str:
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "seed": 0}
    save_tiny(tmp_path / "model", SHAPED, max_length=64, **shape)
    return str(tmp_path / "model")


def data(folder: Path) -> str:
    rows = [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(20)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "sums.jsonl")


def test_a_model_on_a_file_and_again_from_where_it_stopped(tmp_path, model):
    out = tmp_path / "out"
    queries = [model, data(tmp_path), "--samples", "4", "--max-tokens", "5", "--reward", "match",
             "--instruction", "Box it.", "--output", str(out)]  # fmt: skip
    text = evaluate_benchmarks(queries)
    assert "avg@4" in text and "| 20 |" in text
    result = json.loads((out / "benchmarks.json").read_text())
    assert result["settings"]["instruction"] == "Box it."
    (row,) = (v for k, v in result.items() if k != "settings")
    assert row["problems"] == 20 and set(row["pass_at"]) == {"1", "2", "4"}
    assert row["pass_at"]["1"]["value"] <= row["pass_at"]["4"]["value"]
    (file,) = out.glob("sums-*.jsonl")
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:16]) + lines[16][:10])  # cut off in the middle of a line
    assert evaluate_benchmarks(queries) == text
    assert file.read_text() == whole
    evaluate_benchmarks([*queries, "--limit", "3"])  # other settings, another file
    assert len(list(out.glob("sums-*.jsonl"))) == 2
    save_tiny(Path(model), SHAPED, max_length=64, hidden_size=32, layers=1, heads=2, seed=1)
    evaluate_benchmarks(queries)  # other weights under the same path
    assert len(list(out.glob("sums-*.jsonl"))) == 3


def test_rows_beyond_the_context_are_named_before_anything_is_asked(tmp_path, model):
    long = tmp_path / "long.jsonl"
    rows = [{"question": "1" + " + 1" * n, "answer": "1"} for n in (2, 4, 40, 3, 50)]
    long.write_text("\n".join(map(json.dumps, rows)))
    queries = [model, data(tmp_path), str(long), "--samples", "1", "--max-tokens", "20",
             "--reward", "match", "--instruction", "Box it.", "--output",
             str(tmp_path / "out")]  # fmt: skip
    with pytest.raises(ValueError, match=r"2 of 5 prompts .* rows 3, 5\).* lower --max-tokens"):
        evaluate_benchmarks(queries)
    assert not (tmp_path / "out").exists()


def test_summary_by_hand():
    rows = [
        {"id": "a", "rewards": [1.0, 0.0, 1.0, None], "tokens": [1, 2, 3, 4], "cut": 1},
        {"id": "b", "rewards": [0.0, 0.0, 0.0, 0.0], "tokens": [2, 2, 2, 4], "cut": 0},
    ]
    result = summary(rows)
    assert result["avg_at_k"] == 0.25
    assert (result["unjudged"], result["cut_off"], result["mean_tokens"]) == (1, 1 / 8, 2.5)
    # Two of four are right: pass@1 1/2, pass@2 1 - C(2,2)/C(4,2) = 5/6, pass@4 1; halved by b.
    values = {k: v["value"] for k, v in result["pass_at"].items()}
    assert values == pytest.approx({"1": 1 / 4, "2": 5 / 12, "4": 1 / 2})


def test_whole_lines_of_nothing(tmp_path):
    assert whole_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "no tokenizer could be loaded from './nowhere'"),
        (["x", "--samples", "0"], "--samples and --limit"),
        (["x", "--chat-template-kwargs", "{a"], "is not JSON"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_benchmarks([*arguments, "--output", str(tmp_path)])
