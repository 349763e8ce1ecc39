"""Trackers: a run's metrics also go to TensorBoard, wandb, trackio or MLflow.

    report_to: [tensorboard, wandb]

A sink gets what is logged as it is logged, under the key stage/metric; the metric lines of the run
folder stay the record. A tracker that fails is told of once, noted in events.jsonl, and left out: a
server that is down must not end a run. trackers.json keeps the trackers' own run names, so that a
resumed run goes on in the same place (steps that are done again are then logged again).
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from genac.runs.files import atomic_write

PROJECT = "genac"
Values = dict[str, float]


class Sink(Protocol):
    """One tracker's run. `name` is what it is called there, "" where the folder is enough."""

    @property
    def name(self) -> str: ...

    def log(self, stage: str, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """The sinks of one run. Raises ValueError for a tracker that is not installed."""

    def __init__(
        self, names: Sequence[str], folder: Path, config: Mapping[str, Any], tell: Callable
    ) -> None:
        """`tell(tracker, error)` is called once for a sink that failed."""
        self._tell, self._file = tell, folder / "trackers.json"
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._sinks: dict[str, Sink] = {}
        for name in names:
            library = load(name)
            self._try(name, lambda n=name, x=library: self._open(n, x, folder, config, known))
        if self._sinks:
            kept = {name: sink.name for name, sink in self._sinks.items()}
            atomic_write(self._file, json.dumps(known | kept, indent=1))

    def _open(
        self,
        name: str,
        library: Any,
        folder: Path,
        config: Mapping[str, Any],
        known: Mapping[str, str],
    ) -> None:
        self._sinks[name] = SINKS[name](library, folder, config, known.get(name))

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Passes on what is a finite number."""
        values = {
            key: float(value)
            for key, value in metrics.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for name, sink in list(self._sinks.items()):
            self._try(name, lambda s=sink: s.log(stage, step, values))

    def close(self) -> None:
        for name, sink in list(self._sinks.items()):
            self._try(name, sink.close)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # servers and their clients fail by nature
            self._sinks.pop(name, None)
            self._tell(name, error)


def load(name: str) -> Any:
    """The tracker's library. ValueError where it is unknown or not installed."""
    if name not in LIBRARIES:
        raise ValueError(f"report_to names {name!r}; use one of {sorted(LIBRARIES)}")
    try:
        return importlib.import_module(LIBRARIES[name])
    except ImportError as error:
        raise ValueError(
            f"report_to names {name!r}, which is not installed ({error}); "
            f"pip install 'genac[{name}]'"
        ) from error


# --- one class per tracker ------------------------------------------------------------------------


class TensorBoard:
    """Event files in the run folder: tensorboard --logdir RUN."""

    name = ""

    def __init__(
        self, library: Any, folder: Path, config: Mapping[str, Any], name: str | None
    ) -> None:
        del name
        self._writer = library.SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=1)}\n```")

    def log(self, stage: str, step: int, values: Values) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"{stage}/{key}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases; WANDB_MODE=offline keeps it on this machine. Its other variables hold too:
    WANDB_PROJECT, WANDB_NAME, WANDB_RUN_GROUP, WANDB_TAGS.
    """

    def __init__(
        self, library: Any, folder: Path, config: Mapping[str, Any], name: str | None
    ) -> None:
        self._run = library.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or config["name"],
            id=name,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )
        self.name = self._run.id
        self._stages: set[str] = set()

    def log(self, stage: str, step: int, values: Values) -> None:
        if (
            stage not in self._stages
        ):  # stages count their steps from 0: each has an axis of its own
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log({f"{stage}/{k}": v for k, v in values.items()} | {f"{stage}/step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """trackio: local first, the same calls as wandb."""

    def __init__(
        self, library: Any, folder: Path, config: Mapping[str, Any], name: str | None
    ) -> None:
        self._library = library
        self.name = name or f"{config['name']}-{folder.name}"
        library.init(project=PROJECT, name=self.name, config=dict(config), resume="allow")

    def log(self, stage: str, step: int, values: Values) -> None:
        self._library.log({f"{stage}/{k}": v for k, v in values.items()} | {f"{stage}/step": step})

    def close(self) -> None:
        self._library.finish()


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(
        self, library: Any, folder: Path, config: Mapping[str, Any], name: str | None
    ) -> None:
        del folder
        self._client = library.MlflowClient()
        if name is None:
            project = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
            result = self._client.get_experiment_by_name(project)
            place = result.experiment_id if result else self._client.create_experiment(project)
            run = self._client.create_run(place, run_name=config["name"])
            name = run.info.run_id
            for key, value in flat(config).items():
                self._client.log_param(name, key, value)
        assert name is not None
        self.name: str = name

    def log(self, stage: str, step: int, values: Values) -> None:
        for key, value in values.items():
            self._client.log_metric(self.name, f"{stage}/{key}", value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self.name)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys with values as text, cut where MLflow would refuse them."""
    out: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = str(value)[:500]
    return out


LIBRARIES = {
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
SINKS: dict[str, Callable[..., Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": MLflow,
}
