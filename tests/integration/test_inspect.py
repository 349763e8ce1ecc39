"""The scorer in inspect_ai itself, in the environment that `make verl-env` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from computed_critic import ComputedCritic
from critic_server import CriticServer
from installed import ROOT, environment

HOME = Path(os.environ.get("GENAC_VERL", ROOT / ".verl-env"))
DEADLINE = 600.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * DEADLINE),
    pytest.mark.skipif(
        not (HOME / "ready").exists(),
        reason=f"no inspect_ai in {HOME}: make it with `make verl-env`, or name it in GENAC_VERL",
    ),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A solution whose second step is wrong, by a critic that says so."""
    folder = tmp_path_factory.mktemp("inspect")
    critic = ComputedCritic(values=(0.8, 0.9, 0.2, None))
    script = ROOT / "tests" / "support" / "inspect_eval.py"
    with CriticServer(critic) as server:
        done = subprocess.run(
            [HOME / "bin" / "python", script, server.url, folder],
            env=environment(folder / "installed"),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


def test_the_scorer_points_at_the_step_over_which_the_value_falls_most(
    result: dict[str, Any],
) -> None:
    assert result["status"] == "success"
    score = result["eval"]["scores"]["wrong_step"]
    assert score["value"] == {"final": 0.2, "lowest": 0.2, "fall": pytest.approx(0.7)}
    assert score["answer"] == "b*7=4\n"
    assert score["explanation"] == "step 2 'b*7=4\\n': 0.90 -> 0.20\nread up to 13"
    assert score["metadata"] == {"values": [0.8, 0.9, 0.2, None], "boundaries": [0, 7, 13, 19]}


def test_one_scorer_serves_one_evaluation_after_another(result: dict[str, Any]) -> None:
    assert result["again"] == "success"  # each evaluation runs an event loop of its own


def test_a_key_that_is_not_set_is_named(result: dict[str, Any]) -> None:
    assert "api_key_env names GENAC_NO_SUCH_KEY, which is not set" in result["no key"]


def test_every_number_has_a_mean_over_the_solutions(result: dict[str, Any]) -> None:
    metrics = result["eval"]["metrics"]
    assert {name: m["mean"] for name, m in metrics.items()} == {
        "final": 0.2,
        "lowest": 0.2,
        "fall": pytest.approx(0.7),
    }


def test_a_finished_log_is_scored_by_the_scorers_name(result: dict[str, Any]) -> None:
    assert "scored" in result, result["command"]
    scores = result["scored"]["scores"]
    assert any(s["answer"] == "b*7=4\n" for name, s in scores.items() if name != "wrong_step")


def test_the_scorer_needs_no_torch(result: dict[str, Any]) -> None:
    assert not result["torch"]


def test_steps_end_at_the_separator_and_blank_ones_belong_to_the_step_before(
    result: dict[str, Any],
) -> None:
    assert result["boundaries"] == [[0], [0, 8], [0, 7, 13, 19], [0, 4], [0, 3, 6]]
