"""Joint training: which states are asked for values, which train the critic, and whose values
assign credit.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fakes import make_rollout

from genac.config import CreditConfig, RunConfig
from genac.credit import credit
from genac.recipes import resolve
from genac.stages.joint import asked, assigns
from genac.types import Estimate

# Per problem the rewards of its responses; one response is not scored.
REWARDS = [(1.0, 1.0), (0.0, 1.0), (0.0, None), (0.0, 0.0)]
GROUPS = [
    [make_rollout((5 + g, 6 + m, 7, 8), r, member=m, group=g) for m, r in enumerate(pair)]
    for g, pair in enumerate(REWARDS)
]
ACTOR: Any = SimpleNamespace(tokenizer=None)  # windows need none


def config(algorithm: str = "genac", **joint: Any) -> RunConfig:
    states = {"splitter": "window", "window": 2}
    credit = {"granularity": "states"}
    stages = {"joint": joint}
    return resolve({"algorithm": algorithm, "states": states, "credit": credit, "stages": stages})


def keys(states: list[Any]) -> set[tuple[int, ...]]:
    return {state.key for state in states}


def test_by_default_every_state_is_asked_and_trains():
    states = asked(GROUPS, config(), ACTOR, 0)
    assert len(states) == 16 and all(s.trains for s in states)
    assert all(assigns(group, config()) for group in GROUPS)


def test_a_limit_marks_whole_classes_drawn_anew_at_every_step():
    cfg = config(max_states=3)
    draws = []
    for step in range(8):
        states = asked(GROUPS, cfg, ACTOR, step)
        assert len(states) == 16
        marked = [s for s in states if s.trains]
        assert len(keys(marked)) == 3 and not keys(marked) & keys(
            [s for s in states if not s.trains]
        )
        assert marked == [s for s in asked(GROUPS, cfg, ACTOR, step) if s.trains]
        draws.append(frozenset(keys(marked)))
    assert len(set(draws)) > 4


def test_disputed_problems_are_asked_and_what_trains_the_critic():
    cfg = config(max_states=3, judge="disputed")
    assert [assigns(group, cfg) for group in GROUPS] == [False, True, False, False]
    everything = asked(GROUPS, config(max_states=3), ACTOR, 0)
    wanted = [s for s in everything if s.trains or s.rollout.group == 1]
    assert asked(GROUPS, cfg, ACTOR, 0) == wanted and 4 <= len(wanted) < 16


@pytest.mark.parametrize(("algorithm", "count"), [("vineppo", 4), ("grpo", 0)])
def test_nothing_is_asked_for_training_where_nothing_is_trained(algorithm, count):
    states = asked(GROUPS, config(algorithm, max_states=3, judge="disputed"), ACTOR, 0)
    assert len(states) == count


def test_a_value_head_trains_on_all_states_whatever_the_limit():
    states = asked(GROUPS, config("ppo", max_states=3), ACTOR, 0)
    assert len(states) == 16 and all(s.trains for s in states)


@pytest.mark.parametrize(("algorithm", "limit"), [("genac", None), ("ppo", 3)])
def test_leaving_problems_unjudged_must_save_something(algorithm, limit):
    with pytest.raises(ValueError, match=r"judge is 'disputed'.*max_states"):
        config(algorithm, max_states=limit, judge="disputed")


def test_problems_without_values_have_no_advantage_where_outcomes_agree():
    cfg = config(judge="disputed", max_states=3)
    estimates = [Estimate(s, 0.5) for s in asked(GROUPS, cfg, ACTOR, 0)]
    valued = [e for e in estimates if assigns(GROUPS[e.state.rollout.group], cfg)]
    found = credit(GROUPS, valued, CreditConfig(), 1.0)
    means = [s.advantages[2:].mean() for s in found.samples if s.advantages is not None]
    assert means == [0, 0, -0.5, 0.5, 0, 0, 0]
