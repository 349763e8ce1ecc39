"""A critic that learns behind HTTP: the object's numbers, ids, limits, keys, draining, restarts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_server import Server, batch, learning_server, load
from micro import Answer
from safetensors.torch import load_file

from genac.client.messages import Learn, Response, SuccessRate
from genac.client.messages import Values as Reply
from genac.service import LearningCritic
from genac.serving.learning_app import LearningLimits
from genac.serving.learning_command import settings
from genac.serving.options import parser

KEY = "a-key-of-the-tests"


def learn(number: int, **more: Any) -> Learn:
    """A request that holds its responses."""
    return Learn(request_id=f"learn-{number}", responses=batch(number).responses, **more)


def weights(critic: LearningCritic, folder: Path) -> dict[str, np.ndarray]:
    critic.save_model(folder)
    return {k: v.numpy() for k, v in load_file(folder / "model.safetensors").items()}


def require_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


# --- replies -------------------------------------------------------------------------------------


def test_a_server_replies_and_learns_what_the_critic_in_process_does(
    trained_critic: Path, tmp_path: Path
) -> None:
    own, served = load(trained_critic), load(trained_critic)
    with learning_server(served) as server:
        for step in range(2):
            responses = batch(step, id=f"ask-{step}", step=step, rationales=True)
            reply = server.post("/advantages", responses)
            assert reply == own.advantages(responses).model_dump(mode="json")
            request = Learn(request_id=f"learn-{step}", estimates=responses.id)
            assert server.post("/learn", request) == own.learn(request).model_dump(mode="json")
        values = server.post("/values", batch(9, step=9))
        assert Reply.model_validate(values) == own.values(batch(9, step=9))
        assert values["version"] == server.send("/version")[1]["version"] == 2
        assert server.post("/success-rate", SuccessRate(rate=0.25)) == {"rate": 0.25}
        assert served.critic.rate.value == 0.25
    require_equal(weights(own, tmp_path / "own"), weights(served, tmp_path / "served"))


def test_the_read_only_endpoints_answer_by_the_weights_that_learn(trained_critic: Path) -> None:
    body = {"problem": "6 a+3>", "partial_response": "a+3=9\n"}
    with learning_server(load(trained_critic, optimizer=None)) as server:
        before = server.post("/score", body)["value"]
        for number in range(3):
            server.post("/learn", learn(number))
        assert server.post("/score", body)["value"] != before
        card = server.send("/card")[1]
        assert card["kind"] == "generative" and card["limits"]["max_responses"] == 8192
        assert server.send("/healthz")[:2] == server.send("/health")[:2]
        assert server.send("/healthz")[1] == {"status": "ok", "queued": 0, "version": 3}


def test_metrics_count_requests_and_show_the_last_learn(trained_critic: Path) -> None:
    with learning_server(load(trained_critic)) as server:
        server.post("/values", batch(0))
        server.post("/learn", learn(0))
        server.send("/no/such/path")
        status, text, headers = server.send("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['genac_requests_total{path="/values",status="200"}'] == "1"
    assert lines['genac_requests_total{path="other",status="404"}'] == "1"
    assert lines['genac_request_seconds_bucket{path="/learn",le="+Inf"}'] == "1"
    assert lines["genac_version"] == lines["genac_learnt_total"] == "1"
    assert float(lines['genac_critic{name="critic/reward"}']) > 0
    assert float(lines["process_resident_memory_bytes"]) > 1e7


# --- requests to learn ---------------------------------------------------------------------------


def test_a_queued_request_is_learnt_later_and_values_between_say_their_version(
    trained_critic: Path,
) -> None:
    with learning_server(load(trained_critic)) as server:
        server.hold()
        status, reply, _ = server.send("/learn", learn(0, wait=False))
        assert (status, reply["status"], reply["version"]) == (202, "queued", None)
        assert server.send("/learn/learn-0")[1]["status"] == "queued"
        assert server.send("/version")[1]["version"] == 0
        server.release()
        assert server.learnt("learn-0")["version"] == 1
        assert server.post("/values", batch(1))["version"] == 1


def test_a_repeated_request_is_learnt_once_and_another_one_of_its_id_is_refused(
    trained_critic: Path,
) -> None:
    with learning_server(load(trained_critic)) as server:
        server.hold()
        assert server.send("/learn", learn(0, wait=False))[0] == 202
        assert server.send("/learn", learn(0, wait=False))[0] == 202
        other = Learn(request_id="learn-0", responses=batch(5).responses)
        assert server.refused("/learn", other)[0] == 422  # while the first one waits
        server.release()
        first = server.post("/learn", learn(0))
        assert first["step"] == 1 and server.post("/learn", learn(0)) == first
        assert "was another request's" in server.refused("/learn", other)[1]
        assert server.send("/version")[1]["step"] == 1


def test_a_request_that_takes_too_long_goes_on(trained_critic: Path) -> None:
    with learning_server(load(trained_critic), seconds=0.3) as server:
        server.hold()
        status, text = server.refused("/learn", learn(0))
        assert status == 504 and "GET /learn/{request_id} reports on it" in text
        assert server.send("/learn/learn-0")[1]["status"] == "queued"
        status, text = server.refused("/values", batch(0, id="slow"))
        assert status == 504 and "the same request again" in text
        server.release()
        assert server.learnt("learn-0")["step"] == 1
        assert server.post("/values", batch(0, id="slow"))["version"] == 1


def test_estimates_train_once_and_only_while_they_are_kept(trained_critic: Path) -> None:
    with learning_server(load(trained_critic)) as server:
        server.post("/advantages", batch(0, id="ask"))
        server.hold()
        first = Learn(request_id="first", estimates="ask", wait=False)
        second = Learn(request_id="second", estimates="ask", wait=False)
        assert server.send("/learn", first)[0] == 202
        assert "learns the same estimates" in server.refused("/learn", second)[1]
        server.release()
        server.learnt("first")
        assert "were learnt by the request 'first'" in server.refused("/learn", second)[1]
        gone = Learn(request_id="third", estimates="never-responses")
        status, text = server.refused("/learn", gone)
        assert status == 410 and "send the request for values or advantages again" in text
        assert server.send("/learn/third")[0] == 404


def failing(critic: LearningCritic, patch: pytest.MonkeyPatch, times: int) -> None:
    """Learning changes the weights, and then fails so many times."""
    learner = critic.critic.runtime.learner
    study, left = learner.learn, [None] * times

    def fault(samples: Any, seed: int) -> Any:
        measured = study(samples, seed)
        if left:
            left.pop()
            raise RuntimeError("out of memory")
        return measured

    patch.setattr(learner, "learn", fault)


def test_a_failure_in_the_middle_changes_nothing(
    trained_critic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    critic, untouched = load(trained_critic, tmp_path / "folder"), load(trained_critic)
    for own in (critic, untouched):
        own.learn(learn(0))
    failing(critic, monkeypatch, 1)
    with learning_server(critic) as server:
        status, text = server.refused("/learn", learn(1))
        assert status == 500 and "RuntimeError" in text
        failed = server.send("/learn/learn-1")[1]
        assert failed["status"] == "failed" and "out of memory" in failed["error"]
        assert server.send("/version")[1]["version"] == 1
        require_equal(weights(critic, tmp_path / "a"), weights(untouched, tmp_path / "b"))
        assert server.post("/learn", learn(1))["step"] == 2  # the same id again


def test_what_was_learnt_and_kept_is_known_while_a_failure_is_taken_back(
    trained_critic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that calls at that moment would have it learnt a second time."""
    critic = load(trained_critic, tmp_path / "folder")
    critic.advantages(batch(0, id="ask-0"))
    first = critic.learn(Learn(request_id="learn-0", estimates="ask-0"))
    critic.advantages(batch(1, id="ask-1"))
    learner, known = critic.critic.runtime.learner, []
    study = learner.learn

    def fault(samples: Any, seed: int) -> Any:
        known.append(critic.learnt("learn-0"))
        if len(known) == 1:
            raise RuntimeError("out of memory")
        return study(samples, seed)

    monkeypatch.setattr(learner, "learn", fault)
    with learning_server(critic) as server:
        failing_one = Learn(request_id="learn-1", estimates="ask-1")
        assert server.refused("/learn", failing_one)[0] == 500
        assert known == [first, first]  # of the failure, and of what is repeated
        again = Learn(request_id="learn-2", estimates="ask-1")
        assert server.post("/learn", again)["step"] == 2


@pytest.mark.parametrize("error", [TimeoutError, ConnectionError, ChildProcessError])
def test_an_engine_that_fails_is_no_full_disk_and_no_slow_reply(
    trained_critic: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    critic = load(trained_critic)

    def broken(*arguments: Any) -> Any:
        raise error("the engine is gone")

    monkeypatch.setattr(critic.critic, "estimate", broken)
    with learning_server(critic) as server:
        for path, body in (
            ("/values", batch(0)),
            ("/values", batch(0, id="a")),
            ("/learn", learn(0)),
        ):
            status, text = server.refused(path, body)
            assert status == 500 and error.__name__ in text


def test_a_critic_that_cannot_be_brought_back_answers_no_more(
    trained_critic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = load(trained_critic, tmp_path / "folder")
    critic.learn(learn(0))
    failing(critic, monkeypatch, 2)  # again while what came behind the checkpoint is repeated
    with learning_server(critic) as server:
        assert server.refused("/learn", learn(1))[0] == 500
        score = {"problem": "6 a+3>", "partial_response": ""}
        for path, body in (
            ("/values", batch(0)),
            ("/learn", learn(2)),
            ("/checkpoint", {}),
            ("/success-rate", {"rate": 0.5}),
            ("/score", score),
        ):
            status, text = server.refused(path, body)
            assert status == 503 and "restart the server" in text
        assert server.send("/healthz")[0] == 503
    assert load(trained_critic, tmp_path / "folder").step == 1


# --- restarts ------------------------------------------------------------------------------------


def test_what_was_acknowledged_and_had_not_begun_is_learnt_after_a_kill(
    trained_critic: Path, tmp_path: Path
) -> None:
    folder, left = tmp_path / "folder", tmp_path / "left"
    with learning_server(load(trained_critic, folder)) as server:
        server.post("/advantages", batch(0, id="ask-0", step=0))
        server.post("/learn", Learn(request_id="learn-0", estimates="ask-0"))
        server.post("/advantages", batch(1, id="ask-1", step=1))
        server.hold()
        request = Learn(request_id="learn-1", estimates="ask-1", wait=False)
        assert server.send("/learn", request)[0] == 202
        assert server.send("/learn", learn(2, wait=False))[0] == 202
        shutil.copytree(folder, left)  # what a kill at this moment leaves
        server.release()
        assert [server.learnt(f"learn-{i}")["step"] for i in (1, 2)] == [2, 3]
        whole = server.server.learning.critic
    again = load(trained_critic, left)
    with learning_server(again) as server:
        assert server.learnt("learn-2")["step"] == 3
        assert server.send("/learn", request)[1]["step"] == 2  # is repeated by its client
        assert list((left / "queue").iterdir()) == []
    require_equal(weights(whole, tmp_path / "a"), weights(again, tmp_path / "b"))
    assert whole.critic.rate.value == again.critic.rate.value


def test_a_draining_server_takes_nothing_new_and_finishes_what_waits(
    trained_critic: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    with learning_server(load(trained_critic, folder)) as server:
        server.hold()
        assert server.send("/learn", learn(0, wait=False))[0] == 202
        draining = threading.Thread(target=server.server.drain)
        draining.start()
        while not server.server.draining:
            pass
        status, reply, headers = server.send("/values", batch(0))
        assert (status, headers["retry-after"]) == (503, "5") and "stopping" in reply["error"]
        assert server.send("/healthz")[:2] == (
            503,
            {"status": "draining", "queued": 1, "version": 0},
        )
        assert server.send("/learn/learn-0")[1]["status"] == "queued"
        server.release()
        draining.join(20)
        assert server.send("/learn/learn-0")[1]["status"] == "done"
    assert (folder / "step-000001" / "manifest.json").exists()
    assert load(trained_critic, folder).step == 1


# --- refusals ------------------------------------------------------------------------------------


def one(**fields: Any) -> Any:
    return {"responses": [{"problem": "6 a+3>", **fields}]}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/values", one(tokens=[3, 4000]), "the token 4000, but the tokenizer"),
        ("/values", one(text="a", reward=1.5), "less than or equal to 1, not 1.5"),
        ("/values", one(text="a", reward=-0.5), "greater than or equal to 0, not -0.5"),
        ("/values", one(tokens=[3, 4], boundaries=[0, 9]), "boundary 9 is beyond response 0"),
        ("/values", one(tokens=[3, 4], boundaries=[0, 1, 1]), "do not ascend"),
        ("/values", one(), "either tokens or text"),
        ("/values", one(text="a", tokens=[3]), "either tokens or text"),
        ("/values", {"responses": []}, "at least 1 item"),
        ("/values", one(text="a") | {"id": "with space"}, "id: String should match"),
        ("/learn", {"request_id": "x"}, "either estimates or responses"),
        ("/learn", {"request_id": "x", **one(text="a")}, "no response has a reward"),
        ("/success-rate", {"rate": 2}, "less than or equal to 1, not 2"),
        ("/success-rate", {"rates": 0.5}, "rates: Extra inputs are not permitted"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_input_is_refused_with_what_was_sent_and_what_fits(
    path: str, body: Any, words: str, shared: Server
) -> None:
    status, text = shared.refused(path, body)
    assert status == 422 and words in text
    assert "Tuple should" not in text or "[]" in str(body)


def test_ids_in_paths_may_hold_any_printable_character(shared: Server) -> None:
    status, reply, _ = shared.send("/learn/run%2F1%3Fa%23b")
    assert status == 404 and "send it" in reply["error"]


@pytest.fixture(scope="module")
def shared_critic(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny language model, which begins as a critic that writes nothing of use."""
    from genac.models.tiny import save_tiny

    folder = tmp_path_factory.mktemp("tiny")
    words = [*"0123456789+>= \n", "a"]
    save_tiny(folder, words, max_length=96, hidden_size=16, layers=1, heads=2, seed=0)
    return folder


@pytest.fixture(scope="module")
def shared(shared_critic: Path) -> Any:
    from genac.config.models import GenerativeConfig

    generative = GenerativeConfig(prompt="compact", max_new_tokens=4)
    with learning_server(load(shared_critic, generative=generative)) as server:
        yield server


def test_a_request_beyond_the_limits_is_refused(trained_critic: Path) -> None:
    limits = LearningLimits(max_megabytes=0.01, max_responses=5)
    with learning_server(load(trained_critic), learning_limits=limits) as server:
        status, text = server.refused("/values", batch(0))
        assert status == 413 and "6 responses; at most 5" in text
        status, text = server.refused("/learn", learn(0))
        assert status == 413 and "6 responses; at most 5" in text
        status, text = server.refused("/values", one(text="a" * 11_000))
        assert status == 413 and "10485 bytes" in text


def test_a_full_queue_is_reported_with_when_to_retry(trained_critic: Path) -> None:
    with learning_server(load(trained_critic), max_queued=2) as server:
        server.hold()
        for number in range(2):
            assert server.send("/learn", learn(number, wait=False))[0] == 202
        for path, body in (("/learn", learn(2, wait=False)), ("/values", batch(0))):
            status, reply, headers = server.send(path, body)
            assert (status, headers["retry-after"]) == (429, "1"), reply
        server.release()
        assert server.learnt("learn-1")["step"] == 2
        assert server.send("/learn/learn-2")[0] == 404


def test_who_has_no_key_gets_nothing_but_health(trained_critic: Path) -> None:
    with learning_server(load(trained_critic), key=KEY) as server:
        assert server.post("/values", batch(0))["version"] == 0
        server.key = None
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
            for path, body in (("/values", batch(0)), ("/metrics", None), ("/version", None)):
                status, reply, sent = server.send(path, body, **headers)
                assert (status, sent["www-authenticate"]) == (401, "Bearer")
                assert KEY not in str(reply)
        assert server.send("/healthz")[0] == server.send("/health")[0] == 200


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learn", "--host", "0.0.0.0"], "--api-key-env"),
        (["--learn", "--api-key-env", "NO_SUCH_KEY"], "holds no key"),
        (["--learn", "--rollout.num_prompts", "4"], "no option --rollout.num_prompts"),
        (["--learn", "--credit.lam", "7"], "less than or equal to 1"),
        (["--learn", "--config", "missing.yaml"], "there is no recipe"),
        (["--learn", "--max-responses", "0"], "max_responses is 0"),
        (["--learn", "--max-queued", "0"], "max_queued is 0"),
        (["--checkpoints", "folder"], "--checkpoints is read with --learn only"),
        (["--credit.lam", "0.9"], "unrecognized arguments: --credit.lam 0.9"),
    ],
    ids=str,
)
def test_a_command_that_makes_no_sense_is_refused(
    arguments: list[str], message: str, trained_critic: Path, refused: Callable[..., str]
) -> None:
    assert message in refused("serve", str(trained_critic), *arguments)


def test_what_is_no_generative_critic_is_refused(
    tmp_path: Path, refused: Callable[..., str], genac: Callable[..., Answer]
) -> None:
    head = tmp_path / "head"
    head.mkdir()
    (head / "critic.json").write_text('{"kind": "discriminative", "config": {}}')
    assert "is discriminative; only a generative critic learns" in refused(
        "serve", str(head), "--learn"
    )
    assert "nowhere" in refused("serve", str(tmp_path / "nowhere"), "--learn")


def test_a_server_and_a_critic_in_process_have_the_same_defaults(trained_critic: Path) -> None:
    args = parser().parse_args([str(trained_critic), "--learn"])
    server, object_ = settings(args, []), LearningCritic.from_pretrained(trained_critic).cfg
    assert (server.credit, server.states) == (object_.credit, object_.states)
    assert server.critic.optimizer == object_.critic.optimizer
    expected = server.critic.generative.model_dump(exclude={"icc"})
    assert object_.critic.generative.model_dump(exclude={"icc"}) == expected


def test_other_settings_than_those_it_was_begun_with_are_refused(
    trained_critic: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    from genac.serving.accepted import require_settings
    from genac.serving.command import parser
    from genac.serving.learning_command import identity, settings

    options = [str(trained_critic), "--learn", "--checkpoints", str(tmp_path)]
    args = parser().parse_args(options)
    # A start that came to no critic, say because of a name that is wrong, settles nothing.
    require_settings(tmp_path, identity(args, settings(args, ["--credit.lam", "0.7"])))
    require_settings(tmp_path, identity(args, settings(args, ["--credit.lam", "0.9"])))
    (tmp_path / "step-000000").mkdir()
    (tmp_path / "step-000000/manifest.json").write_text("{}")
    require_settings(tmp_path, identity(args, settings(args, ["--credit.lam=0.9"])))
    text = refused("serve", *options, "--credit.lam", "0.8")
    assert "was begun with credit.lam 0.9, now 0.8" in text


def test_settings_are_the_critics_own_under_those_of_the_file_and_the_command(
    trained_critic: Path, tmp_path: Path
) -> None:
    from genac.serving.command import parser
    from genac.serving.learning_command import settings

    file = tmp_path / "own.yaml"
    file.write_text("credit: {lam: 0.7, gamma: 0.9}\ncritic: {generative: {num_samples: 3}}\n")
    args = parser().parse_args(
        [str(trained_critic), "--learn", "--config", str(file), "--threads", "1"]
    )
    cfg = settings(args, ["--credit.lam", "0.8", "--stages.joint.max_states", "5"])
    assert (cfg.credit.lam, cfg.credit.gamma) == (0.8, 0.9)
    generative = cfg.critic.generative
    assert (generative.prompt, generative.max_new_tokens, generative.num_samples) == (
        "compact",
        16,
        3,
    )
    assert cfg.critic.optimizer.learning_rate == 1e-3  # as it was trained
    assert (cfg.stages.joint.max_states, cfg.hardware.threads) == (5, 1)


def test_a_training_step_of_1024_responses_fits_twice() -> None:
    """128 problems, 8 responses of 1,000 tokens each with log-probabilities and a long prompt."""
    from genac.serving.guard import Outline

    response = Response(
        problem="x" * 1000,
        tokens=(151_643,) * 1000,
        prompt_tokens=(151_643,) * 300,
        logprobs=(-0.12345678901234567,) * 1000,
        group="problem-100",
        boundaries=tuple(range(0, 1000, 50)),
        reward=1.0,
    )
    one_response = response.model_dump_json().encode()
    outline, bounds = Outline(), LearningLimits().bounds(60.0)
    outline.feed(one_response, 10**9)
    assert 2 * 1024 * (len(one_response) + 1) < bounds.max_bytes
    assert 2 * 1024 * (outline.values + 1) < bounds.max_values
    assert LearningLimits().max_responses >= 2 * 1024
