"""Algorithms and presets as data: each is a set of config values, applied before the recipe's own.

An algorithm is a critic plus a way to assign credit. To add one, add a line here (and, if it needs
a new strategy, one file and one line in the table of genac.credit or genac.critics).
"""

from __future__ import annotations

from typing import Any

ALGORITHMS: dict[str, dict[str, Any]] = {
    "genac": {
        "critic": {"kind": "generative"},
        "credit": {"estimator": "gae", "granularity": "states"},
    },
    "ppo": {
        "critic": {"kind": "discriminative"},
        "credit": {"estimator": "gae", "granularity": "tokens"},
    },
    "vineppo": {
        "critic": {"kind": "monte_carlo"},
        "credit": {"estimator": "gae", "granularity": "states", "lam": 0.0},
    },
    "grpo": {
        "critic": {"kind": "none"},
        "credit": {"estimator": "group_mean", "scale_rewards": "group"},
    },
    "rloo": {"critic": {"kind": "none"}, "credit": {"estimator": "leave_one_out"}},
    "reinforce++": {"critic": {"kind": "none"}, "credit": {"estimator": "batch_mean"}},
}

# What the paper states (docs/paper.md says which values are known and which are our reading).
PAPER: dict[str, Any] = {
    "critic": {
        "generative": {
            "prompt": "paper",
            "num_samples": 1,
            "readout": "sampled",
            "reinforce_baseline": "none",
            "pool_states": False,
            "exact_score_gradient": False,
        }
    },
    "credit": {"gamma": 1.0, "lam": 1.0, "gate": "none"},
}

# What others learned and what we add; each item is an option of its own.
IMPROVED: dict[str, Any] = {
    "critic": {
        "generative": {
            "readout": "expected",
            "reinforce_baseline": "leave_one_out",
            "pool_states": True,
            "exact_score_gradient": True,
            "reasoning_weight": 0.1,
        }
    },
    "credit": {"missing": "bridge", "gate": "group"},
}

PRESETS = {"paper": PAPER, "improved": IMPROVED}


def algorithm_values(algorithm: Any, preset: Any) -> dict[str, Any]:
    """What an algorithm, of GenAC also its preset, sets; {} for a name that is none."""
    values = ALGORITHMS.get(str(algorithm), {})
    return merge(values, PRESETS.get(str(preset), {})) if algorithm == "genac" else values


def contradiction(algorithm: str, kind: str, estimator: str) -> str:
    """Why a critic and an estimator are not those of the algorithm; "" where they may be.

    A critic that no algorithm has for its own, such as exact values, may take another's place.
    """
    for section, key, value in (("critic", "kind", kind), ("credit", "estimator", estimator)):
        fixed = ALGORITHMS[algorithm][section][key]
        owners = [name for name, own in ALGORITHMS.items() if own[section][key] == value]
        stands_in = key == "kind" and fixed != "none" and not owners
        if value != fixed and not stands_in:
            other = f", or set algorithm to {' or '.join(map(repr, owners))}" if owners else ""
            return (
                f"algorithm is {algorithm!r}, but {section}.{key} is {value!r} and not {fixed!r}, "
                f"which makes another method: leave {section}.{key} out{other}"
            )
    return ""


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A new dict in which `over` wins, section by section."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else value
    return out
