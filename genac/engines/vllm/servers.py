"""The servers of a model: requests spread over them, and those that die started again."""

from __future__ import annotations

import contextlib
import shutil
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from genac.engines.base import Request
from genac.engines.vllm.checks import addresses
from genac.engines.vllm.http import Client, Late, NoAnswer
from genac.engines.vllm.process import Launch, ServerError, ServerProcess, start
from genac.engines.vllm.weights import Folders, load_adapter, load_weights
from genac.prefixes import partition, prefix_groups
from genac.runs.activity import counted

RESTARTS = 3  # in a row without an answer in between
T = TypeVar("T")
HEALTH = 10.0  # seconds that a server has to say that it is well

Send = Callable[[Client, Request], Any]


class Lost(ConnectionError):
    """A server behind an address was given up."""


class Servers:
    """One model, or one base under several adapters, on one or more servers.

    They are started by the first request, and end with this object or this process.
    """

    def __init__(self, launch: Launch, model: str, folder: Path | None) -> None:
        """model: what the servers start from. folder: for weights and logs; None = temporary."""
        self.launch, self.model = launch, model
        self.folders = Folders(folder)
        self.logs = folder or self.folders.root
        self.version, self.label = 0, ""  # of the weights, and what servers call them
        self.published = 0  # times that weights or adapters were, by all engines on these servers
        self.adapters: dict[str, tuple[str, Path]] = {}  # by role: name and folder
        self.context: int | None = None  # tokens of the longest sequence that all of them take
        self.clients: list[Client] = []
        self._processes: list[ServerProcess] = []
        self._finalizer = weakref.finalize(
            self, close_all, self._processes, self.clients, self.folders.root
        )

    @property
    def own(self) -> bool:
        return not self.launch.cfg.urls

    @property
    def running(self) -> bool:
        return bool(self.clients)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def ensure(self) -> bool:
        """Starts them with the current weights, or gives those to servers behind addresses that
        have others; False where all had them.
        """
        if self.clients:
            return not self.own and sum(self._on_all(self._refreshed)) > 0
        cfg = self.launch.cfg
        if self.own:
            self.context = self.launch.longest
            logs = {i: self.logs / f"{self.launch.role}-{i}.log" for i in range(cfg.replicas)}
            self._processes += start(self.launch, self.model, logs, self.folders.root)
            self.clients += [process.client for process in self._processes]
        else:
            urls = addresses(cfg, self.launch.role)
            self.clients += [Client(url, cfg.request_seconds) for url in urls]
            self.context = min(filter(None, urls.values()), default=None)
        try:
            self._on_all(lambda place: self._attempts(place, self._load_new))
        except BaseException:
            self.close()
            raise
        return True

    def close(self) -> None:
        """Ends the servers; the next request starts them again."""
        close_all(self._processes, self.clients, None)

    # --- weights -------------------------------------------------------------------------------

    def publish(self, folder: Path, version: int, label: str) -> None:
        """All weights from a folder. `label` names them and no others."""
        self.model, self.version, self.label = str(folder), version, label
        self._on_all(lambda place: self._attempts(place, self._load))
        self.folders.drop_all_but(folder)

    def publish_adapter(self, role: str, folder: Path, name: str) -> None:
        """The adapters of a role from a folder, under a name that no others had."""
        old = self.adapters.get(role)
        self.adapters[role] = (name, folder)

        def load(place: int) -> None:
            load_adapter(self.clients[place], name, folder, old and old[0])

        self._on_all(lambda place: self._attempts(place, load))
        self.folders.drop_all_but(folder)

    def _load(self, place: int, fresh: bool = False) -> None:
        """The current weights into a server; one that was just started has all but adapters."""
        client = self.clients[place]
        if self.launch.rank:
            for name, folder in self.adapters.values():
                load_adapter(client, name, folder, None if fresh else name)
        elif not fresh:
            load_weights(client, Path(self.model), self.label)

    def _load_new(self, place: int) -> None:
        self._load(place, fresh=self.own)

    def _refreshed(self, place: int) -> bool:
        """Whether a server behind an address had to get its weights again: it was restarted, or
        another engine or run uses it too.
        """
        loaded = []

        def load(place: int) -> None:
            if not self._current(place):
                loaded.append(place)
                self._load(place)

        self._attempts(place, load)
        if loaded:
            warnings.warn(
                f"{self.clients[place].url} had not the {self.launch.role}'s weights and got them "
                "again: it was restarted, or another run uses it; give every run its own",
                stacklevel=4,
            )
        return bool(loaded)

    def _attempts(self, place: int, load: Callable[[int], None]) -> None:
        """Loads weights; a server that fails at it is brought back, which loads them too."""
        try:
            load(place)
        except NoAnswer as error:
            for failures in range(1, RESTARTS + 1):
                try:
                    return self._recover(place, error, failures, stale=True)
                except NoAnswer as again:
                    error = again
            raise self._given_up(place, error) from error

    # --- requests ------------------------------------------------------------------------------

    def answers(self, requests: Sequence[Request], send: Send) -> list[Any]:
        """What `send` gets for each request, in order.

        Requests that begin alike go to one server, the longest first, so that it reads once what
        they share.
        """
        results: dict[int, Any] = {}
        with counted("sequences", len(requests)) as part:

            def counting(client: Client, request: Request) -> Any:
                answer = send(client, request)
                part.advance()
                return answer

            while waiting := [i for i in range(len(requests)) if i not in results]:
                results |= self._round({i: requests[i] for i in waiting}, counting)
        return [results[place] for place in range(len(requests))]

    def _round(self, requests: dict[int, Request], send: Send) -> dict[int, Any]:
        """The answers by request; those that were a lost server's are missing."""
        keys, rows = list(requests), list(requests.values())
        parts, results, lost = spread(rows, len(self.clients)), dict[int, Any](), dict[int, Lost]()
        pool = ThreadPoolExecutor(len(parts))
        try:
            futures = {
                place: pool.submit(self._serve, place, part, rows, send)
                for place, part in enumerate(parts)
                if part
            }
            for place, future in futures.items():
                try:
                    results |= future.result()
                except Lost as error:
                    lost[place] = error
        except (KeyboardInterrupt, SystemExit):
            self.close()  # who waits for an answer gets an error
            raise
        finally:
            pool.shutdown()
        self._leave_out(lost)
        return {keys[i]: answer for i, answer in results.items()}

    def each(self, request: Request, send: Send) -> dict[str, Any]:
        """What every server answers to one request, by its address."""

        def ask(place: int) -> tuple[str, Any]:
            return self.clients[place].url, self._serve(place, [0], [request], send)[0]

        return dict(self._on_all(ask))

    def _serve(
        self, place: int, part: Sequence[int], requests: Sequence[Request], send: Send
    ) -> dict[int, Any]:
        """The answers of one server by request; it is brought back as often as it makes headway."""
        results: dict[int, Any] = {}
        failures = 0
        while waiting := [i for i in part if i not in results]:
            done, error = self._try(place, {i: requests[i] for i in waiting}, send)
            results |= done
            if error is not None:
                failures = 1 if done else failures + 1
                if failures > RESTARTS:
                    raise self._given_up(place, error) from error
                with contextlib.suppress(NoAnswer):  # the next try counts
                    self._recover(place, error, failures)
        return results

    def _try(
        self, place: int, requests: dict[int, Request], send: Send
    ) -> tuple[dict[int, Any], NoAnswer | None]:
        """The answers that came, and why others did not."""
        client, failed = self.clients[place], list[NoAnswer]()

        def one(request: Request) -> Any:
            if not failed:
                try:
                    return send(client, request)
                except NoAnswer as error:
                    failed.append(error)
                    client.close()  # the others fail with it, and at once
            return None

        with ThreadPoolExecutor(min(self.launch.rows, len(requests))) as pool:
            answers = zip(requests, pool.map(one, requests.values()), strict=True)
            done = {i: answer for i, answer in answers if answer is not None}
        return done, failed[0] if failed else None

    # --- faults --------------------------------------------------------------------------------

    def _on_all(self, work: Callable[[int], T]) -> list[T]:
        """What it gives for each server, without those that are given up meanwhile."""
        results, lost = [], dict[int, Lost]()
        for place in range(len(self.clients)):
            try:
                results.append(work(place))
            except Lost as error:
                lost[place] = error
        self._leave_out(lost)
        return results

    def _leave_out(self, lost: dict[int, Lost]) -> None:
        """Goes on without some servers, and says so. Raises where none is left."""
        if not lost:
            return
        if len(lost) == len(self.clients):
            raise next(iter(lost.values()))
        left = [client for place, client in enumerate(self.clients) if place not in lost]
        text = "; ".join(map(str, lost.values()))
        warnings.warn(
            f"{text}. The run goes on with {len(left)} of {len(self.clients)} servers of the "
            f"{self.launch.role}",
            stacklevel=3,
        )
        self.clients[:] = left

    def _recover(self, place: int, error: NoAnswer, failures: int, stale: bool = False) -> None:
        """Brings a server back with the current weights. NoAnswer or ServerError where it fails.

        stale: it may hold old weights although it is well.
        """
        if self.own and not stale and not isinstance(error, Late) and self._healthy(place):
            return
        what = "hung" if isinstance(error, Late) else "failed"
        then = "started again" if self.own else "tried again"
        warnings.warn(
            f"vLLM's server {place} of the {self.launch.role} {what} ({error}); it is {then} with "
            f"weights {self.version}",
            stacklevel=2,
        )
        if self.own:
            process = self._processes[place]
            process.close()
            (self._processes[place],) = start(
                self.launch, self.model, {place: process.log}, self.folders.root
            )
            self.clients[place] = self._processes[place].client
            return self._load(place, fresh=True)
        time.sleep(2.0 ** (failures - 1))
        if stale or not self._healthy(place) or not self._current(place):
            self._load(place)

    def _healthy(self, place: int) -> bool:
        try:
            self.clients[place].get("/health", HEALTH)
        except (NoAnswer, ValueError):
            return False
        return True

    def _current(self, place: int) -> bool:
        """Whether a server behind an address has our weights still: it may have been restarted."""
        if self.launch.rank:
            served = self.clients[place].get("/v1/models", HEALTH)["data"]
            return {name for name, _ in self.adapters.values()} <= {row["id"] for row in served}
        info = self.clients[place].get("/weight_info", HEALTH)
        return info.get("weight_version") == self.label

    def _given_up(self, place: int, error: NoAnswer) -> Exception:
        if self.own:
            process = self._processes[place]
            return ServerError(process.problem(f"failed {RESTARTS + 1} times in a row ({error})"))
        return Lost(
            f"{self.clients[place].url} failed {RESTARTS + 1} times in a row ({error}); start that "
            "server again and resume, or take it out of hardware.vllm.urls. Its command: "
            f"{self.launch.by_hand(self.model)}"
        )


def spread(requests: Sequence[Request], servers: int) -> list[list[int]]:
    """Places of the requests by server, in the order in which they are sent."""
    prompts = [request.prompt_ids for request in requests]
    order = [member for group in prefix_groups(prompts) for member in group.members]
    if servers == 1:
        return [order]
    rank = {place: number for number, place in enumerate(order)}
    parts = partition(prompts, [request.max_new_tokens for request in requests], servers)
    return [sorted(part, key=rank.__getitem__) for part in parts]


def close_all(processes: list[ServerProcess], clients: list[Client], folder: Path | None) -> None:
    """Ends servers and connections; removes the folder of published weights."""
    for client in clients:
        client.close()
    for process in processes:
        process.close()
    processes.clear()
    clients.clear()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
