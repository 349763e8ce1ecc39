"""Bytes on disk that survive a killed process and a full disk: JSON, JSON lines, atomic files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from genac.runs.guard import parse_json, refuse_special

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
NONFINITE = {"nan", "inf", "-inf"}  # JSON has no such numbers, so they are written as strings


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: 0-d arrays become numbers, NaN becomes "nan"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy or torch, without importing either
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def revive(obj: dict[str, Any]) -> dict[str, Any]:
    """Metrics with "nan" and "inf" read back as numbers."""
    return {k: float(v) if isinstance(v, str) and v in NONFINITE else v for k, v in obj.items()}


def encodable(text: str) -> str:
    """The text with lone surrogates (an actor can write them) replaced, as UTF-8 demands."""
    return text.encode("utf-8", "replace").decode("utf-8")


def stable_hash(obj: Any) -> str:
    """12 hex characters that depend on the content only, never on the order of keys."""
    canonical = json.dumps(plain(obj), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Replaces `path` as a whole or not at all: a crash or a full disk leaves the previous file."""
    path = Path(path)
    payload = encodable(data).encode() if isinstance(data, str) else data
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(tmp, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise _named(error, path, "the previous file, if any, is intact") from error


def durable(path: Path, data: bytes | str) -> None:
    """As atomic_write; and the name survives a power cut too."""
    atomic_write(path, data)
    sync(path.parent)


def sync(path: Path) -> None:
    """What a file holds, or the names in a folder, survive a power cut from here on; of a folder,
    where its file system can do that.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_below(folder: Path) -> None:
    """The same of a folder and everything in it."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path.is_dir():  # not a link to nowhere
            sync(path)


def sweep(folder: Path) -> None:
    """Removes what killed writers left: files that they were about to replace, and folders of
    weights on their way to servers.
    """
    for path in list(folder.rglob(".*.tmp")):
        process = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if not process or _alive(int(process[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return process != os.getpid()


def write_json(path: Path, obj: Mapping[str, Any]) -> None:
    atomic_write(path, json_text(obj))


def json_text(obj: Mapping[str, Any]) -> str:
    """What `write_json` writes."""
    return json.dumps(plain(obj), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; ValueError that names the file where it holds anything else."""
    refuse_special(path)
    try:
        obj = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore or delete it") from error
    if not isinstance(obj, dict):
        raise ValueError(
            f"{path} holds a {type(obj).__name__}, not an object: restore or delete it"
        )
    return obj


def append_line(path: Path, obj: Mapping[str, Any]) -> None:
    """Adds one JSON line; a disk that fills up half-way leaves no half line behind."""
    line = json.dumps(plain(obj), allow_nan=False) + "\n"
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab") as file:
            file.write(line.encode())
    except OSError as error:
        if path.exists():
            os.truncate(path, size)
        raise _named(error, path, "the earlier lines are intact") from error


@contextmanager
def alone(path: Path, inside: bool = False) -> Iterator[None]:
    """`path` is one process's at a time; the operating system frees it when that process dies.

    The lock lies next to it, or inside the folder that it is. Whoever comes second reports so on
    stderr and waits. Where the file system knows no locks (some network ones),
    nothing is held, which is reported too.
    """
    lock = path / ".lock" if inside else path.parent / f".{path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        _lock(file, path)
        yield


def _lock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(f"waiting for the process that works on {path}")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _say(f"no file locks here ({error}): let one process at a time work on {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def repair_tail(path: Path) -> None:
    """Cuts the half line that a killed writer left, so that the next line does not join it."""
    data = path.read_bytes() if path.exists() else b""
    if not data or data.endswith(b"\n"):
        return
    head, newline, tail = data.rpartition(b"\n")
    atomic_write(path, data + b"\n" if parsed(tail) is not None else head + newline)


def read_lines(path: Path, skip_broken: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """(raw line, object) of every line; a torn last one is left out, others are errors or, where
    the caller wants what is whole, left out too.
    """
    if path.exists():
        refuse_special(path)
    raw = path.read_bytes().split(b"\n") if path.exists() else []
    pairs = []
    for number, line in enumerate(raw, start=1):
        obj = parsed(line)
        if obj is not None:
            pairs.append((line.decode(), obj))
        elif line.strip() and number < len(raw) and not skip_broken:
            raise ValueError(f"{path} line {number} is not a JSON object: delete that line")
    return pairs


def tail_lines(path: Path, count: int, block: int = 1 << 16) -> list[dict[str, Any]]:
    """The objects of at most the last `count` lines that lie in the file's last `block` bytes."""
    if not path.exists():
        return []
    refuse_special(path)
    with open(path, "rb") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - block)
        file.seek(begin)
        lines = file.read().split(b"\n")
    whole = lines[1:] if begin else lines  # the first may have been cut by the block's edge
    results = [obj for line in whole[-count - 1 :] if (obj := parsed(line)) is not None]
    return results[-count:]


def parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None where it holds none."""
    try:
        obj = parse_json(line)
    except ValueError:
        return None
    return obj if isinstance(obj, dict) else None


def _named(error: OSError, path: Path, consequence: str) -> OSError:
    message = (
        f"cannot write {path}: {error.strerror or error}; {consequence}. "
        "Free disk space or fix the folder's permissions, then resume"
    )
    return OSError(error.errno, message)
