"""One live line while a stage runs: a bar with rate and time left, or plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

EVERY_SECONDS = 5.0  # at most one plain line in this time


class Progress:
    """Progress of `total` steps; `start` is where a resumed run begins.

    with Progress("joint", total=60) as bar:
        for step in range(60):
            bar.update(step + 1, reward=0.5)      # steps done so far
    """

    def __init__(
        self,
        stage: str,
        total: int,
        enabled: bool = True,
        start: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.stage, self.total, self.start = stage, total, start
        self.enabled = enabled
        self._clock = clock
        self._began = clock()
        self._printed = float("-inf")
        self._pending = ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._began = self._clock()
        if self.enabled and sys.stdout.isatty():
            self._bar = _live_bar()
            self._task = self._bar.add_task(
                self.stage, total=self.total, completed=self.start, numbers="", pace=""
            )
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._flush()  # also after an error: the last numbers are what a log's reader looks for

    def update(self, step: int, **numbers: float | int | str | None) -> None:
        """`step` steps are done; shows the numbers beside the rate and the time left."""
        if not self.enabled:
            return
        pace = self._pace(step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=_shown(numbers), pace=pace)
            return
        parts = [f"{self.stage} {step}/{self.total}", pace, _shown(numbers)]
        self._pending = " | ".join(part for part in parts if part)
        if step >= self.total or self._clock() - self._printed >= EVERY_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            print(self._pending, flush=True)
            self._printed, self._pending = self._clock(), ""

    def _pace(self, step: int) -> str:
        """Rate and time left by the steps of this process, so that a resume does not flatter."""
        seconds, done = self._clock() - self._began, step - self.start
        if seconds <= 0 or done <= 0:
            return ""
        each = seconds / done
        rate = f"{each:.1f} s/step" if each >= 1 else f"{1 / each:.1f} steps/s"
        return f"{rate}, {_clock_time(each * max(self.total - step, 0))} left"


def _live_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[numbers]}"),
    )


def _shown(numbers: dict[str, Any]) -> str:
    """A few numbers as text; what is missing is left out."""
    short = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in numbers.items()}
    return "  ".join(f"{key} {value}" for key, value in short.items() if value is not None)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
