"""Recipes: YAML files of a complete run, resolved with algorithm, preset and command line.

A recipe holds RunConfig's keys and, optionally, `per_algorithm`: values that apply only when that
algorithm (or "genac:paper", an algorithm under a preset) is chosen, so that changing one word
reruns the recipe with settings tuned for the other method.

Precedence, weakest first: field defaults, algorithm, preset, recipe, per_algorithm, command line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml
from pydantic import ValidationError

from genac.config.algorithms import ALGORITHMS, PRESETS, merge
from genac.config.base import at_home
from genac.config.renamed import called_now
from genac.config.run import RunConfig

OPTION_PATHS = (
    "task.options.",
    "stages.base.options.",
    "stages.synthesize.options.",
    "actor.load.chat_template_kwargs.",
    "critic.load.chat_template_kwargs.",
    "stages.synthesize.endpoint.request.",
)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe as a dict; ValueError where the file is missing or is no mapping."""
    file = Path(path).expanduser()
    if not file.exists():
        raise ValueError(
            f"there is no recipe {str(path)!r}; give the path of a YAML file, for example "
            "recipes/arithmetic.yaml"
        )
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values of a run, not {type(content).__name__}")
    return at_home(content)


def resolve(recipe: dict[str, Any], overrides: dict[str, Any] | None = None) -> RunConfig:
    """The validated config of a recipe under dict overrides."""
    overrides = overrides or {}
    recipe, special = dict(recipe), recipe.get("per_algorithm", {})
    recipe.pop("per_algorithm", None)
    chosen = merge(recipe, overrides)
    algorithm, preset = chosen.get("algorithm", "genac"), chosen.get("preset", "improved")
    values: dict[str, Any] = ALGORITHMS.get(algorithm, {})
    if algorithm == "genac":
        values = merge(values, PRESETS.get(preset, {}))
    values = merge(values, recipe)
    for name in (algorithm, f"{algorithm}:{preset}"):
        values = merge(values, special.get(name, {}))
    # Every default is written out, so that a recipe may name part of a section and keep the rest.
    values = merge(merge(RunConfig().model_dump(), values), overrides)
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def recorded(folder: str | Path, values: Mapping[str, Any]) -> RunConfig:
    """The config of a run's config.json; ValueError where another version of genac wrote it."""
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise ValueError(
            f"the config of {folder} does not fit this version of genac, train it again:\n"
            + explain(error)
        ) from error


def explain(error: ValidationError) -> str:
    """One line per problem: the dotted key, what is wrong, and the value given."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "config"
        if problem["type"] == "extra_forbidden":
            hint = called_now("key", key) or "; see 'genac train --help' for the known ones"
            lines.append(f"{key}: unknown key{hint}")
        elif key.endswith("api_key_env"):  # what was given may be the key itself
            lines.append(f"{key}: give the NAME of an environment variable, in capitals, or none")
        else:
            lines.append(f"{key}: {problem['msg']} (given: {problem['input']!r:.80})")
    return "\n".join(lines)


def from_command_line(arguments: Sequence[str], prog: str) -> RunConfig:
    """[RECIPE.yaml] [--from RUN] [--dotted.key value ...]; --help lists every key and its value."""
    rest = list(arguments)
    recipe = read_recipe(rest.pop(0)) if rest and not rest[0].startswith("-") else {}
    options, rest = take_options(rest)
    given, rest = take_value(rest, "--from")
    if given is not None:
        options = merge(options, start_from(given))
    early = {
        k: v
        for k, v in ((k, value_after(rest, f"--{k}")) for k in ("algorithm", "preset"))
        if v is not None
    }
    default = resolve(recipe, merge(options, early))
    return tyro.cli(RunConfig, default=default, args=rest, prog=prog, description="Keys of a run.")


def start_from(folder: str) -> dict[str, Any]:
    """--from RUN: joint training goes on from the actor and critic that a finished run saved."""
    run = Path(folder).expanduser()
    if not (run / "actor").is_dir():
        raise ValueError(
            f"--from {folder}: there is no {run / 'actor'}; give a finished run's folder"
        )
    start: dict[str, Any] = {
        "actor": {"model_name_or_path": str(run / "actor")},
        "stages": {"warmup": {"steps": 0}},
    }
    if (run / "critic").is_dir():
        # A saved critic is merged on a base that the trained actor no longer has.
        start["critic"] = {"model_name_or_path": str(run / "critic"), "share_base": False}
        start["stages"] |= {"sft": {"epochs": 0}, "critic_rl": {"steps": 0}}
    return start


def take_options(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Free-form generator settings (--task.options.min_steps 4) apart from the typed keys."""
    options: dict[str, Any] = {}
    rest: list[str] = []
    items = iter(arguments)
    for item in items:
        key, _, inline = item.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not item.startswith("--") or not key.startswith(OPTION_PATHS):
            rest.append(item)
            continue
        raw = inline or next(items, None)
        if raw is None:
            raise ValueError(f"{item} needs a value")
        value: Any = yaml.safe_load(raw)
        for part in reversed(key.split(".")):
            value = {part: value}
        options = merge(options, value)
    return options, rest


def take_value(arguments: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag that is no key of the config, and the arguments without it."""
    rest, given = list(arguments), value_after(arguments, flag)
    if given is not None:
        place = rest.index(flag) if flag in rest else rest.index(f"{flag}={given}")
        del rest[place : place + (2 if rest[place] == flag else 1)]
    return given, rest


def value_after(arguments: Sequence[str], flag: str) -> str | None:
    """The value of --flag VALUE or --flag=VALUE, if given."""
    for index, item in enumerate(arguments):
        if item == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if item.startswith(flag + "="):
            return item.split("=", 1)[1]
    return None


LINE_BREAK = re.compile(r"(?<!\\)\\n(?![A-Za-z])")
LATEX_N = re.compile(r"(?<!\\)\\n[A-Za-z]+")


def typed_text(text: str) -> str:
    r"""A text of the command line: \n is a line break, unless a letter follows it, as in the
    LaTeX of \neq and \nu. What is left as it is, is said, since it may have been meant as one.
    """
    if kept := LATEX_N.search(text):
        print(
            f"note: {kept[0]} stays as it is, as LaTeX; for a line break before a letter give a "
            "real one, in bash $'line\\nnext line'",
            file=sys.stderr,
        )
    return LINE_BREAK.sub("\n", text)


def typed_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with ~/ and ~user/ at the beginning of one, or behind its =, expanded."""
    parts = [item.partition("=") if item.startswith("--") else ("", "", item) for item in arguments]
    return [f"{key}{equals}{at_home(value)}" for key, equals, value in parts]


def as_yaml(cfg: RunConfig) -> str:
    """The resolved config as a recipe would write it."""
    return yaml.safe_dump(cfg.model_dump(), sort_keys=False)
