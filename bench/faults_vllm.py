"""SIGKILLs of vLLM's servers at random moments of a tiny run, and how it goes on.

    python bench/faults_vllm.py --python .vllm-env/bin/python --results FILE [--kills 20]

The actor of a GenAC run is sampled on vLLM. A kill is one of a server's processes, drawn at random,
at a random moment at which it answers: *main* answers requests, *engine* computes, *tracker* is
Python's own, whose death is nobody's loss. As in bench/faults.py: a run that has come to its end is
followed by another one until there are enough kills, FILE has a line per run, and what it holds is
not run again. Nearly all of the seconds until the next new step are vLLM's start.
"""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Any

from faults import Job, measure, options

from genac.config.algorithms import merge

OPTIMIZER = {"learning_rate": 1e-2, "warmup_steps": 5}
# As the micro recipe, with heads that vLLM's CPU build knows.
RECIPE: dict[str, Any] = {
    "task": {"name": "arithmetic", "options": {"min_steps": 1, "max_steps": 2, "operators": "+"}},
    "rollout": {"num_prompts": 8, "num_generations": 4, "max_completion_length": 14},
    "actor": {
        "tiny": {"hidden_size": 64, "layers": 1, "heads": 2, "max_length": 64},
        "optimizer": {"learning_rate": 1e-3},
    },
    "critic": {
        "optimizer": {"learning_rate": 1e-3},
        "generative": {"prompt": "compact", "max_new_tokens": 16},
    },
    "stages": {
        "base": {"steps": 100, "batch_size": 16, "check_fraction": 0.3, "optimizer": OPTIMIZER},
        "synthesize": {"num_prompts": 16, "num_generations": 2, "num_states": 48},
        "sft": {"epochs": 6, "batch_size": 8, "optimizer": OPTIMIZER},
        "critic_rl": {"steps": 2},
    },
    "evaluate": {"num_problems": 4, "num_samples": 2, "during": 2, "panel_problems": 0},
    "hardware": {"device": "cpu", "threads": 1},
}


class ServedJob(Job):
    """A run whose servers are killed."""

    def victims(self, kind: str) -> list[tuple[int, str]]:
        """The processes of servers that answer."""
        groups = [s for g in children(self.process.pid) for s in children(g) if answers(g, s)]
        return [(pid, name_of(pid)) for group in groups for pid in members(group)]


def children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(p) for t in tasks for p in (t / "children").read_text().split()]
    except OSError:
        return []


def answers(guardian: int, server: int) -> bool:
    """Whether the child of a guardian is a server that is well."""
    try:
        words = Path(f"/proc/{guardian}/cmdline").read_bytes().decode().split("\0")
        if "--port" not in words or os.getpgid(server) != server:
            return False
        url = f"http://127.0.0.1:{words[words.index('--port') + 1]}/health"
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def members(group: int) -> list[int]:
    """The processes of a group."""
    result = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(name)) == group:
                result.append(int(name))
        except OSError:  # it ended meanwhile
            continue
    return sorted(result)


def name_of(pid: int) -> str:
    """Which of a server's processes it is."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return "ended"
    parts = {"resource_tracker": "tracker", "EngineCore": "engine", "spawn_main": "engine"}
    return next((name for word, name in parts.items() if word in text), "main")


def prepared(folder: Path) -> dict[str, str]:
    """An actor and a critic to start from, made by a run without servers unless they are there."""
    if not (folder / "run" / "done.json").exists():
        job = Job(folder, merge(RECIPE, {"stages": {"joint": {"steps": 1}}}))
        if not job.finish():
            raise RuntimeError(f"the run without servers failed; see {folder / 'log.txt'}")
        job.left()
    newest = lambda name: str(next((folder / "stages").glob(name)))  # noqa: E731
    return {"actor": newest("base-*/model"), "critic": newest("critic_rl-*/model")}


def main() -> None:
    assert __doc__ is not None
    parser = options(__doc__.splitlines()[0], 40, 3.0)
    parser.add_argument("--python", required=True, help="interpreter of an environment with vLLM")
    args = parser.parse_args()
    start = prepared(args.results.with_suffix("").absolute() / "prepared")
    joint = {"steps": args.steps, "save_every": args.steps, "eval_every": 0}
    recipe = merge(
        RECIPE,
        {
            "actor": {"model_name_or_path": start["actor"], "engine": "vllm"},
            "critic": {"model_name_or_path": start["critic"]},
            "stages": {"sft": {"epochs": 0}, "critic_rl": {"steps": 0}, "joint": joint},
            "hardware": {"vllm": {"python": args.python, "startup_seconds": 1800}},
        },
    )
    measure(args, lambda folder: ServedJob(folder, recipe), ["server"])


if __name__ == "__main__":
    main()
