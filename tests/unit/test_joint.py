"""Joint training: which states get values, and which train the critic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fakes import make_rollout

from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.critics.discriminative import DiscriminativeCritic
from genac.critics.generative import GenerativeCritic
from genac.stages.joint import states_to_value

# Per problem the rewards of its responses; one response is not scored.
REWARDS = [(1.0, 1.0), (0.0, 1.0), (0.0, None), (0.0, 0.0)]
GROUPS = [
    [make_rollout((5 + g, 6 + m, 7, 8), r, member=m, group=g) for m, r in enumerate(pair)]
    for g, pair in enumerate(REWARDS)
]
ACTOR: Any = SimpleNamespace(tokenizer=None)  # windows need none
# Of a critic only its facts count here.
GENERATIVE: Any = GenerativeCritic
HEAD: Any = DiscriminativeCritic


def config(algorithm: str = "genac", **joint: Any) -> RunConfig:
    states = {"splitter": "window", "window": 2}
    credit = {"granularity": "states"}
    stages = {"joint": joint}
    return resolve({"algorithm": algorithm, "states": states, "credit": credit, "stages": stages})


def keys(states: list[Any]) -> set[tuple[int, ...]]:
    return {state.key for state in states}


def test_by_default_every_state_is_judged_and_trains():
    states = states_to_value(GROUPS, GENERATIVE, config(), ACTOR, 0)
    assert len(states) == 16 and all(s.trains for s in states)


def test_a_limit_marks_whole_classes_drawn_anew_at_every_step():
    cfg = config(max_states=3)
    draws = []
    for step in range(8):
        states = states_to_value(GROUPS, GENERATIVE, cfg, ACTOR, step)
        assert len(states) == 16
        marked = [s for s in states if s.trains]
        assert len(keys(marked)) == 3 and not keys(marked) & keys(
            [s for s in states if not s.trains]
        )
        assert marked == [
            s for s in states_to_value(GROUPS, GENERATIVE, cfg, ACTOR, step) if s.trains
        ]
        draws.append(frozenset(keys(marked)))
    assert len(set(draws)) > 4


def test_a_value_head_trains_on_all_states_whatever_the_limit():
    states = states_to_value(GROUPS, HEAD, config("ppo", max_states=3), ACTOR, 0)
    assert len(states) == 16 and all(s.trains for s in states)
