"""How long a step of joint training takes on a GPU, on paper: nothing is run.

duration(cfg, candidates(cfg), measure(cfg, models))    # {"actor_sampling": 12.3, ...} seconds
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genac.config import ActorConfig, CriticConfig, RunConfig
from genac.evals.lengths import Candidate, Lengths
from genac.evals.work import Iteration, Rates, Sizes, seconds, work

# An H100 at 40 % of its 989 TFLOP/s (bf16, dense) and nearly all of its bandwidth. Decoding
# launches some forty kernels per layer of 7 microseconds each, however few the rows. All assumed.
ASSUMED = Rates(sampling_flops=4e14, sampling_bytes=3e12, training_flops=4e14, layer=3e-4)
METHOD = {"generative": "genac", "discriminative": "ppo", "monte_carlo": "vineppo"}


def duration(
    cfg: RunConfig, models: Mapping[str, Candidate], lengths: Lengths, processes: int = 1
) -> dict[str, float]:
    """Seconds by phase where all responses and thoughts are as long as they may be; verification,
    evaluation, communication and publishing are left out."""
    made, thoughts = cfg.rollout, cfg.critic.generative
    count = made.num_prompts * made.num_generations * cfg.states.max_states
    trained = min(count, cfg.stages.joint.max_states or count)  # of all processes together
    others = (count - trained) * (thoughts.value_samples or thoughts.num_samples)
    learn = trained * thoughts.num_samples
    it = Iteration(
        prompts=max(1, made.num_prompts // processes),
        generations=made.num_generations,
        prompt=lengths.prompt,
        response=made.max_completion_length,
        states=cfg.states.max_states,
        samples=(learn + others) / count,
        thought=thoughts.max_new_tokens,
        question=max(0, lengths.question - lengths.prompt),
        learn=-(-learn // processes),
        continuations=cfg.critic.num_continuations,
        rows=made.max_rows,
    )
    actor = sizes(models["actor"].model, cfg.actor)
    critic = sizes(models["critic"].model, cfg.critic) if "critic" in models else actor
    return seconds(work(it, METHOD.get(cfg.critic.kind, "grpo"), actor, critic), ASSUMED)


def sizes(model: Any, cfg: ActorConfig | CriticConfig) -> Sizes:
    """A backward pass costs two forward ones, one where only adapters learn; checkpointing reads
    everything once more."""
    passes = (2 if cfg.lora.rank else 3) + int(cfg.optimizer.gradient_checkpointing)
    return Sizes.of(model, bytes_per_number=2, training=passes)
