"""One response's reward function may do to its process whatever it can: others get their reward."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genac.tasks import verifier as verifying
from genac.tasks.files import FileTask
from genac.tasks.verifier import Outcome, Verifier
from genac.types import Problem

FILE = Path(__file__).parents[1] / "data" / "hostile_rewards.py"
PROBLEM = Problem("p", "2 + 3?", "5")
PLACE = 5  # of the hostile response among sixteen
DIED = "process died"
LONG = "more than 1 s"
EXPECTED = {  # what the hostile response itself gets; others get 0.25 or a reason
    "fork_and_raise": 0.25,
    "fork_and_return": 0.25,
    "session_with_pipe": DIED,
    "exit_now": DIED,
    "segfault": DIED,
    "kill_group": DIED,
    "close_everything": DIED,
    "few_files": 0.25,
    "stop": LONG,
    "hang": LONG,
    "spin": LONG,
    "hang_without_lock": LONG,
    "length_hangs": LONG,
    "item_hangs": LONG,
    "exit_politely": "raised SystemExit",
    "interrupt": "raised KeyboardInterrupt",
    "generator_exit": "raised GeneratorExit",
    "cancelled": "raised CancelledError",
    "error_without_text": "its text raises",
    "length_raises": "raised ZeroDivisionError",
    "item_exits": DIED,
}


QUICK = (  # of the default suite; the others are marked slow
    "fork_and_raise",
    "fork_and_exit",
    "session",
    "thread_that_kills",
    "alarm_soon",
    "write_everywhere",
    "patch_json",
    "exit_now",
)


def hostilities() -> list[Any]:
    spec = importlib.util.spec_from_file_location("hostile_rewards", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    marks = {name: () if name in QUICK else pytest.mark.slow for name in module.HOSTILE}
    return [pytest.param(name, marks=marks[name]) for name in sorted(marks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all workers work, so that what they leave behind is found."""
    return tmp_path_factory.mktemp("verifier").resolve()


@pytest.fixture(scope="module", params=["judge", "judge_later"])
def judge(request, folder) -> Iterator[Verifier]:
    (folder / "data.jsonl").write_text('{"prompt": "2 + 3?", "answer": "5"}\n')
    task = FileTask(str(folder / "data.jsonl"), reward=f"{FILE}:{request.param}")
    with Verifier(task, time_limit=1.0) as verifier:
        yield verifier


def processes_in(folder: Path) -> set[int]:
    numbers = set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(place / "cwd") == str(folder):
                numbers.add(int(place.name))
    return numbers - {os.getpid()}


@pytest.mark.parametrize("hostile", hostilities())
def test_a_hostile_response_costs_only_itself(judge, folder, monkeypatch, hostile):
    monkeypatch.chdir(folder)
    texts = [f"fine {n}" for n in range(16)]
    texts[PLACE] = hostile
    outcomes = judge.verify([(PROBLEM, text) for text in texts])
    own = outcomes.pop(PLACE)
    assert outcomes == [Outcome(n / 100) for n in range(16) if n != PLACE]
    assert judge.verify([(PROBLEM, "fine 7")]) == [Outcome(0.07)]
    expected = EXPECTED.get(hostile)
    if isinstance(expected, float):
        assert own.reward == expected
    elif expected:
        assert own.reward is None and expected in own.reason
    else:
        assert own.reward == 0.25 or own.reason
    if Path("/proc").is_dir():
        workers = {slot.worker.process.pid for slot in judge._slots if slot.worker}
        assert processes_in(folder) <= workers


LAZY = """
import os, sys, threading
STARTED = []

DEF fn(completions):
    if not STARTED:
        STARTED.append(threading.Thread(target=threading.Event().wait, daemon=True))
        STARTED[0].start()
        os.environ["LAZY"] = "1"
        sys.path.append("/lazy")
        with open("starts", "a") as file:
            file.write("x")
    return [float(completions[0])]
"""


@pytest.mark.parametrize("define", ["def", "async def"])
def test_what_every_process_is_left_with_is_a_habit(tmp_path, monkeypatch, define):
    """A thread, a variable and a folder that the first call makes: not a process per response."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verifying, "WORKERS", 1)
    (tmp_path / "lazy.py").write_text(LAZY.replace("DEF", define))
    (tmp_path / "data.jsonl").write_text('{"prompt": "2 + 3?", "answer": "5"}\n')
    task = FileTask("data.jsonl", reward="lazy.py:fn")
    with Verifier(task) as verifier:
        for _ in range(2):
            outcomes = verifier.verify([(PROBLEM, str(n / 100)) for n in range(100)])
            assert outcomes == [Outcome(n / 100) for n in range(100)]
    assert len((tmp_path / "starts").read_text()) <= verifying.HABIT + 1
