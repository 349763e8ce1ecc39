"""genac eval benchmarks: a policy on data sets, kept as it goes, resumed, with intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from genac.commands.eval_benchmarks import evaluate_benchmarks, summary, whole_parts
from genac.models.tiny import save_tiny
from genac.runs.store import Run
from genac.ui.viewer.server import make_app

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


def test_rows_beyond_the_context_are_named_before_any_request(tmp_path, model):
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


def test_a_part_that_was_cut_off_is_drawn_again_and_a_last_short_one_is_whole(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert whole_parts(file, 20) == []
    lines = [json.dumps({"id": i}) + "\n" for i in range(20)]
    file.write_text("".join(lines[:19]))
    assert len(whole_parts(file, 20)) == 16 and file.read_text() == "".join(lines[:16])
    file.write_text("".join(lines))
    assert len(whole_parts(file, 20)) == 20


def test_responses_are_kept_and_the_viewer_opens_them(tmp_path, model):
    out = tmp_path / "out"
    queries = [model, data(tmp_path), "--samples", "2", "--max-tokens", "5", "--reward", "match",
               "--instruction", "Box it.", "--output", str(out)]  # fmt: skip
    assert "genac view" in evaluate_benchmarks(queries)
    run = Run(out)
    (file,) = out.glob("sums-*.jsonl")
    assert run.tables("rollouts") == [(file.stem, 0), (file.stem, 1)]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    stored = [row for key in run.tables("rollouts") for row in run.table("rollouts", *key)]
    assert [row["reward"] for row in stored] == [r for row in rows for r in row["rewards"]]
    assert all("".join(row["tokens"]) == row["response"] for row in stored)
    with TestClient(make_app(run)) as client:
        page = client.get("/api/rollouts").json()
        assert page["total"] == 40
        shown = client.get(f"/api/trajectory/{file.stem}/1/3/1").json()
    assert shown["response"] == stored[-1]["response"] and shown["problems"] == []
    whole = {path: path.read_bytes() for path in (out / "rollouts").iterdir()}
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:18]))
    evaluate_benchmarks(queries)
    assert {path: path.read_bytes() for path in (out / "rollouts").iterdir()} == whole


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
