"""What training really takes, and what `genac doctor` estimates.

    python bench/memory.py [--quick] [--json FILE]

A Qwen3 model of 29 M parameters learns one step of 4096 tokens in one micro-batch, half of them
with a loss, with and without gradient checkpointing, each time in a process of its own. Weights,
gradients and moments exist before; the peak is what one more step adds to them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common import Channel, Peer, memory_mib, parse, parser, summary, table, write_json

TOKENS, ROWS, VOCAB = 4096, 4, 8000
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}


def worker(spec: dict[str, Any]) -> None:
    """One step's peak and its estimate, in MiB."""
    channel = Channel()
    import numpy as np
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from genac.commands.doctor.memory import language
    from genac.commands.doctor.model_bytes import Spread, Trained
    from genac.config.models import OptimizerConfig
    from genac.learner import Learner
    from genac.types import Sample

    torch.manual_seed(spec["seed"])
    torch.set_num_threads(spec["threads"])
    bf16 = spec["device"] == "cuda"
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE)).float().to(spec["device"])
    optimizer = OptimizerConfig(
        tokens_per_microbatch=TOKENS, gradient_checkpointing=spec["checkpointing"]
    )
    learner = Learner(model, optimizer, bf16=bf16)
    length = TOKENS // ROWS

    def sample(seed: int) -> Sample:
        ids = np.random.default_rng(seed).integers(0, VOCAB, length)
        weights = np.where(np.arange(length) < length // 2, 0, 1).astype(np.float32)
        return Sample(tuple(ids.tolist()), weights, "sft")

    learner.learn([sample(0)], 0)  # moments exist from now on
    before = clear_peak(spec["device"])
    learner.learn([sample(1 + i) for i in range(ROWS)], 1)
    peak = memory_mib("VmHWM", spec["device"]) - before
    where = Spread(cpu=spec["device"] == "cpu")
    how = Trained(checkpointing=spec["checkpointing"], where=where)
    demand = language(model, "actor", (length // 2, length, length // 2), 0, bf16, how)
    training = TOKENS * demand.token + min(TOKENS * demand.logits, demand.most_logits)
    channel.send({"peak": peak, "estimate": training / 2**20})


def clear_peak(device: str) -> float:
    """Forgets the peak so far. -> MiB in use now."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mib("VmRSS")


def measured(spec: dict[str, Any]) -> dict[str, float]:
    peer = Peer([sys.executable, __file__, "--worker", json.dumps(spec)])
    peer.close()
    return peer.ready


def main() -> None:
    args = parse(parser(__doc__))
    common = {"device": args.device, "threads": args.threads}
    result, rows = {}, []
    for name, checkpointing in (("plain", False), ("gradient checkpointing", True)):
        specs = [
            common | {"checkpointing": checkpointing, "seed": args.seed + i}
            for i in range(1 if args.quick else args.repeats)
        ]
        results = [measured(spec) for spec in specs]
        peaks = summary([f["peak"] for f in results])
        estimate = results[0]["estimate"]
        result[name] = {"peak_mib": peaks, "estimate_mib": estimate}
        rows.append([name, estimate, *peaks.values(), estimate / peaks["median"]])
    print(table(["", "estimate MiB", "peak", "min", "max", "estimate / peak"], rows))
    write_json(args, {"training_memory": result}, None)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(json.loads(sys.argv[2]))
    else:
        main()
