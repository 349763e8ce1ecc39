"""The commands in a page's fenced blocks, what is wrong with them, and which test runs each.

`tests/docs_commands.yaml` holds the latter.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from genac.cli import EVALUATIONS, VERBS
from genac.config.recipes import from_command_line

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MAP = ROOT / "tests" / "docs_commands.yaml"
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.S | re.M)
PROGRAMS = (
    "genac python3? make pip3? uv pipx conda inspect transformers vllm ray sbatch srun kubectl "
    "docker podman torchrun accelerate mpirun curl wget git ssh scp npm npx hf bash sh apt-get"
)
PROGRAM = re.compile(rf"([A-Z_]+=\S* )*(\S*/)?({'|'.join(PROGRAMS.split())})(?= |$)")
OTHERS = "a checkout of "  # begins what a command of another project needs
CONFIG_VERBS = ("train", "synthesize", "sft", "pretrain-critic", "doctor")


@dataclass(frozen=True)
class Command:
    text: str

    @property
    def bare(self) -> str:
        """On one line, without its comment."""
        return " ".join(re.sub(r"\s#.*", "", self.text).split())

    @property
    def words(self) -> list[str]:
        """Without what a shell takes away: comments, assignments before it, redirections."""
        words = shlex.split(self.text, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        ends = [i for i, word in enumerate(words) if word in ("|", ">", "&&", ";", "&")]
        return words[: ends[0]] if ends else words


def commands(page: str) -> list[Command]:
    result = []
    for language, block in FENCE.findall(page):
        if language in ("", "bash", "sh", "console"):
            lines = block.replace("\\\n", " ").splitlines()
            typed = (line.strip().removeprefix("$ ") for line in lines)
            result += [Command(line) for line in typed if PROGRAM.match(line)]
    return result


def in_sentences(page: str) -> list[Command]:
    """The commands between single backticks."""
    text = re.sub(r"^ *```.*?^ *```", "", page, flags=re.S | re.M)
    inner = re.findall(r"`((?:genac|make|python|pip install) [^`]+)`", text)
    return [Command(" ".join(words.split())) for words in inner]


@dataclass(frozen=True)
class Coverage:
    """Begins of commands -> the test that runs them, or what they need that is not here."""

    run_by: dict[str, str]
    elsewhere: dict[str, str]

    @classmethod
    def read(cls, file: Path = MAP) -> Coverage:
        whole = yaml.safe_load(file.read_text())
        parts = []
        for name in ("run_by", "elsewhere"):
            rows = [(begin, why) for why, begins in whole[name].items() for begin in begins]
            parts.append(dict(rows))
            if len(parts[-1]) < len(rows):
                raise ValueError(f"{file.name} names a command twice under {name}")
        return cls(*parts)

    def begin(self, command: Command) -> str | None:
        """The longest entry that the command begins with."""
        entries = [*self.run_by, *self.elsewhere]
        fits = [e for e in entries if f"{command.bare} ".startswith(f"{e} ")]
        return max(fits, key=len, default=None)

    def faults(self, all_commands: Iterable[Command], tests: frozenset[str]) -> Iterator[str]:
        begins = {command.bare: self.begin(command) for command in all_commands}
        for text in (text for text, begin in begins.items() if begin is None):
            yield f"no test is named that runs it, and nothing that it needs: {text}"
        for entry in {*self.run_by, *self.elsewhere} - set(begins.values()):
            yield f"no page holds such a command: {entry}"
        for entry in self.run_by.keys() & self.elsewhere.keys():
            yield f"both run by a test and not: {entry}"
        for test in set(self.run_by.values()) - tests:
            yield f"there is no such test: {test}"

    def of_test(self, test: str) -> list[Command]:
        """The commands of all pages that this test runs, each once."""
        own = {c.bare: c for page in PAGES for c in commands(page.read_text())}
        return [c for c in own.values() if self.run_by.get(self.begin(c) or "") == test]

    def of_others(self, command: Command) -> bool:
        """It belongs to another project, whose files and extras are not ours to check."""
        return self.elsewhere.get(self.begin(command) or "", "").startswith(OTHERS)


def all_tests(folder: Path) -> frozenset[str]:
    """path::name of every test function, without importing one."""
    return frozenset(
        f"{file.relative_to(folder.parent)}::{node.name}"
        for file in sorted(folder.rglob("test_*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def complaints(command: Command) -> Iterator[str]:
    words = command.words
    tool = Path(words[0]).name if words else ""
    check = {"genac": genac, "python": python, "make": make, "pip": pip}.get(tool)
    if check:
        for fault in check(words[1:]):
            yield f"{command.text}: {fault}"


def is_placeholder(word: str) -> bool:
    """RECIPE, RUN ..., [NAME ...], owner/name: a reader puts something there."""
    return bool(re.fullmatch(r"[\[(]?[A-Z][A-Z_|]*[\])]?", word)) or word in ("...", "|", "]")


def genac(words: list[str]) -> Iterator[str]:
    verb, *rest = words or [""]
    if verb in ("--help", "--version", "recipes"):
        return
    if verb not in VERBS:
        yield f"there is no verb {verb}"
        return
    if verb == "eval" and rest and re.fullmatch("[a-z]+", rest[0]) and rest[0] not in EVALUATIONS:
        yield f"there is no evaluation {rest[0]}"
    learns = "--learn" in rest  # a service takes keys of a run too
    yield from config(verb, rest) if verb in CONFIG_VERBS else flags(rest, config_keys=learns)


def config(verb: str, words: list[str]) -> Iterator[str]:
    """A verb that reads a recipe: what has no placeholder is resolved as it would be."""
    own = [w for w in words if not is_placeholder(w)]
    open_flags = len(own) < len(words) and any(w.startswith("--") for w in words)
    if open_flags or any("[" in w or w == "--help" for w in own):
        yield from flags(words, config_keys=True)
        return
    if "--gpu" in own:
        at = own.index("--gpu")
        own = own[:at] + own[at + 2 :]
    if own and not own[0].startswith("--"):
        name = ROOT / "recipes" / f"{own[0]}.yaml"
        recipe = name if name.exists() else Path(own[0])
        if re.fullmatch(r"[a-z-]*recipe\.yaml", own[0]):  # a reader's own
            recipe = ROOT / "recipes" / "arithmetic.yaml"
        if not recipe.exists():
            yield f"there is no recipe {own[0]}"
            return
        own[0] = str(recipe)
    try:
        from_command_line(own, f"genac {verb}")
    except ValueError as error:
        yield str(error)
    except SystemExit:
        yield "not understood: " + " ".join(own)


def flags(words: list[str], config_keys: bool = False) -> Iterator[str]:
    for word in words:
        flag = word.strip("[]()").split("=")[0]
        if re.fullmatch(r"--[a-z][\w.-]*", flag) and flag != "--help":
            if config_keys and flag[2:].replace("-", "_") in keys():
                continue
            if f'"{flag}"' not in sources():
                yield f"nothing reads {flag}"


@cache
def keys() -> frozenset[str]:
    from pydantic import BaseModel

    from genac.config.run import RunConfig

    def walk(kind: type[BaseModel], at: str) -> Iterator[str]:
        for name, info in kind.model_fields.items():
            inner = info.annotation
            yield f"{at}{name}"
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from walk(inner, f"{at}{name}.")

    return frozenset(walk(RunConfig, ""))


@cache
def sources() -> str:
    return "\n".join(p.read_text() for p in sorted((ROOT / "genac").rglob("*.py")))


def python(words: list[str]) -> Iterator[str]:
    if words[:1] == ["-m"]:
        module = words[1].replace(".", "/")
        places = (ROOT / f"{module}.py", ROOT / module / "__main__.py")
        own = words[1].split(".")[0] in ("genac", "paper", "tools", "bench", "examples")
        if own and not any(p.exists() for p in places):
            yield f"there is no module {words[1]}"
        files = words[2:]
    else:
        files = words
    for word in files:
        own = re.fullmatch(r"[a-z][\w-]*/([\w-]*/)*[a-z][\w-]*\.(py|yaml)", word)
        if own and not (ROOT / word).exists():
            yield f"there is no file {word}"


def make(words: list[str]) -> Iterator[str]:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        if "=" not in word and not re.search(rf"^{re.escape(word)}:", text, flags=re.M):
            yield f"there is no target {word}"


def pip(words: list[str]) -> Iterator[str]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        for names in re.findall(r"^(?:genac|\.)\[(.*)\]$", word):
            for name in names.split(","):
                if name not in extras["optional-dependencies"]:
                    yield f"there is no extra {name}"
