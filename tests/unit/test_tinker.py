"""Models at a Tinker service, against a server in this process that computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tinker_server import TinkerServer

from genac.config.models import LoraConfig, LossConfig, OptimizerConfig
from genac.config.tinker import TinkerConfig, TinkerPrices
from genac.distributed.tinker.account import Account, Ledger
from genac.distributed.tinker.build import TinkerRuntime, build
from genac.distributed.tinker.learner import TinkerLearner
from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.learner import Learner, Totals
from genac.models.loading import load_model
from genac.models.lora import adapters, attach
from genac.runtime import ModelSpec
from genac.types import Sample, ScoreTarget

RANK = 4
OPTIMIZER = OptimizerConfig(learning_rate=3e-4, max_grad_norm=0.5)


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[tuple[TinkerServer, str]]:
    fake = TinkerServer(tiny_folder)
    with fake as url:
        yield fake, url


@pytest.fixture(scope="module")
def averaging(tiny_folder: Path) -> Iterator[tuple[TinkerServer, str]]:
    """A server that averages, as SkyRL's does."""
    fake = TinkerServer(tiny_folder, sums=False)
    with fake as url:
        yield fake, url


def runtime_at(url: str, path: Any, loss: LossConfig | None = None, **tinker: Any) -> TinkerRuntime:
    spec = ModelSpec("actor", str(path), OPTIMIZER, loss, lora=LoraConfig(rank=RANK), seed=3)
    return build(spec, TinkerConfig(url=url, timeout=60, **tinker))


def local_learner(folder: Path, seed: int, loss: LossConfig | None, clip: float) -> Learner:
    """The same adapters here. Weight decay and moments are those of the service's AdamW."""
    model = attach(load_model(str(folder)), LoraConfig(rank=RANK), seed)
    return Learner(model, OPTIMIZER.model_copy(update={"max_grad_norm": clip}), loss)


def samples_of(kind: str, exact: bool = False, reference: bool = False) -> list[Sample]:
    rng, result = np.random.default_rng(5), []
    for length in (5, 9, 7, 12):
        weights = (rng.random(length) < 0.7).astype(np.float32)
        weights[-1] = 1.0
        stream = lambda scale: (scale * rng.standard_normal(length)).astype(np.float32)  # noqa: E731, B023
        scores: tuple[ScoreTarget, ...] = ()
        if exact:
            weights[-2:] = 0.0
            weights[2] = 0.5
            rewards = tuple(float(r) for r in rng.random(5))
            scores = (ScoreTarget(length - 2, (3, 4, 5, 6, 7), rewards, 0.1),)
        policy = kind != "sft"
        result.append(
            Sample(
                ids=tuple(int(i) for i in rng.integers(1, 30, length)),
                weights=weights,
                loss=kind,
                advantages=stream(1.0) if policy else None,
                old_logprobs=stream(0.1) - np.float32(3.5) if policy else None,
                ref_logprobs=stream(0.1) - np.float32(3.4) if reference else None,
                scores=scores,
            )
        )
    return result


LOSS_CASES = {
    "sft": (samples_of("sft"), LossConfig()),
    "clipped policy": (samples_of("policy"), LossConfig(epsilon_high=0.3)),
    "dual clip, mean over sequences": (
        samples_of("policy"),
        LossConfig(dual_clip=3.0, loss_type="sequence"),
    ),
    "KL": (samples_of("policy", reference=True), LossConfig(beta=0.2)),
    "exact score": (samples_of("score", exact=True), LossConfig()),
}


def two_equal_steps(
    fake: TinkerServer, runtime: TinkerRuntime, folder: Path, case: str, clip: float
) -> tuple[Totals, Totals]:
    """Weights and mean gradients at the service must equal those of our own learner after every
    step; the metrics of both.
    """
    samples, loss = LOSS_CASES[case]
    own = local_learner(folder, runtime.adapter.seed, loss, clip)
    result = expected = Totals()
    for step in range(2):
        expected = own.learn(samples, step)
        result = runtime.learner.learn(samples, step)
        there = fake.models[runtime.adapter.client.model_id]
        for one, other in zip(there.parameters, own.parameters, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
            mean, own_mean = (
                o.state[p]["exp_avg"] for o, p in ((there.optimizer, one), (own.optimizer, other))
            )
            torch.testing.assert_close(mean, own_mean, atol=1e-6, rtol=0)
    return result, expected


@pytest.mark.parametrize("case", LOSS_CASES)
def test_weights_after_two_steps_equal_those_of_our_own_learner(server, tiny_folder, case):
    fake, url = server
    runtime = runtime_at(url, tiny_folder, LOSS_CASES[case][1])
    result, expected = two_equal_steps(fake, runtime, tiny_folder, case, clip=0.5)
    for name, value in expected.items():
        if name != "entropy":  # which no service reports
            assert result[name] == pytest.approx(value, abs=1e-4), name
    assert set(expected) - set(result) <= {"entropy"}


@pytest.mark.parametrize("case", [c for c in LOSS_CASES if c != "exact score"])
def test_a_server_that_averages_and_takes_no_custom_loss_gets_the_same_gradient(
    averaging, tiny_folder, case
):
    fake, url = averaging
    runtime = runtime_at(url, tiny_folder, LOSS_CASES[case][1], dialect="skyrl")
    two_equal_steps(fake, runtime, tiny_folder, case, clip=1e9)


def test_the_service_gets_our_epsilon_and_our_schedule(server, tiny_folder):
    fake, url = server
    runtime = runtime_at(url, tiny_folder)
    runtime.learner.cfg = OPTIMIZER.model_copy(update={"warmup_steps": 2})
    for step in range(2):
        runtime.learner.learn(samples_of("sft"), step)
    first, second = fake.adam[-2:]
    assert first["eps"] == second["eps"] == 1e-8
    assert first["learning_rate"] == 0.5 * second["learning_rate"] == 1.5e-4


def test_a_loss_that_is_not_finite_changes_no_weight(server, tiny_folder):
    fake, url = server
    runtime = runtime_at(url, tiny_folder)
    bad = samples_of("policy")
    bad[1].advantages[:] = np.inf  # pyright: ignore
    before = {n: p.clone() for n, p in adapters(trained(fake, runtime)).items()}
    with pytest.raises(FloatingPointError, match="no weight was changed"):
        runtime.learner.learn(bad, 0)
    for name, value in adapters(trained(fake, runtime)).items():
        assert torch.equal(value, before[name])


def trained(fake: TinkerServer, runtime: TinkerRuntime) -> Any:
    return fake.models[runtime.adapter.client.model_id].model


def requests_of(count: int = 4, watched: tuple[int, ...] = ()) -> list[Request]:
    return [
        Request((5 + i, 6, 7), 8, seed=100 + i, stop_ids=(1,), token_prob_ids=watched)
        for i in range(count)
    ]


def test_completions_and_named_probabilities_equal_those_of_the_local_engine(server, tiny_folder):
    fake, url = server
    runtime = runtime_at(url, tiny_folder)
    runtime.learner.learn(samples_of("sft"), 0)
    runtime.publish(1)
    probe = lambda ids: (0, 9)  # noqa: E731
    requests = [replace(r, probe=probe) for r in requests_of(watched=(3, 4, 5))]
    own = LocalEngine(trained(fake, runtime), 64, tokenizer=runtime.tokenizer)
    for result, expected in zip(
        runtime.sampler.generate(requests), own.generate(requests), strict=True
    ):
        assert result.ids == expected.ids and result.finish == expected.finish
        np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-5)
        np.testing.assert_allclose(result.token_probs, expected.token_probs, atol=1e-5)
        np.testing.assert_allclose(result.probe_probs, expected.probe_probs, atol=1e-5)


def test_a_completion_depends_on_no_other_request(server, tiny_folder):
    runtime = runtime_at(server[1], tiny_folder)
    requests = requests_of()
    alone = [runtime.sampler.generate([r])[0].ids for r in requests]
    backwards = [c.ids for c in runtime.sampler.generate(requests[::-1])]
    assert alone == backwards[::-1]


def test_what_a_server_writes_behind_a_stop_is_cut_off(server, tiny_folder):
    runtime = runtime_at(server[1], tiny_folder)
    (whole,) = runtime.sampler.generate([replace(requests_of(1)[0], stop_ids=())])
    engine = runtime.sampler
    request = replace(requests_of(1)[0], stop_ids=(), line_ids=(whole.ids[2],))
    (cut,) = engine.generate([request])
    assert cut.ids == whole.ids[: len(cut.ids)] and cut.finish == "stop"
    assert cut.ids[-2] == whole.ids[2] and len(cut.ids) < len(whole.ids)


def test_logprobs_are_those_of_the_sampler(server, tiny_folder):
    runtime = runtime_at(server[1], tiny_folder)
    runtime.learner.learn(samples_of("sft"), 0)
    runtime.publish(1)
    (completion,) = runtime.sampler.generate(requests_of(1))
    ids = (*requests_of(1)[0].prompt_ids, *completion.ids)
    weights = np.r_[np.zeros(3), np.ones(len(completion.ids))].astype(np.float32)
    (row,) = runtime.learner.logprobs([Sample(ids=ids, weights=weights, loss="policy")])
    np.testing.assert_allclose(row[3:], completion.logprobs, atol=1e-5)
    assert not row[:3].any()


def test_a_publish_is_seen_by_the_probe_and_only_then(server, tiny_folder):
    runtime = runtime_at(server[1], tiny_folder)
    before = runtime.probe((5, 6, 7))
    runtime.learner.learn(samples_of("sft"), 0)
    np.testing.assert_array_equal(runtime.probe((5, 6, 7)), before)
    runtime.publish(1)
    assert abs(runtime.probe((5, 6, 7)) - before).max() > 1e-4
    assert runtime.version == runtime.sampler.version == 1


def test_older_weights_are_not_requested_of_a_server_without_snapshots(averaging, tiny_folder):
    fake, url = averaging
    runtime = runtime_at(url, tiny_folder, dialect="skyrl")
    assert np.isfinite(runtime.probe((5, 6, 7))).all()
    runtime.learner.learn(samples_of("sft"), 0)
    before = fake.calls.count("asample")
    assert np.isnan(runtime.probe((5, 6, 7))).all()
    with pytest.raises(AssertionError, match="publish what was trained"):
        runtime.sampler.generate(requests_of(1))
    assert fake.calls.count("asample") == before
    runtime.publish(1)
    assert np.isfinite(runtime.probe((5, 6, 7))).all()


def test_saved_and_restored_training_goes_on_as_if_uninterrupted(server, tiny_folder, tmp_path):
    fake, url = server
    one, other = runtime_at(url, tiny_folder), runtime_at(url, tiny_folder)
    samples = samples_of("policy")
    one.learner.learn(samples, 0)
    one.save_model(tmp_path / "actor")
    one.learner.save(tmp_path / "state")
    assert fake.calls.count("save_weights") == 1, "weights and moments are saved once, together"
    one.learner.learn(samples, 1)
    other.load_weights(tmp_path / "actor")
    other.learner.load(tmp_path / "state")
    other.learner.learn(samples, 1)
    assert other.learner.steps == one.learner.steps == 2
    here, there = adapters(trained(fake, one)), adapters(trained(fake, other))
    assert all(torch.equal(here[name], there[name]) for name in here)
    # A folder is where another stage starts: the same weights, no moments.
    third = runtime_at(url, tmp_path / "actor")
    assert third.fingerprint() == f"{tiny_folder}@{third.adapter.path}"
    assert third.learner.steps == 0 and third.adapter.rank == RANK


def test_a_service_that_fails_is_named_with_the_remedy(tiny_folder):
    fake = TinkerServer(tiny_folder)
    with fake as url:
        runtime = runtime_at(url, tiny_folder)
        fake.steps_left = 0
        with pytest.raises(
            ConnectionError, match=r"failed in a training request of the actor.*res"
        ):
            runtime.learner.learn(samples_of("sft"), 0)


def test_an_untrained_actor_costs_no_adapters(server, tiny_folder):
    fake, url = server
    before = fake.calls.count("create_model")
    runtime = runtime_at(url, tiny_folder)
    runtime.sampler.generate(requests_of(1))
    runtime.publish(1)
    assert fake.calls.count("create_model") == before


def test_tokens_are_counted_by_kind(server, tiny_folder):
    runtime = runtime_at(server[1], tiny_folder)
    samples = samples_of("sft")
    runtime.learner.learn(samples, 0)
    (completion,) = runtime.sampler.generate(requests_of(1))
    tokens = sum(len(s.ids) - 1 for s in samples)
    assert isinstance(runtime.learner, TinkerLearner)
    account = runtime.learner.account
    assert (account.trained, account.forwarded) == (tokens, tokens)
    assert (account.prefilled, account.sampled) == (3, len(completion.ids))
    assert runtime.processed_tokens == 2 * tokens + 3 + len(completion.ids)


def test_a_bill_needs_every_price_that_it_uses():
    ledger = Ledger()
    ledger.open("actor").sampled = 7
    mark = ledger.mark()
    account = ledger.open("critic")
    account.prefilled, account.cached, account.trained = 3_000_000, 1_000_000, 500_000
    assert ledger.since(mark, TinkerPrices(prefill=1.0))["cost"] is None
    whole = ledger.since(mark, TinkerPrices(prefill=1.0, cached=0.1, train=4.0))
    assert whole["cost"] == pytest.approx(2 * 1.0 + 0.1 + 0.5 * 4.0)
    assert whole["critic"]["trained"] == 500_000 and "actor" not in whole
    assert Account().cost(TinkerPrices()) == 0.0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [((5,) * 3000, "exceeds the context of"), ((), "empty"), ((10**6,), "another tokenizer")],
)
def test_what_cannot_be_continued_is_refused_before_it_is_sent(
    server, tiny_folder, prompt, message
):
    runtime = runtime_at(server[1], tiny_folder)
    with pytest.raises(ValueError, match=message):
        runtime.sampler.generate([Request(prompt, 4, seed=0)])
