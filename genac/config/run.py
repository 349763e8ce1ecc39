"""The configuration of a run: pydantic models, YAML recipes, presets and dotted overrides.

Order of precedence, weakest first: field defaults, algorithm, preset, recipe file, command line.
Keys are spelled as TRL spells them where the meaning is the same.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from genac.config.algorithms import algorithm_values, contradiction, merge
from genac.config.base import Count, Fraction, Rate, Section, at_home
from genac.config.engines import VllmConfig
from genac.config.models import ActorConfig, CriticConfig
from genac.config.stages import StagesConfig
from genac.config.tinker import TinkerConfig
from genac.config.tracking import TrackingConfig


class TaskConfig(Section):
    """What is to be learnt."""

    name: str = Field(
        default="arithmetic",
        description="arithmetic | exact | sums | word_problems | gym | file",
    )
    path: str | None = Field(
        default=None, description="file task: JSONL, JSON, Parquet or CSV with prompt and answer"
    )
    reward: str | None = Field(
        default=None, description="reward function, package.module:function or file.py:function"
    )
    verify_seconds: Rate = Field(default=5.0, description="time limit of one verification")
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of the task's generator"
    )
    shift: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="named distribution shifts: option overrides used in evaluation",
    )

    @field_validator("reward")
    @classmethod
    def _files_at_home(cls, spec: str | None) -> str | None:
        """verl:~/file.py:function, and the terms of a weighted mean."""
        return spec and re.sub(r"(?<=[\s:*])~[^\s:*]*", lambda path: at_home(path[0]), spec)


class RolloutConfig(Section):
    """How the actor samples."""

    num_prompts: Count = Field(default=128, description="problems per step")
    num_generations: Count = Field(default=8, description="responses per problem (group size)")
    max_completion_length: Count = Field(default=1024, description="response limit in tokens")
    temperature: Rate = Field(default=1.0, description="sampling temperature")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="nucleus sampling mass; 1 where the actor trains"
    )
    max_rows: Count = Field(default=64, description="sequences decoded together")


class StatesConfig(Section):
    """Where values are estimated. Always before the first token of the segment they baseline."""

    splitter: Literal["newline", "window", "low_probability"] = Field(
        default="newline", description="segment boundaries"
    )
    max_states: Count = Field(default=16, description="states per response at most")
    window: Count = Field(default=64, description="tokens per segment of the window splitter")
    threshold: Fraction = Field(
        default=0.2, description="low_probability: a token below it opens a segment"
    )


class CreditConfig(Section):
    """How rewards and values become advantages."""

    estimator: Literal["gae", "group_mean", "leave_one_out", "batch_mean"] = Field(
        default="gae", description="advantage estimator"
    )
    granularity: Literal["states", "tokens"] = Field(
        default="states", description="GAE over segment boundaries or tokens"
    )
    gamma: Fraction = Field(default=1.0, description="discount per transition")
    lam: Fraction = Field(default=1.0, description="GAE lambda of the actor's advantages")
    scale_rewards: Literal["none", "group", "batch"] = Field(
        default="none", description="divide group advantages by this std"
    )
    whiten_advantages: Literal["none", "scale", "full"] = Field(
        default="none", description="divide by (and centre) token std"
    )
    missing: Literal["bridge", "group_mean"] = Field(
        default="bridge", description="what replaces a missing value"
    )
    gate: Literal["none", "group"] = Field(
        default="none", description="critic only where it beats the group's mean"
    )


class EvaluateConfig(Section):
    """Held-out success and the critic against Monte-Carlo values."""

    num_problems: Count = Field(default=160, description="held-out problems")
    num_samples: Count = Field(default=4, description="responses per problem")
    during: Count = Field(
        default=96, description="held-out problems of an evaluation during training"
    )
    panel_problems: int = Field(
        default=32,
        ge=0,
        description="held-out problems with mixed outcomes on the critic's panel, 0 = no panel",
    )
    panel_continuations: Count = Field(default=32, description="continuations per state (K)")


class HardwareConfig(Section):
    """Where and how precisely numbers are computed."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto = cuda where there is one"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="auto = bf16 on cuda; on CPU fp32, or bf16 for models of 50M parameters and "
        "more where it is faster",
    )
    backend: Literal["local", "tinker"] = Field(
        default="local", description="where models live: here, or at a Tinker service"
    )
    tinker: TinkerConfig = Field(default_factory=TinkerConfig, description="that service")
    engine: str = Field(
        default="auto",
        description="what samples, local | vllm; auto = vllm on cuda where hardware.vllm names "
        "servers or an interpreter, else local",
    )
    vllm: VllmConfig = Field(default_factory=VllmConfig, description="vLLM's servers")
    threads: int = Field(default=0, ge=0, description="CPU threads of a process, 0 = all")
    processes: int = Field(
        default=1,
        ge=0,
        description="worker processes with one device each; 1 = none, 0 = one per visible GPU",
    )
    placement: Literal["colocated", "separate"] = Field(
        default="colocated",
        description="actor and critic on the same workers, or on `processes` workers each",
    )
    cluster: str | None = Field(
        default=None,
        description="Ray cluster with the workers: host:port, or auto; null = started here",
    )


class RunConfig(Section):
    """A complete run: field defaults, under the algorithm's values, the preset's, and those set.

    RunConfig(algorithm="grpo").critic.kind == "none"
    """

    name: str = Field(default="run", description="name shown in reports")
    output_dir: str = Field(default="runs/run", description="the run folder")
    seed: int = Field(default=0, ge=0, description="seed of everything random")
    algorithm: Literal["genac", "ppo", "vineppo", "grpo", "rloo", "reinforce++"] = Field(
        default="genac", description="the method: a critic, and how credit is assigned"
    )
    preset: Literal["paper", "improved"] = Field(
        default="improved", description="genac only: the paper's choices or ours"
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        default=[], description="trackers that get the metrics too"
    )
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="those trackers")
    task: TaskConfig = Field(default_factory=TaskConfig, description="task")
    actor: ActorConfig = Field(default_factory=ActorConfig, description="actor")
    critic: CriticConfig = Field(default_factory=CriticConfig, description="critic")
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="sampling")
    states: StatesConfig = Field(default_factory=StatesConfig, description="where there are values")
    credit: CreditConfig = Field(default_factory=CreditConfig, description="advantages")
    stages: StagesConfig = Field(default_factory=StagesConfig, description="stages")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="evaluation")
    hardware: HardwareConfig = Field(default_factory=HardwareConfig, description="hardware")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Algorithm and preset apply however a config is made, so that its name is always true.

        Every default is written out: a section may be named in part and keeps the rest. Of a
        section's object only the fields that were set count.
        """
        if not isinstance(values, dict):
            return values
        values = {
            name: value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
            for name, value in values.items()
        }
        names = (values.get("algorithm", "genac"), values.get("preset", "improved"))
        return merge(merge(_defaults(), algorithm_values(*names)), values)

    @model_validator(mode="after")
    def _rightly_named(self, info: ValidationInfo) -> RunConfig:
        if info.context:  # of a run that is there
            return self
        critic, credit = self.critic.kind, self.credit.estimator
        if reason := contradiction(self.algorithm, critic, credit):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        over_tokens = self.credit.granularity == "tokens"
        if over_tokens and self.critic.kind not in ("discriminative", "none"):
            raise ValueError(
                f"credit.granularity is 'tokens' but critic.kind is {self.critic.kind!r}: "
                "only a value head gives a value per token; set credit.granularity to 'states'"
            )
        for role, model in (("actor", self.actor), ("critic", self.critic)):
            if model.load.dtype == "bf16" and not model.lora.rank:
                raise ValueError(
                    f"{role}.load.dtype is 'bf16' but {role}.lora.rank is 0: trained weights are "
                    "kept in fp32, or small updates round to nothing; set a rank, or dtype fp32 "
                    "(hardware.precision bf16 still computes in bf16)"
                )
        self._sharing()
        if self.critic.loss.beta:
            raise ValueError(
                f"critic.loss.beta is {self.critic.loss.beta}: a critic has no frozen reference; "
                "set it to 0 (actor.loss.beta is the actor's)"
            )
        if self.credit.estimator != "gae" and self.rollout.num_generations < 2:
            raise ValueError(
                f"rollout.num_generations is {self.rollout.num_generations}: "
                f"{self.credit.estimator} compares responses of one problem; use at least 2"
            )
        if self.stages.synthesize.oracle == "labels" and self.states.splitter == "low_probability":
            raise ValueError(
                "states.splitter is 'low_probability', which needs the actor's probabilities, and "
                "solutions of others (stages.synthesize.oracle labels) have none; set it to "
                "newline or window"
            )
        return self

    def _sharing(self) -> None:
        """One base under two sets of adapters must be one base, and adapters of one shape."""
        actor, critic = self.actor, self.critic
        if not critic.share_base:
            return
        same = critic.model_name_or_path in (None, actor.model_name_or_path)
        alike = (critic.lora, critic.load.dtype) == (actor.lora, actor.load.dtype)
        if not (critic.kind == "generative" and actor.lora.rank and same and alike):
            raise ValueError(
                "critic.share_base needs a generative critic, the actor's model (leave "
                "critic.model_name_or_path unset), actor.lora.rank above 0, and the same lora and "
                f"load.dtype for both (critic.kind {critic.kind!r}, ranks {actor.lora.rank} and "
                f"{critic.lora.rank}, models {actor.model_name_or_path!r} and "
                f"{critic.model_name_or_path!r})"
            )


@cache
def _defaults() -> dict[str, Any]:
    """The fields' own defaults, before any algorithm."""
    return RunConfig.model_construct().model_dump()
