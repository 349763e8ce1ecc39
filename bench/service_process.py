"""A critic service as a process, which benchmarks load and kill, and what they send it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE), str(HERE / "tests" / "support")]

DEADLINE = 300.0  # seconds of a start, and of a reply
GROUPS, GROUP, SEGMENTS, LENGTH = 8, 4, 3, 4  # of a request; tokens of a segment
VALUES = GROUPS * GROUP * SEGMENTS  # of a request


def prepared(place: Path, args: Any) -> Path:
    """A trained critic of the smallest recipe."""
    from micro import MICRO

    from genac.config.algorithms import merge
    from genac.config.recipes import resolve
    from genac.stages.pipeline import prepare
    from genac.stages.setup import Setup, prepared_config

    stages = {"folder": str(place / "stages")}
    cfg = resolve(merge(MICRO, {"output_dir": str(place / "run"), "stages": stages}))
    critic = prepare(Setup.of(prepared_config(cfg))).critic
    assert critic is not None
    return critic


def request(number: int, seed: int, **more: Any) -> Any:
    """Responses of random digits to random problems; half of them are right."""
    from genac.client import Response, Responses

    draw = random.Random(f"{seed}/{number}")
    responses = []
    for group in range(GROUPS):
        problem = f"{draw.randrange(10)} a+{draw.randrange(10)}>"
        for member in range(GROUP):
            text = "".join(str(draw.randrange(10)) for _ in range(SEGMENTS * LENGTH))
            responses.append(
                Response(
                    problem=problem,
                    text=text,
                    group=str(group),
                    boundaries=tuple(range(0, SEGMENTS * LENGTH, LENGTH)),
                    reward=float(member % 2),
                )
            )
    return Responses(responses=tuple(responses), step=number, **more)


class Service:
    """`genac serve --learn` as a process, which can be killed and started again."""

    def __init__(self, critic: Path, args: Any, folder: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self.starts = f"http://127.0.0.1:{self.port}", 0
        self.command = [
            *(sys.executable, "-m", "genac.cli", "serve", str(critic), "--learn"),
            *("--port", str(self.port), "--save-every", "4", "--threads", str(args.threads)),
            *("--device", args.device, "--seed", str(args.seed)),
            *(("--checkpoints", str(folder)) if folder else ()),
        ]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as this object)
        self.start()

    def start(self) -> None:
        """Returns once it answers."""
        env = {**os.environ, "PYTHONPATH": str(HERE)}
        self.process = subprocess.Popen(self.command, env=env, stdout=self.log, stderr=self.log)
        self.starts += 1
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.log.seek(0)
        raise RuntimeError(f"the server did not start:\n{self.log.read()[-3000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)

    def revive(self) -> None:
        """Starts it again where it was killed."""
        if self.process.poll() is not None:
            self.start()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)

    @property
    def cpu(self) -> float:
        """Seconds of the processor so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> float:
        """MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024
