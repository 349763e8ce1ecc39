"""Beam search and judged candidates on a scripted actor and critic, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import FixedCritic, ScriptedEngine, runtime_with, says

from genac.config.run import RolloutConfig, StatesConfig
from genac.critics.base import Critic
from genac.engines.base import Completion, Request
from genac.search.beam import beam_search
from genac.search.candidates import Searcher, draw, judged, values
from genac.states import split
from genac.types import Estimate, Problem, State

PROBLEM = Problem("p", "a>", answer="secret", extras={"hint": "secret"})

# What the actor writes after each text, in the order of the calls.
STORY = {
    "": ["b\n", "c\n", "d\n", "e\n"],
    "d\n": ["x\n", "ans=<eos>"],
    "e\n": ["y\n", "z\n"],
    "e\ny\n": ["ans=<eos>", "ans=<eos>"],
    "d\nx\n": ["ans=<eos>", "ans=<eos>"],
}
# What the critic thinks of each text.
OPINION = {
    "": 0.55,
    **{"b\n": 0.1, "c\n": None, "d\n": 0.6, "e\n": 0.5},
    **{"d\nx\n": 0.2, "e\ny\n": 0.9, "e\nz\n": 0.3},
    **{"d\nans=": 0.05, "e\ny\nans=": 0.7},
}


class Opinion(Critic):
    """Values by the text before the state; keeps its calls."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.partials = tokenizer, []

    def estimate(self, states: list[State], step: int) -> list[Estimate]:
        results = []
        for state in states:
            problem = state.rollout.problem
            assert (problem.answer, problem.extras, state.rollout.reward) == ("", {}, None)
            prefix = state.rollout.response_ids[: state.start]
            text = self.tokenizer.decode(prefix, skip_special_tokens=True)
            self.partials.append(text)
            results.append(Estimate(state, OPINION[text]))
        return results


@pytest.fixture
def search(tokenizer: Any, tiny_model: Any) -> Searcher:
    row: dict[str, int] = {}

    def script(request: Request) -> Completion:
        prompt = len(tokenizer.encode("a>"))
        text = tokenizer.decode(request.prompt_ids[prompt:])
        number = row[text] = row.get(text, -1) + 1
        text_now = STORY[text][number % len(STORY[text])]
        # What ends in a line is what the limit ended there: no token behind it was seen.
        done = says(tokenizer, text_now)
        return replace(done, finish="length") if text_now.endswith("\n") else done

    actor = runtime_with(ScriptedEngine(script), tokenizer, tiny_model)
    rollout = RolloutConfig(max_completion_length=20)
    return Searcher(actor, Opinion(tokenizer), rollout, StatesConfig(splitter="newline"))


def texts(results: list[Any]) -> list[tuple[str, float | None]]:
    return [(c.rollout.text, c.value) for c in results]


def test_beam_search_by_hand(search):
    """Round 1 keeps d and e. Round 2: d goes on to x (0.2) or ends, keeping its 0.6; e goes on to y
    (0.9) or z (0.3): y and the ended d are kept. Round 3: y ends and keeps 0.9; the same ending
    twice is one candidate."""
    result = beam_search(search, [PROBLEM], n=4, width=2)
    assert texts(result[0]) == [("e\ny\nans=", 0.9), ("d\nans=", 0.6)]
    # Causal: read at boundaries only, never after the last segment.
    assert search.critic.partials == ["", "b\n", "c\n", "d\n", "e\n", "d\nx\n", "e\ny\n", "e\nz\n"]


def test_beam_search_that_judges_ends(search):
    result = beam_search(search, [PROBLEM], n=4, width=2, at="end")
    # The ended d is now worth 0.05, so z (0.3) is kept with y; how z goes on does not matter.
    assert search.critic.partials[4:8] == ["d\nx\n", "d\nans=", "e\ny\n", "e\nz\n"]
    assert texts(result[0])[0] == ("e\ny\nans=", 0.7)


STORY["e\nz\n"] = ["ans=<eos>", "ans=<eos>"]
OPINION["e\nz\nans="] = 0.1


def test_a_beam_of_one_is_greedy_in_the_critic(search):
    result = beam_search(search, [PROBLEM], n=2, width=1)
    # b and c are offered; c has no score and loses to 0.1, and b's story is short.
    assert texts(result[0]) == [("b\nans=", 0.1)]


def scripted_search(tokenizer: Any, model: Any, story: Any, opinion: Any) -> Searcher:
    """Actor and critic by functions of the text so far; the actor ends where a request says so."""
    prompt = len(tokenizer.encode("a>"))

    def script(request: Request) -> Completion:
        full = says(tokenizer, story(tokenizer.decode(request.prompt_ids[prompt:])))
        lines = [i in request.line_ids for i in full.ids]
        ends = [i + 1 for i in range(1, len(lines)) if lines[i - 1] and not lines[i]]
        cut = min([*ends, len(lines)])
        return Completion(full.ids[:cut], full.logprobs[:cut], "stop")

    def value(state: State) -> float | None:
        return opinion(tokenizer.decode(state.rollout.response_ids[: state.start]))

    actor, states = runtime_with(ScriptedEngine(script), tokenizer, model), StatesConfig()
    cfg = RolloutConfig(max_completion_length=20)
    return Searcher(actor, FixedCritic(value), cfg, states)


def test_a_response_of_one_segment_has_the_value_of_the_empty_prefix(tokenizer, tiny_model):
    answer = iter(["ans=<eos>", "b\nans=<eos>"])
    opinions = {"": 0.5, "b\n": 0.2}
    search = scripted_search(tokenizer, tiny_model, lambda text: next(answer), opinions.__getitem__)
    assert texts(beam_search(search, [PROBLEM], n=2, width=1)[0]) == [("ans=", 0.5)]


def test_a_blank_line_belongs_to_the_segment_before_it(tokenizer, tiny_model):
    """Both first branches are b and a blank line. At that boundary the second branch begins with
    yet another blank line, so it is not of this boundary; the first goes on from the c that was
    seen."""
    queries: list[str] = []
    again = iter(["\n\nx\nans=<eos>"])
    story = {"": "b\n\nc\nans=<eos>", "b\n\nc": "\nans=<eos>", "b\n\nc\nans=": "<eos>"}

    def opinion(text: str) -> float:
        queries.append(text)
        return 0.5

    search = scripted_search(
        tokenizer, tiny_model, lambda text: story.get(text) or next(again, "ans=<eos>"), opinion
    )
    [[result]] = beam_search(search, [PROBLEM], n=2, width=1)
    assert result.rollout.text == "b\n\nc\nans=" and result.rollout.finish == "stop"
    assert len(result.rollout.logprobs) == len(result.rollout.response_ids)
    ids = result.rollout.response_ids
    states = split([result.rollout], search.states, tokenizer)
    assert list(dict.fromkeys(queries)) == [tokenizer.decode(ids[: s.start]) for s in states]


STORY["b\n"] = ["ans=<eos>", "ans=<eos>"]


def test_segments_by_length_and_the_response_limit(search, tokenizer):
    actor = runtime_with(
        ScriptedEngine(lambda r: Completion((5,) * r.max_new_tokens, zeros(r), "length")),
        tokenizer,
        search.actor.model,
    )

    class Half(Critic):
        def estimate(self, states: list[State], step: int) -> list[Estimate]:
            return [Estimate(s, 0.5) for s in states]

    windows = StatesConfig(splitter="window", window=3)
    cut = Searcher(actor, Half(), RolloutConfig(max_completion_length=7), windows)
    result = beam_search(cut, [PROBLEM], n=2)
    assert [len(c.rollout.response_ids) for c in result[0]] == [7]
    assert result[0][0].rollout.finish == "length"
    assert {r.max_new_tokens for r in actor.engine.requests} == {3, 1}


def zeros(request: Request) -> Any:
    import numpy as np

    return np.zeros(request.max_new_tokens, np.float32)


@pytest.mark.parametrize(("n", "width", "named"), [(2, 3, "--width is 3"), (2, 0, "--width is 0")])
def test_widths_that_make_no_sense(search, n, width, named):
    with pytest.raises(ValueError, match=named):
        beam_search(search, [PROBLEM], n=n, width=width)


def test_boundaries_known_only_afterwards_are_refused(search):
    other = Searcher(
        search.actor, search.critic, search.rollout, StatesConfig(splitter="low_probability")
    )
    with pytest.raises(ValueError, match="low_probability"):
        beam_search(other, [PROBLEM], n=2)


def test_candidates_are_judged_before_their_last_segment_or_after_it(tokenizer, tiny_model):
    script = ScriptedEngine(lambda r: says(tokenizer, "e\ny\nans=<eos>"))
    critic = Opinion(tokenizer)
    search = Searcher(
        runtime_with(script, tokenizer, tiny_model), critic, RolloutConfig(), StatesConfig()
    )
    groups = draw(search, [PROBLEM], 2)
    assert values(judged(search, groups, "last")[0]) == [0.9, 0.9]
    assert values(judged(search, groups, "end")[0]) == [0.7, 0.7]
    assert set(critic.partials) == {"e\ny\n", "e\ny\nans="}


def test_a_response_is_the_same_however_many_are_drawn(tokenizer, tiny_model):
    engine = ScriptedEngine(lambda r: says(tokenizer, "b"))
    search = Searcher(
        runtime_with(engine, tokenizer, tiny_model), None, RolloutConfig(), StatesConfig()
    )
    problems = [PROBLEM, PROBLEM]
    draw(search, problems, 2)
    few = [r.seed for r in engine.requests]
    engine.requests.clear()
    draw(search, problems, 5)
    many = [r.seed for r in engine.requests]
    assert few == many[:2] + many[5:7] and len(set(many)) == 10


def test_without_a_critic_only_votes_are_possible(search):
    alone = Searcher(search.actor, None, search.rollout, search.states)
    with pytest.raises(ValueError, match="--critic"):
        judged(alone, [], "last")
