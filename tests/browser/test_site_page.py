"""The documentation's site in a headless Chromium, read from the disk without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import barriers, needs_axe, needs_chromium, until, visiting
from docs_site import build, needs_mkdocs

pytestmark = [*needs_chromium, needs_mkdocs, pytest.mark.timeout(900)]
PAGES = ("index", "concepts", "results/index")
WIDTHS = (1440, 390)
LUMINANCE = """(() => {
  const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
})()"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("docs") / "site")


@contextmanager
def reading(chromium: Any, site: Path, name: str, *screen: Any) -> Iterator[Any]:
    """A page of the site, which may read nothing but the site's files."""
    address = (site / f"{name}.html").as_uri()
    with visiting(chromium, address, *screen, root=f"{site.as_uri()}/") as page:
        until(page, "document.documentElement.classList.contains('js')")
        yield page


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_the_screen_and_takes_its_theme(chromium, site, name, theme):
    with reading(chromium, site, name, 1440, theme) as page:
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (page.evaluate(LUMINANCE) > 0.5) == (theme == "light")
        until(page, "[...document.images].every((image) => image.naturalWidth > 0)")
        assert page.evaluate("document.images.length") >= 1


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [*PAGES, "quickstart"])
def test_there_are_no_barriers(chromium, site, name, theme):
    with reading(chromium, site, name, 1440, theme) as page:
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 844})
            assert barriers(page) == []


def test_search_finds_a_page_without_a_server(chromium, site):
    with reading(chromium, site, "results/index") as page:
        page.click(".md-search__input")
        page.type(".md-search__input", "troubleshooting")
        page.wait_for_selector(".md-search-result__item a[href*='troubleshooting.html']")
        page.click(".md-search-result__item a[href*='troubleshooting.html']")
        page.wait_for_selector("h1:has-text('Troubleshooting')")
