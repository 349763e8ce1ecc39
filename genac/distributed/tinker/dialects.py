"""What a Tinker server can do. Two kinds are known; a third is one line in the table.

`hosted` is the service of Thinking Machines Lab, by its documents and SDK 0.38. `skyrl` is the
server of SkyRL 0.3 with its JAX backend, by its source and by running it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet

from genac.config.run import RunConfig


@dataclass(frozen=True)
class Dialect:
    """What a server does with what it is sent. Everything that is False is reported at start."""

    sdk: str  # versions of the SDK that speak with it
    any_loss: bool  # cross-entropy takes weights of any sign, so the SDK sends custom losses
    sums: bool  # losses add up; else they are means over a row's weights, then over rows
    several_targets: bool  # (N, K) targets: the log-probabilities of K tokens at each position
    named_probs: bool  # `target_prompt_logprobs`: probabilities of named tokens in a prompt
    clips_gradients: bool  # `grad_clip_norm` is heeded
    snapshots: bool  # a sampler keeps the weights that it was made of
    fresh_moments: bool  # weights can be loaded without the optimiser's moments


DIALECTS: dict[str, Dialect] = {
    "hosted": Dialect(
        sdk=">=0.38,<0.39",
        any_loss=True,
        sums=True,
        several_targets=True,
        named_probs=True,
        clips_gradients=True,
        snapshots=True,
        fresh_moments=True,
    ),
    "skyrl": Dialect(
        sdk="<=0.24.1",  # later ones expect protobuf, which it does not write
        any_loss=False,
        sums=False,
        several_targets=False,
        named_probs=False,
        clips_gradients=False,
        snapshots=False,  # one slot holds what is trained and what is sampled with
        fresh_moments=False,
    ),
}

# What the two columns of the table in docs/tinker.md say: where a server can, and where it cannot.
MEANING: dict[str, tuple[str, str]] = {
    "any_loss": (
        "losses of ours go out as a custom loss",
        "losses of ours go out as `importance_sampling` at ratio 1, with the same gradient",
    ),
    "sums": (
        "losses add up, divided by our counts",
        "losses are means over rows, scaled so that the mean is our sum",
    ),
    "several_targets": (
        "the exact score gradient is one call with (N, K) targets",
        "no exact score gradient: the score is trained by REINFORCE",
    ),
    "named_probs": (
        "expected scores, by a second call over prompt and rationale",
        "no probabilities of named tokens: values are sampled scores",
    ),
    "clips_gradients": (
        "`max_grad_norm` is applied",
        "`max_grad_norm` is not applied: lower the learning rate where training is unstable",
    ),
    "snapshots": (
        "a sampler keeps its weights, so `publish_changed` can be measured",
        "a sampler has the weights of the moment, so `publish_changed` is not known",
    ),
    "fresh_moments": (
        "a stage starts with new moments of the optimiser",
        "a stage goes on with the moments of the optimiser of the stage before",
    ),
}


def limits(cfg: RunConfig) -> Iterator[str]:
    """What the configured server cannot do, as far as the config would have it."""
    generative = cfg.critic.kind == "generative"
    matters = {
        "several_targets": generative and cfg.critic.generative.exact_score_gradient,
        "named_probs": generative and cfg.critic.generative.readout == "expected",
    }
    dialect = DIALECTS[cfg.hardware.tinker.dialect]
    for name, (_, cannot) in MEANING.items():
        silent = name in ("any_loss", "sums")  # these change no result
        if not getattr(dialect, name) and matters.get(name, not silent):
            yield cannot


def require_sdk(name: str, version: str) -> None:
    """ValueError where the installed SDK does not speak with servers of a dialect."""
    versions = DIALECTS[name].sdk
    if not SpecifierSet(versions).contains(version, prereleases=True):
        raise ValueError(
            f"hardware.tinker.dialect is {name!r}, which the installed SDK {version} does not "
            f"speak; pip install 'tinker{versions}'"
        )


def table() -> str:
    """The dialects as Markdown."""
    versions = " | ".join(f"SDK `{dialect.sdk}`" for dialect in DIALECTS.values())
    lines = ["| | " + " | ".join(f"`{name}`" for name in DIALECTS) + " |"]
    lines.append("|---" * (len(DIALECTS) + 1) + "|")
    lines.append(f"| `sdk` | {versions} |")
    for name, (can, cannot) in MEANING.items():
        cells = [can if getattr(d, name) else cannot for d in DIALECTS.values()]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
