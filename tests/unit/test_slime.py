"""The advantage function for slime, on batches as slime 0.3.1 builds them; slime is not run."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from computed_critic import ComputedCritic
from critic_server import CriticServer

from genac.client import Gone, Learn, Learnt
from genac.integrations import slime
from genac.models.loading import load_tokenizer


@pytest.fixture
def critic() -> ComputedCritic:
    return ComputedCritic()


@pytest.fixture
def url(critic: ComputedCritic) -> Iterator[str]:
    with CriticServer(critic) as server:
        yield server.url


def arguments(folder: Path, url: str, **more: Any) -> Namespace:
    """Of slime's, those that are read; `genac` comes from --custom-config-path."""
    usual = {
        "hf_checkpoint": str(folder),
        "n_samples_per_prompt": 2,
        "rewards_normalization": False,
        "kl_coef": 0.0,
        "context_parallel_size": 1,
        "genac": {"url": url, "timeout": 10},
    }
    return Namespace(**(usual | more))


def batch(*indices: int) -> dict[str, Any]:
    """One rank's rollout_data: response i has i + 1 tokens and the reward i % 2."""
    lengths = [i + 1 for i in indices]
    return {
        "sample_indices": list(indices),
        "tokens": [
            torch.tensor([10 + i // 2, 4, *range(5, 5 + n)])
            for i, n in zip(indices, lengths, strict=True)
        ],
        "response_lengths": lengths,
        "total_lengths": [n + 2 for n in lengths],
        "rewards": [float(i % 2) for i in indices],
        "loss_masks": [torch.ones(n, dtype=torch.int) for n in lengths],
        "kl": [torch.zeros(n) for n in lengths],
    }


def test_every_token_gets_the_advantage_of_the_service_in_the_order_of_the_batch(
    tiny_folder: Path, url: str, critic: ComputedCritic
) -> None:
    data = batch(3, 0, 2, 1)
    slime.advantages(arguments(tiny_folder, url), data)
    expected = [[(i % 2) - t / (i + 1) for t in range(i + 1)] for i in (3, 0, 2, 1)]
    for stream, numbers in zip(data["advantages"], expected, strict=True):
        assert stream.dtype == torch.float32
        assert torch.allclose(stream, torch.tensor(numbers))
    assert data["returns"] is data["advantages"]


def test_groups_are_made_of_neighbours_in_slimes_index(
    tiny_folder: Path, url: str, critic: ComputedCritic
) -> None:
    slime.advantages(arguments(tiny_folder, url), batch(3, 0, 2, 1))
    (request,) = critic.requests.values()
    assert [r.group for r in request.responses] == ["0", "0", "1", "1"]
    assert [r.tokens for r in request.responses][1] == (5, 6)
    assert request.responses[2].prompt_tokens == (11, 4)


def test_a_batch_that_several_ranks_send_is_learnt_once(
    tiny_folder: Path, url: str, critic: ComputedCritic
) -> None:
    for _ in range(2):
        slime.advantages(arguments(tiny_folder, url), batch(0, 1))
    slime.advantages(arguments(tiny_folder, url), batch(2, 3))
    assert len(critic.learnt_ids) == 2


def test_a_critic_that_stays_as_it_is_keeps_no_estimates(
    tiny_folder: Path, url: str, critic: ComputedCritic
) -> None:
    slime.advantages(arguments(tiny_folder, url, genac={"url": url, "learn": False}), batch(0, 1))
    assert critic.requests == {} and critic.learnt_ids == []


def test_estimates_that_a_restarted_service_lost_are_requested_again(tiny_folder: Path) -> None:
    class Restarted(ComputedCritic):
        def learn(self, request: Learn) -> Learnt:
            if len(self.requests) == 1:
                raise Gone("not kept")
            return super().learn(request)

    critic = Restarted()
    with CriticServer(critic) as server:
        slime.advantages(arguments(tiny_folder, server.url), batch(0, 1))
    first, again = critic.requests
    assert critic.requests[first].responses == critic.requests[again].responses
    assert critic.learnt_ids == [again]


def test_a_sample_that_became_several_is_refused(tiny_folder: Path, url: str) -> None:
    data = batch(0, 1) | {"sample_indices": [1, 1]}
    with pytest.raises(ValueError, match=r"sample 1 comes more than once .* return one Sample"):
        slime.advantages(arguments(tiny_folder, url), data)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rewards_normalization": True}, "--disable-rewards-normalization"),
        ({"kl_coef": 0.1}, "--use-kl-loss"),
        ({"context_parallel_size": 2}, "cuts responses between ranks"),
        ({"genac": None}, "genac.url is missing"),
    ],
)
def test_arguments_that_would_make_advantages_wrong_are_refused(
    tiny_folder: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        slime.advantages(arguments(tiny_folder, "http://127.0.0.1:9", **more), batch(0, 1))


def test_a_reward_beyond_0_and_1_is_refused(tiny_folder: Path, url: str) -> None:
    data = batch(0, 1) | {"rewards": [0.0, 2.0]}
    with pytest.raises(ValueError, match="reward of response 1 is 2"):
        slime.advantages(arguments(tiny_folder, url), data)


def test_the_problem_is_what_the_chat_template_surrounds(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_folder))
    plain = tuple(tokenizer.encode("a+b>", add_special_tokens=False))
    assert slime.problem_text(str(tiny_folder), plain) == "a+b>"
    tokenizer.chat_template = "{% for m in messages %}+{{ m['content'] }}*{% endfor %}="
    tokenizer.save_pretrained(tmp_path)
    framed = tuple(tokenizer.encode("+a+b>*=", add_special_tokens=False))
    assert slime.problem_text(str(tmp_path), framed) == "a+b>"
    assert slime.problem_text(str(tmp_path), plain) == "a+b>"  # another form is left as it is
