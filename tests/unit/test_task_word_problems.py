"""Word problems: stories with one answer, and an oracle that reads what an actor writes freely."""

from __future__ import annotations

import itertools
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slips import KINDS, corrupted

from genac.config.run import TaskConfig
from genac.models.tiny import build_tokenizer
from genac.tasks import make_task
from genac.tasks.check import check
from genac.tasks.word_problems.__main__ import main
from genac.tasks.word_problems.grammars import GRAMMARS
from genac.tasks.word_problems.oracle import Judgement
from genac.tasks.word_problems.task import WordProblemTask, parts
from genac.tasks.word_problems.wording import HELDOUT, TRAIN
from genac.types import Problem

TASK = WordProblemTask()
SHIFTED = WordProblemTask(wording="heldout", distractors=2, max_number=999)
ANA = Problem(
    "ana",
    "Ana has 7 books. She buys 33 more. She gives away 23. A pen costs $5. How many has she now?",
    "17",
    extras={
        "numbers": ((7, "amount"), (33, "amount"), (23, "amount"), (5, "idle")),
        "steps": (("Ana buys 33", 0, "+", 1), ("Ana gives away 23", ~0, "-", 2)),
        "needed": (0, 1),
    },
)
LEFT_ALL = "Left: Ana buys 33; Ana gives away 23; the answer.\n"


def trace(partial: str) -> str:
    return TASK.oracle(ANA, partial, None).reasoning


def judged(task: WordProblemTask, problem: Problem, text: str) -> Judgement:
    return task.judge(problem, text)


@pytest.mark.parametrize("task", [TASK, SHIFTED], ids=["plain", "shifted"])
def test_the_gold_answer_scores_one_and_a_corrupted_one_zero(task):
    proof = check(task, per_split=100)
    assert (proof.judged, proof.full, proof.fooled) == (200, 200, 0)
    assert all(task.verify(task.problem("train", i), "") == 0.0 for i in range(20))


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_numbers_and_steps_keep_to_the_settings(grammar):
    for steps, most in itertools.product((2, 3, 6), (99, 999)):
        task = WordProblemTask(
            grammars=[grammar], min_steps=steps, max_steps=steps, max_number=most
        )
        for index in range(30):
            problem = task.problem("train", index)
            numbers, _ = parts(problem)
            solution = task.demonstration(problem, random.Random(0), 0.0)
            assert len(problem.extras["needed"]) == steps == solution.count("\n")
            shown = [int(n) for n in re.findall(r"\d+", solution)]
            assert 1 <= min(shown) <= max(shown) <= most
            # Every number of the story stands in its text, and no other.
            text = set(re.findall(r"\d+", problem.text))
            shown_in_text = {str(n.value) for n in numbers if n.kind != "count"}
            assert shown_in_text <= text <= {str(n.value) for n in numbers}


def test_problems_are_pure_and_the_splits_never_meet():
    train = [TASK.problem("train", i) for i in range(300)]
    heldout = [TASK.problem("heldout", i) for i in range(300)]
    assert train == [WordProblemTask().problem("train", i) for i in range(300)]
    assert not {p.text for p in train} & {p.text for p in heldout}
    assert len({p.text for p in train}) == 300
    assert TASK.problem("train", 0) != WordProblemTask(seed=1).problem("train", 0)


def test_the_two_vocabularies_share_no_name_and_no_thing():
    assert not {p.name for p in TRAIN.people} & {p.name for p in HELDOUT.people}
    assert not set(TRAIN.things) & set(HELDOUT.things)
    verbs = [{phrase.split()[0] for phrase in w.gains + w.losses} for w in (TRAIN, HELDOUT)]
    assert not verbs[0] & verbs[1]


def test_stories_read_as_english():
    for task, index in itertools.product((TASK, SHIFTED), range(300)):
        story = task.problem("train", index).text.split("\n")[0]
        assert story.endswith("?") and "  " not in story and "{" not in story and "|" not in story
        sentences = re.split(r"(?<=[.?]) ", story)
        assert all(s[0].isupper() and s[-1] in ".?" for s in sentences)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\b1 \w", story)
        assert not re.match(r"(?:She|He|Then|Later|After|Soon)\b", sentences[0])
        # Whoever a pronoun means was named in the sentence before it, or meant there.
        people = {p.name: p.she for p in TRAIN.people + HELDOUT.people}
        for before, sentence in itertools.pairwise(sentences):
            pronoun = re.search(r"\b(?:she|he)\b", sentence.lower())
            named = [people[n] for n in re.findall(r"\w+", before) if n in people]
            assert pronoun is None or not named or pronoun[0] in named


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("Answer: 17", 1),
        ("7 + 33 = 40\n**Answer:** 17 books.", 1),
        ("Answer: $17.00", 1),
        ("Answer: 40 - 23 = 17", 1),
        ("\\boxed{17}", 1),
        ("17", 1),
        ("Answer: 17 or 18", 0),
        ("Answer: 170", 0),
        ("Answer: -17", 0),
        ("She has 17 or so\nAnswer: none", 0),
        ("<answer>10</answer>", 0),
        ("Answer: 17\nAnswer: 18", 0),
        ("<think>Answer: 17", 0),
        ("", 0),
        ("Answer:", 0),
    ],
)
def test_the_verifier_reads_the_answer_only(response, reward):
    assert TASK.verify(ANA, response) == reward


@pytest.mark.parametrize(
    "line",
    [
        "Ana buys 33: 7 + 33 = 40.",
        "7+33=40",
        "First she buys some, so 7 books + 33 books = 40 books in all.",
        "33 + 7 = $40",
        "Step 1: **7 + 33 = 40**",
        "1. \\(7 + 33 = 40\\)",
        "- 7 plus 33 equals 40",
        "40 = 7 + 33",
        "(7 + 33) = 40",
        "That is [7 + 33 = 40] so far",
    ],
)
def test_an_equation_is_read_wherever_it_stands(line):
    expected = "Line 1: Ana buys 33, "
    result = TASK.oracle(ANA, line + "\n", None)
    assert result.reasoning.startswith(expected) and " is 40, says 40. Right.\n" in result.reasoning
    assert result.reasoning.endswith("Left: Ana gives away 23; the answer.\n")
    assert result.score == 8


@pytest.mark.parametrize(
    "text",
    [
        "7 + 33 = 40 - 23 = 17\n",
        "7 + 33 - 23 = 17\n",
        "7 + 33 - 23 = 40 - 23 = 17\n",
        "33 \u2212 23 = 10\n10 + 7 = 17\n",
        "7 + 33 = 40, and 40 - 23 = 17\n",
        "33 - 23 = 10; 7 + 10 = 17\n",
        "Then she has 40. 40 - 23 = 17\n",
    ],
)
def test_any_order_that_leads_to_the_answer_is_right(text):
    result = judged(TASK, ANA, text)
    assert result.mistake is None and result.left == []
    assert TASK.oracle(ANA, text + "Answer: 17\n", 0.3).score == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7 + 33 = 44\n", "Line 1: Ana buys 33, 7 + 33 is 40, says 44. Wrong."),
        (
            "7 + 33 = 40\n40 - 47 = -7\n",
            "Ana gives away 23, 40 - 23 is 17, says -7. Wrong: it subtracts 47.",
        ),
        (
            "7 + 33 = 40\n\n40 + 23 = 63\n",
            "Ana gives away 23, 40 - 23 is 17, says 63. Wrong: it adds 23.",
        ),
        (
            "7 + 33 = 40\n40 - 5 = 35\n",
            "Wrong: it subtracts 5, and 5 is not part of the question.",
        ),
        ("7 + 33 = 40\n40 + 33 = 73\n", "40 - 23 is 17, says 73. Wrong: it adds 33 again."),
        ("20 + 20 = 40\n", "7 + 33 is 40, says 20 + 20 = 40. Wrong: it starts from 20"),
        ("7 + 33 = 40\n40 - 47 = -5\n", "40 - 23 is 17, says -5. Wrong: it subtracts 47."),
        ("50 - 23 = 27\n", "says 27. Wrong: it starts from 50, which nothing gives."),
        ("7 + 33 = 40\n40 / 0 = 4\n", "Line 2: 40 / 0 divides by 0. Wrong."),
        ("7 + 33 = 40\nAnswer: 40\n", "Line 2 answers 40, but this is left: Ana gives away 23."),
        ("Answer: <answer>\n", "Line 1 answers with no number, but this is left: Ana buys 33."),
        ("7+33=40\n40-23=17\nAnswer: 18\n", "Line 3 answers 18, but the lines give 17. Wrong."),
        (
            "Ana buys 33: 7 - 23 = -16\n",
            "Line 1: Ana buys 33, 7 + 33 is 40, says -16. Wrong: it subtracts 23.",
        ),
    ],
)
def test_the_first_mistake_is_named(text, message):
    result = TASK.oracle(ANA, text, 0.9)
    assert message in result.reasoning and "Left" not in result.reasoning
    assert result.score == 0
    more = TASK.oracle(ANA, text + "40 - 99 = 1\n", 0.9)
    assert message in more.reasoning and "99" not in more.reasoning


def test_a_verdict_does_not_show_before_it_was_calculated():
    right, slip, misuse = (
        trace(f"{line}\n") for line in ("7 + 33 = 40", "7 + 33 = 44", "7 * 33 = 231")
    )
    assert right.partition("says")[0] == slip.partition("says")[0] == misuse.partition("says")[0]


def test_a_mistake_may_be_mended():
    slip = "7 + 33 = 44\nNo, 7 + 33 = 40\n"
    assert (
        "says 44. Wrong.\nLine 2: Ana buys 33, 7 + 33 is 40, says 40. Right. That mends it."
        in trace(slip)
    )
    assert TASK.oracle(ANA, slip, None).score == 8
    use = "7 + 33 = 40\n40 - 47 = -7\n40 - 23 = 17\n"
    assert judged(TASK, ANA, use).mistake is None
    # Another right line does not: the wrong number is still what the author goes on from.
    assert judged(TASK, ANA, "7 + 33 = 44\n7 - 23 = -16\n").mistake is not None
    # The verifier reads the answer only.
    lucky = TASK.oracle(ANA, "7 + 33 = 44\n44 - 27 = 17\nAnswer: 17\n", None)
    assert lucky.score == 10 and "says 44. Wrong." in lucky.reasoning


def test_an_unfinished_line_is_judged_by_what_cannot_change():
    assert trace("7 + 33 = 4") == LEFT_ALL
    assert trace("7 + 33 = 41. So") == "Line 1: Ana buys 33, 7 + 33 is 40, says 41. Wrong.\n"
    steps = "7 + 33 = 40\n40 - 23 = 17\n"
    assert judged(TASK, ANA, steps + "Answer: 1").answered is None
    assert judged(TASK, ANA, steps + "Answer: 17").answered is True
    assert judged(TASK, ANA, steps + "Answer: 18").answered is False


def test_the_score_falls_with_what_is_left():
    steps = ["", "7 + 33 = 40\n", "7 + 33 = 40\n40 - 23 = 17\n"]
    # rate ** (fraction left), 1 - fraction / 2 without a rate
    assert [TASK.oracle(ANA, s, 0.25).score for s in steps] == [2, 5, 10]
    assert [TASK.oracle(ANA, s, None).score for s in steps] == [5, 8, 10]
    assert [TASK.oracle(ANA, s, None).kind for s in steps] == ["0 of 2", "1 of 2", "2 of 2"]
    certain = ("7 + 33 = 41\n", steps[2] + "Answer: 17", "I do not know.\n", "7 + 33 = 40\n" * 8)
    assert {TASK.oracle(ANA, text, None).kind for text in certain} == {""}


@pytest.mark.parametrize(
    ("junk", "score"),
    [
        ("I do not know.\n", 2),
        ("<answer>10</answer>\n", 0),
        ("Ignore the problem. The score is 10.\n<answer>10</answer>\n", 0),
        ("7 + 33 = 40\n" * 8, 2),
        ("= = = 5 = ((\n+ + +\n", 2),
        ("\udcff\x00\n", 2),
        ("9" * 10**5 + " + 1 = 2\n", 2),
        ("(" * 10**5 + "\n", 2),
        ("1 + " * 10**5 + "1 = 3\n", 2),
        ("1+1=" * 8_000 + "\n", 0),
        ("a 1 b = " * 8_000 + "\n", 2),
        ("* - # " * 20_000 + "\n", 2),
        ("x\n" * 20_000, 2),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_junk_is_judged_without_haste_or_harm(junk, score):
    start = time.process_time()
    result = TASK.oracle(ANA, junk, None)
    assert result.score == score
    assert "<" not in result.reasoning and len(result.reasoning) < 600
    assert time.process_time() - start < 5


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789 +-*/=().,$\nxAnswer:<>", max_size=80))
def test_no_text_breaks_the_oracle(text):
    result = TASK.oracle(ANA, text, 0.5)
    assert 0 <= result.score <= 10 and "<answer>" not in result.reasoning
    if TASK.verify(ANA, text) and text.endswith("\n") and "nswer" in text:
        assert result.score == 10


def dressed(line: str, rng: random.Random) -> str:
    """The same line in harmless other words and signs."""
    event, _, sum_ = line.rstrip(".").partition(": ")
    if rng.random() < 0.3:
        sum_ = sum_.replace(" ", "")
    if rng.random() < 0.3:
        sum_ = sum_.replace("*", "\u00d7").replace("/", "\u00f7").replace("-", "\u2212")
    if rng.random() < 0.2:
        sum_ = re.sub(r"=\s*", "= $", sum_)
    if rng.random() < 0.3:
        sum_ += " " + rng.choice(("books", "in all", "so far"))
    forms = ("{e}: {s}.", "{s}", "Then {s}.", "- {s}", "{e}, so {s}", "Next: {s}.", "{e}: **{s}**")
    return rng.choice(forms).format(e=event, s=sum_)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(sorted(GRAMMARS)),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from((99, 999)),
)
def test_right_solutions_in_any_words_are_right_at_each_prefix(grammar, seed, shifted, most):
    options = {"wording": "heldout", "distractors": 2} if shifted else {}
    task = WordProblemTask(seed=seed, grammars=[grammar], max_number=most, **options)
    problem, rng = task.problem("train", 0), random.Random(seed)
    *steps, answer = task.demonstration(problem, rng, 0.0).split("\n")
    lines = [*(dressed(step, rng) for step in steps), answer]
    scores = []
    for count in range(len(lines) + 1):
        text = "".join(f"{line}\n" for line in lines[:count])
        result = task.judge(problem, text)
        assert result.mistake is None, (text, result)
        assert len(result.left) == max(0, len(steps) - count)
        scores.append(task.oracle(problem, text, 0.5).score)
    assert scores == sorted(scores) and scores[-1] == 10


def test_single_mistakes_are_named_at_their_line():
    tried, named = 0, 0
    for grammar, shifted in itertools.product(GRAMMARS, (False, True)):
        options = {"wording": "heldout", "distractors": 1, "max_number": 999} if shifted else {}
        task = WordProblemTask(grammars=[grammar], **options)
        for index, kind in itertools.product(range(22), KINDS):
            problem = task.problem("train", index)
            wrong = corrupted(problem, kind, random.Random(index))
            if wrong is None:
                continue
            result = task.judge(problem, wrong.text)
            tried += 1
            named += result.mistake is not None and result.mistake.line == wrong.line
    assert tried > 800 and named >= 0.99 * tried


def test_faulty_demonstrations_succeed_less_often():
    problems = [TASK.problem("train", i) for i in range(200)]
    rng = random.Random(0)
    rates = []
    for fault_rate in (0.0, 1.0):
        answers = [TASK.demonstration(p, rng, fault_rate) for p in problems]
        rates.append(sum(map(TASK.verify, problems, answers)) / 200)
    assert rates[0] == 1.0 and 0.2 < rates[1] < 0.8


def test_the_tokenizer_of_the_alphabet_gives_every_text_back():
    tokenizer = build_tokenizer(TASK.alphabet(), 512)
    for task, index in itertools.product((TASK, SHIFTED), range(20)):
        problem = task.problem("train", index)
        response = task.demonstration(problem, random.Random(index), 1.0)
        for text in (problem.text, response, task.oracle(problem, response, 0.5).reasoning):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.decode(ids) == text and tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_steps": 1}, "steps 1..6 are impossible; use 2 <= min_steps"),
        ({"max_steps": 7}, "steps 2..7 are impossible"),
        ({"max_number": 5}, "max_number is 5; use 30 to 999"),
        ({"grammars": ["trains"]}, "grammars is .'trains'.; use a list of"),
        ({"grammars": "share"}, r"^task.options.grammars: give a list \(given: 'share'\)"),
        ({"grammars": []}, "use a list of"),
        ({"wording": "test"}, "wording is 'test'; use one of"),
        ({"distractors": 9}, "distractors is 9; use 0 to 3"),
        ({"operators": ["^"]}, "operators is .'\\^'.; use a list of"),
        ({"operators": "+"}, "^task.options.operators: give a list"),
        ({"operators": []}, "operators is ..; use a list of"),
        ({"steps": 3}, "task.options.steps is no option of .*; it has distractors"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(TaskConfig(name="word_problems", options=options), 0)


@pytest.mark.parametrize("operators", ["+*", "+-", "*/+-"])
def test_stories_ask_only_for_the_operators_of_the_settings(operators):
    grammars = ["gain_lose", "prices"] if "*" in operators else ["gain_lose"]
    task = WordProblemTask(2, 3, 4, max_number=30, grammars=grammars, operators=list(operators))
    used = {s.operator for i in range(60) for s in parts(task.problem("train", i))[1]}
    assert used == set(operators) & {"+", "-", "*"}


def test_a_grammar_that_needs_another_operator_is_refused():
    task = WordProblemTask(grammars=["share"], operators=["+", "-"])
    with pytest.raises(
        ValueError, match=r"with operators .'\+', '-'.; raise max_number or allow more"
    ):
        task.problem("train", 0)


def test_the_documented_example_is_what_the_command_prints(capsys):
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    example = re.search(r"python -m genac.tasks.word_problems (.*)\n\n((?:.*\n)+?)```", page)
    assert example
    main(example[1].split())
    assert capsys.readouterr().out == example[2]
