"""math-verify behind the verifier: a table of answer pairs, hostile ones included.

The verdicts must be those of math-verify called alone (its own time limits, main thread), wherever
it is called from here: a thread, many workers, pytest-xdist.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from genac.tasks.files import FileTask
from genac.tasks.verifier import Outcome, Verifier
from genac.types import Problem

pytest.importorskip("math_verify")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Pair = tuple[str, str, float]  # reference, response, reward

HOSTILE = [
    "9**9**9**9",
    r"\boxed{9^{9^{9^{9}}}}",
    r"$9^{9^{9^{9}}}$",
    "\\boxed" + "{" * 10**5 + "5" + "}" * 10**5,
    "{" * 10**5,
    "\\frac{" * 10**4,
    "\\boxed{" + "(" * 3000 + "5" + ")" * 3000 + "}",
    "\\boxed{" + "\\sqrt{" * 500 + "5" + "}" * 500 + "}",
    "9" * 10**5,
    "\\boxed{" + "1+" * 20000 + "1}",
    r"\boxed{\sum_{i=1}^{10^{12}} i!}",
    r"\boxed{10^{10^{10}}!}",
    r"\boxed{\lim_{x \to 0} \frac{\sin^{1000}(x)}{x^{1000}}}",
    "\x00\u202e\ud800" * 1000,
    "",
]


def integers() -> list[Pair]:
    results = []
    for n in (*range(-6, 31), 100, 999, 1000, 123456, -2024):
        right = [f"\\boxed{{{n}}}", f"the answer is {n}.", f"${n}$", f"\\boxed{{{n}.0}}"]
        wrong = [f"\\boxed{{{n + 1}}}", f"the answer is {n}1.", "no idea"]
        results += [(str(n), text, 1.0) for text in right] + [(str(n), text, 0.0) for text in wrong]
    return results


def fractions() -> list[Pair]:
    results = []
    for a, b in ((1, 2), (3, 4), (-5, 8), (7, 20), (9, 16), (11, 5)):
        gold = f"\\frac{{{a}}}{{{b}}}"
        right = [
            gold,
            f"\\frac{{{3 * a}}}{{{3 * b}}}",
            f"{a}/{b}",
            f"{a / b}",
            f"\\dfrac{{{a}}}{{{b}}}",
        ]
        wrong = [f"\\frac{{{b}}}{{{a}}}", f"{a / b + 0.5}", f"{a}"]
        results += [(gold, f"\\boxed{{{text}}}", 1.0) for text in right]
        results += [(gold, f"\\boxed{{{text}}}", 0.0) for text in wrong]
    return results


def expressions() -> list[Pair]:
    equal = [
        ("x^2 + 1", "1 + x^2"),
        ("(x+1)^2", "x^2 + 2x + 1"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"\sqrt{2}/2", r"\frac{1}{\sqrt{2}}"),
        (r"\pi/6", r"\frac{\pi}{6}"),
        ("(1, 2)", "(1,2)"),
        (r"\{1, 2, 3\}", r"\{3, 1, 2\}"),
        (r"[0, 1)", r"[0,1)"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        ("3a - 2b", "-2b + 3a"),
        ("2^{10}", "1024"),
        (r"\log_2 8", "3"),
    ]  # fmt: skip
    different = [
        ("x^2 + 1", "x^2 - 1"),
        (r"2\sqrt{3}", r"3\sqrt{2}"),
        (r"\pi/6", "0.5"),
        ("(1, 2)", "(2, 1)"),
        (r"\{1, 2, 3\}", r"\{1, 2\}"),
        ("[0, 1)", "(0, 1)"),
        ("2^{10}", "1000"),
    ]
    return [(f"${a}$", f"\\boxed{{{b}}}", 1.0) for a, b in equal] + [
        (f"${a}$", f"\\boxed{{{b}}}", 0.0) for a, b in different
    ]


PAIRS = integers() + fractions() + expressions()

ALONE = """
import json, sys
from math_verify import parse, verify
pairs = json.load(open(sys.argv[1]))
def gold(text):
    return text if "$" in text or "boxed" in text else f"${text}$"
print(json.dumps([float(verify(parse(gold(a)), parse(b))) for a, b in pairs]))
"""


def task(folder: Path) -> FileTask:
    data = folder / "data.jsonl"
    data.write_text('{"prompt": "?", "answer": "5"}\n')
    return FileTask(str(data), reward="math")


def items(pairs: list[Pair]) -> list[tuple[Problem, str]]:
    return [(Problem("p", "?", gold), text) for gold, text, _ in pairs]


def test_the_table_is_judged_as_by_math_verify_alone(tmp_path):
    assert len(PAIRS) > 350
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps([(a, b) for a, b, _ in PAIRS]))
    answer = subprocess.run(
        [sys.executable, "-c", ALONE, str(file)], capture_output=True, text=True, check=True
    )
    alone = json.loads(answer.stdout)
    results: list[Outcome] = []
    with Verifier(task(tmp_path)) as verifier:
        thread = threading.Thread(target=lambda: results.extend(verifier.verify(items(PAIRS))))
        thread.start()
        thread.join()
    assert [o.reward for o in results] == alone
    wrong = [
        (*pair, o.reward) for pair, o in zip(PAIRS, results, strict=True) if o.reward != pair[2]
    ]
    assert not wrong


def test_hostile_responses_cost_their_time_limit_at_most(tmp_path):
    limit = 2.0
    pairs = [("5", text, 0.0) for text in HOSTILE]
    mixed = [pair for hostile in pairs for pair in (hostile, ("5", r"\boxed{5}", 1.0))]
    with Verifier(task(tmp_path), time_limit=limit) as verifier:
        verifier.verify(items(mixed[1:2]))  # the worker has started
        began = time.monotonic()
        result = verifier.verify(items(mixed))
        took = time.monotonic() - began
    # Each may take its limit and a new process; one that hangs would take for ever.
    assert took < len(HOSTILE) * (limit + 20)
    assert [o.reward for o in result[1::2]] == [1.0] * len(HOSTILE)
    for text, outcome in zip(HOSTILE, result[::2], strict=True):
        assert outcome.reward != 1.0 or "5" in text, text[:40]
        assert outcome.reward is not None or outcome.reason, text[:40]


def test_the_table_under_xdist(tmp_path):
    pytest.importorskip("xdist")
    name = f"{__file__}::test_the_table_is_judged_as_by_math_verify_alone"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-m",
        "slow",
        "-p",
        "no:cacheprovider",
    ]
    answer = subprocess.run(
        [*command, name, f"--basetemp={tmp_path / 'inner'}"], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout[-2000:]
    assert "1 passed" in answer.stdout
