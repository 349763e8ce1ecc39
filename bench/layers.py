"""A training step on CPU by the layers in C++ and by torch's operations, by the model's size.

    python bench/layers.py [--quick] [--json FILE]

Llama models of a small vocabulary, 16 sequences of 128 tokens. MKL_ENABLE_INSTRUCTIONS=AVX2 and
ATEN_CPU_CAPABILITY=avx2 show a processor without AVX-512. `LARGEST` of genac.models.packed.layers
is the size from which torch trains; this measures on both sides of it.
"""

from __future__ import annotations

import random
from statistics import median
from typing import Any

import numpy as np
from common import interleaved, parse, parser, ratio, table, write_json

# hidden and intermediate size, layers
SIZES = ((128, 352, 4), (256, 688, 8), (384, 1024, 8), (512, 1376, 8), (576, 1536, 8))
VOCABULARY, SAMPLES, LENGTH = 512, 16, 128


def main() -> None:
    args = parse(parser(__doc__.splitlines()[0]))
    import torch

    from genac.hardware import keep_freed_memory

    torch.set_num_threads(args.threads)
    keep_freed_memory()
    rows, result, raw = [], [], {}
    for size in SIZES[:2] if args.quick else SIZES:
        model = llama(*size)
        weights = sum(p.numel() for p in model.model.layers.parameters())
        seconds = measured(args, model)
        gain = ratio(seconds["C++"], seconds["torch"])
        name = "{} x {}, {} layers".format(*size)
        result.append({"size": name, "mib": weights * 4 / 2**20, "torch_faster_by": gain})
        raw |= {f"{name}: {way}": values for way, values in seconds.items()}
        rows.append(
            [
                name,
                f"{weights * 4 / 2**20:.0f}",
                *(f"{SAMPLES * LENGTH / median(seconds[way]):,.0f}" for way in ("C++", "torch")),
                "{value:.2f} [{low:.2f}, {high:.2f}]".format(**gain),
            ]
        )
    print(table(["model", "MiB", "C++, tokens/s", "torch, tokens/s", "torch faster by"], rows))
    write_json(args, {"sizes": result}, raw)


def llama(hidden: int, inner: int, layers: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = hidden // 64
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=LENGTH,
        )
    )


def measured(args: Any, model: Any) -> dict[str, list[float]]:
    """Seconds per step of either way, in turn on the same sequences."""
    from genac.config.models import OptimizerConfig
    from genac.learner import Learner
    from genac.models.packed import layers
    from genac.types import Sample

    learner = Learner(model, OptimizerConfig(learning_rate=1e-9))
    weights = np.ones(LENGTH, np.float32)

    def learn(turn: int, largest: int) -> None:
        rng = random.Random(f"{args.seed}/{turn}")
        rows = [[rng.randrange(VOCABULARY) for _ in range(LENGTH)] for _ in range(SAMPLES)]
        layers.LARGEST = largest
        learner.learn([Sample(tuple(row), weights, "sft") for row in rows], seed=0)

    ways = {"C++": lambda turn: learn(turn, 2**40), "torch": lambda turn: learn(turn, 0)}
    return interleaved(ways, args.repeats, 1, args.device)


if __name__ == "__main__":
    main()
