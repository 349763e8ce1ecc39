"""bench/gsm8k.py on a synthetic file of GSM8K's schema: right verdicts are counted, wrong ones
named.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

SOLUTIONS = [
    "3 pens at $5 are 3*5=$<<3*5=15>>15.\nWith $2 it is 15+2=$<<15+2=17>>17.\n#### 17",
    "1,200*2=<<1200*2=2400>>2,400 cows.\nHalf are 2400/2=<<2400/2=1200>>1,200.\n#### 1,200",
    "It falls by 3-8=<<3-8=-5>>-5 degrees.\n#### -5",
]
MODEL = {"is_correct": True, "solution": "15+2=<<15+2=17>>17\nA: 17"}
WRONG = {"is_correct": False, "solution": "15-2=<<15-2=13>>13\nA: 13"}
LABELLED = [{"question": "?", "ground_truth": "...\nA: 17", "6b": MODEL, "175b": WRONG}]


@pytest.fixture
def gsm8k(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    yield importlib.import_module("gsm8k")
    sys.modules.pop("gsm8k", None)


def written(folder: Path, labelled: list[dict]) -> Path:
    texts = {
        "train": [{"question": "?", "answer": text} for text in SOLUTIONS[:2]],
        "test": [{"question": "?", "answer": text} for text in SOLUTIONS[2:]],
        "model_solutions": labelled,
    }
    for name, result in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in result))
    return folder


def test_gold_answers_are_right_intermediate_results_wrong_and_labels_kept(gsm8k, tmp_path):
    counts, wrong = gsm8k.judge(gsm8k.cases(written(tmp_path, LABELLED)))
    assert wrong == []
    for kind in ("solution", "bare", "boxed", "phrase", "commas", "dollars"):
        assert counts[kind] == {"cases": 3, "match": 3, "math": 3}
        assert counts[f"{kind}, bare reference"] == {"cases": 3, "match": 3, "math": 3}
    assert counts["intermediate"] == {"cases": 2, "match": 2, "math": 2}  # 15 and 2400
    assert counts["labels"] == {"cases": 2, "match": 2, "math": 2}


def test_a_wrong_verdict_is_counted_and_ends_with_an_error(gsm8k, tmp_path, monkeypatch, capsys):
    turned = [LABELLED[0] | {"6b": MODEL | {"is_correct": False}}]
    monkeypatch.setattr(sys, "argv", ["gsm8k.py", str(written(tmp_path, turned))])
    assert gsm8k.main() == 1
    out = capsys.readouterr().out
    assert "2 wrong verdicts" in out and "match gives 1.0, not 0.0 (labels)" in out


def test_a_folder_without_data_is_refused_by_name(gsm8k, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gsm8k.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        gsm8k.main()
    assert f"{tmp_path} holds neither" in capsys.readouterr().err
