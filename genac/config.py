"""The configuration of a run: pydantic models, YAML recipes, presets and dotted overrides.

Order of precedence, weakest first: field defaults, algorithm, preset, recipe file, command line.
Keys are spelled as TRL spells them where the meaning is the same.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from genac.sections import Count, Fraction, OptimizerConfig, Rate, Section, StagesConfig, at_home


class TaskConfig(Section):
    """What is to be learnt."""

    name: str = Field(default="arithmetic", description="arithmetic | exact | sums | gym | file")
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


class TinyConfig(Section):
    """Shape of the tiny model that is built when no model is named."""

    hidden_size: Count = Field(default=128, description="width")
    layers: Count = Field(default=4, description="transformer layers")
    heads: Count = Field(default=4, description="attention heads")
    max_length: Count = Field(default=256, description="context length in tokens")


class LoraConfig(Section):
    """Low-rank adapters: train a small part of a large model (needs the extra `lora`)."""

    rank: int = Field(default=0, ge=0, description="rank of the adapters, 0 = train all weights")
    alpha: Count = Field(default=32, description="the adapters' scale is alpha / rank")
    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        description="names of the linear layers that get one",
    )


class LoadConfig(Section):
    """How a model and its tokenizer are loaded. Safetensors only, never remote code."""

    dtype: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of the stored weights; bf16 halves a base that LoRA freezes"
    )
    attn_implementation: str | None = Field(
        default=None, description="as in transformers, where its own attention is used; none = auto"
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="for the chat template, e.g. {enable_thinking: false}"
    )


class ActorConfig(Section):
    """The policy that is trained."""

    model_name_or_path: str | None = Field(
        default=None, description="hub name or folder; none = the base stage's model"
    )
    tiny: TinyConfig = Field(
        default_factory=TinyConfig, description="model built by the base stage"
    )
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="actor optimiser"
    )
    lora: LoraConfig = Field(default_factory=LoraConfig, description="adapters of the actor")
    load: LoadConfig = Field(default_factory=LoadConfig, description="loading the actor")


class ICCConfig(Section):
    """In-Context Conditioning: what the critic's prompt says of the actor."""

    enabled: bool = Field(
        default=True, description="put actor size and running success rate into the prompt"
    )
    success_rate_momentum: float = Field(
        ge=0, lt=1, default=0.9, description="momentum of the running success rate"
    )
    actor_size: str | None = Field(
        default=None, description="size as written in the prompt; none = counted"
    )


class GenerativeConfig(Section):
    """The generative critic."""

    prompt: str = Field(
        default="paper",
        description="prompt template: paper | trunk-first | compact | compact-paper",
    )
    icc: ICCConfig = Field(default_factory=ICCConfig, description="in-context conditioning")
    num_samples: Count = Field(default=1, description="thoughts per state")
    value_samples: int | None = Field(
        default=None,
        ge=1,
        description="joint stage: thoughts per state that does not train the critic; "
        "none = num_samples",
    )
    max_new_tokens: Count = Field(default=1024, description="length limit of a thought")
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature of thoughts")
    readout: Literal["sampled", "expected"] = Field(
        default="sampled", description="value = sampled integer or expected score"
    )
    reinforce_baseline: Literal["none", "leave_one_out"] = Field(
        default="none", description="baseline of the critic's REINFORCE"
    )
    pool_states: bool = Field(
        default=False, description="identical states share the mean of their returns as target"
    )
    exact_score_gradient: bool = Field(
        default=False, description="differentiate the expected reward at the score token"
    )
    reasoning_weight: Fraction = Field(
        default=1.0,
        description="loss weight of the reasoning tokens beside the exactly trained score token",
    )
    force_prompt: bool = Field(
        default=False, description="go on with a critic that was trained under another prompt"
    )
    too_long: Literal["drop", "truncate"] = Field(
        default="drop",
        description="a prompt beyond the context: no value, or the response's middle left out",
    )


class DiscriminativeConfig(Section):
    """The value-head critic."""

    head: Literal["mse", "hl_gauss"] = Field(
        default="mse", description="regression head or HL-Gauss classification head"
    )
    bins: int = Field(default=51, ge=2, description="HL-Gauss bins on [0, 1]")
    targets: Literal["dense", "sparse"] = Field(
        default="dense", description="supervise every token or a few states per response"
    )
    sparse_states: Count = Field(
        default=3, description="supervised states per response when sparse"
    )
    pool_states: bool = Field(
        default=False, description="identical prefixes share the mean of their returns as target"
    )
    lam: Fraction = Field(
        default=1.0, description="lambda of the critic's own targets (1 = the return)"
    )


class CriticConfig(Section):
    """Where values come from."""

    kind: Literal["generative", "discriminative", "monte_carlo", "exact", "none"] = Field(
        default="generative", description="kind of critic"
    )
    model_name_or_path: str | None = Field(
        default=None, description="hub name or folder; none = the base stage's model"
    )
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="critic optimiser"
    )
    lora: LoraConfig = Field(default_factory=LoraConfig, description="adapters of the critic")
    load: LoadConfig = Field(default_factory=LoadConfig, description="loading the critic")
    share_base: bool = Field(
        default=False, description="generative: a second set of adapters on the actor's weights"
    )
    generative: GenerativeConfig = Field(
        default_factory=GenerativeConfig, description="generative critic"
    )
    discriminative: DiscriminativeConfig = Field(
        default_factory=DiscriminativeConfig, description="value head"
    )
    num_continuations: Count = Field(
        default=9, description="Monte-Carlo continuations per state (VinePPO)"
    )


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
    """Where values are asked. Always before the first token of the segment they baseline."""

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
    gate: Literal["none", "group", "batch"] = Field(
        default="none",
        description="critic only where it beats the group's mean (batch: and the batch's)",
    )


class LossConfig(Section):
    """The policy loss."""

    epsilon: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="lower clip range"
    )
    epsilon_high: Rate = Field(default=0.2, description="upper clip range")
    dual_clip: float | None = Field(
        default=None, gt=1, description="dual-clip constant for negative advantages"
    )
    num_iterations: Count = Field(default=1, description="epochs over a rollout batch")
    num_minibatches: Count = Field(default=1, description="optimiser steps per epoch")
    beta: float = Field(
        default=0.0, ge=0, description="coefficient of the KL to the frozen reference"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(default="k3", description="KL estimator")
    entropy_coef: float = Field(default=0.0, ge=0, description="entropy bonus")
    loss_type: Literal["token", "sequence"] = Field(
        default="token", description="mean over tokens or over sequences, globally"
    )
    mask_truncated_completions: bool = Field(
        default=False,
        description="leave responses cut at the length limit out of the actor's loss; off = they "
        "train it by their reward like finished ones",
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
        description="two-sided held-out problems on the critic's panel, 0 = no panel",
    )
    panel_continuations: Count = Field(default=32, description="continuations per state (K)")


class HardwareConfig(Section):
    """Where and how precisely numbers are computed."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto = cuda where there is one"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto = bf16 on cuda, fp32 on CPU"
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of a process, 0 = all")
    processes: int = Field(
        default=1,
        ge=0,
        description="worker processes with one device each; 1 = none, 0 = one per visible GPU",
    )


class RunConfig(Section):
    """A complete run."""

    name: str = Field(default="run", description="name shown in reports")
    output_dir: str = Field(default="runs/run", description="the run folder")
    seed: int = Field(default=0, ge=0, description="seed of everything random")
    algorithm: Literal["genac", "ppo", "vineppo", "grpo", "rloo", "reinforce++"] = Field(
        default="genac", description="critic + credit, see genac.algorithms"
    )
    preset: Literal["paper", "improved"] = Field(
        default="improved", description="genac only: the paper's choices or ours"
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        default=[], description="trackers that get the metrics too"
    )
    task: TaskConfig = Field(default_factory=TaskConfig, description="task")
    actor: ActorConfig = Field(default_factory=ActorConfig, description="actor")
    critic: CriticConfig = Field(default_factory=CriticConfig, description="critic")
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="sampling")
    states: StatesConfig = Field(default_factory=StatesConfig, description="where values are asked")
    credit: CreditConfig = Field(default_factory=CreditConfig, description="advantages")
    loss: LossConfig = Field(default_factory=LossConfig, description="policy loss")
    stages: StagesConfig = Field(default_factory=StagesConfig, description="stages")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="evaluation")
    hardware: HardwareConfig = Field(default_factory=HardwareConfig, description="hardware")

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.credit.estimator == "gae" and self.critic.kind == "none":
            raise ValueError(
                "credit.estimator is 'gae' but critic.kind is 'none': GAE needs values; choose a "
                "critic or "
                "one of group_mean, leave_one_out, batch_mean"
            )
        if self.credit.granularity == "tokens" and self.critic.kind not in (
            "discriminative",
            "none",
        ):
            raise ValueError(
                f"credit.granularity is 'tokens' but critic.kind is {self.critic.kind!r}: only a "
                "value head "
                "gives a value per token; set credit.granularity to 'states'"
            )
        for role, model in (("actor", self.actor), ("critic", self.critic)):
            if model.load.dtype == "bf16" and not model.lora.rank:
                raise ValueError(
                    f"{role}.load.dtype is 'bf16' but {role}.lora.rank is 0: trained weights are "
                    "kept in fp32, or small updates round to nothing; set a rank, or dtype fp32 "
                    "(hardware.precision bf16 still computes in bf16)"
                )
        self._sharing()
        self._judging()
        if self.credit.estimator != "gae" and self.rollout.num_generations < 2:
            raise ValueError(
                f"rollout.num_generations is {self.rollout.num_generations}: "
                f"{self.credit.estimator} compares "
                "responses of one problem; use at least 2"
            )
        return self

    def _judging(self) -> None:
        """Leaving problems unjudged must save something."""
        joint, kind = self.stages.joint, self.critic.kind
        everything = kind == "generative" and joint.max_states is None
        if joint.judge == "disputed" and (everything or kind == "discriminative"):
            raise ValueError(
                "stages.joint.judge is 'disputed', but every state trains this critic and would be "
                f"judged all the same (critic.kind {kind!r}, stages.joint.max_states "
                f"{joint.max_states}); set stages.joint.max_states for a generative critic, or "
                "judge to 'all'"
            )

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
