r"""Whether `match` and `math` judge GSM8K rightly: its gold answers, its intermediate results, and
the labels of other models' solutions.

    python bench/gsm8k.py FOLDER [--limit N] [--json FILE]

FOLDER holds what https://github.com/openai/grade-school-math publishes: train.jsonl and test.jsonl
({question, answer}; the answer is a solution that ends in "#### N") and model_solutions.jsonl (per
test problem solutions of four models, which end in "A: N", each with is_correct). Files that are
missing are left out. The exit code is 1 where a judge is wrong.

A gold answer is judged as it stands, bare, in a box, behind "The answer is:", and with the
thousands' commas. Intermediate results are those of the calculator's notes, <<2*3=6>>, and of the
equations, where they differ from the final answer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from genac.tasks.rewards import load_reward
from genac.types import Problem

JUDGES = ("match", "math")
NOTE = re.compile(r"<<[^<>]*=([^<>=]*)>>")
EQUATION = re.compile(r"= *\$?(-?\d[\d,]*(?:\.\d+)?)")
Case = tuple[str, str, str, bool]  # what is tried, reference, response, whether it is right


def cases(folder: Path, limit: int | None = None) -> Iterator[Case]:
    """Everything that is judged; `limit` rows of each file."""
    for split in ("train", "test"):
        for row in rows(folder / f"{split}.jsonl", limit):
            yield from of_solution(row["answer"])
    for row in rows(folder / "model_solutions.jsonl", limit):
        for value in row.values():
            if isinstance(value, dict):
                yield "labels", row["ground_truth"], value["solution"], value["is_correct"]


def rows(file: Path, limit: int | None) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()][:limit]


def of_solution(solution: str) -> Iterator[Case]:
    """A reference solution against its own answer in several forms, and intermediate results."""
    final = solution.rpartition("####")[2].strip()
    commas = f"{int(final.replace(',', '')):,}"
    forms = {
        "solution": solution,
        "bare": final,
        "boxed": rf"So \boxed{{{final}}}.",
        "phrase": f"The answer is: {final}",
        "commas": rf"\boxed{{{commas}}}",
        "dollars": rf"**Answer:** \${commas}",
    }
    for name, text in forms.items():
        yield name, solution, text, True
        yield f"{name}, bare reference", final, text, True
    plain = NOTE.sub("", solution)
    results = [*NOTE.findall(solution), *(r.rstrip(",") for r in EQUATION.findall(plain))]
    distinct = {value(r): r.strip() for r in results}
    for number, result in distinct.items():
        if number not in (None, value(final)):
            yield "intermediate", solution, result, False
            yield "intermediate, boxed", solution, rf"\boxed{{{result}}}", False


def value(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def judge(results: Iterable[Case]) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts by what is tried ("cases", then right verdicts by judge), and the wrong ones."""
    scores = {name: load_reward(name) for name in JUDGES}
    counts: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    for kind, reference, response, right in results:
        count = counts.setdefault(kind, Counter())
        count["cases"] += 1
        for name, score in scores.items():
            verdict = score(Problem("gsm8k", "", reference), response)
            count[name] += verdict == float(right)
            if verdict != float(right):
                tail = f"{reference[-60:]!r} | {response[-60:]!r}"
                wrong.append(f"{name} gives {verdict}, not {float(right)} ({kind}): {tail}")
    return counts, wrong


def table(counts: dict[str, Counter[str]]) -> str:
    lines = ["| tried | cases | match right | math right |", "|---|---|---|---|"]
    lines += [f"| {k} | {c['cases']} | {c['match']} | {c['math']} |" for k, c in counts.items()]
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description="GSM8K judged by match and math.")
    options.add_argument("folder", type=Path, help="holds train.jsonl, test.jsonl, ...")
    options.add_argument("--limit", type=int, help="rows of each file")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    args = options.parse_args()
    counts, wrong = judge(cases(args.folder, args.limit))
    if not counts:
        options.error(f"{args.folder} holds neither train.jsonl, test.jsonl nor model solutions")
    print("\n".join([table(counts), "", f"{len(wrong)} wrong verdicts", *wrong[:40]]))
    if args.json:
        args.json.write_text(json.dumps({"counts": counts, "wrong": wrong}, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
