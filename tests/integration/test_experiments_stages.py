"""python -m paper FILE --stages: a page whose runs did not record their stages gets their cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import MICRO

from paper.__main__ import main
from paper.plan import run_experiment
from paper.stages import add_to_page

METHODS = {
    "grpo": {"algorithm": "grpo", "grid": {"actor.optimizer.learning_rate": [1e-3, 2e-3]}},
    "genac": {"algorithm": "genac", "grid": {"credit.lam": [0.5, 1.0]}},
    "again": {"like": "genac", "credit": {"gate": "none"}},
}


def plan(place: Path, **keys: Any) -> Path:
    (place / "micro.yaml").write_text(yaml.safe_dump(MICRO))
    values = {
        "experiment": "downstream", "recipe": str(place / "micro.yaml"), "seeds": [0, 1],
        "results": str(place / "page"), "folder": str(place / "kept"), "bases": [0],
        "tuning_seeds": [0], "methods": METHODS, "against": "grpo", "ours": "genac",
        "rivals": {"GRPO": "grpo"}, "ppo_forms": [],
    }  # fmt: skip
    file = place / "plan.yaml"
    file.write_text(yaml.safe_dump(values | keys))
    return file


def as_of_old(page: Path) -> dict[str, Any]:
    """Takes what a stage costs out of a page's JSON; returns the JSON as it was."""
    record = json.loads(page.read_text())
    old = {k: v for k, v in record.items() if not k.endswith("amortised")}
    kept = ("critic_stages", "compute_ratio_unamortised", "compute_ratio_amortised")
    old["methods"] = {
        name: {k: v for k, v in row.items() if k not in kept}
        for name, row in record["methods"].items()
    }
    page.write_text(json.dumps(old))
    return record


def test_the_cost_added_later_is_the_cost_that_runs_record(tmp_path, monkeypatch, capsys):
    file, page = plan(tmp_path), tmp_path / "page.json"
    run_experiment(file)
    before = as_of_old(page)
    file = plan(tmp_path, folder=str(tmp_path / "elsewhere"))  # nothing of the runs is left
    monkeypatch.setattr(sys, "argv", ["paper", str(file), "--stages"])
    assert main() == 0, capsys.readouterr().err
    after = json.loads(page.read_text())
    assert not list((tmp_path / "elsewhere").glob("runs/*")), "joint training ran"
    for name in ("unamortised", "amortised"):
        key = f"compute_to_grpo_final_{name}"
        for method, ratios in before[key].items():
            assert after[key][method] == {"flops": ratios["flops"]}
    same = ("rl_final_success", "compute_to_grpo_final", "settings", "tuning_grid", "commit")
    assert {k: after[k] for k in same} == {k: before[k] for k in same}
    measured = after["stages_measured"]
    assert measured["cost"]["genac, base 0"]["critic_rl"]["flops"] > 0
    text = " ".join((tmp_path / "page.md").read_text().split())
    assert "with a quarter of them |" in text and measured["commit"] in text
    assert "| genac | FLOPs |" in text and "| genac | seconds |" not in text


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"seeds": [5]}, r"the seeds \[0, 1\], .* of others; run python -m paper"),
        ({"methods": METHODS | {"genac": {"algorithm": "genac"}}}, "no point of its grid"),
        ({"results": "nowhere/page"}, "nowhere/page.json, which does not exist; run"),
    ],
)
def test_a_page_that_is_not_the_plans_is_refused(tmp_path, keys, error):
    row: dict[str, Any] = {}
    settings = {"grpo": {"lr": 1e-3}, "genac": {"lr": 1e-3, "lambda": 0.5}}
    record = {"seeds": [0, 1], "methods": dict.fromkeys(METHODS, row), "settings": settings}
    (tmp_path / "page.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=error):
        add_to_page(plan(tmp_path, **keys))


def test_stages_of_another_experiment_are_refused(tmp_path):
    keys = {"experiment": "regime", "results": "x", "folder": "y", "seeds": [0], "methods": {}}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(keys | {"recipe": "recipes/arithmetic.yaml", "regimes": {}}))
    with pytest.raises(ValueError, match="--stages is for the experiment downstream"):
        add_to_page(file)
