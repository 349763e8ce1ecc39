"""What the traces can read, which depends on the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genac.config.run import RunConfig
from genac.config.stages import ORACLE_KEYS
from genac.critics.running_prompt import prompt_of
from genac.critics.zero_shot import ORACLE, REFERENCE
from genac.runs.store import stable_hash
from genac.stages.inputs import (
    ACTOR,
    ACTOR_DEFAULTS,
    CRITIC_QUERY,
    HARDWARE,
    SAMPLING,
    TASK,
    Artifact,
    StageInputs,
    on_actor,
    stage_config,
)
from genac.stages.local_models import critic_start
from genac.stages.traces.states import CandidateInputs


def synthesize(*names: str) -> tuple[str, ...]:
    """Keys of the stage."""
    return tuple(f"stages.synthesize.{name}" for name in ("oracle", "num_states", *names))


FORMAT = 2  # of traces.jsonl
FORM = "critic.generative.form"
CONDITIONED = "critic.generative.icc.enabled"
PROGRAM = (
    *TASK,
    *SAMPLING,
    *ACTOR,
    *HARDWARE,
    *synthesize("num_prompts", "num_generations", "vary_success_rate"),
    "states",
    FORM,
    CONDITIONED,
)
READS = {
    **{
        oracle: (*PROGRAM, *(f"stages.synthesize.{name}" for name in ORACLE_KEYS[oracle]))
        for oracle in ("task", "calibrated", "labels")
    },
    "endpoint": (
        "seed",
        *synthesize("endpoint", "tolerance", "see_answer"),
        "critic.generative.max_new_tokens",
        CONDITIONED,
    ),
    "monte_carlo": (
        "seed",
        *ACTOR,
        *HARDWARE,
        *synthesize("tolerance", "bare_scores"),
        *(f"critic.{name}" for name in ("kind", "lora", "load", "share_base", "engine")),
        *CRITIC_QUERY,
    ),
}
# A critic that only lends its words is the same whatever these are.
CRITIC_DEFAULTS = (
    "critic.optimizer",
    "critic.loss",
    "critic.generative.readout",
    "critic.generative.exact_score_gradient",
    "critic.generative.value_samples",
)


@dataclass(frozen=True)
class TraceInputs(StageInputs):
    """The task's options are those of the run under `stages.synthesize.options`."""

    stage = "traces"

    actor: Artifact | None = None  # None where the states are candidates of an endpoint
    candidates: CandidateInputs | None = None  # endpoint, monte_carlo
    critic: Artifact | None = None  # monte_carlo: whose words they are
    prompt: str | None = None  # hash of what the oracle's model reads
    format: int = FORMAT  # of the file, and of what `calibrated` means

    @classmethod
    def of(cls, cfg: RunConfig, actor: Path) -> TraceInputs:
        """ValueError where a saved model is not as it was written."""
        stage, model = cfg.stages.synthesize, Artifact.model(actor)
        reads = READS.get(stage.oracle, PROGRAM)
        if stage.oracle == "endpoint":
            prompt = stable_hash([ORACLE.hash, REFERENCE if stage.see_answer else ""])
            some = CandidateInputs.of(cfg, actor)
            return cls(*stage_config(cfg, reads), candidates=some, prompt=prompt)
        changes = on_actor(cfg, model, stage.options)
        if stage.oracle != "monte_carlo":
            return cls(*stage_config(cfg, reads, changes, ACTOR_DEFAULTS), model)
        return cls(
            *stage_config(cfg, reads, changes, (*ACTOR_DEFAULTS, *CRITIC_DEFAULTS)),
            model,
            CandidateInputs.of(cfg, actor),
            Artifact.model(critic_start(cfg, actor)),
            prompt_of(cfg.critic.generative).hash,
        )
