"""Tables of `genac eval search`: what is a comparison at equal tokens and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genac.commands.eval_search import against_vote, line, together

DOCS = Path(__file__).parents[2] / "docs"
COST = {"actor_tokens": 10.0, "critic_tokens": 20.0, "tokens": 30.0, "flops": 60.0}


def row(method: str, spent: float) -> dict[str, Any]:
    """A row that beats, in two of four problems, a vote that spent so many tokens."""
    own = {"method": method, "n": 2, "success": 0.5, "low": 0.0, "high": 1.0, **COST}
    own["by_problem"] = [1.0, 1.0, 0.0, 0.0]
    vote = {"n": 256, "tokens": spent, "flops": 2 * spent, "by_problem": [0.0] * 4}
    return own | {f"majority_at_equal_{u}": against_vote(own, vote, u) for u in ("tokens", "flops")}


@pytest.mark.parametrize(("spent", "funded"), [(29.9, False), (30.0, True)])
def test_a_vote_that_could_not_be_funded_says_so(spent, funded):
    result = row("beam", spent)
    assert result["majority_at_equal_tokens"]["funded"] is funded
    assert result["majority_at_equal_flops"]["funded"] is funded
    assert line(result).count("< equal") == (0 if funded else 2)


def test_a_row_with_an_unfunded_vote_has_no_mean_over_runs():
    rows = [[row("beam", 30.0), row("weighted, end", 30.0)], [row("beam", 29.0)]]
    rows[1].append(row("weighted, end", 31.0))
    page = together([{"run": str(i), "rows": r} for i, r in enumerate(rows)])
    beam, other = page.splitlines()[-2:]
    assert beam.endswith(", < equal |  |") and beam.count("+50.0") == 2
    assert other.endswith("| +50.0 [+50.0, +50.0] |")
