"""The C++ of this folder as a library, compiled on the first use.

It is compiled once per machine and source, in two or three seconds, and kept in the user's cache
folder (XDG_CACHE_HOME), or where that cannot be written, in a private folder for temporary files.
Without a compiler, or with GENAC_NATIVE=0, torch's operations compute the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path

FLAGS = "-O3 -march=native -std=c++17 -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC"
COMPILERS = ("c++", "g++", "clang++")
SOURCES = sorted(p for p in Path(__file__).parent.iterdir() if p.suffix in (".cpp", ".h"))
LANES = 8  # numbers per vector: dimensions are multiples of it


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None, with a warning, where there is none."""
    if os.environ.get("GENAC_NATIVE") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or error
        warnings.warn(
            "the inner loops could not be compiled, so sampling takes several times as long "
            f"({str(output).strip()[-300:]}); install g++ or clang++, set XDG_CACHE_HOME if it is "
            "the folder, or GENAC_NATIVE=0 to say so",
            stacklevel=2,
        )
        return None
    loaded.genac_decode.argtypes = [c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64]
    loaded.genac_read.argtypes = [c_void_p, c_void_p, c_void_p, c_int64]
    loaded.genac_tree.argtypes = [c_void_p, c_int64, c_int64]
    loaded.genac_layer.argtypes = [c_void_p, c_int64, c_int64]
    return loaded


def compiled() -> Path:
    """Path of the library, compiled on the first use by the first compiler that can; OSError or
    SubprocessError where none does."""
    given = os.environ.get("CXX")
    found = [given] if given else list(filter(shutil.which, COMPILERS))
    if not found:
        raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is installed")
    folder = kept_in()
    for compiler in found[:-1]:
        with contextlib.suppress(subprocess.SubprocessError):
            return compiled_by(compiler, folder)
    return compiled_by(found[-1], folder)


def kept_in() -> Path:
    """A folder of the user's own that can be written."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home at all
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genac"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(tempfile.gettempdir()) / f"genac-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder


def compiled_by(compiler: str, kept: Path) -> Path:
    # -march=native: another processor needs another library.
    about = ([path.read_text() for path in SOURCES], FLAGS, compiler, processor())
    path = kept / f"native-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            units = [str(source) for source in SOURCES if source.suffix == ".cpp"]
            made = Path(folder) / path.name
            command = [*shlex.split(compiler), *FLAGS.split(), *units, "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            made.replace(path)  # whole, or not at all
    return path


def processor() -> str:
    """What -march=native looks at."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    wanted = ("model name", "flags", "Features")
    found = {line for line in lines if line.startswith(wanted)}
    return "\n".join([platform.machine(), *sorted(found)])
