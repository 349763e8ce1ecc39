"""The report: complete on a full run, honest on an empty one, and deaf to what an actor writes."""

import re

import numpy as np
import pytest

from genac.runs.alarms import Alarms
from genac.runs.examples import SCALE, colour
from genac.runs.report import write_report
from genac.runs.store import Run, environment
from genac.types import Estimate, Problem, Rollout, State, Thought

HOSTILE = "<script>alert(1)</script></pre>\ud800\0"
ROLES = {"actor_sampling": 4.0, "critic_sampling": 3.0, "scoring": 0.5, "training": 2.5}
SUMMARY = {
    "success_before": {"mean": 0.31, "low": 0.27, "high": 0.35},
    "success_after": {"mean": 0.72, "low": 0.68, "high": 0.76},
    "pass_at_k": {"before": {"8": {"mean": 0.8, "low": 0.7, "high": 0.9}}, "after": {"8": 0.95}},
    "critic": {
        "mse": {"mean": 0.041, "low": 0.03, "high": 0.05},
        "mse_constant": 0.11,
        "mse_success_rate": 0.09,
        "mse_untrained": 0.31,
        "mse_sft": 0.08,
        "mse_rl": 0.05,
        "auc_within_problem": 0.83,
        "parse_rate": 0.99,
        "calibration": [
            {
                "low": i / 10,
                "high": i / 10 + 0.1,
                "count": i + 1,
                "predicted": i / 10,
                "actual": 0.5,
            }
            for i in range(10)
        ],
    },
    "seconds": ROLES,
    "tokens": {role: int(1e6 * s) for role, s in ROLES.items()},
    "flops": {role: 1e13 * s for role, s in ROLES.items()},
    "config_hash": "abc",
}


def trajectory(member, text="3+4=7\n"):
    rollout = Rollout(
        Problem(f"heldout-{member}", f"2 * (3+4) {text}", "14"),
        group=member,
        member=0,
        prompt_ids=(1,),
        response_ids=tuple(range(9)),
        logprobs=np.zeros(9, np.float32),
        text=text,
        finish="stop",
        actor_version=1,
        reward=float(member % 2),
    )
    thought = Thought((1,), (2,), np.zeros(1, np.float32), f"so far right {text}", 0.8)
    values = (0.5, 0.8, None)
    states = [State(rollout, 3 * i, 3 * i + 3) for i in range(3)]
    return rollout, [Estimate(s, v, (thought,)) for s, v in zip(states, values, strict=True)]


def full_run(path, steps=200, text="3+4=7\n"):
    config = {"name": "toy", "algorithm": "genac", "task": {"name": "arithmetic"}}
    run = Run.create(path, config, environment())
    for stage in ("base", "critic_sft"):
        for step in range(steps):
            run.log(stage, step, {"loss": 2 / (step + 1)})
    for step in range(steps):
        run.log("critic_rl", step, {"critic/reward": 0.8, "critic/mse": 0.1})
        run.log("joint", step, joint_metrics(step, steps))
    pairs = [trajectory(member, text) for member in range(64)]
    run.write_rollouts("joint", steps - 1, [rollout for rollout, _ in pairs])
    estimates = [estimate for _, found in pairs for estimate in found]
    advantages = {(e.state.rollout.group, 0, e.state.start): -0.25 for e in estimates}
    run.write_estimates("joint", steps - 1, estimates, advantages, decode=lambda ids: text)
    alarms = Alarms(run, lambda line: None)
    for step in (1, 2, 3):
        alarms.check("joint", step, {"critic/advantage_gap": -0.2})
    run.write_summary(SUMMARY)
    return run


def joint_metrics(step, steps):
    keys = (
        "reward reward_std frac_reward_zero_std completions/mean_length entropy kl "
        "clip_ratio/region_mean critic/mse critic/explained_variance critic/parse_failure_rate "
        "critic/score_mean critic/advantage_gap"
    )
    metrics = dict.fromkeys(keys.split(), 0.3 + step / (3 * steps))
    return metrics | ({"eval/success": 0.5} if step % 20 == 0 else {})


def fetches(page):
    """Whatever a browser would load from outside the page."""
    return re.findall(r'https?://|src=|@import|url\((?!#)|href="(?!#)', page)


def test_a_full_run_has_every_section_small_and_self_contained(tmp_path):
    run = full_run(tmp_path / "run")
    path = write_report(run.path)
    page = path.read_text()
    assert path == run.path / "report.html" and len(page) < 5e6
    assert fetches(page) == []
    for expected in (
        "toy",
        "genac",
        run.config_hash(),
        "31.0 % → 72.0 %",
        "+41.0 points",
        "0.041 [0.03, 0.05]",
        "success rate only",
        "Reliability",
        "Scores given at stage joint, step 199",
        "critic sampling",
        "train the critic longer before the actor",
        "prefers-color-scheme:dark",
        "so far right",
        "-0.25",
        "missing",
    ):
        assert expected in page, expected
    assert 'class="note"' not in page  # nothing is missing
    assert page.count("<svg") == 17


def test_what_an_actor_wrote_is_text_and_never_markup(tmp_path):
    run = full_run(tmp_path / "run", steps=2, text=HOSTILE)
    page = write_report(run.path).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("<pre>") == page.count("</pre>")


def test_an_empty_run_says_what_is_missing(tmp_path):
    run = Run.create(tmp_path / "run", {"name": "empty"}, {})
    page = write_report(run.path).read_text()
    for expected in (
        "empty",
        "No stage has logged a step",
        "metrics.jsonl is missing or empty",
        "summary.json lacks success_before, success_after, pass_at_k",
        "summary.json has no critic",
        "wrote no estimates",
        "None was raised",
    ):
        assert expected in page, expected


def test_a_foreign_folder_gives_a_page_that_says_so(tmp_path):
    (tmp_path / "summary.json").write_text('["not", "ours"]')
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0}\n{"stage": "x", "step": "y"}\n{}\n{"l')
    (tmp_path / "estimates").mkdir()
    (tmp_path / "estimates" / "joint-000001.parquet").write_bytes(b"PAR1 truncated")
    page = write_report(tmp_path).read_text()
    assert "config.json is missing" in page
    assert "summary.json holds a list" in page
    assert "estimates could not be read" in page
    assert str(tmp_path) not in page


def test_a_truncated_run_shows_the_rest(tmp_path):
    run = full_run(tmp_path / "run", steps=3)
    (run.path / "config.json").write_text('{"name": "to')
    (run.path / "rollouts" / "joint-000002.parquet").write_bytes(b"")
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "joi')
    page = write_report(run.path).read_text()
    assert "config could not be read" in page and "rollouts could not be read" in page
    assert "31.0 % → 72.0 %" in page and "so far right" in page and page.count("<svg") == 17


def test_odd_shapes_in_the_summary_do_not_stop_the_report(tmp_path):
    run = Run.create(tmp_path / "run", {"task": None}, {})
    run.write_summary(
        {
            "success_after": None,
            "pass_at_k": [1, 2],
            "critic": {"mse": None, "calibration": [{"count": 0}, 3]},
            "seconds": {"training": "long", "scoring": {"a": 1}},
            "tokens": 3,
        }
    )
    assert "No reliability diagram" in write_report(run.path).read_text()


def test_several_runs_are_compared_in_one_page(tmp_path):
    paths = [full_run(tmp_path / name, steps=2).path for name in ("one", "two")]
    out = write_report(paths, tmp_path / "both.html")
    page = out.read_text()
    assert out == tmp_path / "both.html" and "Runs compared" in page
    assert page.count("<h1>") == 2


def test_no_folder_and_no_run_are_errors_that_say_so(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(ValueError, match="at least one run"):
        write_report([])


def test_the_colour_scale_meets_its_stops_and_stays_inside():
    assert [colour(v) for v in (0.0, 0.5, 1.0)] == [SCALE[0], SCALE[2], SCALE[4]]
    assert colour(-1.0) == SCALE[0] and colour(7.0) == SCALE[4]
