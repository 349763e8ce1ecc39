"""`genac serve --learn` as a process: how it starts, resumes, is stopped, and is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from learning_server import batch, load

from genac.client import Client, Learn

BENCH = Path(__file__).parents[2] / "bench" / "service.py"
DEADLINE = 120.0
KEY = "GENAC_TEST_KEY"


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, once it answers, and its address; it is killed in the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "genac.cli", "serve", *arguments, "--port", str(port)]
    env = {**os.environ, KEY: "secret", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as running:
        try:
            end = time.monotonic() + DEADLINE
            while time.monotonic() < end and running.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield running, f"http://127.0.0.1:{port}"
        finally:
            running.kill()


def test_a_stopped_server_finishes_what_it_accepted(trained_critic: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    options = ("--learn", "--checkpoints", str(folder), "--api-key-env", KEY, "--threads", "1")
    with process(str(trained_critic), *options) as (running, url):
        with Client(url, api_key="secret", timeout=DEADLINE) as client:
            client.advantages(batch(0, id="ask-0", step=0))
            assert client.learn(Learn(request_id="learn-0", estimates="ask-0")).step == 1
            for number in (1, 2):
                queued = Learn(
                    request_id=f"learn-{number}", responses=batch(number).responses, wait=False
                )
                assert client.learn(queued).status in ("queued", "done")
            assert client.metrics()["genac_version"] >= 1
        running.send_signal(signal.SIGTERM)
        errors = running.communicate(timeout=DEADLINE)[1]
        assert running.returncode == 0, errors
    assert (folder / "step-000003" / "manifest.json").exists()
    assert list((folder / "queue").iterdir()) == []
    again = load(trained_critic, folder)
    assert again.step == 3 and again.learnt("learn-2") is not None


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    options = ["--quick", "--states", "200", "--threads", "1", "--json", str(result)]
    subprocess.run([sys.executable, str(BENCH), *options], check=True, timeout=900)
    kills: dict[str, Any] = json.loads(result.read_text())["kills"]
    assert (kills["equal"], kills["lost"], kills["twice"], kills["exit"]) == (True, 0, 0, 0)
    assert kills["starts"] == kills["kills"] + 1
