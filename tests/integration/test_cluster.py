"""A Ray cluster of several machines, which are raylets on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import Values, results

from genac.config.recipes import resolve
from genac.distributed import pool
from genac.hardware import Hardware
from genac.runs.store import Run
from genac.stages.pipeline import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three machines with room for one worker each."""
    from ray._raylet import Config
    from ray.cluster_utils import Cluster

    # A Ray that other tests of this process started has a token, which this process still asks for.
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "disabled")
    Config.initialize("")
    result = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        result.add_node(num_cpus=1)
    result.wait_for_nodes()
    yield result
    pool.leave()
    result.shutdown()
    patch.undo()
    Config.initialize("")


def on(cluster: Any, processes: int, **more: Any) -> Values:
    where = {"cluster": cluster.address, "device": "cpu", "processes": processes, "threads": 1}
    return {"algorithm": "ppo", "hardware": where | more}


def test_more_workers_than_the_cluster_has_are_refused_at_once(
    cluster: Any, micro: Callable[..., Values]
) -> None:
    with pytest.raises(
        ValueError, match="4 workers need 1 CPU each, but the Ray cluster has 3 CPU"
    ):
        train(resolve(micro(**on(cluster, 4))))


def test_workers_on_two_machines_train_as_on_one(
    cluster: Any, run_micro: Callable[..., Run], tmp_path: Path
) -> None:
    there = run_micro(**on(cluster, 2), output_dir=str(tmp_path / "there"))
    spots = [spot for own in pool._pools.values() for spot in own.spots]
    assert len({spot.node for spot in spots}) == len(spots) == 2
    pool.leave()
    here = run_micro(algorithm="ppo", hardware={"processes": 2})
    assert results(there) == results(here)
    pool.leave()


def test_workers_that_do_not_see_the_runs_folder_are_named(
    cluster: Any, micro: Callable[..., Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = resolve(micro(**on(cluster, 2)))
    pool.pool_for(Hardware.resolve(cfg.hardware), "actor")
    monkeypatch.setattr(
        Path, "write_text", lambda file, text: len(text)
    )  # reaches no other machine
    with pytest.raises(ValueError, match=r"workers on .* do not see what this process writes into"):
        train(cfg)
    pool.leave()


def test_a_run_goes_on_without_a_machine_that_dies(
    cluster: Any, run_micro: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = run_micro(**on(cluster, 2), output_dir=str(tmp_path / "whole"))
    call, steps = pool.Pool.call, 0

    def losing(self: pool.Pool, command: str, arguments: Any) -> Any:
        nonlocal steps
        if command == "step_on":
            steps += 1
            if steps == 4:
                lost = next(n for n in cluster.worker_nodes if n.node_id in nodes_of(self))
                cluster.remove_node(lost, allow_graceful=False)
        return call(self, command, arguments)

    monkeypatch.setattr(pool.Pool, "call", losing)
    again = run_micro(**on(cluster, 2))
    assert results(again) == results(whole)
    assert len(again.events("restarted")) == 1


def test_a_run_goes_on_with_fewer_workers_where_a_machine_cannot_be_replaced(
    cluster: Any, run_micro: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for node in list(cluster.worker_nodes)[1:]:
        cluster.remove_node(node)
    cluster.wait_for_nodes()
    whole = run_micro(**on(cluster, 2), output_dir=str(tmp_path / "whole"))
    call, sizes = pool.Pool.call, []

    def losing(self: pool.Pool, command: str, arguments: Any) -> Any:
        if command == "step_on":
            sizes.append(self.size)
            if len(sizes) == 4:
                (lost,) = cluster.worker_nodes
                cluster.remove_node(lost, allow_graceful=False)
        return call(self, command, arguments)

    monkeypatch.setattr(pool.Pool, "call", losing)
    with pytest.warns(UserWarning, match="goes on with 1 of 2 workers"):
        again = run_micro(**on(cluster, 2))
    fewer = sizes.index(1)  # the other model may still ask two before the loss is seen
    assert fewer >= 4 and set(sizes[:fewer]) == {2} and set(sizes[fewer:]) == {1}
    assert len(again.events("restarted")) == 1
    for one, two in zip(results(again, "joint"), results(whole, "joint"), strict=True):
        for key in one.keys() - {"stage", "cost/tokens", "cost/flops"}:
            if one[key] is not None or two[key] is not None:
                assert one[key] == pytest.approx(two[key], rel=1e-4, abs=1e-4), key
    pool.leave()


def nodes_of(workers: pool.Pool) -> set[str]:
    return {spot.node for spot in workers.spots}


def test_actor_and_critic_have_workers_of_their_own(
    run_micro: Callable[..., Run], tmp_path: Path
) -> None:
    pool.leave()
    runs, pids = [], []
    for placement in ("colocated", "separate"):
        runs.append(
            run_micro(
                algorithm="genac",
                output_dir=str(tmp_path / placement),
                hardware={"processes": 1, "placement": placement},
            )
        )
        pids.append({role: own.pids for (_, role), own in pool._pools.items()})
        pool.leave()
    assert pids[0] == {} and set(pids[1]) == {"actor", "critic"}
    assert not {*pids[1]["actor"]} & {*pids[1]["critic"]}
    for one, two in zip(*(results(run, "joint") for run in runs), strict=True):
        for key in one.keys() - {"stage", "cost/tokens", "cost/flops"}:
            if one[key] is not None or two[key] is not None:
                assert one[key] == pytest.approx(two[key], rel=1e-4, abs=1e-5), key
    hardware = Hardware(torch.device("cpu"), bf16=False, processes=2, threads=1)
    assert pool.pool_for(hardware, "actor") is pool.pool_for(hardware, "critic")
    pool.leave()
