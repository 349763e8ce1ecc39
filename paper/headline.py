"""The figure of the results page: success against samples, at forty and at four hundred steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genac.ui.figures import as_svg

TITLE = "Held-out success against responses of the actor"
# Page -> the panel's title and the methods drawn, by the name that the legend gives them.
PANELS: dict[str, tuple[str, dict[str, str]]] = {
    "downstream-parts": (
        "40 steps, 16 seeds",
        {"GenAC": "genac", "VinePPO": "vineppo", "GRPO": "grpo", "PPO": "ppo"},
    ),
    "downstream-long": (
        "400 steps, 8 seeds",
        {"GenAC": "genac (32 states train)", "GRPO": "grpo", "PPO": "ppo"},
    ),
}
# One colour, line and marker per method, so that no two look alike in grey either.
STYLES = {
    "GenAC": ("#0072b2", "-", "o"),
    "VinePPO": ("#009e73", "--", "s"),
    "GRPO": ("#d55e00", "-.", "^"),
    "PPO": ("#7f3c8d", ":", "D"),
}


def headline(folder: Path) -> str | None:
    """An SVG of the mean over seeds with its 95 % interval; None where a page is missing."""
    files = {page: folder / f"{page}.json" for page in PANELS}
    if not all(file.exists() for file in files.values()):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for place, (page, (title, methods)) in zip(axes, PANELS.items(), strict=True):
        table = json.loads(files[page].read_text())["methods"]
        for name, method in methods.items():
            draw(place, name, table[method]["curve"])
        dress(place, title)
    axes[0].set_ylabel("held-out success", fontsize=9)
    axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    figure.patch.set_facecolor("white")  # legible on a dark page too
    return as_svg(figure, TITLE)


def draw(axes: Any, name: str, curve: Mapping[str, Any]) -> None:
    colour, line, marker = STYLES[name]
    x, points = curve["samples"], curve["success"]
    every = max(1, len(x) // 8)
    axes.plot(
        x, [p["mean"] for p in points], color=colour, linestyle=line, marker=marker,
        markersize=4, markevery=every, linewidth=1.6, label=name,
    )  # fmt: skip
    low, high = ([p[end] for p in points] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)


def dress(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("responses of the actor", fontsize=9)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.25)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
