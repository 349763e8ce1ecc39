"""genac serve CRITIC: a saved critic behind an HTTP endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from genac.hosts import in_url, is_loopback
from genac.scoring import load_scorer
from genac.serving.app import create_app
from genac.serving.options import (
    LEARNING_QUEUED,
    LEARNING_SECONDS,
    Limits,
    parser,
    require_read_only,
)


def serve(arguments: Sequence[str]) -> None:
    """Loads the critic and serves it until interrupted."""
    options = parser()
    args, keys = options.parse_known_args(list(arguments))
    queued, seconds = args.max_queued, args.timeout
    if queued is None:
        queued = LEARNING_QUEUED if args.learn else Limits().max_queued
    if seconds is None:
        seconds = LEARNING_SECONDS if args.learn else Limits().seconds
    limits = Limits(args.max_batch, args.max_characters, queued, seconds)
    if args.learn:
        from genac.serving.learning_command import serve_learning

        return serve_learning(args, keys, limits)
    require_read_only(options, args, keys)
    critic = load_scorer(
        args.critic,
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        batch_size=args.max_batch,
    )
    if not is_loopback(args.host):
        print(
            f"genac serve: {args.host} can be reached from outside and the endpoint asks nobody "
            "who they are; put it behind a proxy that does",
            file=sys.stderr,
        )
    app = create_app(critic, critic.describe(), limits, args.host, args.allow_host)
    print(f"serving {args.critic} on http://{in_url(args.host)}:{args.port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # how a server is ended
        uvicorn.run(
            app,
            host=args.host,
            port=args.port,
            log_level="warning",
            http=Impatient,
            ws="none",
        )


class Impatient(H11Protocol):
    """Closes a connection that has not sent a whole request's headers in time.

    uvicorn limits the wait for further requests of a connection, not that for the first one.
    """

    seconds = 20.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self.seconds, self._expire)

    def _expire(self) -> None:
        if self.cycle is None:
            self.transport.close()
