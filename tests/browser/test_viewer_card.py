"""The picture to post: its size, what stands on it, and that nothing of it leaves the picture."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import needs_chromium, serving, visiting
from text_run import make

pytestmark = needs_chromium
WRONG = "joint/10/0/1"

# What is written on a card, with where it begins and ends and the size of its letters.
DRAWN = """async ([at, times]) => {
  const drawn = [];
  const write = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
    const width = this.measureText(text).width;
    const left = { left: x, center: x - width / 2, right: x - width }[this.textAlign];
    const size = parseInt(this.font.match(/(\\d+)px/)[1]);
    drawn.push({ text, left, right: left + width, y, size });
    write.call(this, text, x, y);
  };
  const { drawCard } = await import("/static/card.js");
  const one = await (await fetch(`api/trajectory/${at}`)).json();
  one.steps = Array(times).fill(one.steps).flat();
  const judged = one.steps.filter((step) => step.judged);
  const fallen = one.steps[one.worst]?.start ?? -1;
  drawCard(one, judged.find((step) => step.start > fallen));
  return drawn;
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = make(tmp_path_factory.mktemp("card") / "run")
    with serving(run.path) as address:
        yield address


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_has_the_size_of_a_link_preview(
    chromium: Any, address: str, theme: str, tmp_path: Path
) -> None:
    with visiting(chromium, address, theme=theme) as page:
        page.wait_for_selector("#steps .katex")
        with page.expect_download() as started:
            page.click(".tools button:has-text('PNG')")
        file = tmp_path / f"card-{theme}.png"
        started.value.save_as(file)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG") and struct.unpack(">II", data[16:24]) == (1200, 630)
    if folder := os.environ.get("SCREENS"):
        shutil.copy(file, folder)


def test_a_short_verdict_is_quoted_with_the_sentence_it_is_about(
    chromium: Any, address: str
) -> None:
    code = "([text, step]) => import('/static/card.js').then((m) => m.nearest([text], step))"
    text = "Line 1: 7 * 2 is 14. Right.\nLine 2: 27 + 27, nothing is left. Wrong.\n"
    with visiting(chromium, address) as page:
        quoted = page.evaluate(code, [text, "The sum is 4."])
        other = page.evaluate(
            code, ["Line 3: 8 + 12 is 10.\nWrong: it adds 12.\n", "The sum is 4."]
        )
    assert quoted == "\u2026 Line 2: 27 + 27, nothing is left. Wrong."
    assert other == "Line 3: 8 + 12 is 10. Wrong: it adds 12."


def test_it_holds_problem_steps_fall_and_the_sentence_that_names_the_wrong_step(
    chromium: Any, address: str
) -> None:
    with visiting(chromium, address) as page:
        page.wait_for_selector("#steps")
        drawn = page.evaluate(DRAWN, [WRONG, 1])
    text = " ".join(item["text"].strip() for item in drawn)
    assert "Let f(x) = " in text and "✗ wrong" in text  # in words, without TeX's marks
    assert "we may stop here without looking at the other sign." in text
    assert "The critic before step 4 0.80 → 0.20" in text
    assert "taken with one sign only" in text and "<answer>" not in text
    assert "\\frac" not in text and "**" not in text


@pytest.mark.parametrize(
    ("at", "times"),
    [("joint/10/0/0", 1), (WRONG, 1), ("joint/10/0/2", 1), ("joint/10/1/1", 1), (WRONG, 6)],
)
def test_nothing_leaves_the_picture_or_covers_another_text(
    chromium: Any, address: str, at: str, times: int
) -> None:
    with visiting(chromium, address) as page:
        page.wait_for_selector("#steps")
        drawn = [item for item in page.evaluate(DRAWN, [at, times]) if item["text"].strip()]
    assert len(drawn) > 5
    assert any(item["text"].endswith("steps after") for item in drawn) == (times > 1)
    for item in drawn:
        assert item["left"] >= 0 and item["right"] <= 1200, item
        assert 0 < item["y"] <= 620, item
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            apart = abs(one["y"] - other["y"]) >= 0.7 * min(one["size"], other["size"])
            aside = one["right"] <= other["left"] + 1 or other["right"] <= one["left"] + 1
            assert apart or aside, (one, other)
