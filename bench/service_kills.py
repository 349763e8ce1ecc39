"""A critic service that is killed while it learns; see service.py."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service_process import DEADLINE, Service, request

TRIES = 5  # of a request whose server was killed once


def killed(critic: Path, place: Path, args: Any) -> dict[str, Any]:
    """The same steps with and without kills."""
    steps = args.kills + max(2, args.kills // 4)
    whole, whole_exit, _, length = steps_on(critic, place / "whole", steps, [], args)
    draw = random.Random(f"{args.seed}/kills")
    # Up to a quarter later than a learn takes: also right behind its acknowledgement.
    moments = [draw.uniform(0, 1.25 * length) for _ in range(args.kills)]
    result, code, starts, _ = steps_on(critic, place / "killed", steps, moments, args)
    learnt = sorted(result.values())
    return {
        "kills": args.kills,
        "moments": moments,
        "learn_seconds": length,
        "starts": starts,
        "steps": steps,
        "lost": sum(name not in result for name in whole),
        "twice": len(learnt) - len(set(learnt)),
        "equal": result == whole and alike(place / "whole", place / "killed", steps),
        "exit": abs(code) + abs(whole_exit),
    }


def steps_on(
    critic: Path, folder: Path, steps: int, moments: Sequence[float], args: Any
) -> tuple[dict[str, int], int, int, float]:
    """By request the step at which it was learnt, as the server says in the end; the exit code;
    starts; seconds of a learn.
    """
    from genac.client import Client

    service, seconds = Service(critic, args, folder), []
    try:
        with Client(service.url, timeout=DEADLINE, retries=0) as client:
            for step in range(steps):
                moment = moments[step] if step < len(moments) else None
                seconds.append(one_step(service, client, step, moment, args.seed))
            names = [f"learn-{step}" for step in range(steps)]
            replies = [finished(client, name) for name in names]
        learnt = {r.request_id: r.step for r in replies if r is not None and r.step is not None}
        return learnt, service.stop(), service.starts, sorted(seconds)[len(seconds) // 2]
    finally:
        if service.process.poll() is None:
            service.kill()


def one_step(service: Service, client: Any, step: int, moment: float | None, seed: int) -> float:
    """A trainer's step, which asks again whatever had no answer; seconds of its last learn."""
    from genac.client import Gone, Learn, ServiceError

    responses = request(step, seed, id=f"ask-{step}")
    learn = Learn(request_id=f"learn-{step}", estimates=responses.id, wait=step % 3 != 2)
    client.advantages(responses)
    killer = None if moment is None else threading.Timer(moment, service.kill)
    if killer is not None:
        killer.start()
    spent = 0.0
    for tries in range(1, TRIES + 1):
        try:
            begin = time.perf_counter()
            client.learn(learn)
            spent = time.perf_counter() - begin
            break
        except Gone:  # the server was killed before it had the request
            client.advantages(responses)
        except ServiceError:
            if killer is None or tries == TRIES:
                raise
            killer.join()
            service.revive()
    if killer is not None:
        killer.join()
        service.revive()
    return spent


def finished(client: Any, name: str) -> Any:
    """What became of a request, once it waits no more; None where the server does not know it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        reply = client.learnt(name)
        if reply is None or reply.status != "queued":
            return reply
        time.sleep(0.02)
    raise TimeoutError(f"{name} waits for more than {DEADLINE:g} s")


def alike(a: Path, b: Path, step: int) -> bool:
    """Whether two checkpoints hold the same weights, optimiser, success rate and requests."""
    import torch

    from genac.checkpoint import saved_state

    a, b = (folder / f"step-{step:06d}" for folder in (a, b))
    files = [sorted((folder / "critic").glob("*.safetensors")) for folder in (a, b)]
    weights = [[f.read_bytes() for f in own] for own in files]
    optimizers = [
        torch.load(folder / "critic.optimizer.pt", weights_only=True) for folder in (a, b)
    ]
    return (
        bool(weights[0])
        and weights[0] == weights[1]
        and same(*optimizers)
        and saved_state(a) == saved_state(b)
    )


def same(a: Any, b: Any) -> bool:
    """Equality to the bit of nested values with tensors."""
    import torch

    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
