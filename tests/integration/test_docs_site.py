"""`make docs`: the site builds without a warning and loads nothing of another server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_site import build, needs_mkdocs


@pytest.mark.slow
@pytest.mark.timeout(400)
@needs_mkdocs
def test_the_site_builds_without_warnings_and_reads_offline(tmp_path: Path) -> None:
    site = build(tmp_path / "site")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    loads = re.compile(r"<(?:script|img|iframe)[^>]*src=[\"']?https?:|<link[^>]*href=[\"']?https?:")
    assert not [p.name for p in pages if loads.search(p.read_text())]
    api = (site / "api.html").read_text()
    assert "from_pretrained" in api and "R_v" in (site / "paper.html").read_text()
