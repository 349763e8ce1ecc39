"""A run whose actor solves nothing says at its end why its critic was measured on nothing."""

from __future__ import annotations


def test_the_end_of_the_run_counts_what_was_tried(genac, recipe, tmp_path) -> None:
    path = recipe(
        stages={"folder": str(tmp_path / "stages"), "base": {"steps": 1}},
        evaluate={"panel_problems": 2},
    )
    answer = genac("train", path)
    assert answer.code == 0, answer.err
    line = "no critic panel: 32 held-out problems were tried with 8 responses each; 0 had mixed"
    assert line in answer.out and line in answer.err
    assert "2 are needed" in answer.out and "choose an easier task" in answer.out
