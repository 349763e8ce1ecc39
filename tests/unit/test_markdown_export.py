"""Markdown exports, rendered by real programs that let HTML through: no text becomes markup."""

import re
from html.parser import HTMLParser
from importlib.util import find_spec

import pytest

from genac.runs.trajectory import Step, Trajectory
from genac.ui.transcript import inline

markdown_it = pytest.importorskip("markdown_it")

SCRIPT = "<script>alert(1)</script>"
IMG = "<img src=x onerror=alert(1)>"
LINK = '<link rel="stylesheet" href="//evil.example/a.css">'
TEXTS = (
    SCRIPT,
    IMG,
    LINK,
    f"`{IMG}`",
    f"` {IMG}",
    f"``{IMG}```",
    f"```\n{SCRIPT}\n```",
    f"```\n```\n{SCRIPT}",
    f"````\n{SCRIPT}\n`````",
    f"~~~\n{SCRIPT}",
    f"~~~~~~\n~~~\n\n{SCRIPT}",
    f"{'`' * 200}\n{SCRIPT}",
    f"text\n\n{SCRIPT}",
    f"\n\n\n{SCRIPT}",
    f"text\r\r{SCRIPT}",
    f"text\r\n\r\n{SCRIPT}\r",
    f"text\u2028\u2028{SCRIPT}",
    f"text\u2029{IMG}",
    f"text\x85\x85{SCRIPT}",
    f"text\x0b\x0c{SCRIPT}",
    f"text\x1c\x1d\x1e{SCRIPT}",
    f"text\0{SCRIPT}",
    f"\\|{IMG}",
    f"\\\\|{IMG}|",
    f"a | b\n|---|---|\n| {IMG} | {SCRIPT} |",
    f"|\n|-|\n{IMG}",
    f"`|`{IMG}`|`",
    f"\\`{IMG}\\`",
    f"    {SCRIPT}",
    f"\t{SCRIPT}",
    f" \t \n{SCRIPT}",
    f"\u00a0\n{SCRIPT}",
    f"1. a\n\n   {SCRIPT}",
    f"- a\n  - b\n\n    {SCRIPT}",
    f"> - quoted\n>\n>   {SCRIPT}",
    f"> > ```\n{SCRIPT}",
    f"Title\n=====\n{SCRIPT}",
    f"Title\n---\n\n{IMG}",
    f"# {IMG}",
    f"---\ntitle: x\n---\n{SCRIPT}",
    f"<!-- open\n{SCRIPT}",
    f"--> {SCRIPT}",
    f"<!-- a --> {IMG} <!-- b -->",
    f"<![CDATA[ x ]]> {IMG}",
    f"]]> {IMG}",
    f"<?php ?> {IMG}",
    f"<!DOCTYPE html>{SCRIPT}",
    f"</code></pre>{SCRIPT}",
    f"</td></tr></table>{IMG}",
    f"<pre>\n\n{SCRIPT}",
    f"<details open ontoggle=alert(1)>\n\n{IMG}",
    "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>@import url(//evil.example/a.css)</style>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<form action=//evil.example><button>x</button></form>",
    "[x](javascript:alert(1))",
    "[x](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "![x](data:text/html;base64,AAAA)",
    "[x][r]\n\n[r]: https://evil.example",
    "[r]: javascript:alert(1)\n\n[r]",
    "text[^1]\n\n[^1]: https://evil.example",
    "<https://evil.example>",
    "<javascript:alert(1)>",
    "<who@evil.example>",
    "https://evil.example/x?a=1",
    "www.evil.example",
    "evil.example/path",
    "//evil.example",
    "mailto:who@evil.example",
    "who@evil.example",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "&#x3c;script&#x3e;",
    "{onclick=alert(1)}",
    "{: onclick=alert(1) href=javascript:alert(1)}",
    "*[x]: y\n\nx",
    "term\n:   " + IMG,
    "**b** _i_ ~~s~~ $$\\href{javascript:alert(1)}{x}$$",
    '<div markdown="1">\n\n[x](javascript:alert(1))\n\n</div>',
    f"\ud800{IMG}",
)


def export(text: str, tokens: bool = True) -> str:
    """An export in which every text of a response is `text`."""
    step = Step(
        0,
        2,
        text,
        value=0.5,
        rationale=text,
        rationale_tokens=(text, "b"),
        rationale_logprobs=(-0.1, -1.0),
    )
    last = Step(2, 3, "c", value=0.1, rationale="plain")
    one = Trajectory(
        *(text, 4, 0, 0, text, text, text, text, None, text, "stop", 3, (1, 2, 3)),
        (text, "b", text),
        (-0.1, -0.2, -0.3),
        None,
        (step, last),
        problems=(text,),
    )
    return one.to_markdown(tokens)


class Elements(HTMLParser):
    """Every element with its attributes, and the comments, of a rendered page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.others: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_comment(self, data):
        self.others.append(data)

    def handle_decl(self, decl):
        self.others.append(decl)

    def handle_pi(self, data):
        self.others.append(data)

    def unknown_decl(self, data):
        self.others.append(data)


def gfm(text: str) -> str:
    """GitHub's dialect with its autolinks; HTML passes through."""
    return markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": True}).render(text)


def commonmark(text: str) -> str:
    return markdown_it.MarkdownIt("commonmark", {"html": True}).render(text)


def tables(text: str) -> str:
    return (
        markdown_it.MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(text)
    )


def original(text: str) -> str:
    """The first dialect, in which fences do not exist."""
    return pytest.importorskip("markdown").markdown(text)


def extended(text: str) -> str:
    """All that Python-Markdown can: attributes, footnotes, abbreviations, Markdown in HTML."""
    return pytest.importorskip("markdown").markdown(text, extensions=["extra", "toc", "nl2br"])


RENDERERS = [commonmark, tables, original, extended]
RENDERERS += [gfm] if find_spec("linkify_it") else []
OURS = {"h1", "h2", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_no_text_of_a_model_becomes_markup(render, text):
    for tokens in (False, True):
        page = Elements(render(export(text, tokens)))
        extra = {"br"} if render is extended else set()
        assert page.tags <= OURS | extra, page.tags
        ids = {"id"} if render is extended else set()
        assert page.attributes <= ids, page.attributes
        assert page.others == []


def test_the_set_is_dangerous_where_it_is_not_held():
    """Otherwise the test above would prove nothing."""
    live = [text for text in TEXTS if not Elements(tables(text)).tags <= OURS]
    assert len(TEXTS) >= 60 and len(live) > 40


def test_the_text_is_still_there_word_for_word():
    text = "# a *b*\n\n```\n<b>x</b> & y\n```\n  1. c\tд ✓"
    page = commonmark(export(text, tokens=False))
    shown = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    expected = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") + "\n"
    assert shown.count(expected) == 3  # problem, step, reasoning


@pytest.mark.parametrize(
    "text", ["expected answer 3/4", "joint step 20 · reward 0.5", "gsm8k/test_12: 18", "(-1.5, 2)"]
)
def test_plain_words_and_numbers_stay_as_they_are_in_a_line(text):
    assert inline(text) == text


def test_a_line_is_one_line_and_says_the_same_when_rendered():
    text = "a\n# b|`c` <i>_d_ \\e & www.f.gh *"
    page = commonmark(f"Line {inline(text)}\n")
    assert page == "<p>Line a # b|`c` &lt;i&gt;_d_ \\e &amp; www.f.gh *</p>\n"
