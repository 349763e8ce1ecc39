"""Commands of the pages, run from the pages' own text on a run of a minute's size.

tests/docs_commands.yaml says which. A placeholder is filled in and sizes are lowered, nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from doc_commands import ROOT, Command, Coverage
from families import save_family
from micro import MICRO, Answer
from test_real_recipes import COMMON, SHAPES
from transformers import AutoConfig, Qwen3Config

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.stages.pipeline import train
from genac.ui.report.groups import flatten

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HERE = "tests/integration/test_docs_commands.py"
DEADLINE = 400.0  # seconds until a server answers; the machine may be busy
OPTIONS = {"min_steps": 1, "max_steps": 2, "operators": "+-*", "multiplication_rate": 0.3}
SHIFT = {"longer": {"min_steps": 3, "max_steps": 3}}
# As large as the pages' examples ask for: a step 10 with a group 3, a checkpoint of step 30.
SMALL: dict[str, Any] = merge(
    MICRO,
    {
        "task": {"options": OPTIONS, "shift": SHIFT},
        "actor": {"tiny": {"max_length": 160}},
        "stages": {"joint": {"steps": 31, "save_every": 10, "eval_every": 0}},
    },
)
FILLED = {
    "[RUN ...]": "runs/other",
    "[CRITIC ...]": "runs/other/critic",
    "[NAME ...]": "sums.jsonl",
    "[--shift NAME]": "--shift longer",
    "[--critic OTHER]": "--critic runs/other/critic",
    "[--rationales K]": "--rationales 2",
    "[--limit N]": "--limit 2",
    "[--samples K]": "--samples 2",
    "[--states N]": "--states 2",
    "[--threshold T]": "--threshold 0.5",
    "[--out DIR]": "--out judged",
    "runs/seedS": "runs/seed0",
    "some/model/folder": "runs/other/critic",
}
WORDS = {
    "RUN": "runs/arithmetic",
    "CRITIC": "runs/arithmetic/critic",
    "MODEL": "runs/arithmetic/actor",
    "FILE": "solutions.jsonl",
    "RECIPE": "arithmetic",
    "S": "0",
}
LOWER = {
    "generate runs/arithmetic/actor": "--max-tokens 14",
    "eval search": "--n 2 --problems 4",
    "eval critic": "--problems 2 --continuations 4",
    "eval benchmarks": "--samples 2 --max-tokens 12 --reward match --output benchmarks",
}
SUMS = [{"question": f"{i} a+{i}>", "answer": str(2 * i)} for i in range(1, 5)]
SOLUTIONS = [
    {"problem": "3 a+4>", "solution": "a+4=7\nans=7", "correct": True},
    {"problem": "3 a+4>", "solution": "a+4=8\nans=8", "correct": False},
]


def own(test: str) -> list[Any]:
    commands = Coverage.read().of_test(f"{HERE}::{test}")
    return [pytest.param(command, id=command.bare) for command in commands]


def arguments(command: Command) -> list[str]:
    """What the program is given here: nothing is left for a reader to fill in."""
    text = command.bare
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    if sft := list(Path("runs/stages").glob("critic_sft-*")):
        text = re.sub(r"runs/stages/critic_sft-\w+", str(sft[0]), text)
    text = re.sub(r"\[(--[^\]A-Z]*)\]", r"\1", text)  # options with a value
    words = [WORDS.get(word, word) for word in Command(text).words]
    assert not any("[" in word or "..." in word for word in words), words
    for begin, lower in LOWER.items():
        if words[1 : 1 + len(begin.split())] == begin.split():
            words += lower.split()  # of an option that comes twice the last one counts
    return words


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and files that the pages speak of; commands add to it."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        places = {"output_dir": "runs/arithmetic", "stages": {"folder": "runs/stages"}}
        train(resolve(merge(SMALL, places)))
        for name in ("other", "seed0", "seed1", "seed2", "grpo", "compare/genac-0"):
            shutil.copytree("runs/arithmetic", Path("runs") / name)
        write_rows(folder / "sums.jsonl", SUMS)
        write_rows(folder / "solutions.jsonl", SOLUTIONS)
    return folder


@pytest.fixture
def at_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("command", own("test_a_command_on_a_finished_run_ends_well"))
def test_a_command_on_a_finished_run_ends_well(
    command: Command, at_place: Path, genac: Callable[..., Answer]
) -> None:
    answer = genac(*arguments(command)[1:])
    assert answer.code == 0 and answer.out, answer


@pytest.mark.parametrize("command", own("test_a_training_command_trains"))
def test_a_training_command_trains(
    command: Command,
    genac: Callable[..., Answer],
    stages: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").symlink_to(ROOT / "recipes")
    words = arguments(command)[1:]
    set_there = {w.split("=")[0].removeprefix("--").replace("-", "_") for w in words}
    small = merge(MICRO, {"stages": {"folder": str(stages)}})
    keys = [f"{k}={v}" for k, v in flatten(small).items() if k not in set_there]
    answer = genac(*words, *keys)
    assert answer.code == 0 and "held-out success" in answer.out, answer
    assert list(Path("runs").rglob("done.json")), "the run is where the page says"


@contextmanager
def server(words: list[str]) -> Iterator[str]:
    """The address of a server that such a command starts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    more = ["--no-browser"] if words[1] == "view" else []
    command = [sys.executable, "-m", *words, "--port", str(port), *more]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as running:
        try:
            end = time.monotonic() + DEADLINE
            while True:
                assert running.poll() is None and time.monotonic() < end, command
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()
            running.wait(30)


@pytest.mark.parametrize("command", own("test_a_server_answers"))
def test_a_server_answers(command: Command, at_place: Path) -> None:
    words = arguments(command)
    with server(words) as address:
        path = "/" if words[1] == "view" else "/health"
        with urllib.request.urlopen(address + path, timeout=DEADLINE) as reply:
            assert reply.status == 200


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_what_the_page_sends_to_a_server_is_answered(at_place: Path) -> None:
    (call,) = Coverage.read().of_test(f"{HERE}::test_what_the_page_sends_to_a_server_is_answered")
    (code,) = re.findall(
        r"```python\n(import json, urllib.*?)```",
        (ROOT / "docs" / "serving.md").read_text(),
        flags=re.S,
    )
    with server(["genac", "serve", "runs/arithmetic/critic"]) as address:
        words = [w.replace("localhost:8077", address) for w in call.words]
        reply = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE)
        assert reply.returncode == 0 and "value" in json.loads(reply.stdout), reply
        code = code.replace("http://127.0.0.1:8077", address)
        names: dict[str, Any] = {}
        exec(code.replace("\nscore(", "\nanswer = score("), names)
        assert len(names["answer"]["judgements"]) == 2, names["answer"]


def test_the_doctor_examines_ones_own_problems(
    tmp_path: Path, genac: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a model of the true shape, which lies here instead of on the hub."""
    (command,) = Coverage.read().of_test(f"{HERE}::test_the_doctor_examines_ones_own_problems")
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(3000)]
    write_rows(tmp_path / "problems.jsonl", rows)
    folder = Path(save_family("qwen3", tmp_path / "model", context=40_960))
    small = AutoConfig.from_pretrained(folder)
    ends = {"eos_token_id": small.eos_token_id, "pad_token_id": small.pad_token_id}
    Qwen3Config(**COMMON, **SHAPES["Qwen/Qwen3-1.7B"], **ends).save_pretrained(folder)
    models = [f"{role}.model_name_or_path={folder}" for role in ("actor", "critic")]
    answer = genac(*arguments(command)[1:], *models)
    heldout = re.search(r"ok task: (\d+) heldout problems", answer.out)
    assert answer.code == 0 and heldout and 200 < int(heldout[1]) < 400, answer.out
    page = (ROOT / "docs" / "own-data.md").read_text()
    gib = re.search(r"^\| `genac` \| (\d+) \|", page, flags=re.M)
    memory = re.search(r"ok memory: about ([\d.]+)", answer.out)
    assert gib and memory and round(float(memory[1])) == int(gib[1]), answer.out
