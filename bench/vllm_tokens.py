"""New tokens per second: the local engine and vLLM's servers, which `auto` chooses between.

    python bench/vllm_tokens.py --python .vllm-env/bin/python
    python bench/vllm_tokens.py --python .vllm-env/bin/python --model FOLDER   # e.g. SmolLM2-135M

Without --model a model of the arithmetic recipe's shape is sampled, or of the shape that --hidden,
--layers and --heads give. Each round sends both the same requests: groups of eight that share a
prompt, as a step's rollouts do. Rates are per second of wall clock and of processor time, in which
the servers' processes count: on a machine that does other work as well, compare the latter.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import interleaved, parse, parser, ratio, summary, table, write_json

ALPHABET = "abcdefghijklmnopqrstuvwxyz+-*=> \n"
SHARE, CACHE = "0.3", 4.0  # of a GPU that holds the local engine too; GiB of keys and values there
GROUP, PROMPT = 8, 48


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--python", required=True, help="interpreter of an environment with vLLM")
    options.add_argument("--model", type=Path, help="folder of a language model")
    options.add_argument("--rows", type=int, default=64, help="requests of a round")
    options.add_argument(
        "--kv-cache-gb", type=float, help="GiB for keys and values; none = as a run"
    )
    options.add_argument("--new", type=int, default=128, help="tokens that each may write")
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--heads", type=int, default=4)
    args = parse(options)
    if args.quick:
        args.rows, args.new = min(args.rows, 16), min(args.new, 32)
    with tempfile.TemporaryDirectory() as place:
        folder = args.model or tiny(Path(place) / "tiny", args)
        engines = {name: engine(name, folder, Path(place), args) for name in ("local", "vllm")}
        result, seconds = measure(engines, args)
        shape = f"{args.layers} layers of width {args.hidden}"
        result["model"] = args.model.name if args.model else shape
    print(table(["engine", "tokens/s", "tokens/processor s"], result.pop("rows")))
    write_json(args, result, seconds)


def tiny(folder: Path, args: Any) -> Path:
    from genac.models.tiny import save_tiny

    shape = {"hidden_size": args.hidden, "layers": args.layers, "heads": args.heads}
    save_tiny(folder, list(ALPHABET), seed=args.seed, max_length=256, **shape)
    return folder


def engine(name: str, folder: Path, place: Path, args: Any) -> Any:
    """One engine over the model, as a run would have it."""
    import torch

    from genac.config.engines import VllmConfig
    from genac.config.models import OptimizerConfig
    from genac.hardware import Hardware
    from genac.runtime import ModelSpec, build

    cuda = args.device == "cuda"
    cache = args.kv_cache_gb or (CACHE if cuda else None)
    more = ["--gpu-memory-utilization", SHARE] if cuda else []
    cfg = VllmConfig(python=args.python, kv_cache_gb=cache, args=more)
    hardware = Hardware(torch.device(args.device), cuda, 1, args.threads, name, cfg)
    spec = ModelSpec("actor", str(folder), OptimizerConfig(), max_rows=args.rows, folder=place)
    torch.set_num_threads(args.threads)
    return build(spec, hardware)


def requests(runtime: Any, args: Any, turn: int) -> list[Any]:
    """A round's work; prompts are new in every round, so that no cache carries over."""
    from genac.engines.base import Request
    from genac.models.heads import vocabulary

    rng, size = random.Random(f"{args.seed}/{turn}"), vocabulary(runtime.model)
    prompts = [
        tuple(rng.randrange(3, size) for _ in range(PROMPT)) for _ in range(args.rows // GROUP)
    ]
    return [Request(p, args.new, seed=i) for p in prompts for i in range(GROUP)]


def measure(engines: dict[str, Any], args: Any) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Rates of every engine, and the seconds of each round."""
    spent: dict[str, list[float]] = {name: [] for name in engines}

    def work(name: str) -> Callable[[int], float]:
        runtime = engines[name]
        servers = getattr(runtime.engine, "servers", None)

        def run(turn: int) -> float:
            batch, busy = requests(runtime, args, turn), processor(servers)
            begin = time.perf_counter()
            done = runtime.sampler.generate(batch)
            wall = time.perf_counter() - begin
            assert all(len(c.ids) == args.new for c in done)
            if turn >= 0:
                spent[name].append(processor(servers) - busy)
            return wall

        return run

    seconds = interleaved({name: work(name) for name in engines}, args.repeats)
    tokens = args.new * (args.rows // GROUP) * GROUP
    rate = {name: summary([tokens / s for s in values]) for name, values in seconds.items()}
    busy = {name: summary([tokens / s for s in values]) for name, values in spent.items()}
    servers = engines["vllm"].engine.servers
    rows = [[name, rate[name]["median"], busy[name]["median"]] for name in engines]
    return {
        "rows": rows,
        "tokens_per_second": rate,
        "tokens_per_processor_second": busy,
        "local_over_vllm": ratio(seconds["vllm"], seconds["local"]),
        "local_over_vllm_processor": ratio(spent["vllm"], spent["local"]),
        "servers_gib": memory_gib(servers),
        "kv_cache_gb": servers.launch.cfg.kv_cache_gb or (1.0 if args.device == "cpu" else None),
        "work": {"requests": args.rows, "prompt": PROMPT, "group": GROUP, "new": args.new},
    }, seconds


def processor(servers: Any) -> float:
    """Processor seconds of this process and of the servers' so far."""
    tick = os.sysconf("SC_CLK_TCK")
    fields = [text.rpartition(")")[2].split() for text in of_servers(servers, "stat")]
    return time.process_time() + sum((int(f[11]) + int(f[12])) / tick for f in fields)


def memory_gib(servers: Any) -> float:
    """Memory of the servers' processes; what several of them share counts once."""
    texts = of_servers(servers, "smaps_rollup")
    return sum(int(text.split("Pss:")[1].split()[0]) for text in texts) / 2**20


def of_servers(servers: Any, name: str) -> list[str]:
    """A file of /proc of every process that the servers started."""
    groups, result = set(), []
    for pid in servers.pids if servers is not None else ():
        groups |= set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            group = (folder / "stat").read_text().rpartition(")")[2].split()[2]
            if group in groups:
                result.append((folder / name).read_text())
    return result


if __name__ == "__main__":
    main()
