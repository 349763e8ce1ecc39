"""The notebooks of examples/ with what the tests' own environment has installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from micro import MICRO
from notebooks import CHANGES, execute, printed

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_notebooks_run_and_the_second_judges_with_the_critic_of_the_first(
    tmp_path: Path,
) -> None:
    for name in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(name)
    (tmp_path / "micro.yaml").write_text(yaml.safe_dump(MICRO))
    execute(EXAMPLES, tmp_path)
    text = printed(tmp_path / "train_and_read.ipynb")
    assert "success before:" in text and "critic/auc_within_problem" in text
    assert "report.html" in text and (tmp_path / "runs/notebook/report.html").exists()
    assert printed(tmp_path / "judge.ipynb").count("after ") == 4


def test_the_notebooks_are_stored_without_outputs() -> None:
    books = sorted(EXAMPLES.glob("*.ipynb"))
    assert {book.name for book in books} == set(CHANGES)
    for book in books:
        cells = json.loads(book.read_text())["cells"]
        assert not any(cell.get("outputs") for cell in cells), book.name
