"""The vLLM engine against a server that computes: weights, caches, faults, spreading, adapters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import vllm_fake
from vllm_fake import BLOCK, VOCAB, Fake, distribution, serve

from genac.config.engines import VllmConfig
from genac.config.models import LoraConfig
from genac.engines.base import Completion, Request
from genac.engines.vllm import guardian, servers, weights
from genac.engines.vllm.checks import (
    head_size,
    require_gpus,
    require_heads,
    require_vllm,
    version_in,
)
from genac.engines.vllm.engine import VllmEngine
from genac.engines.vllm.http import NoAnswer
from genac.engines.vllm.process import Launch, ServerError
from genac.engines.vllm.sharing import shared_servers
from genac.engines.vllm.weights import Source, WeightsDiffer
from genac.hardware import chosen
from genac.runs.files import sweep
from genac.types import Sample

PROMPT = tuple(range(1, 12))
pytestmark = pytest.mark.filterwarnings("ignore:vLLM's server")


@dataclass
class Model:
    """What the learner has: the toy model's one weight, or an adapter's."""

    weight: float
    base: float = 0.0

    def export(self, folder: Path) -> None:
        name = "adapter_model" if self.base else "model"
        (folder / f"{name}.safetensors").write_text(str(self.weight))

    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        return [
            np.array([
                distribution(self.weight + self.base, list(s.ids[:t]), s.temperature)[s.ids[t]]
                if s.weights[t]
                else 0.0
                for t in range(len(s.ids))
            ])
            for s in samples
        ]  # fmt: skip


def source(model: Model, path: Path, role: str = "actor", rank: int = 0) -> Source:
    lora = LoraConfig(rank=rank)
    return Source(role, str(path), model.export, model.logprobs, lora, VOCAB, 64)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """The folder of the weights that everything starts from."""
    folder = tmp_path / "start"
    folder.mkdir()
    Model(0.5).export(folder)
    return folder


@pytest.fixture
def fakes(start: Path) -> Iterator[Callable[..., tuple[Fake, str]]]:
    """fakes(...) -> a server in this process and its address."""
    running = []

    def make(**options) -> tuple[Fake, str]:
        fake = Fake(str(start), **options)
        running.append(serve(fake))
        return fake, f"http://127.0.0.1:{running[-1].server_address[1]}"

    yield make
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter whose vLLM is the fake."""
    file = tmp_path / "python"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -S {vllm_fake.__file__} "$@"\n')
    file.chmod(0o755)
    return str(file)


def engine(
    model: Model, start: Path, folder: Path | None = None, rank: int = 0, **cfg
) -> VllmEngine:
    launch = Launch("actor", VllmConfig(**cfg), 64, 8, bf16=False, cuda=False, rank=rank)
    return VllmEngine(source(model, start, rank=rank), launch, folder)


def requests(count: int = 6) -> list[Request]:
    return [Request((*PROMPT, i), 10, seed=i, stop_ids=(3,)) for i in range(count)]


def expected(model: Model, request: Request) -> Completion:
    """What the toy model says."""
    body = {
        "prompt": request.prompt_ids,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stop_token_ids": request.stop_ids,
    }
    choice = vllm_fake.Toy().complete(model.weight + model.base, body)["choices"][0]
    logprobs = np.array(choice["logprobs"]["token_logprobs"], np.float32)
    return Completion(tuple(choice["token_ids"]), logprobs, choice["finish_reason"])


def require_answers(engine: VllmEngine, model: Model, sent: Sequence[Request]) -> None:
    for request, completion in zip(sent, engine.generate(sent), strict=True):
        right = expected(model, request)
        assert (completion.ids, completion.finish) == (right.ids, right.finish)
        np.testing.assert_allclose(completion.logprobs, right.logprobs, atol=1e-6)
        assert completion.entropies is None


# --- weights and caches ---------------------------------------------------------------------------


def test_published_weights_are_what_is_sampled_from(fakes, start):
    fake, url = fakes()
    model = Model(0.5)
    own = engine(model, start, urls=[url])
    require_answers(own, model, requests())
    for version in (1, 2):
        model.weight += 0.4
        own.publish(None, version)
        require_answers(own, model, requests())
        assert own.version == version and fake.version.endswith(f"-{version}")
    assert fake.calls.index("/pause") < fake.calls.index("/resume") and not fake.paused
    kept = [folder.name for folder in own.servers.folders.root.iterdir()]
    assert kept == ["actor-2"]


def without_belts(monkeypatch: pytest.MonkeyPatch, *, salt: bool, reset: bool) -> None:
    if not salt:
        monkeypatch.setattr(VllmEngine, "_salt", "always the same")
    if not reset:
        monkeypatch.setattr(weights, "reset_cache", lambda client: None)


@pytest.mark.parametrize(("salt", "reset"), [(True, False), (False, True)])
def test_a_new_salt_or_a_reset_alone_keeps_old_keys_out(fakes, start, monkeypatch, salt, reset):
    without_belts(monkeypatch, salt=salt, reset=reset)
    model = Model(0.5)
    own = engine(model, start, urls=[fakes()[1]])
    own.generate(requests())
    model.weight = 1.5
    own.publish(None, 1)
    require_answers(own, model, requests())


def test_a_stale_cache_is_noticed_at_the_publish(fakes, start, monkeypatch):
    without_belts(monkeypatch, salt=False, reset=False)
    model = Model(0.5)
    own = engine(model, start, urls=[fakes()[1]])
    own.generate(requests())
    model.weight = 1.5
    with pytest.raises(WeightsDiffer, match="off by"):
        own.publish(None, 1)


def test_weights_that_the_server_does_not_take_are_noticed(fakes, start, monkeypatch):
    fake, url = fakes()
    monkeypatch.setattr(fake, "collective_rpc", lambda body: (200, {"results": [None]}))
    model = Model(0.5)
    own = engine(model, start, urls=[url])
    own.generate(requests())
    model.weight = 1.5
    with pytest.raises(WeightsDiffer):
        own.publish(None, 1)


def test_weights_that_diverged_are_named(fakes, start):
    model = Model(0.5)
    own = engine(model, start, urls=[fakes()[1]])
    own.generate(requests())
    model.logprobs = lambda samples: [np.full(len(s.ids), np.nan) for s in samples]
    own.source = source(model, start)
    with pytest.raises(FloatingPointError, match="diverged"):
        own.publish(None, 1)


def test_a_cache_that_is_not_emptied_is_an_error(fakes, start, monkeypatch):
    fake, url = fakes()
    monkeypatch.setattr(fake, "reset_prefix_cache", lambda body: (200, {"success": False}))
    monkeypatch.setattr(weights, "RESETS", 2)
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    own = engine(Model(0.5), start, urls=[url])
    with pytest.raises(ConnectionError, match="did not empty its prefix cache"):
        own.generate(requests())


def test_an_empty_folder_is_never_named_to_a_server(fakes, start):
    """A real server ends for good at one."""
    fake, url = fakes()
    model = Model(0.5)
    own = engine(model, start, urls=[url])
    own.generate(requests(1))
    calls = len(fake.calls)
    own.source = replace(own.source, export=lambda folder: None)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        own.publish(None, 1)
    assert len(fake.calls) == calls


# --- requests -------------------------------------------------------------------------------------


def test_the_order_of_requests_and_the_number_of_servers_change_nothing(fakes, start):
    model, sent = Model(0.5), requests(9)
    one = engine(model, start, urls=[fakes()[1]]).generate(sent)
    three = engine(model, start, urls=[fakes()[1] for _ in range(3)])
    other = three.generate(sent[::-1])[::-1]
    assert [c.ids for c in one] == [c.ids for c in other]


def test_prompts_that_begin_alike_meet_one_server_the_longest_first(fakes, start):
    made = [fakes() for _ in range(2)]
    own = engine(Model(0.5), start, urls=[url for _, url in made])
    own.generate([Request((1, 2), 1, seed=0)])  # starts and proves
    for fake, _ in made:
        fake.prompts.clear()
    responses = [tuple((7 * r + 3 * i) % VOCAB for i in range(24)) for r in range(6)]
    states = [r[:end] for r in responses for end in range(12, 24, 2)]
    own.generate([Request(state, 1, seed=0) for state in states])
    places = [{p for p in fake.prompts if p in states} for fake, _ in made]
    for response in responses:
        parts = [len([p for p in place if response[: len(p)] == p]) for place in places]
        assert sorted(parts) == [0, 6]
    assert min(map(len, places)) == 18


def test_tokens_are_counted_without_cached_ones(fakes, start, monkeypatch):
    own = engine(Model(0.5), start, urls=[fakes()[1]])
    own.generate([Request(PROMPT, 4, seed=0)])
    assert own.processed_tokens == len(PROMPT) + 4


def test_a_counterfactual_is_read_behind_a_completion_that_fills_the_context(fakes, start):
    model, prompt = Model(0.5), tuple(range(1, 31)) * 2
    own = engine(model, start, urls=[fakes()[1]])
    ask = Request(
        prompt, 4, seed=0, temperature=0.0, token_prob_ids=(4, 9), probe=lambda ids: (3, 8)
    )
    (completion,) = own.generate([ask])
    row = distribution(0.5, [*prompt, *completion.ids[:3], 8], 0.0)
    np.testing.assert_allclose(completion.probe_probs, np.exp([row[4], row[9]]), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 60}, "exceeds the context of 64"),
        ({"prompt_ids": (VOCAB,)}, "was it encoded by another tokenizer"),
        ({"top_p": 0.9, "token_prob_ids": (3,)}, "after top_p, not before"),
        ({"token_prob_ids": tuple(range(200))}, "128 at most"),
    ],
)
def test_what_vllm_would_answer_otherwise_is_refused_before_it_is_sent(start, changes, message):
    own = engine(Model(0.5), start, urls=["http://127.0.0.1:9"])
    with pytest.raises(ValueError, match=message):
        own.generate([replace(requests(1)[0], **changes)])


def test_a_server_whose_context_is_shorter_does_not_end_completions_in_silence(
    fakes, start, monkeypatch
):
    fake, url = fakes(context=20)
    fits, longer = Request(PROMPT, 9, seed=0), Request(PROMPT, 10, seed=0)
    own = engine(Model(0.5), start, urls=[url])
    require_answers(own, Model(0.5), [fits])
    sent = len(fake.prompts)
    with pytest.raises(ValueError, match=r"context of 20 .* with --max-model-len 21 or more"):
        own.generate([fits, longer])
    assert len(fake.prompts) == sent
    silent = {"data": [{"id": "actor"}]}
    monkeypatch.setattr(fake, "v1_models", lambda body: (200, silent))
    with pytest.raises(ValueError, match=r"context of 20 .* with --max-model-len 21 or more"):
        engine(Model(0.5), start, urls=[url]).generate([longer])


def test_the_context_of_own_servers_is_what_their_arguments_say():
    def launch(*args: str) -> Launch:
        return Launch("actor", VllmConfig(args=list(args)), 64, 8, bf16=False, cuda=False)

    assert launch().longest == 65 and launch("--max_model_len=40").longest == 40
    with pytest.raises(ValueError, match="--max-model-len is 'auto'; write a plain number"):
        require_vllm(VllmConfig(args=["--max-model-len", "auto"]), ("actor",))


# --- adapters -------------------------------------------------------------------------------------


def test_actor_and_critic_are_adapters_of_one_server(fakes, start):
    fake, url = fakes()
    actor, critic = Model(0.2, base=0.5), Model(0.9, base=0.5)
    own = engine(actor, start, rank=8, urls=[url])
    other = VllmEngine(source(critic, start, "critic", rank=8), own.servers.launch, base=own)
    assert other.servers is own.servers
    require_answers(own, actor, requests())
    require_answers(other, critic, requests())
    first = set(fake.adapters)
    critic.weight = 1.3
    other.publish(None, 1)
    require_answers(other, critic, requests())
    require_answers(own, actor, requests())
    assert "/collective_rpc" not in fake.calls
    assert len(fake.adapters) == 2 and len(first & set(fake.adapters)) == 1


def test_critics_that_follow_each_other_on_the_base_of_an_actor(fakes, start):
    _, url = fakes()
    own = engine(Model(0.2, base=0.5), start, rank=8, urls=[url])
    models = [Model(0.9, base=0.5), Model(1.3, base=0.5)]
    critics = [
        VllmEngine(source(model, start, "critic", rank=8), own.servers.launch, base=own)
        for model in models
    ]
    for _ in range(2):  # each is queried again after the other one
        for critic, model in zip(critics, models, strict=True):
            require_answers(critic, model, requests())


# --- models that take turns -----------------------------------------------------------------------


def starts(folder: Path, role: str = "actor") -> int:
    """Servers of a role that were started with that folder for logs."""
    return sum(log.read_text().count("ready [") for log in folder.glob(f"{role}-*.log"))


@pytest.mark.parametrize("rank", [0, 8])
def test_models_of_a_role_take_turns_on_one_server(faulty, tmp_path, rank):
    base = 0.5 * bool(rank)
    models = [Model(0.5 - base, base=base), Model(0.9, base=base)]
    with shared_servers():
        engines = [faulty(model, rank=rank) for model in models]
        assert len({id(own.servers) for own in engines}) == 1
        for _ in range(2):
            for own, model in zip(engines, models, strict=True):
                require_answers(own, model, requests(2))
        models[0].weight += 0.7
        engines[0].publish(None, 1)
        require_answers(engines[0], models[0], requests(2))
        require_answers(engines[1], models[1], requests(2))
        assert starts(tmp_path / "run") == 1
        (guard,) = engines[0].servers.pids
    assert gone(guard, 0.1) and not engines[0].servers.running


def test_a_model_that_was_never_used_takes_no_turn(faulty, tmp_path):
    with shared_servers():
        own = faulty(Model(0.5))
        own.generate(requests(1))
        other = faulty(Model(0.9))
        require_answers(own, Model(0.5), requests(2))
        assert own.servers is other.servers and own.servers.published == 0


@pytest.mark.parametrize("changed", ["shape", "folder", "context"])
def test_servers_that_do_not_fit_the_next_model_end_before_its_first_request(
    faulty, start, tmp_path, changed
):
    with shared_servers():
        own = faulty(Model(0.5))
        own.generate(requests(1))
        (guard,) = own.servers.pids
        launch, model = own.servers.launch, Model(0.9)
        next_source, folder = source(model, start), tmp_path / "run"
        if changed == "shape":
            next_source = replace(next_source, shape="another")
        elif changed == "folder":
            folder = tmp_path / "other"
        else:
            launch = replace(launch, context=32)
        model.export(start)
        other = VllmEngine(next_source, launch, folder)
        assert gone(guard, 0.1)
        require_answers(other, model, requests(2))
        assert other.servers is not own.servers
    assert not other.servers.running


def test_models_have_servers_of_their_own_where_nobody_shares(faulty):
    engines = [faulty(model) for model in (Model(0.5), Model(0.5))]
    assert engines[0].servers is not engines[1].servers


# --- GPUs -----------------------------------------------------------------------------------------


def visible_to(servers: servers.Servers) -> list[str]:
    """Which GPUs the running server processes may use."""
    result = []
    for pid in servers.pids:
        lines = Path(f"/proc/{child(pid)}/environ").read_bytes().decode().split("\0")
        (value,) = [x.partition("=")[2] for x in lines if x.startswith("CUDA_VISIBLE_DEVICES=")]
        result.append(value)
    return result


def test_each_server_sees_a_gpu_of_its_own(python, start, tmp_path):
    launch = Launch("actor", VllmConfig(python=python, replicas=2), 64, 8, False, cuda=True)
    gpus, made = ("4", "GPU-77", "6", "2"), []
    try:
        for role in ("actor", "critic"):
            model = Model(0.5)
            made.append(
                VllmEngine(
                    source(model, start, role),
                    replace(launch, role=role, gpus=gpus),
                    tmp_path / "run",
                )
            )
            made[-1].generate(requests(4))
        assert [visible_to(own.servers) for own in made] == [["4", "GPU-77"], ["6", "2"]]
        os.killpg(child(made[0].servers.pids[1]), signal.SIGKILL)
        made[0].generate(requests(4))
        assert visible_to(made[0].servers) == ["4", "GPU-77"]
    finally:
        for own in made:
            own.servers.close()


def test_a_server_over_two_gpus_and_more_models_than_gpus():
    wide = Launch("critic", VllmConfig(args=["--tensor-parallel-size=2"]), 64, 8, False, cuda=True)
    assert replace(wide, gpus=("0", "1", "2", "3")).devices(0) == ["2", "3"]
    assert replace(wide, gpus=("0", "1")).devices(0) == ["0", "1"]
    assert wide.devices(0) == []


def test_more_servers_than_gpus_are_refused():
    require_gpus(VllmConfig(replicas=2), 2)
    require_gpus(VllmConfig(replicas=2, urls=["http://host:1"]), 0)
    with pytest.raises(ValueError, match="replicas is 3, but 2 CUDA devices are visible"):
        require_gpus(VllmConfig(replicas=3), 2)
    with pytest.raises(ValueError, match="replicas is 1 over 4 GPUs each, but 2"):
        require_gpus(VllmConfig(args=["-tp", "4"]), 2)


# --- faults ---------------------------------------------------------------------------------------


@pytest.fixture
def faulty(
    python: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., VllmEngine]]:
    """faulty(model, faults, **cfg) -> an engine whose servers have these faults, start by start."""
    made = []

    def make(model: Model, faults: Sequence[str] = (), **cfg) -> VllmEngine:
        (tmp_path / "faults").write_text("\n".join(faults))
        monkeypatch.setenv("GENAC_FAKE_FAULTS", str(tmp_path / "faults"))
        made.append(engine(model, start, tmp_path / "run", python=python, **cfg))
        return made[-1]

    yield make
    for one in made:
        one.servers.close()


def test_a_server_that_dies_is_started_again_with_the_present_weights(faulty):
    model = Model(0.5)
    own = faulty(model, ["die 11", "die 4", ""])
    require_answers(own, model, requests(4))
    model.weight = 1.5
    own.publish(None, 1)
    with pytest.warns(UserWarning, match="started again with weights 1"):
        require_answers(own, model, requests(12))


def test_one_of_two_servers_that_dies_takes_nothing_with_it(faulty):
    model = Model(0.5)
    own = faulty(model, ["", "die 5", ""], replicas=2)
    with pytest.warns(UserWarning, match="started again"):
        require_answers(own, model, requests(16))


def test_a_server_that_hangs_is_noticed_by_its_deadline(faulty):
    model = Model(0.5)
    own = faulty(model, ["hang 3", ""], request_seconds=0.5)
    with pytest.warns(UserWarning, match="hung"):
        require_answers(own, model, requests())


def test_a_server_that_dies_while_it_takes_weights_comes_back_with_them(faulty):
    model = Model(0.5)
    own = faulty(model)
    own.generate(requests())
    os.killpg(child(own.servers.pids[0]), signal.SIGKILL)
    model.weight = 1.5
    with pytest.warns(UserWarning, match="started again"):
        own.publish(None, 1)
    require_answers(own, model, requests())


def test_a_server_that_always_dies_is_given_up_with_its_log(faulty):
    own = faulty(Model(0.5), ["die 1"] * 9)
    with (
        warnings.catch_warnings(),
        pytest.raises(ServerError, match=r"failed 4 times in a row (.|\n)* ends with\nready"),
    ):
        warnings.simplefilter("ignore")
        own.generate(requests())


def test_a_server_that_cannot_start_says_why(faulty):
    own = faulty(Model(0.5), ["crash"])
    with pytest.raises(ServerError, match=r"ended with code 1(.|\n)*this model is not supported"):
        own.generate(requests())
    assert not own.servers.running


def test_a_port_that_was_taken_meanwhile_is_no_matter(faulty):
    model = Model(0.5)
    require_answers(faulty(model, ["port", ""]), model, requests(2))


def test_a_server_behind_an_address_that_dies_is_an_error_with_its_remedy(
    start, python, monkeypatch, tmp_path
):
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    command = [sys.executable, vllm_fake.__file__, "serve", str(start), "--port", "0"]
    (tmp_path / "faults").write_text("die 3")
    port = servers.start.__globals__["free_port"]()
    command[-1] = str(port)
    process = subprocess.Popen(
        [*command, "--served-model-name", "actor"],
        env={**os.environ, "GENAC_FAKE_FAULTS": str(tmp_path / "faults")},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout and process.stdout.readline()
        own = engine(Model(0.5), start, urls=[f"http://127.0.0.1:{port}"])
        with pytest.raises(ConnectionError, match="start that server again and resume") as error:
            own.generate(requests())
        assert "vllm serve" in str(error.value)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("rank", [0, 8])
def test_a_run_goes_on_without_an_address_that_was_lost(fakes, start, monkeypatch, rank):
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    made, base = [fakes() for _ in range(3)], 0.5 * bool(rank)
    model = Model(0.5 - base, base=base or 0.0) if rank else Model(0.5)
    own = engine(model, start, rank=rank, urls=[url for _, url in made])
    require_answers(own, model, requests(12))

    def lose(fake: Fake) -> None:
        monkeypatch.setattr(fake, "answer", lambda path, body: (500, {"error": "gone"}))

    lose(made[1][0])
    with pytest.warns(UserWarning, match="goes on with 2 of 3 servers of the actor"):
        require_answers(own, model, requests(12))
    model.weight += 0.4
    lose(made[0][0])
    with pytest.warns(UserWarning, match="goes on with 1 of 2 servers of the actor"):
        own.publish(None, 1)
    require_answers(own, model, requests(12))
    lose(made[2][0])
    with pytest.raises(ConnectionError, match="start that server again and resume"):
        own.generate(requests(2))


def test_an_address_that_is_lost_amid_answers_costs_none_of_them(fakes, start, monkeypatch):
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    made, model = [fakes() for _ in range(2)], Model(0.5)
    own = engine(model, start, urls=[url for _, url in made])
    own.generate(requests(2))
    monkeypatch.setattr(made[0][0], "complete", lambda body: (500, {"error": "gone"}))
    with pytest.warns(UserWarning, match="goes on with 1 of 2 servers"):
        require_answers(own, model, requests(16))


@pytest.mark.parametrize("rank", [0, 8])
def test_models_that_share_an_address_never_answer_for_each_other(fakes, start, rank):
    _, url = fakes()
    models = [Model(0.9, base=0.5 * bool(rank)), Model(1.3, base=0.5 * bool(rank))]
    engines = [engine(model, start, rank=rank, urls=[url]) for model in models]
    for own in engines:
        own.publish(None, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            for own, model in zip(engines, models, strict=True):
                require_answers(own, model, requests())
    shared = [w for w in caught if "another run uses it" in str(w.message)]
    assert len(shared) == (0 if rank else 2)  # adapters have names of their own


def test_a_server_that_was_restarted_between_calls_gets_the_weights_again(fakes, start):
    fake, url = fakes()
    model = Model(0.5)
    own = engine(model, start, urls=[url])
    model.weight = 1.5
    own.publish(None, 1)
    require_answers(own, model, requests(2))
    fake.weights, fake.version = 0.5, "default"
    fake.cache.clear()
    with pytest.warns(UserWarning, match="it was restarted, or another run"):
        require_answers(own, model, requests())


def test_a_server_that_was_restarted_elsewhere_gets_the_weights_again(fakes, start, monkeypatch):
    fake, url = fakes()
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    model = Model(0.5)
    own = engine(model, start, urls=[url])
    own.generate(requests(2))
    model.weight = 1.5
    own.publish(None, 1)
    plain, failed = fake.complete, []

    def restarted(body: dict) -> tuple[int, object]:
        if not failed:
            failed.append(True)
            fake.weights, fake.version = 0.5, "default"
            fake.cache.clear()
            return 500, {"error": "EngineDeadError"}
        return plain(body)

    monkeypatch.setattr(fake, "complete", restarted)
    require_answers(own, model, requests(1))


# --- nothing is left behind -----------------------------------------------------------------------


def child(pid: int) -> int:
    """The only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_servers_and_weights_end_with_the_engine(faulty, tmp_path):
    model = Model(0.5)
    own = faulty(model)
    own.generate(requests(1))
    own.publish(None, 1)
    pids = [own.servers.pids[0], child(own.servers.pids[0])]
    own.servers._finalizer()
    assert all(gone(pid, 0.1) for pid in pids)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["actor-0.log"]


@pytest.mark.parametrize("killed", [False, True])
def test_no_shared_memory_is_left(faulty, monkeypatch, tmp_path, killed):
    file = Path("/dev/shm", f"genac-{os.getpid()}-{killed}")
    monkeypatch.setenv("GENAC_FAKE_SHARED", str(file))
    monkeypatch.setattr(servers, "RESTARTS", 0)
    own = faulty(Model(0.5))
    own.generate(requests(1))
    assert file.exists()
    if killed:
        time.sleep(guardian.LOOK + 1)
        os.kill(child(own.servers.pids[0]), signal.SIGKILL)
    own.servers.close()
    assert not file.exists()


def test_servers_and_weights_end_with_a_controller_that_is_killed(start, python, tmp_path):
    read, write = os.pipe()
    controller = os.fork()
    if not controller:  # a process that is killed, without the seconds that importing takes
        own = engine(Model(0.5), start, tmp_path / "run", python=python)
        own.generate(requests(1))
        own.publish(None, 1)
        os.write(write, str(own.servers.pids[0]).encode())
        time.sleep(60)
        os._exit(0)
    try:
        watch = int(os.read(read, 100))
        server = child(watch)
    finally:
        os.kill(controller, signal.SIGKILL)
        os.waitpid(controller, 0)
        os.close(read)
        os.close(write)
    assert gone(server) and gone(watch)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["actor-0.log"]


def test_weights_of_a_killed_run_are_swept_where_no_server_of_its_own_did(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from genac.engines.vllm.weights import Folders"
    )
    code += "; (Folders(Path(sys.argv[1])).root / 'actor-0').mkdir(); os.kill(os.getpid(), 9)"
    folder = tmp_path / "run" / "engines"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert len(list(folder.glob("*/actor-0"))) == 1
    with subprocess.Popen(["sleep", "60"]) as other:
        used = folder / f".weights-x.{other.pid}.tmp"
        used.mkdir()
        sweep(tmp_path / "run")
        assert list(folder.iterdir()) == [used]
        other.kill()


def test_a_server_ends_with_its_guardian(faulty):
    own = faulty(Model(0.5))
    own.generate(requests(1))
    watch = own.servers.pids[0]
    server = child(watch)
    os.kill(watch, signal.SIGKILL)
    assert gone(server)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "message"),
    [("0.21.3", "supported is 0.32 up to"), ("0.34.0", "without, 0.34"), ("", "has no vLLM")],
)
def test_a_version_that_was_never_run_is_refused(python, monkeypatch, version, message):
    version_in.cache_clear()
    monkeypatch.setenv("GENAC_FAKE_VERSION", version)
    with pytest.raises(ValueError, match=message):
        require_vllm(VllmConfig(python=python), ("actor",))


@pytest.mark.parametrize("version", ["0.32.0+cpu", "0.33.1"])
def test_versions_that_are_supported(python, monkeypatch, version):
    version_in.cache_clear()
    monkeypatch.setenv("GENAC_FAKE_VERSION", version)
    require_vllm(VllmConfig(python=python), ("actor",))


def test_what_is_no_interpreter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not run as a Python interpreter"):
        require_vllm(VllmConfig(python=str(tmp_path / "nothing")), ("actor",))


def test_this_interpreter_is_examined_where_none_is_named():
    version_in.cache_clear()
    with pytest.raises(ValueError, match="make vllm-env"):
        require_vllm(VllmConfig(), ("actor",))


def test_addresses_are_looked_at_before_a_model_is_loaded(fakes, monkeypatch):
    fake, url = fakes()
    require_vllm(VllmConfig(urls=[url]), ("actor",))
    with pytest.raises(ValueError, match="serves 'critic'"):
        require_vllm(VllmConfig(urls=[url]), ("actor", "critic"))
    monkeypatch.setattr(fake, "is_paused", fake.unknown)
    with pytest.raises(ValueError, match="VLLM_SERVER_DEV_MODE=1"):
        require_vllm(VllmConfig(urls=[url]), ("actor",))
    with pytest.raises(ValueError, match="does not answer"):
        require_vllm(VllmConfig(urls=["http://127.0.0.1:9"]), ("actor",))
    with pytest.raises(ValueError, match="no address"):
        VllmConfig(urls=["localhost:8000"])


@pytest.mark.parametrize(
    "argument",
    ["--port=8000", "--served_model_name", "--dtype", "--kv_cache_dtype=fp8", "-q", "--config"],
)
def test_arguments_that_a_run_depends_on_are_refused(argument):
    with pytest.raises(ValueError, match="changes what the run itself decides"):
        VllmConfig(args=["--max-num-seqs", "8", argument, "x"])


def test_heads_that_vllm_does_not_know_are_refused():
    require_heads(head_size(SimpleNamespace(head_dim=64)))
    with pytest.raises(ValueError, match="heads have 16 dimensions"):
        require_heads(head_size(SimpleNamespace(hidden_size=64, num_attention_heads=4)))


def test_auto_is_local_on_cpu_and_vllm_where_a_gpu_and_a_server_can_be_had():
    named, bare = VllmConfig(urls=["http://host:1"]), VllmConfig()
    assert [chosen("auto", cfg, cuda) for cfg in (named, bare) for cuda in (True, False)] == [
        "vllm", "local", "local", "local",
    ]  # fmt: skip
    assert chosen("vllm", bare, False) == "vllm" and chosen("local", named, True) == "local"


def test_answers_that_are_none_are_failures(fakes, start, monkeypatch):
    fake, url = fakes()
    own = engine(Model(0.5), start, urls=[url])
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(fake, "complete", lambda body: (200, {"choices": []}))
    with pytest.raises(ConnectionError) as error:
        own.generate(requests(1))
    assert isinstance(error.value.__cause__, NoAnswer) and BLOCK
