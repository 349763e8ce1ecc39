"""The documentation as a site. GENAC_MKDOCS names the mkdocs of another environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MKDOCS = os.environ.get("GENAC_MKDOCS") or shutil.which("mkdocs")
needs_mkdocs = pytest.mark.skipif(
    not MKDOCS, reason="no mkdocs: pip install 'genac[docs]', or GENAC_MKDOCS"
)


def build(folder: Path) -> Path:
    """The site in folder; a warning is an error."""
    done = subprocess.run(
        [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=350,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder
