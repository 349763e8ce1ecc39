"""Options of tasks that are no dataclasses."""

from __future__ import annotations

import pytest

from genac.tasks.options import checked


class Plain:
    def __init__(self, seed: int, steps: int = 2):
        self.steps = steps


def any_task(seed: int, **settings: int) -> dict[str, int]:
    return settings


def test_an_option_that_a_plain_class_does_not_take_is_named():
    assert checked("plain", Plain, {"steps": 3}, "task.options") == {"steps": 3}
    with pytest.raises(ValueError, match=r"^task.options.step is no option of task 'plain'; did"):
        checked("plain", Plain, {"step": 3}, "task.options")


def test_a_task_that_takes_any_option_gets_it():
    assert checked("any", any_task, {"step": 3}, "task.options") == {"step": 3}
