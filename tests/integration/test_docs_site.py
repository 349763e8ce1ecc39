"""`make docs`: the site builds without a warning and loads nothing of another server.

GENAC_MKDOCS names the mkdocs of another environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MKDOCS = os.environ.get("GENAC_MKDOCS") or shutil.which("mkdocs")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not MKDOCS, reason="no mkdocs: pip install 'genac[docs]', or GENAC_MKDOCS")
def test_the_site_builds_without_warnings_and_reads_offline(tmp_path: Path) -> None:
    result = subprocess.run(
        [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=350,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 40
    loads = re.compile(r"<(?:script|img|iframe)[^>]*src=[\"']?https?:|<link[^>]*href=[\"']?https?:")
    assert not [p.name for p in pages if loads.search(p.read_text())]
    api = (tmp_path / "site" / "api.html").read_text()
    assert "from_pretrained" in api and "R_v" in (tmp_path / "site" / "paper.html").read_text()
