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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from genac.config.algorithms import merge
from genac.config.arguments import from_yaml, keys, typed_values, unknown
from genac.config.base import at_home
from genac.config.keys import OFTEN, SHOWN, as_options, changed, described, nested
from genac.config.packaged import at_package, recipe_file
from genac.config.run import RunConfig

LONGEST = 200  # characters of a line about a changed key
OPTION_PATHS = (
    "task.options.",
    "stages.base.options.",
    "stages.synthesize.options.",
    "stages.synthesize.columns.",
    "stages.critic_rl.options.",
    "actor.load.chat_template_kwargs.",
    "critic.load.chat_template_kwargs.",
    "stages.synthesize.endpoint.request.",
)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe in a file, or a packaged one by its name, as a dict; ValueError where there is
    none or it is no mapping.
    """
    file = recipe_file(path)
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values of a run, not {type(content).__name__}")
    return at_package(at_home(content))


def resolve(recipe: dict[str, Any], overrides: dict[str, Any] | None = None) -> RunConfig:
    """The validated config of a recipe under overrides, by section or by dotted key.

    resolve(read_recipe("arithmetic"), {"actor.optimizer.learning_rate": 1e-5})
    """
    overrides = nested(overrides or {})
    values, special = dict(recipe), recipe.get("per_algorithm", {})
    values.pop("per_algorithm", None)
    chosen = merge(values, overrides)
    algorithm, preset = chosen.get("algorithm", "genac"), chosen.get("preset", "improved")
    for name in (algorithm, f"{algorithm}:{preset}"):
        values = merge(values, special.get(name, {}))
    values = merge(values, overrides)
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def recorded(folder: str | Path, values: Mapping[str, Any]) -> RunConfig:
    """The config of a run's config.json; ValueError where another version of genac wrote it. What a
    finished run called itself is no reason not to open it.
    """
    try:
        return RunConfig.model_validate(dict(values), context={"recorded": True})
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
            lines.append(unknown(key, key, dict(keys(RunConfig))))
        elif key.endswith("api_key_env"):  # what was given may be the key itself
            lines.append(f"{key}: give the NAME of an environment variable, in capitals, or none")
        else:
            text = problem["msg"].removeprefix("Value error, ")
            whole = isinstance(
                problem["input"], dict
            )  # such a message names keys and values itself
            start = f"{key}: " if problem["loc"] else ""
            lines.append(start + text + ("" if whole else f" (given: {problem['input']!r:.80})"))
    return "\n".join(lines)


@dataclass(frozen=True)
class Parsed:
    """A command line: its config, the recipe's file, and the config that the recipe alone gives,
    None where the recipe needs the rest of the command line to be one.
    """

    cfg: RunConfig
    recipe: Path | None
    plain: RunConfig | None

    def lines(self) -> list[str]:
        """What differs from the recipe, a line per key."""
        values = changed(self.cfg, self.plain) if self.plain else []
        return [f"  {key}: {old} -> {new}"[:LONGEST] for key, old, new in values]


def from_command_line(arguments: Sequence[str], prog: str) -> RunConfig:
    """The config of [RECIPE] [--from RUN] [--dotted.key value ...]; --help prints and exits."""
    return parse(arguments, prog).cfg


def parse(arguments: Sequence[str], prog: str) -> Parsed:
    """RECIPE is a file or a name, also as --config RECIPE; a pair may be a.b=c. ValueError for what
    is no key; SystemExit after help, or after the whole config (--print-config).
    """
    rest = as_options(arguments)
    shown = [item for item in rest if item in SHOWN]
    rest = [item for item in rest if item not in SHOWN]
    name, rest = take_value(rest, "--config")
    if name is None and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    recipe = {} if name is None else read_recipe(name)
    options, rest = take_options(rest)
    folder, rest = take_value(rest, "--from")
    if folder is not None:
        options = merge(options, start_from(folder))
    options = merge(options, typed_values(rest, RunConfig))
    cfg = resolve(recipe, options)
    if shown:
        print(as_yaml(cfg) if shown[0] == "--print-config" else key_help(cfg, prog, shown[0]))
        raise SystemExit(0)
    same = {key: options[key] for key in ("algorithm", "preset") if key in options}
    try:
        plain = resolve(recipe, same)
    except ValueError:
        plain = None
    return Parsed(cfg, None if name is None else recipe_file(name), plain)


def key_help(cfg: RunConfig, prog: str, flag: str) -> str:
    """The keys that people change, or with --help-all every one, with their values in `cfg`."""
    everything = flag == "--help-all"
    head = [
        f"usage: {prog} [RECIPE] [--from RUN] [--key value ...] [--print-config]",
        "",
        "RECIPE is a YAML file, or a name that 'genac recipes' lists; --config RECIPE is the same.",
        "--from RUN starts from the models that a finished run saved.",
        "--print-config prints the whole config and does nothing.",
        "A key may also be written as key=value.",
        "",
        "All keys:" if everything else "The keys that people change most:",
    ]
    end = [] if everything else ["", "--help-all lists every key."]
    return "\n".join([*head, *described(cfg, () if everything else OFTEN), *end])


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
        value: Any = from_yaml(raw, item)
        for part in reversed(key.split(".")):
            value = {part: value}
        options = merge(options, value)
    return options, rest


def take_value(arguments: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag that is no key of the config, and the arguments without it."""
    rest, value = list(arguments), value_after(arguments, flag)
    if value is not None:
        place = rest.index(flag) if flag in rest else rest.index(f"{flag}={value}")
        del rest[place : place + (2 if rest[place] == flag else 1)]
    return value, rest


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
    LaTeX of \neq and \nu. What is left gets a warning, since it may have been meant as one.
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
