"""What an iteration costs relative to PPO: tokens, FLOPs and seconds, for GenAC and VinePPO.

Runs bench/step.py, once at the reference shape (long responses, few states, short rationales) and
once for each of `recipes`. Plan: `arguments` of the benchmark, `recipes` (name -> its arguments).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from genac.runs.store import stable_hash
from paper.figures import dots
from paper.plan import Findings, Plan, Record
from paper.verdicts import verdict

BENCH = Path(__file__).parents[1] / "bench" / "step.py"
KINDS = ("tokens", "flops", "seconds")


def run(plan: Plan) -> Findings:
    jobs = {"reference shape": plan.values["arguments"], **plan.values["recipes"]}
    inputs = stable_hash([file.read_text() for file in sorted(BENCH.parent.glob("*.py"))])
    default = dict(plan.recipe)
    items = [{"arguments": a, "inputs": inputs, "recipe": default} for a in jobs.values()]
    result = plan.jobs.map(step_cost, items)
    return report(dict(zip(jobs, result, strict=True)))


def step_cost(arguments: list[str], inputs: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """A job: method -> kind -> cost of a step relative to PPO's.

    `inputs` (a hash of the benchmark) and `recipe` only identify the job.
    """
    del inputs, recipe
    if not BENCH.exists():
        raise ValueError(f"there is no {BENCH}: run this from a checkout of the repository")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "step.json"
        command = [sys.executable, str(BENCH), *arguments, "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return json.loads(file.read_text())["cost_relative_to_ppo"]


def report(result: dict[str, dict[str, Any]]) -> Findings:
    drawn = {
        kind: {
            f"{shape}: {m}": {"mean": row[kind]["value"], "low": None}
            for shape, methods in result.items()
            for m, row in methods.items()
        }
        for kind in KINDS
    }
    svg = dots("Cost of an iteration, PPO = 1", drawn)
    return Findings({"cost_relative_to_ppo": result}, verdicts(result), {"": svg})


def verdicts(result: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    rows = [
        {
            "claim": f"an iteration of {name} costs {word} {factor:g} times PPO's",
            "ours": "; ".join(
                f"{shape}: tokens {c[name]['tokens']['value']:.2f}, FLOPs "
                f"{c[name]['flops']['value']:.2f}, seconds {in_brackets(c[name]['seconds'])}"
                for shape, c in result.items()
            ),
            "verdict": "-",
        }
        for name, factor, word in (("genac", 2.1, "about"), ("vineppo", 4.0, "over"))
    ]
    seconds = {s: (c["genac"]["seconds"], c["vineppo"]["seconds"]) for s, c in result.items()}
    below = [ours["high"] < theirs["low"] for ours, theirs in seconds.values()]
    shown = [f"{s}: {a['value']:.2f} against {b['value']:.2f}" for s, (a, b) in seconds.items()]
    return [
        *rows,
        {
            "claim": "GenAC costs less than VinePPO",
            "ours": "; ".join(shown),
            "verdict": verdict(all(below), not any(below)),
        },
    ]


def text(plan: Plan, record: Record) -> str:
    lines = [
        "Cost of one iteration relative to PPO's; seconds as the median of the rounds' ratios "
        "[their range], tokens and FLOPs as counted where they are computed (2 N per token read or "
        "written, 6 N per token trained).",
        "",
        "| shape | method | tokens | FLOPs | seconds |",
        "|---|---|---|---|---|",
        *(
            f"| {shape} | {method} | {row['tokens']['value']:.2f} | {row['flops']['value']:.2f} "
            f"| {in_brackets(row['seconds'])} |"
            for shape, methods in record["cost_relative_to_ppo"].items()
            for method, row in methods.items()
        ),
    ]
    return "\n".join(lines)


def in_brackets(row: dict[str, float]) -> str:
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
