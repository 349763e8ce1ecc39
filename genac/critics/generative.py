"""The generative critic: a language model that reasons about a state and then writes its score.

estimate: one or more rationales per unique state; the value is the parsed integer / 10, or the
expectation over the eleven scores. learn: REINFORCE on R_v = 1 - (r - v)^2.

Shapes: _S state, _T token, _W watched token (those with which scores begin).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from genac.config.models import GenerativeConfig
from genac.config.run import RunConfig
from genac.critics.base import (
    CriticInputs,
    Metrics,
    TrainableCritic,
    rollouts_of,
    unique_states,
)
from genac.critics.prompts import Context, PromptBuilder, size_text
from genac.critics.reinforce import rationale_samples, training_set
from genac.critics.running_prompt import prompt_of
from genac.critics.saved import critic_card
from genac.critics.scores import CLOSE, SCORES, ScoreReader, ScoreTokens, score_tokens
from genac.distributed.build import build
from genac.engines.base import Completion, Request
from genac.models.loading import parameter_count
from genac.ops.stats import RunningMean
from genac.rollout import stop_ids
from genac.runtime import Runtime
from genac.seeding import derive_seed
from genac.types import Estimate, Rationale, Rollout, State


class GenerativeCritic(TrainableCritic):
    """A Runtime whose task is to predict the return.

    Its prompt may say how large and how able the actor is (in-context conditioning), so that one
    critic can follow an actor that improves.
    """

    needs_traces = True
    max_states_applies = True
    form: ClassVar[str] = "per_state"

    def __init__(self, runtime: Runtime, actor: Runtime, cfg: GenerativeConfig, seed: int) -> None:
        if cfg.form != self.form:
            require_per_state(cfg, "what was to be done with it")
        self.runtime = runtime
        self.cfg = cfg
        self.seed = seed
        self.prompts = PromptBuilder(prompt_of(cfg), runtime.tokenizer, actor.tokenizer)
        self.actor_size = cfg.icc.actor_size or size_text(parameter_count(actor.model))
        # Smoothed over steps, since a single one holds few problems.
        self.rate = RunningMean(cfg.icc.success_rate_momentum)
        self.scores = readable_scores(runtime.tokenizer, cfg)
        # Generation ends with the closing tag: by its token where it is one, else by its text.
        close = runtime.tokenizer.encode(CLOSE, add_special_tokens=False)
        self.stop_ids = (*stop_ids(runtime), *(close if len(close) == 1 else ()))
        self.stop = () if len(close) == 1 else (CLOSE,)
        self.reader = ScoreReader(runtime.tokenizer, self.scores)

    @classmethod
    def build(cls, inputs: CriticInputs) -> GenerativeCritic:
        """From a folder of a critic or of any language model.

        Raises ValueError where the critic in the folder was trained under another prompt.
        """
        assert inputs.path is not None
        cfg, card = inputs.cfg.critic.generative, critic_card(inputs.path)
        critic = cls.of_form(cfg)(cls.model_of(inputs), inputs.actor, cfg, inputs.cfg.seed)
        critic.splits_as(inputs.cfg)
        if card:
            critic.require_prompt(card.get("prompt_hash"))
        return critic

    @classmethod
    def of_form(cls, cfg: GenerativeConfig) -> type[GenerativeCritic]:
        """The class of the configured form."""
        from genac.critics.running import RunningCritic  # a subclass of this one

        return RunningCritic if cfg.form == "running" else GenerativeCritic

    def splits_as(self, cfg: RunConfig) -> None:
        """Takes over how responses are cut, where values depend on it."""

    @staticmethod
    def model_of(inputs: CriticInputs) -> Runtime:
        """The critic's model: its own, or a second set of adapters on the actor's base."""
        assert inputs.path is not None
        card, actor = critic_card(inputs.path), inputs.actor
        # Adapters belong to the weights they were trained on: those of the actor as it was loaded
        # for training. A finished run's actor is another base, so its critic comes by itself.
        start = not card and str(inputs.path) == actor.tokenizer.name_or_path
        trained = bool(card) and card.get("base") == actor.base()
        shared = inputs.cfg.critic.share_base and (start or trained)
        spec = inputs.spec(trained=shared and trained)
        return build(spec, inputs.hardware, actor if shared else None)

    # --- values --------------------------------------------------------------------------------

    def set_success_rate(self, rate: float | None) -> None:
        """The rate that prompts state until the next `observe`; None = nothing is known."""
        self.rate.value = rate

    def observe(self, rollouts: Sequence[Rollout]) -> None:
        """Moves the running success rate by one batch of rollouts."""
        self.rate.update([r.reward for r in rollouts if r.reward is not None])

    def context(self) -> Context | None:
        """What the prompt says of the actor now; None where that is nothing."""
        if not self.cfg.icc.enabled or self.rate.value is None:
            return None
        return Context(self.actor_size, self.rate.value)

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        """Identical states are asked once. A prompt beyond the context leaves the value missing."""
        unique, index = unique_states(states)
        if self.rate.value is None:  # the first batch sets it: a start at 0 would mislead for long
            self.observe(rollouts_of(states))
        context = self.context()
        cut = self.cfg.too_long == "truncate"
        prompts = [self.prompts.render(state, context, self.room, cut) for state in unique]
        # Several samples lower the noise of REINFORCE; for a value alone fewer may do.
        once = self.cfg.value_samples or self.cfg.num_samples
        counts = [self.cfg.num_samples if state.trains else once for state in unique]
        rationales = self.think(prompts, derive_seed(self.seed, "thought", step), counts)
        return [
            Estimate(state, self.value(rationales[i]), rationales[i], self.runtime.version)
            for state, i in zip(states, index, strict=True)
        ]

    def think(
        self,
        prompts: Sequence[tuple[int, ...]],
        seed: int | Sequence[int],
        samples: int | Sequence[int] = 0,
    ) -> list[tuple[Rationale, ...]]:
        """`samples` (0 = cfg.num_samples) rationales per prompt, of one number or one per prompt;
        none for a prompt that does not fit.

        A single seed makes a prompt's rationales depend on its place among the prompts; one seed
        per prompt makes them its own, whatever it is asked beside.
        """
        room, one = self.room, self.cfg.num_samples
        counts = [samples or one] * len(prompts) if isinstance(samples, int) else samples
        queries = [
            (i, k) for i, p in enumerate(prompts) if len(p) <= room for k in range(counts[i])
        ]
        # With the probabilities of the score's tokens the whole distribution is read, not one draw.
        requests = [
            Request(
                prompt_ids=prompts[i],
                max_new_tokens=self.cfg.max_new_tokens,
                seed=derive_seed(seed, i, k) if isinstance(seed, int) else derive_seed(seed[i], k),
                temperature=self.cfg.temperature,
                stop_ids=self.stop_ids,
                stop=self.stop,
                token_prob_ids=self.scores.ids if self.scores else (),
                probe=self.reader if self.scores and self.scores.one is not None else None,
            )
            for i, k in queries
        ]
        result: dict[int, list[Rationale]] = defaultdict(list)
        for (i, _), completion in zip(
            queries, self.runtime.sampler.generate(requests), strict=True
        ):
            result[i].append(self._rationale(prompts[i], completion))
        return [tuple(result[i]) for i in range(len(prompts))]

    @property
    def room(self) -> int:
        """Tokens a prompt may have; ValueError where none is left beside the rationale."""
        room = self.runtime.max_length - self.cfg.max_new_tokens
        if room < 1:
            raise ValueError(
                f"critic.generative.max_new_tokens {self.cfg.max_new_tokens} leaves no room for a "
                f"prompt in the critic's context of {self.runtime.max_length}; lower it or use a "
                "critic with a longer context"
            )
        return room

    def _rationale(self, prompt_ids: tuple[int, ...], completion: Completion) -> Rationale:
        text, score, at = self.reader.parse(completion.ids)
        rationale = Rationale(
            prompt_ids,
            completion.ids,
            completion.logprobs,
            text,
            value=None if score is None else score / (SCORES - 1),
            score_at=at,
            entropies=completion.entropies,
        )
        tokens, token_probs = self.scores, completion.token_probs
        # The alternatives of a score that was begun with another token were not watched.
        if tokens is None or at is None or completion.ids[at] not in tokens.ids:
            return rationale
        # an engine that names no probabilities
        if not token_probs.size or not token_probs[at].any():
            return rationale
        # Where 10 is two tokens, what may follow a 1 is needed: known if a 1 was written, else it
        # was asked for as a counterfactual.
        behind = token_probs[at + 1] if completion.ids[at] == tokens.one else completion.probe_probs
        probs, after_one = tokens.read(token_probs[at], behind)
        return replace(rationale, score_probs=probs, after_one=after_one)

    def value(self, rationales: Sequence[Rationale]) -> float | None:
        """Mean over the rationales that gave a score; None where none did."""
        read = [t.expected if self.cfg.readout == "expected" else t.value for t in rationales]
        # A rationale without a score is no value; counted as 0 it would say "hopeless".
        known = [v for v in read if v is not None]
        return sum(known) / len(known) if known else None

    # --- learning ------------------------------------------------------------------------------

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        """REINFORCE on the rationales of the estimated states."""
        counts = self._lengths(estimates)
        # The other states were valued for the actor's credit alone.
        chosen = training_set([e for e in estimates if e.state.trains], self.cfg)
        if not chosen:
            return counts
        samples, rewards = rationale_samples(chosen, self.scores, self.cfg)
        measured = self.runtime.learner.learn(samples, seed=derive_seed(self.seed, "critic", step))
        return counts | {
            "critic/reward": float(np.mean(rewards)),
            **{f"critic/{k}": v for k, v in measured.items()},
        }

    def _lengths(self, estimates: Sequence[Estimate]) -> Metrics:
        """How often a prompt was too long: not asked at all, or with the middle left out."""
        if not estimates:
            return {}
        # A prompt with the middle left out fills its room exactly; hardly any other does.
        full = [any(len(t.prompt_ids) == self.room for t in e.rationales) for e in estimates]
        return {
            "critic/unasked_rate": float(np.mean([not e.rationales for e in estimates])),
            "critic/truncated_rate": float(np.mean(full)) if self.cfg.too_long != "drop" else 0.0,
        }

    def state(self) -> dict[str, Any]:
        return {
            "success_rate": self.rate.state(),
            "prompt_hash": self.prompts.template.hash,
            "actor_size": self.actor_size,
        }

    def require_prompt(self, result: str | None) -> None:
        """ValueError where a critic trained under another prompt would be asked with this one."""
        expected = self.prompts.template.hash
        if result != expected and not self.cfg.force_prompt:
            raise ValueError(
                f"the critic was trained under prompt {result}, this run asks with {expected} "
                f"({self.prompts.template.name!r}); set critic.generative.prompt back, start from "
                "another critic, or set critic.generative.force_prompt to go on anyway"
            )

    def restore(self, state: dict[str, Any]) -> None:
        self.require_prompt(state.get("prompt_hash"))
        self.rate = RunningMean.from_state(state["success_rate"])


def require_per_state(cfg: GenerativeConfig, what: str) -> None:
    """ValueError where a critic that keeps notes would be asked about single states."""
    if cfg.form != "per_state":
        raise ValueError(
            f"critic.generative.form is {cfg.form!r}: it reads whole responses from their "
            f"beginning, and {what} asks about one prompt at a time; use a critic of form "
            "per_state (training, 'genac eval' and 'genac generate' take both)"
        )


def readable_scores(tokenizer: Any, cfg: GenerativeConfig) -> ScoreTokens | None:
    """The score tokens whose probabilities are read; None where they cannot be, which is warned of
    if the config needs them, or where reading them costs tokens that it does not need.
    """
    result = score_tokens(tokenizer)
    needed = cfg.readout == "expected" or cfg.exact_score_gradient
    if result is None and needed:
        warnings.warn(
            "the critic's tokenizer writes some of the digits 0..9 as several tokens, so values "
            "are the sampled integers and the score is trained by REINFORCE; set "
            "critic.generative.readout to sampled and exact_score_gradient to false to say so",
            stacklevel=3,
        )
    return result if result is None or result.one is None or needed else None
