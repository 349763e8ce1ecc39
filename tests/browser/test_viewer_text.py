"""The viewer with long English, LaTeX and Markdown, on a desk and on a telephone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import barriers, needs_axe, needs_chromium, serving, until, visiting
from text_run import make

from genac.runs.store import Run

pytestmark = needs_chromium
WRONG = "joint/10/0/1"
PAPER = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = make(tmp_path_factory.mktemp("text") / "run")
    with serving(run.path) as address:
        yield address


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    with visiting(chromium, address) as page:
        page.wait_for_selector("#steps .katex")
        yield page


def width(page: Any, selector: str) -> float:
    return page.query_selector(selector).bounding_box()["width"]


def rendered(page: Any, text: str, what: str = "textContent") -> str:
    code = "([text, what]) => import('/static/prose.js').then((m) => m.prose(text)[what])"
    return page.evaluate(code, [text, what])


def luminance(page: Any, name: str) -> float:
    """Of a colour of the style sheet, as WCAG has it, plus 0.05."""
    code = f"getComputedStyle(document.documentElement).getPropertyValue('{name}').trim()"
    value = page.evaluate(code).lstrip("#")
    parts = [int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05


def test_it_opens_on_the_largest_fall_of_a_wrong_response(page):
    assert page.get_attribute("#rows .row[aria-current]", "data-at") == WRONG
    falls = [node.inner_text() for node in page.query_selector_all(".fall")]
    assert falls == ["▼ value falls 0.60 across this step, the largest fall"]
    assert "Before step 4" in page.inner_text("#state")  # the state behind it


def test_a_right_response_has_no_false_alarm(page, address):
    page.goto(f"{address}#at=joint/10/0/0")
    page.wait_for_selector("#steps .step >> nth=6")
    assert page.query_selector(".fall") is None


def test_text_has_room_on_a_desk_and_on_a_telephone(chromium, address):
    for screen, room in ((1440, 400), (390, 340)):
        with visiting(chromium, address, screen) as page:
            page.wait_for_selector("#steps .katex")
            assert width(page, ".step .text") >= room
            needed = page.evaluate("document.documentElement.scrollWidth")
            assert needed <= screen
    with visiting(chromium, address) as page:
        page.wait_for_selector("#steps")
        before = width(page, ".step .text")
        page.keyboard.press("l")
        assert width(page, ".step .text") > before + 150


def test_formulas_are_set_and_keep_their_source(page):
    sources = page.evaluate(
        "[...document.querySelectorAll('#steps .math')].map((m) => m.ariaLabel)"
    )
    assert "$f(x) = x - 3$" in sources and "$\\boxed{7}$" in sources
    assert page.query_selector("#steps .math.raw") is None
    assert page.query_selector(".problem .math .mfrac") is not None
    assert "Tickets cost $5 each and $7 at the door" in page.inner_text(".problem")


def test_a_formula_over_several_steps_is_set_line_by_line(page, address):
    page.goto(f"{address}#at=joint/10/0/0")
    page.wait_for_selector("#steps .step >> nth=6")
    texts = [node.inner_text() for node in page.query_selector_all("#steps .text")]
    assert texts[1] == "\\[" and texts[3] == "\\]"
    assert page.query_selector("#steps li:nth-child(3) .katex") is not None


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("**bold** and *thin*", "<strong>bold</strong> and <em>thin</em>"),
        ("2*3*4 = 24 and 2**3 = 8, snake_case_name", "2*3*4 = 24 and 2**3 = 8, snake_case_name"),
        ("<b>x</b> [a](javascript:alert(1))", "&lt;b&gt;x&lt;/b&gt; [a](javascript:alert(1))"),
        ("`a < b`", "<code>a &lt; b</code>"),
        ("a $5 ticket and a $6 one; $2+$3=$5", "a $5 ticket and a $6 one; $2+$3=$5"),
        ("![x](http://evil.example/a.png)", "![x](http://evil.example/a.png)"),
    ],
)
def test_markdown_is_read_and_markup_is_not(page, text, markup):
    assert rendered(page, text, "innerHTML") == f'<div class="line">{markup}</div>'


@pytest.mark.parametrize(
    "text",
    [
        "$\\href{javascript:alert(1)}{x}$",
        "$\\includegraphics{http://evil.example/a.png}$",
        "$\\htmlData{a=b}{x}$",
        "$\\def\\a{\\a\\a}\\a$",
        "$\\frac{$ \\] \\end{align}",
        "\ue0000\ue000",
    ],
)
def test_hostile_formulas_stay_text(page, text):
    markup = rendered(page, text, "innerHTML")
    assert not re.search(r"<(a|img|script)\b|data-a|javascript:[^$]*\"", markup)
    assert rendered(page, text).strip()


def test_long_hostile_text_does_not_stop_the_page(page):
    for text in ("\\[" * 20_000, "$" * 40_000, "**a" * 20_000, "```\n" * 10_000, "|-" * 20_000):
        assert len(rendered(page, text)) > 0


def test_what_rounds_to_zero_has_no_sign(page):
    code = "(value) => import('/static/dom.js').then((m) => m.signed(value))"
    assert [page.evaluate(code, x) for x in (-0.004, 0.004, -0.006, 0.25, None)] == [
        *("0.00", "0.00", "\u22120.01", "+0.25", "-")
    ]


def test_a_long_prompt_can_be_scrolled_by_keys(page):
    assert page.get_attribute("pre[aria-label='Exact prompt of the critic']", "tabindex") == "0"


def test_several_rationales_are_tabs_with_their_scores(page):
    tabs = page.query_selector_all("#state .choice[aria-label='Rationales'] button")
    assert [tab.inner_text().split() for tab in tabs] == [
        ["rationale", "1", "0.00"],
        ["rationale", "2", "0.40"],
    ]
    assert "<answer>0</answer>" in page.inner_text("#reasoning")
    tabs[1].click()
    assert "<answer>4</answer>" in page.inner_text("#reasoning")
    page.keyboard.press("k")  # the chosen tab stays from state to state
    page.wait_for_selector("h2:has-text('Before step 3')")
    assert page.inner_text(".choice [aria-pressed=true]").startswith("rationale 2")


def test_plain_text_is_one_key_away_and_remembered(page):
    page.keyboard.press("m")
    until(page, "!document.querySelector('#steps .katex')")
    assert "**Step 1: factor.** We look for" in page.inner_text("#steps")
    page.reload()
    page.wait_for_selector("#steps")
    assert "**Step 1" in page.inner_text("#steps")


def test_the_tokens_that_a_key_opens_come_into_view(page):
    page.keyboard.press("e")
    until(page, "document.querySelector('#fold-actor .token')")
    top = "document.querySelector('#fold-actor .token').getBoundingClientRect().top"
    until(page, f"{top} > 0 && {top} < innerHeight")


def test_a_problem_over_training(page):
    page.keyboard.press("h")
    page.wait_for_selector("#history")
    text = page.inner_text("#history .sum")
    assert text.startswith("Right: ") and "at joint step 0" in text and "at joint step 10" in text
    assert "the critic's value of the problem went from" in text
    heads = [head.inner_text() for head in page.query_selector_all("#history tr:first-child th")]
    assert heads[1:3] == ["answered right", "value of the problem"]
    page.click("#history tr:last-child .try >> nth=0")
    page.wait_for_selector("#steps")
    assert "joint step 0, response 0" in page.inner_text(".head")


def test_a_problem_over_training_waits_until_every_step_is_read(chromium, tmp_path):
    run, view = make(tmp_path / "run", (0, 2, 4, 10)), f"#at={WRONG}&view=history"
    with serving(run.path) as address, visiting(chromium, address + view) as page:
        page.wait_for_selector("#history")
        assert len(page.query_selector_all("#history tr")) == 5  # and the names
        assert "at joint step 0," in page.inner_text("#history .sum")


def test_empty_results_say_so_and_can_be_left(chromium, address, tmp_path):
    with visiting(chromium, f"{address}#q=nowhere") as page:
        page.wait_for_selector("#detail :text('No response matches')")
        page.click("#rows button")
        page.wait_for_selector("#steps")
    Run.create(tmp_path / "empty", {"algorithm": "genac"}, {})
    with serving(tmp_path / "empty") as empty, visiting(chromium, empty) as page:
        page.wait_for_selector("#detail :text('No response is stored yet')")


def test_the_numbers_of_a_state_say_what_they_are(page):
    names = [name.inner_text() for name in page.query_selector_all("#state .facts dt")]
    assert names[:2] == ["value after the step", "change"]
    assert "-" not in [one.inner_text() for one in page.query_selector_all("#state .facts dd")]
    page.click("#fold-meaning summary")
    assert page.is_visible("#fold-meaning dd:has-text('How far the value moves')")
    page.keyboard.press("k")  # stays open from state to state
    page.wait_for_selector("h2:has-text('Before step 3')")
    assert page.is_visible("#fold-meaning dd >> nth=0")


def test_paper_is_light_in_either_theme(chromium, address):
    with visiting(chromium, address, theme="dark") as page:
        page.wait_for_selector("#steps")
        assert page.evaluate(PAPER) != "rgb(255, 255, 255)"
        page.emulate_media(media="print")
        assert page.evaluate(PAPER) == "rgb(255, 255, 255)"


def test_an_exported_response_has_room_on_a_telephone(chromium, address, tmp_path):
    with visiting(chromium, address) as page:
        page.wait_for_selector("#steps")
        with page.expect_download() as started:
            page.click(".tools button:has-text('HTML')")
        started.value.save_as(tmp_path / "one.html")
    with visiting(chromium, (tmp_path / "one.html").as_uri(), 390) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        widths = "[...document.querySelectorAll('td.text')].map((c) => c.offsetWidth)"
        assert min(page.evaluate(widths)) > 300


def test_the_ends_of_the_scale_stand_out_in_both_themes(chromium, address):
    for theme in ("light", "dark"):
        with visiting(chromium, address, theme=theme) as page:
            page.wait_for_selector("#steps")
            paper, low, high = (luminance(page, name) for name in ("--bg", "--low", "--high"))
            for end in (low, high):
                assert max(paper, end) / min(paper, end) > 2.8, theme


@needs_axe
@pytest.mark.parametrize(("screen", "theme"), [(1440, "dark"), (390, "light")])
def test_no_serious_barrier(chromium, address, screen, theme):
    for view in ("", "&view=tree", "&view=history"):
        with visiting(chromium, f"{address}#at={WRONG}{view}", screen, theme) as page:
            page.wait_for_selector("#detail .head")
            page.wait_for_timeout(500)
            assert barriers(page) == [], view
