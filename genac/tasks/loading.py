"""Loading a user's reward function from a file or a module; every error names file and line.

function_of("path/to/file.py:fn", "path/to/file.py", "fn")  ->  fn, "path/to"
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "genac_reward_"  # of the names that reward files get as modules
FOLDERS: list[str] = []  # of the reward files loaded in this process


def function_of(spec: str, place: str, name: str) -> tuple[Callable[..., Any], str | None]:
    """The function `name` of a file or module, and the file's folder. ValueError without one."""
    folder = None
    if place.endswith(".py"):
        path = Path(place).expanduser()
        folder = str(path.resolve().parent)
        module = _load_file(path)
    else:
        module = _load_module(place, spec)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward {spec!r}: {place} has no function {name!r}; define it there")
    return function, folder


@contextlib.contextmanager
def on_path(folder: str | None) -> Iterator[None]:
    """The folder stands first on the import path, as a script's own folder does."""
    if folder is None:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have taken it out itself
            sys.path.remove(folder)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(
            f"reward file {str(path)!r} does not exist; give the path from {Path.cwd()}"
        )
    full = str(path.resolve())
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, path
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    folder = str(Path(full).parent)
    with _without_others(folder), on_path(folder):
        importlib.invalidate_caches()  # a file written a moment ago would not be seen
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever a user's file raises
            del sys.modules[name]
            raise ValueError(
                _complaint(f"reward file {str(path)!r}", error, str(path.parent))
            ) from error
    if folder not in FOLDERS:
        FOLDERS.append(folder)
    return module


@contextlib.contextmanager
def _without_others(folder: str) -> Iterator[None]:
    """Hides what other reward files imported from their folders: two folders may each hold a
    `helper.py`, and the second file would get the first one's.
    """
    others = {other for other in FOLDERS if other != folder}
    loaded = dict(sys.modules) if others else {}
    tops = {name for name, module in loaded.items() if _folder_of(name, module) in others}
    hidden = {name: module for name, module in loaded.items() if name.split(".")[0] in tops}
    for name in hidden:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update(hidden)


def _folder_of(name: str, module: Any) -> str | None:
    """Where a module that no package holds lies; a package lies in the folder above its own."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or "." in name or name.startswith(PREFIX):
        return None
    path = Path(file)
    return str(path.parent.parent if path.name == "__init__.py" else path.parent)


def _load_module(place: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            raise ValueError(
                f"reward {spec!r}: {error}; install it, or name the file as 'path/to/file.py:fn'"
            ) from error
        raise ValueError(_complaint(f"reward {spec!r}", error, None)) from error
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise ValueError(_complaint(f"reward {spec!r}", error, None)) from error


def _complaint(subject: str, error: BaseException, folder: str | None) -> str:
    """What failed, at which file and line, and what to do about it."""
    remedy = "correct the file"
    if isinstance(error, ModuleNotFoundError):
        remedy = f"install {error.name!r}, or put its file next to the reward's"
    try:
        text = f"{error!s:.300}"
    except Exception:  # a user's exception
        text = "(no text)"
    if isinstance(error, SyntaxError) and error.filename:
        where, text = f"{error.filename}, line {error.lineno}", error.msg
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
        own = [f for f in frames if folder and f.filename.startswith(folder)] or frames
        where = f"{own[-1].filename}, line {own[-1].lineno}" if own else "before its first line"
    return f"{subject} cannot be loaded: {type(error).__name__}: {text} ({where}); {remedy}"


def _is_users(file: str) -> bool:
    return not file.startswith("<frozen") and file != __file__
