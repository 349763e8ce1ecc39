"""The options of `genac serve`, and the limits of what a client may ask for; without torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from genac.config.parser import Parser

MESSAGES = 1024  # chat messages of all items of a request
LEARNING_QUEUED, LEARNING_SECONDS = 128, 600.0
LEARNING = (  # options that are read with --learn only
    "checkpoints",
    "save_every",
    "actor_tokenizer",
    "actor_size",
    "config",
    "api_key_env",
    "max_megabytes",
    "max_responses",
)


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and how much may wait."""

    # items x rationales of a request, and rationales side by side in the engine
    max_batch: int = 64
    max_characters: int = 20_000  # of problem + partial response of one item
    max_queued: int = 32  # requests that wait; the next one gets 429
    seconds: float = 60.0  # from arrival to answer; then 504

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")

    @property
    def max_bytes(self) -> int:
        """Of a request's body: a character takes at most 12 bytes in JSON (a pair of escapes)."""
        return 12 * self.max_batch * self.max_characters + 4096

    @property
    def max_values(self) -> int:
        """Of a request's JSON: a message has up to 13, an item up to 22 beside its messages."""
        return 16 * MESSAGES + 64 * self.max_batch + 64


def parser() -> Parser:
    usual = Limits()
    p = Parser(prog="genac serve", description="A saved critic as an HTTP endpoint.")
    p.add_argument("critic", help="a run, a critic's folder, or a name on the hub")
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
    p.add_argument(
        "--max-queued",
        type=int,
        help=f"waiting requests, {usual.max_queued}, or {LEARNING_QUEUED} with --learn",
    )
    p.add_argument(
        "--timeout",
        type=float,
        help=f"seconds per request, {usual.seconds:g}, or {LEARNING_SECONDS:g} with --learn",
    )
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    p.add_argument("--threads", type=int, default=0, help="CPU threads, 0 = all")
    add_learning(p)
    return p


def add_learning(parser: Parser) -> None:
    """Options of a critic that learns."""
    p = parser.add_argument_group("with --learn")
    p.add_argument("--learn", action="store_true", help="the critic learns: docs/service.md")
    p.add_argument("--checkpoints", metavar="FOLDER", help="where to keep what is learnt")
    p.add_argument("--save-every", type=int, default=20, help="requests between checkpoints")
    p.add_argument("--actor-tokenizer", metavar="NAME", help="of the tokens that are sent")
    p.add_argument("--actor-size", metavar="SIZE", help="as the critic is told it, such as 1.7B")
    p.add_argument("--config", metavar="FILE.yaml", help="a recipe; --credit.lam 0.9 works too")
    p.add_argument("--api-key-env", metavar="NAME", help="variable that holds the API key")
    p.add_argument("--max-megabytes", type=float, default=64.0, help="of a request")
    p.add_argument("--max-responses", type=int, default=8192, help="of a request")


def require_read_only(options: Parser, args: Namespace, keys: Sequence[str]) -> None:
    """Ends with a message where something is said that only --learn reads."""
    if keys:
        options.error(f"unrecognized arguments: {' '.join(keys)}")
    for name in LEARNING:
        if getattr(args, name) != options.get_default(name):
            options.error(f"--{name.replace('_', '-')} is read with --learn only")
