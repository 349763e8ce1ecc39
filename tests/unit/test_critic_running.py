"""The running critic: what a note sees, and that asking more changes nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fakes import make_rollout

from genac.config.models import GenerativeConfig
from genac.config.run import StatesConfig
from genac.critics.running import RunningCritic
from genac.prefixes import prefix_groups
from genac.types import State


@pytest.fixture
def critic(tiny_runtime) -> RunningCritic:
    runtime = tiny_runtime()
    options = {"form": "running", "prompt": "compact", "max_new_tokens": 4, "temperature": 0.0}
    result = RunningCritic(runtime, runtime, GenerativeConfig(**options), seed=0)
    result.splitter = StatesConfig(splitter="window", window=2)
    result.set_success_rate(0.5)
    return result


def states(response) -> list[State]:
    rollout = make_rollout(response)
    return [State(rollout, start, start + 2) for start in range(0, len(response), 2)]


def written(estimates) -> list[tuple]:
    return [(e.value, [(r.prompt_ids, r.completion_ids) for r in e.rationales]) for e in estimates]


def test_a_note_depends_on_nothing_behind_its_state(critic):
    one = critic.estimate(states((5, 6, 7, 8, 9, 10)), step=0)
    other = critic.estimate(states((5, 6, 7, 8, 12, 13)), step=0)
    assert written(one) == written(other)  # they differ behind the last state only
    changed = critic.estimate(states((5, 6, 11, 8, 9, 10)), step=0)
    assert written(one)[:2] == written(changed)[:2] and written(one)[2] != written(changed)[2]


def test_one_pass_gives_what_each_state_gets_alone(critic):
    asked = states((5, 6, 7, 8, 9, 10))
    together = critic.estimate(asked, step=0)
    alone = [critic.estimate([state], step=0)[0] for state in asked]
    assert all(e.rationales for e in together) and written(together) == written(alone)


def test_the_rationales_of_a_response_are_read_once(critic):
    estimates = critic.estimate(states((5, 6, 7, 8, 9, 10)), step=0)
    rows = [r.prompt_ids + r.completion_ids for e in estimates for r in e.rationales]
    assert all(b[: len(a)] == a for a, b in pairwise(rows))
    assert sum(group.tokens for group in prefix_groups(rows)) == len(rows[-1])
