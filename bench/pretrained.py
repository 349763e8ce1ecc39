"""A pretrained model on this machine: sampling and learning in fp32 and bf16, and what bf16 costs.

    python bench/pretrained.py MODEL [--quick] [--cpu-time] [--json FILE]

MODEL is a Hugging Face folder, a hub name or a GGUF file (its folder is kept in runs/stages).

    speed       tokens per second, and the share of the rate that square products of the same
                precision reach on the same machine (GEMM roofline)
    rounding    mean and largest difference, in nats per sampled token, between the engine that
                sampled in bf16, the learner and the model in fp32

Prompts are random tokens and differ in every round, so nothing carries over. The end token lies
outside the vocabulary, so every candidate does the same work.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from common import (
    interleaved,
    model_flops,
    parse,
    parser,
    ratio,
    roofline,
    summary,
    table,
    write_json,
)

PROMPT = 48
NAMES = ("fp32", "bf16")


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("model", help="folder, hub name or GGUF file")
    options.add_argument("--rows", type=int, default=64, help="sequences decoded together")
    options.add_argument("--new", type=int, default=32, help="tokens that each writes")
    options.add_argument("--samples", type=int, default=16, help="sequences of a training step")
    options.add_argument("--length", type=int, default=128, help="tokens of each")
    args = parse(options)
    if args.quick:
        args.rows, args.new, args.samples = 16, 8, 4
    import torch

    from genac.hardware import keep_freed_memory
    from genac.models.loading import load_model
    from genac.stages.local_models import local_model

    torch.set_num_threads(args.threads)
    keep_freed_memory()
    model = load_model(local_model(args.model, "runs/stages"))
    dtypes = dict(zip(NAMES, (torch.float32, torch.bfloat16), strict=True))
    limits = {name: roofline(args.device, dtype=dtype) for name, dtype in dtypes.items()}
    rounded = rounding(args, model, dtypes)
    seconds = speed(args, model, dtypes)
    result = {
        "roofline": limits,
        "rounding": rounded,
        "speed": shares(args, model, seconds, limits),
        "bf16_vs_fp32": {
            kind: ratio(seconds[f"{kind}, fp32"], seconds[f"{kind}, bf16"])
            for kind in ("sampling", "learning")
        },
    }
    write_json(args, result, seconds)


def speed(args: argparse.Namespace, model: Any, dtypes: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of a round of sampling and of a training step, in both precisions in turn."""
    from genac.config.models import OptimizerConfig
    from genac.engines.local import LocalEngine
    from genac.learner import Learner
    from genac.types import Sample

    limit, candidates = PROMPT + args.new, {}
    weights = np.ones(args.length, np.float32)
    weights[:PROMPT] = 0.0
    for name, dtype in dtypes.items():
        engine = LocalEngine(model, limit, max_rows=args.rows, dtype=dtype)
        optimizer = OptimizerConfig(learning_rate=1e-9)  # the weights stay what they are
        learner = Learner(model, optimizer, bf16=name == "bf16")

        def sample(turn: int, engine: Any = engine) -> None:
            engine.generate(requests(args, model, turn))

        def learn(turn: int, learner: Any = learner) -> None:
            rows = drawn(model, args.samples, args.length, f"learn/{args.seed}/{turn}")
            learner.learn([Sample(ids=row, weights=weights, loss="sft") for row in rows], seed=0)

        candidates[f"sampling, {name}"], candidates[f"learning, {name}"] = sample, learn
    return interleaved(candidates, args.repeats, 1, args.device)


def requests(args: argparse.Namespace, model: Any, turn: int) -> list[Any]:
    from genac.engines.base import Request

    rows = drawn(model, args.rows, PROMPT, f"sample/{args.seed}/{turn}")
    return [Request(row, args.new, seed=i) for i, row in enumerate(rows)]


def drawn(model: Any, count: int, length: int, seed: str) -> list[tuple[int, ...]]:
    rng, vocabulary = random.Random(seed), model.config.vocab_size
    return [tuple(rng.randrange(vocabulary) for _ in range(length)) for _ in range(count)]


def shares(
    args: argparse.Namespace, model: Any, seconds: dict[str, list[float]], limits: dict[str, Any]
) -> dict[str, Any]:
    """Tokens per second and the share of the GEMM roofline, printed as a table."""
    steps, tokens = args.rows * args.new, args.samples * args.length
    read = args.rows * PROMPT + steps
    seen = args.rows * (PROMPT + args.new) ** 2 / 2
    trained = args.samples * (args.length - PROMPT)
    work = {
        "sampling": (steps, model_flops(model, read, seen, steps)),
        # Forward, and twice as much backward.
        "learning": (
            tokens,
            3 * model_flops(model, tokens, args.samples * args.length**2 / 2, trained),
        ),
    }
    result = {}
    for name, values in seconds.items():
        kind, precision = name.split(", ")
        count, flops = work[kind]
        gflops = flops / median(values) / 1e9
        share = gflops / limits[precision]["gemm_gflops"]
        rate = summary([count / value for value in values])
        result[name] = {"tokens_per_second": rate, "gflops": gflops, "of_roofline": share}
    rows = [
        [name, f"{r['tokens_per_second']['median']:,.0f}", f"{r['gflops']:.0f}",
         f"{100 * r['of_roofline']:.0f} %"]
        for name, r in result.items()
    ]  # fmt: skip
    print(table(["", "tokens/s", "GFLOP/s", "of the roofline"], rows), flush=True)
    return result


def rounding(args: argparse.Namespace, model: Any, dtypes: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities of what the bf16 engine sampled, by four ways to compute them."""
    from genac.config.models import OptimizerConfig
    from genac.engines.local import LocalEngine
    from genac.learner import Learner
    from genac.types import Sample

    few = argparse.Namespace(**(vars(args) | {"rows": min(16, args.rows)}))
    batch = requests(few, model, -2)
    engines = {
        name: LocalEngine(model, PROMPT + args.new, max_rows=few.rows, dtype=dtype)
        for name, dtype in dtypes.items()
    }
    out = {name: engine.generate(batch) for name, engine in engines.items()}

    def learner(name: str, sampled: str) -> np.ndarray:
        samples = []
        for request, answer in zip(batch, out[sampled], strict=True):
            ids = (*request.prompt_ids, *answer.ids)
            weights = np.ones(len(ids), np.float32)
            weights[:PROMPT] = 0.0
            samples.append(Sample(ids=ids, weights=weights, loss="sft"))
        computed = Learner(model, OptimizerConfig(), bf16=name == "bf16").logprobs(samples)
        return np.concatenate([row[PROMPT:] for row in computed])

    own = {name: np.concatenate([answer.logprobs for answer in out[name]]) for name in NAMES}
    exact = learner("fp32", "bf16")
    half = learner("bf16", "bf16")
    pairs = {
        "engine fp32, learner fp32": (own["fp32"], learner("fp32", "fp32")),
        "engine bf16, learner bf16": (own["bf16"], half),
        "engine bf16, learner fp32": (own["bf16"], exact),
        "learner bf16, learner fp32": (half, exact),
    }
    result = {name: apart(*pair) for name, pair in pairs.items()}
    rows = [[name, f"{r['mean']:.1e}", f"{r['largest']:.1e}"] for name, r in result.items()]
    print(table(["nats per token", "mean", "largest"], rows), flush=True)
    return result


def apart(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    gap = np.abs(np.asarray(one) - np.asarray(other))
    return {"mean": float(gap.mean()), "largest": float(gap.max()), "tokens": len(gap)}


if __name__ == "__main__":
    main()
