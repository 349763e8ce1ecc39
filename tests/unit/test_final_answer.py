r"""Which part of a text is its final answer, and which answers count as equal.

One table of (reference, response) for each judge's verdicts: what is right must be accepted in
every usual form, and nothing that a response merely passes by.
"""

from __future__ import annotations

import time

import pytest

from genac.tasks.answers import answer_key
from genac.tasks.final_answer import final_answer, normalise, visible
from genac.tasks.rewards import load_reward
from genac.types import Problem

PIECEWISE = r"f(x)=\left\{\begin{array}{ll}1&x>0\\0&x\le0\end{array}\right."

FORMS = [
    # boxes
    (r"thus \boxed{42} holds", "42"),
    (r"\boxed {42}", "42"),
    (r"so $\boxed 42$.", "42"),
    (r"so \boxed 42, as was said", "42"),
    (r"$\boxed \frac{1}{2}$", r"\frac{1}{2}"),
    (r"\boxed42", "42"),
    (r"thus \fbox{42} holds", "42"),
    (rf"so \boxed{{{PIECEWISE}}} is it", PIECEWISE),
    (r"\boxed{\left\{1,2\right.}", r"\left\{1,2\right."),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{4} no, \boxed{42}", "42"),
    (r"\boxed{1} and \boxed{2}", "1, 2"),
    (r"$\boxed{1}$, $\boxed{2}$", "1, 2"),
    (r"\boxed{42}, \boxed{42}", "42"),
    (r"\boxed{42}, as \boxed{} was demanded", "42"),
    # a cut box counts for nothing, nor does it take back what it repeats
    (r"\boxed{42}. Again: \boxed{", "42"),
    (r"\boxed{42}. Again: \boxed{4", "42"),
    # "Answer:" and its dress
    ("**Answer:** 42", "42"),
    ("**Answer**: 42", "42"),
    ("**Answer: 42**", "42"),
    ("__Answer:__ 42", "42"),
    ("Answer:\n42", "42"),
    ("**Answer:**\n\n42\n\nThat is all.", "42"),
    ("Answer:\n\\[\n42\n\\]", "42"),
    ("Answer:\n$$\n42\n$$\nDone.", "42"),
    (r"Answer: \(42\)", "42"),
    (r"Answer: \(42\).", "42"),
    ("Answer: $42$", "42"),
    ("Answer: `42`", "42"),
    ("Answer\uff1a42", "42"),
    ("final answer: 42", "42"),
    ("### Final Answer: 42", "42"),
    (r"Answer: $x = \boxed{42}$", "42"),
    # "####": the end of a solution, not a heading
    ("6 * 7\n#### 42", "42"),
    ("#### 42\n\nAsk me more.", "42"),
    ("#### Paris", "Paris"),
    ("\\boxed{42}\n#### Check\n6 * 7 = 42", "42"),
    ("\\boxed{42}\n\n#### Check", "42"),
    ("#### Step 1\n6 * 7\n#### Answer\n\\boxed{42}\n#### Check 2\n7 * 6", "42"),
    ("ans=42\n##### More", "42"),
    # tags
    ("<answer>Answer: 42</answer>", "42"),
    ("<answer>The answer is 42.</answer>", "42."),
    (r"<answer>\boxed{42}</answer>", "42"),
    ("<answer>\n42\n</answer>", "42"),
    ("<answer>42</answer> and so on", "42"),
    ("<Answer>42</Answer>", "42"),
    ("ans=42\n<answer>", "42"),
    (r"\boxed{Answer: 42}", "42"),
    # sentences
    ("The final answer is 42. I hope it is correct.", "42."),
    ("The final answer is 42\n\nAsk me more.", "42"),
    ("So the answer is $42$.", "42"),
    ("The answer is: 42", "42"),
    ("The answer is **42**.", "42"),
    ("6 * 7 = 42\nA: 42", "42"),
    (r"\boxed{41}? No. The final answer is 42", "42"),
    # what only looks like a form
    ("\\boxed{42}\n**Answer:** The farmer owns 42 cows.", "42"),
    ("\\boxed{42}\nbeans=12", "42"),
    ("\\boxed{42}\nDo you think the answer is 41?", "42"),
    ("The answer is 41.\nNo, it is\n42", "42"),
    ("\\boxed{42}\nThe answer is as expected", "42"),
    # thoughts
    (r"<think>\boxed{41}</think>42", "42"),
    (r"\boxed{41}</think>\boxed{42}", "42"),
    (r"<think>\boxed{41}</think><think>No.</think>Answer: 42", "42"),
    (r"<think>\boxed{42}", ""),
    (r"<think>a</think>\boxed{42}<think>b", ""),
    (r"<think>\boxed{42}</think>", ""),
]


@pytest.mark.parametrize(("text", "answer"), FORMS)
def test_the_final_answer_is_read_in_every_usual_form(text, answer):
    assert final_answer(text) == answer


VERDICTS = [  # reference, response, reward of match, reward of math
    ("4", r"<think>Maybe \boxed{4}? No.</think> The final answer is 5", 0, 0),
    ("5", r"<think>Maybe \boxed{4}? No.</think> The final answer is 5", 1, 1),
    ("4", r"<think>It is \boxed{4}", 0, 0),
    ("4", "<think>\nans=4", 0, 0),
    ("4", "<think>\n4", 0, 0),
    ("4", r"<think>a</think>\boxed{4}<think>", 0, 0),
    ("4", r"<think>\boxed{4}</think>", 0, 0),
    ("4", "so \\boxed{4}?</think>\n\\boxed{5}", 0, 0),
    ("5", "so \\boxed{4}?</think>\n\\boxed{5}", 1, 1),
    ("4", r"<thinking>\boxed{4}</thinking>5", 0, 0),
    ("4", r"[THINK]\boxed{4}", 0, 0),
    ("4", "<THINK>4</THINK>\n5", 0, 0),
    ("4", r"<think >\boxed{4}</think > 5", 0, 0),
    ("4", r"<reasoning>\boxed{4}</reasoning>5", 0, 0),
    ("5", r"<thought>\boxed{4}</thought>5", 1, 1),
    ("4", "\u25c1think\u25b7\\boxed{4}\u25c1/think\u25b7", 0, 0),
    ("4", r"<|begin_of_thought|>\boxed{4}<|end_of_thought|> 5", 0, 0),
    ("4", r"<|START_THINKING|>\boxed{4}<|END_THINKING|> 5", 0, 0),
    ("4", r"<|START_THINKING|>\boxed{4}", 0, 0),
    # commas
    ("1,2", r"\boxed{12}", 0, 0),
    ("1,2", r"\boxed{1, 2}", 1, 1),
    ("1,2", r"\boxed{1} and \boxed{2}", 1, 1),
    ("2", r"\boxed{1} or \boxed{2}", 0, 0),
    ("(1,2)", r"\boxed{(12)}", 0, 0),
    ("(1,2)", r"\boxed{(1, 2)}", 1, 1),
    ("0,1", "1", 0, 0),
    ("0,1", r"\boxed{01}", 0, 0),
    ("0,123", r"\boxed{0123}", 0, 0),
    ("1,23", r"\boxed{123}", 0, 0),
    ("1,2,345", r"\boxed{12345}", 0, 0),
    ("1,234,5", r"\boxed{12345}", 0, 0),
    ("(1,234)", r"\boxed{(1234)}", 0, 0),
    ("[1,234]", r"\boxed{[1234]}", 0, 0),
    (r"\{1,234\}", r"\boxed{\{1234\}}", 0, 0),
    ("1,234", r"\boxed{1234}", 1, 1),
    ("1234", r"\boxed{1,234}", 1, 1),
    ("12345678.9", "Answer: 12,345,678.9", 1, 1),
    ("-1234", r"\boxed{-1,234}", 1, 1),
    ("1234", "ans=$1,234.00", 1, 1),
    ("1234", r"\boxed{1{,}234}", 1, 1),
    ("1234", r"\boxed{1\,234}", 1, 1),
    ("235", r"\boxed{1\,234}", 0, 0),
    ("235", r"$1\,234$", 0, 0),
    (r"$1\,234$", "235", 0, 0),
    (r"$1\,234$", "1234", 1, 1),
    ("10236", r"\boxed{10,\!236}", 1, 1),
    ("1, 200", r"\boxed{1200}", 0, 0),
    ("100, 200, 300", r"\boxed{100200300}", 0, 0),
    ("2345", r"\boxed{2, 345}", 0, 0),
    ("1, 200", r"\boxed{1} and \boxed{200}", 1, 1),
    (r"\{100, 200\}", r"\boxed{\{100,200\}}", 1, 1),
    # dress
    ("-5", "\\boxed{\u22125}", 1, 1),
    ("-5", "Answer: \u22125", 1, 1),
    ("-5", "\u22125", 1, 1),
    ("5", "\\boxed{\u22125}", 0, 0),
    ("-5", "Answer: \u20135", 1, 1),
    ("(-1, 2)", "\\boxed{(\u20131, 2)}", 1, 1),
    ("1\u20135", "-5", 0, 0),
    ("42", r"\boxed{\text{42}}", 1, 1),
    ("42", r"\boxed{\$42}", 1, 1),
    ("42", r"\boxed{{42}}", 1, 1),
    ("42", r"\boxed{42.}", 1, 1),
    ("42", "It is\n**42**", 1, 1),
    ("42", "It is\n`42`.", 1, 1),
    ("no", "Answer: no", 1, 1),
    ("5", "Answer: no", 0, 0),
    ("42", "The answer is 42.0", 1, 1),
    (r"\text{Evelyn}", r"\boxed{Evelyn}", 1, 1),
    (PIECEWISE, rf"\boxed{{{PIECEWISE}}}", 1, 1),
    # equivalence is math-verify's
    ("x^2+1", "Answer: 1+x^2", 0, 1),
    ("0.5", r"\boxed{\frac{1}{2}}", 0, 1),
    ("0.5", r"\fbox{\frac{1}{2}}", 0, 1),
    ("42", "Answer: 42 cows", 0, 1),
    ("42", r"\boxed{42\%}", 0, 1),
    ("42", r"\boxed{42 \text{ dollars}}", 0, 1),
    ("42", r"\boxed{42\,\text{cm}}", 0, 1),
    # cut boxes
    ("4", r"\boxed{4}. No: \boxed{5", 0, 0),
    ("5", r"\boxed{4}. No: \boxed{5", 0, 0),
    ("5", r"\boxed{5", 0, 0),
    ("5", "\\boxed{4}\n\\boxed{\n5", 0, 0),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}", 0, 0),
    ("", "", 0, None),
]

SOLUTION = "3 at $5 are $<<3*5=15>>15, 2 more $<<15+2=17>>17.\nSo $15+$2=$17.\n#### 17"
TEACHER = r"They cost $5 and $6, so $x=11$. Thus \boxed{11}, and not $12$."
VERDICTS += [
    (SOLUTION, r"\boxed{17}", 1, 1),
    (SOLUTION, "17", 1, 1),
    (SOLUTION, "15", 0, 0),
    (SOLUTION, SOLUTION, 1, 1),
    (TEACHER, "11", 1, 1),
    (TEACHER, "12", 0, 0),
    (r"<think>\boxed{3}</think>\boxed{4}", "4", 1, 1),
    (r"<think>\boxed{3}</think>\boxed{4}", "3", 0, 0),
    ("Write <think> here", "Write <think> here</think>Write <think> here", 0, 0),
    ("$\\frac{1}{2}$", "Answer: 0.5", 0, 1),
]


@pytest.mark.parametrize(("gold", "text", "match", "math"), VERDICTS)
def test_right_answers_are_accepted_and_no_others(gold, text, match, math):
    pytest.importorskip("math_verify")
    problem = Problem("p", "?", gold)
    assert load_reward("match")(problem, text) == match
    assert load_reward("math")(problem, text) == math


def test_a_prompt_that_opens_a_thought_makes_the_response_begin_inside_it():
    messages = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "<think>"}]
    for prompt in ("2 + 3?<think>\n", messages):
        problem = Problem("p", prompt, "5")
        for reward in ("match", "math", "format"):
            assert load_reward(reward)(problem, r"so \boxed{5}") == 0.0
            assert load_reward(reward)(problem, r"so \boxed{4}?</think>\boxed{5}") == 1.0
    closed = Problem("p", "2 + 3?<think>\n\n</think>", "5")
    assert load_reward("match")(closed, r"\boxed{5}") == 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>5", None),
        ("<think>5</think>", None),
        (r"\boxed{5", None),
        ("", None),
        ("<think>4</think>Answer: 5", "5"),
        ("ans=1,000.0", "1000"),
        (r"\boxed{1000}", "1000"),
        (r"\boxed{1, 2}", "1,2"),
        ("it is +0.50", "it is +0.50"),
        ("+0.50", "0.5"),
        ("-0", "0"),
        ("1.5e3", "1500"),
        ("25e-1", "2.5"),
        ("1e999999999", "1e999999999"),
    ],
)
def test_votes_count_equal_answers_as_one_and_none_where_there_is_none(text, answer):
    assert answer_key(text) == answer


def test_a_thought_is_open_from_its_last_opening_tag_on():
    assert visible("no thought") == "no thought"
    assert visible("<think>a</think>b") == "b"
    assert visible("a</think>b</think>c") == "c"
    assert visible("<think>a</think>b<think>c") is None


PIECES = (
    *(
        "<answer>",
        "</answer>",
        "<answer>5</answer>",
        "\\boxed{",
        "\\boxed{5} and ",
        "\\boxed ",
        "{",
    ),
    *(
        "}",
        "\\",
        "\\fbox 5 ",
        "\\boxed -",
        "\\boxed{Answer: ",
        "Answer:",
        "Answer: $$",
        "answer is ",
    ),
    *("Final answer is: ", "A:\n", "####", "#### x\n", "ans=", "\n", " ", ".", "0", "1,", "1,234,"),
    *(
        "1{,}",
        "$",
        "\\(",
        "**",
        "I hope it is correct",
        "<think>",
        "</think>",
        "<",
        "and ",
        "\ud800",
    ),
)


def seconds(text: str) -> float:
    """Processor time of every judge that reads forms."""
    began = time.process_time()
    load_reward("match")(Problem("p", "?", "5"), text)
    load_reward("format")(Problem("p", "?", "5"), text)
    normalise(text)
    return time.process_time() - began


@pytest.mark.parametrize(
    "frame", ["%s", "\\boxed{%s}", "Answer: %s", "<answer>%s</answer>", "0%sx"]
)
def test_hostile_texts_take_time_in_proportion_to_their_length(frame):
    """Eight times the length takes far less than the 64 times of quadratic work; what else the
    process does may spoil one measurement, not five.
    """
    for piece in PIECES:
        short, long = (frame.replace("%s", piece * (n // len(piece))) for n in (4_000, 32_000))
        assert any(seconds(long) < 0.01 + 24 * seconds(short) for _ in range(5)), piece


def test_boxes_in_boxes_are_no_trouble():
    for depth in (10, 10**5):
        text = "\\boxed{" * depth + "5" + "}" * depth
        assert final_answer(text) == "5"
    assert final_answer("\\boxed{" + "{" * 10**5 + "5" + "}" * 10**5 + "}").count("{") == 10**5
