"""Clients of `genac serve --learn`: the methods of a critic, over HTTP.

with Client("http://critic:8077", api_key=KEY) as critic:
    reply = critic.advantages(Responses(responses=..., id="step-0", step=0))
    critic.learn(Learn(request_id="learn-0", estimates="step-0"))
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any
from urllib.parse import quote

from genac.client.errors import ServiceError
from genac.client.exchange import (
    Answer,
    Broken,
    Call,
    Send,
    Talk,
    Wait,
    message,
    refused,
    samples,
    talk,
)
from genac.client.messages import Advantages, Learn, Learnt, Responses, SuccessRate, Values, Version

try:
    import httpx2 as http
except ImportError:  # huggingface_hub 1 brings the library under its older name
    import httpx as http

CONNECT = 10.0  # seconds until an address counts as silent


class Calls:
    """Address, key and patience; the calls of the contract."""

    def __init__(
        self, url: str, api_key: str | None = None, timeout: float = 1800.0, retries: int = 20
    ) -> None:
        """url: http://HOST:PORT of the service. timeout: seconds of a call in all, with its
        repetitions; learning from a large batch takes minutes. retries: how often a service is
        tried again that does not answer, which takes some 5 minutes; one that is only
        busy is tried until the time is up.
        """
        if not is_address(url):
            raise ValueError(f"{url!r} is no address of a service; write it as http://HOST:PORT")
        if not timeout > 0 or retries < 0:
            raise ValueError(
                f"timeout is {timeout} and retries {retries}; the first must be above 0, the "
                "second at least 0"
            )
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the api_key holds characters that a header cannot; is it the key?")
        self.url, self.timeout, self.retries = url.rstrip("/"), timeout, retries
        self._settings: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"content-type": "application/json"}
            | ({"authorization": f"Bearer {api_key}"} if api_key else {}),
        }

    def _talk(self, call: Call, read: Any) -> Talk[Any]:
        return talk(call, self.url, self.timeout, self.retries, read)

    def _values(self, request: Responses) -> Talk[Values]:
        return self._talk(Call("POST", "/values", request), message(Values))

    def _advantages(self, request: Responses) -> Talk[Advantages]:
        return self._talk(Call("POST", "/advantages", request), message(Advantages))

    def _learn(self, request: Learn) -> Talk[Learnt]:
        return self._talk(Call("POST", "/learn", request), learnt)

    def _learnt(self, request_id: str) -> Talk[Learnt | None]:
        def read(answer: Answer) -> Learnt | None:
            return None if answer.status == 404 else message(Learnt)(answer)

        return self._talk(Call("GET", f"/learn/{quote(request_id, safe='')}"), read)

    def _set_success_rate(self, request: SuccessRate) -> Talk[None]:
        return self._talk(Call("POST", "/success-rate", request), nothing)

    def _version(self) -> Talk[Version]:
        return self._talk(Call("GET", "/version"), message(Version))

    def _checkpoint(self) -> Talk[Version]:
        return self._talk(Call("POST", "/checkpoint"), message(Version))

    def _metrics(self) -> Talk[dict[str, float]]:
        return self._talk(Call("GET", "/metrics"), samples)


def is_address(url: str) -> bool:
    try:
        parts = http.URL(url)
    except http.InvalidURL:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def learnt(answer: Answer) -> Learnt:
    """ServiceError where the request could not be learnt."""
    reply: Learnt = message(Learnt)(answer)
    if reply.status == "failed":
        raise ServiceError(
            f"the request {reply.request_id!r} could not be learnt: {reply.error}; its estimates "
            "are kept, send them with a new request_id once the cause is gone"
        )
    return reply


def nothing(answer: Answer) -> None:
    if error := refused(answer):
        raise error


def arguments(send: Send) -> dict[str, Any]:
    """Of a request, as the HTTP library takes them."""
    return {
        "method": send.call.method,
        "url": send.call.path,
        "content": send.call.content,
        "timeout": http.Timeout(send.seconds, connect=min(CONNECT, send.seconds)),
    }


def answer_of(response: Any) -> Answer:
    return Answer(response.status_code, response.text, response.headers.get("retry-after"))


def broken(error: Exception) -> Broken:
    return Broken(f"{type(error).__name__} {error}".strip())


class Client(Calls):
    """The critic of a service. Threads may share it; close it, or use it in `with`.

    Every method raises ServiceError where the service cannot be reached or fails, and ValueError
    where it refuses what was sent (Gone: estimates that it keeps no longer).
    """

    def __init__(
        self, url: str, api_key: str | None = None, timeout: float = 1800.0, retries: int = 20
    ) -> None:
        super().__init__(url, api_key, timeout, retries)
        self._http = http.Client(**self._settings)

    def _run(self, steps: Talk[Any]) -> Any:
        action = next(steps)
        while True:
            try:
                action = steps.send(self._do(action))
            except StopIteration as end:
                return end.value

    def _do(self, action: Send | Wait) -> Answer | Broken | None:
        if isinstance(action, Wait):
            return time.sleep(action.seconds)
        try:
            return answer_of(self._http.request(**arguments(action)))
        except http.RequestError as error:
            return broken(error)

    def values(self, request: Responses) -> Values:
        """A value at the start of every segment."""
        return self._run(self._values(request))

    def advantages(self, request: Responses) -> Advantages:
        """Values, and the advantages that they and the rewards make."""
        return self._run(self._advantages(request))

    def learn(self, request: Learn) -> Learnt:
        """Learns from outcomes; with `wait=False` the reply is "queued", see `learnt`."""
        return self._run(self._learn(request))

    def learnt(self, request_id: str) -> Learnt | None:
        """What became of a `learn`; None of a request that the service does not know."""
        return self._run(self._learnt(request_id))

    def set_success_rate(self, request: SuccessRate) -> None:
        """What a conditioned critic's prompts say of the actor until the next `learn`."""
        self._run(self._set_success_rate(request))

    def version(self) -> Version:
        """Of the weights that answer, and what the critic is."""
        return self._run(self._version())

    def checkpoint(self) -> Version:
        """Has the service write a checkpoint; returns once it is on disk."""
        return self._run(self._checkpoint())

    def metrics(self) -> dict[str, float]:
        """The service's counters, as Prometheus reads them."""
        return self._run(self._metrics())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(Calls):
    """The same for asyncio: every method of `Client` is a coroutine."""

    def __init__(
        self, url: str, api_key: str | None = None, timeout: float = 1800.0, retries: int = 20
    ) -> None:
        super().__init__(url, api_key, timeout, retries)
        self._http = http.AsyncClient(**self._settings)

    async def _run(self, steps: Talk[Any]) -> Any:
        action = next(steps)
        while True:
            try:
                action = steps.send(await self._do(action))
            except StopIteration as end:
                return end.value

    async def _do(self, action: Send | Wait) -> Answer | Broken | None:
        if isinstance(action, Wait):
            return await asyncio.sleep(action.seconds)
        try:
            return answer_of(await self._http.request(**arguments(action)))
        except http.RequestError as error:
            return broken(error)

    async def values(self, request: Responses) -> Values:
        return await self._run(self._values(request))

    async def advantages(self, request: Responses) -> Advantages:
        return await self._run(self._advantages(request))

    async def learn(self, request: Learn) -> Learnt:
        return await self._run(self._learn(request))

    async def learnt(self, request_id: str) -> Learnt | None:
        return await self._run(self._learnt(request_id))

    async def set_success_rate(self, request: SuccessRate) -> None:
        await self._run(self._set_success_rate(request))

    async def version(self) -> Version:
        return await self._run(self._version())

    async def checkpoint(self) -> Version:
        return await self._run(self._checkpoint())

    async def metrics(self) -> dict[str, float]:
        return await self._run(self._metrics())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()
