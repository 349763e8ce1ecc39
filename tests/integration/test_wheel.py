"""A wheel, installed outside the clone into an empty environment, is enough for the README.

pip fills the environment from its index, as a user's: about 1.7 GB with torch's CPU build, and
several more where the index has only the one with CUDA. Without an index these tests are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from fresh import ROOT, Fresh, build_wheel, install
from micro import MICRO
from notebooks import printed

from genac.config.algorithms import merge
from genac.runs.store import Run
from genac.ui.report.groups import flatten

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMALL = merge(MICRO, {"output_dir": "runs/small", "stages": {"folder": "runs/stages"}})
# Every module of a run, of the viewer, the report and a notebook's frames; then what is not the
# standard library's and lies outside the environment.
ORIGINS = """
import pathlib, sys, sysconfig
import duckdb, ipykernel, matplotlib, pandas, uvicorn
import genac.stages.pipeline, genac.ui.report.document, genac.ui.viewer.server
library, own = sysconfig.get_path("stdlib"), pathlib.Path(sys.prefix).resolve()
# torch.ops and its like say a relative name of a file that is none.
files = [pathlib.Path(m.__file__).resolve() for m in [*sys.modules.values()]
         if (getattr(m, "__file__", None) or "").startswith("/")]
print(len(files), genac.__file__)
for file in files:
    standard = file.is_relative_to(library) and "site-packages" not in file.parts
    if not standard and not file.is_relative_to(own):
        print("strange:", file)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    return build_wheel(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    # nbclient is in the place of the Jupyter in which a user opens a notebook.
    return install(wheel, "ui,notebook", ["nbclient"], tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def trained(fresh: Fresh) -> Run:
    """`genac train arithmetic`, made small, with its report."""
    out = fresh.call(
        "train", "arithmetic", *(f"{key}={value}" for key, value in flatten(SMALL).items())
    )
    assert "held-out success" in out and "stages.joint.steps: 40 -> 3" in out
    return Run.open(fresh.place / "runs" / "small")


def snippet(overrides: Mapping[str, Any]) -> str:
    """The README's program on a small run, with a step and places that this run has."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    last = '"output_dir": "runs/seed-1"}'
    changes = {
        last: f"{last} | {flatten(overrides)!r}",
        "step=10, group=3, member=2": "step=1, group=0, member=0",
    }
    for old, new in changes.items():
        assert old in code, "the README has changed"
        code = code.replace(old, new)
    return code


def charts(page: str) -> list[dict[str, Any]]:
    """The charts of a report as the data that its script draws."""
    texts = re.findall(r'<figure class="chart.*?<script type="application/json">(.*?)</', page)
    return [json.loads(text) for text in texts]


def test_a_wheel_holds_recipes_types_and_what_pages_are_made_of(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "genac/py.typed",
        "genac/recipes/arithmetic.yaml",
        "genac/recipes/prompts/word-problems.yaml",
        "genac/recipes/data/chain_sum.jsonl",
        "genac/ui/vendor/plot/plot.umd.min.js",
        "genac/native/csrc/structs.h",
    ):
        assert name in names, name
    assert not any(name.startswith(("tests/", "paper/", "bench/")) for name in names)


def test_every_module_comes_from_the_fresh_environment(fresh: Fresh) -> None:
    out = fresh.call("-c", ORIGINS, program="python")
    assert "strange" not in out
    count, place = out.split()
    assert int(count) > 1000 and place.startswith(str(fresh.prefix))
    absent = "from importlib.util import find_spec; print(find_spec('pytest'))"
    assert fresh.call("-c", absent, program="python") == "None\n", "none of the tests' own tools"


def test_the_first_commands_of_the_readme_work_outside_a_clone(fresh: Fresh, trained: Run) -> None:
    assert fresh.call("--version").startswith("genac 0.")
    assert "own-data" in fresh.call("recipes")
    assert len(trained.metrics("joint")) == 3
    assert "runs/small" in fresh.call("ls")
    assert "value" in fresh.call("score", "runs/small", "3 a+4>", "a=")


def test_the_viewer_serves_its_page_and_the_values_of_the_run(fresh: Fresh, trained: Run) -> None:
    def fetched(path: str) -> bytes:
        with urlopen(address + path, timeout=60) as answer:
            return answer.read()

    with fresh.viewing("runs/small") as address:
        page = fetched("").decode()
        for file in re.findall(r'(?:src|href)="((?:static|katex)/[^"]+)"', page):
            assert fetched(file), file
        about, tries = json.loads(fetched("api/run")), 600
        while about["indexed"]["done"] < about["indexed"]["total"] and (tries := tries - 1):
            time.sleep(0.1)  # each request reads on for a moment
            about = json.loads(fetched("api/run"))
        assert (about["name"], about["status"]) == ("small", "finished")
        listed = json.loads(fetched("api/rollouts?stage=joint&size=100"))
        shown = json.loads(fetched("api/trajectory/joint/1/0/0"))
    own = trained.trajectory(step=1, group=0, member=0)
    assert [step["value"] for step in shown["steps"]] == [step.value for step in own.steps]
    assert len(listed["rows"]) == 3 * 4 * 4, "every response of three steps"


def test_the_report_holds_its_charts_with_the_numbers_of_the_run(
    fresh: Fresh, trained: Run
) -> None:
    file = trained.path / "report.html"
    file.unlink()  # training wrote one
    assert "report.html" in fresh.call("report", "runs/small")
    page = file.read_text()
    (reward,) = (chart for chart in charts(page) if chart["title"] == "Reward")
    steps = [[line["step"], float(f"{line['reward']:.5g}")] for line in trained.metrics("joint")]
    assert [point[:2] for point in reward["series"][0]["points"]] == steps
    assert len(charts(page)) >= 10


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_draws_every_chart_of_that_report(trained: Run) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    count = len(charts((trained.path / "report.html").read_text()))
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((trained.path / "report.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        drawn, tries = 0, 600
        while drawn < count and (tries := tries - 1):
            page.wait_for_timeout(100)
            drawn = page.locator("figure.chart:has(.plot svg)").count()
        browser.close()
    assert drawn == count >= 10


def test_the_python_of_the_readme_works_outside_a_clone(fresh: Fresh, trained: Run) -> None:
    frames = "\nfor frame in (run.metrics_frame(), run.rollouts_frame(), run.estimates_frame()):"
    code = snippet(SMALL | {"output_dir": "runs/snippet"}) + frames + "\n    print(frame.shape)\n"
    out = fresh.call("-c", code, program="python")
    assert len(re.findall(r"^\(\d+, \d+\)$", out, flags=re.M)) == 3
    assert "runs/snippet" in fresh.call("ls")


def test_both_notebooks_run_outside_a_clone(fresh: Fresh) -> None:
    books = fresh.place / "books"
    books.mkdir()
    (books / "micro.yaml").write_text(yaml.safe_dump(MICRO))
    script = ROOT / "tests" / "support" / "notebooks.py"
    fresh.call(script, ROOT / "examples", books, program="python")
    trained, judged = (printed(books / name) for name in ("train_and_read.ipynb", "judge.ipynb"))
    assert "success before:" in trained and "critic/auc_within_problem" in trained
    assert (books / "runs" / "notebook" / "report.html").exists()
    assert judged.count("after ") == 4
    for text in (trained, judged):
        assert f"genac from {fresh.prefix}" in text


def test_recipes_that_name_files_and_the_doctor_work_outside_a_clone(fresh: Fresh) -> None:
    assert "/genac/recipes/data/" in fresh.call("train", "own-data", "--print-config")
    assert "name: smollm2" in fresh.call("train", "smollm2-word-problems", "--print-config")
    assert "ok   extras" in fresh.call("doctor")


def test_the_public_names_work_outside_a_clone(fresh: Fresh) -> None:
    code = (
        "from genac import RunConfig, read_recipe, resolve; "
        "cfg = resolve(read_recipe('arithmetic'), {'stages.joint.steps': 7}); "
        "print(cfg.stages.joint.steps, RunConfig(algorithm='grpo').critic.kind)"
    )
    assert fresh.call("-c", code, program="python") == "7 none\n"
