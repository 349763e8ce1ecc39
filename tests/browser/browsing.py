"""What the browser tests share: a headless Chromium, and the check for barriers.

They need Playwright for Python and a Chromium on the PATH; without them they are skipped. The
accessibility check also needs axe-core (`npm install axe-core`, or AXE_CORE=path of axe.min.js).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
PATIENCE = 20_000  # milliseconds; the machine may be busy

needs_chromium = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
needs_axe = pytest.mark.skipif(
    not AXE.is_file(), reason=f"no axe-core at {AXE}: npm install axe-core"
)


def until(page: Any, condition: str) -> None:
    """Waits for a condition in the page (its policy forbids Playwright's own way, which evals)."""
    for _ in range(PATIENCE // 50):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def barriers(page: Any) -> list[tuple[str, list[str]]]:
    """The serious and critical findings of axe, with every fold open."""
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.wait_for_timeout(500)
    page.evaluate(AXE.read_text())
    result = page.evaluate("axe.run().then((found) => found.violations)")
    return [
        (v["id"], [node["html"][:120] for node in v["nodes"]][:4])
        for v in result
        if v["impact"] in ("serious", "critical")
    ]
