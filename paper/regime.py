"""Where does credit assignment matter? The gain of joint RL with exact values over GRPO.

Plan: `regimes` (name -> overrides) and `methods` (name -> overrides with a `grid`): "grpo", and
"exact", whose values no critic can beat. Where exact values do not help, no critic can.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paper.figures import dots
from paper.plan import Findings, Plan, Record, expand
from paper.runs import difference, interval, joint_run, placed, show

MEASURES = {"final": "final success", "mean": "mean over training"}


def run(plan: Plan) -> Findings:
    regimes, methods = plan.values["regimes"], plan.values["methods"]
    jobs = {
        (regime, method, setting, seed): placed(
            plan.config(over, values, seed=seed, name=f"{regime}: {setting}"), plan.folder
        )
        for regime, over in regimes.items()
        for method, variant in methods.items()
        for setting, values in expand({method: variant}).items()
        for seed in plan.seeds
    }
    result = plan.jobs.map(joint_run, [{"config": c} for c in jobs.values()])
    results = dict(zip(jobs, result, strict=True))
    table = {regime: row(results, regime, plan) for regime in regimes}
    return Findings(
        figures={"gain_of_exact_values": {k: v["gain"]["final"] for k, v in table.items()}},
        rows=[],
        drawings={
            "": dots(
                "Final held-out success by regime",
                {
                    method: {regime: v["best"][method]["final"] for regime, v in table.items()}
                    for method in methods
                },
            )
        },
        extra={"regimes": table},
    )


def row(results: dict[Any, Any], regime: str, plan: Plan) -> dict[str, Any]:
    """One regime: start, each method at each setting and at its best, and the gain."""
    own = {k[1:]: v for k, v in results.items() if k[0] == regime}
    settings: dict[str, dict[str, Any]] = {}
    for method in plan.values["methods"]:
        names = dict.fromkeys(s for m, s, _ in own if m == method)
        settings[method] = {
            name: measures([own[method, name, seed] for seed in plan.seeds]) for name in names
        }
    best = {
        method: max(options.values(), key=lambda o: o["final"]["mean"])
        for method, options in settings.items()
    }
    gain = {
        key: difference(best["exact"][key]["values"], best["grpo"][key]["values"])
        for key in MEASURES
    }
    start = interval([r["before"] for (_, _, seed), r in own.items() if seed == plan.seeds[0]][:1])
    return {"start": start["mean"], "settings": settings, "best": best, "gain": gain}


def measures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "final": interval([r["final"] for r in runs]),
        "mean": interval([float(np.mean(r["curve"]["success"])) for r in runs]),
    }


def text(plan: Plan, record: Record) -> str:
    lines = [
        f"Joint RL with exact values against GRPO, seeds {plan.seeds}, each at the best setting of "
        "its grid (all settings are in the JSON); mean [95 % t interval over seeds] of held-out "
        "success.",
        "",
        "| regime | start | GRPO | exact values | gain (final) | gain (mean over training) |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in record["regimes"].items():
        best = {
            method: next(k for k, v in result["settings"][method].items() if v == chosen)
            for method, chosen in result["best"].items()
        }
        cells = [
            f"{show(result['best'][m]['final'])} ({best[m].removeprefix(f'{m},')})"
            for m in ("grpo", "exact")
        ]
        gains = [show(result["gain"][k]) for k in MEASURES]
        lines.append(f"| {name} | {result['start']:.2f} | {' | '.join([*cells, *gains])} |")
    return "\n".join(lines)
