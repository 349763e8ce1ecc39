"""One live line while a stage runs: a bar with rate and time left, or plain lines in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from genac.runs.activity import doing, duration

EVERY_SECONDS = 5.0  # at most one plain line in this time
BLOCKS = "▁▂▃▄▅▆▇█"
CELLS = 12  # of a sparkline
ECHO = 4  # columns left free: the ^C that a terminal writes would break a full line in two
ROOM = 120  # columns that a terminal needs for sparklines next to the numbers


class Progress:
    """Progress of `total` steps; `start` is where a resumed run begins. On a terminal that can show
    it, the numbers named in `sparks` have their course before them, from 0 to the given height.

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
        sparks: Mapping[str, float] | None = None,
    ):
        self.stage, self.total, self.start = stage, total, start
        self.enabled = enabled
        self._clock = clock
        self._began = clock()
        self._printed = float("-inf")
        self._pending = ""
        self._bar: Any = None
        self._done = start
        self._within = ExitStack()
        self._sparks = sparks or {}
        self._course: dict[str, list[float]] = {}

    def __enter__(self) -> Progress:
        self._began = self._clock()
        if self.enabled and sys.stdout.isatty():
            self._bar = _live_bar()
            if _shows_blocks(self._bar.console):
                self._course = {key: [] for key in self._sparks}
            self._task = self._bar.add_task(
                self.stage, total=self.total, completed=self.start, numbers="", pace=""
            )
            self._bar.start()
        self._within.enter_context(doing(self._label, None if self._bar is None else self._inside))
        return self

    def _label(self) -> str:
        return f"{self.stage} {min(self._done + 1, self.total)}/{self.total}"

    def _inside(self, text: str) -> None:
        """What the step under way has done, in the place of the stage's name."""
        self._bar.update(self._task, description=text)

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away; also after an error: the last numbers are what a log's reader looks
        for.
        """
        self._within.close()
        if self._bar is not None:
            self._bar.stop()
        self._flush()

    def update(self, step: int, **numbers: float | int | str | None) -> None:
        """`step` steps are done; shows the numbers with the rate and the time left."""
        self._done = step
        if not self.enabled:
            return
        pace = self._pace(step)
        if self._bar is not None:
            shown = _shown(numbers, self._drawn(numbers))
            fresh = {"description": self.stage, "numbers": shown, "pace": pace}
            self._bar.update(self._task, completed=step, **fresh)
            return
        parts = [f"{self.stage} {step}/{self.total}", pace, _shown(numbers)]
        self._pending = " | ".join(part for part in parts if part)
        if step >= self.total or self._clock() - self._printed >= EVERY_SECONDS:
            self._flush()

    def _drawn(self, numbers: Mapping[str, Any]) -> dict[str, str]:
        """The course of each number so far, this step included."""
        for key, course in self._course.items():
            value = numbers.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                course.append(value)
        return {key: sparkline(course, self._sparks[key]) for key, course in self._course.items()}

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
        return f"{rate}, {duration(each * max(self.total - step, 0))} left"


@contextmanager
def phase(text: str) -> Iterator[None]:
    """Says what begins, and at its end how long it took, if that was noticeable; on the error
    stream, because a command's output may be read by a program.
    """
    print(f"{text} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    with doing(text):
        yield
    if (seconds := time.monotonic() - began) >= 1:
        print(f"{text}: {duration(seconds)}", file=sys.stderr, flush=True)


def sparkline(values: Sequence[float], top: float, cells: int = CELLS) -> str:
    """The course of `values` from 0 to `top`, each block the mean of an equal stretch of them."""
    each = max(1, math.ceil(len(values) / cells))
    stretches = [values[i : i + each] for i in range(0, len(values), each)]
    heights = [sum(stretch) / len(stretch) / top * len(BLOCKS) for stretch in stretches]
    return "".join(BLOCKS[min(len(BLOCKS) - 1, max(0, int(height)))] for height in heights)


def _shows_blocks(console: Any) -> bool:
    """Whether a terminal has the characters and the room."""
    try:
        BLOCKS.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return not console.is_dumb_terminal and console.width >= ROOM


def _live_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    console = Console()
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        # what is too long for the terminal is cut here, not in the bar
        TextColumn("{task.fields[numbers]}", table_column=Column(ratio=1, no_wrap=True)),
        console=Console(width=console.width - ECHO) if console.width > 4 * ECHO else console,
        expand=True,
    )


def _shown(numbers: Mapping[str, Any], drawn: Mapping[str, str] | None = None) -> str:
    """A few numbers as text, without the missing ones. Those in `drawn` come first, each behind its
    course.
    """
    numbers = dict(sorted(numbers.items(), key=lambda item: item[0] not in (drawn or {})))
    short = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in numbers.items()}
    before = {key: f"{course} " for key, course in (drawn or {}).items() if course}
    return "  ".join(
        f"{key} {before.get(key, '')}{value}" for key, value in short.items() if value is not None
    )
