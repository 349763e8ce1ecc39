"""The client and the server of a learning critic: over HTTP it is what it is in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from learning_server import learning_server
from service import Start, equal, micro_start, one_step, weights

from genac.client import (
    AsyncClient,
    Client,
    Gone,
    Learn,
    Responses,
    SuccessRate,
)


@pytest.fixture(scope="module")
def start(stages: Path) -> Start:
    return micro_start(stages, steps=2)


def test_a_trainer_need_not_know_where_its_critic_is(start: Start, tmp_path: Path) -> None:
    own, served = start.load(), start.load(folder=tmp_path / "folder")
    responses = Responses(responses=start.steps[0], step=0, rationales=True)
    with (
        learning_server(served, key="secret") as server,
        Client(server.address, api_key="secret", timeout=60) as client,
    ):
        assert client.values(responses) == own.values(responses)
        for step in range(2):
            assert one_step(client, start.steps[step], step) == one_step(
                own, start.steps[step], step
            )
        client.set_success_rate(SuccessRate(rate=0.5))
        own.set_success_rate(SuccessRate(rate=0.5))
        assert client.advantages(responses) == own.advantages(responses)
        odd = Learn(request_id="run/1?learn", responses=start.steps[0], wait=False)
        assert client.learn(odd).status == "queued"
        assert client.learn(odd.model_copy(update={"wait": True})).step == 3
        assert client.learnt("run/1?learn") == served.learnt("run/1?learn")
        assert client.learnt("other") is None
        assert client.version().version == client.checkpoint().step == 3
        assert client.metrics()["genac_learnt_total"] == 3
        with pytest.raises(Gone, match="estimates 'none' are not kept"):
            client.learn(Learn(request_id="x", estimates="none"))
        with pytest.raises(ValueError, match=r"refused the request \(401\)"):
            Client(server.address, api_key="other").version()
    own.learn(odd)
    assert equal(weights(own, tmp_path / "a"), weights(served, tmp_path / "b"))
    assert (tmp_path / "folder/step-000003").is_dir()


def test_requests_at_the_same_time_get_each_its_own_reply(start: Start) -> None:
    critic = start.load()
    parts = [start.steps[0][4 * i : 4 * i + 4] for i in range(4)]
    requests = [Responses(responses=part, step=0) for part in parts]
    expected = [critic.values(request) for request in requests]

    async def ask(url: str) -> list[object]:
        async with AsyncClient(url, timeout=60) as client:
            return await asyncio.gather(*map(client.values, requests))

    with learning_server(critic, max_queued=2) as server:  # so that some have to retry
        assert asyncio.run(ask(server.address)) == expected
