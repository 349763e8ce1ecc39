"""What is refused before workers start, who ends what a killed controller leaves, and restarts."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import types
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genac.config.run import HardwareConfig, RunConfig
from genac.distributed import build, cluster, keeper, pool
from genac.distributed.worker import interface_of
from genac.engines.vllm.process import ServerError
from genac.hardware import Hardware
from genac.runs.store import Run
from genac.stages.restarts import RESTARTS, with_restarts
from genac.stages.setup import evaluated_here

TWO = Hardware(torch.device("cpu"), bf16=False, processes=2)


@pytest.mark.skipif(sys.platform != "linux", reason="the keeper reads Linux's /proc")
def test_what_is_just_being_started_is_ended_too() -> None:
    """It shows no mark until it has been executed."""
    mark = f"late-{os.getpid()}"
    late = f"sleep 0.3; exec env {keeper.VARIABLE}={mark} sleep 60"
    process = subprocess.Popen(["sh", "-c", late])
    try:
        keeper.sweep(mark, settled=2.0)
        assert process.wait(5) == -signal.SIGKILL
    finally:
        process.kill()


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:", ":6379"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        cluster.require_answer(address)


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        cluster.require_answer(f"127.0.0.1:{port}")
    with pytest.raises(ValueError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        cluster.require_answer(f"127.0.0.1:{port}")


def test_several_processes_without_ray_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"processes 2 runs on Ray.*pip install 'genac\[ray\]'"):
        build.require_supported(RunConfig(), TWO, critic=True)
    build.require_supported(RunConfig(), replace(TWO, processes=1), critic=True)


def test_a_cluster_needs_its_devices_named() -> None:
    with pytest.raises(ValueError, match=r"set hardware.device to cpu or cuda"):
        Hardware.resolve(HardwareConfig(cluster="auto", processes=2))
    with pytest.raises(ValueError, match=r"hardware.processes to the number of workers"):
        Hardware.resolve(HardwareConfig(cluster="auto", device="cpu", processes=0))
    one = Hardware.resolve(HardwareConfig(cluster="auto", device="cuda"))
    assert (one.remote, one.device.type) == (True, "cuda")  # whatever this machine has


def test_separate_workers_need_twice_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ValueError, match=r"processes is 3 but 4 CUDA devices.*use at most 2"):
        Hardware.resolve(HardwareConfig(processes=3, placement="separate"))
    both = Hardware.resolve(HardwareConfig(processes=0, placement="separate"))
    assert (both.processes, both.workers, both.remote) == (2, 4, True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for processes in (0, 1):
        with pytest.raises(ValueError, match=r"only one CUDA device.*use colocated"):
            Hardware.resolve(HardwareConfig(processes=processes, placement="separate"))


def test_far_more_workers_than_cpu_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    build.require_supported(RunConfig(), replace(TWO, placement="separate"), critic=True)
    with pytest.raises(ValueError, match=r"processes is 99 .*2 CPU cores.*set 1"):
        build.require_supported(RunConfig(), replace(TWO, processes=99), critic=True)
    on_cluster = replace(TWO, processes=99, cluster="head:6379")
    build.require_supported(RunConfig(), on_cluster, critic=True)


def test_a_shared_base_cannot_lie_on_two_pools() -> None:
    values = RunConfig().model_dump()
    values["actor"]["lora"]["rank"] = values["critic"]["lora"]["rank"] = 4
    values["critic"]["share_base"] = True
    with pytest.raises(ValueError, match=r"'separate' but critic.share_base"):
        build.require_supported(
            RunConfig(**values), replace(TWO, placement="separate"), critic=True
        )


def test_a_finished_run_of_a_cluster_is_evaluated_here() -> None:
    cfg = RunConfig(hardware=HardwareConfig(cluster="head:6379", device="cpu", processes=16))
    assert not Hardware.resolve(evaluated_here(cfg).hardware).remote


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are looked up on Linux")
def test_an_interface_is_known_by_its_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None  # a documentation address


CONTROLLER = """
import subprocess, sys, time
from genac.distributed import cluster
mark, folder = sys.argv[1:]
cluster.watch(mark, folder)
with cluster.environment({"GENAC_RAY_SESSION": mark}):
    sleeper = "import os, time; os.setsid(); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-S", "-c", sleeper])
other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(child.pid, other.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="environments are read from /proc")
def test_what_a_killed_controller_started_ends_and_nothing_else(tmp_path: Path) -> None:
    folder, mark = tmp_path / "session", f"test-{os.getpid()}"
    folder.mkdir()
    (folder / "socket").touch()
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, mark, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert controller.stdout is not None
    child, other = (int(pid) for pid in controller.stdout.readline().split())
    try:
        end = time.monotonic() + 20
        while keeper.marked(mark) != [child] and time.monotonic() < end:
            time.sleep(0.02)
        assert keeper.marked(mark) == [child]
        controller.kill()
        controller.wait()
        while (folder.exists() or keeper.marked(mark)) and time.monotonic() < end:
            time.sleep(0.02)
        assert not folder.exists() and keeper.marked(mark) == []
        os.kill(other, 0)  # it is not marked, so it lives
    finally:
        os.kill(other, signal.SIGKILL)


class Machines(types.ModuleType):
    """What `reserve` requests of Ray, for machines with so many CPUs each."""

    def __init__(self, cpus: list[int]) -> None:
        super().__init__("ray")
        self.cpus, self.used = cpus, 0
        self.dies_late = False  # a machine's loss shows only while a group waits

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(sum(self.cpus))}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": float(sum(self.cpus) - self.used)}

    def placement_group(self, bundles: list[dict[str, float]], strategy: str) -> Group:
        return Group(self, len(bundles))

    def remove_placement_group(self, group: Group) -> None:
        self.used -= group.size if group.ready else 0


@dataclass
class Group:
    machines: Machines
    size: int
    ready: bool = False

    def wait(self, seconds: float) -> bool:
        if self.machines.dies_late:
            self.machines.cpus.pop()
            self.machines.dies_late = False
            return False
        self.ready = self.size <= self.machines.available_resources()["CPU"]
        self.machines.used += self.size if self.ready else 0
        return self.ready


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    result = Machines([1, 1])
    groups: Any = types.ModuleType("ray.util.placement_group")
    groups.placement_group = result.placement_group
    groups.remove_placement_group = result.remove_placement_group
    monkeypatch.setitem(sys.modules, "ray", result)
    monkeypatch.setitem(sys.modules, "ray.util", types.ModuleType("ray.util"))
    monkeypatch.setitem(sys.modules, "ray.util.placement_group", groups)
    monkeypatch.setattr(cluster, "PLACED", 0.0)
    return result


def test_a_cluster_that_lost_a_machine_gives_as_many_workers_as_fit(machines: Machines) -> None:
    assert cluster.reserve(2, "cpu")[1] == 2 and machines.used == 2
    machines.used = 0
    machines.cpus.pop()
    with pytest.raises(ValueError, match="2 workers need 1 CPU each, but the Ray cluster has 1"):
        cluster.reserve(2, "cpu")  # a run that begins is refused
    with pytest.warns(UserWarning, match="has 1 CPU.*the run goes on with 1 of 2 workers"):
        group, size = cluster.reserve(2, "cpu", fewer=True)
    assert (size, group.size, machines.used) == (1, 1, 1)


def test_a_loss_that_shows_late_is_noticed_while_a_group_waits(machines: Machines) -> None:
    machines.dies_late = True
    with pytest.warns(UserWarning, match="goes on with 1 of 2 workers"):
        assert cluster.reserve(2, "cpu", fewer=True)[1] == 1


def test_a_cluster_without_any_room_is_refused(machines: Machines) -> None:
    machines.used = 2
    with pytest.raises(ValueError, match="of 2 CPU, 0 GPU the Ray cluster has only 0 CPU"):
        cluster.reserve(1, "cpu", fewer=True)
    machines.used = 1
    with pytest.warns(UserWarning, match=r"only 1 CPU.*goes on with 1 of 2 workers"):
        assert cluster.reserve(2, "cpu", fewer=True)[1] == 1


def test_only_workers_that_died_are_followed_by_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        def __init__(self, session: None, hardware: Hardware, fewer: bool = False) -> None:
            self.fewer, self.died, self.closed = fewer, False, False

        def close(self) -> None:
            self.closed = True

    for name, value in (("Pool", Made), ("_pools", {}), ("_lost", set())):
        monkeypatch.setattr(pool, name, value)
    monkeypatch.setattr(pool, "session_for", lambda hardware: None)
    first: Any = pool.pool_for(TWO, "actor")
    first.closed = True  # by a worker's error
    second: Any = pool.pool_for(TWO, "actor")
    second.closed = second.died = True
    third: Any = pool.pool_for(TWO, "actor")
    assert [own.fewer for own in (first, second, third)] == [False, False, True]


def failing(run: Run, ends: list[str]) -> list[str]:
    """Attempts of a run whose workers die as `ends` says: "" = it ends well, "step" = after a new
    checkpoint, "dead" = without one."""
    seen: list[str] = []

    def work() -> None:
        seen.append(ends[len(seen)])
        if seen[-1] == "step":
            folder = run.checkpoints / "joint" / f"step-{len(seen):06d}"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text("{}")
        if seen[-1]:
            raise ChildProcessError("worker 1 of 2 died")

    with_restarts(run, work)
    return seen


def test_a_run_goes_on_as_long_as_it_gets_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(tmp_path / "run", {}, {})
    ends = ["dead", "step", "dead", "dead", "step", "dead", ""]
    assert failing(run, ends) == ends
    assert [e["attempt"] for e in run.events("restarted")] == [1, 1, 2, 3, 1, 2]
    assert "worker 1 of 2 died. The workers are started again" in capsys.readouterr().err
    with pytest.raises(ChildProcessError, match=f"after {RESTARTS} restarts"):
        failing(run, ["dead"] * 9)


def test_a_server_that_was_given_up_is_no_worker_that_died(tmp_path: Path) -> None:
    run, attempts = Run.create(tmp_path / "run", {}, {}), []

    def work() -> None:
        attempts.append(1)
        raise ServerError("vLLM's server of the actor ended with code 1")

    with pytest.raises(ServerError, match="ended with code 1"):
        with_restarts(run, work)
    assert len(attempts) == 1


class Held:
    """A model that refers to itself, as what failed often does by its traceback."""

    def __init__(self) -> None:
        self.own = self


def test_an_attempt_leaves_nothing_to_the_next_one(tmp_path: Path) -> None:
    before: list[weakref.ref[Held]] = []

    def work() -> None:
        assert not before or before[-1]() is None
        model = Held()
        before.append(weakref.ref(model))
        if len(before) < 3:
            raise ChildProcessError("worker 1 of 2 died")

    with_restarts(Run.create(tmp_path / "run", {}, {}), work)
    assert len(before) == 3


def test_the_own_way_to_end_is_kept_where_ray_does_not_start() -> None:
    own = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError), cluster.same_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise OSError
    assert signal.getsignal(signal.SIGTERM) == own


def test_a_ray_that_does_not_start_in_time_leaves_nothing_and_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    folders = []

    def init(*args: Any, **options: Any) -> None:
        folders.append(Path(options["_temp_dir"]))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ChildProcessError, match=r"did not start here \(The current node timed out"):
        cluster.Session(None, 1, 0)
    assert len(folders) == 1 and not folders[0].exists()
