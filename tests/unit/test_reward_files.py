"""What a reward function may return, and how its file is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genac.tasks.files import FileTask
from genac.tasks.rewards import check_outcome, load_reward
from genac.tasks.verifier import Outcome, Verifier
from genac.types import Problem

DATA = Path(__file__).parents[1] / "data"
PROBLEM = Problem("p", "2 + 3?", "5")


def file_task(tmp_path: Path, reward: str) -> FileTask:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "2 + 3?", "answer": "5"}\n')
    return FileTask(str(data), reward=reward)


@pytest.mark.parametrize(
    ("expression", "reward"),
    [
        ("[1]", 1.0),
        ("[True]", 1.0),
        ("(0.5,)", 0.5),
        ("[None]", None),
        ("[numpy.float32(0.5)]", 0.5),
        ("[numpy.bool_(True)]", 1.0),
        ("[numpy.int64(1)]", 1.0),
        ("[numpy.array(0.5)]", 0.5),
        ("[numpy.array([0.5])]", 0.5),
        ("numpy.array([0.5])", 0.5),
        ("[decimal.Decimal('0.5')]", 0.5),
        ("[fractions.Fraction(1, 4)]", 0.25),
        ("[numpy.float32(1.0000001192)]", 1.0),
    ],
)
def test_numbers_of_every_kind_are_rewards(tmp_path, expression, reward):
    """As the worker judges them and as a direct call does."""
    spec = f"{DATA / 'hostile_rewards.py'}:returns"
    with Verifier(file_task(tmp_path, spec)) as verifier:
        assert verifier.verify([(PROBLEM, expression)])[0].reward == reward
    assert check_outcome(load_reward(spec)(PROBLEM, expression), spec) == reward


NO_NUMBERS = [
    "['1']",
    "[b'1']",
    "[numpy.str_('1')]",
    "['nan']",
    "[[1.0]]",
    "[{'score': 1}]",
    "[10**400]",
    "[10**5000]",
    "[-10**400]",
    "[fractions.Fraction(10**400)]",
    "[decimal.Decimal('1e400')]",
    "[decimal.Decimal('sNaN')]",
    "[math.nan]",
    "[math.inf]",
    "[1j]",
    "[numpy.array([0.1, 0.2])]",
    "[numpy.datetime64('2020-01-01')]",
    "[object()]",
    "[Strange()]",
    "0.5",
    "'1'",
    "b'1'",
    "None",
    "[]",
    "(x for x in [0.5])",
    "itertools.repeat(0.5)",
]


def test_what_is_no_number_stops_the_run_and_is_named(tmp_path):
    with Verifier(file_task(tmp_path, f"{DATA / 'hostile_rewards.py'}:returns")) as verifier:
        for expression in NO_NUMBERS:
            with pytest.raises(ValueError, match=r"hostile_rewards.py:returns'.*\[0, 1\]"):
                verifier.verify([(PROBLEM, expression)])
        assert verifier.verify([(PROBLEM, "[0.5]")]) == [Outcome(0.5)]


# --- loading a file ---


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


SCORE = "def fn(completions):\n    return [VALUE]\n"


def test_a_reward_file_imports_what_lies_in_its_folder(tmp_path):
    """When it is loaded and when it is called, here and in a worker; the path stays as it was."""
    lazy = "def fn(completions):\n    from late_part import VALUE\n    return [VALUE]\n"
    folder = written(
        tmp_path / "rewards",
        early="from early_part import VALUE\n" + SCORE,
        early_part="VALUE = 0.25\n",
        lazily=lazy,
        late_part="VALUE = 0.75\n",
    )
    before = sys.path[:]
    for name, value in (("early", 0.25), ("lazily", 0.75)):
        spec = f"{folder / name}.py:fn"
        assert load_reward(spec)(PROBLEM, "5") == value
        with Verifier(file_task(tmp_path, spec)) as verifier:
            assert verifier.verify([(PROBLEM, "5")]) == [Outcome(value)]
    assert sys.path == before


def test_two_reward_files_have_each_the_module_in_their_folder(tmp_path):
    parts = []
    for name, value in (("one", 0.25), ("two", 0.75)):
        text = "from twin_part import VALUE\n" + SCORE
        folder = written(tmp_path / name, reward=text, twin_part=f"VALUE = {value}\n")
        parts.append(f"0.5 * {folder / 'reward.py'}:fn")
    assert load_reward(" + ".join(parts))(PROBLEM, "5") == 0.5
    with Verifier(file_task(tmp_path, " + ".join(parts))) as verifier:
        assert verifier.verify([(PROBLEM, "5")]) == [Outcome(0.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef fn(:\n", r"SyntaxError.*reward.py, line 2"),
        ("x = 1\n  y = 2\n", r"IndentationError.*reward.py, line 2"),
        ("import no_such_module_here\n", r"ModuleNotFoundError.*line 1.*install 'no_such_module"),
        ("from json import nothing\n", r"ImportError.*reward.py, line 1"),
        ("\n\nVALUE = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*reward.py, line 3"),
        ("import broken_part\n", r"KeyError: 'unit' \(.*broken_part.py, line 2"),
        ("import spoiled_part\n", r"SyntaxError.*spoiled_part.py, line 1"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*reward.py, line 2"),
        ("class E(Exception):\n    __str__ = None\nraise E\n", r"E: .*reward.py, line 3"),
        ("x = '\0'\n", r"reward.py"),
        ("# -*- coding: no-such -*-\n", r"SyntaxError.*reward.py"),
    ],
)
def test_an_error_in_a_reward_file_names_file_line_and_remedy(tmp_path, text, message):
    folder = written(
        tmp_path / "rewards",
        reward=text,
        broken_part="x = 1\nraise KeyError('unit')\n",
        spoiled_part="def\n",
    )
    for prefix in ("", "verl:"):
        with pytest.raises(ValueError, match=f"reward file .*{message}") as caught:
            load_reward(f"{prefix}{folder / 'reward.py'}:fn")
        assert "; correct" in str(caught.value) or "; install" in str(caught.value)
    with pytest.raises(ValueError, match="reward file"):
        file_task(tmp_path, f"{folder / 'reward.py'}:fn")


def test_an_error_in_a_reward_module_names_file_and_line(tmp_path, monkeypatch):
    written(tmp_path, module_that_fails="x = 1\nassert x == 2, 'no unit'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"no unit \(.*module_that_fails.py, line 2\)"):
        load_reward("module_that_fails:fn")
