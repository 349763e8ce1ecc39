"""The length experiment's own arithmetic: tokens per value, and claims over several panels."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import make_rollout

from genac.types import Estimate, Rationale, State
from paper.length import costs, read_once
from paper.length_report import HALF, judge, p_of


def rationale(prompt: tuple[int, ...], completion: tuple[int, ...]) -> Rationale:
    return Rationale(prompt, completion, np.zeros(len(completion), np.float32), "", None)


def test_what_two_texts_begin_with_is_read_once_and_what_was_written_never():
    thoughts = [((1, 2, 9), (7, 8)), ((1, 2, 3, 9), (7, 7))]
    assert read_once(thoughts) == 5  # 1 2 9 and 3 9
    notes = [((1, 2), (7,)), ((1, 2, 7, 3), (8,)), ((1, 2, 7, 3, 8, 4), (6,))]
    assert read_once(notes) == 4  # 1 2, 3, 4
    twice = [((1, 2), (7,)), ((1, 2), (5,))]  # two samples
    assert read_once(twice) == 2


def test_tokens_are_counted_per_value():
    rollout = make_rollout((5, 6), prompt=(3, 4))
    one, two = State(rollout, 0, 1), State(rollout, 1, 2)
    estimates = [
        Estimate(one, 0.5, (rationale((3, 4), (9,)), rationale((3, 4), (8, 9)))),
        Estimate(two, 0.5, (rationale((3, 4, 5), (9,)), rationale((3, 4, 5), (9,)))),
    ]
    assert costs(estimates, 20) == {"written": 2.5, "read": 1.5, "processed": 10.0}
    head = [Estimate(one, 0.5), Estimate(two, 0.5)]
    assert costs(head, 4) == {"written": 0.0, "read": 1.5, "processed": 2.0}


def ratios(*by_training: float) -> dict:
    low, high = min(by_training), max(by_training)
    return {"value": low, "low": low, "high": high, "by_training": list(by_training)}


def test_a_claim_holds_where_its_weakest_panel_shows_it():
    strong, weak = ratios(0.20, 0.21, 0.22), ratios(0.30, 0.40, 0.49)
    assert p_of({"near": strong}, HALF) < 0.01 < p_of({"near": strong, "far": weak}, HALF)
    assert p_of({"near": strong, "far": ratios(0.6, 0.7)}, HALF) == 1.0
    verdicts = [r["verdict"] for r in judge({"a": {"near": strong, "far": weak}}, HALF)]
    assert verdicts == ["undecided"]
    assert judge({"a": {"near": strong}}, HALF)[0]["verdict"] == "agrees"
    assert judge({"a": {"far": ratios(0.6, 0.7, 0.8)}}, HALF)[0]["verdict"] == "disagrees"


def test_several_claims_are_corrected_for_each_other():
    one = {"near": ratios(0.35, 0.38, 0.41)}
    alone, among = (
        judge({str(i): one for i in range(n)}, HALF)[0]["ours"].split("p ")[1] for n in (1, 5)
    )
    assert float(among) == pytest.approx(5 * float(alone), abs=0.003)
