"""New tokens per second: our engine, transformers and (where one is installed) vLLM's CPU build.

    python bench/engine.py --json engine.json --vllm-python vllm-env/bin/python

Three kinds of work, all on the same random weights in fp32 (bf16 on a GPU) and with the same number
of threads:

    uniform   prompts of 48 tokens, exactly 128 new tokens each, batches of 64, 128 and 256
    ragged    two requests per row of the batch, limits spread evenly over 8..128 (vLLM may hold all
              of them at once)
    groups    as uniform, eight requests share a prompt

The end token lies outside the vocabulary, so every candidate does the same work. Prompts are new in
every round, so no cache carries over from one to the next. Ours returns log-probabilities, which
the others are not measured. What counts as transformers' rate (`vs_transformers`) is the fastest
of its candidates; `vs_generate` is against model.generate as it comes.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from common import Peer, Seconds

PROMPT, GROUP, BATCHES, BATCH = 48, 8, (64, 128, 256), 128
OURS, VLLM = "genac", "vLLM CPU"


@dataclass(frozen=True)
class Work:
    """Requests of one round: prompts, how many tokens each may write, rows decoded together."""

    prompts: list[list[int]]
    limits: list[int]
    rows: int


Candidate = Callable[[Work], Any]


def draw(kind: str, rows: int, new: int, vocab: int, seed: str) -> Work:
    """The work of one round, a pure function of its seed."""
    rng = random.Random(seed)
    count = 2 * rows if kind == "ragged" else rows
    share = GROUP if kind == "groups" else 1
    distinct = [[rng.randrange(3, vocab) for _ in range(PROMPT)] for _ in range(count // share)]
    shortest = 8 if kind == "ragged" else new
    limits = [shortest + (new - shortest) * i // (count - 1) for i in range(count)]
    rng.shuffle(limits)
    return Work([p for p in distinct for _ in range(share)], limits, rows)


def ours(model: Any, rows: int) -> Candidate:
    """This library's local engine."""
    from genac.engines.base import Request
    from genac.engines.local import LocalEngine

    cfg = model.config
    engine = LocalEngine(model, cfg.max_position_embeddings, max_rows=rows)

    def run(work: Work) -> None:
        queries = zip(work.prompts, work.limits, strict=True)
        requests = [
            Request(tuple(prompt), limit, seed=i, stop_ids=(cfg.eos_token_id,))
            for i, (prompt, limit) in enumerate(queries)
        ]
        require_lengths([len(c.ids) for c in engine.generate(requests)], work.limits)

    return run


def generation(model: Any, new: int, **options: Any) -> Any:
    """Plain sampling at temperature 1: no warper is left that would cost time."""
    from transformers import GenerationConfig

    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
    end = model.config.eos_token_id
    return GenerationConfig(max_new_tokens=new, eos_token_id=end, **plain, **options)


def transformers_generate(model: Any, *, presorted: bool = False, **options: Any) -> Candidate:
    """model.generate on one batch after the other, each as long as its longest request.

    presorted: requests of similar limits share a batch, as if lengths were known beforehand.
    """
    import torch

    def run(work: Work) -> None:
        key = work.limits.__getitem__ if presorted else None
        order = sorted(range(len(work.prompts)), key=key)
        for low in range(0, len(order), work.rows):
            chosen = order[low : low + work.rows]
            ids = torch.tensor([work.prompts[i] for i in chosen], device=model.device)
            longest = max(work.limits[i] for i in chosen)
            config = generation(model, longest, **options)
            out = model.generate(ids, config, attention_mask=torch.ones_like(ids))
            require_lengths([out.shape[1] - PROMPT], [longest])

    return run


def transformers_continuous(model: Any) -> Candidate:
    """model.generate_batch, with a cache that holds every request and no CUDA graphs on CPU."""
    from transformers import ContinuousBatchingConfig

    model = copy.deepcopy(model)  # it changes the attention implementation of its model
    on_cpu = model.device.type == "cpu"

    def run(work: Work) -> None:
        blocks = sum(-(-(PROMPT + limit) // 16) + 1 for limit in work.limits)
        sizes = {"page_size": 16, "num_blocks": blocks, "max_batch_tokens": 512}
        batching = ContinuousBatchingConfig(**(sizes | {"use_cuda_graph": False} if on_cpu else {}))
        config = generation(model, work.limits[0])
        out = model.generate_batch(work.prompts, config, batching)
        require_lengths([len(o.generated_tokens) for o in out.values()], work.limits)

    return run


def vllm(peer: Peer) -> Candidate:
    """vLLM in its own environment, which times itself."""

    def run(work: Work) -> float:
        reply = peer.ask({"prompts": work.prompts, "limits": work.limits})
        require_lengths(reply["lengths"], work.limits)
        return float(reply["seconds"])

    return run


def require_lengths(results: list[int], expected: list[int]) -> None:
    """Candidates that write too little or too much cannot be compared."""
    if results != expected:
        raise RuntimeError(f"a candidate wrote {sum(results)} tokens instead of {sum(expected)}")


def start_vllm(args: argparse.Namespace, folder: str) -> Peer | None:
    """The vLLM process, or None with a word about it."""
    if args.vllm_python is None:
        print("vLLM is skipped: name an interpreter that has it with --vllm-python", flush=True)
        return None
    spec = {"model": folder, "dtype": args.vllm_dtype, "max_model_len": args.max_length}
    iomp = args.vllm_python.absolute().parent.parent / "lib" / "libiomp5.so"
    command = [str(args.vllm_python), __file__, "--vllm-worker", json.dumps(spec)]
    peer = Peer(
        [*command, "--threads", str(args.threads)],
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_CPU_KVCACHE_SPACE="2",
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
        KMP_BLOCKTIME="1",  # or its threads would spin into the next candidate's time
        LD_PRELOAD=str(iomp) if iomp.exists() else "",  # as vLLM's manual advises
    )
    print(f"vLLM: {peer.ready}", flush=True)
    return peer


def vllm_worker(spec: dict[str, Any]) -> None:
    """Runs under vLLM's interpreter: neither genac nor this transformers exists here."""
    channel = common.Channel()
    import torch
    from vllm import LLM, SamplingParams, __version__

    llm = LLM(**spec, skip_tokenizer_init=True, max_num_seqs=max(BATCHES))
    plain = {"temperature": 1.0, "ignore_eos": True, "detokenize": False}
    about = {"version": __version__, "dtype": spec["dtype"], "threads": torch.get_num_threads()}
    channel.send(about)
    while True:
        work = channel.receive()
        prompts = [{"prompt_token_ids": p} for p in work["prompts"]]
        begin = time.perf_counter()
        settings = [SamplingParams(max_tokens=n, **plain) for n in work["limits"]]
        out = llm.generate(prompts, settings, use_tqdm=False)
        seconds = time.perf_counter() - begin
        lengths = [len(o.outputs[0].token_ids) for o in out]
        channel.send({"seconds": seconds, "lengths": lengths})


def candidates(
    kind: str, rows: int, model: Any, peer: Peer | None, against: str = "all"
) -> dict[str, Candidate]:
    """Who takes part in a kind of work."""
    static = {"cache_implementation": "static", "disable_compile": model.device.type == "cpu"}
    out = {OURS: ours(model, rows)}
    if against == "none":
        return out
    out["generate"] = transformers_generate(model)
    if against == "generate":
        return out
    out["generate, static cache"] = transformers_generate(model, **static)
    if kind == "uniform" and rows == BATCHES[0]:  # several times slower: once is enough
        out["continuous batching"] = transformers_continuous(model)
    if kind == "ragged":
        out["generate, sorted"] = transformers_generate(model, presorted=True, **static)
    return out | ({VLLM: vllm(peer)} if peer else {})


def measure(
    args: argparse.Namespace, kind: str, rows: int, model: Any, peer: Peer | None
) -> tuple[Seconds, int]:
    """Seconds of every candidate, and the new tokens of a round."""
    works = {
        turn: draw(kind, rows, args.new, args.vocab, f"{args.seed}/{kind}/{rows}/{turn}")
        for turn in range(-1, args.repeats)
    }
    runs = {
        name: lambda turn, run=run: run(works[turn])
        for name, run in candidates(kind, rows, model, peer, args.against).items()
    }
    seconds = common.interleaved(runs, args.repeats, 1, args.device)
    return seconds, sum(works[0].limits)


def against(seconds: Seconds, vllm_only: bool) -> dict[str, Any] | None:
    """How many times faster ours is than vLLM, or than the fastest way through transformers."""
    others = [name for name in seconds if name != OURS]
    names = [name for name in others if (name == VLLM) == vllm_only]
    best = min(names, key=lambda name: common.summary(seconds[name])["median"], default=None)
    return best and {"than": best, **common.ratio(seconds[best], seconds[OURS])}


def roofline_fraction(model: Any, new: int, seconds: list[float], gflops: float) -> float:
    """Share of the measured rate of products at the largest batch. Counted are the operations that
    the work needs: the last token is never read, and of a prompt only its end is predicted from.
    """
    rows, read = max(BATCHES), PROMPT + new - 1
    needed = common.model_flops(model, rows * read, rows * read * (read + 1) // 2, rows * new)
    return needed / common.summary(seconds)["median"] / gflops / 1e9


def show(cell: str, seconds: Seconds, tokens: int) -> dict[str, float]:
    """Prints one cell's table; returns tokens per second."""
    rates = {name: tokens / common.summary(spent)["median"] for name, spent in seconds.items()}
    rows = []
    for name, spent in seconds.items():
        span = f"{tokens / max(spent):,.0f} to {tokens / min(spent):,.0f}"
        times = "{value:.2f} ({low:.2f} to {high:.2f})".format(**common.ratio(spent, seconds[OURS]))
        rows.append((cell, name, f"{rates[name]:,.0f}", span, times))
    header = ("work", "candidate", "tokens/s", "range", f"{OURS} is faster by")
    print(common.table(header, rows), flush=True)
    return rates


def main(args: argparse.Namespace) -> None:
    import torch
    from transformers.utils import logging

    from genac.models.tiny import build_model

    logging.set_verbosity_error()  # it warns that the end token lies outside the vocabulary
    torch.set_num_threads(args.threads)
    shape = (args.vocab, args.hidden, args.layers, args.heads, args.max_length, args.seed)
    model = build_model(*shape, eos_token_id=args.vocab).eval()
    model = model.to(args.device, common.precision(args.device))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        peer = start_vllm(args, folder)
    limits = common.roofline(args.device)
    seconds, rates, ratios = {}, {}, {}
    for kind, rows in [*(("uniform", b) for b in BATCHES), ("ragged", BATCH), ("groups", BATCH)]:
        cell = f"{kind} {rows}"
        seconds[cell], tokens = measure(args, kind, rows, model, peer)
        rates[cell] = show(cell, seconds[cell], tokens)
        ratios[cell] = {
            "transformers": against(seconds[cell], vllm_only=False),
            "vllm_cpu": against(seconds[cell], vllm_only=True),
        }
    chosen, largest = ratios[f"uniform {BATCH}"], seconds[f"uniform {max(BATCHES)}"][OURS]
    result = {f"vs_{name}": results and results["value"] for name, results in chosen.items()}
    share = roofline_fraction(model, args.new, largest, limits["gemm_gflops"])
    plain = seconds[f"uniform {BATCH}"]
    if "generate" in plain:
        result["vs_generate"] = common.ratio(plain["generate"], plain[OURS])["value"]
    result |= {"roofline_fraction": share, "roofline": limits}
    print(result)
    about = {"shape": shape, "prompt": PROMPT, "new": args.new, "vllm": peer and peer.ready}
    result |= {"ratios": ratios, "tokens_per_second": rates, "work": about}
    common.write_json(args, result, seconds)


def arguments() -> argparse.Namespace:
    out = common.parser("New tokens per second of our engine, transformers and vLLM")
    for name, value in (("hidden", 128), ("layers", 4), ("heads", 4), ("vocab", 64)):
        out.add_argument(f"--{name}", type=int, default=value)
    out.add_argument("--new", type=int, help="new tokens per request; default 128, quick 32")
    out.add_argument(
        "--against",
        choices=("all", "generate", "none"),
        default="all",
        help="what to measure besides ours; all of them compile for minutes on a GPU",
    )
    out.add_argument("--vllm-python", type=Path, help="an interpreter whose environment has vLLM")
    out.add_argument("--vllm-dtype", default="float32")
    out.add_argument("--vllm-worker", help=argparse.SUPPRESS)
    args = common.parse(out)
    args.new = args.new or (32 if args.quick else 128)
    args.max_length = max(256, PROMPT + args.new)
    return args


if __name__ == "__main__":
    args = arguments()
    vllm_worker(json.loads(args.vllm_worker)) if args.vllm_worker else main(args)
