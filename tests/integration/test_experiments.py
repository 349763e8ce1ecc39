"""Every experiment of recipes/paper in seconds: the harness works, its numbers mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import MICRO

from genac.config.algorithms import merge
from paper.critics import value_regression
from paper.page import BEGIN, END, replace_table, update_pages
from paper.plan import EXPERIMENTS, expand, read_plan, run_experiment, wrapped
from paper.staleness import highest
from paper.transfer import actors, outlook

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
FROM = "model_name_or_path"
PANEL = {"evaluate": {"panel_problems": 3, "panel_continuations": 3}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that stages are made once."""
    return tmp_path_factory.mktemp("paper")


def micro_plan(folder: Path, name: str, **keys: Any) -> Path:
    """A plan of recipes/paper with the micro recipe and the given keys instead of its own."""
    recipe = folder / "micro.yaml"
    recipe.write_text(yaml.safe_dump(MICRO))
    own = yaml.safe_load((PAPER / f"{name}.yaml").read_text())
    plan = {
        "experiment": own["experiment"],
        "recipe": str(recipe),
        "results": str(folder / "results" / name),
        "folder": str(folder / "kept"),
        "seeds": [0],
        **keys,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(plan))
    return file


def result(file: Path) -> dict[str, Any]:
    text = run_experiment(file)
    name = Path(yaml.safe_load(file.read_text())["results"])
    assert wrapped(text).strip() in name.with_suffix(".md").read_text()
    results = json.loads(name.with_suffix(".json").read_text())
    assert results["command"].startswith("python -m paper") and results["seeds"]
    assert {row["verdict"] for row in results["rows"]} <= {"agrees", "disagrees", "undecided", "-"}
    return results


def test_every_plan_of_the_repository_can_be_read():
    plans = [p for p in PAPER.glob("*.yaml") if "experiment" in yaml.safe_load(p.read_text())]
    assert {read_plan(p).values["experiment"] for p in plans} == set(EXPERIMENTS)


@pytest.mark.parametrize(
    "file", [p for p in sorted(PAPER.glob("*.yaml")) if "methods" in p.read_text()], ids=str
)
def test_every_method_of_a_plan_resolves_at_every_point_of_its_grid(file, monkeypatch):
    monkeypatch.chdir(PAPER.parents[1])
    plan = read_plan(file)
    for name, variant in plan.values["methods"].items():
        own = {k: v for k, v in variant.items() if k != "like"}
        configs = [plan.config(values).model_dump_json() for values in expand({name: own}).values()]
        assert len(set(configs)) == len(configs)


def test_a_plan_without_seeds_or_of_no_experiment_is_refused(folder):
    own = {"regimes": {"one": {}}, "methods": METHODS}
    with pytest.raises(ValueError, match="seeds is empty"):
        read_plan(micro_plan(folder, "regime", seeds=[], **own))
    with pytest.raises(ValueError, match="use one of regime"):
        read_plan(micro_plan(folder, "regime", experiment="magic"))


def test_a_key_that_a_plan_lacks_or_does_not_know_is_named(folder):
    with pytest.raises(ValueError, match=r"lacks regimes, methods; see paper/regime\.py"):
        read_plan(micro_plan(folder, "regime"))
    with pytest.raises(ValueError, match=r"tuning_seed is no key of .* use methods, against, tun"):
        read_plan(micro_plan(folder, "downstream", methods={}, against="grpo", tuning_seed=[1]))


def test_the_page_keeps_its_prose_and_takes_its_table_from_the_files(folder):
    results = folder / "page"
    results.mkdir()
    row = {"claim": "c", "ours": "o", "verdict": "agrees"}
    record = {"rows": [row], "seeds": [0, 1], "command": "python -m paper x", "commit": "abc",
              "plan": {"experiment": "regime"}}  # fmt: skip
    (results / "map.json").write_text(json.dumps(record))
    for page in ("README.md", "all-claims.md"):
        (results / page).write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_pages(results, list(EXPERIMENTS))
    assert "\nold\n" not in (results / "README.md").read_text()
    text = (results / "all-claims.md").read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert "## map\n\n[Figures](map.md). Seeds 0, 1.\n`python -m paper x` (abc)." in text
    assert "| c | o | agrees |" in text
    assert not replace_table(folder / "README.md", lambda: "")


METHODS = {
    "grpo": {"algorithm": "grpo", "grid": {"actor.optimizer.learning_rate": [1e-3, 2e-3]}},
    "exact": {"algorithm": "vineppo", "critic": {"kind": "actor_likelihood"}},
}


def test_regime(folder):
    results = result(
        micro_plan(folder, "regime", seeds=[0, 1], regimes={"one": {}}, methods=METHODS)
    )
    row = results["regimes"]["one"]
    assert set(row["settings"]["grpo"]) == {"grpo,learning_rate=0.001", "grpo,learning_rate=0.002"}
    assert results["gain_of_exact_values"]["one"] == row["gain"]["final"]
    assert len(row["gain"]["final"]["values"]) == 2


def test_approximation(folder):
    file = micro_plan(
        folder,
        "approximation",
        overrides=PANEL,
        tuning_seed=0,
        shifts={"longer": {"min_steps": 2, "max_steps": 2}},
        generative="generative",
        generative_sft="sft",
        best_of=["head"],
        judged=["generative", "sft"],
        critics={
            "generative": {"algorithm": "genac", "stage": "rl"},
            "sft": {"like": "generative", "stage": "sft"},
            "head": {
                "algorithm": "ppo",
                "stage": "rl",
                "grid": {"stages.critic_rl.learning_rate": [1e-3, 2e-3]},
            },
        },
        regression={
            "exact labels": {
                "overrides": {"algorithm": "ppo"},
                "targets": "actor_likelihood",
                "learning_rate": 1e-3,
            }
        },
        predictors=["oracle", "actor_likelihood", "hindsight", "rate"],
    )  # fmt: skip
    results = result(file)
    assert set(results["mse_ratio_by_shift"]) == {"none", "longer"}
    assert set(results["critics"]) >= {"generative", "sft", "head", "exact labels", "oracle"}
    assert set(results["top1_by_pool"]["none"]) == {"2", "4", "8", "16"}
    assert len(results["tuning"]["grid"]) == 3


def test_targets_of_no_known_teacher_are_refused():
    with pytest.raises(ValueError, match="targets is 'exact'; use actor_likelihood or oracle"):
        value_regression({}, "actor", "exact", 1e-3)


def test_downstream(folder):
    methods = merge(METHODS, {
        "genac": {"algorithm": "genac"},
        "again": {"like": "genac", "algorithm": "genac", "credit": {"gate": "none"}},
    })  # fmt: skip
    file = micro_plan(
        folder, "downstream", seeds=[0, 1], bases=[0], tuning_seeds=[0], methods=methods,
        columns={"same": {}, "two": {"min_steps": 2}}, against="grpo", ours="genac",
        rivals={"GRPO": "grpo"}, ppo_forms=["exact"], pairs=[["again", "genac"]],
    )  # fmt: skip
    results = result(file)
    assert set(results["rl_final_success"]) == set(methods)
    row = results["methods"]["genac"]
    assert set(row["columns"]) == {"same", "two"} and set(row["at_equal"]) >= {"tokens", "seconds"}
    assert len(row["critic"]["bias"]) == 3
    values = [results["rl_final_success"][m]["values"] for m in ("again", "genac")]
    mean = sum(a - b for a, b in zip(*values, strict=True)) / 2
    claims = {r["claim"]: r["ours"] for r in results["rows"]}
    assert (
        f"difference {mean:.3f} ["
        in claims["(ours) again above genac in final success at equal samples"]
    )


def test_a_comparison_with_a_method_that_the_plan_lacks_is_refused(folder):
    file = micro_plan(
        folder, "downstream", bases=[0], tuning_seeds=[], methods=METHODS, columns={},
        against="grpo", ours="genac", pairs=[["genac", "magic"]],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"compares genac, magic, which is no method"):
        result(file)


def test_a_comparison_of_pairs_alone_claims_nothing_of_genac(folder):
    methods = {k: merge(METHODS["grpo"], {"grid": {"actor.optimizer.learning_rate": [rate]}})
               for k, rate in (("slow", 1e-3), ("fast", 2e-3))}  # fmt: skip
    file = micro_plan(
        folder, "downstream", seeds=[0, 1], methods=methods, against="slow",
        pairs=[["fast", "slow"]],
    )  # fmt: skip
    results = result(file)
    (row,) = results["rows"]
    assert row["claim"].startswith("(ours) fast above slow") and "worst seed" in row["ours"]
    assert results["methods"]["fast"]["column_mean"] is None


def test_the_highest_bias_is_that_of_a_whole_window_of_known_steps():
    values = [None, 9.0, 0.0, 0.0, 0.5, 1.0, 0.0, 99.0]
    assert highest(values, 3) == 3.0  # 9 0 0 | 0.5 1 0 | the rest is no window
    assert highest([None, 1.0], 3) is None


POLICY: dict[str, Any] = {
    "actors": ["other"], "seeds": [5, 6, 7], "overrides": {"evaluate": {"panel_problems": 0}},
    "grpo": {}, "genac": {"credit": {"lam": 0.5}},
}  # fmt: skip


def check_policy(folder: Path, results: dict[str, Any]) -> None:
    """The critics of the experiment go into joint training as they are, one after the other."""
    forms = {"grpo", "taught by the actor itself", "taught by others, with ICC"}
    assert set(results["transfer_samples_ratio_to_grpo"]["other"]) == forms
    jobs = [json.loads(job.read_text()) for job in (folder / "kept" / "jobs").glob("*.json")]
    runs = [job for job in jobs if job["arguments"].get("config", {}).get("seed") in (5, 6, 7)]
    started = {
        (job["arguments"]["config"]["seed"], job["arguments"]["config"]["critic"][FROM])
        for job in runs
    }
    shared = [(job["arguments"]["configs"][0]["seed"], job["result"]["rl"])
              for job in jobs if "conditioned" in job["arguments"]
              and job["arguments"]["conditioned"]]  # fmt: skip
    of_training = dict(shared)
    assert {(5, of_training[0]), (6, of_training[1]), (7, of_training[0])} < started
    assert len(runs) == 9 and len(started) == 9
    assert all(job["result"]["stages_cost"] == {} for job in runs), "a stage was run again"
    page = (folder / "results" / "transfer.md").read_text()
    assert "| other | GenAC, critic taught by others, with ICC |" in page


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"actors": ["magic"]}, "policy.actors names 'magic'; unmet has other"),
        ({"seeds": []}, "policy.seeds is empty"),
        ({"temperature": 1}, "policy must have the keys .*; look at temperature"),
    ],
)
def test_a_policy_that_cannot_be_trained_is_refused_before_the_critics(folder, change, error):
    file = micro_plan(
        folder, "transfer", met={}, unmet={"other": {"seed": 1}}, training={}, critic={},
        policy=POLICY | change,
    )  # fmt: skip
    with pytest.raises(ValueError, match=error):
        run_experiment(file)


def test_transfer(folder):
    joint = {"stages": {"joint": {"steps": 1, "eval_every": 0}}}
    file = micro_plan(
        folder, "transfer", seeds=[0, 1], overrides=PANEL, training={}, critic={},
        met={"base": {"seed": 0}, "trained": {"seed": 0, **joint}},
        unmet={"other": {"seed": 1, "rollout": {"temperature": 1.2}}}, policy=POLICY,
    )  # fmt: skip
    results = result(file)
    check_policy(folder, results)
    ratio, gain = results["transfer_error_ratio"], results["transfer_icc_error_difference"]
    assert len(ratio["values"]) == 2 and ratio["low"] <= ratio["mean"] <= ratio["high"]
    assert set(results["met"]) == {"base", "trained"}
    assert set(results["panels"]) == {"other"}
    assert 0 <= results["theory"]["variance"] <= 0.25
    # The sums that are kept give the errors that are shown.
    errors = {}
    for form in ("taught by others, with ICC", "taught by others, without ICC"):
        rows = [row for key, kept in results["sums_by_problem"].items()
                if key.startswith(f"{form} | rl | seed 1 |") for row in kept.values()]  # fmt: skip
        errors[form] = sum(error for error, _ in rows) / sum(count for _, count in rows)
        assert errors[form] == pytest.approx(results["critics"][form]["mse"]["values"][1])
    conditioned, bare = errors.values()
    assert gain["values"][1] == pytest.approx(bare - conditioned)
    # With ICC and without, a critic learns from the same traces.
    learnt: dict[int, dict[bool, str]] = {}
    for job in (folder / "kept" / "jobs").glob("taught-*.json"):
        row = json.loads(job.read_text())
        if len(row["arguments"]["configs"]) < len(results["met"]):
            continue  # another experiment's
        stage = json.loads((Path(row["result"]["sft"]).parent / "config.json").read_text())
        icc = stage["critic"]["generative"]["icc"]["enabled"]
        learnt.setdefault(stage["seed"], {})[icc] = stage["inputs"]["traces"]
    assert set(learnt) == {0, 1}
    assert all(files[True] == files[False] for files in learnt.values())
    # An actor that is all that was met holds no surprise.
    first = actors(read_plan(file), "unmet")[0].config
    assert all(value == pytest.approx(0) for value in outlook(first, [first, first]).values())


@pytest.mark.slow
def test_frontier(folder):
    small = {"hidden_size": 16, "layers": 1, "heads": 2}
    file = micro_plan(
        folder, "frontier", seeds=[0, 1], overrides=PANEL, sizes={"small": small},
        critics={
            "head": {"algorithm": "ppo"},
            "small": {"algorithm": "genac", "size": "small"},
            "generative": {"algorithm": "genac"},
            "short": {"algorithm": "genac", "thoughts": r"=\d(?==)"},
            "score": {"algorithm": "genac", "stages": {"synthesize": {"oracle": "outcome"}}},
            "running": {"algorithm": "genac", "critic": {"generative": {"form": "running"}}},
        },
        again={"four": {"critic": "generative", "num_samples": 4}},
        continuations=[1, 4], ours="generative", thoughtless="score",
        by_size=["small", "generative"],
    )  # fmt: skip
    results = result(file)
    points = {p["name"]: p for p in results["error_per_token"]}
    assert set(points) >= {"head", "small", "short", "score", "four"}
    assert all(
        {"tokens", "flops", "seconds", "mse", "low", "high"} <= set(p) for p in points.values()
    )
    assert points["head"]["tokens"] < points["generative"]["tokens"] < points["four"]["tokens"]
    one, four = points["Monte Carlo, 1 continuation"], points["Monte Carlo, 4 continuations"]
    assert 0 < one["tokens"] < four["tokens"] and four["mse"] < one["mse"]
    sizes = [row["parameters"] for row in results["by_size"].values()]
    assert sizes == sorted(sizes)


def test_representation(folder):
    options = {"noise": 0.5, "style": "direct"}
    file = micro_plan(
        folder, "representation", tuning_seed=5, depths=[1], width=16, steps=3,
        batch=4, lengths=[1, 2], problems=5, learning_rates=[1e-3, 2e-3], controls=["progress"],
        tasks={
            "maps": {"name": "exact", "states": "answered", "options": {"modulus": 5, **options}},
            "progress": {"name": "exact", "states": "faultless", "options": {"noise": 0.1}},
        },
    )  # fmt: skip
    results = result(file)
    assert set(results["table"]["maps"]) == {"generative", "depth 1"}
    assert results["control_gap"]["progress"]["best head"] == "depth 1"


@pytest.mark.slow
def test_ablation(folder):
    variants = {
        "improved": {},
        "sampled": {"critic": {"generative": {"readout": "sampled"}}},
    }
    file = micro_plan(folder, "ablation", overrides=PANEL, whole="improved", variants=variants)
    results = result(file)
    assert set(results["ablation"]) == set(variants)
    assert results["ablation"]["improved"]["mse_minus_whole"]["value"] == 0.0


@pytest.mark.slow
def test_compute(folder):
    small = ["--quick", "--repeats", "1", "--hidden", "32", "--layers", "1", "--heads", "2"]
    short = ["--response", "32", "--states", "4", "--rationale", "8", "--threads", "1"]
    results = result(micro_plan(folder, "compute", arguments=small + short, recipes={}))
    cost = results["cost_relative_to_ppo"]["reference shape"]
    assert cost["ppo"]["tokens"]["value"] == cost["ppo"]["seconds"]["value"] == 1.0
    assert cost["vineppo"]["flops"]["value"] > 1.0


def test_stage_2_is_judged_against_stage_1(folder):
    file = micro_plan(
        folder, "stage2", seeds=[0, 1], overrides=PANEL, tuning_seeds=[2], critic={},
        grid={"critic.generative.reasoning_weight": [0.0, 1.0]}, shifts={"long": {"max_steps": 3}},
    )  # fmt: skip
    figures = result(file)
    assert len(figures["tuning"]) == 2 and set(figures["errors"]) == {"sft", "rl"}
    for shift, gain in figures["stage2_relative_gain_by_shift"].items():
        sft, rl = (figures["errors"][stage][shift]["values"] for stage in ("sft", "rl"))
        expected = [1 - after / before for after, before in zip(rl, sft, strict=True)]
        assert gain["values"] == pytest.approx(expected)
    assert figures["stage2_relative_gain"] == figures["stage2_relative_gain_by_shift"]["none"]


def test_length(folder):
    wide = {"synthesize": {"options": {"max_steps": 3}}, "critic_rl": {"options": {"max_steps": 3}}}
    notes = {"generative": {"form": "running"}}
    file = micro_plan(
        folder, "length", seeds=[0], overrides=PANEL, heads=["head"],
        shifts={"3 steps": {"min_steps": 3, "max_steps": 3}},
        pairs=[["notes", "rationales"]],
        arms={
            "head": {"algorithm": "ppo"},
            "rationales": {"algorithm": "genac"},
            "notes": {"algorithm": "genac", "stages": wide, "critic": notes},
        },
    )  # fmt: skip
    figures = result(file)
    assert set(figures["error_per_token"]) == {
        "head", "rationales", "rationales (SFT)", "notes", "notes (SFT)",
    }  # fmt: skip
    for arm, ratios in figures["mse_ratio_by_shift"].items():
        for shift, ratio in ratios.items():
            own, head = (
                figures["error_per_token"][c][shift]["error"]["values"] for c in (arm, "head")
            )
            assert ratio["by_training"] == pytest.approx(
                [a / b for a, b in zip(own, head, strict=True)]
            )
    tokens = {c: p["none"]["tokens_per_value"] for c, p in figures["error_per_token"].items()}
    assert tokens["head"]["written"]["mean"] == 0.0 < tokens["notes"]["written"]["mean"]
    assert tokens["notes"]["processed"]["mean"] > tokens["notes"]["read"]["mean"]
    assert set(figures["stage2_relative_gain"]["notes"]) == {"none", "3 steps"}
    assert set(figures["sft_updates"]) == {"rationales", "notes"}
