"""The micro recipe as fixtures, and the command line called in this process.

What precedes joint training is made once per session and shared by the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from micro import MICRO, Answer, Values

from genac.cli import main
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.runs.store import Run
from genac.stages.pipeline import Prepared, prepare, train
from genac.stages.setup import Setup


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def trackers_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers keep their files in the test's folder and ask no server."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the micro runs of this session share their first stages."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="session")
def prepared(stages: Path) -> Prepared:
    """What joint training of the micro run starts from."""
    return prepare(Setup.of(resolve(merge(MICRO, {"stages": {"folder": str(stages)}}))))


@pytest.fixture(scope="session")
def trained_critic(prepared: Prepared) -> Path:
    """The micro run's critic before joint training: it writes scores. Tests only read it."""
    assert prepared.critic is not None
    return prepared.critic


@pytest.fixture
def micro(tmp_path: Path, stages: Path) -> Callable[..., Values]:
    """micro(**overrides) -> recipe values; the run goes to tmp_path/run."""

    def values(**overrides: Any) -> Values:
        places = {"output_dir": str(tmp_path / "run"), "stages": {"folder": str(stages)}}
        return merge(merge(MICRO, places), overrides)

    return values


@pytest.fixture
def run_micro(micro: Callable[..., Values]) -> Callable[..., Run]:
    """run_micro(**overrides) -> the finished run."""
    return lambda **overrides: Run.open(train(resolve(micro(**overrides))))


@pytest.fixture
def recipe(micro: Callable[..., Values], tmp_path: Path) -> Callable[..., str]:
    """recipe(**overrides) -> path of a YAML file."""

    def write(**overrides: Any) -> str:
        file = tmp_path / "micro.yaml"
        file.write_text(yaml.safe_dump(micro(**overrides)))
        return str(file)

    return write


@pytest.fixture
def genac(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """genac("train", ...) -> Answer; an exception that reaches the user fails the test."""

    def call(*arguments: str) -> Answer:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # the option parser's own way out
            code = stop.code if isinstance(stop.code, int) else 1
        result = capsys.readouterr()
        return Answer(code, " ".join(result.out.split()), " ".join(result.err.split()))

    return call


@pytest.fixture
def refused(genac: Callable[..., Answer]) -> Callable[..., str]:
    """refused("train", ...) -> the message of a command that ends with exit code 2."""

    def call(*arguments: str) -> str:
        answer = genac(*arguments)
        assert answer.code == 2, answer
        assert answer.err and "Traceback" not in answer.err + answer.out
        return answer.err

    return call
