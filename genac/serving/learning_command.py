"""genac serve CRITIC --learn: a critic that keeps learning behind an HTTP endpoint."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from genac.config.algorithms import merge
from genac.config.arguments import typed_values
from genac.config.keys import as_options
from genac.config.recipes import read_recipe, resolve
from genac.config.run import RunConfig
from genac.hosts import in_url, is_loopback
from genac.runs.files import alone
from genac.scoring import Critic
from genac.service import LearningCritic
from genac.service.loading import options_of, source_of
from genac.serving.accepted import require_settings
from genac.serving.app import Limits
from genac.serving.learning import Learning
from genac.serving.learning_app import LearningLimits, LearningServer

# Of a run's keys, those that a service reads.
READ = (
    "seed",
    "credit.",
    "states.",
    "critic.generative.",
    "critic.optimizer.",
    "stages.joint.max_states",
    "hardware.",
)


def serve_learning(args: argparse.Namespace, keys: Sequence[str], limits: Limits) -> None:
    """Loads the critic, or goes on with the one in the folder of checkpoints, and serves it until
    SIGTERM or an interrupt. `keys`: --dotted.key value ..., as of a run.
    """
    key = api_key(args.api_key_env, args.host)
    learning_limits = LearningLimits(args.max_megabytes, args.max_responses)
    cfg = settings(args, keys)
    folder = Path(args.checkpoints) if args.checkpoints else None
    if folder is None:
        warn("without --checkpoints what is learnt ends with this process")
    with alone(folder, inside=True) if folder else nullcontext():
        if folder is not None:
            require_settings(folder, identity(args, cfg))
        critic = load(args, cfg, folder)
        learning = Learning(critic, limits.max_queued)
        scorer = Critic(critic.critic)
        server = LearningServer(
            learning,
            scorer,
            limits,
            learning_limits,
            host=args.host,
            names=args.allow_host,
            key=key,
        )
        address = f"http://{in_url(args.host)}:{args.port}"
        print(f"serving {args.critic}, which learns, on {address} (step {critic.step})", flush=True)
        run(server, args.host, args.port)


def api_key(name: str | None, host: str) -> str | None:
    """The key in that variable of the environment; ValueError where one is missing."""
    if name is None:
        if not is_loopback(host):
            raise ValueError(
                f"--host {host} can be reached from outside, and whoever reaches a critic that "
                "learns can change it; name the variable that holds a key with --api-key-env"
            )
        return None
    key = os.environ.get(name, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"--api-key-env {name}: this variable of the environment holds no key; set it to one "
            "of printable ASCII characters without spaces"
        )
    return key


def settings(args: argparse.Namespace, keys: Sequence[str]) -> RunConfig:
    """The critic's own settings under those of the file and the command line."""
    for item in keys:
        name = item.removeprefix("--").partition("=")[0].replace("-", "_")
        if item.startswith("--") and not name.startswith(READ):
            raise ValueError(
                f"genac serve has no option {item}; of a run's keys it reads {', '.join(READ)} "
                "(a dot stands for all keys behind it)"
            )
    recipe = read_recipe(args.config) if args.config else {}
    if (kind := recipe.get("critic", {}).get("kind", "generative")) != "generative":
        raise ValueError(
            f"{args.config} says critic.kind {kind}; only a generative critic learns as a service"
        )
    card = source_of(args.critic).card.get("config", {})
    own = {"critic": {k: card[k] for k in ("generative", "optimizer") if k in card}}
    flags = {"device": args.device, "precision": args.precision, "threads": args.threads}
    chosen = {k: v for k, v in flags.items() if v not in ("auto", 0)}
    typed = typed_values(as_options(keys), RunConfig)
    return resolve(merge(own, recipe), merge({"hardware": chosen}, typed))


def identity(args: argparse.Namespace, cfg: RunConfig) -> dict[str, Any]:
    """What must be the same at every start, or the service would go on as another one."""
    here = Path(args.critic)
    return {
        "critic": str(here.resolve()) if here.exists() else args.critic,
        "actor_tokenizer": args.actor_tokenizer,
        "actor_size": args.actor_size,
        "seed": cfg.seed,
        "max_states": cfg.stages.joint.max_states,
        "credit": cfg.credit.model_dump(),
        "states": cfg.states.model_dump(),
        "critic.generative": cfg.critic.generative.model_dump(),
        "critic.optimizer": cfg.critic.optimizer.model_dump(),
    }


def load(args: argparse.Namespace, cfg: RunConfig, folder: Path | None) -> LearningCritic:
    return LearningCritic.from_pretrained(
        args.critic,
        actor_tokenizer=args.actor_tokenizer,
        actor_size=args.actor_size,
        batch_size=args.max_batch,
        folder=folder,
        save_every=args.save_every,
        **options_of(cfg),
    )


def run(server: LearningServer, host: str, port: int) -> None:
    """Serves until a signal, then drains. OSError where the last checkpoint cannot be written."""
    from genac.serving.command import Impatient

    config = uvicorn.Config(
        server.app, host=host, port=port, log_level="warning", http=Impatient, ws="none"
    )
    draining = Draining(config, server.drain)
    draining.run()
    if draining.error is not None:
        raise draining.error
    if draining.signals > 1:
        raise KeyboardInterrupt  # there was no time to drain


class Draining(uvicorn.Server):
    """Ends on a signal once `drain` has returned; until then it answers. A second signal ends it at
    once, which loses nothing that was acknowledged.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self.drain, self.signals = drain, 0
        self.error: Exception | None = None  # what `drain` raised

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals == 1:
            threading.Thread(target=self._drain, name="drain", daemon=True).start()
        else:
            self.should_exit = self.force_exit = True

    def _drain(self) -> None:
        try:
            self.drain()
        except Exception as error:  # raised again by whoever runs the server
            self.error = error
        self.should_exit = True


def warn(message: str) -> None:
    print(f"genac serve: {message}", file=sys.stderr, flush=True)
