"""Tasks: problems, verifiers, demonstrations and oracles, without torch. To add one: one class over
`base.py` and one line in `TASKS`.

Rewards are computed here too; a user's reward function runs in worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from genac.config.run import TaskConfig
from genac.tasks.arithmetic import ArithmeticTask
from genac.tasks.base import Task
from genac.tasks.exact import ModularTask
from genac.tasks.files import FileTask
from genac.tasks.gym import GymTask
from genac.tasks.options import checked
from genac.tasks.sums import SumTask
from genac.tasks.word_problems.task import WordProblemTask

TASKS: dict[str, Callable[..., Any]] = {
    "arithmetic": ArithmeticTask,
    "exact": ModularTask,
    "sums": SumTask,
    "word_problems": WordProblemTask,
    "gym": GymTask,
    "file": FileTask,
}


def row_counts(task: Task) -> dict[str, Any]:
    """What a task of data says of its rows (sizes, rows left out); empty for a generated one."""
    return task.row_counts() if isinstance(task, FileTask) else {}


def options_of(
    cfg: TaskConfig, options: Mapping[str, Any], section: str = "task.options"
) -> dict[str, Any]:
    """Options for the configured task, as `section` holds them, with their types. Raises ValueError
    for an unknown task, one without its file, an option that it has not got, and a value of another
    type.
    """
    if cfg.name not in TASKS:
        raise ValueError(f"task.name is {cfg.name!r}; use one of {sorted(TASKS)}")
    if cfg.name == "file" and cfg.path is None:
        raise ValueError("task.name is 'file' but task.path is not set; give the data file")
    return checked(cfg.name, TASKS[cfg.name], options, section)


def make_task(cfg: TaskConfig, seed: int, **overrides: Any) -> Task:
    """The configured task. `overrides` replace settings of its generator, as a shift does.

    Raises ValueError for an unknown task or setting.
    """
    settings = {"seed": seed, **options_of(cfg, {**cfg.options, **overrides})}
    if cfg.name == "file":
        settings |= {"path": cfg.path, "reward": cfg.reward}
    elif cfg.reward is not None or cfg.path is not None:
        raise ValueError(
            f"task.path and task.reward belong to task.name 'file', not {cfg.name!r}; remove them"
        )
    return TASKS[cfg.name](**settings)
