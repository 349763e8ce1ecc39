"""Pages of ours load nothing of another address: none names one, and each forbids it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import full_run
from starlette.testclient import TestClient
from viewer_run import make

import genac.ui.report
import genac.ui.viewer
from genac.ui.report import document
from genac.ui.report.document import write_report
from genac.ui.viewer.filters import Filters
from genac.ui.viewer.page import KATEX, write_page
from genac.ui.viewer.server import make_app

NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
NAMESPACES |= {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/xmlns/"}
NAMESPACES |= {"http://www.w3.org/XML/1998/namespace"}
MATHML = {"http://www.w3.org/1998/Math/MathML"}
LOADING = ("src", "href", "srcset", "action", "data", "poster", "background", "formaction", "ping")
HOSTILE = (
    '<link rel="stylesheet" href="//evil.example/a.css"><style>@import "//evil.example";</style>'
)


class Loads(HTMLParser):
    """What a page would load or lead to, and its policies."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.policies: list[str] = []
        self.styles = ""
        self._in_style = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        self._in_style = tag == "style"
        self.styles += held.get("style") or ""
        self.addresses += [held[name] or "" for name in LOADING if name in held]
        if (held.get("http-equiv") or "").lower() == "content-security-policy":
            self.policies.append(held["content"])

    def handle_data(self, data):
        self.styles += data if self._in_style else ""

    def handle_endtag(self, tag):
        self._in_style = False


def directives(policy: str) -> dict[str, list[str]]:
    parts = [part.split() for part in policy.split(";") if part.strip()]
    return {name: sources for name, *sources in parts}


def is_ours(address: str) -> bool:
    """A place within the page or the server, or data."""
    return re.match(r"[a-z]+:|//", address) is None or address.startswith("data:")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("pages") / "run", (0,))


@pytest.fixture(scope="module")
def pages(run, tmp_path_factory):
    """The report and an HTML export, which are files and so name their policy themselves."""
    hostile = full_run(tmp_path_factory.mktemp("pages") / "report", steps=2, text=HOSTILE)
    one = hostile.trajectory(1)
    return {
        "report": write_report(hostile.path).read_text(),
        "export": one.to_html(tokens=True),
        "page": single(hostile, one.address),
    }


def single(run, address):
    target = run.path.parent / "page.html"
    write_page(run, target, [address], Filters())
    return target.read_text()


@pytest.mark.parametrize("name", ["report", "export", "page"])
def test_a_page_that_is_a_file_loads_nothing_and_forbids_it(pages, name):
    loads = Loads(pages[name])
    assert [a for a in loads.addresses if not a.startswith("#")] == []
    assert "@import" not in loads.styles
    assert not re.search(r"url\((?!#|data:)", loads.styles)
    [policy] = loads.policies
    rules = directives(policy)
    assert rules.pop("default-src") == ["'none'"]
    assert rules.pop("base-uri") == ["'none'"] and rules.pop("form-action") == ["'none'"]
    allowed = {"'unsafe-inline'", "data:", "'none'"}
    for directive, sources in rules.items():
        hashes = {source for source in sources if source.startswith("'sha256-")}
        assert set(sources) - hashes <= allowed, (directive, sources)
    assert "'unsafe-inline'" not in rules.get("script-src", [])
    # the policy stands before anything that it must hold for
    assert pages[name].index("Content-Security-Policy") < pages[name].index("<style")


def test_every_answer_of_the_viewer_forbids_other_addresses(run):
    with TestClient(make_app(run)) as client:
        client.get("/api/run")
        for path in (
            *("/", "/static/style.css", "/static/app.js", "/api/run", "/nowhere"),
            *("/api/rollouts?sort=x", "/api/export/joint/0/0/1", "/api/trajectory/joint/0/0/1"),
        ):
            rules = directives(client.get(path).headers["content-security-policy"])
            assert rules["default-src"] == ["'self'"], path
            sources = {source for directive in rules.values() for source in directive}
            assert sources <= {"'self'", "'none'", "data:", "blob:"}, path
        assert [a for a in Loads(client.get("/").text).addresses if not is_ours(a)] == []


def sources() -> list[Path]:
    folders = [Path(module.__path__[0]) / "static" for module in (genac.ui.viewer, genac.ui.report)]
    return [path for folder in folders for path in folder.iterdir()]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_no_file_of_a_page_names_another_address(path):
    text = path.read_text()
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", text)) <= NAMESPACES
    assert "@import" not in text and not re.search(r"url\((?!#|\"#)", text)


def test_the_library_of_the_charts_names_no_other_address():
    code = "".join((document.VENDOR / name).read_text() for name in document.LIBRARY)
    named = set(re.findall(r"https?://[^\s\"'`)]+", code))
    credits = {"https://d3js.org"}  # in the comment that names the authors
    assert {a for a in named if a not in credits and "github.com/d3/" not in a} <= NAMESPACES


def test_what_sets_formulas_is_whole_and_names_no_other_address():
    style = (KATEX / "katex.min.css").read_text()
    fonts = re.findall(r"url\(([^)]*)\)", style)
    assert len(fonts) == 20 and all((KATEX / font).is_file() for font in fonts)
    assert (KATEX / "LICENSE").read_text().startswith("The MIT License")
    code = (KATEX / "katex.min.js").read_text()
    assert set(re.findall(r"https?://[^\s\"'`)]+", code)) <= NAMESPACES | MATHML
