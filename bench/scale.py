"""How an iteration's cost grows with its shape, and a cost model fitted to what was measured.

    python bench/scale.py [--quick] [--json FILE]

One axis at a time around a middle shape: response length, states per response, group size, width of
the model. The model counts operations and bytes per phase (`work`); three rates are fitted to the
measured phases: operations per second of sampling and of training, bytes per second of keys, values
and weights while sampling. With these forms and the rates of an accelerator it is extrapolated, on
paper, at the end.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from common import interleaved, parse, parser, roofline, table, write_json
from step import Worker

AXES = {
    "response": (128, 256, 512, 1024),
    "states": (2, 4, 8, 16),
    "generations": (2, 4, 8),
    "hidden": (64, 128, 256),
}
METHODS = ("genac", "ppo")
SAMPLING, TRAINING = ("actor_sampling", "critic_sampling"), ("actor_training", "critic_training")


@dataclass(frozen=True)
class Shape:
    """An iteration: problems, responses, states, thoughts, and the size of both models."""

    prompts: int = 4
    generations: int = 4
    prompt: int = 48
    response: int = 512
    states: int = 8
    thought: int = 64
    question: int = 3
    hidden: int = 128  # width of keys and values
    width: int = 0  # of queries and of the model; 0 = hidden
    layers: int = 4
    heads: int = 4
    parameters: float = 0.0  # in linear layers, without the LM head; 0 = of the tiny model
    vocab: int = 56
    bytes_per_number: int = 4

    @property
    def linear(self) -> float:
        """Weights that every token passes: 4 + 9 squares of the width in the tiny model."""
        return self.parameters or self.layers * 13 * self.hidden**2


@dataclass(frozen=True)
class Work:
    """Operations, and bytes of keys, values and weights read while sampling."""

    flops: float
    bytes: float = 0.0


def work(s: Shape, method: str) -> dict[str, Work]:
    """Per phase. A trunk is read once; thoughts see as much of it as was written before them."""
    responses, written = s.prompts * s.generations, s.prompts * s.generations * s.response
    pairs = s.response * (s.prompt + s.response / 2)
    act = forward(s, s.prompts * s.prompt + written, responses * pairs, written)
    out = {
        "actor_sampling": Work(act, streamed(s, s.response, responses * pairs)),
        "actor_training": Work(3 * act),
    }
    whole = forward(s, s.prompts * s.prompt + written, responses * pairs, 0)
    if method == "ppo":
        return out | {"critic_sampling": Work(whole), "critic_training": Work(3 * whole)}
    if method == "genac":
        branch, count = s.question + s.thought, responses * s.states
        trunk = s.prompt + s.response * (s.states - 1) / s.states
        seen = s.prompt + s.response * (s.states - 1) / s.states / 2
        pairs = responses * trunk**2 / 2 + count * branch * (seen + branch / 2)
        flops = forward(s, responses * trunk + count * branch, pairs, count * s.thought)
        # Each step reads a trunk once for all of its states, and every row's own tokens.
        read = s.thought * (responses * trunk + count * branch / 2)
        return out | {
            "critic_sampling": Work(flops, streamed(s, s.thought, read)),
            "critic_training": Work(3 * flops),
        }
    assert method == "grpo", method
    return out


def forward(s: Shape, tokens: float, pairs: float, predictions: float) -> float:
    """Operations of a forward pass over `pairs` of query and key in each layer."""
    width = s.width or s.hidden
    products = 2 * s.linear * tokens + 2 * s.vocab * width * predictions
    return products + 4 * s.layers * width * pairs


def streamed(s: Shape, steps: float, read: float) -> float:
    """Bytes of `steps` decoding steps that read `read` keys and values in sum, and the weights."""
    return s.bytes_per_number * (2 * s.layers * s.hidden * read + s.linear * steps)


def main() -> None:
    args = parse(parser(__doc__.splitlines()[0]))
    import torch

    torch.set_num_threads(args.threads)
    limits = roofline(args.device)
    middle = Shape(prompts=2, generations=2) if args.quick else Shape()
    cells = [(axis, v) for axis, values in AXES.items() for v in values]
    if args.quick:
        cells = [("response", 128), ("response", 512), ("states", 2)]
    measured, seconds = [], {}
    for axis, value in cells:
        shape = replace(middle, **{axis: value})
        phases, seconds[f"{axis} {value}"] = measure(args, shape)
        measured.append((axis, shape, phases))
        totals = {m: sum(p.values()) for m, p in phases.items()}
        found = [f"{totals[m]:.2f} s" for m in METHODS]
        print(f"{axis} {value}: genac {found[0]}, ppo {found[1]}", flush=True)
    rates = fit(measured)
    rows = report(measured, rates)
    print(table(["axis", "", *METHODS, "ratio", "predicted ratio", "error"], rows))
    print({name: f"{rate / 1e9:.1f} G/s" for name, rate in rates.items()})
    paper = extrapolated()
    print(table(["on paper", "genac / ppo", "grpo / ppo"], [list(row) for row in paper]))
    keys = ("axis", "value", *METHODS, "ratio", "predicted_ratio", "error")
    result = {
        "cells": [dict(zip(keys, row, strict=True)) for row in rows],
        "rates": rates,
        "roofline": limits,
        "on_paper": [
            dict(zip(("where", "genac_vs_ppo", "grpo_vs_ppo"), row, strict=True)) for row in paper
        ],
    }
    write_json(args, result, seconds)


def measure(args, shape: Shape) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """Median seconds by phase and method."""
    own = argparse.Namespace(**(vars(args) | vars(shape)))
    with tempfile.TemporaryDirectory() as folder:
        workers = {m: Worker(own, m, shape.thought, Path(folder)) for m in METHODS}
        seconds = interleaved({m: w.step for m, w in workers.items()}, args.repeats, 1, args.device)
    phases = {m: w.phases(args.repeats) for m, w in workers.items()}
    return {m: {p: found[p] for p in SAMPLING + TRAINING} for m, found in phases.items()}, seconds


def fit(measured: list) -> dict[str, float]:
    """Rates that explain the phases best, every phase weighing the same."""
    sampling, training = [], []
    for _, shape, phases in measured:
        for method, found in phases.items():
            todo = work(shape, method)
            sampling += [(todo[p].flops, todo[p].bytes, found[p]) for p in SAMPLING]
            training += [(todo[p].flops, found[p]) for p in TRAINING]
    rows = np.array(sampling)
    scaled = rows[:, :2] / rows[:, 2:]
    solution, *_ = np.linalg.lstsq(scaled, np.ones(len(rows)), rcond=None)
    if (solution <= 0).any():  # one of the two explains nothing: the other explains it all
        column = int(solution.argmax())
        solution = np.zeros(2)
        solution[column] = 1 / np.median(1 / scaled[:, column])
    flops = median(f / s for f, s in training)
    found = {"sampling_flops": solution[0], "sampling_bytes": solution[1]}
    rates = {name: float(1 / value) for name, value in found.items() if value > 0}
    return rates | {"training_flops": float(flops)}


def predicted(shape: Shape, method: str, rates: dict[str, float]) -> float:
    """Seconds of an iteration."""
    total = 0.0
    for phase, todo in work(shape, method).items():
        if phase in TRAINING:
            total += todo.flops / rates["training_flops"]
        else:
            total += todo.flops / rates.get("sampling_flops", np.inf)
            total += todo.bytes / rates.get("sampling_bytes", np.inf)
    return total


def report(measured: list, rates: dict[str, float]) -> list[list]:
    """Measured and predicted, a row per cell."""
    out = []
    for axis, shape, phases in measured:
        total = {m: sum(phases[m].values()) for m in METHODS}
        guess = {m: predicted(shape, m, rates) for m in METHODS}
        error = max(abs(guess[m] / total[m] - 1) for m in METHODS)
        ratio, wanted = total["genac"] / total["ppo"], guess["genac"] / guess["ppo"]
        out.append([axis, getattr(shape, axis), *total.values(), ratio, wanted, error])
    return out


def extrapolated() -> list[tuple[str, float, float]]:
    """Ratios at real sizes, from the forms above and assumed rates: nothing here was measured.

    An 8B model (36 layers, 8 x 128 key and value dimensions, bf16), 1024 problems x 8 responses of
    4096 tokens, 16 states, thoughts of 512 and 1024 tokens, a question of 200. Per accelerator
    400 TFLOP/s in training (40 % of 989), 400 in reading and at most 3 TB/s of keys, values and
    weights; 8 of them hold the whole batch in waves, 512 divide it. Each engine reads the weights
    once per decoding step of its own share, so that fewer responses per accelerator read them more
    often per token.
    """
    rows = []
    for devices in (8, 512):
        for thought in (512, 1024):
            rates = {"training_flops": 4e14, "sampling_flops": 4e14, "sampling_bytes": 3e12}
            # What one accelerator has to do: its share of the problems, at least one wave.
            share = Shape(
                prompts=1024 // devices,
                generations=8,
                prompt=300,
                response=4096,
                states=16,
                thought=thought,
                question=200,
                hidden=1024,
                width=4096,
                layers=36,
                parameters=7e9,
                vocab=151_936,
                bytes_per_number=2,
            )
            seconds = {m: predicted(share, m, rates) for m in ("genac", "ppo", "grpo")}
            name = f"{devices} accelerators, thoughts of {thought}"
            rows.append((name, seconds["genac"] / seconds["ppo"], seconds["grpo"] / seconds["ppo"]))
    return rows


if __name__ == "__main__":
    main()
