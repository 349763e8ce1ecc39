"""The function for slime on two ranks, between which the groups of a batch are divided."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from computed_critic import ComputedCritic
from critic_server import CriticServer

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * DEADLINE)]

# Megatron's name for the ranks that share a batch; here they are all.
MPU = "import torch.distributed as d\ndef get_data_parallel_group():\n    return d.group.WORLD\n"
RANK = """
import json, sys
from argparse import Namespace
import torch, torch.distributed as dist
from genac.integrations import slime

folder, url, place, rank, reward = *sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5])
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
args = Namespace(hf_checkpoint=folder, n_samples_per_prompt=2, rewards_normalization=False,
                 kl_coef=0.0, context_parallel_size=1, genac={"url": url, "timeout": 60})
indices = [rank, rank + 2]
data = {
    "sample_indices": indices,
    "tokens": [torch.tensor([10 + i // 2, 4, *range(5, 6 + i)]) for i in indices],
    "response_lengths": [i + 1 for i in indices],
    "rewards": [rank * reward] * 2,
    "kl": [torch.zeros(i + 1) for i in indices],
}
try:
    slime.advantages(args, data)
    print(json.dumps([a.tolist() for a in data["advantages"]]))
except Exception as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
dist.destroy_process_group()
"""


def ranks(folder: Path, url: str, place: Path, reward: float) -> list[object]:
    """What each rank has at the end: its advantages, or the error."""
    (place / "megatron" / "core").mkdir(parents=True, exist_ok=True)
    for name, text in (("__init__", ""), ("core/__init__", ""), ("core/mpu", MPU)):
        (place / "megatron" / f"{name}.py").write_text(text)
    (place / "rendezvous").unlink(missing_ok=True)
    command = [sys.executable, "-c", RANK, str(folder), url, str(place / "rendezvous")]
    environment = {"PYTHONPATH": f"{ROOT}:{place}", "OMP_NUM_THREADS": "1", "PATH": ""}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(reward)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        results = [p.communicate(timeout=DEADLINE) for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(p.returncode == 0 for p in processes), results
    return [json.loads(out.splitlines()[-1]) for out, _ in results]


def test_groups_are_whole_over_the_ranks_and_each_gets_its_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    critic = ComputedCritic()
    with CriticServer(critic) as server:
        results = ranks(tiny_folder, server.url, tmp_path, reward=1.0)
    assert len(critic.learnt_ids) == 1
    (request,) = critic.requests.values()
    assert [r.group for r in request.responses] == ["0", "0", "1", "1"]
    for rank, streams in enumerate(results):
        expected = [[rank - t / (i + 1) for t in range(i + 1)] for i in (rank, rank + 2)]
        assert streams == [pytest.approx(e, abs=1e-6) for e in expected]


def test_what_is_refused_on_one_rank_ends_all_of_them(tiny_folder: Path, tmp_path: Path) -> None:
    with CriticServer(ComputedCritic()) as server:
        results = ranks(tiny_folder, server.url, tmp_path, reward=2.0)
    assert all("outcomes in [0, 1]" in str(r) for r in results)
