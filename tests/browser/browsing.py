"""What the browser tests share: a headless Chromium, and the check for barriers.

They need Playwright for Python and a Chromium on the PATH; without them they are skipped. The
accessibility check also needs axe-core (`npm install axe-core`, or AXE_CORE=path of axe.min.js).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def serving(*arguments: str | Path) -> Iterator[str]:
    """The address of `genac view` with these arguments, in a process of its own."""
    command = [sys.executable, "-m", "genac.cli", "view", *map(str, arguments), "--no-browser"]
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield next(word for word in server.stdout.readline().split() if word.startswith("http"))
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def visiting(
    chromium: Any, address: str, width: int = 1440, theme: str = "light", root: str | None = None
) -> Iterator[Any]:
    """An open page; a message on the console or a request outside `root` fails the test.

    root is the address's own server if unset.
    """
    context = chromium.new_context(
        viewport={"width": width, "height": 900 if width > 800 else 844}, color_scheme=theme
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    inside = root or address.partition("#")[0].partition("pair")[0]
    page.on("request", lambda r: None if allowed(r.url, inside) else wrong.append(r.url))
    page.goto(address)
    yield page
    assert wrong == []
    context.close()


def allowed(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


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
    # It would fetch style sheets again, which a page on a disk may not.
    result = page.evaluate("axe.run({preload: false}).then((result) => result.violations)")
    return [
        (v["id"], [node["html"][:120] for node in v["nodes"]][:4])
        for v in result
        if v["impact"] in ("serious", "critical")
    ]
