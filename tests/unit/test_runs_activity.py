"""What a long call says while it works: whose it is, how much is done, how long it takes still."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
import torch

from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.models.tiny import save_tiny
from genac.runs import activity
from genac.runs.activity import advance, counted, doing
from genac.runs.progress import Progress, phase


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, plain = Clock(), activity.Part.__init__

    def init(self: Any, unit: str, total: int) -> None:
        plain(self, unit, total, clock)

    monkeypatch.setattr(activity.Part, "__init__", init)
    return clock


def work(clock: Clock, seconds_each: float, total: int) -> None:
    with counted("sequences", total) as part:
        for _ in range(total):
            clock.now += seconds_each
            part.advance()


def test_a_log_gets_a_line_every_ten_seconds(clock: Clock, capsys: Any) -> None:
    with phase("held-out success: 4 problems"):
        work(clock, 4.0, 6)
    assert capsys.readouterr().err.splitlines() == [
        "held-out success: 4 problems ...",
        "held-out success: 4 problems: 3/6 sequences, 0:12 left",
        "held-out success: 4 problems: 6/6 sequences, 0:00 left",
    ]


def test_a_short_call_and_one_that_belongs_to_nothing_say_nothing(
    clock: Clock, capsys: Any
) -> None:
    with doing("joint 1/3"):
        work(clock, 1.0, 9)
    work(clock, 60.0, 3)
    advance(5)
    assert capsys.readouterr().err == ""


def test_a_long_step_names_its_stage_and_its_work(clock: Clock, capsys: Any) -> None:
    with Progress("joint", 60, start=2), doing("judging states"):
        work(clock, 10.0, 2)
    assert capsys.readouterr().err.splitlines()[0] == (
        "joint 3/60: judging states: 1/2 sequences, 0:10 left"
    )


def test_a_terminals_line_is_taken_away(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    label = doing("the critic on the panel")
    with pytest.raises(KeyboardInterrupt), label, counted("sequences", 8) as part:
        clock.now += 1.0
        part.advance(2)
        raise KeyboardInterrupt
    shown = terminal.getvalue()
    assert shown.count("2/8 sequences, 0:03 left") == 1 and "\n" not in shown
    assert shown.endswith(activity.CLEAR)


def test_an_engine_counts_what_has_ended(clock: Clock, tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    save_tiny(tmp_path, ["a", "b"], hidden_size=32, layers=1, heads=2, max_length=32, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    seen: list[str] = []
    engine = LocalEngine(model, 32, max_rows=2, dtype=torch.float32)
    requests = [Request((1, 2, i % 3), 4, seed=i) for i in range(6)]

    def screen(text: str) -> None:
        seen.append(text)

    plain = activity.Part.reach

    def later(self: Any, done: int) -> None:
        clock.now += 1.0
        plain(self, done)

    with pytest.MonkeyPatch.context() as patch, doing("sampling", screen):
        patch.setattr(activity.Part, "reach", later)
        engine.generate(requests)
    counts = [int(text.split("/6 sequences")[0].split()[-1]) for text in seen]
    assert counts == sorted(counts) and counts[-1] == 6 and len(set(counts)) > 2


SCRIPT = """
import time
from genac.runs.activity import counted, doing
from genac.runs.progress import Progress
with Progress("joint", 3) as bar, doing("judging states"):
    with counted("sequences", 4) as part:
        for _ in range(4):
            time.sleep(0.3)
            part.advance()
        raise KeyboardInterrupt
"""


def test_a_real_terminals_bar_shows_the_step_and_is_not_printed_twice() -> None:
    master, slave = pty.openpty()
    size = {"COLUMNS": "100", "TERM": "xterm"}
    done = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=os.environ | size,
    )
    os.close(slave)
    text = b""
    while True:
        try:
            text += os.read(master, 4096)
        except OSError:  # the other end is closed
            break
    os.close(master)
    assert done.wait(timeout=30) != 0
    lines = text.decode().replace("\r", "\n").splitlines()
    assert any("joint 1/3: judging states: 2/4" in line for line in lines)
    assert text.decode().rstrip("\r\n").count("\n") <= 1  # all in one line
