"""What a run is refused for before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from genac.config.run import RunConfig
from genac.runs import trackers
from genac.tasks import make_task
from genac.tasks.sources import READERS, require_file


def require_ready(cfg: RunConfig) -> None:
    """ValueError for a tracker that is not installed, options that the task has not got, and a data
    file that does not exist.
    """
    trackers.require(cfg.report_to)
    task = cfg.task
    if task.name != "file" or task.path is None:
        make_task(task, cfg.seed)
    elif Path(task.path).suffix in READERS:
        require_file(Path(task.path).expanduser())
