"""Every file of a run's folder, and of the stages it was made from, damaged in every way: each
command works with the identical result, or ends with one message that names the file.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from killing import Killed, holds, killed_after
from micro import MICRO, Answer, Values, copy_stages

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.runs import listing
from genac.stages.pipeline import train

Genac = Callable[..., Answer]
STEPS = {"joint": {"steps": 3, "save_every": 1, "eval_every": 0, "log_rollouts_every": 1}}
NAMES = ("base", "traces", "critic_sft", "critic_rl")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these tests alone, which look into it."""
    return tmp_path_factory.mktemp("stages")


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "flipped": flipped,
    "list": lambda _: b"[1]\n",
    "string": lambda _: b'"text"\n',
    "null": lambda _: b"null\n",
    "keys": lambda _: b'{"other": 1}\n',
}
ANY = ("missing", "empty", "half", "flipped")  # the others are damage to JSON


@dataclass(frozen=True)
class Place:
    """Whole folders to copy from, at `whole`; each case is tried at `here`, where they were made.
    `state` is "finished" or "interrupted"."""

    here: Path
    whole: Path
    values: Values
    state: str

    @property
    def run(self) -> Path:
        return self.here / "run"

    @property
    def recipe(self) -> str:
        return str(self.here / "micro.yaml")

    def restore(self) -> None:
        shutil.rmtree(self.here)
        shutil.copytree(self.whole, self.here)

    def files(self, *below: str) -> list[str]:
        tops = [self.whole / name for name in below]
        files = sorted(f for top in tops for f in top.rglob("*") if f.is_file())
        return [str(f.relative_to(self.whole)) for f in files if not f.name.startswith(".")]

    def commands(self) -> dict[str, tuple[str, ...]]:
        run = str(self.run)
        return {
            "ls": ("ls", str(self.here)),
            "report": ("report", run),
            "eval": ("eval", run),
            "train": ("train", self.recipe),
        }


def made(folder: Path, stages: Path, state: str) -> Place:
    here = folder / "here"
    here.mkdir()
    copy_stages(stages, here / "stages", *NAMES)
    where = {"output_dir": str(here / "run"), "stages": {"folder": str(here / "stages"), **STEPS}}
    values = merge(MICRO, where)
    (here / "micro.yaml").write_text(yaml.safe_dump(values))
    if state == "interrupted":
        with pytest.MonkeyPatch.context() as patched, killed_after(0, patched) as done:
            train(resolve(values))
        shutil.rmtree(here / "run")
        checkpoint = next(i for i, name in enumerate(done) if name.endswith("step-000002"))
        patched = pytest.MonkeyPatch()
        with killed_after(checkpoint + 2, patched), contextlib.suppress(Killed):
            train(resolve(values))
        assert not (here / "run" / "summary.json").exists()
    else:
        train(resolve(values))
    shutil.copytree(here, folder / "whole")
    return Place(here, folder / "whole", values, state)


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `genac ls` prints depends on no clock and no terminal."""
    monkeypatch.setattr(listing, "QUIET", 1e9)
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, stages: Path
) -> Callable[[str], tuple[Place, dict[str, Any]]]:
    """shared(state) -> the place, and what each command does there to whole folders."""
    ready: dict[str, tuple[Place, dict[str, Any]]] = {}

    def get(state: str) -> tuple[Place, dict[str, Any]]:
        if state not in ready:
            if not list(stages.glob("critic_rl-*")):
                first = tmp_path_factory.mktemp("first") / "run"
                places = {"output_dir": str(first), "stages": {"folder": str(stages)}}
                train(resolve(merge(MICRO, places)))
            ready[state] = (made(tmp_path_factory.mktemp(state), stages, state), {})
        return ready[state]

    return get


def outcome(place: Place, verb: str, genac: Genac) -> tuple[Answer, Any]:
    """What a command says, and what it leaves, without clocks."""
    answer = genac(*place.commands()[verb])
    if answer.code:
        return answer, None
    if verb == "report":
        page = (place.run / "report.html").read_text()
        return answer, re.sub(r"[0-9.]+ (s|min|ms) ago", "", page)
    return answer, holds(place.run) if verb == "train" else answer.out


def expected(place: Place, known: dict[str, Any], verb: str, genac: Genac) -> tuple[Answer, Any]:
    if verb not in known:
        place.restore()
        known[verb] = outcome(place, verb, genac)
    return known[verb]


def failures(
    place: Place, known: dict[str, Any], name: str, kind: str, genac: Genac, *verbs: str
) -> list[str]:
    """What goes wrong with one damaged file: a traceback, another result, a file unnamed."""
    should = {verb: expected(place, known, verb, genac) for verb in verbs}
    place.restore()
    file, wrong = place.here / name, []
    data = DAMAGE[kind](file.read_bytes())
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    for verb in verbs:
        where = f"{place.state}: {verb} with {name} {kind}"
        try:
            answer, left = outcome(place, verb, genac)
        except Exception as error:
            wrong.append(f"{where}: {error!r}")
            continue
        if (answer.code, left) == (should[verb][0].code, should[verb][1]):
            continue
        text = f"{answer.out} {answer.err} {left if verb == 'report' else ''}"
        if answer.code not in (0, 2) or "Traceback" in text:
            wrong.append(f"{where}: {answer}")
        elif (answer.code == 0 and verb in ("train", "eval")) or file.name not in text:
            parts = (
                [k for k in left or () if left[k] != should[verb][1][k]] if verb == "train" else ""
            )
            wrong.append(f"{where}: not named, another result {parts}: {text[-300:]}")
    return wrong


def kinds(name: str) -> tuple[str, ...]:
    if name.endswith("README.md"):  # people edit cards
        return ("missing",)
    return tuple(DAMAGE) if name.endswith((".json", ".jsonl")) else ANY


VERBS = ("ls", "report", "eval", "train")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_every_damaged_file_of_a_run(state: str, shared: Any, genac: Genac) -> None:
    place, known = shared(state)
    wrong = [
        line
        for name in place.files("run")
        for kind in kinds(name)
        for line in failures(place, known, name, kind, genac, *VERBS)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_damaged_file_of_a_stage(shared: Any, genac: Genac) -> None:
    place, known = shared("interrupted")
    wrong = [
        line
        for name in place.files("stages")
        for kind in kinds(name)
        for line in failures(place, known, name, kind, genac, "train")
    ]
    assert not wrong, "\n".join(wrong)


QUICK = {
    "finished": [
        ("run/actor/model.safetensors", "flipped"),
        ("run/critic/critic.json", "half"),
        ("run/summary.json", "keys"),
        ("run/rollouts/joint-000000.parquet", "half"),
    ],
    "interrupted": [
        ("run/metrics.jsonl", "flipped"),
        ("run/estimates/joint-000001.parquet", "missing"),
        ("run/checkpoints/joint/step-000002/manifest.json", "list"),
        ("stages/base-*/model/model.safetensors", "flipped"),
        ("stages/traces-*/traces.jsonl", "half"),
        ("stages/critic_sft-*/done.json", "null"),
    ],
}


@pytest.mark.parametrize("state", QUICK)
def test_some_damaged_files(state: str, shared: Any, genac: Genac) -> None:
    """A sample of the slow tests above."""
    place, known = shared(state)
    wrong = []
    for pattern, kind in QUICK[state]:
        name = str(next(place.whole.glob(pattern)).relative_to(place.whole))
        verbs = VERBS if name.startswith("run") else ("train",)
        wrong += failures(place, known, name, kind, genac, *verbs)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("stage", [pytest.param("base", marks=pytest.mark.slow), "traces"])
def test_a_damaged_stage_that_is_deleted_is_made_again(
    stage: str, shared: Any, genac: Genac, refused: Callable[..., str]
) -> None:
    """The remedy that the message names, in the middle of joint training."""
    place, known = shared("interrupted")
    _, should = expected(place, known, "train", genac)
    place.restore()
    folder = next((place.here / "stages").glob(f"{stage}-*"))
    file = folder / "traces.jsonl" if stage == "traces" else folder / "model/model.safetensors"
    file.write_bytes(flipped(file.read_bytes()))
    message = refused("train", place.recipe)
    assert str(file) in message and f"delete the folder {folder}" in message
    shutil.rmtree(folder)
    assert outcome(place, "train", genac)[1] == should
