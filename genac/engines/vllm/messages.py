"""A `Request` as vLLM's /v1/completions takes it, and its reply as a `Completion`.

Tokens go in and come out: nothing is tokenised again. Log-probabilities are those of the sampling
distribution, which servers return under --logprobs-mode processed_logprobs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genac.engines.base import Completion, Request
from genac.engines.vllm.http import NoAnswer

TOKEN_PROBS = 128  # tokens whose probabilities vLLM names at a position


def require_supported(request: Request) -> None:
    """ValueError for what vLLM cannot answer as the local engine does."""
    if request.token_prob_ids and request.top_p < 1 and request.temperature > 0:
        raise ValueError(
            f"top_p is {request.top_p} where probabilities of tokens are read: vLLM gives those "
            "after top_p, not before; set it to 1, or hardware.engine to local"
        )
    if len(set(request.token_prob_ids)) > TOKEN_PROBS:
        raise ValueError(
            f"{len(request.token_prob_ids)} tokens' probabilities are read, vLLM gives "
            f"{TOKEN_PROBS} at most; set hardware.engine to local"
        )


def body_of(request: Request, model: str, salt: str) -> dict[str, Any]:
    """The JSON of a request to `model`. `salt`: prompts share cached keys under the same one."""
    greedy = request.temperature == 0
    body = {
        "model": model,
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": 1.0 if greedy else request.top_p,
        "seed": request.seed % 2**63,
        "stop": list(request.stop),
        "stop_token_ids": list(request.stop_ids),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "add_special_tokens": False,
        "ignore_eos": True,  # a request names every token that ends it
        "logprobs": 1,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "cache_salt": salt,
    }
    if request.token_prob_ids:
        body["logprob_token_ids"] = sorted(set(request.token_prob_ids))
    return body


def completion_of(request: Request, reply: Mapping[str, Any]) -> Completion:
    """The completion of a reply. NoAnswer where it is not one, ValueError where the server cut it
    at a context shorter than the model's.
    """
    try:
        choice = reply["choices"][0]
        ids, reason = tuple(choice["token_ids"]), choice["finish_reason"]
        logprobs = np.array(choice["logprobs"]["token_logprobs"], np.float32)
        top = choice["logprobs"]["top_logprobs"]
    except (KeyError, IndexError, TypeError) as error:
        raise NoAnswer(f"a reply without {error}: {str(reply)[:300]}") from None
    if reason not in ("stop", "length") or not ids or len(logprobs) != len(ids):
        raise NoAnswer(f"a completion of {len(ids)} tokens ended by {reason!r}")
    if reason == "length" and len(ids) < request.max_new_tokens:
        require_room(request, len(request.prompt_ids) + len(ids))
    length = first_line(ids, request.line_ids)
    stopped = length is not None or reason == "stop"
    length = length or len(ids)
    return Completion(
        ids[:length],
        logprobs[:length],
        "stop" if stopped else "length",
        token_probs(request.token_prob_ids, top[:length]),
    )


def require_room(request: Request, context: int | None) -> None:
    """ValueError where a server's context, None = unknown, is shorter than the request: vLLM would
    end the completion there, in silence.
    """
    needed = len(request.prompt_ids) + request.max_new_tokens
    if context is not None and needed > context:
        raise ValueError(
            f"vLLM's server has a context of {context} tokens, but a prompt of "
            f"{len(request.prompt_ids)} + {request.max_new_tokens} new tokens = {needed}; start "
            f"it with --max-model-len {needed} or more (a run's own servers take that from "
            "hardware.vllm.args), or lower the completion limit"
        )


def token_probs(ids: Sequence[int], top: Sequence[Mapping[str, float] | None]) -> np.ndarray:
    """(T, W) probabilities of the tokens `ids` at every position."""
    if not ids:
        return np.zeros((0, 0), np.float32)
    names = [f"token_id:{i}" for i in ids]
    rows = [[math.exp((row or {}).get(name, -math.inf)) for name in names] for row in top]
    return np.array(rows, np.float32)


def first_line(ids: Sequence[int], line_ids: Sequence[int]) -> int | None:
    """The length up to the first other token that follows one of `line_ids`; None = there is none.
    vLLM knows no such end, so that a completion is cut here.
    """
    lines = set(line_ids)
    ends = (t + 1 for t in range(1, len(ids)) if ids[t - 1] in lines and ids[t] not in lines)
    return next(ends, None)


def tokens_of(reply: Mapping[str, Any]) -> int:
    """Tokens that the model read or wrote for a reply; cached ones are not read."""
    usage = reply.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    read = usage.get("prompt_tokens", 0) - (details.get("cached_tokens") or 0)
    return read + usage.get("completion_tokens", 0)
