"""The connection to a Tinker service. Every wait has a deadline, and its end names the remedy."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from genac.config.tinker import TinkerConfig

T = TypeVar("T")
CONNECT = 20.0  # seconds in which an address must answer
SELF_HOSTED_KEY = "tml-local"  # the SDK wants one; self-hosted servers do not read it


def sdk() -> Any:
    """The SDK's module; ValueError where it is not installed."""
    try:
        import tinker
    except ImportError as error:
        raise ValueError(
            "hardware.backend is 'tinker', whose SDK is not installed: pip install 'genac[tinker]'"
        ) from error
    return tinker


def within(seconds: float, compute: Callable[[], T], what: str) -> T:
    """The result of a call of the SDK that has no deadline of its own; TimeoutError without one.

    The call goes on in a daemon thread, which does not keep the process from ending.
    """
    results: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((compute(), None))
        except BaseException as error:  # raised again where it is waited for
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise late(what, seconds) from None
    if error is not None:
        raise error
    return result


def answer(future: Any, seconds: float, what: str) -> Any:
    """A future's result in time. Older SDKs return some clients as they are."""
    if not hasattr(future, "result"):
        return future
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        raise late(what, seconds) from None


def late(what: str, seconds: float) -> TimeoutError:
    return TimeoutError(
        f"the Tinker service did not answer {what} within {seconds:g} s; look at its status, then "
        "resume the run, or raise hardware.tinker.timeout"
    )


def has_key() -> bool:
    """Whether the SDK would find a key of the hosted service."""
    if os.environ.get("TINKER_API_KEY") or os.environ.get("TINKER_CREDENTIAL_CMD"):
        return True
    try:
        from tinker.lib.credentials import JsonCredentialStore, default_credentials_path
    except ImportError:  # an SDK that reads the variable only
        return False
    return JsonCredentialStore(default_credentials_path()).get_default_key() is not None


class Service:
    """A session at a service."""

    def __init__(self, cfg: TinkerConfig) -> None:
        """ValueError without a key, or where the address does not answer."""
        self.cfg, tinker = cfg, sdk()
        key = os.environ.get("TINKER_API_KEY")
        if cfg.url is None and not has_key():
            raise ValueError(
                "hardware.backend is 'tinker' and hardware.tinker.url is not set, so the hosted "
                "service is meant, which needs a key: set the variable TINKER_API_KEY, or "
                "hardware.tinker.url for a server of your own"
            )
        if cfg.url is not None:
            key = key or SELF_HOSTED_KEY
            os.environ.setdefault("TINKER_TELEMETRY", "0")  # such servers have no use for it
        try:
            # The SDK retries for minutes; what is down at the start is better reported at once.
            self.client, models = within(CONNECT, lambda: opened(cfg.url, key), "at all")
        except (OSError, tinker.TinkerError) as error:
            reason = f"{error!s:.200}"
            if isinstance(error, TimeoutError):
                reason = f"no answer within {CONNECT:g} s"
            raise ValueError(
                f"the Tinker service at {cfg.url or 'its hosted address'} cannot be used "
                f"({reason}); start the server, or mend hardware.tinker.url or the key"
            ) from error
        # Context length in tokens, None where the server does not tell it.
        self.models: dict[str, int | None] = {
            m.model_name: getattr(m, "max_context_length", None) for m in models
        }

    def context_of(self, base_model: str) -> int | None:
        """Context length of a model in tokens, None where the server does not tell it; ValueError
        where the server has no such model.
        """
        if base_model not in self.models:
            raise ValueError(
                f"the Tinker service at {self.cfg.url or 'its hosted address'} has no model "
                f"{base_model!r}; it has {', '.join(sorted(self.models)) or 'none'}: set "
                "hardware.tinker.base_model to one of these, the one that "
                "actor.model_name_or_path is"
            )
        return self.models[base_model]

    def create(self, make: Callable[[], Any], what: str) -> Any:
        """A client that the SDK returns or promises. TimeoutError, or ConnectionError where the
        service fails.
        """
        seconds = self.cfg.timeout
        with failures(what):
            return answer(within(seconds, make, what), seconds, what)

    def wait(self, future: Any, what: str) -> Any:
        """A future's result; errors as `create`."""
        with failures(what):
            return answer(future, self.cfg.timeout, what)


@contextlib.contextmanager
def failures(what: str) -> Iterator[None]:
    """Makes an error of the SDK, which has tried again by itself, one that names the remedy."""
    try:
        yield
    except sdk().TinkerError as error:
        raise ConnectionError(
            f"the Tinker service failed in {what} ({error!s:.300}); look at its status, then "
            "start the same command again: it resumes from the last checkpoint"
        ) from error


def opened(url: str | None, key: str | None) -> tuple[Any, list[Any]]:
    """A client of the SDK, and the models that its server has."""
    client = sdk().ServiceClient(base_url=url, api_key=key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but what every version of the SDK has
        return client, client.get_server_capabilities().supported_models


def connect(cfg: TinkerConfig) -> Service:
    """The session of this process at a service; one for all its models."""
    key = cfg.model_dump_json()
    if key not in SESSIONS:
        SESSIONS[key] = Service(cfg)
    return SESSIONS[key]


SESSIONS: dict[str, Service] = {}  # by their config
