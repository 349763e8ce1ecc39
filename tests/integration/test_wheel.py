"""A wheel, installed outside the clone, is enough for what the README shows first.

For speed the environment is not filled from an index: it holds the wheel (--no-deps) and a .pth
file to the packages of the interpreter that runs the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from micro import MICRO

from genac.config.algorithms import merge

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BUILT = ("genac", "recipes", "tools", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the clone gets no build folder."""
    pytest.importorskip("setuptools")
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheel")
    for name in BUILT:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, clone / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, clone / name)
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, "."]
    done = subprocess.run([sys.executable, *command], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def genac(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """genac("train", ...) -> what the installed command printed; run in an empty folder."""
    place = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    python = place / "env" / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    # With a checkout on the path pip would take the wheel for installed.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *install, wheel], env=env, check=True)
    folder = next((place / "env" / "lib").glob("python*")) / "site-packages"
    (folder / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def call(*arguments: str, program: str = "genac") -> str:
        command = [python.with_name(program), *arguments]
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return call


def pairs(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def snippet(overrides: Mapping[str, Any]) -> str:
    """The README's program on a small run, with a step and places that this run has."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    last = '"output_dir": "runs/seed-1"}'
    changes = {
        last: f"{last} | {dict(pairs(overrides))!r}",
        "step=10, group=3, member=2": "step=1, group=0, member=0",
    }
    for old, new in changes.items():
        assert old in code, "the README has changed"
        code = code.replace(old, new)
    return code


def test_a_wheel_holds_recipes_types_and_what_pages_are_made_of(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "genac/py.typed",
        "genac/recipes/arithmetic.yaml",
        "genac/recipes/prompts/word-problems.yaml",
        "genac/recipes/data/chain_sum.jsonl",
        "genac/ui/vendor/plot/plot.umd.min.js",
        "genac/native/csrc/structs.h",
    ):
        assert name in names, name
    assert not any(name.startswith(("tests/", "paper/", "bench/")) for name in names)


@pytest.mark.timeout(900)
def test_the_first_commands_of_the_readme_work_outside_a_clone(genac):
    assert genac("--version").startswith("genac 0.")
    place = genac("-c", "import genac; print(genac.__file__)", program="python")
    assert "elsewhere" in place, "the wheel is what runs"
    assert "own-data" in genac("recipes")
    small = merge(MICRO, {"output_dir": "runs/small", "stages": {"folder": "runs/stages"}})
    out = genac("train", "arithmetic", *(f"{key}={value}" for key, value in pairs(small)))
    assert "held-out success" in out and "stages.joint.steps: 40 -> 3" in out
    assert "runs/small" in genac("ls")
    assert "report.html" in genac("report", "runs/small")
    assert "--terminal" in genac("view", "--help")
    assert "value" in genac("score", "runs/small", "3 a+4>", "a=")
    genac("-c", snippet(small | {"output_dir": "runs/snippet"}), program="python")
    assert "runs/snippet" in genac("ls")


@pytest.mark.timeout(900)
def test_recipes_that_name_files_and_the_doctor_work_outside_a_clone(genac):
    assert "/genac/recipes/data/" in genac("train", "own-data", "--print-config")
    assert "name: smollm2" in genac("train", "smollm2-word-problems", "--print-config")
    assert "ok   extras" in genac("doctor")


def test_the_public_names_work_outside_a_clone(genac):
    code = (
        "from genac import RunConfig, read_recipe, resolve; "
        "cfg = resolve(read_recipe('arithmetic'), {'stages.joint.steps': 7}); "
        "print(cfg.stages.joint.steps, RunConfig(algorithm='grpo').critic.kind)"
    )
    assert genac("-c", code, program="python") == "7 none\n"
