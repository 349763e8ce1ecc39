"""One class per tracker: where metrics, tables of judged steps and the report of a run go.

A sink may raise whatever its library raises; genac.runs.trackers leaves out one that does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from genac.config.tracking import TrackingConfig

PROJECT = "genac"
Values = dict[str, float]
TRL_AXIS = "train/global_step"


@dataclass(frozen=True)
class Place:
    """What a sink opens: the run's folder and config, and how the run is to appear."""

    folder: Path
    config: Mapping[str, Any]
    tracking: TrackingConfig
    known: str | None  # the tracker's own name of a run that goes on

    @property
    def title(self) -> str:
        return self.tracking.name or self.config["name"]


@dataclass(frozen=True)
class Table:
    """Rows of plain values, None where one is missing."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


class Sink(Protocol):
    """One tracker's run. `name` is what it is called there, "" where the folder is enough."""

    @property
    def name(self) -> str: ...

    def log(self, axis: str, step: int, values: Values) -> None:
        """Numbers under their full keys; `axis` is the key that counts their steps."""
        ...

    def table(self, key: str, axis: str, step: int, table: Table) -> None: ...

    def attach(self, file: Path) -> None:
        """A file of the run folder; nothing where the tracker keeps no files."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run folder: tensorboard --logdir RUN."""

    name = ""

    def __init__(self, library: Any, place: Place) -> None:
        self._writer = library.SummaryWriter(str(place.folder / "tensorboard"))
        self._writer.add_text("config", f"```\n{json.dumps(place.config, indent=1)}\n```")

    def log(self, axis: str, step: int, values: Values) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def table(self, key: str, axis: str, step: int, table: Table) -> None:
        self._writer.add_text(key, markdown(table), step)

    def attach(self, file: Path) -> None:
        """It keeps no files, but its own are in the same folder."""

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases; WANDB_MODE=offline keeps it on this machine. Its variables hold for what
    the config leaves open; it reads them itself, but only once in a process.
    """

    def __init__(self, library: Any, place: Place) -> None:
        self._library, tracking = library, place.tracking
        tags = os.environ.get("WANDB_TAGS", "").split(",")
        self._run = library.init(
            project=tracking.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            name=tracking.name or os.environ.get("WANDB_NAME") or place.title,
            group=tracking.group or os.environ.get("WANDB_RUN_GROUP"),
            tags=tracking.tags or [tag.strip() for tag in tags if tag.strip()],
            id=place.known,
            resume="allow",
            dir=str(place.folder),
            config=dict(place.config),
        )
        self.name = self._run.id
        self._axes: set[str] = set()

    def log(self, axis: str, step: int, values: Mapping[str, Any]) -> None:
        for prefix in sorted({key.partition("/")[0] for key in values} - self._axes):
            # each stage counts its steps from 0, so each has an axis of its own
            self._run.define_metric(f"{prefix}/*", step_metric=axis)
            self._axes.add(prefix)
        self._run.log({**values, axis: step})

    def table(self, key: str, axis: str, step: int, table: Table) -> None:
        result = self._library.Table(columns=list(table.columns), data=[*map(list, table.rows)])
        self.log(axis, step, {key: result})

    def attach(self, file: Path) -> None:
        artifact = self._library.Artifact(f"report-{self.name}", type="report")
        artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """trackio: local first, the same calls as wandb. Only its name identifies a run,
    so that of the config gets the folder's behind it. Tags it knows in the config only.
    """

    def __init__(self, library: Any, place: Place) -> None:
        self._library, tracking = library, place.tracking
        self.name = place.known or tracking.name or f"{place.title}-{place.folder.name}"
        library.init(
            project=tracking.project or PROJECT,
            name=self.name,
            group=tracking.group,
            config=dict(place.config),
            resume="allow",
        )

    def log(self, axis: str, step: int, values: Values) -> None:
        self._library.log({**values, axis: step})

    def table(self, key: str, axis: str, step: int, table: Table) -> None:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        self._library.log({key: self._library.Table(data=rows), axis: step})

    def attach(self, file: Path) -> None:
        """It keeps no files of a run."""

    def close(self) -> None:
        self._library.finish()


class MLflow:
    """MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(self, library: Any, place: Place) -> None:
        self._client = library.MlflowClient()
        self.name: str = place.known or self._create(place)

    def _create(self, place: Place) -> str:
        client, tracking = self._client, place.tracking
        project = tracking.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        result = client.get_experiment_by_name(project)
        experiment = result.experiment_id if result else client.create_experiment(project)
        tags = dict.fromkeys(tracking.tags, "true")
        tags |= {"group": tracking.group} if tracking.group else {}
        run = client.create_run(experiment, run_name=place.title, tags=tags)
        for key, value in flat(place.config).items():
            client.log_param(run.info.run_id, key, value)
        return run.info.run_id

    def log(self, axis: str, step: int, values: Values) -> None:
        for key, value in values.items():
            if axis == TRL_AXIS:  # as transformers has them here, and nowhere else
                key = key.removeprefix("train/").replace("eval/", "eval_")
            self._client.log_metric(self.name, key, value, step=step)

    def table(self, key: str, axis: str, step: int, table: Table) -> None:
        """The JSON that log_table writes, which needs pandas."""
        data = {"columns": table.columns, "data": table.rows}
        self._client.log_dict(self.name, data, f"{key}-{step:06d}.json")

    def attach(self, file: Path) -> None:
        self._client.log_artifact(self.name, str(file))

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


def markdown(table: Table) -> str:
    """A table whose cells hold no line break and no bar, which would end them."""

    def line(cells: Sequence[Any]) -> str:
        texts = ["" if cell is None else str(cell) for cell in cells]
        safe = [t.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for t in texts]
        return f"| {' | '.join(safe)} |\n"

    return line(table.columns) + line(["---"] * len(table.columns)) + "".join(map(line, table.rows))


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
