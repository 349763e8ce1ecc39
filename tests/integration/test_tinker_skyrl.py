"""A run against SkyRL's Tinker server, in the environment that `make tinker-env` makes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from micro import MICRO, results

from genac.config.algorithms import merge
from genac.runs.store import Run

ROOT = Path(__file__).parents[2]
HOME = Path(os.environ.get("GENAC_SKYRL", ROOT / ".skyrl"))
DEADLINE = 1500.0  # seconds; JAX compiles a kernel for every length and number of rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * DEADLINE),
    pytest.mark.skipif(
        not (HOME / "ready").exists(),
        reason=f"no SkyRL in {HOME}: make it with `make tinker-env`, or name it in GENAC_SKYRL",
    ),
]


@pytest.fixture
def url(trained_critic: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server, which is ended with all its processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = ROOT / "tests" / "support" / "skyrl_server.py"
    command = [
        str(HOME / "bin" / "python"),
        str(script),
        str(trained_critic),
        str(tmp_path),
        str(port),
    ]
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment = plain | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/v1/healthz", process, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"SkyRL's server did not start: {log.read_text()[-2000:]}")


def test_a_short_run_trains_actor_and_critic(
    url: str, trained_critic: Path, tmp_path: Path
) -> None:
    rate = {"learning_rate": 5e-3}
    models = {"model_name_or_path": str(trained_critic), "lora": {"rank": 4}, "optimizer": rate}
    values = {
        "output_dir": str(tmp_path / "run"),
        "actor": models,
        "critic": models,
        "rollout": {"num_prompts": 2},
        "stages": {
            "folder": str(tmp_path / "stages"),
            "sft": {"epochs": 0},
            "critic_rl": {"steps": 0},
            "joint": {"steps": 2, "eval_every": 0},
        },
        "hardware": {"backend": "tinker", "tinker": {"url": url, "dialect": "skyrl"}},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge(MICRO, values)))
    # The server's SDK is older than ours, so the run has a process of its own.
    paths = f"{HOME / 'client'}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "genac.cli", "train", str(recipe)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert "values are sampled scores" in done.stderr
    run = Run.open(tmp_path / "run")
    steps = results(run, "joint")
    assert len(steps) == 2
    for step in steps:
        assert step["grad_norm"] > 0 and step["critic/grad_norm"] > 0
        assert step["critic/parse_failure_rate"] < 1
        assert step["publish_changed"] is None  # this server cannot measure it
        # In the second step the samplers have what the first one trained.
        assert step["sampling/sampling_logp_difference/mean"] < 1e-4
        assert step["critic/sampling/sampling_logp_difference/mean"] < 1e-4
    tokens = json.loads((run.path / "summary.json").read_text())["tinker"]
    assert all(tokens[role]["trained"] > 0 for role in ("actor", "critic"))
