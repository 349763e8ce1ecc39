"""The results page: its tables are what the files say, and its verdicts follow one rule."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from paper.__main__ import main
from paper.claims import CLAIMS, Evidence, claims_table, holm, judge, p_value
from paper.headline import headline
from paper.page import BEGIN, END, LONGEST, WIDTH, section, table
from paper.plan import EXPERIMENTS, markdown, wrapped

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def between_marks(page: str) -> str:
    return (RESULTS / page).read_text().split(f"{BEGIN}\n")[1].split(END)[0]


def test_both_pages_say_what_the_files_say():
    assert between_marks("README.md") == claims_table(RESULTS)
    assert between_marks("all-claims.md") == table(RESULTS, list(EXPERIMENTS))


def test_no_row_of_a_results_page_is_too_long_to_read():
    pages = sorted(RESULTS.glob("*.md"))
    rows = [(p.name, x) for p in pages for x in p.read_text().split("\n") if x.startswith("|")]
    assert len(rows) > 100 and not [(name, row) for name, row in rows if len(row) > LONGEST]


def test_figures_too_long_for_a_row_stand_in_a_list_below_the_table():
    figures = "; ".join(f"shift {i} -0.21 [-0.31, -0.11]" for i in range(9))
    rows = [{"claim": "c", "ours": ours, "verdict": "agrees"} for ours in ("0.5", figures)]
    record = {"rows": rows, "seeds": [0], "command": "x", "commit": "abc"}
    text = section("one", record)
    assert "| c | 0.5 | agrees |\n| c | see 1 | agrees |\n\n1. shift 0" in text
    assert " ".join(text.split("\n1. ")[1].split()) == figures
    assert max(map(len, text.split("\n1. ")[1].split("\n"))) <= WIDTH
    assert "see" not in section("one", record | {"rows": rows[:1]})


def published() -> list[str]:
    """The pages whose plan stands in their JSON."""
    return [f.stem for f in sorted(RESULTS.glob("*.json")) if "plan" in json.loads(f.read_text())]


@pytest.mark.parametrize("name", published())
def test_a_page_is_what_its_file_renders(name):
    page = markdown(json.loads((RESULTS / f"{name}.json").read_text()), name)
    assert page == (RESULTS / f"{name}.md").read_text()
    drawings = re.findall(r"^!\[.*\]\((.*)\)$", page, re.MULTILINE)
    assert all((RESULTS / drawing).is_file() for drawing in drawings)


def test_every_other_page_is_prose_or_of_a_command_that_is_gone():
    pages = {f.stem for f in RESULTS.glob("*.md")} - {*published()}
    old = {"compare-arithmetic", "compare-thrift", "tune-arithmetic"}
    assert pages == {"README", "all-claims", "notes"} | old
    for name in old:
        assert (RESULTS / f"{name}.md").read_text().startswith("Written by `genac compare`")


def test_a_page_is_written_anew_from_its_file_alone(tmp_path, monkeypatch, capsys):
    record = json.loads((RESULTS / "regime.json").read_text())
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(record["plan"] | {"results": str(tmp_path / "regime")}))
    monkeypatch.chdir(RESULTS.parents[1])
    monkeypatch.setattr(sys, "argv", ["paper", str(plan), "--render"])
    assert main() == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'regime.json'}, which does not exist; python -m paper {plan}" in error
    shutil.copy(RESULTS / "regime.json", tmp_path)
    assert main() == 0 and "Joint RL with exact values" in capsys.readouterr().out
    assert (tmp_path / "regime.md").read_text() == (RESULTS / "regime.md").read_text()
    assert {f.name for f in tmp_path.iterdir()} == {"plan.yaml", "regime.json", "regime.md"}


@pytest.mark.parametrize(
    ("t", "df"), [(12.706, 1), (4.303, 2), (2.365, 7), (2.069, 23)], ids=lambda v: str(v)
)
def test_the_p_value_is_five_percent_at_the_tabulated_quantile(t, df):
    # Values whose mean over its standard error is t: n equally many at m - d and m + d.
    n = df + 1
    spread = [1.0 if i % 2 else -1.0 for i in range(n)] if n % 2 == 0 else [-1.0, 0.0, 1.0]
    error = (sum(s * s for s in spread) / df / n) ** 0.5
    assert p_value([s + t * error for s in spread]) == pytest.approx(0.05, abs=2e-4)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_reorders():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


SURE, UNSURE = (1.0, 1.1, 0.9, 1.0), (1.0, -1.1, 0.9, -1.0)


def test_a_claim_holds_only_where_trainings_and_problems_agree():
    assert judge([Evidence(SURE)]) == ["**yes**"]
    assert judge([Evidence(tuple(-v for v in SURE))]) == ["**no, the reverse**"]
    assert judge([Evidence(UNSURE)]) == ["not shown"]
    assert judge([Evidence(SURE, (0.5, 1.5)), Evidence(SURE, (-0.1, 1.5))]) == [
        "**yes**",
        "not shown",
    ]
    assert judge([Evidence((1.0,))]) == ["not shown"]
    assert judge([None, Evidence(SURE)]) == ["", "**yes**"]


def test_what_holds_alone_may_not_hold_among_many():
    one = Evidence((1.0, 0.5, 1.5))
    strong = Evidence((1.0, 0.8, 1.2))  # p = 0.013 alone
    assert judge([strong]) == ["**yes**"]
    assert judge([strong] + [one] * 4)[0] == "not shown"


def test_a_claim_without_its_file_has_no_row_and_no_figure(tmp_path):
    shutil.copy(RESULTS / "compute.json", tmp_path)
    rows, links = claims_table(tmp_path).split("\n\n")
    assert len(rows.splitlines()) == 3 and "2.1 times" in rows and "([compute])" in rows
    assert links == "[compute]: compute.md\n"
    assert headline(tmp_path) is None
    rows, links = claims_table(RESULTS).split("\n\n")
    assert len(rows.splitlines()) == 2 + len(CLAIMS)
    files = [line.split(": ")[1] for line in links.splitlines()]
    assert len(files) > 5 and all((RESULTS / file).is_file() for file in files)


def test_a_file_that_lacks_a_figure_is_no_missing_file(tmp_path):
    (tmp_path / "compute.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(KeyError, match="cost_relative_to_ppo"):
        claims_table(tmp_path)


def test_prose_of_a_page_is_wrapped_and_its_tables_are_not():
    row, prose = "| " + "cell | " * 40, "word [0.1, 0.2] " * 30
    lines = wrapped(f"{prose}\n\n{row}\n").split("\n")
    assert row in lines and all(len(line) <= WIDTH for line in lines if line != row)
    assert " ".join(" ".join(lines).split()) == " ".join(f"{prose}{row}".split())
