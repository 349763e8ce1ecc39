"""The notebooks of examples/ run from top to bottom, on a small recipe in place of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import MICRO

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("pandas")

EXAMPLES = Path(__file__).parents[2] / "examples"
PROBLEM = '"6 a+3 b*7 c-8 d+1 e*3>"'


def executed(name: str, folder: Path, changes: dict[str, str]) -> list[Any]:
    """Runs a notebook with parts of its cells replaced; every part must occur. -> its cells"""
    book = nbformat.read(EXAMPLES / name, as_version=4)
    for old, new in changes.items():
        (cell,) = (c for c in book.cells if c.cell_type == "code" and old in c.source)
        cell.source = cell.source.replace(old, new)
    client = nbclient.NotebookClient(
        book, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute().cells


def printed(cells: list[Any]) -> str:
    outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(o.get("text", "") + str(o.get("data", "")) for o in outputs)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_notebooks_run_and_the_second_judges_with_the_critic_of_the_first(
    tmp_path: Path,
) -> None:
    (tmp_path / "micro.yaml").write_text(yaml.safe_dump(MICRO))
    cells = executed(
        "train_and_read.ipynb",
        tmp_path,
        {'"arithmetic"': '"micro.yaml"', '"../runs/': '"runs/'},
    )
    text = printed(cells)
    assert "success before:" in text and "critic/auc_within_problem" in text
    assert "report.html" in text and (tmp_path / "runs/notebook/report.html").exists()
    cells = executed(
        "judge.ipynb",
        tmp_path,
        {
            '"../runs/': '"runs/',
            PROBLEM: '"3 a+2 b+1>"',
            '["a+3=9", "b*7=4", "c-8=6", "d+1=7", "e*3=1"]': '["a+2=6"]',
            '["a+3=9", "b*7=3", "c-8=5", "d+1=6", "e*3=8"]': '["a+2=5"]',
            "[2]": "[1]",
            "a+3=9\\nb*7=4\\n": "a+2=6\\n",
        },
    )
    assert printed(cells).count("after ") == 4


def test_the_notebooks_are_stored_without_outputs() -> None:
    for path in EXAMPLES.glob("*.ipynb"):
        book = nbformat.read(path, as_version=4)
        assert all(not c.get("outputs") for c in book.cells), path.name
