"""The report: complete on a full run, honest on others, deaf to what an actor writes."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from report_runs import SUMMARY, full_run

from genac.commands.summary import critic_lines
from genac.runs.numbers import signed
from genac.runs.store import Run
from genac.ui.examples import SCALE, colour, ending, trajectories
from genac.ui.figures import look
from genac.ui.report import document
from genac.ui.report.charts import embedded, thinned
from genac.ui.report.critic import bins, errors, histogram
from genac.ui.report.curves import derived
from genac.ui.report.curves import success as success_chart
from genac.ui.report.document import report, write_report
from genac.ui.report.folder import load
from genac.ui.report.groups import at_equal, differences, grouped, over_budget, over_steps
from genac.ui.report.results import cost, headline, ranking, sentence, spent

HOSTILE = "</script><script>alert(1)</script></pre>\ud800\0"


def charts(page):
    """The data of every chart, by title; a title of two stages holds the first."""
    result = re.findall(r'<script type="application/json">(.*?)</script>', page)
    data = [json.loads(one) for one in result]
    return {one["title"]: one for one in reversed(data)}


def own(page):
    """The page without the library."""
    for name in document.LIBRARY:
        page = page.replace((document.VENDOR / name).read_text(), "")
    return page


def test_a_full_run_has_every_section_small_and_self_contained(tmp_path):
    run = full_run(tmp_path / "run")
    path = write_report(run.path)
    page = path.read_text()
    assert path == run.path / "report.html" and len(page) < 2e6
    assert re.findall(r'\ssrc=|@import|url\((?!#)|href="(?!#)', own(page)) == []
    for expected in (
        "toy",
        "genac",
        run.config_hash(),
        "Held-out success went from 31.0 % [27.0, 35.0] to 72.0 % [68.0, 76.0]",
        "a clear gain",
        "+41.0 points",
        "[0.030, 0.050]; 0.049 below the best trivial baseline, 0.090 "
        "(problem&#x27;s success rate): clearly better",
        "0.330 above chance, 0.5",
        "critic sampling",
        "train the critic longer before the actor",
        "so far right",
        "-0.25",
        "missing",
    ):
        assert expected in page, expected
    assert 'class="note"' not in page.split("<main>")[1]  # nothing is missing
    drawn = charts(page)
    for title in (
        "Held-out success over joint training",
        "Critic error",
        "Reliability",
        "Scores given",
        "Explained variance",
        "AUC within a problem",
        "Advantage gap",
        "Scores not parsed",
        "Reward",
        "Response length",
        "Entropy",
        "KL to the reference",
        "Clip fraction",
        "Success against tokens",
    ):
        assert title in drawn, title
    assert drawn["Entropy"]["alarms"] == [[3.0, "alarm advantage_gap"]]


def test_the_page_lets_no_script_run_but_its_own(tmp_path):
    page = write_report(full_run(tmp_path / "run", steps=2).path).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1] and "unsafe-eval" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 4 == policy.count("'sha256-")


def test_what_an_actor_wrote_is_text_and_never_markup(tmp_path):
    run = full_run(tmp_path / "run", steps=2, text=HOSTILE, name=HOSTILE)
    run.event("alarm", alarm=HOSTILE, stage="joint", step=1, message=HOSTILE, remedy="")
    page = write_report(run.path).read_text()
    assert "<script>alert" not in page and "&lt;script&gt;" in page
    assert page.count("<script") == page.count("</script>")
    assert page.count("<pre") == page.count("</pre>")
    assert HOSTILE[:20] in charts(page)["Entropy"]["alarms"][0][1]  # as data, not as markup


def test_an_empty_run_says_what_is_missing(tmp_path):
    run = Run.create(tmp_path / "run", {"name": "empty"}, {})
    page = write_report(run.path).read_text()
    for expected in (
        "empty",
        "This run is still being written: it has logged no step yet",
        "No result yet",
        "metrics.jsonl is missing or empty",
        "No critic&#x27;s error",
        "stored no estimates",
        "No alarm was raised",
        "summary.json lacks tokens, flops, seconds",
    ):
        assert expected in page, expected
    assert charts(page) == {}


def test_a_run_that_is_being_written_says_how_far_it_is(tmp_path):
    run = full_run(tmp_path / "run", steps=5)
    (run.path / "summary.json").unlink()
    page = write_report(run.path).read_text()
    assert "still being written: its last line is stage joint, step 5 of 200" in page
    assert "No final evaluation yet; held-out success at joint step 0: 50.0 %" in page
    where, state = report([str(run.path)]).splitlines()
    assert where.startswith(str(run.path / "report.html"))
    assert state.startswith(f"{run.path}: This run is still being written: its last line is")
    old = json.dumps({"stage": "joint", "step": 4, "time": time.time() - 1e5, "reward": 0.5})
    (run.path / "metrics.jsonl").write_text(old + "\n")
    os.utime(run.path / "config.json", (1e9, 1e9))
    assert (
        "did not finish: its last line is stage joint, step 5" in write_report(run.path).read_text()
    )


def test_a_folder_that_holds_nothing_of_a_run_is_refused_in_a_line(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds no run: none of config.*'genac ls FOLDER'"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    with pytest.raises(ValueError, match=r"holds no run: its config\.json is no run's"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_foreign_folder_gives_a_page_that_says_so(tmp_path):
    (tmp_path / "summary.json").write_text('["not", "ours"]')
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0}\n{"stage": "x", "step": "y"}\n{}\n{"l')
    (tmp_path / "estimates").mkdir()
    (tmp_path / "estimates" / "joint-000001.parquet").write_bytes(b"PAR1 truncated")
    page = write_report(tmp_path).read_text()
    assert "config.json is missing" in page
    assert "summary.json holds a list" in page
    assert "estimates/joint-000001.parquet could not be read" in page
    assert str(tmp_path) not in page


def test_a_truncated_run_shows_the_rest(tmp_path):
    run = full_run(tmp_path / "run", steps=3)
    (run.path / "config.json").write_text('{"name": "to')
    (run.path / "rollouts" / "joint-000002.parquet").write_bytes(b"")
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    lines[4] = lines[4][:20]  # inside, where only damage can have cut it
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"stage": "joi')
    page = write_report(run.path).read_text()
    assert "config.json could not be read" in page
    assert "rollouts/joint-000002.parquet could not be read" in page
    assert "metrics.jsonl line 5 is not a JSON object: delete that line; the other lines" in page
    assert "31.0 % → 72.0 %" in page and "so far right" in page
    assert len(charts(page)["Entropy"]["series"][0]["points"]) == 3


def test_odd_shapes_in_the_summary_do_not_stop_the_report(tmp_path):
    run = Run.create(tmp_path / "run", {"task": None, "critic": 3, "seed": "x"}, {})
    (run.path / "summary.json").write_text(
        '{"success_after": null, "success_before": NaN, "critic": {"mse": null, "mse_sft": NaN, '
        '"calibration": [{"count": 0}, 3], "stages": {"rl": 4}}, "tokens": 3, '
        '"seconds": {"training": "long", "scoring": {"a": 1}}}'
    )
    run.log("joint", 0, {"reward": float("nan"), "entropy": None, "critic/mse": "big"})
    assert "Reliability" not in charts(write_report(run.path).read_text())


def test_no_folder_and_no_run_are_errors_that_say_so(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(ValueError, match="at least one run"):
        write_report([])


def test_several_runs_are_overlaid_seeds_as_bands(tmp_path):
    for seed in (0, 1):
        full_run(tmp_path / "runs" / f"a-seed{seed}", steps=2, seed=seed, output_dir=f"a{seed}")
    full_run(tmp_path / "runs" / "b", steps=2, algorithm="grpo", name="other")
    text = report([str(tmp_path / "runs")])  # a folder of runs stands for them
    page = (tmp_path / "runs" / "report.html").read_text()
    assert text.startswith(f"{tmp_path / 'runs' / 'report.html'} (0.")  # MB
    assert "3 runs of 2 configurations" in page
    drawn = charts(page)["Entropy"]
    assert [one["name"] for one in drawn["series"]] == ["toy", "other"]
    assert drawn["series"][0]["points"][0] == [0, 0.3, 0.3, 0.3, 2]
    assert drawn["series"][1]["points"][0] == [0, 0.3, None, None, 1]
    assert "<td>algorithm</td><td>genac</td><td>grpo</td>" in page
    assert {"Success against samples", "Success against tokens", "Success against seconds"} <= set(
        charts(page)
    )


def curve_run(path: Path, success, before=0.2, tokens=10.0, **config):
    """A run whose evaluations are `success`, one a step, each step costing `tokens`."""
    rollout = {"num_prompts": 2, "num_generations": 3}
    run = Run.create(path, {"name": "n", "rollout": rollout, **config}, {})
    for step, value in enumerate(success):
        run.log("joint", step, {"eval/success": value, "cost/tokens": tokens * (step + 1)})
    run.write_summary({"success_before": before, "success_after": success[-1]})
    return load(path)


def test_seeds_are_a_mean_within_lowest_and_highest(tmp_path):
    folders = [
        curve_run(tmp_path / "x", [0.4, 0.6, 0.9], seed=1, before=0.1, tokens=30),
        curve_run(tmp_path / "y", [0.2, 0.4], seed=0, before=0.3),
    ]
    [group] = grouped(folders)
    assert [f.place for f in group.folders] == ["y", "x"]  # by seed
    points = over_steps(group, "joint", "eval/success")
    assert points == [
        (0, pytest.approx(0.3), 0.2, 0.4, 2),
        (1, pytest.approx(0.5), 0.4, 0.6, 2),
        (2, 0.9, 0.9, 0.9, 1),  # one seed has come that far
    ]
    # samples: 6 a step, from the evaluation before training on; tokens: 10 and 30 a step
    assert [p[0] for p in over_budget(group, "samples")] == [0, 6, 12, 18]
    assert [p[0] for p in over_budget(group, "tokens")] == [0, 20, 40, 90]
    assert over_budget(group, "seconds") == [(0.0, pytest.approx(0.2), 0.1, 0.3, 2)]


def test_equal_budgets_are_what_every_run_reached(tmp_path):
    long = curve_run(tmp_path / "x", [0.4, 0.6, 0.9], tokens=30, seed=0)
    short = curve_run(tmp_path / "y", [0.5, 0.8], tokens=20, seed=1)
    limit, values = at_equal([long, short], "tokens")
    assert limit == 40  # x is a third of the way from 0.4 (at 30) to 0.6 (at 60)
    assert values == [pytest.approx(0.4 + 0.2 / 3), 0.8]


def test_a_run_without_evaluations_has_no_budget_and_takes_none_from_others(tmp_path):
    with_curve = curve_run(tmp_path / "x", [0.4], before=0.2)
    run = Run.create(tmp_path / "y", {"name": "n", "loss": 1}, {})
    assert at_equal([with_curve, load(run.path)], "tokens") == (10.0, [0.4, None])


def test_groups_are_named_by_what_sets_them_apart(tmp_path):
    one = curve_run(tmp_path / "a", [0.4], credit={"lam": 1.0, "gamma": 1.0}, name="sweep-seed0")
    two = curve_run(tmp_path / "b", [0.4], credit={"lam": 0.5, "gamma": 1.0}, name="sweep-seed0")
    again = curve_run(
        tmp_path / "c", [0.4], credit={"lam": 0.5, "gamma": 1.0}, seed=1, name="sweep-seed1"
    )
    groups = grouped([one, two, again])
    assert [(g.name, len(g.folders)) for g in groups] == [("sweep-seed0", 1), ("sweep", 2)]
    same = grouped([one, two])
    assert [g.name for g in same] == ["sweep-seed0 (lam=1.0)", "sweep-seed0 (lam=0.5)"]
    assert differences([one, two]) == {"credit.lam": ["1.0", "0.5"]}


def test_runs_without_a_config_are_never_thrown_together(tmp_path):
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("")
        folders.append(load(tmp_path / name))
    assert len(grouped(folders)) == 2


def test_the_best_is_named_with_those_not_distinguishable_from_it(tmp_path):
    def run(name, mean, low, high):
        made = Run.create(tmp_path / name, {"name": name, "loss": name}, {})
        made.write_summary({"success_after": {"mean": mean, "low": low, "high": high}})
        return load(made.path)

    a, b, c = run("a", 0.8, 0.7, 0.9), run("b", 0.75, 0.65, 0.85), run("c", 0.5, 0.4, 0.6)
    answer = ranking(grouped([c, b, a]))
    assert (
        answer
        == "Highest held-out success: a, 80.0 % [70.0, 90.0]; its interval overlaps that of b."
    )
    assert ranking(grouped([c, a])).endswith(", apart from all others.")


def test_a_seed_without_an_evaluation_is_reported_and_lends_no_interval(tmp_path):
    interval = {"mean": 0.2, "low": 0.1, "high": 0.3}
    done = curve_run(tmp_path / "x", [0.4], before=interval, seed=0)
    cut = Run.create(tmp_path / "y", {**done.config, "seed": 1}, {})
    cut.log("joint", 0, {"eval/success": 0.5})
    [group] = grouped([done, load(cut.path)])
    assert "; 1 without a final evaluation): no interval is known." in sentence(group)
    lead = success_chart([group])
    assert '"points":[[-1.0,0.2,0.2,0.2,1],[0.0,0.45,0.4,0.5,2]]' in lead


def test_the_curve_of_success_ends_at_the_final_evaluation(tmp_path):
    ends = {
        "success_before": {"mean": 0.2, "low": 0.1, "high": 0.3},
        "success_after": {"mean": 0.8, "low": 0.7, "high": 0.9},
    }
    run = Run.create(tmp_path / "run", {"rollout": {"num_prompts": 2, "num_generations": 3}}, {})
    for step in range(4):
        run.log("joint", step, {"cost/tokens": 10.0 * (step + 1)})
    run.log("joint", 4, {"eval/success": 0.6, "cost/tokens": 50.0})
    run.log("joint", 5, {"cost/tokens": 60.0})
    run.write_summary(ends)
    [group] = grouped([load(run.path)])
    points = '"points":[[-1.0,0.2,0.1,0.3,1],[4,0.6,null,null,1],[5.0,0.8,0.7,0.9,1]]'
    assert points in success_chart([group])
    assert [p[:2] for p in over_budget(group, "samples")] == [(0.0, 0.2), (30, 0.6), (36, 0.8)]
    assert at_equal(group.folders, "tokens") == (60.0, [0.8])


def test_a_tile_says_whether_its_number_is_a_good_one(tmp_path):
    """A critic's error means something next to what needs no critic."""

    def remark(name, **critic):
        run = Run.create(tmp_path / name, {}, {})
        run.write_summary({"critic": {"mse_constant": 0.2, "mse_success_rate": 0.3, **critic}})
        return headline(grouped([load(run.path)])[0])

    best = "the best trivial baseline, 0.200 (best constant)"
    good = remark("a", mse=0.1, mse_interval=[0.05, 0.15])
    assert f"[0.050, 0.150]; 0.100 below {best}: clearly better" in good
    unclear = remark("b", mse=0.25, mse_interval=[0.1, 0.4])
    assert f"0.050 above {best}: no clear difference" in unclear
    assert "above the best trivial baseline, 0.200 (best constant): clearly worse" in remark(
        "c", mse=0.3, mse_interval=[0.25, 0.35]
    )
    assert f">0.100 below {best}<" in remark("d", mse=0.1)
    paired = remark(
        "p", mse=0.15, mse_interval=[0.05, 0.25], mse_gain=0.05, mse_gain_interval=[0.01, 0.08]
    )
    assert f"0.050 below {best}: clearly better, [-0.080, -0.010] on the same problems" in paired
    auc = {"auc_within_problem": 0.7, "auc_within_problem_interval": [0.6, 0.8]}
    assert "[0.600, 0.800]; 0.200 above chance, 0.5: clearly better" in remark("e", **auc)


def test_seeds_are_next_to_a_baseline_each(tmp_path):
    for seed, (constant, gain) in enumerate(((0.2, 0.1), (0.4, -0.05))):
        run = Run.create(tmp_path / str(seed), {"seed": seed, "algorithm": "genac"}, {})
        own = {"mse": constant - gain, "mse_constant": constant, "mse_success_rate": 0.5}
        run.write_summary({"critic": {**own, "mse_gain": gain, "mse_gain_interval": [0.0, 0.1]}})
    [group] = grouped([load(tmp_path / "0"), load(tmp_path / "1")])
    assert (
        "0.025 below the best trivial baseline, 0.300 (best constant): no clear difference, "
        "[-0.100, +0.050] over seeds, each against its own"
    ) in headline(group)


def test_what_a_run_prints_at_its_end_holds_the_difference_to_the_baselines():
    older = {"mse_constant": 0.2, "mse_rl": 0.15, "parse_rate": 1.0}
    lines = critic_lines({**older, "mse_gain": 0.05, "mse_gain_interval": [0.01, 0.08]})
    assert lines[1] == "critic MSE below the best trivial baseline by 0.0500 [0.0100, 0.0800]"
    assert [lines[0], lines[2]] == critic_lines(older)


def test_what_rounds_to_zero_has_no_sign():
    assert [signed(x) for x in (-0.004, 0.0, 0.004, -0.006, 0.25, None)] == [
        *("0.00", "0.00", "0.00", "-0.01", "+0.25", "-")
    ]


def test_reasoning_is_shown_by_its_end():
    """Rationales about one response begin alike."""
    assert ending("Line 1: right.\n<answer>5</answer>") == "Line 1: right. 5"
    long = "Line 1: Ana buys 33, 7 + 33 is 40, says 40. Right.\nLine 2: Ana gives away 23, 17."
    shown = ending(long)
    assert (
        shown.startswith("\u2026 ")
        and " ".join(long.split()).endswith(shown[2:])
        and len(shown) <= 82
    )


def test_the_verdict_follows_the_intervals(tmp_path):
    """That of the paired difference, where the run recorded it."""

    def verdict(before, after, **gain):
        run = Run.create(tmp_path / f"{after}{gain}", {}, {})
        ends = {"before": before, "after": after}
        spread = {k: {"mean": m, "low": m - 0.1, "high": m + 0.1} for k, m in ends.items()}
        run.write_summary({f"success_{k}": one for k, one in spread.items()} | gain)
        return sentence(grouped([load(run.path)])[0])

    assert verdict(0.5, 0.55).endswith("the intervals overlap.")
    assert verdict(0.5, 0.75).endswith("a clear gain.")
    paired = {"mean": 0.05, "low": 0.01, "high": 0.09}
    text = "a clear gain, +5.0 points [+1.0, +9.0] on the same problems."
    assert verdict(0.5, 0.55, success_gain=paired).endswith(text)
    assert "no clear change" in verdict(0.5, 0.55, success_gain=paired | {"low": -0.01})
    assert verdict(0.5, 0.55, success_gain={"mean": 0.05}).endswith("the intervals overlap.")
    assert verdict(0.5, 0.25).endswith("a clear loss.")


def test_cost_leaves_evaluation_out_and_falls_back_on_the_last_line(tmp_path):
    run = full_run(tmp_path / "run", steps=5)
    assert spent(load(run.path), "seconds") == 10.0
    (run.path / "summary.json").unlink()
    assert spent(load(run.path), "seconds") == 10.0  # 2 a step
    assert spent(load(run.path), "tokens") == 500.0


def test_stages_before_joint_training_have_rows_of_their_own(tmp_path):
    run = Run.create(tmp_path / "run", {}, {})
    made = {"seconds": 61.0, "tokens": 5e6, "flops": 3e13}
    stages = {"base": made | {"reused": True}, "critic_rl": dict.fromkeys(made) | {"reused": False}}
    run.write_summary({"stages_cost": stages | {"total": dict.fromkeys(made), "odd": [1]}})
    rows = re.findall(r"<tr>(.*?)</tr>", cost(load(run.path)), flags=re.S)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.S) for row in rows]
    assert ["base", "5 M", "30 T", "61", "made before this run"] in cells
    assert ["critic rl", "-", "-", "-", ""] in cells and ["total", "-", "-", "-", ""] in cells
    assert len([row for row in cells if "odd" in row]) == 0


def test_the_best_constant_has_the_variance_of_the_rewards(tmp_path):
    run = Run.create(tmp_path / "run", {}, {})
    run.log("joint", 0, {"reward_std": 0.5})
    [group] = grouped([load(run.path)])
    assert derived(group, "joint", "constant") == [(0, 0.25, None, None, 1)]


def test_errors_of_every_version_with_intervals_where_they_are_known(tmp_path):
    stages = {"sft": {"mse": 0.08, "mse_interval": [0.07, 0.09]}}
    run = Run.create(tmp_path / "run", {}, {})
    run.write_summary(
        {"critic": {**SUMMARY["critic"], "stages": stages, "after_joint": {"mse": 0.2}}}
    )
    result = errors(grouped([load(run.path)])[0])
    assert result["best constant"] == {"mean": 0.11, "low": None, "high": None}
    assert result["after SFT (stage 1)"] == {"mean": 0.08, "low": 0.07, "high": 0.09}
    assert result["after joint training"]["mean"] == 0.2


def test_reliability_bins_of_seeds_are_weighted_by_their_states():
    one = [
        {"predicted": 0.12, "actual": 0.2, "count": 1},
        {"predicted": 0.95, "actual": 1.0, "count": 4},
    ]
    two = [
        {"predicted": 0.16, "actual": 0.6, "count": 3},
        {"predicted": None, "actual": None, "count": 0},
    ]
    assert bins([one, two, None]) == [
        (pytest.approx(0.15), pytest.approx(0.5), 4),
        (pytest.approx(0.95), 1.0, 4),
    ]
    assert bins([[{"predicted": 1.0, "actual": 1.0, "count": 2}]]) == [(1.0, 1.0, 2)]


def test_bins_of_few_states_are_left_out_and_counted(tmp_path):
    page = write_report(full_run(tmp_path / "run", steps=3).path).read_text()
    drawn = charts(page)["Reliability"]  # tenths of 1 to 10 states
    assert [point[2] for one in drawn["series"] for point in one["points"]] == [10]
    assert "9 tenths with fewer than 10 states are left out." in page


def test_what_never_changes_is_a_line_of_text(tmp_path):
    run = Run.create(tmp_path / "run", {"name": "still"}, {})
    for step in range(3):
        run.log("joint", step, {"reward": 0.1 * step, "clip_ratio/region_mean": 0.0, "loss": 2})
    page = write_report(run.path).read_text()
    assert "The same at every step: Clip fraction 0; Loss 2." in page
    assert "Reward" in charts(page) and not {"Clip fraction", "Loss"} & charts(page).keys()


def test_the_charts_that_matter_come_first_and_once(tmp_path):
    page = write_report(full_run(tmp_path / "run", steps=5).path).read_text()
    first = [*charts(page.partition('id="critic"')[0])][::-1]
    assert [title.partition(" against")[0].partition(" over")[0] for title in first] == [
        "Held-out success", "Critic error", "Reliability", "AUC within a problem", "Entropy",
    ]  # fmt: skip
    assert len(re.findall("<b>Entropy</b>", page)) == 1


def test_two_numbers_of_success_are_explained(tmp_path):
    run = full_run(tmp_path / "run", steps=3, evaluate={"during": 96})
    summary = run.summary()
    summary["success_after"]["problems"] = 160
    run.write_summary(summary)
    page = write_report(run.path).read_text()
    assert "first and the last point are over 160 problems, those between over 96" in page


def test_examples_never_hold_the_same_text_twice():
    rows = [
        {"group": 0, "member": m, "start": 0, "end": 2, "problem_id": "p", "step_text": text,
         "value": 0.5, "reward": reward}
        for m, (text, reward) in enumerate([("a", 1.0), ("a", 1.0), ("b", 0.0), ("c", 1.0)])
    ]  # fmt: skip
    page = trajectories(rows, [])
    assert [page.count(f"<pre>{text}</pre>") for text in "abc"] == [1, 1, 1]


def test_no_two_series_of_a_figure_look_alike():
    looks = [tuple(look(i).values()) for i in range(32)]
    assert len(set(looks)) == 32
    assert len({(marker, dashes) for _, marker, dashes in looks[:12]}) == 12  # without colour


def test_the_histogram_is_of_shares():
    shares = histogram([0.0, 0.1, 0.12, 1.0])
    assert [s for s in shares if s[1]] == [(0.0, 0.25), (1.0, 0.5), (10.0, 0.25)]
    assert histogram([]) == []


def test_thinning_keeps_both_ends_and_every_spike():
    points = [(float(x), 0.0) for x in range(10_000)]
    points[7777] = (7777.0, 9.0)
    points[1234] = (1234.0, -9.0)
    kept = thinned(points)
    assert len(kept) <= 402 and kept[0] == points[0] and kept[-1] == points[-1]
    assert points[7777] in kept and points[1234] in kept
    assert [p[0] for p in kept] == sorted(p[0] for p in kept)


def test_embedded_text_comes_back_as_it_was():
    text = "</script><!--\u2028'\""
    assert "<" not in embedded([text]) and json.loads(embedded([text])) == [text]


def test_the_colour_scale_meets_its_stops_and_stays_inside():
    assert [colour(v) for v in (0.0, 0.5, 1.0)] == list(SCALE)
    assert colour(-1.0) == SCALE[0] and colour(7.0) == SCALE[2]
