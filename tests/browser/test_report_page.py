"""The report in a headless Chromium, opened as a file without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import PATIENCE, barriers, needs_axe, needs_chromium, until
from report_runs import full_run

from genac.ui.report.document import write_report

pytestmark = needs_chromium
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">"
LEAD = "figure:has-text('Held-out success over joint training')"
THEME = "document.documentElement.dataset.theme"
PAPER = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of 60 steps whose actor writes markup."""
    return write_report(full_run(tmp_path_factory.mktemp("one") / "run", 60, HOSTILE).path)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two seeds of one configuration and one run of another."""
    root = tmp_path_factory.mktemp("several")
    for seed in (0, 1):
        full_run(root / f"genac-{seed}", 40, seed=seed)
    full_run(root / "grpo", 40, name="grpo", algorithm="grpo")
    return write_report(root)


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """visit(file, theme) -> the page; whatever the console or a request says fails the test."""
    wrong: list[str] = []
    contexts = []

    def opened(path: Path, theme: str = "light") -> Any:
        size = {"width": 1280, "height": 900}
        context = chromium.new_context(viewport=size, color_scheme=theme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if r.url == path.as_uri() else wrong.append(r.url))
        page.goto(path.as_uri())
        until(
            page,
            "[...document.querySelectorAll('figure')]"
            ".every((f) => !f.checkVisibility() || f.querySelector('.plot svg'))",
        )
        return page

    yield opened
    assert wrong == []
    for context in contexts:
        context.close()


def hover(page: Any, figure: Any, across: float) -> str:
    """The tooltip where the pointer is that far across the chart (0 to 1)."""
    figure.scroll_into_view_if_needed()
    box = figure.query_selector(".plot svg").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + across * box["width"] - 5, y)
    page.mouse.move(box["x"] + across * box["width"], y)
    until(page, "document.querySelector('.plot [aria-label=tip] text') !== null")
    return "\n".join(
        part.text_content() for part in figure.query_selector_all("[aria-label=tip] text")
    )


def test_a_mailed_file_opens_without_a_network_and_draws_every_chart(one, visit):
    assert one.stat().st_size < 5e6
    page = visit(one)
    first = page.query_selector_all("figure.chart:visible")
    assert len(first) < 12  # those that matter, scores, success against cost
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    until(page, "[...document.querySelectorAll('.chart')].every((c) => c.querySelector('svg'))")
    charts = page.query_selector_all("figure.chart")
    assert len(charts) >= 25
    assert all(chart.query_selector(".plot svg[role=img][aria-label]") for chart in charts)
    assert page.is_visible("text=a clear gain")
    assert page.inner_text("h1") == "toy"


def test_what_an_actor_wrote_runs_nowhere(one, visit):
    page = visit(one)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.wait_for_timeout(300)
    assert page.title() == "toy: report"
    assert "<img src=x" in page.inner_text("#examples") and page.query_selector("main img") is None


def test_a_tooltip_names_step_values_interval_and_alarm(one, visit):
    page = visit(one)
    figure = page.query_selector(LEAD)
    answer = hover(page, figure, 0.1)  # the alarm fired at step 3 of 60
    steps = [hover(page, figure, 0.05 + 0.005 * i) for i in range(20)]
    assert any("step" in text and "reward in training" in text for text in steps)
    assert any("▲ alarm advantage_gap" in text for text in steps)
    assert "before training" in hover(page, figure, 0.04) or answer
    evaluated = [hover(page, figure, 0.33 + 0.005 * i) for i in range(30)]
    assert any("held-out success: 0.5 [0.4, 0.6]" in text for text in evaluated)


def test_a_legend_hides_a_line_and_keeps_the_last(one, visit):
    page = visit(one)
    figure = page.query_selector(LEAD)
    lines = "[data-mark=line]"
    assert len(figure.query_selector_all(lines)) == 2
    first, second = figure.query_selector_all(".legend button")
    second.click()
    assert second.get_attribute("aria-pressed") == "false"
    assert len(figure.query_selector_all(lines)) == 1
    first.click()
    assert first.get_attribute("aria-pressed") == "true"


def test_lines_differ_without_colour(several, visit):
    page = visit(several)
    figure = page.query_selector("figure:has(figcaption b:text-is('Entropy'))")
    dashes = {
        line.get_attribute("stroke-dasharray")
        for line in figure.query_selector_all("[data-mark=line]")
    }
    shapes = {dots.inner_html()[:40] for dots in figure.query_selector_all("[data-mark=dot]")}
    assert len(dashes) == 2 and len(shapes) == 2


def test_numbers_unfold_as_a_table(one, visit):
    page = visit(one)
    figure = page.query_selector(LEAD)
    figure.query_selector(".values summary").click()
    until(page, "document.querySelector('.values[open] table') !== null")
    rows = [row.inner_text().split("\t") for row in figure.query_selector_all(".values tr")]
    assert rows[0] == ["series", "step", "value", "low", "high", "seeds"]
    assert rows[2] == ["held-out success", "0", "0.5", "0.4", "0.6", "1"]


def test_the_theme_follows_the_system_until_it_is_chosen(one, visit):
    page = visit(one, "dark")
    dark = page.evaluate(PAPER)
    assert page.evaluate(THEME) == "dark"
    page.click("#theme")
    light = page.evaluate(PAPER)
    assert page.evaluate(THEME) == "light" and light == "rgb(255, 255, 255)" != dark
    page.reload()
    until(page, "document.querySelector('.plot svg') !== null")
    assert page.evaluate(THEME) == "light"


def test_several_runs_are_overlaid_with_a_band_over_seeds(several, visit):
    page = visit(several)
    assert page.inner_text("h1") == "3 runs of 2 configurations"
    figure = page.query_selector("figure:has(figcaption b:text-is('Entropy'))")
    assert [b.inner_text().strip() for b in figure.query_selector_all(".legend button")] == [
        "toy",
        "grpo",
    ]
    assert len(figure.query_selector_all("[data-mark=line]")) == 2
    assert figure.query_selector("[data-mark=area] path") is not None
    assert "2 seeds" in hover(page, figure, 0.5)
    for budget in ("samples", "tokens", "seconds"):
        assert page.is_visible(f"figure:has-text('Success against {budget}')")
    assert "algorithm" in page.inner_text("#differences")


def test_paper_is_light_and_no_chart_is_cut(one, visit):
    page = visit(one, "dark")
    page.emulate_media(media="print")
    assert page.evaluate(PAPER) == "rgb(255, 255, 255)"
    assert not page.is_visible("nav")
    styles = "[...document.querySelectorAll('figure')].map((f) => getComputedStyle(f).breakInside)"
    assert set(page.evaluate(styles)) == {"avoid"}
    right = (
        "[...document.querySelectorAll('.plot svg')].map((s) => s.getBoundingClientRect().right)"
    )
    page.set_viewport_size({"width": 720, "height": 1000})  # the width of a sheet
    assert max(page.evaluate(right)) <= 720
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(one, visit, width):
    page = visit(one)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_examples_have_room_on_a_telephone(one, visit):
    page = visit(one)
    page.set_viewport_size({"width": 390, "height": 800})
    widths = "[...document.querySelectorAll('.trajectory td.text')].map((c) => c.offsetWidth)"
    assert min(page.evaluate(widths)) > 250


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("which", ["one", "several"])
def test_no_serious_barrier(which, theme, visit, request):
    assert barriers(visit(request.getfixturevalue(which), theme)) == []
