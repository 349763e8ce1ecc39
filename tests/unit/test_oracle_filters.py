"""What is kept of an oracle's answers, and what is dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genac.config.run import RunConfig
from genac.stages.traces.endpoint import agrees, best_reasoning, distinct, reasoning_of, trace
from genac.stages.traces.files import Trace, balanced, in_turn
from genac.stages.traces.states import Candidate, CandidateInputs, third
from genac.stages.traces.synthesize import calibrated
from genac.types import Rationale


def candidate(value: float | None = 0.5, problem: str = "p", partial: str = "x") -> Candidate:
    shown = {"id": problem, "prompt": "3+4", "answer": "7"}
    return Candidate(shown, partial, (1, 2), "start", 0.25, "2K", 1.0, value)


def rationale(text: str) -> Rationale:
    return Rationale((1,), (2,), np.zeros(1, np.float32), text, None)


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("All fine.\n<answer>7</answer>", "All fine.\n"),
        ("All fine. <answer>7</answer> Bye.", "All fine.\n"),
        ("First <answer>3</answer>, no: <answer>4</answer>", ""),
        ("Well <answer> <answer>4</answer>", ""),
        ("<think>hidden <answer>2</answer></think>Seen. <answer>4</answer>", "Seen.\n"),
        ("<think>hidden</think><answer>4</answer>", ""),
        ("<answer>4</answer>", ""),
        ("no score", ""),
        ("", ""),
    ],
)
def test_the_reasoning_is_what_stands_before_the_score(text: str, reasoning: str) -> None:
    assert reasoning_of(text) == reasoning


@pytest.mark.parametrize(
    ("score", "value", "kept"),
    [(8, 0.5, True), (9, 0.5, False), (2, 0.5, True), (1, 0.5, False), (0, None, True)],
)
def test_agreement_within_the_tolerance(score: int, value: float | None, kept: bool) -> None:
    assert agrees(score, candidate(value), 0.3) is kept


def test_the_critics_own_words_are_those_nearest_to_the_value() -> None:
    def best(*texts: str) -> tuple[str, str]:
        return best_reasoning(candidate(0.5), [rationale(t) for t in texts], 0.2)

    near, far = "Near. <answer>6</answer>", "Far. <answer>9</answer>"
    assert best(far, near) == ("Near.\n", "")
    assert best(far) == ("", "disagrees")
    assert best("nothing", "") == ("", "unparsable")
    assert best("<answer>5</answer>") == ("", "no_reasoning")
    assert best("<answer>5</answer>", near) == ("Near.\n", "")
    assert best() == ("", "unparsable")  # the prompt did not fit the critic's context


def test_copies_are_dropped_within_a_problem_only() -> None:
    def pair(problem: str, partial: str, words: str):
        result = candidate(problem=problem, partial=partial)
        return result, trace(result, words, 5)

    kept = distinct(
        [
            pair("p", "a", "Good so far."),
            pair("p", "a", "Another view of the same text."),
            pair("p", "b", "Good  so\nfar."),
            pair("q", "a", "Good so far."),
            pair("p", "c", ""),
            pair("p", "d", ""),
        ]
    )
    assert [(c.problem["id"], c.partial) for c, _ in kept] == [
        ("p", "a"),
        ("q", "a"),
        ("p", "c"),
        ("p", "d"),
    ]


def test_the_target_is_the_best_that_is_known() -> None:
    assert trace(candidate(0.5), "x", 5).target == 0.5
    assert trace(candidate(None), "x", 5).target == 1.0
    assert candidate(None).known == 1.0 and [third(v) for v in (0.2, 0.5, 1.0)] == [0, 1, 2]


def test_large_cells_lose_first() -> None:
    items = [(0, i) for i in range(50)] + [(1, i) for i in range(3)] + [(2, 0)]
    kept = in_turn(items, lambda item: (item[0],), 12, seed=1)
    assert [sum(cell == c for cell, _ in kept) for c in range(3)] == [8, 3, 1]
    assert kept != in_turn(items, lambda item: (item[0],), 12, seed=2)


@pytest.mark.parametrize(
    "load",
    [{"attn_implementation": "eager"}, {"chat_template_kwargs": {"enable_thinking": False}}],
    ids=str,
)
def test_candidates_of_an_actor_that_is_loaded_otherwise_are_others(load: dict) -> None:
    def made(**values: object) -> str:
        cfg = RunConfig.model_validate({"actor": {"load": values}})
        return CandidateInputs.of(cfg, Path("actor")).hash

    assert made(**load) != made() == made()


def test_calibrated_scores_are_means_over_states_judged_alike():
    """Two kinds of one guess get a score each. A kind of few states and states without a kind get
    the mean of all with their guess; one without any return keeps its own.
    """

    def some(count, score, target, kind=""):
        return [Trace({}, "", (), 0.5, "", score, target, kind=kind)] * count

    traces = [
        *some(8, 8, 0.4, "3 of 4"),
        *some(8, 8, 0.8, "2 of 3"),
        *some(4, 8, 0.1, "rare"),
        *some(4, 8, 0.3),
        *some(1, 5, None),
    ]
    scores = [t.score for t in calibrated(traces)]
    rest = round(10 * (8 * 0.4 + 8 * 0.8 + 4 * 0.1 + 4 * 0.3) / 24)
    assert scores == [4] * 8 + [8] * 8 + [rest] * 8 + [5]


@pytest.mark.parametrize("wrong", [0, 1])  # what a mistake's score is, before and after calibration
def test_states_behind_a_mistake_are_half_of_what_is_kept(wrong: int) -> None:
    scores = [wrong] * 30 + [7] * 60 + [10] * 60
    traces = [Trace({}, "x", (i,), 0.5, "", score, None) for i, score in enumerate(scores)]
    kept = balanced(traces, 40, seed=1)
    assert [t.score for t in kept].count(wrong) == 20
