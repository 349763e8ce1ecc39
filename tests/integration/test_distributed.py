"""Several worker processes compute what one process computes, and end when they should.

Two CPU processes on Ray that meet over gloo; they are started once for this file.
"""

from __future__ import annotations

import functools
import operator
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import save_family
from micro import Answer, Values, results
from safetensors.torch import load_file
from test_resume import kill_when_logged

from genac.config.models import GenerativeConfig, LoraConfig, OptimizerConfig
from genac.config.recipes import resolve
from genac.critics.generative import GenerativeCritic
from genac.distributed import pool
from genac.distributed.build import build
from genac.distributed.cluster import name_of
from genac.distributed.keeper import marked
from genac.distributed.remote import RemoteRuntime
from genac.engines.base import Request
from genac.engines.vllm.guardian import shared_by
from genac.hardware import Hardware
from genac.runs.store import Run
from genac.runtime import ModelSpec, Runtime
from genac.stages.pipeline import train
from genac.types import Sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO = Hardware(torch.device("cpu"), bf16=False, processes=2, threads=1)
ONE = Hardware(torch.device("cpu"), bf16=False, threads=1)
COUNTED = ("cost/tokens", "cost/flops")  # two workers read more often what their rows share


@pytest.fixture(autouse=True, scope="module")
def _no_worker_is_left() -> Iterator[None]:
    yield
    pool.leave()


def together(run: Run) -> dict[str, torch.Tensor]:
    """All saved weights."""
    files = [f for role in ("actor", "critic") for f in (run.path / role).glob("*.safetensors")]
    return {f"{f.parent.name}/{k}": t for f in files for k, t in load_file(f).items()}


def assert_close(one: Run, other: Run) -> None:
    """Metrics, sampled tokens and weights agree but for rounding."""
    pairs = list(zip(results(one, "joint"), results(other, "joint"), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.keys() == b.keys()
        for key in a.keys() - {*COUNTED, "stage"}:
            if a[key] is not None or b[key] is not None:
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key
        assert 1 <= b["cost/tokens"] / a["cost/tokens"] < 2
    for key in one.tables("rollouts"):
        rows, again = one.table("rollouts", *key), other.table("rollouts", *key)
        assert [r["response_ids"] for r in rows] == [r["response_ids"] for r in again]
    assert one.summary()["success_after"] == other.summary()["success_after"]
    weights, again = together(one), together(other)
    assert weights.keys() == again.keys() and weights
    for name, weight in weights.items():
        assert_updated_alike(weight, again[name], name)


def assert_updated_alike(one: torch.Tensor, other: torch.Tensor, name: str) -> None:
    """Within 1e-5; but for one weight in a thousand, whose gradient is nearly 0: AdamW makes a
    whole step of it, in the direction that rounding gives it.
    """
    apart = (one - other).abs() > 1e-5 + 1e-5 * one.abs()
    assert apart.float().mean() < 1e-3, (name, apart.sum(), (one - other).abs().max())


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "genac", "vineppo"])
def test_two_processes_train_as_one(
    algorithm: str, run_micro: Callable[..., Run], tmp_path: Path
) -> None:
    runs = [
        run_micro(
            algorithm=algorithm,
            output_dir=str(tmp_path / f"of-{n}"),
            stages={"joint": {"steps": 1, "eval_every": 1}},
            actor={"loss": {"num_minibatches": 2}},
            critic={"loss": {"num_minibatches": 2}},
            hardware={"processes": n},
        )
        for n in (1, 2)
    ]
    assert_close(*runs)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_family("qwen3", tmp_path_factory.mktemp("model"), context=256)


OPTIMIZER = OptimizerConfig(learning_rate=1e-3, tokens_per_microbatch=32)
ADAPTERS = LoraConfig(rank=4, alpha=8)


def a_model(folder: str, where: Hardware, **options: Any) -> Runtime:
    return build(ModelSpec("actor", folder, OPTIMIZER, **options), where)


def a_value_head(folder: str, where: Hardware, **options: Any) -> Runtime:
    return build(
        ModelSpec("critic", folder, OPTIMIZER, head="mse", bins=1, trained=False, **options), where
    )


def a_critic_on_the_actors_base(folder: str, where: Hardware, **options: Any) -> Runtime:
    actor = a_model(folder, where, **options)
    return build(ModelSpec("critic", folder, OPTIMIZER, trained=False, seed=1), where, actor)


def samples(loss: str, count: int = 5) -> list[Sample]:
    """Sequences of different lengths, some of which begin alike."""
    draw = np.random.default_rng(0)
    shared = tuple(draw.integers(5, 300, 6).tolist())
    result = []
    for index in range(count):
        own = tuple(draw.integers(5, 300, 4 + 5 * index).tolist())
        ids = shared + own if index % 2 else own
        weights = np.ones(len(ids), np.float32)
        targets = draw.random(len(ids)).astype(np.float32) if loss == "value" else None
        result.append(Sample(ids=ids, weights=weights, loss=loss, targets=targets))
    return result


def seen(runtime: Runtime, given: list[Sample]) -> list[np.ndarray]:
    """What the learner reads from sequences: log-probabilities, or values after a token."""
    if runtime.engine is not None:
        return runtime.learner.logprobs(given)
    return [row[1:] for row in runtime.learner.values([s.ids for s in given])]


@pytest.mark.parametrize("count", [5, 1])  # one sample: the other worker only keeps company
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (a_model, {}),
        (a_model, {"lora": ADAPTERS}),
        (a_value_head, {}),
        (a_value_head, {"lora": ADAPTERS}),
        (a_critic_on_the_actors_base, {"lora": ADAPTERS}),
    ],
)
def test_every_kind_of_model_learns_on_two_processes_as_on_one(
    make: Callable[..., Runtime], options: dict[str, Any], count: int, family: str, tmp_path: Path
) -> None:
    one, two = make(family, ONE, **options), make(family, TWO, **options)
    given = samples("sft" if one.engine else "value", count)
    for step in range(2):
        for a, b in zip(seen(one, given), seen(two, given), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        answer = one.learner.learn(given, step)
        assert two.learner.learn(given, step) == pytest.approx(answer, rel=1e-5)
    assert one.fingerprint() != a_model(family, ONE, **options).fingerprint()
    for runtime, name in ((one, "one"), (two, "two")):
        runtime.save_model(tmp_path / name)
        runtime.learner.save(tmp_path / name / "optimizer.pt")
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "two").iterdir())
    for file in (tmp_path / "one").glob("*.safetensors"):
        weights, again = load_file(file), load_file(tmp_path / "two" / file.name)
        assert weights.keys() == again.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, again[name], atol=1e-5, rtol=1e-5, msg=name)

    # What one process saved goes on in two, and the other way round.
    for source, target in (("one", two), ("two", one)):
        target.load_weights(tmp_path / source)
        target.learner.load(tmp_path / source / "optimizer.pt")
    assert two.learner.learn(given, 2) == pytest.approx(one.learner.learn(given, 2), rel=1e-5)


def requests(count: int) -> list[Request]:
    draw = np.random.default_rng(0)
    prompts = [tuple(draw.integers(5, 300, 3 + i % 4).tolist()) for i in range(count)]
    return [Request(prompts[i // 2], 6 + i, seed=i) for i in range(count)]


@pytest.mark.parametrize("options", [{}, {"lora": ADAPTERS}])
def test_new_weights_reach_every_engine_and_only_when_published(
    options: dict[str, Any], family: str
) -> None:
    one, two = a_model(family, ONE, **options), a_model(family, TWO, **options)
    before = two.sampler.generate(requests(7))
    assert [c.ids for c in before] == [c.ids for c in one.sampler.generate(requests(7))]
    for runtime in (one, two):
        for step in range(3):
            runtime.learner.learn(samples("sft"), step)
    assert [c.ids for c in two.sampler.generate(requests(7))] == [c.ids for c in before]
    assert two.sampler.generate(requests(1))[0].ids == before[0].ids
    for runtime in (one, two):
        runtime.publish(1)
    after, expected = two.sampler.generate(requests(7)), one.sampler.generate(requests(7))
    assert [c.ids for c in after] == [c.ids for c in expected] != [c.ids for c in before]
    for a, b in zip(after, expected, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
        np.testing.assert_allclose(a.entropies, b.entropies, atol=1e-4)
    assert two.sampler.version == two.version == 1
    np.testing.assert_allclose(two.probe((5, 6)), one.probe((5, 6)), atol=1e-5)
    assert two.sampler.generate([]) == []


def test_a_model_that_nobody_holds_is_freed_on_the_workers(family: str) -> None:
    kept, other = a_model(family, TWO), a_model(family, TWO)
    number = other.handle.number  # pyright: ignore
    del other
    assert kept.sampler.generate(requests(1))
    with pytest.raises(KeyError, match=str(number)):
        kept.handle.pool.call("fingerprint", [(number,)] * 2)  # pyright: ignore


def test_workers_have_the_priority_of_their_controller(family: str) -> None:
    two = a_model(family, TWO)
    assert isinstance(two, RemoteRuntime)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in two.handle.pool.pids} == {own}


def test_an_error_of_a_worker_is_raised_here_and_the_next_call_starts_anew(family: str) -> None:
    model = a_model(family, TWO)
    with pytest.raises(ValueError, match="exceeds the context of 256"):
        model.sampler.generate([Request((5,) * 300, 8, seed=0), *requests(3)])
    with pytest.raises(ChildProcessError, match="have ended"):
        model.sampler.generate(requests(1))
    assert a_model(family, TWO).sampler.generate(requests(1))


def test_a_dead_worker_ends_the_others_and_is_named(family: str) -> None:
    model = a_model(family, TWO)
    pids = model.handle.pool.pids  # pyright: ignore
    os.kill(pids[1], signal.SIGKILL)
    # The other worker waits for it in a collective operation that never ends.
    with pytest.raises(ChildProcessError, match=r"worker 1 of 2 \(.*\) died: it was killed"):
        model.learner.learn(samples("sft"), 0)
    assert not any(alive(pid) for pid in pids)


def test_a_worker_that_hangs_is_noticed_by_its_deadline(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model(family, TWO)
    pids = model.handle.pool.pids  # pyright: ignore
    assert model.sampler.generate(requests(2))
    monkeypatch.setattr(pool, "PATIENCE", 5.0)
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(ChildProcessError, match="workers gave no answer for 5 seconds"):
        model.sampler.generate(requests(2))
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_ray_that_dies_is_noticed_and_started_anew(name: str, family: str) -> None:
    model = a_model(family, TWO)
    session = model.handle.pool.session  # pyright: ignore
    (pid,) = [pid for pid in marked(session.mark) if name_of(pid) == name]
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(ChildProcessError, match=r"the workers' Ray died|died: "):
        for _ in range(1000):
            model.learner.learn(samples("sft"), 0)
    assert time.monotonic() - begin < 30
    assert a_model(family, TWO).sampler.generate(requests(1))
    assert marked(session.mark) == []


ORPHAN = """
import os, signal, sys, time
if os.fork() or os.setsid() and os.fork():
    os._exit(0)
end = time.monotonic() + 10
while os.getppid() != 1 and time.monotonic() < end:
    time.sleep(0.01)
import torch
from genac.distributed import pool
from genac.distributed.cluster import name_of
from genac.distributed.keeper import marked
from genac.distributed.remote import RemoteRuntime
from genac.hardware import Hardware
lines = open(sys.argv[1], "w", buffering=1)
two = Hardware(torch.device("cpu"), False, 2, 1)
first = pool.pool_for(two, "actor")
print(os.getppid(), file=lines)
for pid in [p for p in marked(first.session.mark) if name_of(p) == "raylet"]:
    os.kill(pid, signal.SIGKILL)
    while name_of(pid):
        time.sleep(0.01)
try:
    first.call("drop", [([],)] * 2)
except ChildProcessError as error:
    print(error, file=lines)
pool.pool_for(two, "actor").call("drop", [([],)] * 2)
pool.leave()
print("went on", file=lines)
"""


def test_a_controller_of_process_1_outlives_its_ray(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    subprocess.run([sys.executable, "-c", ORPHAN, str(file)], check=True, timeout=60)
    end = time.monotonic() + 120
    while "went on" not in (text := file.read_text() if file.exists() else ""):
        assert time.monotonic() < end, text
        time.sleep(0.1)
    parent, error, _ = text.splitlines()
    if parent != "1":
        pytest.skip(f"orphans of this system become children of process {parent}, not of 1")
    assert "the workers' Ray died" in error


def alive(pid: int) -> bool:
    """A process that runs: it exists, and is not only waiting to be counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_is_left_when_a_controller_is_killed() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a short name, as sockets lie in it
    code = (
        "import torch, time; from genac.distributed.pool import pool_for; "
        "from genac.hardware import Hardware; "
        "pool = pool_for(Hardware(torch.device('cpu'), False, 2, 1), 'actor'); "
        "print(pool.session.mark, *pool.pids, flush=True); time.sleep(600)"
    )
    controller = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert controller.stdout is not None
    mark, *line = controller.stdout.readline().split()
    pids, started = [int(pid) for pid in line], marked(mark)
    assert len(pids) == 2 and {*pids} < {*started} and len(started) >= 5
    shared = set[str]().union(*map(shared_by, started))  # other jobs of this machine have theirs
    controller.kill()
    controller.wait()
    end = time.monotonic() + 10
    while any(map(alive, started)) and time.monotonic() < end:
        time.sleep(0.1)
    assert [pid for pid in started if alive(pid)] == []
    # The keeper deletes files once nothing has been started for a while.
    while any(folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.1)
    folder.rmdir()  # it is empty
    assert [file for file in shared if Path(file).exists()] == []


STEPS = {"critic_rl": {"steps": 1, "save_every": 1}, "joint": {"steps": 4, "save_every": 2}}


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "genac", "vineppo"])
def test_a_killed_run_goes_on_exactly_and_on_another_number_of_processes(
    algorithm: str,
    micro: Callable[..., Values],
    run_micro: Callable[..., Run],
    recipe: Callable[..., str],
    tmp_path: Path,
) -> None:
    both: Values = {"algorithm": algorithm, "stages": STEPS, "hardware": {"processes": 2}}
    whole = run_micro(**both, output_dir=str(tmp_path / "whole"))
    code = kill_when_logged(recipe(**both), "joint", 2, tmp_path, "run/metrics.jsonl")
    assert code == -signal.SIGKILL and not (tmp_path / "run" / "summary.json").exists()
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", tmp_path / "run", copy], check=True)

    again = run_micro(**both)
    assert results(again) == results(whole)
    for name, weight in together(whole).items():
        assert torch.equal(weight, together(again)[name]), name

    alone = {**both, "hardware": {"processes": 1}, "output_dir": str(copy)}
    assert_close(Run.open(train(resolve(micro(**alone)))), whole)
    for run in (again, Run.open(copy)):
        assert [e["stage"] for e in run.events("resumed")] == ["joint"]


def test_a_run_whose_worker_dies_goes_on_to_the_same_end(
    run_micro: Callable[..., Run],
    recipe: Callable[..., str],
    genac: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    both: Values = {"algorithm": "grpo", "hardware": {"processes": 2}}
    whole = run_micro(**both, output_dir=str(tmp_path / "whole"))
    monkeypatch.setattr(pool.Pool, "call", dying(pool.Pool.call, at=(3,)))
    answer = genac("train", recipe(**both))
    assert answer.code == 0 and "Traceback" not in answer.err
    assert "died: it was killed" in answer.err and "restart 1 of 3" in answer.err
    again = Run.open(tmp_path / "run")
    assert results(again) == results(whole)
    for name, weight in together(whole).items():
        assert torch.equal(weight, together(again)[name]), name
    assert len(again.events("restarted")) == 1 == len(again.events("resumed"))


def test_a_run_whose_workers_always_die_ends_with_one_line(
    recipe: Callable[..., str], genac: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool.Pool, "call", dying(pool.Pool.call, at=range(100)))
    answer = genac("train", recipe(algorithm="grpo", hardware={"processes": 2}))
    assert answer.code == 2 and "Traceback" not in answer.err
    assert "died: it was killed" in answer.err and "after 3 restarts" in answer.err


def dying(call: Callable[..., Any], at: Container[int]) -> Callable[..., Any]:
    """`call`, before some of whose optimiser steps worker 1 is killed."""
    steps = 0

    def counted(self: pool.Pool, command: str, arguments: Any) -> Any:
        nonlocal steps
        if command == "step_on":
            steps += 1
            if steps in at:
                os.kill(self.pids[1], signal.SIGKILL)
        return call(self, command, arguments)

    return counted


def test_probes_reach_the_workers(family: str) -> None:
    one, two = a_model(family, ONE), a_model(family, TWO)
    critic = GenerativeCritic(
        two, two, GenerativeConfig(max_new_tokens=8, readout="expected"), seed=0
    )
    assert critic.scores is not None and critic.scores.one is not None
    plain = [replace(r, token_prob_ids=critic.scores.ids) for r in requests(7)]
    written = [c.ids for c in one.sampler.generate(plain)]
    # A random model writes no score, so the probe is set by hand: another first token.
    probe = functools.partial(operator.getitem, dict.fromkeys(written, (0, critic.scores.one)))
    queries = [replace(request, probe=probe) for request in plain]
    for a, b in zip(one.sampler.generate(queries), two.sampler.generate(queries), strict=True):
        assert a.ids == b.ids and a.probe_probs is not None and b.probe_probs is not None
        np.testing.assert_allclose(a.probe_probs, b.probe_probs, atol=1e-5)
    # The critic's own probe arrives too, and says the same there.
    answer = tuple(two.tokenizer.encode("a<answer>7</answer>", add_special_tokens=False))
    there = pickle.loads(pickle.dumps(critic.reader))
    assert there(answer) == critic.reader(answer) is not None
    assert (
        two.sampler.generate([replace(r, probe=critic.reader) for r in plain])[0].probe_probs
        is None
    )
