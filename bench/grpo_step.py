"""One GRPO optimisation step: ours against TRL's GRPOTrainer.

    python bench/grpo_step.py --json grpo.json                           (needs trl, 1.16 or newer)

Both sides start from one saved model and tokenizer, see the same prompts in the same order, sample
the same number of tokens (the end token lies outside the vocabulary), call the same reward function
and take one AdamW step on the same loss: advantages over the group's deviation, clipped ratio, mean
over all tokens, no KL, one epoch. Everything is fp32.

Each side is a process with a peak memory of its own; the two take turns step by step. Before that,
each tries how many rows a forward and backward may hold, and TRL which cache it generates with; its
fastest setting is measured. A step lasts from sampling to the end of the optimiser step and, for
ours, the engine's new weights. Logging, saving and loading data are left out on both sides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import common

OURS, TRL = "genac", "trl"
Spec = dict[str, Any]  # what both sides get; `rows` and `cache` are the settings to choose


def prompts(spec: Spec) -> list[str]:
    """The data set, enough for 64 steps: words drawn from the seed."""
    rng, words = random.Random(spec["seed"]), [f"w{i}" for i in range(3, spec["vocab"])]
    return [" ".join(rng.choices(words, k=spec["prompt"])) for _ in range(64 * spec["prompts"])]


def reward(text: str) -> float:
    """Share of words with an even number: cheap, and different within a group."""
    words = text.split()
    return sum(int(word[1:]) % 2 == 0 for word in words) / max(1, len(words))


def save_model(folder: str, args: argparse.Namespace, max_length: int) -> None:
    """Model and a tokenizer of one token per word; the end token's id is one too large to draw."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    from genac.models.tiny import build_model

    logging.set_verbosity_error()  # it warns that the end token lies outside the vocabulary
    words = {f"w{i}": i for i in range(args.vocab)} | {"<end>": args.vocab}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "w0", "unk_token": "w0", "eos_token": "<end>"}
    special |= {"tokenizer_object": inner, "model_max_length": max_length}
    PreTrainedTokenizerFast(**special).save_pretrained(folder)
    shape = (args.vocab, args.hidden, args.layers, args.heads, max_length, args.seed)
    build_model(*shape, eos_token_id=args.vocab).save_pretrained(folder)


class Clock:
    """Seconds of the phases of one step."""

    def start(self) -> None:
        self.begin, self.spent = time.perf_counter(), {"rollout": 0.0, "scoring": 0.0}

    def wrap(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to the phase."""

        def timed(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            out = function(*args, **options)
            self.spent[phase] += time.perf_counter() - begin
            return out

        return timed

    def report(self, spec: Spec, tokens: float, reward: float) -> dict[str, Any]:
        """What a step says of itself."""
        common.synchronise(spec["device"])
        total = time.perf_counter() - self.begin
        rollout, scoring = self.spent["rollout"], self.spent["scoring"]
        phases = {"sampling": rollout - scoring, "scoring": scoring, "learning": total - rollout}
        memory = {"peak_mib": common.memory_mib("VmHWM", spec["device"])}
        return {"seconds": total, **phases, **memory, "tokens": round(tokens), "reward": reward}


class Words:
    """The prompts as a task of this library."""

    name, trusted = "words", True

    def __init__(self, spec: Spec) -> None:
        self.texts = prompts(spec)

    def size(self, split: str) -> None:
        """Unlimited."""

    def problem(self, split: str, index: int) -> Any:
        from genac.types import Problem

        return Problem(str(index), self.texts[index % len(self.texts)], "")

    def verify(self, problem: Any, text: str) -> float:
        return reward(text)


def our_side(spec: Spec, channel: common.Channel) -> None:
    """The loop of the joint stage without critic, evaluation and files."""
    from genac.config import run
    from genac.credit import credit
    from genac.critics.base import NoCritic
    from genac.evals.online import rollout_metrics
    from genac.hardware import Hardware
    from genac.rollout import World, collect, problems_at
    from genac.runtime import ModelSpec, build
    from genac.seeding import derive_seed
    from genac.stages.joint import publish
    from genac.tasks.verifier import Verifier

    imports, clock, task = common.memory_mib("VmRSS"), Clock(), Words(spec)
    where = {"device": spec["device"], "threads": spec["threads"], "precision": "fp32"}
    hardware = Hardware.resolve(run.HardwareConfig(**where))
    rows, tokens = spec["prompts"] * spec["group"], spec["rows"] * (spec["prompt"] + spec["new"])
    optimizer = run.OptimizerConfig(tokens_per_microbatch=tokens)
    actor = build(ModelSpec("actor", spec["folder"], optimizer, max_rows=rows), hardware)
    sizes = {"num_prompts": spec["prompts"], "num_generations": spec["group"]}
    rollout = run.RolloutConfig(max_completion_length=spec["new"], max_rows=rows, **sizes)
    world = World(task, Verifier(task), rollout, spec["seed"])
    world.verifier.verify = clock.wrap("scoring", world.verifier.verify)
    relative = run.CreditConfig(estimator="group_mean", scale_rewards="group")
    channel.send({"imports_mib": imports})
    for step in itertools.count():
        channel.receive()
        clock.start()
        problems = problems_at(world, "train", step * spec["prompts"], spec["prompts"])
        groups = clock.wrap("rollout", collect)(actor, world, problems, "joint", step)
        assigned = credit(groups, [], relative, rollout.temperature)
        actor.learner.learn(assigned.samples, derive_seed(spec["seed"], "joint", step))
        publish(actor, NoCritic(), step + 1, groups[0][0].prompt_ids)
        seen = rollout_metrics(groups)
        channel.send(clock.report(spec, seen["num_tokens"], seen["reward"]))


def trl_settings(spec: Spec) -> Spec:
    """TRL's arguments: ours where there is a counterpart, else what makes it fastest."""
    accumulate = spec["prompts"] * spec["group"] // spec["rows"]
    batch = {"per_device_train_batch_size": spec["rows"], "gradient_accumulation_steps": accumulate}
    sampling = {"num_generations": spec["group"], "max_completion_length": spec["new"]}
    sampling |= {"shuffle_dataset": False, "cache_implementation": spec["cache"]}
    # "dapo" is the mean over all tokens of the step.
    loss = {"loss_type": "dapo", "scale_rewards": "group", "epsilon": 0.2, "beta": 0.0}
    adam = {"optim": "adamw_torch_fused", "adam_beta2": 0.98, "weight_decay": 0.01}
    rate = {"learning_rate": 1e-6, "lr_scheduler_type": "constant", "max_grad_norm": 1.0}
    fast = {"use_cpu": spec["device"] == "cpu", "bf16": False, "gradient_checkpointing": False}
    quiet = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none"}
    quiet |= {"disable_tqdm": True, "dataloader_pin_memory": False}
    run = {"max_steps": 10**6, "seed": spec["seed"], "output_dir": spec["folder"]}
    return batch | sampling | loss | adam | rate | fast | quiet | run


def trl_side(spec: Spec, channel: common.Channel) -> None:
    """GRPOTrainer, halted before every step until one is requested."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Halt(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            channel.receive()
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen = {name: values[-1] for name, values in trainer._metrics["train"].items()}
            tokens = seen["completions/mean_length"] * spec["prompts"] * spec["group"]
            channel.send(clock.report(spec, tokens, seen["reward"]))

    imports, clock = common.memory_mib("VmRSS"), Clock()
    torch.set_num_threads(spec["threads"])
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32),
        reward_funcs=lambda completions, **_: [reward(text) for text in completions],
        args=GRPOConfig(**trl_settings(spec)),
        train_dataset=Dataset.from_dict({"prompt": prompts(spec)}),
        processing_class=AutoTokenizer.from_pretrained(spec["folder"]),
        callbacks=[Halt()],
    )
    trainer._calculate_rewards = clock.wrap("scoring", trainer._calculate_rewards)
    rollout = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = clock.wrap("rollout", rollout)
    channel.send({"imports_mib": imports})
    trainer.train()


def start(side: str, spec: Spec) -> common.Peer:
    """A side in its own process."""
    options = ["--side", side, "--spec", json.dumps(spec), "--threads", str(spec["threads"])]
    return common.Peer([sys.executable, __file__, *options])


def attempt(side: str, spec: Spec, rows: int, cache: str | None = None) -> Spec:
    """A setting, and what a few steps with it took."""
    peer = start(side, spec | {"rows": rows, "cache": cache})
    steps = [peer.ask("step") for _ in range(4)][1:]
    peer.close()
    seconds = statistics.median(step["seconds"] for step in steps)
    return {"seconds": seconds, "peak_mib": steps[-1]["peak_mib"], "rows": rows, "cache": cache}


def attempts(spec: Spec, rows: Sequence[int]) -> dict[str, list[Spec]]:
    """Each side's settings, fastest first: rows per micro-batch, then TRL's generation cache."""
    tried = {side: [attempt(side, spec, n) for n in rows] for side in (OURS, TRL)}
    best = min(tried[TRL], key=lambda result: result["seconds"])
    tried[TRL].append(attempt(TRL, spec, best["rows"], "static"))
    return {side: sorted(tried[side], key=lambda result: result["seconds"]) for side in tried}


def measure(args: argparse.Namespace, spec: Spec, chosen: dict[str, Spec]) -> dict[str, list[Spec]]:
    """The reports of both sides' timed steps, taken in turns."""
    peers = {side: start(side, spec | setting) for side, setting in chosen.items()}
    reports: dict[str, list[Spec]] = {side: [] for side in peers}

    def step(side: str, turn: int) -> None:
        reports[side].append(peers[side].ask("step") | peers[side].ready)
        if reports[side][-1]["tokens"] != spec["prompts"] * spec["group"] * spec["new"]:
            raise RuntimeError(f"{side} did not sample every token of a step")

    common.interleaved({side: partial(step, side) for side in peers}, args.repeats, warmup=2)
    for peer in peers.values():
        peer.close()
    return {side: result[-args.repeats :] for side, result in reports.items()}


def main(args: argparse.Namespace, spec: Spec) -> None:
    count = spec["prompts"] * spec["group"]
    rows = [n for n in ((32, 128) if args.quick else (16, 32, 64, 128)) if count % n == 0]
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, args, max(256, spec["prompt"] + spec["new"]))
        tried = attempts(spec | {"folder": folder}, rows or [count])
        steps = measure(args, spec | {"folder": folder}, {s: tried[s][0] for s in tried})
    sides: dict[str, Spec] = {}
    for side, results in steps.items():
        sides[side] = {key: statistics.median(step[key] for step in results) for key in results[0]}
    for shown in (tried, {side: [sides[side]] for side in sides}):
        lines = [(side, *line.values()) for side in shown for line in shown[side]]
        print(common.table(("side", *shown[OURS][0]), lines), flush=True)
    speedup = common.ratio(*([step["seconds"] for step in steps[side]] for side in (TRL, OURS)))
    least = [min(results["peak_mib"] for results in tried[side]) for side in (OURS, TRL)]
    result = {
        "speedup_vs_trl": speedup["value"],
        "speedup_vs_trl_range": [speedup["low"], speedup["high"]],
        "memory_vs_trl": sides[OURS]["peak_mib"] / sides[TRL]["peak_mib"],
        "memory_vs_trl_at_least": least[0] / least[1],  # each at its most frugal
    }
    print(result)
    about = {"sides": sides, "tried": tried, "work": spec, "trl": version("trl")}
    common.write_json(args, result | about, steps)


def arguments() -> tuple[argparse.Namespace, Spec]:
    out = common.parser("One GRPO step of this library and of TRL")
    shape = {"hidden": 128, "layers": 4, "heads": 4, "vocab": 64}
    work = {"prompts": 16, "group": 8, "prompt": 48, "new": None}
    for name, value in (shape | work).items():
        out.add_argument(f"--{name}", type=int, default=value)
    for name, kind in (("side", str), ("spec", json.loads)):
        out.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = common.parse(out)
    args.new = args.new or (32 if args.quick else 96)
    names = ("device", "threads", "seed", *shape, *work)
    return args, args.spec or {name: getattr(args, name) for name in names}


if __name__ == "__main__":
    own, rest = arguments()
    if own.side:
        (our_side if own.side == OURS else trl_side)(rest, common.Channel())
    else:
        main(own, rest)
