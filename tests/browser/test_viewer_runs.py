"""A folder of runs, two of them side by side, and responses as one page to send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import barriers, needs_axe, needs_chromium, serving, until, visiting
from text_run import make

from genac.cli import main
from genac.runs.store import Run

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "runs"
    make(folder / "one")
    make(folder / "deep" / "two", (0,))
    Run.create(folder / "empty", {"algorithm": "genac"}, {})
    return folder


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with serving(runs) as address:
        yield address


@pytest.fixture(scope="module")
def sent(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an exported page: two responses, one of them wrong."""
    file = tmp_path_factory.mktemp("sent") / "page.html"
    chosen = ["joint/10/0/1", "joint/10/0/0"]
    assert main(["view", str(runs / "one"), "--export", str(file), *chosen]) == 0
    return file.as_uri()


def test_a_run_is_picked_and_left_again(chromium, address):
    with visiting(chromium, address) as page:
        page.wait_for_selector("#runs a")
        names = [link.inner_text() for link in page.query_selector_all("#runs a")]
        assert sorted(names) == ["deep/two", "empty", "one"]
        page.click("#runs a:text('deep/two')")
        page.wait_for_selector("#steps .katex")
        assert page.inner_text("#run-name") == "two"
        page.click("#top a")
        page.wait_for_selector("#runs a")


def test_the_list_of_runs_fits_a_telephone(chromium, address):
    with visiting(chromium, address, 390) as page:
        page.wait_for_selector("#runs a")
        right = (
            "[...document.querySelectorAll('#runs td')].map((c) => c.getBoundingClientRect().right)"
        )
        assert max(page.evaluate(right)) <= 390


def test_a_response_without_siblings_has_no_row_of_them(chromium, runs, tmp_path):
    file = tmp_path / "alone.html"
    assert main(["view", str(runs / "one"), "--export", str(file), "joint/10/0/1"]) == 0
    with visiting(chromium, file.as_uri()) as page:
        page.wait_for_selector("#steps")
        assert not page.query_selector(".siblings")
        assert "null" not in page.inner_text("#detail").split("\n")


def test_two_runs_follow_each_other_to_the_same_problem(chromium, address):
    with visiting(chromium, address) as page:
        page.check("input[aria-label='mark one']")
        page.check("input[aria-label='mark deep~two']")
        page.click("#pair")
        page.wait_for_selector("#run-facts:text('Both answer algebra-0')")
        right = page.frame_locator("#right")
        right.locator(".head:has-text('joint step 0, response 1 of group 0')").wait_for()
        page.frame_locator("#left").locator(".siblings a >> nth=0").click()
        right.locator(".head:has-text('response 0 of group 0')").wait_for()


def test_on_a_narrow_screen_two_runs_stand_one_above_the_other(chromium, address):
    with visiting(chromium, f"{address}pair?left=one&right=deep~two") as page:
        page.set_viewport_size({"width": 390, "height": 844})
        left, right = (page.locator(f"#{side}").bounding_box() for side in ("left", "right"))
        assert min(left["width"], right["width"]) > 380 and left["height"] > 600
        assert right["y"] >= left["y"] + left["height"]


def test_a_page_that_was_sent_is_interactive_without_a_server(chromium, sent):
    with visiting(chromium, sent) as page:
        page.wait_for_selector("#steps .katex")
        assert len(page.query_selector_all("#rows .row")) == 2
        assert "Before step 4" in page.inner_text("#state")
        page.keyboard.press("k")
        page.wait_for_selector("h2:has-text('Before step 3')")
        page.keyboard.press("g")
        page.wait_for_selector("#tree")
        page.keyboard.press("g")
        page.click("#rows .row >> nth=1")
        page.wait_for_selector(".head:has-text('response 0')")
        page.keyboard.press("t")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.keyboard.press("e")
        page.wait_for_selector("#fold-actor[open] .token")
        assert "owned" not in page.title()


def test_a_link_into_a_page_that_was_sent_opens_its_state(chromium, sent):
    with visiting(chromium, f"{sent}#at=joint/10/0/0") as page:
        page.wait_for_selector(".head:has-text('response 0')")
        until(page, "document.querySelector('#steps .katex')")


@needs_axe
def test_no_serious_barrier(chromium, address, sent):
    places = (address, f"{address}pair?left=one&right=deep~two", sent)
    for place in places:
        with visiting(chromium, place, theme="dark") as page:
            page.wait_for_timeout(1500)
            assert barriers(page) == [], place
