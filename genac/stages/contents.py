"""Digests of the files that a config names: what they hold counts, not where they lie.

Data (files, folders, saved data sets) and reward files count whole, a reward file with the modules
next to it that it imports; what it opens by itself is not seen. Of a model's folder configuration
and tokenizer count whole, and of each weight file beyond 256 MiB its size, its head, its tail and
4,096 blocks between them. Names on the hub stand for themselves.

    contents(cfg)  ->  {"task.path": "sha256...", "task.reward/rewards.py": "sha256...", ...}
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genac.config.run import RunConfig, TaskConfig
from genac.runs.manifest import DONE, MODELS, digest, require_saved
from genac.tasks.answers import BUILTIN
from genac.tasks.rewards import VERL, WEIGHTED
from genac.tasks.sources import SOURCES

WHOLE = 1 << 28  # bytes of a weight file up to which all of it counts
EDGE, BLOCK, BLOCKS = 1 << 20, 1 << 14, 4096
OF_A_MODEL = {".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken"}
REWARD = "task.reward"

Place = tuple[str | int, ...]  # keys on the way to a value of the config
Values = dict[str, Any]


def contents(values: RunConfig | Mapping[str, Any]) -> dict[str, str]:
    """Digest of everything local that a config (or a part of its values) names, by its key; a
    reward has one for each of its files. ValueError where a model that a finished stage or run
    saved is not as it was written.
    """
    values = values.model_dump() if isinstance(values, RunConfig) else values
    result = {}
    for place, name in places(values):
        if place[-1] == "model_name_or_path":
            require_saved(Path(name).expanduser())
            results = model_digest(name)
        else:
            results = data_digest(name)
        if results:
            result[label(place)] = results
    for name, file in reward_files(values.get("task", {}).get("reward") or "").items():
        result[f"{REWARD}/{name}"] = digest(file)
    return result


def with_contents(values: Values, digests: Mapping[str, str]) -> Values:
    """The values with the digests in the place of the paths."""
    values = copy.deepcopy(values)
    for place, _ in list(places(values)):
        if label(place) in digests:
            holder: Any = values
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = digests[label(place)]
    task = values.get("task", {})
    if task.get("reward"):
        files = {k: v for k, v in digests.items() if k.startswith(f"{REWARD}/")}
        task["reward"] = [without_folder(task["reward"]), files]
    return values


def label(place: Place) -> str:
    return ".".join(map(str, place))


def places(values: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Where a config may name data or models, and what stands there."""
    task = values.get("task", {})
    if task.get("name") == "file":
        if task.get("path"):
            yield ("task", "path"), task["path"]
        stages = values.get("stages", {})
        options: dict[Place, Any] = {("task", "options"): task.get("options", {})}
        options |= {("task", "shift", name): o for name, o in task.get("shift", {}).items()}
        for stage in ("base", "synthesize", "critic_rl"):
            options["stages", stage, "options"] = stages.get(stage, {}).get("options", {})
        for place, some in options.items():
            if isinstance(some.get("heldout"), str):
                yield (*place, "heldout"), some["heldout"]
            listed = some.get("decontaminate")
            for index, name in enumerate(listed if isinstance(listed, list) else []):
                yield (*place, "decontaminate", index), str(name)
    for stage in ("warmup", "synthesize"):
        if name := values.get("stages", {}).get(stage, {}).get("path"):
            yield ("stages", stage, "path"), name
    for role in MODELS:
        if name := values.get(role, {}).get("model_name_or_path"):
            yield (role, "model_name_or_path"), name


def task_key(task: TaskConfig, **overrides: Any) -> Values:
    """A task as stage keys hold it: under overrides of its options, with digests for paths."""
    values = task.model_dump(exclude={"shift"})
    whole: Values = {"task": values | {"options": values["options"] | overrides}}
    return with_contents(whole, contents(whole))["task"]


def model_key(path: str | Path) -> str:
    """A model as stage keys hold it: the stage that made it, its folder's digest, or its name on
    the hub. ValueError where a file of a finished stage or run is not as it was written.
    """
    folder = Path(path).expanduser()
    if (folder.parent / DONE).exists():
        require_saved(folder)
        if folder.name == "model":
            return folder.resolve().parent.name
    return model_digest(path) or str(path)


# --- data and models ------------------------------------------------------------------------------


def data_digest(name: str) -> str | None:
    """Of a local source ("NAME" or "NAME@SPLIT"); None for a data set of the hub."""
    known = SOURCES.get(name)
    place, at, split = (known.hub if known else name), "", ""
    if not Path(place).expanduser().exists():
        place, at, split = place.partition("@")
    path = Path(place).expanduser()
    if path.is_file():
        return digest(path) + path.suffix + at + split
    if not path.is_dir():
        return None
    # What the library caches next to a saved data set is none of it.
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and not f.name.startswith("cache-")]
    seen = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    return combined({f.relative_to(path).as_posix(): digest(f) for f in seen}) + at + split


def model_digest(name: str | Path) -> str | None:
    """Of a model's folder or GGUF file; None for a model of the hub."""
    folder = Path(name).expanduser()
    if folder.is_file():
        return sampled(folder)
    if not folder.is_dir():
        return None
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix in OF_A_MODEL]
    return combined({f.name: sampled(f) for f in files if not f.name.startswith(".")})


def sampled(file: Path) -> str:
    """Digest of a weight file; of a large one from blocks, so that any tensor that was trained
    again shows, but not every single byte does."""
    size = file.stat().st_size
    if size <= WHOLE:
        return digest(file)
    state = hashlib.sha256(str(size).encode())
    with open(file, "rb") as stream:
        for start, length in ((0, EDGE), (size - EDGE, EDGE)):
            stream.seek(start)
            state.update(stream.read(length))
        for index in range(BLOCKS):
            stream.seek(size * index // BLOCKS)
            state.update(stream.read(BLOCK))
    return state.hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    lines = (f"{name}\0{one}\n" for name, one in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


# --- rewards --------------------------------------------------------------------------------------


def terms(spec: str) -> list[str]:
    """The rewards that a spec sums up, without their weights."""
    matched = [(WEIGHTED.fullmatch(term), term) for term in spec.split(" + ")]
    return [match[2] if match else term for match, term in matched]


def without_folder(spec: str) -> str:
    """The spec with every path of a file reduced to its name."""
    for term in terms(spec):
        place = term.removeprefix(VERL).rpartition(":")[0]
        if place.endswith(".py"):
            spec = spec.replace(place, Path(place).name)
    return spec


def reward_files(spec: str) -> dict[str, Path]:
    """name -> file of the Python files that a reward's own code is in."""
    result: dict[str, Path] = {}
    for index, term in enumerate(terms(spec)):
        place = term.removeprefix(VERL).rpartition(":")[0]
        if not place or term in BUILTIN:
            continue
        start = Path(place).expanduser() if place.endswith(".py") else module_file(place)
        if start is None or not start.is_file():
            continue
        root = import_root(start, 0 if place.endswith(".py") else place.count("."))
        for file in imported(start.absolute(), root):
            name = file.relative_to(root).as_posix()
            result[f"{index}/{name}" if index else name] = file
    return result


def module_file(name: str) -> Path | None:
    """The source of a module; None where it cannot be had."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def import_root(file: Path, depth: int) -> Path:
    """The folder that the module's imports are looked up in, by its depth in packages."""
    folder = file.absolute().parent
    if file.name == "__init__.py":
        depth += 1
    for _ in range(depth):
        folder = folder.parent
    return folder


def imported(start: Path, root: Path) -> list[Path]:
    """The file and, at any depth, the files below `root` that it imports. Where `root` holds
    installed libraries, only the file's own package counts."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "stdlib")}
    bound = root / start.relative_to(root).parts[0] if root.resolve() in installed else root
    waiting: list[Path] = [start]
    result: dict[Path, None] = {}
    while waiting:
        file = waiting.pop()
        if file in result or not file.is_relative_to(bound):
            continue
        result[file] = None
        waiting += imports_of(file, root)
    return sorted(result)


def imports_of(file: Path, root: Path) -> list[Path]:
    """The files below `root` that a file's import statements mean."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # whoever loads it says so
        return []
    result: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                result += module_parts(root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[node.level - 1] if node.level else root
            parts = node.module.split(".") if node.module else []
            for alias in node.names:
                result += module_parts(folder, [*parts, alias.name])
    return result


def module_parts(folder: Path, parts: list[str]) -> list[Path]:
    """The files of a dotted module and of the packages that it is in, those that exist."""
    result = []
    for part in parts:
        files = (folder / f"{part}.py", folder / part / "__init__.py")
        result += [file for file in files if file.is_file()]
        folder = folder / part
    return result
