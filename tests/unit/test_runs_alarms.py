"""Each alarm fires on its number, once per stage, also over a resume; NaN stops the run."""

import numpy as np
import pytest

from genac.runs.alarms import RULES, Alarms
from genac.runs.store import Run

GOOD = {
    "frac_reward_zero_std": 0.9,
    "reward": 0.01,
    "reward_none_rate": 0.2,
    "critic/parse_failure_rate": 0.2,
    "critic/distinct_scores": 2,
    "critic/advantage_gap": 0.0,
    "critic/bias": 0.25,
    "sampling/sampling_logp_difference/mean": 0.05,
    "critic/sampling/sampling_logp_difference/mean": 0.05,
    "completions/masked_ratio": 0.99,
    "publish_changed": 1,
}
BAD = {
    "frac_reward_zero_std": 1.0,
    "reward": 0.0,
    "reward_none_rate": 0.21,
    "critic/parse_failure_rate": 0.21,
    "critic/distinct_scores": 1,
    "critic/advantage_gap": -0.01,
    "critic/bias": 0.26,
    "sampling/sampling_logp_difference/mean": 0.06,
    "critic/sampling/sampling_logp_difference/mean": 0.06,
    "completions/masked_ratio": 1.0,
    "publish_changed": 0,
}


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {}, {})


APART = "sampling/sampling_logp_difference/mean"


@pytest.mark.parametrize("key", [APART, f"critic/{APART}"])
def test_rounding_in_bf16_is_no_alarm_and_a_fault_still_is(run, key):
    warned = []
    alarms = Alarms(run, warned.append, bf16=True)
    assert alarms.check("joint", 0, {key: 0.05}) == alarms.check("joint", 1, {key: 0.09}) == []
    assert len(alarms.check("joint", 2, {key: 0.2})) == 1
    assert "hardware.precision fp32" in warned[0]


def test_good_numbers_and_absent_ones_raise_nothing(run):
    warned = []
    alarms = Alarms(run, warned.append)
    assert alarms.check("joint", 0, GOOD) == []
    assert alarms.check("joint", 0, {"reward": None, "note": "x"}) == []
    assert warned == [] and run.events() == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_each_alarm_fires_with_its_number_and_remedy(run, rule):
    warned = []
    alarms = Alarms(run, warned.append)
    for step in range(6 - rule.steps, 5):  # noisy ones wait for several bad steps in a row
        assert alarms.check("joint", step, {**GOOD, rule.key: BAD[rule.key]}) == []
    assert alarms.check("joint", 5, {**GOOD, rule.key: BAD[rule.key]}) == [rule.kind]
    assert rule.remedy in warned[0] and rule.key in warned[0] and "step 5" in warned[0]
    (event,) = run.events("alarm")
    assert event["alarm"] == rule.kind and event["value"] == BAD[rule.key] and event["step"] == 5


def test_an_alarm_is_raised_once_per_stage_and_stays_quiet_after_a_resume(run):
    warned = []
    alarms = Alarms(run, warned.append)
    for step in range(5):
        alarms.check("joint", step, {"reward": 0.0})
    assert len(warned) == 1
    resumed = Alarms(Run.open(run.path), warned.append)
    for step in range(5, 10):
        assert resumed.check("joint", step, {"reward": 0.0}) == []
    assert len(warned) == 1
    raised = [resumed.check("critic_rl", step, {"reward": 0.0}) for step in range(3)]
    assert raised == [[], [], ["rewards_zero"]]


def test_a_publish_reported_as_a_truth_value_is_understood(run):
    assert Alarms(run, print).check("joint", 0, {"publish_changed": False}) == ["publish_unchanged"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_a_nonfinite_metric_is_recorded_and_stops_the_run_every_time(run, value):
    alarms = Alarms(run, print)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=r"actor/loss.*step 3 of stage joint"):
            alarms.check("joint", 3, {"reward": 0.5, "actor/loss": value})
    assert run.events("alarm")[0]["alarm"] == "nonfinite"


def test_a_good_step_between_bad_ones_starts_the_count_again(run):
    alarms = Alarms(run, lambda text: None)
    for step, reward in enumerate((0.0, 0.0, 0.5, 0.0, 0.0)):
        assert alarms.check("joint", step, {"reward": reward}) == []
    assert alarms.check("joint", 5, {"reward": 0.0}) == ["rewards_zero"]
