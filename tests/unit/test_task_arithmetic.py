"""The default task: pure, split without overlap, and an oracle that knows the mathematics."""

from __future__ import annotations

import random

import pytest

from genac.models.tiny import build_tokenizer
from genac.tasks.arithmetic import ArithmeticTask, apply, check_lines
from genac.tasks.base import split_of
from genac.types import Problem

PROBLEM = Problem("x", "6 a+3 b*7 c-8>", "5", extras={"start": 6, "operations": ("+3", "*7", "-8")})


def test_last_digits_by_hand():
    # 6 + 3 = 9;  9 * 7 = 63 -> 3;  3 - 8 = -5 -> 5
    assert apply(6, "+3") == 9
    assert apply(9, "*7") == 3
    assert apply(3, "-8") == 5


def test_the_gold_answer_scores_one_and_a_corrupted_one_zero():
    task = ArithmeticTask()
    for index in range(50):
        problem = task.problem("heldout", index)
        gold = task.demonstration(problem, random.Random(0), 0.0)
        assert task.verify(problem, gold) == 1.0
        assert task.verify(problem, gold[:-1] + str((int(gold[-1]) + 1) % 10)) == 0.0
        assert task.verify(problem, "") == 0.0


@pytest.mark.parametrize(
    "hostile", ["ans=5<answer>10</answer>", "ans=5 ans=6", "ans=55", "\udcff", "x" * 10**6]
)
def test_hostile_text_is_a_wrong_answer(hostile):
    assert ArithmeticTask().verify(PROBLEM, hostile) == 0.0


def test_problems_are_pure_and_the_splits_never_meet():
    task, again = ArithmeticTask(min_steps=1, max_steps=2), ArithmeticTask(min_steps=1, max_steps=2)
    train = [task.problem("train", i) for i in range(400)]
    heldout = [task.problem("heldout", i) for i in range(400)]
    assert train == [again.problem("train", i) for i in range(400)]
    assert not {p.text for p in train} & {p.text for p in heldout}
    assert split_of(train[0].text) == split_of(f"  {train[0].text.replace(' ', '   ')} ") == "train"


def test_shifts_are_settings_of_the_generator():
    task = ArithmeticTask(min_steps=9, max_steps=9, operators="*", operand_digits=2)
    operations = task.problem("train", 0).extras["operations"]
    assert len(operations) == 9
    # Multipliers are coprime to ten, so that an error is not multiplied away.
    assert all(o[0] == "*" and 10 <= int(o[1:]) < 100 and o[-1] in "1379" for o in operations)


def test_checks_by_hand():
    # a: 9, right. b: true 3, claimed 4. c goes on from the truth: 3 - 8 -> 5, claimed 6.
    checks, wrong = check_lines(PROBLEM, "a+3=9\nb*7=4\nc-8=6\n")
    assert checks == ["a+3=9=9 ok\n", "b*7=3=4 no\n", "c-8=5=6 no\n"] and wrong
    # A second error that undoes the first leaves the newest claim right.
    assert check_lines(PROBLEM, "a+3=9\nb*7=4\nc-8=5\n")[1] is False
    assert check_lines(PROBLEM, "") == ([], False)
    assert check_lines(PROBLEM, "a+3=9\nb*7") == (["a+3=9=9 ok\n"], False)  # unfinished
    assert check_lines(PROBLEM, "a+3=9\nb+7=6\n") == (["a+3=9=9 ok\n", "b*7=3 no\n"], True)
    assert check_lines(PROBLEM, "<answer>10</answer>\n") == (["a+3=9 no\n"], True)


def test_the_oracle_knows_the_mathematics_and_guesses_the_score():
    task = ArithmeticTask()
    right = task.oracle(PROBLEM, "a+3=9\n", 0.25)
    assert right.reasoning == "a+3=9=9 ok\nleft*-\n" and right.kind == "1 of 3"
    assert abs(right.score - round(10 * 0.25 ** (2 / 3))) <= 1
    wrong = task.oracle(PROBLEM, "a+3=8\n", 0.9)
    assert wrong.score <= 1 and " no\n" in wrong.reasoning and not wrong.kind
    assert task.oracle(PROBLEM, "a+3=9\n", 0.25) == right
    # It varies by a point over states but is right about the order on average.
    problems = [task.problem("train", i) for i in range(100)]
    low = [task.oracle(p, "", 0.1).score for p in problems]
    high = [task.oracle(p, "", 0.9).score for p in problems]
    assert sum(high) / 100 > sum(low) / 100 + 5


def test_faults_are_systematic():
    task = ArithmeticTask(min_steps=1, max_steps=1, multiplication_rate=1.0)
    problems = [task.problem("train", i) for i in range(300)]
    rng = random.Random(0)
    rewards = [task.verify(p, task.demonstration(p, rng, 1.0)) for p in problems]
    assert 0.3 < sum(rewards) / 300 < 0.5  # a multiplication succeeds with probability .4
    wrong = [int(task.demonstration(p, rng, 1.0)[-1]) for p in problems]
    off = {(w - int(p.answer)) % 10 for w, p in zip(wrong, problems, strict=True)}
    assert off == {0, 1}  # always the same mistake


def test_the_tokenizer_gives_every_text_back():
    task = ArithmeticTask()
    tokenizer = build_tokenizer(task.alphabet(), 128)
    for index in range(20):
        problem = task.problem("train", index)
        response = task.demonstration(problem, random.Random(index), 1.0)
        trace = task.oracle(problem, response.rsplit("\n", 1)[0] + "\n", 0.5).reasoning
        for text in (response, trace + "<answer>10</answer>"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_steps": 3, "max_steps": 2}, "min_steps <= max_steps"),
        ({"operators": "/"}, "operators is '/'"),
        ({"operand_digits": 3}, "operand_digits is 3"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticTask(**settings)
