"""genac compare: differences between variants are paired by seed."""

from __future__ import annotations

import pytest

from genac.commands.compare import compare, differences
from genac.ops.stats import mean_interval


def test_differences_are_paired_and_leave_out_what_is_missing():
    """Seeds differ by far more than variants do: only pairs show the variants' difference."""
    base = {"final": [0.2, 0.8], "mean_over_training": [0.1, 0.5], "critic_mse": [0.3, None]}
    ours = {"final": [0.3, 0.9], "mean_over_training": [0.1, 0.7], "critic_mse": [0.1, 0.2]}
    none = {"final": [0.2, 0.8], "mean_over_training": [0.1, 0.5], "critic_mse": [None, None]}
    table = {"against": "base", "variants": {"base": base, "ours": ours, "none": none}}
    *_, first, second = differences(table).splitlines()
    _, low, high = mean_interval([0.0, 0.7 - 0.5])
    assert low is not None and high is not None
    gap = f"+0.1000 [{low:+.4f}, {high:+.4f}]"
    assert first == f"| ours | +0.1000 [+0.1000, +0.1000] | {gap} | -0.2000 |"
    assert second.split(" | ")[-1] == "- |" and "+0.0000" in second


def test_against_must_name_a_variant(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(
        "recipe: recipes/arithmetic.yaml\noutput_dir: x\nresults: y\nseeds: [0]\n"
        "against: nobody\nvariants: {ours: {algorithm: grpo}}\n"
    )
    with pytest.raises(ValueError, match="against is 'nobody'; name one of ours"):
        compare(file)
