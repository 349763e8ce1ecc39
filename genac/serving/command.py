"""genac serve CRITIC: a saved critic behind an HTTP endpoint."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from genac.hosts import in_url, is_loopback
from genac.scoring import load_scorer
from genac.serving.app import Limits, create_app


def serve(arguments: Sequence[str]) -> None:
    """Loads the critic and serves it until interrupted."""
    args = parser().parse_args(list(arguments))
    limits = Limits(args.max_batch, args.max_characters, args.max_queued, args.timeout)
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


def parser() -> argparse.ArgumentParser:
    usual = Limits()
    p = argparse.ArgumentParser(prog="genac serve")
    p.add_argument("critic", help="a critic's folder or its name on the hub")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on")
    p.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="further name that clients or a proxy call the server by (may be repeated)",
    )
    p.add_argument("--port", type=int, default=8077)
    p.add_argument("--max-batch", type=int, default=usual.max_batch, help="items x rationales")
    p.add_argument("--max-characters", type=int, default=usual.max_characters, help="per item")
    p.add_argument("--max-queued", type=int, default=usual.max_queued, help="waiting requests")
    p.add_argument("--timeout", type=float, default=usual.seconds, help="seconds per request")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    p.add_argument("--threads", type=int, default=0, help="CPU threads, 0 = all")
    return p
