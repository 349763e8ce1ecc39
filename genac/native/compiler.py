"""Compiles csrc/ on the first use, once per machine, source and compiler.

That takes some seconds; the library is kept in the user's cache folder (XDG_CACHE_HOME), or where
that cannot be written, in a private folder for temporary files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

FLAGS = "-O3 -std=c++17 -fno-math-errno -fno-trapping-math -pthread -shared -fPIC"
COMPILERS = ("c++", "g++", "clang++")
SOURCES = sorted((Path(__file__).parent / "csrc").iterdir())
# Each in the order of preference; nothing at all works everywhere. Clang on ARM may know no -march.
PROCESSOR_FLAGS = ("-march=native", "-mcpu=native", "")
# Apple's clang takes OpenMP in the second form only, where a libomp is at hand: torch's own comes
# first, since two of them in one process end it. Without OpenMP, csrc/parallel.h uses std::thread.
TORCH = Path(torch.__file__).parent / "lib"
OPENMP_FLAGS = (
    "-fopenmp",
    f"-Xpreprocessor -fopenmp -L{shlex.quote(str(TORCH))} -Wl,-rpath,{shlex.quote(str(TORCH))} "
    "-lomp",
    "",
)
PROBE = "int main() {\n#pragma omp parallel\n    {}\n}\n"


def compiled() -> Path:
    """Path of the library, compiled on the first use by the first compiler that can; OSError or
    SubprocessError where none does."""
    own = os.environ.get("CXX")
    compilers = [own] if own else list(filter(shutil.which, COMPILERS))
    if not compilers:
        raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is installed")
    folder = cache_folder()
    for compiler in compilers[:-1]:
        with contextlib.suppress(subprocess.SubprocessError):
            return compiled_by(compiler, folder)
    return compiled_by(compilers[-1], folder)


def cache_folder() -> Path:
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


def compiled_by(compiler: str, cache: Path) -> Path:
    preferred = flags_of(PROCESSOR_FLAGS[0], OPENMP_FLAGS[0])
    path = library_path(compiler, preferred, cache)
    if path.exists():  # nearly always: nothing is probed
        return path
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        flags = accepted_flags(compiler, Path(folder))
        path = library_path(compiler, flags, cache)
        if not path.exists():
            units = [str(source) for source in SOURCES if source.suffix == ".cpp"]
            output = Path(folder) / path.name
            run(compiler, flags, units, output, check=True)
            output.replace(path)  # whole, or not at all
    return path


def accepted_flags(compiler: str, folder: Path) -> list[str]:
    """The first flags of each kind with which the compiler makes a library of a line."""
    source = folder / "probe.cpp"
    source.write_text(PROBE)

    def accepts(*flags: str) -> bool:
        return run(compiler, flags_of(*flags), [str(source)], folder / "probe.so") == 0

    processor = next((x for x in PROCESSOR_FLAGS if not x or accepts(x)), "")
    openmp = next((x for x in OPENMP_FLAGS if not x or accepts(processor, x)), "")
    return flags_of(processor, openmp)


def flags_of(*options: str) -> list[str]:
    return shlex.split(" ".join((FLAGS, *options)))


def run(
    compiler: str, flags: list[str], units: list[str], output: Path, *, check: bool = False
) -> int:
    # Libraries (-lomp) come behind what needs them.
    command = [*shlex.split(compiler), *units, *flags, "-o", str(output)]
    done = subprocess.run(command, check=check, capture_output=True, text=True, timeout=120)
    return done.returncode


def library_path(compiler: str, flags: list[str], cache: Path) -> Path:
    # -march=native: another processor needs another library.
    about = ([path.read_text() for path in SOURCES], flags, compiler, processor())
    return cache / f"native-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.so"


def processor() -> str:
    """What -march=native looks at."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), *sorted(features)])
