"""The commands in a page's fenced blocks, and what is wrong with them."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from genac.cli import EVALUATIONS, VERBS
from genac.config.recipes import from_command_line

ROOT = Path(__file__).parents[2]
ELSEWHERE = "<!-- run elsewhere -->"  # before a block that needs what is not here
FENCE = re.compile(r"^( *<!--.*-->\n)? *```(\w*)\n(.*?)^ *```$", flags=re.S | re.M)
KNOWN = ("genac", "python", "make", "pip")
CONFIG_VERBS = ("train", "synthesize", "sft", "pretrain-critic", "doctor")


@dataclass(frozen=True)
class Command:
    text: str

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
    for mark, language, block in FENCE.findall(page):
        if language not in ("", "bash", "sh", "console") or mark.strip() == ELSEWHERE:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command = Command(line.strip().removeprefix("$ "))
            if re.match(r"([A-Z_]+=\S* )*(\S*/)?(genac|python|make|pip)\b", command.text):
                result.append(command)
    return result


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
