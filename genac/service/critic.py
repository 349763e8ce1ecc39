"""The critic as an object that any trainer can hold: values, advantages, and learning.

critic = LearningCritic.from_pretrained("runs/arithmetic/critic", actor_tokenizer="Qwen/Qwen3-1.7B")
reply = critic.advantages(Responses(responses=..., id="step-0", step=0))
critic.learn(Learn(request_id="learn-0", estimates="step-0"))

`genac.client.Client` has the same methods. Values and lessons are those of the joint stage
(`stages/joint.py`), for a trainer that passes its `step` with the same seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genac import checkpoint
from genac.client.errors import Gone
from genac.client.messages import Advantages, Learn, Learnt, Responses, SuccessRate, Values, Version
from genac.config.models import GenerativeConfig, OptimizerConfig
from genac.config.run import CreditConfig, HardwareConfig, RunConfig, StatesConfig
from genac.critics.base import rollouts_of
from genac.critics.generative import GenerativeCritic
from genac.critics.saved import CARD
from genac.evals.online import critic_metrics
from genac.ops.stats import RunningMean
from genac.runs.files import atomic_write, read_json, write_json
from genac.scoring import Critic
from genac.service import loading
from genac.service.batch import BatchReader
from genac.service.journal import Journal, Lesson, packed, read_packed
from genac.service.kept import (
    Kept,
    LearntRequests,
    Valuation,
    digest_of,
    require_outcomes,
    rewarded,
)
from genac.service.replies import advantage_replies, assign, finite, value_replies
from genac.states import marked, subset
from genac.types import Estimate

RATE = "success_rate.json"


class LearningCritic:
    """A generative critic that learns from whoever trains the actor. One thread may use it.

    With a `folder` everything that `learn` acknowledged is on disk: before a request is learnt it
    is written to the folder's journal, and every `save_every` requests a checkpoint is written.
    A new object of the same folder goes on where the killed one ended, to the bit.
    """

    def __init__(
        self,
        critic: GenerativeCritic,
        cfg: RunConfig,
        max_states: int | None = None,
        folder: Path | None = None,
        save_every: int = 20,
    ) -> None:
        if save_every < 1:
            raise ValueError(f"save_every is {save_every}; use at least 1")
        self.critic, self.cfg, self.max_states = critic, cfg, max_states
        self.folder, self.save_every = folder, save_every
        self.step = 0  # requests learnt
        self.begun = 0  # requests that weights were changed for, in this process
        self.reader = BatchReader(critic.prompts.actor_tokenizer, cfg.states)
        self._kept, self._learnt = Kept(), LearntRequests()
        self._journal = Journal(folder) if folder else None
        if folder is not None:
            self._open(folder)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        actor_tokenizer: Any = None,
        actor_size: str | None = None,
        credit: CreditConfig | None = None,
        states: StatesConfig | None = None,
        generative: GenerativeConfig | None = None,
        optimizer: OptimizerConfig | None = None,
        seed: int = 0,
        hardware: HardwareConfig | None = None,
        max_states: int | None = None,
        batch_size: int = 64,
        folder: str | Path | None = None,
        save_every: int = 20,
    ) -> LearningCritic:
        """Loads a critic that a run saved (its folder, the run, a checkpoint, the hub), or makes
        one of any language model.

        actor_tokenizer: a tokenizer, or the folder or hub name of one, of the actor whose tokens
        come; None = the critic's own. actor_size: as prompts say it, such as "1.7B"; None = what
        the critic's card says, else the critic's own size. generative, optimizer: None = as the
        critic was trained, or the defaults. max_states: classes of identical states that train it
        per request; None = all. batch_size: rationales written side by side. Nothing is known of
        the actor's success rate until outcomes or `set_success_rate` say it.

        ValueError where there is no generative critic or language model, where it was trained
        under another prompt, and where settings or machine do not fit.
        """
        source = loading.source_of(path)
        critic_cfg = loading.critic_settings(source, generative, optimizer, actor_size)
        usual = RunConfig()  # as genac serve --learn
        sections = credit or usual.credit, states or usual.states, hardware or usual.hardware
        cfg = loading.run_config(critic_cfg, *sections, seed)
        place = Path(folder) if folder is not None else None
        critic = loading.build_critic(cfg, source, actor_tokenizer, batch_size, place)
        return cls(critic, cfg, max_states, place, save_every)

    @property
    def version(self) -> int:
        """Of the weights that answer: as many requests were learnt before them."""
        return self.critic.runtime.version

    def describe(self) -> dict[str, Any]:
        """What it is and how it is prompted; fit for JSON."""
        return {
            **Critic(self.critic).describe(),
            "credit": self.cfg.credit.model_dump(),
            "states": self.cfg.states.model_dump(),
            "max_states": self.max_states,
            "seed": self.cfg.seed,
            "actor_tokens": self.reader.size,
        }

    def describe_version(self) -> Version:
        return Version(version=self.version, step=self.step, critic=self.describe())

    # --- values --------------------------------------------------------------------------------

    def values(self, request: Responses) -> Values:
        """A value at the start of every segment, by the present weights.

        ValueError where a response does not fit this actor, or its own boundaries.
        """
        return self._once("values", request, self._values)

    def advantages(self, request: Responses) -> Advantages:
        """Values, and with the responses' rewards their advantages, as the joint stage assigns
        credit. ValueError as `values`, and where groups do not fit the credit assignment."""
        return self._once("advantages", request, self._advantages)

    def _once(self, kind: str, request: Responses, answer: Any) -> Any:
        """The answer to a request; a repeated one under an id gets the first answer."""
        if request.id is None:
            return answer(request, self._ask(request))
        digest = digest_of(kind, request)
        if (known := self._kept.reply(request.id, digest)) is not None:
            return known
        valuation = self._ask(request)
        reply = answer(request, valuation)
        self._kept.put(request.id, digest, reply, valuation)
        return reply

    def _ask(self, request: Responses) -> Valuation:
        step = self.step if request.step is None else request.step
        batch = self.reader.read(request.responses)
        states = self.reader.states(batch)
        states = marked(states, self.max_states, f"{self.cfg.seed}/joint/{step}")
        rate = self.critic.rate.value
        estimates = self.critic.estimate(states, step)
        if self.critic.rate.value != rate:  # the first outcomes set it
            self._write_rate()
        return Valuation(batch, estimates, step)

    def _values(self, request: Responses, valuation: Valuation) -> Values:
        replies = value_replies(valuation.batch, valuation.estimates, request.rationales)
        metrics = finite(critic_metrics(valuation.estimates))
        return Values(responses=replies, version=self.version, metrics=metrics)

    def _advantages(self, request: Responses, valuation: Valuation) -> Advantages:
        batch, estimates = valuation.batch, valuation.estimates
        streams, measured = assign(batch, estimates, self.cfg.credit)
        replies = advantage_replies(batch, estimates, streams, request.rationales)
        metrics = finite(critic_metrics(estimates) | measured)
        return Advantages(responses=replies, version=self.version, metrics=metrics)

    # --- learning ------------------------------------------------------------------------------

    def set_success_rate(self, request: SuccessRate) -> None:
        """What a conditioned critic's prompts say of the actor until the next `learn`."""
        self.critic.set_success_rate(request.rate)
        self._write_rate()

    def _write_rate(self) -> None:  # which no checkpoint and no lesson has yet
        if self.folder is not None:
            write_json(self.folder / RATE, {"step": self.step, "rate": self.critic.rate.state()})

    def learn(self, request: Learn, lesson: bytes = b"") -> Learnt:
        """Learns from outcomes: REINFORCE as in the joint stage. A repeated request is learnt once
        and gets the first reply, also after a restart.

        Estimates may be older than the present weights, by which their rationales are reweighted.
        Gone, a ValueError, where they are not kept and `lesson` is not what `lesson_bytes` gave for
        the request before a restart; ValueError where nothing has an outcome.
        """
        digest = digest_of("learn", request)
        if (known := self._learnt.reply(request.request_id, digest)) is not None:
            return known
        try:
            estimates, step = self._lesson(request)
        except Gone:
            if not lesson:
                raise
            estimates, step = (stored := read_packed(lesson)).estimates, stored.step
        rate = self.critic.rate.state()
        begun = Lesson(request.request_id, digest, step, rate, list(estimates))
        if self._journal:
            self._journal.write(self.step, begun)
        try:
            metrics = self._study(begun)
        except Exception:
            self.critic.rate = RunningMean.from_state(rate)
            if self._journal:
                self._journal.drop(self.step)
            raise
        reply = self._note(begun, metrics, self._learnt)
        if request.estimates is not None:
            self._kept.release(request.estimates, request.request_id)
        self.critic.runtime.publish(self.step)
        if self.folder is not None and self.step % self.save_every == 0:
            self.save()
        return reply

    def lesson_bytes(self, request: Learn) -> bytes:
        """The estimates that a request names, fit for a file; empty where it names none. Any thread
        may call it, since it runs no model. Errors as `learn`."""
        if request.estimates is None:
            return b""
        estimates, step = self._lesson(request)
        return packed(Lesson(request.request_id, "", step, {}, list(estimates)))

    def learnt(self, request_id: str, digest: str | None = None) -> Learnt | None:
        """The reply to a request that was learnt, or None. ValueError where another had its id."""
        return self._learnt.reply(request_id, digest)

    def _lesson(self, request: Learn) -> tuple[Sequence[Estimate], int]:
        """The estimates to be learnt, and the step whose seeds they are learnt with."""
        if request.estimates is not None:
            valuation = self._kept.estimates(request.estimates)
            require_outcomes(valuation, request.rewards)
            return rewarded(valuation, request.rewards), valuation.step
        assert request.responses is not None
        batch = self.reader.read(request.responses)
        require_outcomes(Valuation(batch, [], self.step), None)
        states = self.reader.states(batch)
        # Stage 2: only the states that train are judged.
        chosen = subset(states, self.max_states, f"{self.cfg.seed}/{self.step}")
        return self.critic.estimate(chosen, self.step), self.step

    def _study(self, lesson: Lesson) -> dict[str, float]:
        """The critic's side of a step of the joint stage."""
        self.begun += 1
        self.critic.observe(rollouts_of([e.state for e in lesson.estimates]))
        return self.critic.learn(lesson.estimates, lesson.step)

    def _note(self, lesson: Lesson, metrics: dict[str, float], learnt: LearntRequests) -> Learnt:
        """The request is learnt."""
        self.step += 1
        return learnt.put(lesson.request_id, lesson.digest, self.step, finite(metrics))

    # --- on disk -------------------------------------------------------------------------------

    def save(self, folder: str | Path | None = None) -> Path:
        """A checkpoint under `folder` (None = the critic's own) from which `load` goes on to the
        bit; returns its folder. The previous one stays until it is whole. OSError on a full disk.
        """
        root = self._root(folder)
        state = {
            "critic": self.critic.state(),
            "seed": self.cfg.seed,
            "learnt": self._learnt.state(),
        }
        place = checkpoint.save(root, self.step, {"critic": self.critic.runtime}, state)
        if self._journal and self.folder == root:
            (root / RATE).unlink(missing_ok=True)  # the checkpoint has it
            self._journal.prune(checkpoint.step_of(checkpoint.complete(root)[0]))
        return place

    def load(self, folder: str | Path | None = None) -> None:
        """Goes on from the newest checkpoint under `folder` and what was learnt behind it.

        ValueError where there is none, where it is damaged, or of another critic or seed.
        """
        root = self._root(folder)
        if self.folder not in (None, root):
            raise ValueError(
                f"this critic keeps its checkpoints in {self.folder}, each going on from the last; "
                f"make one without a folder to load {root}"
            )
        self._load(root)
        self._kept = Kept()

    def recover(self) -> None:
        """Back from a failure to what the folder holds; estimates and replies stay kept."""
        self._load(self._root(None))

    def _load(self, root: Path) -> None:
        place, state = loading.newest(root, self.cfg.seed)
        checkpoint.load(place, {"critic": self.critic.runtime})
        self.critic.restore(state["critic"])
        self.step = state["step"]
        learnt = LearntRequests()
        learnt.restore(state["learnt"])
        self._repeat(Journal(root), learnt)
        self._restore_rate(root)

    def _repeat(self, journal: Journal, learnt: LearntRequests) -> None:
        """Learns again what was learnt behind the checkpoint."""
        while (lesson := journal.read(self.step)) is not None:
            self.critic.rate = RunningMean.from_state(lesson.rate)
            self._note(lesson, self._study(lesson), learnt)
            self.critic.runtime.publish(self.step)
        journal.require_end(self.step)
        self._learnt = learnt  # at once: until then other threads read what was there before

    def _restore_rate(self, root: Path) -> None:
        """The rate that was set since the last request was learnt."""
        file = root / RATE
        if file.exists() and (saved := read_json(file))["step"] == self.step:
            self.critic.rate = RunningMean.from_state(saved["rate"])

    def _open(self, folder: Path) -> None:
        """Goes on from what the folder holds; a new one gets its first checkpoint, because lessons
        are repeated from one."""
        loading.tidy(folder)
        if checkpoint.complete(folder):
            return self.load()
        self.save()
        return self._repeat(Journal(folder), LearntRequests())  # whose checkpoints were deleted

    def _root(self, folder: str | Path | None) -> Path:
        if folder is None and self.folder is None:
            raise ValueError("this critic has no folder for checkpoints; name one")
        return Path(folder) if folder is not None else self.folder  # type: ignore[return-value]

    def save_model(self, folder: str | Path) -> None:
        """An ordinary folder of a critic, with critic.json, for `genac score` and `genac serve`."""
        place = Path(folder)
        self.critic.runtime.save_model(place)
        card = {"kind": "generative", "config": self.cfg.critic.model_dump(), **self.critic.state()}
        atomic_write(place / CARD, json.dumps(card, indent=1))
