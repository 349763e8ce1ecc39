"""The recipes that genac brings, by name: in a clone the folder recipes/, in a wheel a copy of it.

A file of the user's wins over a name. Paths in a recipe that begin with recipes/ mean the user's
files where these exist, and those of the package otherwise.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "recipes"


def packaged() -> dict[str, Path]:
    """name -> file."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}


def is_file(name: str | Path) -> bool:
    """Whether there is such a file; a text that is too long to name one names none."""
    try:
        return Path(name).is_file()
    except OSError:
        return False


def recipe_file(name: str | Path) -> Path:
    """The file of a path or of a packaged recipe's name; ValueError where there is neither."""
    file, known = Path(name).expanduser(), packaged()
    if is_file(file):
        return file
    plain = str(name).removeprefix("recipes/").removesuffix(".yaml")
    if plain in known:
        return known[plain]
    near = difflib.get_close_matches(plain, known, 1)
    hint = f"; did you mean {near[0]}? " if near else ". "
    raise ValueError(
        f"there is no recipe {str(name)!r}{hint}Give the path of a YAML file, or a name that "
        "'genac recipes' lists"
    )


def at_package(value: Any) -> Any:
    """The value with every path recipes/... that exists in the package alone as the file there."""
    if isinstance(value, dict):
        return {key: at_package(item) for key, item in value.items()}
    if isinstance(value, list):
        return [at_package(item) for item in value]
    if isinstance(value, str) and value.startswith("recipes/") and not Path(value).exists():
        file = FOLDER / value.removeprefix("recipes/")
        return str(file) if file.is_file() else value
    return value


def summary(file: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    lines = []
    for line in file.read_text().splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    return " ".join(lines).partition(". ")[0].removesuffix(".")
