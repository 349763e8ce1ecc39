"""One GRPO optimisation step: ours against TRL's GRPOTrainer.

    python bench/trl.py --json trl.json                                  (needs trl, 1.16 or newer)

Both sides start from one saved model and tokenizer, see the same prompts in the same order, sample
the same number of tokens (the end token lies outside the vocabulary), call the same reward function
and take one AdamW step on the same loss: advantages divided by the group's deviation, clipped ratio,
mean over all tokens, no KL, one epoch. Everything is fp32.

Each side is a process of its own, so that its peak memory is its own, and the two take turns step
by step. Before that, each side tries how many rows a forward and backward may hold, and TRL which
cache it generates with; the fastest setting of each side is measured. A step is timed from the
moment the trainer asks for its batch to the end of the optimiser step and, for ours, the engine's
new weights. Data loading, logging and saving between steps are left out on both sides.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from common import Channel, Peer

OURS, TRL = "genac", "trl"
PHASES = ("sampling", "scoring", "learning")
Spec = dict[str, Any]  # what both sides are told; `rows` and `cache` are the settings to choose
STEPS_OF_PROMPTS = 64  # distinct batches of prompts before they come again


def prompts(spec: Spec) -> list[str]:
    """The data set: words drawn from the seed."""
    rng, count = random.Random(spec["seed"]), STEPS_OF_PROMPTS * spec["prompts"]
    word = lambda: f"w{rng.randrange(3, spec['vocab'])}"  # noqa: E731
    return [" ".join(word() for _ in range(spec["prompt"])) for _ in range(count)]


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

    from genac.models.tiny import build_model

    words = {f"w{i}": i for i in range(args.vocab)} | {"<end>": args.vocab}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "w0", "unk_token": "w0", "eos_token": "<end>"}
    PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=max_length, **special
    ).save_pretrained(folder)
    shape = (args.vocab, args.hidden, args.layers, args.heads, max_length, args.seed)
    build_model(*shape, eos_token_id=args.vocab).save_pretrained(folder)


class Clock:
    """Seconds of the phases of one step."""

    def start(self) -> None:
        self.begin, self.spent = time.perf_counter(), {"sampling": 0.0, "rollout": 0.0}

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
        total, rollout = time.perf_counter() - self.begin, self.spent["rollout"]
        phases = (self.spent["sampling"], rollout - self.spent["sampling"], total - rollout)
        about = {"seconds": total, "tokens": round(tokens), "reward": reward}
        return about | dict(zip(PHASES, phases, strict=True)) | {"peak_mib": peak(spec["device"])}


def peak(device: str) -> float:
    """Highest memory so far: of the process, or of the accelerator where one is used."""
    if device != "cuda":
        return common.memory_mib("VmHWM")
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


@dataclass
class Words:
    """The prompts as a task of this library."""

    texts: list[str]
    name: str = "words"
    trusted: bool = True

    def size(self, split: str) -> None:
        return None

    def problem(self, split: str, index: int) -> Any:
        from genac.types import Problem

        return Problem(str(index), self.texts[index % len(self.texts)], "")

    def verify(self, problem: Any, text: str) -> float:
        return reward(text)


def our_side(spec: Spec, channel: Channel) -> None:
    """The loop of the joint stage without critic, evaluation and files."""
    from genac.config import CreditConfig, HardwareConfig, LossConfig, OptimizerConfig
    from genac.config import RolloutConfig
    from genac.credit import credit
    from genac.critics.base import NoCritic
    from genac.evals.online import rollout_metrics
    from genac.rollout import World, collect, problems_at
    from genac.runtime import Hardware, language_model
    from genac.seeding import derive_seed
    from genac.stages.joint import publish
    from genac.tasks.verifier import Verifier

    imports, clock, task = common.memory_mib("VmRSS"), Clock(), Words(prompts(spec))
    precise = HardwareConfig(device=spec["device"], precision="fp32", threads=spec["threads"])
    tokens = spec["rows"] * (spec["prompt"] + spec["new"])
    optimizer, rows = OptimizerConfig(tokens_per_microbatch=tokens), spec["prompts"] * spec["group"]
    hardware = Hardware.resolve(precise)
    actor = language_model(
        "actor", spec["folder"], hardware, optimizer, LossConfig(), max_rows=rows
    )
    actor.engine.generate = clock.wrap("sampling", actor.engine.generate)
    rollout = RolloutConfig(
        num_prompts=spec["prompts"],
        num_generations=spec["group"],
        max_completion_length=spec["new"],
        max_rows=rows,
    )
    world = World(task, Verifier(task), rollout, spec["seed"])
    relative = CreditConfig(estimator="group_mean", scale_rewards="group")
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


def trl_settings(spec: Spec) -> dict[str, Any]:
    """TRL's arguments: ours where there is a counterpart, else what makes it fastest."""
    return {
        "use_cpu": spec["device"] == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": spec["rows"],
        "gradient_accumulation_steps": spec["prompts"] * spec["group"] // spec["rows"],
        "num_generations": spec["group"],
        "max_completion_length": spec["new"],
        "cache_implementation": spec["cache"],
        "temperature": 1.0,
        "loss_type": "dapo",  # the mean over all tokens of the step
        "scale_rewards": "group",
        "epsilon": 0.2,
        "beta": 0.0,
        "num_iterations": 1,
        "shuffle_dataset": False,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "adam_beta2": 0.98,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "max_steps": 10**6,
        "seed": spec["seed"],
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def trl_side(spec: Spec, channel: Channel) -> None:
    """GRPOTrainer, halted before every step until it is asked for one."""
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

    def rewards(completions: Sequence[str], **_: Any) -> list[float]:
        return [reward(text) for text in completions]

    imports, clock = common.memory_mib("VmRSS"), Clock()
    torch.set_num_threads(spec["threads"])
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(spec["folder"], dtype=torch.float32),
        reward_funcs=rewards,
        args=GRPOConfig(output_dir=spec["folder"], **trl_settings(spec)),
        train_dataset=Dataset.from_dict({"prompt": prompts(spec)}),
        processing_class=AutoTokenizer.from_pretrained(spec["folder"]),
        callbacks=[Halt()],
    )
    trainer._generate_single_turn = clock.wrap("sampling", trainer._generate_single_turn)
    score = clock.wrap("rollout", trainer._generate_and_score_completions)
    trainer._generate_and_score_completions = score
    channel.send({"imports_mib": imports})
    trainer.train()


def start(side: str, spec: Spec) -> Peer:
    """A side in its own process."""
    return Peer([sys.executable, __file__, "--side", side, "--spec", json.dumps(spec)])


def fastest(side: str, variants: list[Spec], spec: Spec) -> tuple[Spec, list[Spec]]:
    """The variant with the lowest median of a few steps, and what all of them took."""
    tried = []
    for variant in variants:
        peer = start(side, spec | variant)
        steps = [peer.ask("step") for _ in range(4)][1:]
        peer.close()
        seconds = statistics.median(step["seconds"] for step in steps)
        tried.append({**variant, "seconds": seconds, "peak_mib": steps[-1]["peak_mib"]})
    best = min(range(len(tried)), key=lambda i: tried[i]["seconds"])
    return variants[best], tried


def choose(spec: Spec, rows: Sequence[int]) -> tuple[dict[str, Spec], dict[str, list[Spec]]]:
    """Each side's fastest number of rows per micro-batch, and TRL's fastest generation cache."""
    variants = [{"rows": n, "cache": None} for n in rows]
    ours, tried_ours = fastest(OURS, variants, spec)
    dynamic, tried = fastest(TRL, variants, spec)
    static, tried_static = fastest(TRL, [dynamic | {"cache": "static"}], spec)
    better = tried_static[0]["seconds"] < min(found["seconds"] for found in tried)
    chosen = {OURS: ours, TRL: static if better else dynamic}
    return chosen, {OURS: tried_ours, TRL: tried + tried_static}
