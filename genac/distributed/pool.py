"""Worker processes on Ray, and the only way to speak with them.

    pool = pool_for(hardware, "actor")
    pool.call("generate", [(7, requests_0), (7, requests_1)])   # one tuple of arguments per worker

A command goes to all workers at once and is done when all have answered. Whatever goes wrong (an
error in a worker, the death of one, an interruption here) ends all of them: what one of several
did alone cannot be taken back. They also end by themselves when this process does.

Ray is the only transport, on one machine as on many: with a keeper process (keeper.py) it leaves
no process and no file behind. bench/workers.py shows what it costs against pipes of our own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genac.distributed import keeper
from genac.distributed.cluster import RESUME, Session, needs, require_ray, reserve

if TYPE_CHECKING:  # a worker sets its environment before torch is imported
    from genac.hardware import Hardware

# Models take turns on a device: what one leaves in pieces must serve the next.
FRAGMENTS = "expandable_segments:True"
GRACE = 2.0  # seconds in which a worker's death may explain another worker's error
STARTED = 300.0  # seconds in which workers have to start, and to meet
LOOK = 1.0  # seconds between two looks whether Ray is alive
PATIENCE = 7200.0  # seconds for a command; its collective operations have the same deadline


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its number among how many, on which device, and where all meet."""

    rank: int
    processes: int
    device: str  # "cpu" | "cuda"
    bf16: bool
    threads: int  # 0 = its share of the machine's cores
    sharing: int  # workers on its machine
    address: str  # its own; 127.0.0.1 where all are on one machine
    meeting: tuple[str, int]  # address and port of worker 0's store


@dataclass(frozen=True)
class Spot:
    """Where Ray put a worker."""

    node: str
    address: str
    pid: int


class Host:
    """The actor: one worker process behind one method. Messages are pickled here, as Ray's own
    arrays cannot be written to."""

    def __init__(self) -> None:
        os.dup2(2, 1)  # what a worker prints is no result of the command
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", FRAGMENTS)
        from genac.distributed.worker import Worker

        self.worker = Worker()

    def spot(self) -> Spot:
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Spot(node, ray.util.get_node_ip_address(), os.getpid())

    def do(self, message: bytes) -> bytes:
        """(True, result), or (False, (error, traceback)) of a command."""
        answer: tuple[bool, Any]
        try:
            command, arguments = pickle.loads(message)
            answer = True, getattr(self.worker, command)(*arguments)
        except Exception as error:  # whatever it is, the controller raises it
            answer = False, (portable(error), traceback.format_exc())
        return pickle.dumps(answer)


def portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's own pickling may fail in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Pool:
    """The workers of a model, or of several (genac/distributed/worker.py)."""

    def __init__(self, session: Session, hardware: Hardware, fewer: bool = False) -> None:
        """fewer: whether it may have fewer workers than are configured, see `reserve`."""
        self.hardware, self.session, self._closed = hardware, session, False
        self.died = False  # whether it ended by the death of a worker or of Ray
        self._unwanted: list[int] = []
        self._workers: list[Any] = []
        self.spots: list[Spot] = []
        device = hardware.device.type
        self._group, self.size = reserve(hardware.processes, device, fewer)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as In

        need, count = needs(self.hardware.device.type), self.size
        actor = ray.remote(max_restarts=0)(Host)
        for rank in range(count):
            place = In(self._group, placement_group_bundle_index=rank)
            options = actor.options(
                num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), scheduling_strategy=place
            )
            self._workers.append(options.remote())
        self.spots = self._gathered([worker.spot.remote() for worker in self._workers], STARTED)
        nodes = [spot.node for spot in self.spots]
        together = len(set(nodes)) == 1
        addresses = ["127.0.0.1" if together else spot.address for spot in self.spots]
        port = self.call("meet", [(addresses[0], count if r == 0 else 0) for r in range(count)])[0]
        where = (self.hardware.device.type, self.hardware.bf16, self.hardware.threads)
        places = [
            Place(rank, count, *where, nodes.count(node), addresses[rank], (addresses[0], port))
            for rank, node in enumerate(nodes)
        ]
        self.call("join", [(place,) for place in places])

    @property
    def pids(self) -> list[int]:
        return [spot.pid for spot in self.spots]

    @property
    def closed(self) -> bool:
        return self._closed

    def call(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of all workers, in order. A worker's error is raised here; the death of one
        is a ChildProcessError.
        """
        assert len(arguments) == len(self._workers), "one tuple of arguments per worker"
        if self._closed:
            raise ChildProcessError("the worker processes have ended; start the command again")
        from ray.exceptions import RayError

        try:
            self._require_ray()
            if self._unwanted:
                numbers, self._unwanted = self._unwanted, []
                self._sent("drop", [(numbers,)] * len(self._workers))
            return self._sent(command, arguments)
        except RayError as error:  # of sending or waiting: no worker's error, but Ray's own
            self.died = True
            self.close()
            raise ChildProcessError(
                f"the workers' Ray failed ({cause(error)}); all workers were ended. {RESUME}"
            ) from None
        except BaseException as error:
            self.died = isinstance(error, ChildProcessError)
            self.close()
            raise

    def drop(self, number: int) -> None:
        """Frees an object of the workers before the next command; garbage collection calls it, at
        any moment."""
        self._unwanted.append(number)

    def _sent(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        messages = [pickle.dumps((command, args)) for args in arguments]
        name = f"Host.{command}"  # by which ps and top say what a worker does
        refs = [
            worker.do.options(name=name).remote(message)
            for worker, message in zip(self._workers, messages, strict=True)
        ]
        return self._gathered(refs, PATIENCE)

    def _gathered(self, refs: list[Any], seconds: float) -> list[Any]:
        """What the workers answer, in order, as they become ready."""
        import ray

        results, waiting, end = {}, list(refs), time.monotonic() + seconds
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=LOOK)
            if not ready:
                self._require_hope(end, f"{len(waiting)} of {len(refs)}", seconds)
                continue
            rank = refs.index(ready[0])
            value = self._value(rank, ready[0])
            if isinstance(value, bytes):
                good, value = pickle.loads(value)
                if not good:
                    raise self._explained(rank, *value, others=waiting, refs=refs)
            results[rank] = value
        return [results[rank] for rank in range(len(refs))]

    def _require_hope(self, end: float, missing: str, seconds: float) -> None:
        """ChildProcessError where no answer can come any more, or none has come for too long."""
        self._require_ray()
        if time.monotonic() > end:
            raise ChildProcessError(
                f"{missing} workers gave no answer for {seconds:.0f} seconds; all were ended. "
                f"{RESUME}"
            )

    def _require_ray(self) -> None:
        """Workers answer for a while without it, but then Ray ends this process too."""
        if not self.session.alive:
            raise ChildProcessError(f"the workers' Ray died; all workers were ended. {RESUME}")

    def _value(self, rank: int, ref: Any) -> Any:
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(ref)
        except RayError as error:
            raise self._died(rank, error) from None

    def _explained(
        self, rank: int, error: Exception, where: str, others: list[Any], refs: list[Any]
    ) -> Exception:
        """A worker's error, or the death of another worker that it comes from."""
        import ray

        end = time.monotonic() + (0 if isinstance(error, ValueError) else GRACE)
        while others and (left := end - time.monotonic()) > 0:
            ready, others = ray.wait(others, timeout=left)
            for ref in ready:
                try:
                    self._value(refs.index(ref), ref)
                except ChildProcessError as death:
                    return death
        error.add_note(f"in worker {rank} of {len(self._workers)}:\n{where}")
        return error

    def _died(self, rank: int, error: Exception) -> ChildProcessError:
        spot = self.spots[rank] if self.spots else None
        where = f" (process {spot.pid} on {spot.address})" if spot else ""
        return ChildProcessError(
            f"worker {rank} of {len(self._workers)}{where} died: {cause(error)}; all others were "
            f"ended. {RESUME}"
        )

    def close(self) -> None:
        """Ends all workers, whatever they are doing."""
        if self._closed:
            return
        self._closed = True
        import ray
        from ray.util.placement_group import remove_placement_group

        if not self.session.alive:  # it ends no worker any more
            return keeper.sweep(self.session.mark)
        if not ray.is_initialized():
            return
        for worker in self._workers:
            ray.kill(worker)
        remove_placement_group(self._group)
        own = ray.get_runtime_context().get_node_id()
        ended([spot.pid for spot in self.spots if spot.node == own])


def cause(error: Exception) -> str:
    """What Ray says of a death, in one line."""
    text = str(error).strip()
    if "SIGKILL" in text or "connection error code 2" in text:
        return "it was killed, or crashed; often a sign of too little memory"
    return text.splitlines()[-1].strip()[:300]


def ended(pids: Sequence[int]) -> None:
    """Returns when processes of this machine are gone, or killed after a while."""
    end = time.monotonic() + GRACE
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and (
        time.monotonic() < end
    ):
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


_pools: dict[tuple[Hardware, str], Pool] = {}
_session: list[Session] = []
_lost: set[Hardware] = set()  # whose workers have died: what is left of a cluster has to do


def pool_for(hardware: Hardware, role: str) -> Pool:
    """The workers for a model of a role, started at the first call. Where some have died before, a
    cluster that has become too small gives fewer.
    """
    key = (hardware, role if hardware.placement == "separate" else "all")
    others = any(own != hardware for own, _ in _pools)
    _lost.update(own for (own, _), pool in _pools.items() if pool.died)
    if others or any(pool.closed for pool in _pools.values()):
        close_all()  # a device belongs to one pool
    if key not in _pools:
        _pools[key] = Pool(session_for(hardware), hardware, fewer=hardware in _lost)
    return _pools[key]


def session_for(hardware: Hardware) -> Session:
    """The connection to Ray, made at the first call, and anew for another cluster or more workers
    than it has room for."""
    require_ray(f"hardware.processes {hardware.processes}")
    if _session and not _session[0].serves(hardware.cluster, hardware.workers):
        leave()
    if not _session:
        gpus = hardware.workers if hardware.device.type == "cuda" else 0
        _session.append(Session(hardware.cluster, hardware.workers, gpus))
    return _session[0]


def close_all() -> None:
    """Ends all workers of this process; its Ray goes on."""
    for pool in _pools.values():
        pool.close()
    _pools.clear()


@atexit.register
def leave() -> None:
    """Ends all workers and a Ray that was started for them."""
    close_all()
    for session in _session:
        session.close()
    _session.clear()
    _lost.clear()
