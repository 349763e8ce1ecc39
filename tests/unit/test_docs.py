"""The docs say what is there: links lead somewhere, commands parse, figures are the files'."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_commands import VERBS, Command, Coverage, commands, complaints, in_sentences

from genac.commands.doctor.price import joint_step
from genac.config.recipes import read_recipe, resolve
from tools import figures, reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]*)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M))


def anchors(page: Path) -> set[str]:
    """As GitHub and the site make them from headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).replace("`", "") for head in heads)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(without_code(page.read_text())):
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_of_prose_and_rows_of_tables_are_short_enough_to_read(page: Path) -> None:
    """Listings and pictures are as long as what they show."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.S | re.M)
    lines = [line for line in text.splitlines() if not line.startswith("![")]
    assert not [line for line in lines if len(line) > (200 if line.startswith("|") else 120)]


def test_what_follows_from_the_code_is_as_the_code_says() -> None:
    for path, text in reference.pages().items():
        assert path.read_text() == text, f"{path.name}: python tools/reference.py"
    for name, draw in figures.FIGURES.items():
        path = figures.FOLDER / f"{name}.svg"
        assert path.read_text() == draw(), f"{path.name}: python tools/figures.py"


def test_the_site_lists_every_page() -> None:
    def places(entries: list[dict[str, Any]]) -> Iterator[str]:
        for entry in entries:
            for place in entry.values():
                yield from places(place) if isinstance(place, list) else [place]

    text = re.sub(r"^  - (pymdownx.*|mkdocstrings.*)$", "", (ROOT / "mkdocs.yml").read_text())
    listed = set(places(yaml.safe_load(text)["nav"]))
    assert {page.name for page in DOCS.glob("*.md")} <= listed


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_typed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    coverage = Coverage.read()
    typed = [c for c in commands(page.read_text()) if not coverage.of_others(c)]
    assert not [fault for command in typed for fault in complaints(command)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_sentences_can_be_typed_too(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    gone = {"genac compare"}  # which pages of old results name as replaced
    typed = [c for c in in_sentences(page.read_text()) if c.text not in gone]
    assert not [fault for command in typed for fault in complaints(command)]


def test_the_pages_hold_commands_of_nearly_every_verb() -> None:
    words = [command.words for page in PAGES for command in commands(page.read_text())]
    verbs = {own[1] for own in words if own[:1] == ["genac"] and len(own) > 1}
    assert len(words) > 60 and set(VERBS) - verbs <= {
        "env",
        "ls",
        "sft",
        "recipes",
        "pretrain-critic",
    }


def test_a_wrong_command_is_noticed() -> None:
    wrong = {
        "genac trian RECIPE": "no verb",
        "genac train arithmetic --rollout.num-promts 3": "num-promts",
        "genac train no-such-recipe": "no recipe",
        "genac view RUN --browser": "--browser",
        "make everything": "no target",
        "pip install 'genac[everything]'": "no extra",
        "python tools/no_such_file.py": "no file",
    }
    for text, says in wrong.items():
        (fault,) = complaints(Command(text))
        assert says in fault


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_in_the_pages_is_python_and_imports_what_there_is(page: Path) -> None:
    for block in re.findall(r"^ *```python\n(.*?)^ *```$", page.read_text(), flags=re.S | re.M):
        lines = block.splitlines()
        indent = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
        for node in ast.walk(ast.parse("\n".join(line[indent:] for line in lines))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genac"):
                try:
                    module = importlib.import_module(str(node.module))
                except ModuleNotFoundError as error:
                    assert not str(error.name).startswith("genac")  # an extra that is not here
                    continue
                for name in node.names:
                    assert hasattr(module, name.name), f"{page.name}: {node.module}.{name.name}"


# --- numbers -------------------------------------------------------------------------------------


def test_the_costs_of_the_readme_are_those_of_the_file() -> None:
    shapes = json.loads((DOCS / "results" / "compute.json").read_text())["cost_relative_to_ppo"]
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if "rationales" in line]
    methods = ("genac", "vineppo", "grpo")
    places = {"| responses of 512": "reference shape", "| rationales as": "default recipe"}
    for start, shape in places.items():
        (row,) = (row for row in rows if row.startswith(start))
        expected = [f"{shapes[shape][m]['seconds']['value']:.2f}" for m in methods]
        assert [cell.strip() for cell in row.split("|")[2:5]] == expected


def test_what_turning_down_leaves_is_what_the_doctor_counts() -> None:
    recipe = read_recipe(ROOT / "recipes" / "qwen3-1.7b-gsm8k-1gpu.yaml")
    text = (DOCS / "own-data.md").read_text()
    changes: dict[str, dict[str, Any]] = {
        "as in the recipe": {},
        "value-samples 1": {"critic": {"generative": {"value_samples": 1}}},
        "max-new-tokens 256": {"critic": {"generative": {"max_new_tokens": 256}}},
        "max-states 4": {"states": {"max_states": 4}},
        "the three together": {
            "critic": {"generative": {"value_samples": 1, "max_new_tokens": 256}},
            "states": {"max_states": 4},
        },
    }
    for words, values in changes.items():
        (row,) = (line for line in text.splitlines() if words in line and line.startswith("| "))
        tokens = joint_step(resolve(recipe, values))["rationales"]
        assert row.rstrip(" |").endswith(f"{tokens:,}")


# --- the package index ---------------------------------------------------------------------------


def test_the_index_gets_a_readme_without_links_into_the_checkout() -> None:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.for_index((ROOT / "README.md").read_text())
    assert not LINK.search(text) and "![" not in text
    assert text.startswith("# genac") and "pip install" in text and "arxiv.org" in text
