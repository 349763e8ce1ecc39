"""A critic that learns from labelled solutions of others, through the command line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro import MICRO, Answer, Values

from genac.runs.store import Run
from genac.tasks.arithmetic import ArithmeticTask

Genac = Callable[..., Answer]
Recipe = Callable[..., str]
TASK = ArithmeticTask(seed=0, **MICRO["task"]["options"])
# Bare scores are short; the readout ranks solutions by more than eleven values.
CRITIC = {"generative": {"max_new_tokens": 4, "readout": "expected"}}
SFT = {"epochs": 6, "optimizer": {"learning_rate": 3e-3}}


def solutions(split: str, count: int) -> list[dict[str, Any]]:
    """A right solution of each problem, and one whose author writes a minus in place of equals."""
    rows = []
    for index in range(count):
        problem = TASK.problem(split, index)
        text = TASK.demonstration(problem, random.Random(index), 0.0)
        row = {"problem": problem.prompt, "solution": text, "correct": True}
        rows += [row, row | {"solution": text.replace("=", "-"), "correct": False}]
    return rows


def written(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


@pytest.fixture
def labels(recipe: Recipe, tmp_path: Path) -> Callable[..., str]:
    """labels(rows, own_responses=True) -> the micro recipe whose critic learns from the rows."""

    def write(rows: list[dict[str, Any]], **stage: Any) -> str:
        path = written(tmp_path / "solutions.jsonl", rows)
        values: Values = {"oracle": "labels", "path": path, "num_states": 240} | stage
        return recipe(critic=CRITIC, stages={"synthesize": values, "sft": SFT})

    return write


def test_the_critic_ranks_solutions_of_problems_that_it_never_met(
    genac: Genac, labels: Callable[..., str], tmp_path: Path
) -> None:
    taught = genac("sft", labels(solutions("train", 60)))
    assert taught.code == 0, taught.err
    folder = taught.out.split()[-1]
    card = json.loads((Path(folder) / "critic.json").read_text())
    assert card["success_rate"]["value"] == pytest.approx(0.5)  # which its prompts state
    heldout = written(tmp_path / "heldout.jsonl", solutions("heldout", 20))
    out = tmp_path / "out"
    judged = genac("eval", "solutions", folder, heldout, "--samples", "1", "--out", str(out))
    assert judged.code == 0, judged.err
    by_fraction = json.loads((out / "solutions.json").read_text())["outcome"]["by_fraction"]
    assert by_fraction[0]["auc_within_problem"] == 0.5  # nothing is written yet
    assert all(row["auc_within_problem"] > 0.8 for row in by_fraction[-2:])


def test_own_responses_are_learned_beside_the_file(
    genac: Genac, labels: Callable[..., str], tmp_path: Path
) -> None:
    right = [row for row in solutions("train", 30) if row["correct"]]
    alone = genac("synthesize", labels(right))
    assert alone.code == 0 and "every trace has the score 10, so the critic learns" in alone.err
    both = genac("synthesize", labels([*right, right[0] | {"correct": None}], own_responses=True))
    assert both.code == 0 and "learns a constant" not in both.err, both.err
    assert "of 31 solutions, 1 have no label and are left out" in both.err
    file = Path(both.out.split()[-1])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["problem"]["id"][:5] for row in rows} == {"solut", "arith"}
    assert min(row["score"] for row in rows) == 0 and len({r["success_rate"] for r in rows}) == 1
    (logged,) = Run(file.parent).metrics("synthesize")
    assert logged["left_out/unlabelled"] == 1 and logged["cost/tokens"] > 0


def test_a_running_critic_is_refused(refused: Callable[..., str], labels: Callable[..., str]):
    message = refused("sft", labels(solutions("train", 2)), "--critic.generative.form", "running")
    assert "'labels' judges single states" in message and "per_state" in message
