"""The running critic: one pass over a response, with a note and a score behind every segment.

    prompt  note_0 score_0  segment_1  note_1 score_1  segment_2  ...

A note is written from what stands before it: the segments so far, and the critic's own notes about
them. So a value depends on nothing behind its state, and the states of a response share all that
was written before. Each rationale's prompt is everything before its note; the rationales of one
response are prefixes of each other, which the learner reads once.

All responses' notes of one depth are sampled together, then the next segments follow. The local
engine keeps no keys and values between calls: it reads the text so far again for every depth.

Shapes: _S state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genac.config.models import GenerativeConfig
from genac.config.run import RunConfig, StatesConfig
from genac.critics.base import rollouts_of, unique_states
from genac.critics.generative import GenerativeCritic
from genac.runtime import Runtime
from genac.seeding import derive_seed
from genac.states import segment_starts
from genac.types import Estimate, Rationale, Rollout, State

Ids = tuple[int, ...]
Written = list[Rationale | None]  # one per pass; None where the text so far did not fit


@dataclass(frozen=True)
class Place:
    """Where a note is written: behind a segment, or behind the prompt alone."""

    rollout: Rollout  # any response that passes through
    start: int  # of the segment that ends here, in the response
    end: int

    @property
    def key(self) -> Ids:
        """All that a note may depend on: prompt and response up to here."""
        return State(self.rollout, self.end, self.end).key

    @property
    def before(self) -> Ids:
        """Key of the place before."""
        return State(self.rollout, self.start, self.start).key


class RunningCritic(GenerativeCritic):
    """A generative critic that keeps notes. `num_samples` are independent passes.

    Notes stand at every segment that the configured splitter finds, and at a state that is asked
    about elsewhere: they depend on the response alone, never on which states are asked.
    """

    form = "running"
    max_states_applies = False
    reads_whole_responses = True

    def __init__(self, runtime: Runtime, actor: Runtime, cfg: GenerativeConfig, seed: int) -> None:
        super().__init__(runtime, actor, cfg, seed)
        self.actor_tokenizer = actor.tokenizer
        self.splitter: StatesConfig | None = None  # not needed to be taught

    def splits_as(self, cfg: RunConfig) -> None:
        self.splitter = cfg.states

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        """Notes from the beginning of each response up to its last state that is asked about."""
        unique, index = unique_states(states)
        if self.rate.value is None:  # as in the class above
            self.observe(rollouts_of(states))
        paths = [self.places(state) for state in unique]
        written: list[dict[Ids, Written]] = []
        for depth in range(max(map(len, paths), default=0)):
            level = {path[depth].key: path[depth] for path in paths if depth < len(path)}
            written.append(self._write(level, written[-1] if written else {}, step))
        results = []
        for path in paths:
            rationales = tuple(r for r in written[len(path) - 1][path[-1].key] if r is not None)
            results.append((self.value(rationales), rationales))
        return [
            Estimate(state, results[i][0], results[i][1], self.runtime.version)
            for state, i in zip(states, index, strict=True)
        ]

    def places(self, state: State) -> list[Place]:
        """Where notes are written up to a state, from the beginning of its response."""
        assert self.splitter is not None, "a critic that is asked knows how responses are cut"
        starts = segment_starts(state.rollout, self.splitter, self.actor_tokenizer)
        ends = [start for start in starts if start < state.start] + [state.start]
        return [
            Place(state.rollout, start, end) for start, end in zip([0, *ends], ends, strict=False)
        ]

    def _write(
        self, places: dict[Ids, Place], before: dict[Ids, Written], step: int
    ) -> dict[Ids, Written]:
        """The notes at places of one depth, behind those of the depth before."""
        keys, prompts, seeds = [], [], []
        for key, place in places.items():
            for number in range(self.cfg.num_samples):
                prompt = self._prompt(place, before, number)
                if prompt is not None:
                    keys.append((key, number))
                    prompts.append(prompt)
                    # Its own, so that no value depends on what else is asked.
                    seeds.append(derive_seed(self.seed, "note", step, number, *key))
        notes = self.think(prompts, seeds, 1)
        result: dict[Ids, Written] = {key: [None] * self.cfg.num_samples for key in places}
        for (key, number), rationales in zip(keys, notes, strict=True):
            result[key][number] = rationales[0] if rationales else None
        return result

    def _prompt(self, place: Place, before: dict[Ids, Written], number: int) -> Ids | None:
        """All that stands before a note; None where the note before could not be written."""
        context = self.context()
        if not before:
            return self.prompts.render_ids(place.rollout.problem, (), context)
        last = before[place.before][number]
        if last is None:
            return None
        segment = place.rollout.response_ids[place.start : place.end]
        more = self.prompts.segment_ids(segment, context)
        return last.prompt_ids + last.completion_ids + more
