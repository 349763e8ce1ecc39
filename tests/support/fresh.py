"""A wheel of this checkout, and an environment that holds what an index installs for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = ("genac", "recipes", "tools", "pyproject.toml", "setup.py", "README.md", "LICENSE")
SMALL = "packaging"  # a requirement of genac: whether the index answers is tried with it
SECONDS = 3000  # for all that pip fetches
# What would lend an environment the packages of another one.
LENDING = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "VIRTUAL_ENV", "CONDA_PREFIX")


@dataclass(frozen=True)
class Fresh:
    """An environment, and a folder outside the clone in which its programs run."""

    prefix: Path
    place: Path

    def program(self, name: str) -> Path:
        return self.prefix / "bin" / name

    def call(self, *arguments: str | Path, program: str = "genac") -> str:
        """What a program of the environment printed; the test fails where it fails."""
        command = [self.program(program), *arguments]
        done = run(command, self.place)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def viewing(self, folder: str) -> Iterator[str]:
        """The address of `genac view FOLDER`, which runs meanwhile."""
        command = [self.program("genac"), "view", folder, "--no-browser", "--port", "0"]
        with subprocess.Popen(
            command, cwd=self.place, env=environment(), stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            try:
                line = server.stdout.readline()
                assert "http" in line, "genac view ended"
                yield next(word for word in line.split() if word.startswith("http"))
            finally:
                server.terminate()


def environment() -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key not in LENDING}
    return own | {"PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )


def build_wheel(clone: Path, out: Path) -> Path:
    """Built from a copy in `clone`, so that the checkout gets no build folder."""
    for name in BUILT:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, clone / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, clone / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = run([*pip, "-w", out, "."], clone)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def install(wheel: Path, extras: str, others: list[str], folder: Path) -> Fresh:
    """A new environment with wheel[extras] and others in the tested versions. Skips the test where
    no package index answers.
    """
    prefix, place = folder / "env", folder / "elsewhere"
    place.mkdir()
    made = run([sys.executable, "-m", "venv", prefix], folder)
    assert made.returncode == 0, made.stderr
    pip: list[str | Path] = [prefix / "bin" / "python", "-m", "pip", "--quiet"]
    probe = ["download", "--no-deps", "--retries", "1", "--timeout", "20", "-d", folder / "probe"]
    reached = run([*pip, *probe, SMALL], folder)
    if reached.returncode:
        pytest.skip(f"no package index: {reached.stderr.strip().splitlines()[-1]}")
    # Much is never imported here, so nothing is compiled before it is.
    options = ["install", "--no-compile", "-c", ROOT / "constraints.txt"]
    done = run([*pip, *options, f"{wheel}[{extras}]", *others], folder)
    assert done.returncode == 0, done.stderr
    return Fresh(prefix, place)
