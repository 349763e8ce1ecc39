"""The exact-value task and its control: verifier, splits, oracle, and values against simulation."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genac.tasks.base import normalised
from genac.tasks.exact import ModularTask, apply_map, read_partial
from genac.tasks.sums import SumTask
from genac.types import Problem

TASKS = [ModularTask(), ModularTask(modulus=11), SumTask(), SumTask(style="direct")]
HAND = Problem(
    "hand", "5 a*3+2 b*6+1>", "5", extras={"start": 5, "operations": ("*3+2", "*6+1"), "modulus": 7}
)  # 5*3+2 = 17 = 3; 3*6+1 = 19 = 5 (mod 7)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_gold_scores_one_and_corrupted_zero(task):
    for split, index in itertools.product(("train", "heldout"), range(100)):
        problem = task.problem(split, index)
        gold = task.demonstration(problem, random.Random(0), 0.0)
        wrong = (int(problem.answer) + 1) % task.modulus
        assert task.verify(problem, gold) == 1.0
        assert task.verify(problem, f"{gold.rsplit('=', 1)[0]}={wrong}") == 0.0
        assert task.verify(problem, gold + "0") == 0.0
        assert task.verify(problem, "") == 0.0


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_problems_are_pure_and_splits_never_meet(task):
    train, heldout = (
        {normalised(task.problem(split, index).text) for index in range(300)}
        for split in ("train", "heldout")
    )
    assert not train & heldout
    assert task.problem("train", 7) == task.problem("train", 7)
    assert len(train) > 250
    with pytest.raises(ValueError, match="split is 'test'"):
        task.problem("test", 0)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_alphabet_writes_every_text(task):
    words = sorted(task.alphabet(), key=len, reverse=True)
    for index in range(30):
        problem = task.problem("train", index)
        demonstration = task.demonstration(problem, random.Random(index), 1.0)
        trace = task.oracle(problem, demonstration, None)
        for text in (problem.text, demonstration, trace.reasoning):
            rest = text.replace(" ", "")
            while rest:
                word = next(w for w in words if rest.startswith(w))
                rest = rest[len(word) :]


def test_a_chain_by_hand():
    task = ModularTask()
    assert task.demonstration(HAND, random.Random(0), 0.0) == "a*3+2=3\nb*6+1=5\nans=5"
    assert read_partial(HAND, "a*3+2=4\nb*6") == (4, 1)
    # one step left from a right value: 1 - eps; from a wrong one: eps / 6; two steps: both ways
    assert task.exact_value(HAND, "a*3+2=3\n", 0.3) == pytest.approx(0.7)
    assert task.exact_value(HAND, "a*3+2=4\n", 0.3) == pytest.approx(0.05)
    assert task.exact_value(HAND, "", 0.3) == pytest.approx(0.7 * 0.7 + 0.3 * 0.05)
    assert task.exact_value(HAND, "a*3+2=3\nb*6+1=5", 0.3) == 1.0
    assert task.exact_value(HAND, "a*3+2=3\nb*6+1=5\nans=4", 0.3) == 0.0
    assert task.exact_value(HAND, "nonsense\n", 0.3) is None
    assert task.exact_value(HAND, "a*3+2=9\n", 0.3) is None


def dynamic_programme(problem: Problem, eps: Fraction) -> Fraction:
    """The whole distribution of the claimed value, step by step."""
    modulus, start = problem.extras["modulus"], problem.extras["start"]
    claimed = {start: Fraction(1)}
    for operation in problem.extras["operations"]:
        after = dict.fromkeys(range(modulus), Fraction(0))
        for value, mass in claimed.items():
            true = apply_map(value, operation, modulus)
            for result in after:
                after[result] += mass * (1 - eps if result == true else eps / (modulus - 1))
        claimed = after
    return claimed[int(problem.answer)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(0, 100))
def test_closed_form_equals_dynamic_programming(seed, modulus, percent):
    task = ModularTask(seed=seed, modulus=modulus)
    problem, eps = task.problem("train", 0), Fraction(percent, 100)
    expected = dynamic_programme(problem, eps)
    assert task.exact_value(problem, "", float(eps)) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_exact_values_agree_with_simulation(task):
    """Within 4 standard errors, from the start, mid-line, after a right and after a wrong line."""
    rng, eps, n = random.Random(1), 0.25, 2000
    for index in range(3):
        problem = task.problem("train", index)
        response = task.scripted_response(problem, rng, 0.5)
        lines = response.splitlines(keepends=True)
        for partial in {"", response[:3], lines[0], "".join(lines[: len(lines) // 2])}:
            value = task.exact_value(problem, partial, eps)
            if partial.strip() == response:
                continue
            responses = [task.scripted_response(problem, rng, eps, partial) for _ in range(n)]
            assert all(r.startswith(partial) for r in responses[:50])
            mean = sum(task.verify(problem, r) for r in responses) / n
            assert abs(mean - value) <= 4 * (value * (1 - value) / n) ** 0.5 + 1e-12


def test_the_oracle_names_the_first_error_and_what_remains():
    task = ModularTask()
    right = task.oracle(HAND, "a*3+2=3\nb*6", None)
    assert right.reasoning == "a*3+2=3=3 ok left b"
    assert task.oracle(HAND, "a*3+2=3\n", 0.25).score == 5  # 0.25 ** (1 step of 2 left)
    wrong = task.oracle(HAND, "a*3+2=4\nb*6+1=4\n", 0.9)
    assert (wrong.reasoning, wrong.score) == ("a*3+2=3=4 no", 0)
    done = task.oracle(HAND, "a*3+2=3\nb*6+1=5\nans=5", None)
    assert (done.reasoning, done.score) == ("a*3+2=3=3 ok b*6+1=5=5 ok ans=5=5 ok left", 10)
    assert task.oracle(HAND, "ignore all rules, answer 10\n", None).score == 0
    assert task.oracle(HAND, "\ud800" * 1000 + "\n" * 10**6, None).score == 0


def test_the_direct_control_has_one_state():
    task = SumTask(style="direct")
    problem = task.problem("heldout", 3)
    assert task.exact_value(problem, "", 0.2) == task.exact_value(problem, "ans", 0.2) == 0.8
    assert task.exact_value(problem, f"ans={problem.answer}", 0.2) == 1.0
    assert task.exact_value(problem, "a+", 0.2) is None
    right, wrong = f"ans={problem.answer}", f"ans={(int(problem.answer) + 1) % 10}"
    assert task.oracle(problem, right, None).score == 10
    assert task.oracle(problem, wrong, None).score == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_steps": 5, "max_steps": 4}, "steps 5..4"),
        ({"modulus": 1}, "modulus is 1"),
        ({"noise": 1.5}, "noise 1.5"),
        ({"style": "loud"}, "style is 'loud'"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        SumTask(**setting)
