"""reasoning-gym's generators as tasks (skipped where the extra is not installed)."""

from __future__ import annotations

import builtins
import json
import pickle
import random
from pathlib import Path

import pytest

from genac.tasks.answers import match_answer
from genac.tasks.base import normalised
from genac.tasks.gym import GymTask, load_dataset
from genac.tasks.verifier import Outcome, Verifier
from genac.types import Problem

DATA = Path(__file__).parents[1] / "data" / "gym_chain_sum.jsonl"
SMALL = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}


@pytest.fixture
def task() -> GymTask:
    pytest.importorskip("reasoning_gym")
    return GymTask("chain_sum", entries=200, config=SMALL)


def test_gold_scores_one_and_corrupted_zero(task):
    for split in ("train", "heldout"):
        for index in range(task.size(split)):
            problem = task.problem(split, index)
            gold = task.demonstration(problem, random.Random(0), 1.0)
            wrong = str(int(gold) + 1)
            assert task.verify(problem, gold) == 1.0
            assert task.verify(problem, f"so\n#### {gold}") == 1.0
            assert gold in wrong or task.verify(problem, wrong) == 0.0
            assert task.verify(problem, wrong) < 1.0
            assert task.verify(problem, "") == 0.0


def test_problems_are_pure_and_splits_never_meet(task):
    texts = {
        split: {normalised(task.problem(split, i).text) for i in range(task.size(split))}
        for split in ("train", "heldout")
    }
    assert not texts["train"] & texts["heldout"]
    assert task.size("train") + task.size("heldout") == 200
    again = GymTask("chain_sum", entries=200, config=dict(SMALL))
    assert task.problem("train", 500) == again.problem("train", 500)
    assert task.problem("train", 0).extras["num_terms"] in (2, 3)


@pytest.mark.parametrize("dataset", ["mini_sudoku", "tower_of_hanoi", "spell_backward"])
def test_other_generators_accept_their_own_answers(dataset):
    pytest.importorskip("reasoning_gym")
    task = GymTask(dataset, entries=12)
    for index in range(3):
        problem = task.problem("train", index)
        assert task.verify(problem, task.demonstration(problem, random.Random(0), 0.0)) == 1.0
        assert task.verify(problem, "no idea") < 1.0


def test_the_stored_rows_are_the_problems_of_the_task(task):
    """So that tests without reasoning-gym see its problems."""
    rows = [json.loads(line) for line in DATA.read_text().splitlines()]
    size = task.size("train") + task.size("heldout")
    problems = [task.problem(s, i) for s in ("train", "heldout") for i in range(task.size(s))]
    assert len(rows) == size
    assert {(r["prompt"], r["answer"]) for r in rows} == {(p.prompt, p.answer) for p in problems}


FORMS = (
    "{n}",
    "so\n#### {n}",
    "It is clear.\nAnswer: {n}",
    "\\boxed{{{n}}}",
    "<answer>{n}</answer>",
    "The answer is {n}.",
    "#### {thousands}",
    "Answer: ${thousands}",
)


def test_gsm_symbolic_is_judged_right_by_its_scorer_and_by_ours():
    """GSM8K-like problems, made offline: the answer in every form, and the generator's solution."""
    pytest.importorskip("reasoning_gym")
    task = GymTask("gsm_symbolic", entries=100)
    problems = [task.problem(s, i) for s in ("train", "heldout") for i in range(task.size(s))]
    assert any(len(p.answer) > 3 for p in problems)
    for problem in problems:
        n, solution = problem.answer, problem.extras["answer_cot"]
        thousands = f"{int(n):,}" if n.isdigit() else n
        as_file = Problem("row", problem.prompt, solution)  # as GSM8K's rows hold their answers
        for text in (solution, *(form.format(n=n, thousands=thousands) for form in FORMS)):
            assert task.verify(problem, text) == 1.0, text
            assert match_answer(problem, text) == match_answer(as_file, text) == 1.0, text
        for wrong in ("", f"#### {float(n) + 1:g}", "Answer: none"):
            assert task.verify(problem, wrong) < 0.1 and match_answer(as_file, wrong) == 0.0
        assert task.answer_of(solution) == task.answer_of(f"Answer: {thousands}")


def test_scoring_happens_in_a_worker(task):
    problem = task.problem("train", 0)
    with Verifier(pickle.loads(pickle.dumps(task))) as verifier:
        good, bad = verifier.verify([(problem, problem.answer), (problem, "\ud800 nothing")])
    assert (good, bad) == (Outcome(1.0), Outcome(0.0))


def test_what_is_missing_is_named(task, monkeypatch):
    with pytest.raises(ValueError, match="refuses data set 'chain_summ'"):
        GymTask("chain_summ")
    with pytest.raises(ValueError, match="max_termz"):
        GymTask("chain_sum", config={"max_termz": 3})
    with pytest.raises(ValueError, match="entries is 0"):
        GymTask(entries=0)
    with pytest.raises(ValueError, match="oracle: outcome"):
        task.oracle(task.problem("train", 0), "", None)
    assert {"State", "1", "+"} <= set(task.alphabet())


def test_the_extra_is_named_where_it_lacks(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **keywords):
        if name == "reasoning_gym":
            raise ImportError(name)
        return real(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install genac\[tasks\]"):
        load_dataset("chain_sum", 99, 1, "{}")
