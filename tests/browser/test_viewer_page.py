"""The viewer's page in a headless Chromium: what a person does, and that it works for everyone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import PATIENCE, barriers, needs_axe, needs_chromium, serving, until, visiting
from viewer_run import append, make, rejudge, without_entropies

from genac.runs.store import Run

pytestmark = needs_chromium


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make(tmp_path / "run")


@pytest.fixture
def address(run: Run) -> Iterator[str]:
    with serving(run.path) as address:
        yield address


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    with visiting(chromium, address, width=1400) as page:
        page.wait_for_selector("#steps")
        # On a busy machine the list opens with the steps read so far.
        until(page, "document.querySelectorAll('#rows .row').length === 12")
        yield page


def rows(page: Any) -> list[str]:
    return [row.get_attribute("data-at") for row in page.query_selector_all("#rows .row")]


def test_open_filter_select_and_read(page):
    assert len(rows(page)) == 12
    page.select_option("select[name=outcome]", "wrong")
    page.select_option("select[name=sort]", "drop")
    until(page, "document.querySelectorAll('#rows .row').length === 6")
    assert rows(page)[0] == "joint/20/1/1"
    page.click("#rows .row >> nth=3")  # the fall of 0.6 at the newest step
    page.wait_for_selector("h2:has-text('problem-0')")
    page.click(".step >> nth=1")
    reasoning = page.inner_text("#reasoning")
    assert reasoning.startswith("step 1 of problem-0 at version 20")
    assert page.inner_text("#state .big") == "0.80"
    assert "value falls 0.60" in page.inner_text("#steps")
    page.fill("input[name=q]", "version 10")
    until(page, "document.querySelectorAll('#rows .row').length === 2")
    assert all(at.startswith("joint/10/") for at in rows(page))


def test_text_of_models_stays_text(page):
    page.click(".step >> nth=2")
    assert "<script>" in page.inner_text("#reasoning")
    assert "<img" in page.inner_text("#reasoning")
    page.wait_for_timeout(300)
    assert "owned" not in page.title()
    assert page.query_selector("#detail img, #detail script") is None


def test_a_link_opens_the_same_view(page, address):
    page.goto(f"{address}#outcome=wrong&at=joint/10/0/1&state=2")
    page.wait_for_selector("h2:has-text('Before step 2')")
    here = page.url
    page.keyboard.press("c")
    page.wait_for_selector("#versions .versions select")
    until(page, "location.hash.includes('compare=')")
    again = page.context.new_page()
    again.set_default_timeout(PATIENCE)
    again.goto(page.url)
    again.wait_for_selector("#versions[open] .versions")
    assert "at version 10" in again.inner_text("#versions")
    assert "at version 20" in again.inner_text("#versions")
    assert again.input_value("select[name=outcome]") == "wrong"
    assert here != page.url
    again.close()


def chosen(page: Any, side: int) -> str:
    """Whose judgement stands on this side."""
    pick = page.query_selector_all("#versions select")[side]
    return pick.evaluate("(pick) => pick.selectedOptions[0].textContent")


def test_equal_versions_of_two_stages_are_not_mixed_up(page, run, address):
    append(run, 10, "critic_rl")
    page.wait_for_selector("#rows .row[data-at='critic_rl/10/0/0']")
    page.goto(f"{address}#at=critic_rl/10/0/1&state=2&compare=1")
    page.wait_for_selector("#versions .versions select")
    assert chosen(page, 0) == "version 10 (critic_rl step 10)"


def test_two_critics_stand_side_by_side(page, run, address):
    rejudge(run, 20, "second")
    rejudge(run, 20, "third", 0.3)
    page.goto(f"{address}#at=joint/20/0/1&state=2&compare=1")
    page.wait_for_selector("#versions .versions select")
    assert chosen(page, 0).startswith("version 20")
    second, third = (f"critic {name} (judged at joint step 20)" for name in ("second", "third"))
    page.select_option("#versions select >> nth=1", label=second)
    right = page.inner_text("#versions .versions > div >> nth=1")
    assert "0.70" in right and "at version 99" in right
    page.select_option("#versions select >> nth=0", label=third)  # none of them the run's own
    assert "0.50" in page.inner_text("#versions .versions > div >> nth=0")
    again = page.context.new_page()
    again.set_default_timeout(PATIENCE)
    again.goto(page.url)
    again.wait_for_selector("#versions[open] .versions select")
    wide = "['scrollWidth', 'clientWidth'].map((k) => document.querySelector('#detail')[k])"
    needed, there_is = again.evaluate(wide)
    assert needed <= there_is
    assert (chosen(again, 0), chosen(again, 1)) == (third, second)
    again.close()


def test_the_keyboard_reaches_everything(page):
    start = page.url
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.wait_for_selector("h2:has-text('Before step 3')")
    page.keyboard.press("k")
    page.wait_for_selector("h2:has-text('Before step 2')")
    page.keyboard.press("n")
    until(page, "location.hash.includes('joint%2F10')")
    page.keyboard.press("p")
    until(page, "location.hash.includes('joint%2F20')")
    page.keyboard.press("g")
    page.wait_for_selector("#tree")
    assert page.locator("#tree .branch").count() == 3  # the shared step, and two responses
    page.keyboard.press("g")
    page.wait_for_selector("#steps")
    page.keyboard.press("/")
    page.keyboard.type("problem-1")
    until(page, "document.querySelectorAll('#rows .row').length === 6")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    assert start != page.url


def numbers(page: Any, fold: str = "#fold-actor") -> list[str]:
    """What stands below each token of a fold."""
    return [node.inner_text() for node in page.query_selector_all(f"{fold} .token small")]


def paint(page: Any) -> list[str]:
    """The colour behind each of the actor's tokens."""
    result = "[...document.querySelectorAll('#fold-actor .token')].map((t) => t.style.background)"
    return page.evaluate(result)


def test_tokens_show_probability_or_entropy(page, address):
    page.goto(f"{address}#at=joint/20/0/1&state=2")
    page.wait_for_selector("h2:has-text('Before step 2')")
    page.click("#fold-actor summary")
    assert numbers(page) == ["0.45", "0.30"]  # of the second step: e^-0.806, e^-1.204
    tip = page.query_selector("#fold-actor .token").get_attribute("title")
    assert tip == "log-probability -0.8060 nats, entropy 0.500 nats"
    before = paint(page)
    page.click("#fold-actor button:has-text('entropy')")
    until(page, "location.hash.includes('tokens=entropy')")
    assert numbers(page) == ["0.50", "0.75"] and paint(page) != before
    pressed = "#fold-actor button[aria-pressed=true]"
    assert (
        page.inner_text(pressed) == "entropy" == page.evaluate("document.activeElement.innerText")
    )
    assert "Mean of 2: 0.63 nats" in page.inner_text("#fold-actor .muted")
    page.click("#fold-critic summary")
    assert numbers(page, "#fold-critic") == ["0.30", "0.90"]
    page.keyboard.press("j")  # the choice goes on to the next state
    page.wait_for_selector("h2:has-text('Before step 3')")
    assert numbers(page) == ["1.00", "1.25"]
    page.keyboard.press("e")
    until(page, "location.hash.includes('tokens=probability')")
    assert numbers(page) == ["0.20", "0.14"] and page.inner_text(pressed) == "probability"


def test_a_link_keeps_what_tokens_show(page, address):
    page.goto(f"{address}#at=joint/20/0/1&state=2")
    page.wait_for_selector("h2:has-text('Before step 2')")
    assert not page.is_visible("#fold-actor .token")
    page.keyboard.press("e")  # unfolds them too
    until(page, "location.hash.includes('tokens=entropy')")
    again = page.context.new_page()
    again.set_default_timeout(PATIENCE)
    again.goto(page.url)
    again.wait_for_selector("#fold-actor[open] .token")
    assert numbers(again) == ["0.50", "0.75"]
    again.close()


def test_a_run_without_entropies_says_so(page, run, address):
    without_entropies(run, 10)
    page.goto(f"{address}#at=joint/10/0/1&state=2")
    page.reload()  # what was shown before is kept
    page.wait_for_selector("h2:has-text('Before step 2')")
    page.keyboard.press("e")
    until(page, "location.hash.includes('tokens=entropy')")
    assert "Entropy is not recorded here" in page.inner_text("#fold-actor .muted")
    assert numbers(page) == ["", ""] and paint(page) == ["", ""]
    tip = page.query_selector("#fold-actor .token").get_attribute("title")
    assert tip == "log-probability -0.8060 nats, entropy not recorded"
    page.click("#fold-actor button:has-text('probability')")
    until(page, "location.hash.includes('tokens=probability')")
    assert numbers(page) == ["0.45", "0.30"]


def test_exports_hold_the_tokens_that_are_unfolded(page, tmp_path):
    for unfolded in (False, True):
        if unfolded:
            page.click("#fold-actor summary")
            page.wait_for_selector("#fold-actor[open]")
        with page.expect_download() as started:
            page.click(".tools button:has-text('Markdown')")
        started.value.save_as(tmp_path / "export.md")
        assert ("entropy in nats" in (tmp_path / "export.md").read_text()) == unfolded


def test_the_theme_changes_and_is_remembered(page):
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "light"
    page.click("#theme")
    assert page.evaluate(theme) == "dark"
    page.reload()
    page.wait_for_selector("#steps")
    assert page.evaluate(theme) == "dark"


def test_what_training_appends_appears(page, run):
    append(run, 30)
    page.wait_for_selector("#rows .row[data-at='joint/30/0/0']")
    assert "joint step 30, 31 of 40 done" in page.inner_text("#run-facts")
    assert "problem-1" in page.inner_text("#detail")  # the open response stays


@pytest.mark.parametrize(
    ("button", "ending"), [("HTML", ".html"), ("Markdown", ".md"), ("PNG", ".png")]
)
def test_exports_are_files(page, button, ending, tmp_path):
    with page.expect_download() as started:
        page.click(f".tools button:has-text('{button}')")
    file = tmp_path / started.value.suggested_filename
    started.value.save_as(file)
    assert file.name == f"joint-20-1-1{ending}" and file.stat().st_size > 500
    if ending == ".png":
        assert file.read_bytes().startswith(b"\x89PNG")


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_barrier(page, theme):
    if theme == "dark":
        page.click("#theme")
    page.keyboard.press("e")  # tokens coloured by entropy
    views = ["#state", "#tree"]
    for view in views:
        if view == "#tree":
            page.keyboard.press("g")
        page.wait_for_selector(view)
        assert barriers(page) == [], view
