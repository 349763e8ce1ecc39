"""Every command of README and docs is run by a test, or marked with what it needs."""

from __future__ import annotations

import re

import pytest
from doc_commands import PAGES, ROOT, Command, Coverage, all_tests, commands

from genac.config.engines import VllmConfig
from genac.engines.vllm.process import Launch

TESTS = all_tests(ROOT / "tests")


def test_every_command_of_the_pages_is_run_by_a_test_or_needs_what_is_not_here() -> None:
    typed = [command for page in PAGES for command in commands(page.read_text())]
    assert len(typed) > 60
    assert list(Coverage.read().faults(typed, TESTS)) == []


@pytest.mark.parametrize(
    ("run_by", "elsewhere", "fault"),
    [
        ({}, {}, "no test is named that runs it"),
        ({"genac tra": "tests/a.py::test_a"}, {}, "no test is named that runs it"),
        ({"genac train": "tests/a.py::test_b"}, {}, "there is no such test: tests/a.py::test_b"),
        ({"genac train": "tests/a.py::test_a", "genac ls": "tests/a.py::test_a"}, {}, "genac ls"),
        ({"genac train": "tests/a.py::test_a"}, {"genac train": "a GPU"}, "both run by a test"),
    ],
)
def test_what_is_not_covered_is_named(
    run_by: dict[str, str], elsewhere: dict[str, str], fault: str
) -> None:
    coverage = Coverage(run_by, elsewhere)
    typed = [Command("genac train arithmetic   # minutes")]
    assert fault in "\n".join(coverage.faults(typed, frozenset({"tests/a.py::test_a"})))


def test_the_longest_entry_counts_and_the_shell_is_passed_over() -> None:
    coverage = Coverage({"genac view": "here"}, {"genac view runs --export": "a GPU"})
    assert list(coverage.faults(commands(PAGE), frozenset({"here"}))) == []
    assert [coverage.begin(c) for c in commands(PAGE)] == [
        "genac view",
        "genac view runs --export",
    ]


def test_the_documented_vllm_server_is_started_as_ours_are() -> None:
    (text,) = (
        c.text for c in commands((ROOT / "docs" / "vllm.md").read_text()) if "vllm serve" in c.text
    )
    launch = Launch("actor", VllmConfig(), 1023, 8, bf16=True, cuda=True)
    typed = " ".join(text.replace("CONTEXT_PLUS_1", "1024").split())
    variables, _, line = typed.partition(" vllm ")
    own = " ".join(launch.arguments("MODEL"))
    for option in re.findall(r"--\S+(?: [^-]\S*)?", line):
        assert option in own
    assert set(variables.split()) <= {f"{k}={v}" for k, v in launch.environment().items()}


PAGE = """
```
genac view runs          # a list
export KEY=1
genac view runs \\
    --export page.html
```
```text
genac is named here
```
"""
