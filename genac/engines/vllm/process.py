"""A vLLM server of our own: its command, its process, its log."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genac.config.engines import VllmConfig
from genac.engines.vllm import guardian
from genac.engines.vllm.http import Client, NoAnswer
from genac.engines.vllm.messages import TOKEN_PROBS

MODULE = "vllm.entrypoints.cli.main"  # what the command `vllm` runs
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, as vLLM allocates them
TAKEN = "address already in use"
PORTS = 3  # ports tried: another process may take one between our choice and the server's start
ENDING = guardian.GRACE + 10.0  # seconds in which a guardian ends its server
LOG_LINES, LOG_ERRORS = 15, 5
ERROR = re.compile(r"\b(?!EngineDeadError)\w*(Error|Exception): .{1,300}")


class ServerError(OSError):
    """A server could not be started, or failed again and again: so it would in a new attempt."""


@dataclass(frozen=True)
class Launch:
    """What the servers of a model are started with."""

    role: str  # as which the model is served: "actor" | "critic"
    cfg: VllmConfig
    context: int  # tokens of the longest sequence
    rows: int  # sequences decoded together
    bf16: bool
    cuda: bool
    threads: int = 0  # of a server, 0 = all cores
    rank: int = 0  # of adapters, 0 = none are served
    gpus: tuple[str, ...] = ()  # that this process sees; none = servers see what it sees

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that its servers take."""
        return int(number_of(self.cfg.args, "--max-model-len", self.context + 1))

    @property
    def python(self) -> str:
        return self.cfg.python or sys.executable

    def arguments(self, model: str | Path) -> list[str]:
        """Of vLLM's server, whoever starts it."""
        result = [
            *("serve", str(model), "--served-model-name", self.role),
            *("--dtype", "bfloat16" if self.bf16 else "float32"),
            # One token more: a counterfactual may be read behind a completion that fills it.
            *("--max-model-len", str(self.context + 1), "--max-num-seqs", str(self.rows)),
            *("--logprobs-mode", "processed_logprobs", "--max-logprobs", str(TOKEN_PROBS)),
            # The model's own generation config would change what is sampled.
            *("--generation-config", "vllm", "--enable-prompt-tokens-details"),
        ]
        gigabytes = self.cfg.kv_cache_gb or (None if self.cuda else 1.0)
        if gigabytes:
            result += ["--kv-cache-memory-bytes", str(int(gigabytes * 2**30))]
        if not self.cuda:  # blocks of 128 would never be shared by short prompts
            result += ["--enforce-eager", "--block-size", "32"]
        if self.rank:
            fits = next((r for r in RANKS if r >= self.rank), self.rank)
            result += ["--enable-lora", "--max-lora-rank", str(fits)]
            result += ["--max-loras", "2", "--max-cpu-loras", "4"]  # actor and critic, old and new
        return [*result, *self.cfg.args]

    def devices(self, place: int) -> list[str]:
        """The GPUs of the server of that number."""
        count, width = self.cfg.replicas, width_of(self.cfg.args)
        numbers = gpu_numbers(self.role, place, count, width, len(self.gpus))
        return [self.gpus[number] for number in numbers]

    def environment(self) -> dict[str, str]:
        """Variables that a server needs, whoever starts it."""
        result = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        return result | ({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if self.rank else {})

    def by_hand(self, model: str | Path) -> str:
        """The command that starts such a server, for messages."""
        variables = " ".join(f"{k}={v}" for k, v in self.environment().items())
        return f"{variables} vllm {shlex.join(self.arguments(model))}"


class ServerProcess:
    """A running server. `close` ends it, and so does the end of this process."""

    def __init__(
        self, launch: Launch, model: str | Path, log: Path, weights: Path, place: int = 0
    ) -> None:
        """weights: the folder of published weights, removed where this process is killed. place:
        the server's number among those of its model.
        """
        self.launch, self.log = launch, log
        self.port = free_port()
        self.client = Client(f"http://127.0.0.1:{self.port}", launch.cfg.request_seconds)
        self._begin = log.stat().st_size if log.exists() else 0  # of what this start writes
        # Sockets of its parts lie there: their paths must be short.
        self._folder = tempfile.mkdtemp(prefix="genac-")
        command = [launch.python, "-m", MODULE, *launch.arguments(model)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--disable-uvicorn-access-log"]
        watch = [sys.executable, "-I", "-S", guardian.__file__, str(os.getpid())]
        watch += [self._folder, str(weights)]
        with open(log, "ab") as file:
            self._guardian = subprocess.Popen(
                [*watch, *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(model, place),
                start_new_session=True,  # an interruption at the terminal is this process's matter
            )

    def _environment(self, model: str | Path, place: int) -> dict[str, str]:
        # What names packages of this environment is not for the other one.
        own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "LD_PRELOAD")
        result = {k: v for k, v in os.environ.items() if k not in own}
        result |= self.launch.environment() | {"TMPDIR": self._folder}
        if Path(model).is_dir():
            result["HF_HUB_OFFLINE"] = "1"
        if devices := self.launch.devices(place):
            result["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        if not self.launch.cuda:
            # Bound to cores, every server would take the same ones.
            threads = self.launch.threads or len(os.sched_getaffinity(0))
            result |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
            result["TORCH_COMPILE_DISABLE"] = "1"  # one small function: the compiler takes longer
        return result

    @property
    def running(self) -> bool:
        return self._guardian.poll() is None

    @property
    def pid(self) -> int:
        """Of the guardian, whose only child is the server."""
        return self._guardian.pid

    def wait(self, seconds: float) -> None:
        """Until it answers. ServerError where it ends first, or time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.running:
                raise ServerError(self.problem(f"ended with code {self._guardian.returncode}"))
            with contextlib.suppress(NoAnswer, ValueError):
                self.client.get("/health", seconds=5.0)
                return
            time.sleep(0.1)
        self.close()
        raise ServerError(
            self.problem(f"did not answer within hardware.vllm.startup_seconds {seconds:g}")
        )

    @property
    def port_taken(self) -> bool:
        return TAKEN in self.tail().lower()

    def problem(self, what: str) -> str:
        return (
            f"vLLM's server of the {self.launch.role} {what}; {self.log} ends with\n{self.tail()}"
        )

    def tail(self) -> str:
        """What it wrote of errors, which may stand far above the end, and its last lines."""
        with contextlib.suppress(OSError), open(self.log, "rb") as file:
            file.seek(max(self._begin, os.path.getsize(self.log) - 2**18))
            lines = file.read().decode("utf-8", "replace").splitlines()
            errors = [m[0] for line in lines[:-LOG_LINES] if (m := ERROR.search(line))]
            return "\n".join([*list(dict.fromkeys(errors))[-LOG_ERRORS:], *lines[-LOG_LINES:]])
        return ""

    def close(self) -> None:
        """Ends it and waits until nothing of it is left."""
        self.client.close()
        if self._guardian.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended, or this was done
                self._guardian.stdin.write(b".")
                self._guardian.stdin.close()
        try:
            self._guardian.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gpu_numbers(role: str, place: int, replicas: int, width: int, gpus: int) -> list[int]:
    """The GPUs of a role's server of that number, `width` each: a critic's come behind an actor's,
    and behind the last GPU comes the first again. None where there are no GPUs.
    """
    first = (place + (replicas if role == "critic" else 0)) * width
    return [(first + i) % gpus for i in range(width)] if gpus else []


def width_of(args: Sequence[str]) -> int:
    """GPUs over which one server is spread, by its arguments."""
    return int(number_of(args, "--tensor-parallel-size", number_of(args, "-tp", 1)))


def number_of(args: Sequence[str], name: str, default: float) -> float:
    """The last value of an option, which is the one that counts."""
    result = None
    for place, text in enumerate(args):
        key, equals, value = text.partition("=")
        if key.replace("_", "-") == name:  # vLLM takes both
            result = value if equals else next(iter(args[place + 1 :]), "")
    if result is None:
        return default
    try:
        return float(result)
    except ValueError:
        raise ValueError(
            f"hardware.vllm.args: {name} is {result!r}; write a plain number"
        ) from None


def start(
    launch: Launch, model: str | Path, logs: Mapping[int, Path], weights: Path
) -> list[ServerProcess]:
    """A server per log file, by its number; all of them answer. ServerError where one cannot be
    started; then none is left.
    """
    servers = [ServerProcess(launch, model, log, weights, i) for i, log in logs.items()]
    end = time.monotonic() + launch.cfg.startup_seconds
    try:
        for index, (place, log) in enumerate(logs.items()):
            for attempt in range(1, PORTS + 1):
                try:
                    servers[index].wait(max(1.0, end - time.monotonic()))
                    break
                except ServerError:
                    if attempt == PORTS or not servers[index].port_taken:
                        raise
                    servers[index] = ServerProcess(launch, model, log, weights, place)
    except BaseException:
        for server in servers:
            server.close()
        raise
    return servers
