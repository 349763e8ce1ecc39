"""The generative critic: a language model that reasons about a state and then writes its score.

estimate: one or more thoughts per unique state; the value is the parsed integer / 10, or the
expectation over the eleven scores. learn: REINFORCE on R_v = 1 - (r - v)^2.

Shapes: _S state, _T token, _W watched token (those with which scores begin).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genac.config import GenerativeConfig
from genac.critics.base import Metrics, pooled_returns, rollouts_of, unique_states
from genac.critics.parsing import CLOSE, SCORES
from genac.critics.prompts import Context, PromptBuilder, size_text, template
from genac.critics.score_tokens import ScoreReader, ScoreTokens, score_tokens
from genac.engines.base import Completion, Request
from genac.models.loading import parameter_count
from genac.ops.losses import critic_reward
from genac.ops.stats import RunningMean
from genac.rollout import stop_ids
from genac.runtime import Runtime
from genac.seeding import derive_seed
from genac.types import Estimate, Rollout, Sample, ScoreTarget, State, Thought

GRID = np.arange(SCORES) / (SCORES - 1)


class GenerativeCritic:
    """A Runtime whose task is to predict the return."""

    def __init__(self, runtime: Runtime, actor: Runtime, cfg: GenerativeConfig, seed: int) -> None:
        self.runtime: Runtime | None = runtime
        self._runtime, self.cfg, self.seed = runtime, cfg, seed
        self.prompts = PromptBuilder(template(cfg.prompt), runtime.tokenizer, actor.tokenizer)
        self.actor_size = cfg.icc.actor_size or size_text(parameter_count(actor.model))
        self.rate = RunningMean(cfg.icc.success_rate_momentum)
        self.scores = readable_scores(runtime.tokenizer, cfg)
        close = runtime.tokenizer.encode(CLOSE, add_special_tokens=False)
        self.stop_ids = (*stop_ids(runtime), *(close if len(close) == 1 else ()))
        self.stop = () if len(close) == 1 else (CLOSE,)
        self.reader = ScoreReader(runtime.tokenizer, self.scores)

    # --- values --------------------------------------------------------------------------------

    def observe(self, rollouts: Sequence[Rollout]) -> None:
        """Moves the running success rate by one batch of rollouts."""
        self.rate.update([r.reward for r in rollouts if r.reward is not None])

    def context(self) -> Context | None:
        """What the prompt says of the actor now; None where conditioning is off or nothing is
        known.
        """
        if not self.cfg.icc.enabled or self.rate.value is None:
            return None
        return Context(self.actor_size, self.rate.value)

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        """Identical states are asked once. A prompt beyond the context leaves the value missing."""
        unique, index = unique_states(states)
        if self.rate.value is None:  # the first batch sets it: a start at 0 would mislead for long
            self.observe(rollouts_of(states))
        context, room, cut = self.context(), self.room, self.cfg.too_long == "truncate"
        prompts = [self.prompts.render(state, context, room, cut) for state in unique]
        once = self.cfg.value_samples or self.cfg.num_samples
        counts = [self.cfg.num_samples if state.trains else once for state in unique]
        thoughts = self.think(prompts, derive_seed(self.seed, "thought", step), counts)
        return [
            Estimate(state, self.value(thoughts[i]), thoughts[i], self._runtime.version)
            for state, i in zip(states, index, strict=True)
        ]

    def think(
        self,
        prompts: Sequence[tuple[int, ...]],
        seed: int | Sequence[int],
        samples: int | Sequence[int] = 0,
    ) -> list[tuple[Thought, ...]]:
        """`samples` (0 = cfg.num_samples) thoughts per prompt, of one number or one per prompt;
        none for a prompt that does not fit.

        A single seed makes a prompt's thoughts depend on its place among the prompts; one seed per
        prompt makes them its own, whatever it is asked beside.
        """
        room, one = self.room, self.cfg.num_samples
        counts = [samples or one] * len(prompts) if isinstance(samples, int) else samples
        asked = [(i, k) for i, p in enumerate(prompts) if len(p) <= room for k in range(counts[i])]
        requests = [
            Request(
                prompt_ids=prompts[i],
                max_new_tokens=self.cfg.max_new_tokens,
                seed=derive_seed(seed, i, k) if isinstance(seed, int) else derive_seed(seed[i], k),
                temperature=self.cfg.temperature,
                stop_ids=self.stop_ids,
                stop=self.stop,
                watch_ids=self.scores.ids if self.scores else (),
                fork=self.reader if self.scores and self.scores.one is not None else None,
            )
            for i, k in asked
        ]
        found: dict[int, list[Thought]] = defaultdict(list)
        for (i, _), completion in zip(asked, self._runtime.sampler.generate(requests), strict=True):
            found[i].append(self._thought(prompts[i], completion))
        return [tuple(found[i]) for i in range(len(prompts))]

    @property
    def room(self) -> int:
        """Tokens a prompt may have; ValueError where none is left beside the thought."""
        room = self._runtime.max_length - self.cfg.max_new_tokens
        if room < 1:
            raise ValueError(
                f"critic.generative.max_new_tokens {self.cfg.max_new_tokens} leaves no room for a "
                "prompt in the "
                f"critic's context of {self._runtime.max_length}; lower it or use a "
                "longer-context critic"
            )
        return room

    def _thought(self, prompt_ids: tuple[int, ...], completion: Completion) -> Thought:
        text, score, at = self.reader.parse(completion.ids)
        value = None if score is None else score / (SCORES - 1)
        written = (prompt_ids, completion.ids, completion.logprobs, text, value, at)
        thought = Thought(*written, entropies=completion.entropies)
        tokens, watched = self.scores, completion.watched
        # The alternatives of a score that was begun with another token were not watched.
        if tokens is None or at is None or completion.ids[at] not in tokens.ids:
            return thought
        if not watched.size or not watched[at].any():
            return thought
        behind = watched[at + 1] if completion.ids[at] == tokens.one else completion.forked
        probs, after_one = tokens.read(watched[at], behind)
        return replace(thought, score_probs=probs, after_one=after_one)

    def value(self, thoughts: Sequence[Thought]) -> float | None:
        """Mean over the thoughts that gave a score."""
        read = [t.expected if self.cfg.readout == "expected" else t.value for t in thoughts]
        known = [v for v in read if v is not None]
        return sum(known) / len(known) if known else None

    # --- learning ------------------------------------------------------------------------------

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        """REINFORCE on the thoughts of the estimated states."""
        counts = self._lengths(estimates)
        estimates = [e for e in estimates if e.state.trains]
        states = [e.state for e in estimates]
        targets = (
            pooled_returns(states) if self.cfg.pool_states else [s.rollout.reward for s in states]
        )
        chosen = self._training_set(estimates, targets)
        if not chosen:
            return counts
        samples, rewards = self._samples(chosen)
        measured = self._runtime.learner.learn(samples, seed=derive_seed(self.seed, "critic", step))
        return counts | {
            "critic/reward": float(np.mean(rewards)),
            **{f"critic/{k}": v for k, v in measured.items()},
        }

    def _lengths(self, estimates: Sequence[Estimate]) -> Metrics:
        """How often a prompt was too long: not asked at all, or with the middle left out."""
        if not estimates:
            return {}
        full = [any(len(t.prompt_ids) == self.room for t in e.thoughts) for e in estimates]
        return {
            "critic/unasked_rate": float(np.mean([not e.thoughts for e in estimates])),
            "critic/truncated_rate": float(np.mean(full)) if self.cfg.too_long != "drop" else 0.0,
        }

    def _training_set(
        self, estimates: Sequence[Estimate], targets: Sequence[float | None]
    ) -> list[tuple[float, tuple[Thought, ...]]]:
        """(target, thoughts) per trained state; pooled states once."""
        pairs = [
            (estimate.state.key, target, estimate.thoughts)
            for estimate, target in zip(estimates, targets, strict=True)
            if target is not None and estimate.thoughts
        ]
        if self.cfg.pool_states:
            pairs = list({key: (key, target, thoughts) for key, target, thoughts in pairs}.values())
        return [(target, thoughts) for _, target, thoughts in pairs]

    def _samples(
        self, chosen: list[tuple[float, tuple[Thought, ...]]]
    ) -> tuple[list[Sample], np.ndarray]:
        exact = self.cfg.exact_score_gradient
        rewards = [
            [self._reward(thought, target, expected=exact) for thought in thoughts]
            for target, thoughts in chosen
        ]
        baselines = self._baselines(chosen, rewards)
        samples = [
            thought_sample(
                thought, reward - baseline, target, self.scores if exact else None, self.cfg
            )
            for (target, thoughts), row, base_row in zip(chosen, rewards, baselines, strict=True)
            for thought, reward, baseline in zip(thoughts, row, base_row, strict=True)
        ]
        return samples, np.array([r for row in rewards for r in row])

    @staticmethod
    def _reward(thought: Thought, target: float, *, expected: bool) -> float:
        """R_v; 0 for a missing score. With the exact score gradient, its expectation over the
        scores.
        """
        if thought.value is None:
            return 0.0
        if expected and thought.score_probs is not None:
            return float(thought.score_probs @ critic_reward(GRID, target))
        return critic_reward(thought.value, target)

    def _baselines(
        self, chosen: list[tuple[float, tuple[Thought, ...]]], rewards: list[list[float]]
    ) -> list[list[float]]:
        """0, or the mean reward of the other thoughts about the same state, or (with one thought
        per state) of the other states with the same outcome.
        """
        if self.cfg.reinforce_baseline == "none":
            return [[0.0] * len(row) for row in rewards]
        if self.cfg.num_samples > 1:
            return [leave_one_out_mean(row) for row in rewards]
        pools: dict[bool, list[int]] = defaultdict(list)
        for index, (target, _) in enumerate(chosen):
            pools[target >= 0.5].append(index)
        out = [[0.0] * len(row) for row in rewards]
        for members in pools.values():
            owners = [id(chosen[i][1][0]) for i in members]
            means = leave_one_out_mean([rewards[i][0] for i in members], owners)
            for i, mean in zip(members, means, strict=True):
                out[i] = [mean]
        return out

    def state(self) -> dict[str, Any]:
        return {
            "success_rate": self.rate.state(),
            "prompt_hash": self.prompts.template.hash,
            "actor_size": self.actor_size,
        }

    def require_prompt(self, found: str | None) -> None:
        """ValueError where a critic trained under another prompt would be asked with this one."""
        wanted = self.prompts.template.hash
        if found != wanted and not self.cfg.force_prompt:
            raise ValueError(
                f"the critic was trained under prompt {found}, this run asks with {wanted} "
                f"({self.cfg.prompt!r}); set critic.generative.prompt back, start from another "
                "critic, or set critic.generative.force_prompt to go on anyway"
            )

    def restore(self, state: dict[str, Any]) -> None:
        self.require_prompt(state.get("prompt_hash"))
        self.rate = RunningMean.from_state(state["success_rate"])


def readable_scores(tokenizer: Any, cfg: GenerativeConfig) -> ScoreTokens | None:
    """The score tokens whose probabilities are read; None where they cannot be, which is warned of
    if the config needs them, or where reading them costs tokens that it does not need.
    """
    found = score_tokens(tokenizer)
    needed = cfg.readout == "expected" or cfg.exact_score_gradient
    if found is None and needed:
        warnings.warn(
            "the critic's tokenizer writes some of the digits 0..9 as several tokens, so values "
            "are the sampled integers and the score is trained by REINFORCE; set "
            "critic.generative.readout to sampled and exact_score_gradient to false to say so",
            stacklevel=3,
        )
    return found if found is None or found.one is None or needed else None


def leave_one_out_mean(
    rewards: Sequence[float], owners: Sequence[int] | None = None
) -> list[float]:
    """For each entry the mean of the others; of itself where it is alone (its advantage is then 0).

    Entries of one owner are copies of one thought (identical states share it) and no others to each
    other.
    """
    owners = range(len(rewards)) if owners is None else owners
    own: dict[int, list[float]] = defaultdict(list)
    for owner, reward in zip(owners, rewards, strict=True):
        own[owner].append(reward)
    total, count = sum(rewards), len(rewards)
    return [
        (total - sum(own[o])) / (count - len(own[o])) if count > len(own[o]) else r
        for o, r in zip(owners, rewards, strict=True)
    ]


def thought_sample(
    thought: Thought,
    advantage: float,
    target: float,
    scores: ScoreTokens | None,
    cfg: GenerativeConfig,
) -> Sample:
    """A policy Sample over the completion; with `scores` the score's tokens are trained exactly
    instead, and the reasoning, whose gradient is noisy, weighs cfg.reasoning_weight."""
    ids = thought.prompt_ids + thought.completion_ids
    first = len(thought.prompt_ids)
    mask, old = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.float32)
    mask[first:], old[first:] = 1.0, thought.logprobs
    exact: tuple[ScoreTarget, ...] = ()
    if scores is not None and thought.score_probs is not None:
        exact = scores.targets(thought, first, critic_reward(GRID, target))
        mask[first:] = cfg.reasoning_weight
        mask[[one.at for one in exact]] = 0.0
    return Sample(
        ids=ids,
        mask=mask,
        loss="policy",
        advantages=np.where(mask > 0, np.float32(advantage), np.float32(0)),
        old_logprobs=old,
        scores=exact,
        temperature=cfg.temperature or 1.0,
    )
