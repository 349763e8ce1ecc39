"""Sections about the stages of a run, in their order."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from genac.config.base import Count, Fraction, Rate, Section
from genac.config.models import OptimizerConfig


class BaseStage(Section):
    """Supervised training of the base model on imperfect demonstrations and on checking."""

    steps: int = Field(default=900, ge=0, description="optimiser steps")
    batch_size: Count = Field(default=32, description="sequences per step")
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=1.5e-3, warmup_steps=20),
        description="optimiser",
    )
    fault_rate: Fraction = Field(default=1.0, description="scale of the task's systematic faults")
    clean_fraction: Fraction = Field(
        default=0.7, description="first part of the steps, on clean demonstrations"
    )
    check_fraction: Fraction = Field(
        default=0.5, description="share of checking traces (score-less)"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="task option overrides, e.g. more lengths"
    )


class WarmupStage(Section):
    """Supervised fine-tuning of the actor on demonstrations, before RL."""

    steps: int = Field(default=0, ge=0, description="optimiser steps, 0 = skip the stage")
    batch_size: Count = Field(default=16, description="demonstrations per step")
    path: str | None = Field(
        default=None, description="file or data set of demonstrations; none = the task's own"
    )
    messages_column: str = Field(
        default="messages", description="chats, whose last message is trained; used where it exists"
    )
    prompt_column: str = Field(default="prompt", description="else: texts or messages")
    completion_column: str = Field(default="completion", description="and the responses to them")
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-4, warmup_steps=5),
        description="optimiser",
    )
    save_every: Count = Field(default=50, description="steps between checkpoints")


class EndpointConfig(Section):
    """An OpenAI-compatible chat-completions server that gives judgements."""

    # A message must not repeat what was given: it may be a key.
    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str = Field(default="", description="for example https://api.openai.com/v1")
    model: str = Field(default="", description="the model's name on that server")
    api_key_env: str = Field(
        default="",
        pattern=r"^([A-Z_][A-Z0-9_]*|none|)$",  # a key put here by mistake has small letters
        description="environment variable that holds the key; 'none' = the server needs no key",
    )
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature")
    max_tokens: Count = Field(default=1024, description="length limit of an answer")
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="further fields of every request; null takes one out, e.g. temperature: null",
    )
    notes: str = Field(
        default="", description="added to every prompt: what the task's notation means"
    )
    concurrency: Count = Field(default=8, description="requests at the same time")
    requests_per_minute: int = Field(default=0, ge=0, description="rate limit, 0 = none")
    timeout: Rate = Field(default=300.0, description="seconds until a request counts as lost")
    max_retries: int = Field(default=6, ge=0, description="further tries of a failed request")
    backoff: Rate = Field(
        default=1.0, description="seconds before the first further try; doubles up to a minute"
    )
    price_input: float = Field(default=0.0, ge=0, description="price of a million prompt tokens")
    price_output: float = Field(default=0.0, ge=0, description="price of a million answer tokens")
    dry_run: bool = Field(
        default=False, description="genac synthesize: print what would be sent, send nothing"
    )

    def identity(self) -> dict[str, Any]:
        """What an answer depends on. Where and how fast it is requested, and its price, do not
        count: a server that moved to another host is the same one."""
        return self.model_dump(include=set(ANSWER_KEYS))


ANSWER_KEYS = ("model", "temperature", "max_tokens", "request", "notes")
TRANSPORT_KEYS = tuple(name for name in EndpointConfig.model_fields if name not in ANSWER_KEYS)


class SynthesizeStage(Section):
    """Reasoning traces of an oracle on partial responses of the actor."""

    oracle: Literal["task", "calibrated", "outcome", "labels", "endpoint", "monte_carlo"] = Field(
        default="task",
        description="whose judgement the critic learns (docs/oracle.md)",
    )
    path: str | None = Field(
        default=None, description="labels: file (or NAME@SPLIT) of problems, solutions and labels"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="labels: its columns with other names, correct: is_right"
    )
    own_responses: bool = Field(
        default=False, description="labels: learn from the actor's own responses, too"
    )
    num_prompts: Count = Field(default=512, description="problems")
    num_generations: Count = Field(default=4, description="responses per problem")
    num_states: Count = Field(
        default=6000, description="traces kept, balanced over error and position"
    )
    demonstrations: int = Field(
        default=0,
        ge=0,
        description="task, calibrated: traces of the task's own demonstrations with wrong results, "
        "beside num_states",
    )
    fault_rate: float = Field(
        default=1.0, ge=0, description="task, calibrated: how often their results are wrong"
    )
    vary_success_rate: bool = Field(
        default=True, description="condition the oracle on rates in [0, 1], not the actor's own"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="task option overrides")
    endpoint: EndpointConfig = Field(
        default_factory=EndpointConfig, description="oracle endpoint: the server to query"
    )
    num_requests: int | None = Field(
        default=None,
        ge=1,
        description="endpoint, monte_carlo: states that are judged; none = num_states",
    )
    continuations: int = Field(
        default=0,
        ge=0,
        description="endpoint, monte_carlo: actor's continuations per state (K), 0 = no check",
    )
    tolerance: Fraction = Field(
        default=0.3, description="largest difference between a kept score / 10 and its value by K"
    )
    bare_scores: bool = Field(
        default=False, description="monte_carlo: keep the score where no reasoning agrees"
    )
    see_answer: bool = Field(
        default=False, description="endpoint: show the oracle the reference answer"
    )

    @model_validator(mode="after")
    def _labelled(self) -> SynthesizeStage:
        if self.oracle == "labels" and not self.path:
            raise ValueError(
                "oracle is 'labels' but there is no file of labelled solutions; set "
                "stages.synthesize.path (columns problem, solution, correct)"
            )
        readers = dict.fromkeys(ORACLE_KEYS["labels"], "labels")
        readers["demonstrations"] = "task or calibrated"
        for key, reader in readers.items():
            if getattr(self, key) and key not in ORACLE_KEYS.get(self.oracle, ()):
                raise ValueError(
                    f"{key} is {getattr(self, key)!r} but oracle is {self.oracle!r}, which does "
                    f"not read it; set stages.synthesize.oracle to {reader}, or leave {key} out"
                )
        return self

    @property
    def responses(self) -> int:
        """Responses that the actor writes for the traces."""
        own = self.oracle != "labels" or self.own_responses
        return self.num_prompts * self.num_generations if own else 0

    @model_validator(mode="after")
    def _continued(self) -> SynthesizeStage:
        if self.oracle == "monte_carlo" and not self.continuations:
            raise ValueError(
                "oracle is 'monte_carlo' but continuations is 0: the scores are means over them; "
                "set stages.synthesize.continuations, for example to 16"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What the traces depend on; keys that the chosen oracle does not read are left out."""
        read = ORACLE_KEYS.get(self.oracle, ())
        unread = {key for keys in ORACLE_KEYS.values() for key in keys} - {*read}
        values = self.model_dump(exclude=unread)
        return values | {"endpoint": self.endpoint.identity()} if "endpoint" in read else values


ORACLE_KEYS = {
    "task": ("demonstrations", "fault_rate"),
    "calibrated": ("demonstrations", "fault_rate"),
    "labels": ("path", "columns", "own_responses"),
    "endpoint": ("endpoint", "num_requests", "continuations", "tolerance", "see_answer"),
    "monte_carlo": ("num_requests", "continuations", "tolerance", "bare_scores"),
}


class SFTStage(Section):
    """Stage 1: the critic imitates the oracle's traces."""

    epochs: int = Field(default=2, ge=0, description="passes over the traces, 0 = skip")
    batch_size: Count = Field(default=32, description="traces per step")
    exercises: int = Field(
        default=0,
        ge=0,
        description="exercises of the task beside the traces of every step: what its reasoning "
        "needs, such as results to check",
    )
    whole_traces: bool = Field(
        default=True,
        description="train all of a trace; else only what no trace of an earlier state of the "
        "same response has",
    )
    by_problem: bool = Field(
        default=False,
        description="a problem's traces stand together, so that a batch reads what they share once",
    )
    save_every: Count = Field(default=200, description="steps between checkpoints")
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, warmup_steps=20),
        description="optimiser",
    )


class LoopStage(Section):
    """Stage 3: joint training."""

    steps: int = Field(default=100, ge=0, description="steps")
    decay: bool = Field(
        default=False, description="the learning rates fall linearly to a tenth over the steps"
    )
    save_every: Count = Field(default=10, description="steps between checkpoints")
    eval_every: int = Field(
        default=10, ge=0, description="steps between held-out evaluations, 0 = only at the end"
    )
    log_rollouts_every: int = Field(
        default=10, ge=0, description="steps between stored rollouts and estimates, 0 = never"
    )
    max_states: int | None = Field(
        default=None,
        ge=1,
        description="unique states that train a generative critic per step, drawn at random; "
        "none = all",
    )


class CriticStage(Section):
    """Stage 2: the critic learns from returns, the actor is frozen."""

    steps: int = Field(default=40, ge=0, description="steps, 0 = skip the stage")
    options: dict[str, Any] = Field(default_factory=dict, description="task option overrides")
    num_prompts: int | None = Field(
        default=None, ge=1, description="problems per step; none = rollout.num_prompts"
    )
    num_generations: int | None = Field(
        default=None, ge=1, description="responses per problem; none = rollout.num_generations"
    )
    max_states: int | None = Field(
        default=None, ge=1, description="unique states judged per step, drawn at random; none = all"
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="peak learning rate; none = critic.optimizer.learning_rate"
    )
    decay: bool = Field(default=True, description="learning rate falls linearly to a tenth")
    save_every: Count = Field(default=10, description="steps between checkpoints")
    log_rollouts_every: int = Field(
        default=10, ge=0, description="steps between stored rollouts and estimates, 0 = never"
    )


class StagesConfig(Section):
    """The stages and their order."""

    base: BaseStage = Field(default_factory=BaseStage, description="base model")
    warmup: WarmupStage = Field(
        default_factory=WarmupStage, description="warm-up of a pretrained actor"
    )
    synthesize: SynthesizeStage = Field(
        default_factory=SynthesizeStage, description="oracle traces"
    )
    sft: SFTStage = Field(default_factory=SFTStage, description="critic SFT")
    critic_rl: CriticStage = Field(default_factory=CriticStage, description="critic pretraining")
    joint: LoopStage = Field(default_factory=LoopStage, description="joint RL")
    seed: int | None = Field(
        default=None,
        ge=0,
        description="seed of the stages before joint training; none = the run's seed",
    )
    folder: str = Field(
        default="runs/stages",
        description="where stage outputs are kept, by hash, and shared between runs",
    )
