"""A joint run of a few steps: on vLLM's servers, or on several workers. Do its parts agree?

    python bench/joint.py --python .vllm-env/bin/python      # actor and critic on vLLM
    python bench/joint.py --processes 2                      # two workers on Ray

The arithmetic recipe's first stages are trained in one process with the local engine, and much
shortened. From their models the joint stage runs as the options say. Three things have to hold, or
the exit code is 1: every step has metrics, the engine's log-probabilities are those of the learner
(sampling_logp_difference, actor and critic), and every server answers with the weights that were
published last (the probe after each publish, which ends a run by itself).

On one GPU two servers and the learners share its memory: each server takes SHARE of it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import parse, parser, table, write_json

RECIPE = Path(__file__).parents[1] / "recipes" / "arithmetic.yaml"
SHARE, CACHE = "0.2", 1.0  # of the GPU that a server may take; GiB of keys and values
KEY = "sampling/sampling_logp_difference/mean"

# So little that it only tries the call, and just enough for a critic that writes scores.
OPTIMIZER = {"learning_rate": 1e-2, "warmup_steps": 5}
QUICK: dict[str, Any] = {
    "task": {"options": {"min_steps": 1, "max_steps": 2, "operators": "+"}},
    "rollout": {"num_prompts": 4, "max_completion_length": 14},
    "actor": {"tiny": {"hidden_size": 64, "layers": 1, "heads": 2, "max_length": 64}},
    "critic": {"generative": {"max_new_tokens": 16}},
    "stages": {
        "base": {
            "steps": 100,
            "batch_size": 16,
            "options": {"min_steps": 1, "max_steps": 2},
            "optimizer": OPTIMIZER,
        },
        "synthesize": {"num_prompts": 16, "num_generations": 2, "num_states": 48},
        "sft": {"epochs": 6, "batch_size": 8, "optimizer": OPTIMIZER},
    },
}


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--python", help="interpreter of an environment with vLLM")
    options.add_argument("--processes", type=int, default=1, help="workers with a device each")
    options.add_argument("--steps", type=int, default=3)
    args = parse(options)
    if not args.python and args.processes < 2:
        options.error("name --python for vLLM, or --processes 2 or more")
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        models = prepared(Path(place), args)
        middle = time.perf_counter()
        probes = recorded()
        run = finished(Path(place), "joint", args, models, hardware(args))
        seconds = {"first stages": [middle - begin], "joint": [time.perf_counter() - middle]}
        result = judged(run, probes, args)
    print(table(["", "largest", "allowed"], result.pop("rows")))
    write_json(args, result, seconds)
    return 0 if result["agrees"] else 1


def finished(
    place: Path, name: str, args: Any, models: dict[str, Any], machine: dict[str, Any]
) -> Any:
    """A run of the shortened recipe."""
    from genac.config.algorithms import merge
    from genac.config.recipes import read_recipe, resolve
    from genac.runs.store import Run
    from genac.stages.pipeline import train

    small = {
        "output_dir": str(place / name),
        "seed": args.seed,
        "rollout": {"max_rows": 64},
        "stages": {
            "folder": str(place / "stages"),
            "base": {"steps": 400},
            "synthesize": {"num_prompts": 64, "num_states": 600},
            "sft": {"epochs": 2},
            "critic_rl": {"steps": 0},
            "joint": {"steps": args.steps, "eval_every": 0, "save_every": 100},
        },
        "evaluate": {"num_problems": 4, "num_samples": 1, "during": 1, "panel_problems": 0},
        "hardware": {"device": args.device, "threads": args.threads},
    }
    for part in (QUICK if args.quick else {}, models, {"hardware": machine}):
        small = merge(small, part)
    recipe = merge(read_recipe(RECIPE), small)
    recipe.pop("per_algorithm")  # their stages are longer
    return Run.open(train(resolve(recipe)))


def prepared(place: Path, args: Any) -> dict[str, Any]:
    """Actor and critic after their first stages, as overrides of a run that starts from them."""
    finished(place, "first", args, {"stages": {"joint": {"steps": 1}}}, {"engine": "local"})
    (actor,), (critic,) = (
        [*(place / "stages").glob(f"{name}-*/model")] for name in ("base", "critic_sft")
    )
    return {
        "actor": {"model_name_or_path": str(actor)},
        "critic": {"model_name_or_path": str(critic)},
        "stages": {"sft": {"epochs": 0}},
    }


def hardware(args: Any) -> dict[str, Any]:
    """The keys that say where the joint stage runs."""
    if not args.python:
        return {"engine": "local", "processes": args.processes}
    more = ["--enforce-eager", "--gpu-memory-utilization", SHARE] if args.device == "cuda" else []
    servers = {"python": os.path.abspath(args.python), "kv_cache_gb": CACHE, "args": more}
    return {"engine": "vllm", "processes": args.processes, "vllm": servers}


def recorded() -> dict[str, list[float]]:
    """By role, what every later probe of a server measures."""
    from genac.engines.vllm import engine

    compare: Callable[..., float] = engine.require_same_weights
    results: dict[str, list[float]] = {}

    def probe(source: Any, *rest: Any) -> float:
        difference = compare(source, *rest)
        results.setdefault(source.role, []).append(difference)
        return difference

    engine.require_same_weights = probe
    return results


def judged(run: Any, probes: dict[str, list[float]], args: Any) -> dict[str, Any]:
    """What the steps and the probes say, against what is allowed."""
    from genac.engines.vllm.weights import TOLERANCE

    limit = TOLERANCE["bf16" if args.device == "cuda" else "fp32"]
    steps = run.metrics("joint")
    apart = {
        role: [line[key] for line in steps if line.get(key) is not None]
        for role, key in (("actor", KEY), ("critic", f"critic/{KEY}"))
    }
    every = {**{f"{role}, steps": values for role, values in apart.items()},
             **{f"{role}, probes": values for role, values in probes.items()}}  # fmt: skip
    agrees = all(values and max(values) <= limit for values in every.values())
    agrees = agrees and len(steps) == args.steps and (not args.python or len(probes) == 2)
    rows = [[name, max(values, default=None), limit] for name, values in every.items()]
    return {
        "agrees": agrees, "steps": len(steps), "logp_difference": apart, "probes": probes,
        "allowed": limit, "processes": args.processes, "rows": rows,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
