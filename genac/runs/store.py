"""The run folder, with one reader and writer: a run is a folder that a person can read.

config.json       the resolved configuration
environment.json  versions, machine, start time and `config_hash`
metrics.jsonl     one line per logged step: {"stage", "step", "time", ...metrics}
events.jsonl      alarms and stage starts and ends: {"kind", "time", ...fields}
rollouts/{stage}-{step:06d}.parquet    what the actor wrote, one row per response
estimates/{stage}-{step:06d}.parquet   what the critic said, one row per state
judged/NAME/{stage}-{step:06d}.parquet what another critic said of the same states
checkpoints/      written by the checkpoint module
before.json       until the run ends: the evaluations before joint training
summary.json      the evaluations at start and end, for machines
report.html       written by the report
done.json         digests of these files, written last: see the manifest module
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from genac.runs.checked import file_name, read_group, step_files
from genac.runs.files import (
    append_line,
    atomic_write,
    read_json,
    read_lines,
    repair_tail,
    revive,
    stable_hash,
    tail_lines,
    write_json,
)
from genac.runs.tables import (
    ESTIMATE_COLUMNS,
    ROLLOUT_COLUMNS,
    Decode,
    Words,
    by_token,
    encode,
    estimate_row,
    read,
    rollout_row,
)
from genac.runs.trackers import Trackers
from genac.runs.trajectory import Trajectory
from genac.types import Advantages, Estimate, Rollout

JUDGE = re.compile(r"[A-Za-z0-9_][\w.,=+-]*")  # names a folder of judgements
__all__ = ["Run", "atomic_write", "environment", "stable_hash"]


class Run:
    """One run's folder.

    run = Run.create(path, config, environment()); run.log("joint", 0, {"reward": 0.5})
    Run.open(path).metrics("joint") == [{"stage": "joint", "step": 0, "time": ..., "reward": 0.5}]
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._trackers: Trackers | None = None
        self._repaired: set[str] = set()

    @classmethod
    def create(cls, path: Path | str, config: Mapping, environment: Mapping) -> Run:
        """A new run. config.json is written last: a folder that has it is a whole run."""
        run = cls(path)
        if cls.exists(path):
            raise ValueError(f"{run.path} already holds a run: resume it or name another folder")
        for folder in ("rollouts", "estimates", "checkpoints"):
            (run.path / folder).mkdir(parents=True, exist_ok=True)
        hashed = {"config_hash": stable_hash(config), **environment}
        write_json(run.path / "environment.json", hashed)
        write_json(run.path / "config.json", config)
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """An existing run; ValueError where there is none."""
        if not cls.exists(path):
            raise ValueError(
                f"{path} holds no run (no config.json): name a folder that a run wrote"
            )
        return cls(path)

    @staticmethod
    def exists(path: Path | str) -> bool:
        return (Path(path) / "config.json").is_file()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    def environment(self) -> dict[str, Any]:
        return read_json(self.path / "environment.json")

    def config_hash(self) -> str:
        return self.environment()["config_hash"]

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """One line of metrics. A non-finite number is kept, as the string "nan" or "inf"."""
        self._append(
            "metrics.jsonl", {"stage": stage, "step": step, "time": time.time(), **metrics}
        )
        if self._trackers is not None:
            self._trackers.log(stage, step, metrics)

    @contextmanager
    def reporting(self, names: Sequence[str]) -> Iterator[None]:
        """Within it, what is logged also goes to these trackers."""
        self._trackers = Trackers(names, self.path, self.config(), self._without)
        try:
            yield
        finally:
            self._trackers.close()
            self._trackers = None

    def _without(self, tracker: str, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        self.event("tracker_failed", tracker=tracker, error=message[:500])
        print(
            f"{tracker} failed ({message[:200]}); the run goes on without it, metrics.jsonl has "
            "everything",
            file=sys.stderr,
            flush=True,
        )

    def event(self, kind: str, **fields: Any) -> None:
        self._append("events.jsonl", {"kind": kind, "time": time.time(), **fields})

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Every logged line (of one stage), without the half line of a killed writer. ValueError
        where a line lacks its stage or step.
        """
        lines = [revive(obj) for _, obj in self._logged()]
        return [line for line in lines if stage in (None, line["stage"])]

    def _logged(self) -> list[tuple[str, dict[str, Any]]]:
        path = self.path / "metrics.jsonl"
        lines = read_lines(path)
        for number, (_, line) in enumerate(lines, start=1):
            step = line.get("step")
            whole = isinstance(step, int) and not isinstance(step, bool)
            if not whole or not isinstance(line.get("stage"), str):
                raise ValueError(
                    f"{path} line {number} has stage {line.get('stage')!r:.40} and step "
                    f"{step!r:.40}, not a name and a whole number: restore the file, or delete "
                    "that line"
                )
        return lines

    def last_metrics(self, count: int = 10) -> list[dict[str, Any]]:
        """The last logged lines, from the file's end: the cost does not grow with the run."""
        return [revive(line) for line in tail_lines(self.path / "metrics.jsonl", count)]

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        events = [obj for _, obj in read_lines(self.path / "events.jsonl")]
        return [event for event in events if kind in (None, event.get("kind"))]

    def write_rollouts(
        self, stage: str, step: int, rollouts: Sequence[Rollout], decode: Decode | None = None
    ) -> None:
        """One row per response; `decode` turns token ids into text, for the column tokens."""
        words = Words(decode)
        rows = [rollout_row(rollout, words) for rollout in rollouts]
        self._write_table("rollouts", stage, step, encode(rows, ROLLOUT_COLUMNS))

    def write_estimates(
        self,
        stage: str,
        step: int,
        estimates: Sequence[Estimate],
        advantages: Advantages | None = None,
        decode: Decode | None = None,
        critic_decode: Decode | None = None,
        folder: str = "estimates",
    ) -> None:
        """One row per state, and per token of a dense one. `decode` turns a response's token ids
        into the column step_text, `critic_decode` the critic's own tokens into its prompt and the
        tokens of its reasoning.
        """
        actor, critic = Words(decode), Words(critic_decode)
        by_start = by_token(estimates, advantages or {})
        single = [one for estimate in estimates for one in estimate.per_token()]
        rows = [estimate_row(estimate, by_start, actor, critic) for estimate in single]
        self._write_table(folder, stage, step, encode(rows, ESTIMATE_COLUMNS))

    def judged(self, name: str) -> str:
        """The folder of what another critic said of this run's states, as `table` takes it;
        ValueError where the name cannot be a folder's.
        """
        if not JUDGE.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot name judgements: use letters, digits and . , = + - _, and begin "
                "with a letter or digit"
            )
        return f"judged/{name}"

    def judges(self) -> list[str]:
        """The names of the critics whose judgements were added to the run."""
        folders = (self.path / "judged").glob("*")
        return sorted(p.name for p in folders if JUDGE.fullmatch(p.name) and p.is_dir())

    def tables(self, folder: str, stage: str | None = None) -> list[tuple[str, int]]:
        """(stage, step) of the files in "rollouts" or "estimates", by stage and step."""
        return [key for key in step_files(self.path, folder)[0] if stage in (None, key[0])]

    def table(
        self,
        folder: str,
        stage: str,
        step: int,
        columns: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The rows of one file as they are stored, of some columns or all."""
        return read(self.table_path(folder, stage, step), columns)

    def group(
        self,
        stage: str,
        step: int,
        group: int,
        columns: Sequence[str] | None = None,
        values: str = "estimates",
    ) -> list[Trajectory]:
        """The responses of one group, with the values of their states (or with those of another
        critic: values=run.judged(name)), from some columns or all; ValueError where the run holds
        none. What could not be read stands in `problems` of each.
        """
        result, problems = read_group(self.path, (stage, step), group, columns, values)
        if not result:
            raise ValueError(
                f"{self.path} holds no group {group} of stage {stage!r} at step {step}; "
                + ("; ".join(problems) or "Run.tables('rollouts') lists the steps it holds")
            )
        return result

    def trajectory(
        self, step: int, group: int = 0, member: int = 0, stage: str = "joint"
    ) -> Trajectory:
        """One response with the values of its states; ValueError where the run holds none."""
        result = self.group(stage, step, group)
        for one in result:
            if one.member == member:
                return one
        raise ValueError(
            f"group {group} of stage {stage!r} at step {step} has no response {member}; it has "
            f"{', '.join(str(one.member) for one in result)}"
        )

    def metrics_frame(self, stage: str | None = None) -> Any:
        """`metrics` as a pandas frame."""
        return _pandas().DataFrame(self.metrics(stage))

    def rollouts_frame(self, stage: str | None = None, columns: Sequence[str] | None = None) -> Any:
        """Every stored response (of one stage) as a pandas frame, with its stage and step."""
        return self._frame("rollouts", stage, columns)

    def estimates_frame(
        self, stage: str | None = None, columns: Sequence[str] | None = None
    ) -> Any:
        """Every stored value (of one stage) as a pandas frame, with its stage and step."""
        return self._frame("estimates", stage, columns)

    def _frame(self, folder: str, stage: str | None, columns: Sequence[str] | None) -> Any:
        pandas = _pandas()
        frames = []
        for key in self.tables(folder, stage):
            rows = pandas.DataFrame(self.table(folder, *key, columns))
            rows.insert(0, "step", key[1])
            rows.insert(0, "stage", key[0])
            frames.append(rows)
        return pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame()

    def truncate_after(self, stage: str, step: int) -> None:
        """Drops what `stage` logged after `step`: a resumed run will do those steps again."""
        path = self.path / "metrics.jsonl"
        kept = [raw for raw, obj in self._logged() if obj["stage"] != stage or obj["step"] <= step]
        if path.exists():
            atomic_write(path, "".join(line + "\n" for line in kept))
        for folder in ("rollouts", "estimates", *map(self.judged, self.judges())):
            for _, later in [key for key in self.tables(folder, stage) if key[1] > step]:
                self.table_path(folder, stage, later).unlink()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """What write_summary wrote; empty before the last evaluation."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() else {}

    def _append(self, name: str, line: dict[str, Any]) -> None:
        if name not in self._repaired:
            repair_tail(self.path / name)
            self._repaired.add(name)
        append_line(self.path / name, line)

    def table_path(self, folder: str, stage: str, step: int) -> Path:
        return self.path / file_name(folder, stage, step)

    def _write_table(self, folder: str, stage: str, step: int, data: bytes) -> None:
        path = self.table_path(folder, stage, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)


def environment() -> dict[str, Any]:
    """What the run ran on; versions come from package metadata, so nothing heavy is imported."""
    return {
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "versions": {name: _version(name) for name in ("genac", "torch", "transformers", "numpy")},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ValueError(
            "frames need pandas, which is not installed: pip install 'genac[notebook]', or use "
            "Run.metrics() and Run.table(), which return plain rows"
        ) from error
    return pandas


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
