"""The Ray that workers run on: one of this process's own on this machine, or a cluster.

Ray's own clean-up leaves agents behind after a `kill -9`, so keeper.py watches over a Ray that we
started. A cluster belongs to whoever started it; there only our actors are ended.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genac.distributed import keeper

ANSWER = 10.0  # seconds in which a cluster's address has to accept a connection
PLACED = 60.0  # seconds in which a cluster that has the devices has to free them
LOOK = 2.0  # seconds between two looks whether it still has them
SHORT = 20  # characters of a temporary folder that leave room for the names of sockets
VITAL = ("raylet", "gcs_server")
RESUME = "What was saved is intact: the same command resumes from the last checkpoint"
STORE = 2**28  # bytes of shared memory for what is sent; more goes to disk
# Of a Ray that serves one process: the kernel decides what dies when memory ends, a disk is full
# when it is full, nobody reads metrics, and workers have the priority of their controller.
QUIET = {
    "RAY_local_fs_capacity_threshold": "1",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}


def require_ray(reason: str) -> None:
    """ValueError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            f"{reason} runs on Ray, which is not installed; install it (pip install 'genac[ray]'), "
            "or use one process: hardware.processes 1, placement colocated, cluster null"
        )


def require_answer(address: str) -> None:
    """ValueError where nothing listens at the address."""
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if address == "auto":  # Ray looks for one on this machine
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ValueError(
            f"hardware.cluster is {address!r}: write host:port of the cluster's "
            "head, or auto on a machine of the cluster; ray:// is not supported, as the "
            "controller has to run on a machine of the cluster ('ray job submit')"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except OSError as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({error}); start one there "
            "('ray start --head'), or correct hardware.cluster"
        ) from None


# Keeps other users of this machine out of a Ray that is started here. A process reads it once.
TOKEN = secrets.token_hex(32)


class Session:
    """The connection of this process to a cluster (its address), or to a Ray that it starts."""

    def __init__(self, cluster: str | None, workers: int, gpus: int) -> None:
        self.cluster, self.workers = cluster, workers
        self.mark = secrets.token_hex(16)  # of the processes that are started here
        self._keeper: subprocess.Popen | None = None
        self._folder: str | None = None
        self._vital: list[int] = []  # processes without which a Ray of ours answers nothing
        ray = import_ray()
        self._joined = not ray.is_initialized()  # or else it is the caller's, who also leaves it
        if not self._joined:
            return
        if cluster is None:
            self._start(workers, gpus)
        else:
            connect(cluster)

    def _start(self, workers: int, gpus: int) -> None:
        """A Ray for this process alone, which nobody else's machine can reach. ChildProcessError
        where it does not start: on a busy machine the next attempt may succeed.
        """
        import ray

        self._folder = folder = tempfile.mkdtemp(prefix="genac-", dir=short_folder())
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        changed = {keeper.VARIABLE: self.mark, "PYTHONPATH": path}
        changed |= {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE")}
        settings = {k: v for k, v in QUIET.items() if k not in os.environ}
        self._keeper = watch(self.mark, folder)
        try:
            with environment(changed | settings), same_signals():
                ray.init(
                    "local",  # whatever RAY_ADDRESS says
                    num_cpus=workers,
                    num_gpus=gpus,
                    include_dashboard=False,
                    object_store_memory=STORE,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=folder,
                )
        except Exception as error:  # Ray raises a plain one where its 30 seconds are over
            self.close()
            line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise ChildProcessError(f"Ray did not start here ({line[0]}). {RESUME}") from error
        except BaseException:
            self.close()
            raise
        if self._keeper is not None:
            self._vital = [pid for pid in keeper.marked(self.mark) if name_of(pid) in VITAL]

    @property
    def alive(self) -> bool:
        """Whether the Ray that was started here still runs; True for a cluster."""
        return all(name_of(pid) in VITAL for pid in self._vital)

    def serves(self, cluster: str | None, workers: int) -> bool:
        """Whether this is that cluster, or a Ray started here that is alive and has the room."""
        return (
            self.alive
            and self.cluster == cluster
            and (cluster is not None or workers <= self.workers)
        )

    def close(self) -> None:
        """Leaves the cluster; ends a Ray that was started here, and all that it started."""
        import ray

        if not self.alive:  # what is left of it would wait for what is not
            keeper.sweep(self.mark)
        if self._joined and ray.is_initialized():
            ray.shutdown()
        if self._keeper is not None:
            self._keeper.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(2 * keeper.DEADLINE)
        if self._folder is not None:  # where there is no keeper
            shutil.rmtree(self._folder, ignore_errors=True)


def import_ray() -> Any:
    """The module. A process whose parent is process 1 (a container's command, or one that outlives
    its shell) Ray would end with its raylet. By this variable, which it reads when it is imported,
    it looks for the process itself instead; so the run goes on, see stages/restarts.py.
    """
    with environment({"RAY_RAYLET_PID": str(os.getpid())}):
        import ray
    return ray


def connect(address: str) -> None:
    """ValueError where the address is none of a cluster with this machine."""
    require_answer(address)
    import ray

    try:
        with same_signals():
            ray.init(address=address, logging_level=logging.WARNING)
    except Exception as error:  # Ray raises many kinds
        raise ValueError(
            f"this process cannot join the Ray cluster at {address!r} ({error}); run it on a "
            "machine of the cluster, with the Python and the Ray of the cluster"
        ) from error


def needs(device: str) -> dict[str, float]:
    """Resources of one worker."""
    return {"CPU": 1.0} | ({"GPU": 1.0} if device == "cuda" else {})


class TooSmall(ValueError):
    """A cluster has not got the room; `fitting` workers would have it."""

    def __init__(self, reason: str, remedy: str, fitting: float) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.fitting = reason, int(fitting)


def reserve(workers: int, device: str, fewer: bool = False) -> tuple[Any, int]:
    """A placement group with room for every worker, and their number. With `fewer` a cluster that
    has become too small gives as many as fit, and a warning says so. ValueError where there is no
    room, or others keep it for longer than the deadline.
    """
    try:
        return placed(workers, needs(device)), workers
    except TooSmall as error:
        if not fewer or not 0 < error.fitting < workers:
            raise
        left = error
    warnings.warn(
        f"{left.reason}: the run goes on with {left.fitting} of {workers} workers, until it is "
        "started again",
        stacklevel=2,
    )
    return placed(left.fitting, needs(device)), left.fitting


def placed(workers: int, need: Mapping[str, float]) -> Any:
    """A placement group for so many workers. TooSmall where there is none."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    def fitting(resources: Mapping[str, float]) -> float:
        return min(resources.get(name, 0) // count for name, count in need.items())

    each = " and ".join(f"{count:g} {name}" for name, count in need.items())
    request = f"{workers} workers need {each} each"
    end, group = time.monotonic() + PLACED, None
    while fitting(total := ray.cluster_resources()) >= workers:  # a machine's loss may show late
        group = group or placement_group([dict(need)] * workers, strategy="PACK")
        if group.wait(LOOK):
            return group
        if time.monotonic() > end:
            break
    free = ray.available_resources()
    if group is not None:
        remove_placement_group(group)
    if fitting(total) < workers:
        reason = f"{request}, but the Ray cluster has {shown(total)}"
        raise TooSmall(reason, "lower hardware.processes, or add machines", fitting(total))
    reason = (
        f"{request}, but of {shown(total)} the Ray cluster has only {shown(free)} free after "
        f"{PLACED:.0f} seconds"
    )
    raise TooSmall(reason, "end what uses it, or lower hardware.processes", fitting(free))


def shown(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))


def name_of(pid: int) -> str | None:
    """The program of a running process of this machine; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, state = fields.partition("(")[2].rsplit(")", 1)
    return None if state.split()[0] == "Z" else name


def watch(mark: str, folder: str) -> subprocess.Popen | None:
    """The process that ends what this one leaves behind; None where the system shows it nothing."""
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), mark, folder]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


@contextlib.contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Variables of this process, and of what it starts meanwhile; all are put back, also those that
    are set meanwhile. None leaves one as it is."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update({key: value for key, value in values.items() if value is not None})
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@contextlib.contextmanager
def same_signals() -> Iterator[None]:
    """Keeps this process's own way to end at SIGTERM, which Ray would replace."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def short_folder() -> str | None:
    """Where Ray's files go: the temporary folder, unless socket names would become too long."""
    return None if len(tempfile.gettempdir()) <= SHORT else "/tmp"
