"""The critic service under load, and killed while it learns.

    python bench/service.py [--clients 64] [--states 10000] [--kills 20]

Load: clients that each wait for a reply before they send the next request, against the same critic
in this process, which gets the same requests one after another. Clients and server share the
machine. Values per second count what is replied; identical states of a request are judged once.
Memory is the server's, from a quarter of the requests on.

Kills: a trainer's steps (advantages, then learn, every third one queued) on a server that gets
SIGKILL at random moments of a learn and is started again with the same command. In the end weights,
optimiser and success rate must be those of a server that nobody killed, every request that was
acknowledged learnt, and none twice; then SIGTERM must end it with exit code 0. Else this exits 1.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import memory_mib, parse, parser, table, write_json
from service_kills import killed
from service_process import DEADLINE, VALUES, Service, prepared, request

FLAT = 1.1  # memory at the end over that at a quarter of the requests


def main() -> int:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--states", type=int, default=10_000, help="values to be given")
    options.add_argument("--kills", type=int, default=20)
    args = parse(options)
    if args.quick:
        args.clients, args.states, args.kills = 8, min(args.states, 600), min(args.kills, 2)
    with tempfile.TemporaryDirectory() as place:
        critic = prepared(Path(place), args)
        load, seconds = loaded(critic, args) if args.states else ({}, {})
        kills = killed(critic, Path(place), args) if args.kills else {}
    if load:
        print(table(["", "values/s", "p50 s", "p99 s", "cpu s"], load.pop("rows")))
        print(f"memory {load['memory']['last']:.0f} MiB, {load['memory']['growth']:.3f} of before")
    if kills:
        print(table(["kills", "starts", "steps", "equal", "lost", "twice", "exit"],
                    [[kills[k] for k in ("kills", "starts", "steps", "equal", "lost", "twice",
                                         "exit")]]))  # fmt: skip
    write_json(args, {"load": load, "kills": kills}, seconds)
    flat = not load or load["memory"]["flat"]
    right = not kills or (kills["equal"] and not kills["lost"] + kills["twice"] + kills["exit"])
    return 0 if flat and right else 1


# --- load ----------------------------------------------------------------------------------------


def loaded(critic: Path, args: Any) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Values per second, latency and memory of the server, and of the critic in this process."""
    each, count = VALUES, -(-args.states // VALUES)
    requests = [request(number, args.seed) for number in range(count)]
    seconds = {}
    seconds["in process"], own_cpu = in_process(critic, requests, args)
    service = Service(critic, args)
    try:
        begin, cpu = time.perf_counter(), service.cpu
        seconds["service"], memory = asyncio.run(served(service, requests, args.clients))
        whole, cpu = time.perf_counter() - begin, service.cpu - cpu
    finally:
        service.kill()
    alone = sum(seconds["in process"])
    quarter, last = memory[len(memory) // 4], memory[-1]
    rows = [
        ["in process", count * each / alone, *quantiles(seconds["in process"]), own_cpu],
        [f"{args.clients} clients", count * each / whole, *quantiles(seconds["service"]), cpu],
    ]
    result = {
        "clients": args.clients,
        "values": count * each,
        "values_of_a_request": each,
        "values_per_second": {"in process": rows[0][1], "service": rows[1][1]},
        "ratio": rows[1][1] / rows[0][1],
        "latency": {
            name: dict(zip(("p50", "p99"), row[2:4], strict=True))
            for name, row in (("in process", rows[0]), ("service", rows[1]))
        },
        "cpu_seconds": {"in process": own_cpu, "service": cpu},
        "memory": {
            "series": memory,
            "quarter": quarter,
            "last": last,
            "growth": last / quarter,
            "flat": last <= FLAT * quarter,
            "client": memory_mib("VmRSS"),
        },
        "rows": rows,
    }
    return result, seconds


def in_process(critic: Path, requests: Sequence[Any], args: Any) -> tuple[list[float], float]:
    """Seconds of each request, and of the processor for all."""
    from genac.config.run import HardwareConfig
    from genac.service import LearningCritic

    hardware = HardwareConfig(device=args.device, threads=args.threads)
    own = LearningCritic.from_pretrained(critic, seed=args.seed, hardware=hardware)
    own.values(requests[0])  # warms up
    seconds, cpu = [], time.process_time()
    for one in requests:
        begin = time.perf_counter()
        own.values(one)
        seconds.append(time.perf_counter() - begin)
    return seconds, time.process_time() - cpu


async def served(
    service: Service, requests: Sequence[Any], clients: int
) -> tuple[list[float], list[float]]:
    """Seconds of each request, and the server's memory after each."""
    from genac.client import AsyncClient

    left, seconds, memory = iter(requests), [], []

    async def one() -> None:
        async with AsyncClient(service.url, timeout=DEADLINE) as client:
            for item in left:
                begin = time.perf_counter()
                await client.values(item)
                seconds.append(time.perf_counter() - begin)
                memory.append(service.memory)

    await asyncio.gather(*(one() for _ in range(clients)))
    return seconds, memory


def quantiles(values: Sequence[float]) -> list[float]:
    """p50 and p99."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.5, 0.99)]


if __name__ == "__main__":
    sys.exit(main())
