"""Ctrl-C while steps run: the step is finished and saved, and the same command goes on there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from genac import checkpoint
from genac.runs.store import Run
from genac.stages.interrupts import Interrupts
from genac.stages.loop import Loop


@pytest.fixture(autouse=True)
def python_handles_it() -> Iterator[None]:
    """As at a terminal: a process that a shell started in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.timeout(600)
def test_ctrl_c_saves_the_step_and_the_run_goes_on_behind_it(
    monkeypatch: pytest.MonkeyPatch, run_micro: Callable[..., Run], tmp_path: Any, capsys: Any
) -> None:
    plain = Loop.after

    def pressed(self: Loop, step: int, *args: Any, **fields: Any) -> None:
        if self.stage == "joint" and step == 0:
            os.kill(os.getpid(), signal.SIGINT)
        plain(self, step, *args, **fields)

    rare = {"stages": {"joint": {"save_every": 100}}}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "after", pressed)
        run_micro(**rare)
    assert "saved first" in capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    assert [p.name for p in checkpoint.complete(run.checkpoints / "joint")] == ["step-000001"]
    run_micro(**rare)
    assert [e["step"] for e in run.events("resumed") if e["stage"] == "joint"] == [1]
    assert [line["step"] for line in run.metrics("joint")] == [0, 1, 2]


def test_the_second_ctrl_c_interrupts_at_once_and_the_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.pressed
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_behind_the_last_steps_end_is_not_forgotten() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.pressed
    assert signal.getsignal(signal.SIGINT) is before
