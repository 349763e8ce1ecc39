"""How an iteration's cost grows with its shape, and a cost model fitted to what was measured.

    python bench/scale.py [--quick] [--json FILE]

One axis at a time around a middle shape: response length, states per response, group size, width of
the model. The model counts operations and bytes per phase (`work`); three rates are fitted to the
measured phases: operations per second of sampling and of training, bytes per second of keys, values
and weights while sampling.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from common import interleaved, parse, parser, roofline, table, write_json
from step import Worker
from work import SAMPLING, TRAINING, Iteration, Rates, Sizes, Work, seconds, work

AXES = {
    "response": (128, 256, 512, 1024),
    "states": (2, 4, 8, 16),
    "generations": (2, 4, 8),
    "hidden": (64, 128, 256),
}
METHODS = ("genac", "ppo")


@dataclass(frozen=True)
class Shape:
    """An iteration, and the width of both tiny models: the arguments of bench/step.py."""

    prompts: int = 4
    generations: int = 4
    prompt: int = 48
    response: int = 512
    states: int = 8
    rationale: int = 64
    question: int = 3
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocab: int = 56

    def work(self, method: str) -> dict[str, Work]:
        # 4 + 9 squares of the width are the linear layers of the tiny model.
        linear, width = self.layers * 13 * self.hidden**2, self.hidden
        model = Sizes(linear, self.layers, width, width, width, self.vocab)
        names = ("prompts", "generations", "prompt", "response", "states", "rationale", "question")
        return work(Iteration(**{n: getattr(self, n) for n in names}), method, model, model)


def main() -> None:
    args = parse(parser(__doc__.splitlines()[0]))
    import torch

    torch.set_num_threads(args.threads)
    limits = roofline(args.device)
    middle = Shape(prompts=2, generations=2) if args.quick else Shape()
    cells = [(axis, v) for axis, values in AXES.items() for v in values]
    if args.quick:
        cells = [("response", 128), ("response", 512), ("states", 2)]
    measured, spent = [], {}
    for axis, value in cells:
        shape = replace(middle, **{axis: value})
        phases, spent[f"{axis} {value}"] = measure(args, shape)
        measured.append((axis, shape, phases))
        genac, ppo = (sum(phases[m].values()) for m in METHODS)
        print(f"{axis} {value}: genac {genac:.2f} s, ppo {ppo:.2f} s", flush=True)
    rates = fit(measured)
    rows = report(measured, rates)
    print(table(["axis", "", *METHODS, "ratio", "predicted ratio", "error"], rows))
    results = {k: r for k, r in asdict(rates).items() if 0 < r < math.inf}
    print({name: f"{rate / 1e9:.1f} G/s" for name, rate in results.items()})
    keys = ("axis", "value", *METHODS, "ratio", "predicted_ratio", "error")
    result = {
        "cells": [dict(zip(keys, row, strict=True)) for row in rows],
        "rates": results,
        "roofline": limits,
    }
    write_json(args, result, spent)


def measure(args, shape: Shape) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """Median seconds by phase and method."""
    own = argparse.Namespace(**(vars(args) | vars(shape)))
    with tempfile.TemporaryDirectory() as folder:
        workers = {m: Worker.forced(own, m, shape.rationale, Path(folder)) for m in METHODS}
        spent = interleaved({m: w.step for m, w in workers.items()}, args.repeats, 1, args.device)
    phases = {m: w.phases(args.repeats) for m, w in workers.items()}
    return {m: {p: result[p] for p in SAMPLING + TRAINING} for m, result in phases.items()}, spent


def fit(measured: list) -> Rates:
    """Rates that explain the phases best, every phase weighing the same."""
    sampling, training = [], []
    for _, shape, phases in measured:
        for method, result in phases.items():
            todo = shape.work(method)
            sampling += [(todo[p].flops, todo[p].bytes, result[p]) for p in SAMPLING]
            training += [(todo[p].flops, result[p]) for p in TRAINING]
    rows = np.array(sampling)
    scaled = rows[:, :2] / rows[:, 2:]
    solution, *_ = np.linalg.lstsq(scaled, np.ones(len(rows)), rcond=None)
    if (solution <= 0).any():  # one of the two explains nothing: the other explains it all
        column = int(solution.argmax())
        solution = np.zeros(2)
        solution[column] = 1 / np.median(1 / scaled[:, column])
    flops, moved = (float(1 / x) if x > 0 else math.inf for x in solution)
    return Rates(flops, moved, float(median(f / s for f, s in training)))


def report(measured: list, rates: dict[str, float]) -> list[list]:
    """Measured and predicted, a row per cell."""
    out = []
    for axis, shape, phases in measured:
        total = {m: sum(phases[m].values()) for m in METHODS}
        guess = {m: sum(seconds(shape.work(m), rates).values()) for m in METHODS}
        error = max(abs(guess[m] / total[m] - 1) for m in METHODS)
        ratio, expected = total["genac"] / total["ppo"], guess["genac"] / guess["ppo"]
        out.append([axis, getattr(shape, axis), *total.values(), ratio, expected, error])
    return out


if __name__ == "__main__":
    main()
