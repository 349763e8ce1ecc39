"""The contract with vLLM: replies that a real server gave (tests/support/vllm_record.py), against
what we send, what we read, and what the local engine computes from the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import cut, engine_of, forward_logprobs
from transformers import AutoModelForCausalLM
from vllm_record import FILE, REQUESTS, adapters, tiny

from genac.engines.base import Completion, Request
from genac.engines.vllm.http import NoAnswer, answer
from genac.engines.vllm.messages import body_of, completion_of, first_line, tokens_of
from genac.models.loading import load_tokenizer

ROWS = {row["name"]: row for row in json.loads(FILE.read_text())}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny(folder / "first", 0)
    tiny(folder / "second", 1)
    return folder


def model_of(place: Path, name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(place / name).eval()


def reply_of(name: str, request: str | None = None) -> tuple[Request, Completion]:
    request_ = REQUESTS[request or name]
    return request_, completion_of(request_, ROWS[name]["reply"])


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_sent_is_what_the_server_receives(name):
    assert body_of(REQUESTS[name], "actor", "salt-0") == ROWS[name]["body"]


def test_greedy_tokens_are_the_local_engine_s(place):
    request, completion = reply_of("greedy")
    (local,) = engine_of(model_of(place, "first"), 128).generate([request])
    assert (completion.ids, completion.finish) == (local.ids, local.finish)
    np.testing.assert_allclose(completion.logprobs, local.logprobs, atol=2e-5)
    np.testing.assert_allclose(completion.token_probs, local.token_probs, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "request_", "weights"),
    [(name, name, "first") for name in REQUESTS] + [("published", "warm", "second")],
)
def test_logprobs_are_of_the_distribution_that_was_drawn_from(place, name, request_, weights):
    request, completion = reply_of(name, request_)
    logp_TV = forward_logprobs(
        model_of(place, weights), request.prompt_ids, completion.ids, request.temperature
    )
    names = list(request.token_prob_ids)
    if names:
        np.testing.assert_allclose(completion.token_probs, np.exp(logp_TV[:, names]), atol=1e-5)
    if request.top_p < 1:
        logp_TV = cut(logp_TV, request.top_p)
    expected = logp_TV[np.arange(len(completion.ids)), list(completion.ids)]
    np.testing.assert_allclose(completion.logprobs, expected, atol=5e-5)


def test_an_adapter_is_what_the_adapted_model_says(place):
    request, completion = reply_of("adapted", "warm")
    model = adapters(place / "adapter", place / "second")
    ids = torch.tensor([request.prompt_ids + completion.ids])
    with torch.no_grad():
        logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1] / request.temperature
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.ids)[:, None])
    np.testing.assert_allclose(completion.logprobs, expected[:, 0].numpy(), atol=5e-5)
    _, base = reply_of("published", "warm")
    assert base.ids != completion.ids


def test_a_seed_gives_the_same_tokens_again():
    assert ROWS["plain"]["reply"]["choices"][0]["token_ids"] == list(
        reply_of("again", "plain")[1].ids
    )


def test_what_ended_a_completion_is_part_of_it(place):
    _, by_string = reply_of("stop string")
    assert by_string.finish == "stop"
    text = load_tokenizer(str(place / "first")).decode(list(by_string.ids))
    assert any(string in text for string in REQUESTS["stop string"].stop)
    request, by_id = reply_of("stop id")
    if by_id.finish == "stop":
        assert by_id.ids[-1] in request.stop_ids
    assert not set(by_id.ids[:-1]) & set(request.stop_ids)


def test_a_completion_is_cut_where_its_line_ends(place):
    request, completion = reply_of("line")
    whole = ROWS["line"]["reply"]["choices"][0]["token_ids"]
    assert completion.ids == tuple(whole[: len(completion.ids)]) and completion.finish == "stop"
    assert len(completion.ids) < len(whole)
    assert completion.ids[-2] in request.line_ids and completion.ids[-1] not in request.line_ids
    assert len(completion.logprobs) == len(completion.ids)
    assert first_line((3, 4, 9), (3, 4)) == 3 and first_line((9, 9, 3), (3,)) is None


def test_cached_tokens_are_not_counted_as_read():
    first, again = ROWS["plain"]["reply"], ROWS["again"]["reply"]
    assert tokens_of(first) == 40 + 12
    assert tokens_of(again) == 40 - 32 + 12  # a block of 32 is shared


def test_the_server_s_other_answers_are_as_the_engine_reads_them():
    assert ROWS["/health"]["reply"] is None
    assert [row["id"] for row in ROWS["/v1/models"]["reply"]["data"]] == ["actor"]
    assert ROWS["/is_paused"]["reply"] == {"is_paused": False}
    assert ROWS["stale"]["reply"] == {"is_paused": True}
    assert ROWS["reset"]["reply"] == {"success": True}
    assert ROWS["new version"]["reply"] == {"weight_version": "7"}
    for name in ("reload", "resume", "load adapter", "unload adapter"):
        assert ROWS[name]["error"] is None
    for name in ("too long", "load twice", "unload twice"):
        assert ROWS[name]["error"].startswith(("the request (400)", "the request (404)"))


def test_refusals_are_the_user_s_and_failures_the_server_s():
    with pytest.raises(ValueError, match="refused the request"):
        answer("http://host/v1", 400, b'{"error": {"message": "too long"}}')
    with pytest.raises(NoAnswer, match="failed"):
        answer("http://host/v1", 500, b"EngineDeadError")


@pytest.mark.parametrize(
    "change",
    [{"finish_reason": "abort"}, {"token_ids": []}, {"logprobs": None}],
)
def test_a_reply_that_is_no_completion_is_no_answer(change):
    reply = json.loads(json.dumps(ROWS["plain"]["reply"]))
    reply["choices"][0] |= change
    with pytest.raises(NoAnswer):
        completion_of(REQUESTS["plain"], reply)
