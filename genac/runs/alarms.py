"""Loud failure: a warning with the number and the remedy, once per kind and stage.

A metric that is absent or None raises nothing, so callers leave out what they cannot compute
(an explained variance of a constant, say) and never log NaN for it: NaN stops the run.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genac.runs.store import Run

NONFINITE = "nonfinite"


# Nats per token. Engine and learner round differently in bf16. On a healthy model of 30 layers that
# alone comes to 0.07, and to 1e-5 in fp32 (bench/pretrained.py on SmolLM2-135M). The rest of the
# limits is room for the weights' own change between the steps of a batch.
BF16_APART = 0.15
SAME = "check that both hold the same weights and temperature, or lower the learning rate"
SAME_BF16 = (
    f"{SAME}; rounding in bf16 explains up to about 0.07: hardware.precision fp32 shows the rest"
)


@dataclass(frozen=True)
class Rule:
    """Raised where `compare(metrics[key], limit)` held for `steps` steps in a row."""

    kind: str
    key: str
    compare: Callable[[Any, Any], bool]
    limit: float
    says: str
    remedy: str
    steps: int = 1  # a small batch shows some of these by chance
    bf16_limit: float | None = None  # where rounding in bf16 alone reaches `limit`
    bf16_remedy: str = ""


RULES = (
    Rule(
        "rewards_equal",
        "frac_reward_zero_std",
        operator.ge,
        1.0,
        "every group's rewards are equal, so group advantages are all zero",
        "choose problems the actor solves sometimes (task difficulty) or raise the temperature",
        steps=3,
    ),
    Rule(
        "rewards_zero",
        "reward",
        operator.eq,
        0.0,
        "no response was rewarded",
        "lower the task's difficulty, train the base model longer, or check the verifier",
        steps=3,
    ),
    Rule(
        "rewards_unscored",
        "reward_none_rate",
        operator.gt,
        0.2,
        "many responses could not be scored",
        "read the column `reason` in rollouts/ and repair the reward function or its time limit",
    ),
    Rule(
        "scores_unparsable",
        "critic/parse_failure_rate",
        operator.gt,
        0.2,
        "many of the critic's scores could not be parsed",
        "raise the critic's token limit, or train its supervised stage longer",
    ),
    Rule(
        "scores_constant",
        "critic/distinct_scores",
        operator.le,
        1,
        "the critic gives one score only",
        "lower its learning rate, give it a baseline, or return to its last checkpoint",
    ),
    Rule(
        "advantage_gap",
        "critic/advantage_gap",
        operator.lt,
        0.0,
        "right responses get lower values than wrong ones",
        "train the critic longer before the actor, and check that the rewards are right",
        steps=3,
    ),
    Rule(
        "values_above_returns",
        "critic/bias",
        operator.gt,
        0.25,
        "values lie far above the returns, so the actor may exploit what the critic overlooks",
        "read the critic's rationales on the latest responses; raise credit.lam, lower the actor's "
        "learning rate, or return to the last checkpoint",
        steps=3,
    ),
    Rule(
        "logprobs_apart",
        "sampling/sampling_logp_difference/mean",
        operator.gt,
        0.05,
        "engine and learner disagree on log-probabilities",
        SAME,
        bf16_limit=BF16_APART,
        bf16_remedy=SAME_BF16,
    ),
    Rule(
        "critic_logprobs_apart",
        "critic/sampling/sampling_logp_difference/mean",
        operator.gt,
        0.05,
        "the critic's engine and learner disagree on log-probabilities",
        SAME,
        bf16_limit=BF16_APART,
        bf16_remedy=SAME_BF16,
    ),
    Rule(
        "all_masked",
        "completions/masked_ratio",
        operator.ge,
        1.0,
        "the length limit cut every response, and the actor's loss leaves these out",
        "raise rollout.max_completion_length, or set loss.mask_truncated_completions to false",
    ),
    Rule(
        "publish_unchanged",
        "publish_changed",
        operator.eq,
        0,
        "predictions did not change after a publish",
        "check that the learner's weights reach the engine and its learning rate is not 0",
    ),
)


class Alarms:
    """Checks each step's metrics; what was raised is read from the run, so a resume stays quiet."""

    def __init__(self, run: Run, warn: Callable[[str], None], *, bf16: bool = False):
        self.run = run
        self.warn = warn
        self.bf16 = bf16  # whether models compute in it
        self._streak: dict[tuple[str, str], int] = {}
        self._raised = {(e.get("stage"), e.get("alarm")) for e in run.events("alarm")}

    def check(self, stage: str, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Raises the alarms that are due, returns their kinds; FloatingPointError on NaN or inf."""
        numbers = {k: float(v) for k, v in metrics.items() if _is_number(v)}
        kinds = [r.kind for r in RULES if r.key in numbers and self._due(r, stage, numbers[r.key])]
        for rule in RULES:
            if rule.kind in kinds:
                self._raise(stage, step, rule, numbers[rule.key])
        self._stop_on_nonfinite(stage, step, numbers)
        return kinds

    def _due(self, rule: Rule, stage: str, value: float) -> bool:
        key = (stage, rule.kind)
        limit = rule.bf16_limit if self.bf16 and rule.bf16_limit is not None else rule.limit
        self._streak[key] = self._streak.get(key, 0) + 1 if rule.compare(value, limit) else 0
        return self._streak[key] >= rule.steps and key not in self._raised

    def _raise(self, stage: str, step: int, rule: Rule, value: float) -> None:
        text = f"{rule.says} ({rule.key} = {value:.4g})"
        remedy = (self.bf16 and rule.bf16_remedy) or rule.remedy
        self._record(stage, step, rule.kind, text, remedy, value)
        self.warn(f"alarm [{stage} step {step}]: {text}. Remedy: {remedy}.")

    def _record(
        self, stage: str, step: int, kind: str, message: str, remedy: str, value: float
    ) -> None:
        self._raised.add((stage, kind))
        fields = {"message": message, "remedy": remedy, "value": value}
        self.run.event("alarm", alarm=kind, stage=stage, step=step, **fields)

    def _stop_on_nonfinite(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        bad = {key: value for key, value in numbers.items() if not math.isfinite(value)}
        if not bad:
            return
        named = ", ".join(f"{key} = {value}" for key, value in bad.items())
        text = f"{named} at step {step} of stage {stage}"
        remedy = "resume from the last checkpoint with a lower learning rate or gradient clipping"
        self._record(stage, step, NONFINITE, text, remedy, next(iter(bad.values())))
        raise FloatingPointError(f"non-finite metric: {text}. Remedy: {remedy}")


def _is_number(value: Any) -> bool:
    """Numbers, booleans (0 and 1) and 0-d arrays; strings and None are no measurements."""
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0
