"""What shared prefixes save: values per second, and training on the rationales, with and without.

    python bench/critic.py [--quick] [--json FILE]

A critic reads responses cut into states, writes a rationale of fixed length about each, and trains
on the rationales. "separate" is the same engine and the same learner, set to share nothing: every
state is its own prompt (rows of one length together), every sample its own row.
"""

from __future__ import annotations

import numpy as np
from common import (
    interleaved,
    model_flops,
    parse,
    parser,
    precision,
    ratio,
    roofline,
    table,
    write_json,
)

GRID = ((4, 256), (8, 256), (16, 256), (4, 1024), (8, 1024), (16, 1024), (16, 2048))


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--heads", type=int, default=4)
    options.add_argument("--vocab", type=int, default=64)
    options.add_argument("--rationale", type=int, default=64, help="tokens written per state")
    options.add_argument(
        "--question", type=int, default=8, help="tokens between state and rationale"
    )
    options.add_argument("--rows", type=int, default=128, help="states scored at a time")
    args = parse(options)
    args.rows = args.rows // 2 if args.quick else args.rows
    import torch

    torch.set_num_threads(args.threads)
    limits = roofline(args.device)
    print(f"GEMM roofline {limits['gemm_gflops']:.0f} GFLOP/s, copy {limits['copy_gbs']:.0f} GB/s")
    cells, seconds = {}, {}
    grid = [(16, 1024)] if args.quick else GRID
    for states, response in grid:
        name = f"{states} states of {response} tokens"
        cells[name], seconds[name] = cell(args, states, response, limits)
        print(table(*rows(name, cells[name])), flush=True)
    target = cells["16 states of 1024 tokens"]
    result = {
        "scoring_speedup": target["scoring_speedup"]["value"],
        "training_speedup": target["training_speedup"]["value"],
        "cells": cells,
        "roofline": limits,
    }
    write_json(args, result, seconds)


def rows(name: str, result: dict) -> tuple[list[str], list[list]]:
    """A cell as a table."""
    out = []
    for kind, unit in (("scoring", "values/s"), ("training", "rationales/s")):
        gain = result[f"{kind}_speedup"]
        spread = f"[{gain['low']:.2f}, {gain['high']:.2f}]"
        shared, separate = result[f"{kind}_shared"], result[f"{kind}_separate"]
        used = result[f"{kind}_roofline_fraction"]
        out.append([kind, unit, separate, shared, gain["value"], spread, used])
    return [name, "", "separate", "shared", "speedup", "range", "of GEMM roofline"], out


def cell(args, states: int, response: int, limits: dict) -> tuple[dict, dict]:
    """One length and number of states: rates, speedups with their range, share of the roofline."""
    model, prompts, prefixes = workload(args, states, response)
    engines = {share: engine(args, model, share) for share in (True, False)}
    requests = requests_of(args, prompts)
    learners = {share: learner(args, model, share) for share in (True, False)}
    samples = rationales(args, prompts)
    result, raw = {}, {}
    for kind, work in (
        ("scoring", lambda share, turn: engines[share].generate(requests) and None),
        ("training", lambda share, turn: learners[share].learn(samples, 0) and None),
    ):
        both = {
            "shared": lambda turn, work=work: work(True, turn),
            "separate": lambda turn, work=work: work(False, turn),
        }
        times = interleaved(both, args.repeats, 1, args.device)
        done = ratio(times["separate"], times["shared"])
        median = {name: float(np.median(values)) for name, values in times.items()}
        flops = shared_flops(args, model, prompts, prefixes) * (3 if kind == "training" else 1)
        result |= {
            f"{kind}_speedup": done,
            f"{kind}_shared": len(prompts) / median["shared"],
            f"{kind}_separate": len(prompts) / median["separate"],
            f"{kind}_roofline_fraction": flops / median["shared"] / 1e9 / limits["gemm_gflops"],
        }
        raw[kind] = times
    return result, raw


def workload(args, states: int, response: int) -> tuple:
    """Prompts of all states: problem, the response up to the boundary, the question."""
    from genac.models.tiny import build_model

    longest = 32 + response + args.question + args.rationale
    shape = (args.vocab, args.hidden, args.layers, args.heads)
    model = build_model(*shape, max_length=longest, seed=args.seed).to(args.device)
    rng = np.random.default_rng(args.seed)
    draw = lambda n: tuple(rng.integers(3, args.vocab, n).tolist())  # noqa: E731
    question, prompts, prefixes = draw(args.question), [], []
    for _ in range(max(1, args.rows // states)):
        problem, written = draw(32), draw(response)
        starts = [response * s // states for s in range(states)]
        prompts += [problem + written[:start] + question for start in starts]
        prefixes.append(32 + starts[-1])
    return model, prompts, prefixes


def engine(args, model, share: bool):
    from genac.engines.local import LocalEngine

    limit, dtype = model.config.max_position_embeddings, precision(args.device)
    return LocalEngine(model, limit, args.rows, dtype, share=share)


def requests_of(args, prompts: list) -> list:
    from genac.engines.base import Request

    return [Request(p, args.rationale, seed=i) for i, p in enumerate(prompts)]


def learner(args, model, share: bool):
    import copy

    from genac.config.models import OptimizerConfig
    from genac.learner import Learner

    optimizer = OptimizerConfig(learning_rate=1e-6, tokens_per_microbatch=4096)
    one = Learner(copy.deepcopy(model), optimizer, bf16=args.device == "cuda")
    one.shares_prefixes = one.shares_prefixes and share
    return one


def rationales(args, prompts: list) -> list:
    """Policy samples: a random rationale behind every prompt."""
    from genac.types import Sample

    rng = np.random.default_rng(args.seed + 1)
    out = []
    for prompt in prompts:
        ids = prompt + tuple(rng.integers(3, args.vocab, args.rationale).tolist())
        weights = np.zeros(len(ids), np.float32)
        weights[len(prompt) :] = 1.0
        zero = np.zeros(len(ids), np.float32)
        out.append(Sample(ids, weights, "policy", advantages=weights, old_logprobs=zero - 4.0))
    return out


def shared_flops(args, model, prompts: list, prefixes: list) -> float:
    """Operations of one pass in which every shared prefix is read once."""
    suffix = args.question + args.rationale
    contexts = sum(t * t // 2 for t in prefixes)
    contexts += sum((len(p) - args.question) * suffix + suffix * suffix // 2 for p in prompts)
    tokens = sum(prefixes) + len(prompts) * suffix
    return model_flops(model, tokens, contexts, len(prompts) * args.rationale)


if __name__ == "__main__":
    main()
