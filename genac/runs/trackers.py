"""Trackers: a run's metrics also go to TensorBoard, wandb, trackio or MLflow.

    report_to: [tensorboard, wandb]

A sink gets what is logged as it is logged, under the key stage/metric; the metric lines of the run
folder stay the record. A tracker that fails is reported once, noted in events.jsonl, and left out:
a server that is down must not end a run. trackers.json keeps the trackers' own run names, so that a
resumed run goes on in the same place (steps that are done again are then logged again).
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genac.runs.files import atomic_write
from genac.runs.sinks import LIBRARIES, SINKS, TRL_AXIS, Place, Sink, Table, Values

if TYPE_CHECKING:
    from genac.config.tracking import TrackingConfig

Row = Mapping[str, Any]
JUDGED = ("response", "prompt", "step_text", "value", "reasoning", "outcome")
# Joint metrics that TRL's GRPOTrainer logs with the same meaning, under transformers' names.
# Not `num_tokens`: TRL's is a running total that counts prompts.
TRL_NAMES = {
    name: f"train/{name}"
    for name in (
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "completions/mean_length",
        "completions/max_length",
        "completions/clipped_ratio",
        "loss",
        "grad_norm",
        "entropy",
        "kl",
        "clip_ratio/low_mean",
        "clip_ratio/high_mean",
        "clip_ratio/region_mean",
        "sampling/sampling_logp_difference/mean",
    )
} | {"eval/success": "eval/reward"}


class Trackers:
    """The sinks of one run. Raises ValueError for a tracker that is not installed."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        config: Mapping[str, Any],
        tracking: TrackingConfig,
        event: Callable[..., None],
    ) -> None:
        """`event(kind, **fields)` notes a sink that failed in the run's events."""
        self._event: Callable[..., None] | None = event
        self._file = folder / "trackers.json"
        self._tracking, self._updates = tracking, 0
        if tracking.trl_names:  # TRL counts the optimiser's steps, from 1
            loss = config["actor"]["loss"]
            self._updates = loss["num_iterations"] * loss["num_minibatches"]
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._sinks: dict[str, Sink] = {}
        for name in names:
            library, place = load(name), Place(folder, config, tracking, known.get(name))
            self._try(name, lambda n=name, x=library, p=place: self._open(n, x, p))
        if self._sinks:
            kept = {name: sink.name for name, sink in self._sinks.items()}
            atomic_write(self._file, json.dumps(known | kept, indent=1))

    def _open(self, name: str, library: Any, place: Place) -> None:
        self._sinks[name] = SINKS[name](library, place)

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Passes on what is a finite number."""
        values = {
            key: float(value)
            for key, value in metrics.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        trl = TRL_NAMES if self._updates and stage == "joint" else {}
        shared: Values = {trl[key]: value for key, value in values.items() if key in trl}
        own: Values = {f"{stage}/{key}": v for key, v in values.items() if key not in trl}
        if shared:
            at = self._updates * (step + 1)
            self._each(lambda sink: sink.log(TRL_AXIS, at, shared))
        self._each(lambda sink: sink.log(f"{stage}/step", step, own))

    def judged(
        self, stage: str, step: int, prompts: Mapping[int, str], rows: Sequence[Row]
    ) -> None:
        """A table of judged steps, from the rows of an estimates file; `prompts` by group."""
        chosen = most_telling(rows)[: self._tracking.judged_rows]
        if not chosen:
            return
        cells = [
            (
                f"{stage}/{step}/{row['group']}/{row['member']}",
                *(prompts[row["group"]], row["step_text"], row["value"]),
                *(row["rationale"], row["reward"]),
            )
            for row in chosen
        ]
        table = Table(JUDGED, cells)
        self._each(lambda sink: sink.table(f"{stage}/judged", f"{stage}/step", step, table))

    def attach(self, file: Path) -> None:
        """A file of a run that is finished: from now on nothing is added to its events."""
        self._event = None
        self._each(lambda sink: sink.attach(file))

    def close(self) -> None:
        self._each(lambda sink: sink.close())

    def _each(self, action: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            self._try(name, lambda s=sink: action(s))

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # servers and their clients fail by nature
            self._sinks.pop(name, None)
            self._without(name, f"{type(error).__name__}: {error}")

    def _without(self, name: str, message: str) -> None:
        if self._event is not None:
            self._event("tracker_failed", tracker=name, error=message[:500])
        print(
            f"{name} failed ({message[:200]}); the run goes on without it, metrics.jsonl has "
            "everything",
            file=sys.stderr,
            flush=True,
        )


def require(names: Sequence[str]) -> None:
    """ValueError for a tracker that is not installed, without importing any."""
    for name in names:
        if name in LIBRARIES and find_spec(name) is None:  # packages have the trackers' names
            raise ValueError(not_installed(name, f"no package {name!r}"))


def load(name: str) -> Any:
    """The tracker's library. ValueError where it is unknown or not installed."""
    if name not in LIBRARIES:
        raise ValueError(f"report_to names {name!r}; use one of {sorted(LIBRARIES)}")
    try:
        return importlib.import_module(LIBRARIES[name])
    except ImportError as error:
        raise ValueError(not_installed(name, str(error))) from error


def not_installed(name: str, cause: str) -> str:
    remedy = f"pip install 'genac[{name}]'"
    return f"report_to names {name!r}, which is not installed ({cause}); {remedy}"


def most_telling(rows: Sequence[Row]) -> list[Row]:
    """The rows by response: wrong ones first, then by their largest fall from value to value."""
    responses: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["start"]):
        responses[row["group"], row["member"]].append(row)

    def order(key: tuple[int, int]) -> tuple[bool, float, tuple[int, int]]:
        steps = responses[key]
        values = [row["value"] for row in steps if row["value"] is not None]
        reward = steps[0]["reward"]
        wrong = reward is not None and reward < 0.5
        return not wrong, min((b - a for a, b in pairwise(values)), default=0.0), key

    return [row for key in sorted(responses, key=order) for row in responses[key]]
