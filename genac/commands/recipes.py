"""genac recipes: the recipes that genac brings, with a line each."""

from __future__ import annotations

import textwrap

from genac.config.packaged import packaged, summary

WIDTH = 79


def listed() -> str:
    """Names and first sentences, and how to take one."""
    lines = []
    for name, file in packaged().items():
        lines += [name, *textwrap.wrap(summary(file), WIDTH - 4)]
    text = "\n".join(line if line in packaged() else f"    {line}" for line in lines)
    return f"{text}\n\ngenac train NAME runs one; genac recipes NAME prints it, to be changed"
