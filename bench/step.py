"""One training iteration of GenAC, PPO, VinePPO and GRPO on the same actor workload, by phase.

    python bench/step.py [--quick] [--json FILE] [--recipe recipes/arithmetic.yaml [--run RUN]]

Reference shape: responses of 512 tokens in 8 states, rationales of 64 tokens, actor and critic of
one size, VinePPO with 9 continuations per state; then the same with rationales of 4 x the length.
Models are untrained: lengths are forced, scores are written into the rationales, rewards are drawn,
so that every method does the work of a real iteration. With --recipe the methods run that recipe's
joint stage for real instead (its earlier stages are trained first, unless they are on disk); with
--run too, one step after the other from the actor and critic of that finished run.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from common import interleaved, parse, parser, ratio, roofline, synchronise, table, write_json

METHODS = ("genac", "ppo", "vineppo", "grpo")
SCORE = ("<answer>", "5", "</answer>")


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    for name, value in (("hidden", 128), ("layers", 4), ("heads", 4), ("prompts", 8)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--generations", type=int, default=4, help="responses per prompt")
    options.add_argument("--response", type=int, default=512)
    options.add_argument("--states", type=int, default=8)
    options.add_argument("--rationale", type=int, default=64)
    options.add_argument("--recipe", help="measure this recipe's joint stage instead")
    options.add_argument("--run", type=Path, help="with --recipe: start from this GenAC run")
    options.add_argument("--steps", type=int, default=8, help="with --recipe: joint steps")
    args = parse(options)
    import torch

    torch.set_num_threads(args.threads)
    if args.recipe:
        return from_run(args) if args.run else recipe(args)
    if args.quick:
        args.prompts = 2
    limits = roofline(args.device)
    print(f"GEMM roofline {limits['gemm_gflops']:.0f} GFLOP/s, copy {limits['copy_gbs']:.0f} GB/s")
    reference, seconds, phases, cost = shape(args, args.rationale, ("genac", "ppo", "grpo"))
    result = {
        "genac_vs_ppo": reference["genac"]["value"],
        "cost_relative_to_ppo": cost,
        "ratios": {"reference": reference},
        "phases": {"reference": phases},
        "roofline": limits,
    }
    # Nine continuations per state take minutes: a quarter of the problems is enough.
    few = argparse.Namespace(**(vars(args) | {"prompts": max(1, args.prompts // 4)}))
    vine, more, phases, cost = shape(few, args.rationale, ("vineppo", "ppo"))
    result["vineppo_vs_ppo"] = vine["vineppo"]["value"]
    result["cost_relative_to_ppo"]["vineppo"] = cost["vineppo"]
    result["ratios"]["a quarter of the problems"] = vine
    result["phases"]["a quarter of the problems"] = phases
    seconds |= {f"{name}, a quarter of the problems": values for name, values in more.items()}
    if not args.quick:
        longer, more, phases, _ = shape(args, 4 * args.rationale, ("genac", "ppo"))
        result["ratios"]["4 x rationales"] = longer
        result["phases"]["4 x rationales"] = phases
        seconds |= {f"{name}, 4 x rationales": values for name, values in more.items()}
    write_json(args, result, seconds)


def shape(args, rationale: int, methods: tuple[str, ...]) -> tuple[dict, dict, dict, dict]:
    """Ratios to PPO with their range, raw seconds, median seconds by phase, and cost by kind."""
    print(f"\nresponses of {args.response}, {args.states} states, rationales of {rationale}")
    with tempfile.TemporaryDirectory() as folder:
        workers = {name: Worker.forced(args, name, rationale, Path(folder)) for name in methods}
        return compare(args, workers)


def from_run(args) -> None:
    """The recipe's joint step from a finished run's models, which go on learning."""
    from genac.config.recipes import read_recipe, resolve
    from genac.stages.setup import Setup

    workers = {}
    for name in METHODS:
        cfg = resolve(read_recipe(args.recipe), {"algorithm": name, "seed": args.seed})
        setup = Setup.of(cfg)
        actor = setup.actor(args.run / "actor")
        judge = args.run / ("critic" if name == "genac" else "actor")
        workers[name] = Worker(cfg, actor, setup.critic(judge, actor), setup.world)
    ratios, seconds, phases, cost = compare(args, workers)
    result = {
        "genac_vs_ppo_default": ratios["genac"]["value"],
        "vineppo_vs_ppo_default": ratios["vineppo"]["value"],
        "cost_relative_to_ppo": cost,
        "ratios": ratios,
        "phases": phases,
    }
    write_json(args, result, seconds)


def compare(args, workers: dict[str, Worker]) -> tuple[dict, dict, dict, dict]:
    """Ratios to PPO with their range, raw seconds, median seconds by phase, and cost by kind."""
    steps = {name: worker.step for name, worker in workers.items()}
    seconds = interleaved(steps, args.repeats, 1, args.device)
    ratios = {name: ratio(values, seconds["ppo"]) for name, values in seconds.items()}
    phases = {name: worker.phases(args.repeats) for name, worker in workers.items()}
    columns = list(phases["ppo"])
    rows = [
        [name, median(seconds[name]), ratios[name]["value"]]
        + [f"{phases[name][c]:.2f}" for c in columns]
        + [f"{workers[name].count('tokens'):,.0f}"]
        for name in workers
    ]
    print(table(["", "s/step", "vs ppo", *columns, "tokens/step"], rows), flush=True)
    counts = {
        name: {kind: worker.count(kind) for kind in ("tokens", "flops")}
        for name, worker in workers.items()
    }
    return ratios, seconds, phases, relative(counts, ratios)


def relative(counts: dict, ratios: dict) -> dict:
    """Tokens, FLOPs and seconds of a step of each method, PPO's being 1."""
    return {
        name: {kind: {"value": count / counts["ppo"][kind]} for kind, count in own.items()}
        | {"seconds": ratios[name]}
        for name, own in counts.items()
    }


@dataclass(frozen=True)
class Noise:
    """A task whose prompts are digits and whose verdicts are drawn from the response."""

    length: int
    name: str = "noise"
    trusted: bool = True

    def problem(self, split: str, index: int):
        from genac.types import Problem

        rng = random.Random(f"{split}/{index}")
        text = "".join(rng.choice("0123456789") for _ in range(self.length))
        return Problem(f"{split}-{index}", text, "", self.name)

    def size(self, split: str) -> None:
        return None

    def verify(self, problem, text: str) -> float:
        return float(random.Random(text).random() < 0.5)


class Forced:
    """An engine whose completions always have their full length, and end as `ending` says."""

    def __init__(self, engine, ending: tuple[int, ...] = ()) -> None:
        self.engine, self.ending = engine, ending

    def __getattr__(self, name: str):
        return getattr(self.engine, name)

    def generate(self, requests):
        done = self.engine.generate([replace(r, stop_ids=(), stop=()) for r in requests])
        keep = -len(self.ending) or None
        return [replace(c, ids=c.ids[:keep] + self.ending) for c in done]


class Worker:
    """One method on the common workload."""

    def __init__(self, cfg, actor, critic, world) -> None:
        from genac.evals.cost import Cost

        self.cfg, self.actor, self.critic, self.world = cfg, actor, critic, world
        self.make_cost, self.history = Cost, []

    @classmethod
    def forced(cls, args, name: str, rationale: int, folder: Path) -> Worker:
        """Untrained models whose texts have the lengths that the arguments say."""
        from genac.stages.setup import Setup

        setup = Setup.of(config(args, name, rationale))
        world = replace(setup.world, task=Noise(48))
        setup = replace(setup, world=replace(world, verifier=verifier(world.task)))
        models = [saved(args, folder, role, rationale) for role in ("actor", "critic")]
        actor = setup.actor(models[0])
        actor.engine = Forced(actor.engine)
        critic = setup.critic(models[1], actor)
        if critic.runtime is not None and critic.runtime.engine is not None:
            ending = critic.runtime.tokenizer.encode("".join(SCORE), add_special_tokens=False)
            critic.runtime.engine = Forced(critic.runtime.engine, tuple(ending))
        return cls(setup.cfg, actor, critic, setup.world)

    def step(self, turn: int) -> None:
        """The phases of stages/joint.py."""
        from genac.credit import credit
        from genac.rollout import collect, problems_at
        from genac.stages.joint import publish, states_to_value

        cfg, actor, critic, cost = self.cfg, self.actor, self.critic, self.make_cost()
        step, count = turn + 10, cfg.rollout.num_prompts
        wait = partial(synchronise, cfg.hardware.device)  # what a phase started is its own
        with cost.clock("actor_sampling", actor):
            problems = problems_at(self.world, "train", step * count, count)
            groups = collect(actor, self.world, problems, "joint", step)
        with cost.clock("critic_sampling", critic.samples_with):
            rollouts = [r for group in groups for r in group]
            estimates = critic.estimate(states_to_value(groups, critic, cfg, actor, step), step)
        with cost.clock("actor_training", actor):
            assigned = credit(groups, estimates, cfg.credit, cfg.rollout.temperature)
            actor.learner.learn(assigned.samples, step)
            wait()
        with cost.clock("critic_training", critic.runtime):
            critic.observe(rollouts)
            critic.learn(estimates, step)
            wait()
        with cost.clock("publish", None):
            publish(actor, critic, step + 1, rollouts[0].prompt_ids)
        self.history.append(cost)

    def phases(self, repeats: int) -> dict[str, float]:
        """Median seconds by phase of the last `repeats` steps."""
        kept = self.history[-repeats:]
        names = dict.fromkeys(name for cost in kept for name in cost.seconds)
        return {name: median(cost.seconds[name] for cost in kept) for name in names}

    def count(self, kind: str) -> float:
        """Tokens or FLOPs of the last step."""
        return self.history[-1].totals()[f"cost/{kind}"]


def config(args, name: str, rationale: int):
    """The shape under the method's ordinary settings."""
    from genac.config.recipes import resolve

    budget = {"learning_rate": 1e-6, "tokens_per_microbatch": 4096}
    recipe = {
        "algorithm": name,
        "seed": args.seed,
        "hardware": {"device": args.device, "threads": args.threads},
        "rollout": {
            "num_prompts": args.prompts,
            "num_generations": args.generations,
            "max_completion_length": args.response,
            "max_rows": 512,
        },
        "states": {
            "splitter": "window",
            "window": args.response // args.states,
            "max_states": args.states,
        },
        "actor": {"optimizer": budget},
        "critic": {
            "optimizer": budget,
            "num_continuations": 9,
            "generative": {"prompt": "compact", "max_new_tokens": rationale},
        },
    }
    return resolve(recipe)


def verifier(task):
    from genac.tasks.verifier import Verifier

    return Verifier(task)


def saved(args, folder: Path, role: str, rationale: int) -> Path:
    """A random model with the tiny tokenizer."""
    from genac.models.tiny import save_tiny

    path = folder / role
    if not path.exists():
        shape = {"hidden_size": args.hidden, "layers": args.layers, "heads": args.heads}
        length = 64 + args.response + 4 * args.rationale + rationale
        alphabet = [chr(c) for c in range(97, 123)]
        save_tiny(path, alphabet, max_length=length, seed=args.seed, **shape)
    return path


def recipe(args) -> None:
    """Seconds per joint step of a recipe, by method, in rounds of short real runs."""
    from genac.runs.store import Run

    rounds, phases, folder = 2 if args.quick else args.repeats, {}, Path(tempfile.mkdtemp())
    counts: dict[str, dict[str, float]] = {}

    def train(name: str, turn: int) -> float:
        out = folder / f"{name}{turn}"
        clock = "time.perf_counter = time.process_time; " if args.cpu_time else ""
        start = f"import sys, time; {clock}from genac.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", start]
        command += ["train", args.recipe, "--algorithm", name]
        command += ["--output_dir", str(out), "--seed", str(args.seed)]
        command += ["--stages.joint.steps", str(args.steps), "--stages.joint.eval_every", "0"]
        command += ["--evaluate.num_problems", "1", "--evaluate.panel_problems", "0"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        summary = Run.open(out).summary()
        seconds = summary["seconds"]
        counts[name] = {
            kind: sum(v for role, v in summary[kind].items() if role != "evaluation")
            for kind in ("tokens", "flops")
        }
        seconds = {k: v / args.steps for k, v in seconds.items() if k != "evaluation"}
        phases.setdefault(name, []).append(seconds)
        return sum(seconds.values())

    work = {name: lambda turn, name=name: train(name, turn) for name in METHODS}
    seconds = interleaved(work, rounds, 1)
    ratios = {name: ratio(values, seconds["ppo"]) for name, values in seconds.items()}
    middle = {
        name: {phase: median(results[phase] for results in kept[1:]) for phase in kept[0]}
        for name, kept in phases.items()
    }
    columns = list(middle["genac"])
    rows = [
        [name, median(seconds[name]), ratios[name]["value"]]
        + [f"{middle[name].get(c, 0.0):.2f}" for c in columns]
        for name in METHODS
    ]
    print(table(["", "s/step", "vs ppo", *columns], rows))
    result = {
        "genac_vs_ppo_default": ratios["genac"]["value"],
        "vineppo_vs_ppo_default": ratios["vineppo"]["value"],
        "cost_relative_to_ppo": relative(counts, ratios),
        "ratios": ratios,
        "phases": middle,
    }
    write_json(args, result, seconds)


if __name__ == "__main__":
    main()
