"""The plug-in for TRL: does GenACTrainer learn, and what does a critic in another process cost?

    python bench/trl_critic.py learn --json learn.json --seeds 0 1 2
    python bench/trl_critic.py overhead --json overhead.json

Both take the recipe's base model, and its critic after stages 1 and 2, which are trained where they
do not exist. `learn` trains the actor with TRL's GRPOTrainer and with GenACTrainer on the same
problems with as many responses, each at the recipe's learning rate for the method, and compares
held-out success before and after. `overhead` runs GenACTrainer with the critic in its process and
with the critic behind `genac serve --learn`; the two take turns step by step. Everything is fp32.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TextIO

import common

GRPO, GENAC = "GRPOTrainer", "GenACTrainer"
OURS, SERVED = "in process", "service"
KINDS = {"learn": (GRPO, GENAC), "overhead": (OURS, SERVED)}
ROWS = 256  # rationales that either critic writes side by side
DEADLINE = 300.0  # seconds until a server answers
Spec = dict[str, Any]  # the arguments of a process


# --- one training run, in a process of its own ---------------------------------------------------


class Arithmetic:
    """The recipe's task, base model and critic, as TRL wants them."""

    def __init__(self, spec: Spec) -> None:
        from genac.config.recipes import read_recipe, resolve
        from genac.models.loading import load_tokenizer
        from genac.stages.setup import Setup

        method = "grpo" if spec["kind"] == GRPO else "genac"
        recipe = read_recipe(spec["recipe"]) | {"algorithm": method}
        hardware = {"device": spec["device"], "threads": spec["threads"]}
        self.cfg = resolve(recipe, {"hardware": hardware})
        self.spec, self.setup = spec, Setup.of(self.cfg)
        self.tokenizer = load_tokenizer(spec["actor"])

    def data(self) -> Any:
        """Problems of this seed, in order."""
        from datasets import Dataset

        from genac.rollout import problems_at

        count = self.cfg.rollout.num_prompts * self.spec["steps"]
        problems = problems_at(self.setup.world, "train", self.spec["seed"] * count, count)
        return Dataset.from_list([{"prompt": p.prompt, "answer": p.answer} for p in problems])

    def right(self, completions: list[str], answer: list[str], **_: Any) -> list[float]:
        """1 for the answer, else 0."""
        task = self.setup.world.task
        return [float(task.answer_of(c) == a) for c, a in zip(completions, answer, strict=True)]

    def arguments(self) -> Spec:
        """TRL's arguments: the recipe's where there is a counterpart."""
        cfg, optimizer = self.cfg.rollout, self.cfg.actor.optimizer
        batch = {"per_device_train_batch_size": cfg.num_prompts * cfg.num_generations}
        sampling = {
            "num_generations": cfg.num_generations,
            "max_completion_length": cfg.max_completion_length,
            "shuffle_dataset": False,
        }
        # "dapo" is the mean over all tokens of the step, as in the joint stage.
        grpo = self.spec["kind"] == GRPO
        loss = {"loss_type": "dapo", "beta": 0.0, "scale_rewards": "group" if grpo else "none"}
        rate = {"learning_rate": optimizer.learning_rate, "warmup_steps": optimizer.warmup_steps}
        rate |= {"lr_scheduler_type": "constant_with_warmup", "max_grad_norm": 1.0}
        adam = {"adam_beta2": optimizer.adam_beta2, "weight_decay": optimizer.weight_decay}
        cpu = self.spec["device"] == "cpu"
        plain = {"use_cpu": cpu, "bf16": False, "gradient_checkpointing": False}
        quiet = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none"}
        quiet |= {"disable_tqdm": True, "dataloader_pin_memory": False}
        run = {"max_steps": self.spec["steps"], "seed": self.spec["seed"]}
        run["output_dir"] = self.spec["folder"]
        return batch | sampling | loss | rate | adam | plain | quiet | run

    def critic(self) -> Any:
        """The address of a service, or the critic itself."""
        from genac.service import LearningCritic
        from genac.service.loading import options_of

        if self.spec.get("url"):
            return self.spec["url"]
        return LearningCritic.from_pretrained(
            self.spec["critic"],
            actor_tokenizer=self.tokenizer,
            batch_size=ROWS,
            **options_of(self.cfg),
        )

    def trainer(self, callbacks: list[Any]) -> Any:
        import torch
        from transformers import AutoModelForCausalLM
        from trl import GRPOConfig, GRPOTrainer

        options = {
            "model": AutoModelForCausalLM.from_pretrained(self.spec["actor"], dtype=torch.float32),
            "reward_funcs": self.right,
            "args": GRPOConfig(**self.arguments()),
            "train_dataset": self.data(),
            "processing_class": self.tokenizer,
            "callbacks": callbacks,
        }
        if self.spec["kind"] == GRPO:
            return GRPOTrainer(**options)
        from genac.integrations.trl import GenACTrainer

        return GenACTrainer(**options, critic=self.critic())

    def success(self, trainer: Any) -> list[list[float]]:
        """Per held-out problem the rewards of a few responses; the same draws at every call."""
        from genac.evals.policy import success
        from genac.rollout import collect, problems_at

        world = self.setup.world
        with tempfile.TemporaryDirectory() as folder:
            trainer.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            actor = self.setup.actor(folder)
        size = {"num_generations": self.cfg.evaluate.num_samples}
        world = replace(world, rollout=world.rollout.model_copy(update=size))
        problems = problems_at(world, "heldout", 0, self.spec["problems"])
        groups = collect(actor, world, problems, "evaluate")
        return [[success(r.reward) for r in group] for group in groups]


def side(spec: Spec, channel: common.Channel) -> None:
    """A training run, which sends its held-out success and seconds, or is halted at every step."""
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(spec["threads"])
    work = Arithmetic(spec)

    class Halt(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            channel.receive()
            self.begin = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            channel.send(time.perf_counter() - self.begin)

    halted = spec["kind"] in KINDS["overhead"]
    trainer = work.trainer([Halt()] if halted else [])
    if halted:
        channel.send("ready")
        trainer.train()
        return
    # Of the processor, because other work on the machine changes nothing but the wall clock.
    before, begin = work.success(trainer), time.process_time()
    trainer.train()
    seconds = time.process_time() - begin
    rate = work.cfg.actor.optimizer.learning_rate
    result = {"before": before, "after": work.success(trainer), "seconds": seconds}
    channel.send(result | {"learning_rate": rate})


def start(spec: Spec) -> common.Peer:
    """A run in its own process."""
    mode = "learn" if spec["kind"] in KINDS["learn"] else "overhead"
    own = ["--spec", json.dumps(spec), "--threads", str(spec["threads"])]
    return common.Peer([sys.executable, __file__, mode, *own])


# --- the comparisons -----------------------------------------------------------------------------


def learn(args: argparse.Namespace, spec: Spec) -> tuple[Spec, Any]:
    """Held-out success of both trainers, over the seeds."""
    from genac.ops.stats import mean_interval

    rows, raw, gains = [], {}, {kind: [] for kind in KINDS["learn"]}
    for seed in args.seeds:
        for kind in KINDS["learn"]:
            peer = start(spec | {"kind": kind, "seed": seed})
            result = raw[f"{kind}, seed {seed}"] = peer.ready
            peer.close()
            row, gain = gain_of(result)
            gains[kind].append(gain)
            rows.append((kind, seed, *row, result["seconds"]))
            print(rows[-1], flush=True)
    header = ("trainer", "seed", "before", "after", "gain", "low", "high", "seconds")
    print(common.table(header, rows))
    over_seeds = {kind: mean_interval(values) for kind, values in gains.items()}
    difference = [b - a for a, b in zip(*(gains[k] for k in KINDS["learn"]), strict=True)]
    result = {
        "gain": {
            kind: dict(zip(("mean", "low", "high"), v, strict=True))
            for kind, v in over_seeds.items()
        },
        "genac_minus_grpo": dict(
            zip(("mean", "low", "high"), mean_interval(difference), strict=True)
        ),
        "table": [dict(zip(header, row, strict=True)) for row in rows],
    }
    return result, raw


def gain_of(result: Spec) -> tuple[tuple[float, ...], float]:
    """Success before and after, and the gain with its interval over problems."""
    import numpy as np

    from genac.ops.stats import bootstrap_interval

    before, after = (np.array(result[name]).mean(-1) for name in ("before", "after"))
    gain = after - before
    low, high = bootstrap_interval([np.array([g]) for g in gain])
    means = [float(x.mean()) for x in (before, after, gain)]
    return (*means, low, high), means[-1]


def overhead(args: argparse.Namespace, spec: Spec) -> tuple[Spec, Any]:
    """Seconds per step with the critic here and behind HTTP."""
    options = ("--config", spec["recipe"], "--device", spec["device"], "--max-batch", str(ROWS))
    with server(spec["critic"], spec["actor"], spec["threads"], *options) as url:
        peers = {
            OURS: start(spec | {"kind": OURS, "seed": 0}),
            SERVED: start(spec | {"kind": SERVED, "seed": 0, "url": url}),
        }
        step = {k: partial(lambda peer, _: float(peer.ask("step")), p) for k, p in peers.items()}
        seconds = common.interleaved(step, args.repeats, warmup=2)
        for peer in peers.values():
            peer.close()
    ratio = common.ratio(seconds[SERVED], seconds[OURS])
    rows = [(kind, *common.summary(values).values()) for kind, values in seconds.items()]
    print(common.table(("critic", "median s/step", "min", "max"), rows))
    result = {
        "service_over_in_process": ratio["value"],
        "service_over_in_process_range": [ratio["low"], ratio["high"]],
        "seconds_per_step": {kind: statistics.median(v) for kind, v in seconds.items()},
    }
    return result, seconds


@contextmanager
def server(critic: str, actor: str, threads: int, *options: str) -> Iterator[str]:
    """The address of a critic that learns in a process of its own from the actor's tokens."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    command = [sys.executable, "-m", "genac.cli", "serve", critic, "--learn", "--port", str(port)]
    command += ["--actor-tokenizer", actor, "--threads", str(threads), *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: TextIO) -> None:
    """Until the server answers; RuntimeError where it does not."""
    end = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    raise RuntimeError(f"no server answers at {url}:\n{log.read()[-3000:]}")


def starting_point(args: argparse.Namespace) -> dict[str, str]:
    """Folders of the base model and of the critic after stage 2, trained where they are missing."""
    if args.actor and args.critic:
        return {"actor": args.actor, "critic": args.critic}
    from genac.config.recipes import read_recipe, resolve
    from genac.stages.pipeline import prepare
    from genac.stages.setup import Setup, prepared_config

    cfg = resolve(read_recipe(args.recipe) | {"algorithm": "genac"})
    ready = prepare(Setup.of(prepared_config(cfg)))
    return {"actor": str(ready.actor), "critic": str(ready.critic)}


def arguments() -> argparse.Namespace:
    out = common.parser("GenACTrainer in TRL")
    out.add_argument("mode", choices=sorted(KINDS))
    out.add_argument("--recipe", default="recipes/arithmetic.yaml")
    out.add_argument("--actor", help="a base model to take instead of the recipe's")
    out.add_argument("--critic", help="and a critic")
    out.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of `learn`")
    out.add_argument("--steps", type=int, default=None, help="of `learn`; 40, with --quick 4")
    out.add_argument("--spec", type=json.loads, help=argparse.SUPPRESS)
    return common.parse(out)


def main(args: argparse.Namespace) -> None:
    steps = args.steps or (4 if args.quick else 40)
    with tempfile.TemporaryDirectory() as folder:
        spec = {"recipe": args.recipe, "device": args.device, "threads": args.threads}
        spec |= {"folder": folder, **starting_point(args)}
        if args.mode == "learn":
            result, raw = learn(
                args, spec | {"steps": steps, "problems": 16 if args.quick else 320}
            )
        else:
            result, raw = overhead(args, spec | {"steps": args.repeats + 2})
    print({k: v for k, v in result.items() if k != "table"})
    common.write_json(args, result, raw)


if __name__ == "__main__":
    options = arguments()
    if options.spec:
        side(options.spec, common.Channel())
    else:
        main(options)
