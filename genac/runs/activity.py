"""What a long call has done so far, for whoever waits for it.

    with doing("joint 3/60"), doing("judging states"):
        with counted("sequences", total=512) as part:     # in an engine
            part.advance(8)

    joint 3/60: judging states: 120/512 sequences, 2:10 left

A terminal shows one line that is overwritten and leaves nothing behind; a live bar shows it itself.
A log gets a line at most every LOG_EVERY seconds. Where no activity was announced, as in a
worker process, nothing is shown.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG_EVERY = 10.0  # seconds between two lines in a log; a shorter call writes none
LIVE_EVERY = 0.5  # seconds between two versions of a terminal's line
CLEAR = "\r\x1b[K"  # back to the line's beginning, and everything behind it away

Label = str | Callable[[], str]
Screen = Callable[[str], None]
_doing: list[tuple[Label, Screen | None]] = []  # outermost first
_parts: list[Part] = []
_lock = threading.Lock()


@contextmanager
def doing(label: Label, screen: Screen | None = None) -> Iterator[None]:
    """Within it, what is counted belongs to `label`. `screen`, of a live bar, shows the text."""
    own = (label, screen)
    _doing.append(own)
    try:
        yield
    finally:  # by itself: a generator that an error left may end after what was begun later
        _doing[:] = [other for other in _doing if other is not own]


def live_screen() -> Screen | None:
    """The innermost live bar."""
    return next((screen for _, screen in reversed(_doing) if screen is not None), None)


class Part:
    """So many of `total` are done. Usable from any thread."""

    def __init__(self, unit: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.unit, self.total, self.done = unit, total, 0
        self._clock = clock
        self._began = clock()
        self._shown = self._began  # when it was last shown
        self._live = False  # whether a terminal's line is to be taken away

    def advance(self, count: int = 1) -> None:
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """`done` are done by now; shows it when that is due."""
        with _lock:
            self.done = min(self.total, max(self.done, done))
            live = live_screen() is not None or sys.stderr.isatty()
            if _doing and self._clock() - self._shown >= (LIVE_EVERY if live else LOG_EVERY):
                self._shown = self._clock()
                self._show(self.text())

    def text(self) -> str:
        labels = [label if isinstance(label, str) else label() for label, _ in _doing]
        seconds = self._clock() - self._began
        left = seconds / self.done * (self.total - self.done) if self.done else None
        counts = f"{self.done}/{self.total} {self.unit}"
        return ": ".join([*labels, counts]) + ("" if left is None else f", {duration(left)} left")

    def _show(self, text: str) -> None:
        if (screen := live_screen()) is not None:
            screen(text)
        elif sys.stderr.isatty():
            self._live = True
            room = shutil.get_terminal_size().columns - 1
            short = text if len(text) <= room else f"...{text[3 - room :]}"
            print(f"{CLEAR}{short}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Takes a terminal's line away."""
        with _lock:
            if self._live:
                print(CLEAR, end="", file=sys.stderr, flush=True)


@contextmanager
def counted(unit: str, total: int) -> Iterator[Part]:
    """A part of what is being done now."""
    part = Part(unit, total)
    _parts.append(part)
    try:
        yield part
    finally:
        _parts.remove(part)
        part.close()


def advance(count: int) -> None:
    """So many more of the part that was begun last are done; of none, nothing."""
    if _parts:
        _parts[-1].advance(count)


def duration(seconds: float) -> str:
    """1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
