"""What a finished folder holds: size and sha256 of its files, written last and checked when used.

    done.json    {..., "files": {"model/model.safetensors": {"size": 1024, "sha256": "..."}, ...}}

A stage's folder lists all its files, a run's folder its results (RESULTS). Checkpoints have their
own manifest; until a folder is done, the newest one lists what the folder held when it was written,
of a log its first `size` bytes. Hashing takes about a second per 1.5 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from genac.runs.files import read_json, read_lines, write_json

DONE = "done.json"
LENGTHENED = "lengthened"  # an event: the run got another number of joint steps
LOGS = ("metrics.jsonl", "events.jsonl")
TABLES = ("rollouts", "estimates")
MODELS = ("actor", "critic")
RESULTS = ("config.json", "environment.json", *LOGS, "summary.json", *TABLES, *MODELS)
POINTER = "tinker.json"  # in the place of weights that a Tinker service keeps
CARD = "README.md"  # people edit cards, and `genac push` writes them anew
REMEMBERED = 1 << 20  # bytes from which a digest is kept for the rest of the process

Entry = dict[str, Any]  # {"size": bytes, "sha256": hex}


def digest(file: Path) -> str:
    """sha256 of a file; of a large one that did not change, once per process."""
    stat = file.stat()
    if stat.st_size < REMEMBERED:
        return _digest(str(file))
    return _remembered(str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _remembered(file: str, size: int, changed: int, inode: int) -> str:
    return _digest(file)


def _digest(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_weights(name: str) -> bool:
    """Whether a file of a model's folder holds its weights, or says where they are."""
    return name.endswith(".safetensors") or Path(name).name == POINTER


def entry(file: Path) -> Entry:
    return {"size": file.stat().st_size, "sha256": digest(file)}


def entry_of(text: str) -> Entry:
    """The same of a file that holds `text`."""
    data = text.encode()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def files_below(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Names, relative to `folder`, of its files or of those in some of its entries; hidden files,
    cards, checkpoints and done.json itself are left out."""
    tops = sorted(folder.iterdir()) if names is None else [folder / name for name in names]
    files = [f for top in tops for f in ([top] if top.is_file() else sorted(top.rglob("*")))]
    relative = [f.relative_to(folder) for f in files if f.is_file()]
    return [
        name.as_posix()
        for name in relative
        if not any(part.startswith(".") for part in name.parts)
        and name.parts[0] not in ("checkpoints", DONE)
        and name.name != CARD
    ]


def write_done(folder: Path, note: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Declares the folder finished: done.json with the digests of its files."""
    files = {name: entry(folder / name) for name in files_below(folder, names)}
    write_json(folder / DONE, {**note, "files": files})


def read_done(folder: Path) -> dict[str, Entry]:
    """The files that a finished folder lists. ValueError where done.json cannot be read."""
    return entries(read_json(folder / DONE), folder / DONE)


def entries(holder: Mapping[str, Any], source: Path) -> dict[str, Entry]:
    """The list of files that `source` holds; ValueError where it has none or a damaged one."""
    files = holder.get("files")
    whole = isinstance(files, dict) and all(
        isinstance(one, dict)
        and isinstance(one.get("size"), int)
        and isinstance(one.get("sha256"), str)
        for one in files.values()
    )
    if not whole:
        raise ValueError(
            f"{source} does not list the files of its folder (it is damaged, or an older version "
            "of genac wrote it); delete it: the command that wrote the folder writes it again"
        )
    assert isinstance(files, dict)
    return files


def damage(file: Path, expected: Entry, prefix: bool = False) -> str | None:
    """What is wrong with a file, in words; None where it is as it was written. `prefix`: a log
    that may have grown since."""
    if not file.is_file():
        return "is missing"
    size = file.stat().st_size
    if size < expected["size"] or (size > expected["size"] and not prefix):
        return f"has {size} bytes where {expected['size']} were written"
    if prefix:
        with open(file, "rb") as stream:
            held = hashlib.sha256(stream.read(expected["size"])).hexdigest()
    else:
        held = digest(file)
    return None if held == expected["sha256"] else "is not as it was written (its sha256 differs)"


def damaged(
    folder: Path, files: Mapping[str, Entry], parts: tuple[str, ...] = ("",), growing: bool = False
) -> dict[str, str]:
    """file -> what is wrong, of the listed files whose names begin with one of `parts`. `growing`:
    the folder is being written, so its logs may be longer."""
    reasons = {}
    for name, one in files.items():
        if not name.startswith(parts):
            continue
        reason = damage(folder / name, one, growing and name in LOGS)
        later = successors(folder, name, one)[1:] if growing and reason else []
        if reason and all(damage(folder / name, other) for other in later):
            reasons[name] = reason
    return reasons


def successors(folder: Path, name: str, first: Any) -> list[Any]:
    """What was recorded of `name` and all that replaced it, where the run was given another number
    of joint steps (`finish.lengthen`): entries of its files, "config_hash" of its config. One may
    have several, for a run that is killed behind the event goes on with any number."""
    result = [first]
    for _, event in read_lines(folder / "events.jsonl"):
        if event.get("kind") == LENGTHENED and event["before"].get(name) in result:
            result.append(event["after"][name])
    return result


def require(folder: Path, parts: tuple[str, ...], remedy: str) -> None:
    """ValueError that names the first file of a finished folder that is not as it was written, and
    says what to do."""
    for name, reason in damaged(folder, read_done(folder), parts).items():
        raise ValueError(f"{folder / name} {reason}, says {folder / DONE}; {remedy}")


def require_saved(folder: Path) -> None:
    """ValueError where a model that a finished stage or run saved is not as it was written."""
    folder = folder if folder.name else folder.absolute()
    owner = folder.parent
    if (owner / DONE).exists():
        remedy = f"restore it, or delete {folder} and run again the command that wrote {owner}"
        require(owner, (f"{folder.name}/", "config.json"), remedy)


def is_finished(folder: Path) -> bool:
    """Whether a run or a stage came to its end. Runs of older versions, which did not record what
    their files held, end with a summary."""
    if (folder / DONE).exists() or not (folder / "summary.json").exists():
        return (folder / DONE).exists()
    try:
        return "contents" not in read_json(folder / "environment.json")
    except (ValueError, OSError):
        return False


def suspects(folder: Path, parts: tuple[str, ...] = ("",)) -> dict[str, str]:
    """file -> what is wrong with it, for readers who show the rest: by done.json, or by the newest
    checkpoint that can be read. Empty where neither lists anything.
    """
    try:
        if (folder / DONE).exists():
            return noted(damaged(folder, read_done(folder), parts), DONE)
        if (folder / "summary.json").exists() and not is_finished(folder):
            return {DONE: "is missing: run 'genac train' again"}
        states = sorted(folder.glob("checkpoints/*/step-*/state.json"), key=lambda f: f.parent.name)
        if not states:
            return {}
        listed = entries(read_json(states[-1]), states[-1])
        source = states[-1].relative_to(folder).as_posix()
        return noted(damaged(folder, listed, parts, growing=True), source)
    except ValueError as error:
        return {DONE: str(error).replace(f"{folder}/", "")}
    except OSError:  # a run that is being written drops its older checkpoints
        return {}


def noted(reasons: Mapping[str, str], source: str) -> dict[str, str]:
    return {name: f"{reason}, says {source}" for name, reason in reasons.items()}
