"""Sections about the models that are trained: loading, optimiser, loss, and what a critic is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from genac.config.base import Count, Fraction, Rate, Section
from genac.config.prompt_file import content_of, is_content

# Keys of an optimiser that change memory and speed, never results: no hash counts them.
MEMORY = {"tokens_per_microbatch", "gradient_checkpointing"}


class OptimizerConfig(Section):
    """AdamW and how a step is cut into micro-batches."""

    learning_rate: Rate = Field(default=1e-6, description="peak learning rate")
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled weight decay")
    adam_beta1: Fraction = Field(default=0.9, description="AdamW beta 1")
    adam_beta2: Fraction = Field(default=0.98, description="AdamW beta 2")
    warmup_steps: int = Field(default=0, ge=0, description="linear warm-up, in optimiser steps")
    max_grad_norm: Rate = Field(default=1.0, description="gradient norm clip")
    tokens_per_microbatch: Count = Field(
        default=8192, description="tokens per forward; changes memory, never results"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass"
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
        default=None, description="hub name, folder or GGUF file; none = the base stage's model"
    )
    tiny: TinyConfig = Field(
        default_factory=TinyConfig, description="model built by the base stage"
    )
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="actor optimiser"
    )
    loss: LossConfig = Field(default_factory=LossConfig, description="policy loss")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="adapters of the actor")
    load: LoadConfig = Field(default_factory=LoadConfig, description="loading the actor")
    engine: str | None = Field(
        default=None, description="what samples from the actor; none = hardware.engine"
    )


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

    form: Literal["per_state", "running"] = Field(
        default="per_state",
        description="a rationale about each state, or one pass over the response with a note and "
        "a score behind every segment",
    )
    prompt: str = Field(
        default="paper",
        description="prompt template: paper | prefix-first | compact | a YAML file of one's own",
    )
    icc: ICCConfig = Field(default_factory=ICCConfig, description="in-context conditioning")
    num_samples: Count = Field(default=1, description="rationales per state")
    value_samples: int | None = Field(
        default=None,
        ge=1,
        description="joint stage: rationales per state that does not train the critic; "
        "none = num_samples",
    )
    max_new_tokens: Count = Field(default=1024, description="length limit of a rationale")
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature of rationales")
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

    @field_validator("prompt")
    @classmethod
    def _content(cls, prompt: str) -> str:
        """The text of a prompt file takes the place of its name."""
        return content_of(prompt)

    @model_validator(mode="after")
    def _running(self) -> GenerativeConfig:
        """What a critic that keeps notes cannot do."""
        if self.form == "per_state":
            return self
        if is_content(self.prompt):
            raise ValueError(
                "form is 'running', but prompt is a file of your own, which says how to ask about "
                "one state; use prompt paper, prefix-first or compact, or form per_state"
            )
        if self.value_samples is not None:
            raise ValueError(
                f"form is 'running', but value_samples is {self.value_samples}: every state of a "
                "pass trains the critic; leave value_samples out, or set form to per_state"
            )
        if self.too_long == "truncate":
            raise ValueError(
                "form is 'running', but too_long is 'truncate': notes follow every segment, so no "
                "middle can be left out; set too_long to drop, or form to per_state"
            )
        return self


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

    kind: str = Field(
        default="generative",
        description="generative | discriminative | monte_carlo | actor_likelihood | none",
    )
    model_name_or_path: str | None = Field(
        default=None, description="hub name, folder or GGUF file; none = what the actor starts from"
    )
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="critic optimiser"
    )
    loss: LossConfig = Field(default_factory=LossConfig, description="the critic's own loss")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="adapters of the critic")
    load: LoadConfig = Field(default_factory=LoadConfig, description="loading the critic")
    engine: str | None = Field(
        default=None, description="what samples from the critic; none = hardware.engine"
    )
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
