"""The findings of a check: lines of text, each with a level, a number and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Findings:
    """The lines so far."""

    lines: list[str] = field(default_factory=list)

    def add(self, level: str, text: str) -> None:
        self.lines.append(f"{level:<5}{' '.join(text.split())}")

    def judge(self, good: bool, text: str, remedy: str, bad: str = "FAIL") -> None:
        """ok with the number, or the bad level with number and remedy."""
        self.add("ok" if good else bad, text if good else f"{text}; {remedy}")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A ValueError or OSError inside is a finding, listed once; its message is the remedy."""
        try:
            yield
        except (ValueError, OSError) as error:
            if not any(" ".join(str(error).split()) in line for line in self.lines):
                self.add("FAIL", f"{what}: {error}")
