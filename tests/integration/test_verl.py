"""The trainer for verl on a real TransferQueue and a running service: `make verl-env`.

verl trains on GPUs only, so what is proven here ends at the advantages. What only GPUs can show is
a check-list in docs/verl.md.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from installed import ROOT, environment
from micro import MICRO, Values

from genac.client import Learn, Response, Responses
from genac.models.loading import load_tokenizer
from genac.serving.command import parser
from genac.serving.learning_command import load, settings
from genac.tasks.arithmetic import ArithmeticTask

HOME = Path(os.environ.get("GENAC_VERL", ROOT / ".verl-env"))
DEADLINE = 1500.0  # seconds; importing verl and starting Ray take two minutes on a busy machine
STEPS, PROBLEMS, MEMBERS = 2, 3, 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * DEADLINE),
    pytest.mark.skipif(
        not (HOME / "ready").exists(),
        reason=f"no verl in {HOME}: make it with `make verl-env`, or name it in GENAC_VERL",
    ),
]


def arguments(critic: Path) -> list[str]:
    """Of `genac serve`, those that bear on the numbers."""
    return [str(critic), "--learn", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def url(trained_critic: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `genac serve --learn`, which is ended by SIGTERM."""
    folder = tmp_path_factory.mktemp("service")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "genac.cli", "serve", *arguments(trained_critic)]
    command += ["--port", str(port), "--checkpoints", str(folder / "kept")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(process, address, folder / "log")
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{address}/version", timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def steps(trained_critic: Path) -> list[list[Values]]:
    """Responses of two steps, right and wrong ones; of one the last tokens are masked."""
    tokenizer = load_tokenizer(str(trained_critic))
    task = ArithmeticTask(**MICRO["task"]["options"])
    rng = random.Random(0)
    return [
        [
            row(task, tokenizer, rng, step * PROBLEMS + problem, member)
            for problem in range(PROBLEMS)
            for member in range(MEMBERS)
        ]
        for step in range(STEPS)
    ]


def row(task: Any, tokenizer: Any, rng: random.Random, index: int, member: int) -> Values:
    problem = task.problem("train", index)
    text = task.demonstration(problem, rng, 0.0)
    if member % 2:
        text = text[:-1] + str((int(text[-1]) + 1) % 10)
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    kept = len(ids) - (2 if member == 1 else 0)
    return {
        "group": index,
        "problem": problem.prompt,
        "prompt_ids": tokenizer.encode(problem.prompt, add_special_tokens=False),
        "response_ids": ids,
        "mask": [int(i < kept) for i in range(len(ids))],
        "reward": task.verify(problem, text),
    }


@pytest.fixture(scope="module")
def result(
    url: str, steps: list[list[Values]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What verl's side wrote: tests/support/verl_trainer.py."""
    folder = tmp_path_factory.mktemp("verl")
    work, target = folder / "work.json", folder / "result.json"
    documented = overrides((ROOT / "docs" / "verl.md").read_text())
    work.write_text(json.dumps({"url": url, "steps": steps, "documented": documented}))
    process = subprocess.Popen(
        [HOME / "bin" / "python", ROOT / "tests" / "support" / "verl_trainer.py", work, target],
        env=environment(folder / "installed"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, out[-4000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return json.loads(target.read_text())


def overrides(page: str) -> list[str]:
    """Of the documented command, all keys that verl is given."""
    command = re.search(r"python -m verl.trainer.main_ppo (.*?)```", page, re.DOTALL)
    assert command is not None
    return command[1].replace("\\\n", " ").split()


@pytest.fixture(scope="module")
def expected(trained_critic: Path, steps: list[list[Values]]) -> list[dict[str, Any]]:
    """The same steps by the critic in this process; the order of responses is verl's."""
    args, keys = parser().parse_known_args(arguments(trained_critic))
    own = load(args, settings(args, keys), None)
    results = []
    for number, rows in enumerate(steps):
        responses = tuple(
            Response(
                problem=({"role": "user", "content": r["problem"]},),  # type: ignore[arg-type]
                tokens=tuple(r["response_ids"]),
                prompt_tokens=tuple(r["prompt_ids"]),
                group=f"step{number}-{r['group']}",
                reward=r["reward"],
            )
            for r in rows[::-1]
        )
        reply = own.advantages(Responses(responses=responses, id=f"ask-{number}", step=number))
        learnt = own.learn(Learn(request_id=f"ask-{number}", estimates=f"ask-{number}"))
        streams = [r.token_advantages for r in reply.responses][::-1]
        results.append({"advantages": streams, "metrics": reply.metrics | learnt.metrics})
    return results


def test_verl_knows_the_trainer_by_its_entry_point(result: dict[str, Any]) -> None:
    assert result["version"].startswith("0.9.")
    assert "genac" in result["trainers"] and "sync" in result["trainers"]


def test_the_config_composes_and_the_trainer_stays_synchronous(result: dict[str, Any]) -> None:
    assert result["mode"] == "sync" and result["buffer"] == "ReplayBuffer"
    assert result["same signatures"]


def test_verl_knows_every_key_of_the_documented_command(result: dict[str, Any]) -> None:
    assert result["documented"] == {"trainer_mode": "genac", "gpus": 8, "url": "http://CRITIC:8077"}


@pytest.mark.parametrize("number", range(STEPS))
def test_advantages_in_the_queue_are_those_of_the_critic_in_process(
    number: int,
    result: dict[str, Any],
    expected: list[dict[str, Any]],
    steps: list[list[Values]],
) -> None:
    streams = result["steps"][number]["advantages"]
    assert len(streams) == PROBLEMS * MEMBERS
    assert len({r["reward"] for r in steps[number]}) == 2
    for stream, own, row in zip(
        streams, expected[number]["advantages"], steps[number], strict=True
    ):
        masked = [a * m for a, m in zip(own, row["mask"], strict=True)]
        assert stream == pytest.approx(masked, abs=1e-5)
    assert any(len({round(a, 4) for a in s}) > 1 for s in streams)  # segments differ


def test_what_the_critic_learns_is_what_it_learns_in_process(
    result: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    for step, own in zip(result["steps"], expected, strict=True):
        for name, value in own["metrics"].items():
            assert step["metrics"][name] == pytest.approx(value, abs=1e-5), name
    assert [s["metrics"]["critic/version"] for s in result["steps"]] == [0, 1]


def test_rows_that_verl_adds_as_padding_are_not_sent_and_have_no_advantage(
    result: dict[str, Any],
) -> None:
    for step in result["steps"]:
        assert step["padding"] == [[0.0]] * 4


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("unknown", "ValueError: genac.timout is no setting; did you mean genac.timeout"),
        ("no url", "ValueError: genac.url is missing"),
        ("kl", "ValueError: algorithm.use_kl_in_reward"),
        ("critic", "ValueError: the trainer 'genac' takes values from the critic service"),
        ("geo_mean", "loss_mode geo_mean gives each token the mean"),
        ("gae", "set critic.enable=False and algorithm.adv_estimator=grpo"),
        ("down", "ServiceError: http://127.0.0.1:9/version gave no answer within 1 s"),
        ("reward", "is 10; a generative critic predicts outcomes in [0, 1]"),
        ("outputs", "the agent loop wrote several outputs in session"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(
    case: str, message: str, result: dict[str, Any]
) -> None:
    assert message in result["refused"][case]


def test_a_checkpoint_says_how_much_the_critic_had_learnt(result: dict[str, Any]) -> None:
    assert result["saved"] == {"step": STEPS} and result["resumed"] == 2
    assert f"has learnt {STEPS} requests" in result["behind"]
    assert f"saved after {STEPS + 1}" in result["behind"]
