"""The whole pipeline: every algorithm, every recipe, and the folder that a run leaves."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from micro import MICRO, Answer, Values, copy_stages, results, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from genac.config.algorithms import ALGORITHMS, merge
from genac.config.recipes import read_recipe, resolve
from genac.runs.store import Run
from genac.scoring import Critic
from genac.stages import pipeline
from genac.stages.pipeline import train

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
Runs = Callable[..., Run]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Callable[[str], Run]:
    """run_of(algorithm) -> its micro run, made once, which tests only read."""

    @functools.cache
    def run(algorithm: str) -> Run:
        folder = tmp_path_factory.mktemp(algorithm) / "run"
        places = {"output_dir": str(folder), "stages": {"folder": str(stages)}}
        return Run.open(train(resolve(merge(MICRO, {"algorithm": algorithm, **places}))))

    return run


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_runs_all_its_stages(algorithm: str, run_of: Callable[[str], Run]) -> None:
    run = run_of(algorithm)
    metrics = run.metrics("joint")
    assert [line["step"] for line in metrics] == [0, 1, 2]
    assert any(line["grad_norm"] > 0 for line in metrics)
    assert all(line["publish_changed"] > 0 for line in metrics if line["grad_norm"] > 0)
    assert run.summary()["algorithm"] == algorithm
    trained = algorithm in ("genac", "ppo")
    assert (run.path / "critic").is_dir() == trained
    assert bool(run.metrics("critic_rl")) == trained
    assert bool(run.metrics("critic_sft")) == (algorithm == "genac")


@pytest.mark.parametrize("preset", ["paper", "improved"])
def test_presets_of_genac(preset: str, run_micro: Runs) -> None:
    run = run_micro(preset=preset)
    generative = run.config()["critic"]["generative"]
    assert generative["exact_score_gradient"] == (preset == "improved")
    last = run.metrics("joint")[-1]
    assert last["critic/parse_failure_rate"] < 0.5
    assert 0 < last["critic/reward"] <= 1


@pytest.mark.parametrize("algorithm", ["genac", "grpo"])
def test_where_every_response_is_cut_and_masked_the_actor_stays(
    algorithm: str, run_micro: Runs
) -> None:
    """The critic still learns from them, and the reference model is not run."""
    loss = {"mask_truncated_completions": True, "beta": 0.1}
    run = run_micro(algorithm=algorithm, actor={"loss": loss}, rollout={"max_completion_length": 2})
    for line in run.metrics("joint"):
        assert line["completions/masked_ratio"] == line["completions/clipped_ratio"] == 1.0
        assert line["publish_changed"] == 0.0 and line.get("loss") is None
        assert ("critic/reward" in line) == (algorithm == "genac")


@pytest.mark.parametrize(
    "overrides",
    [
        {
            "actor": {
                "loss": {"beta": 0.1, "num_iterations": 2, "num_minibatches": 2, "dual_clip": 3.0}
            }
        },
        {"critic": {"generative": {"num_samples": 2, "icc": {"enabled": False}}}},
        {"states": {"splitter": "window", "window": 3}, "credit": {"missing": "group_mean"}},
        {"states": {"splitter": "low_probability"}, "actor": {"loss": {"loss_type": "sequence"}}},
        {"stages": {"synthesize": {"oracle": "calibrated"}}},
        {"stages": {"sft": {"epochs": 1}, "critic_rl": {"steps": 0}}},
        {"algorithm": "ppo", "critic": {"discriminative": {"head": "hl_gauss"}}},
        {
            "algorithm": "ppo",
            "critic": {"discriminative": {"targets": "sparse", "lam": 0.9}},
            "credit": {"granularity": "states", "gamma": 0.99, "lam": 0.9},
        },
        {"task": {"name": "sums", "options": {}}, "rollout": {"max_completion_length": 24}},
    ],
    ids=lambda o: yaml.safe_dump(o, default_flow_style=True).strip(),
)
def test_options_run(overrides: Values, micro: Callable[..., Values]) -> None:
    """Each option through the joint stage; what it computes is tested where it lives."""
    values = merge(micro(), overrides)
    if "task" in overrides:  # another task has other settings, and a base model of its own
        values["task"] = overrides["task"]
        values = merge(values, {"stages": {"base": {"steps": 5}}})
    small = {"steps": 2, "eval_every": 0, "save_every": 2}
    run = Run.open(train(resolve(merge(values, {"stages": {"joint": small}}))))
    assert len(run.metrics("joint")) == 2


OWN_MODELS = [r for r in RECIPES if not r.name.startswith(("qwen", "smollm2"))]


@pytest.mark.parametrize("file", OWN_MODELS, ids=lambda file: file.stem)
def test_every_recipe_runs_two_steps(file: Path, tmp_path: Path) -> None:
    """Its own settings at the size of a test."""
    small: Values = {
        "output_dir": str(tmp_path / "run"),
        "actor": {"tiny": {"hidden_size": 32, "layers": 1, "heads": 2}},
        "rollout": {"num_prompts": 2, "num_generations": 2},
        "stages": {
            "folder": str(tmp_path / "stages"),
            "base": {"steps": 5},
            "synthesize": {"num_prompts": 4, "num_generations": 2, "num_states": 20},
            "sft": {"epochs": 1},
            "critic_rl": {"steps": 2},
            "joint": {"steps": 2},
        },
        "evaluate": {k: MICRO["evaluate"][k] for k in MICRO["evaluate"]},
        "hardware": {"threads": 1},
    }
    run = Run.open(train(resolve(read_recipe(file), small)))
    assert [line["step"] for line in run.metrics("joint")] == [0, 1]


def test_two_seeded_runs_are_equal_and_another_seed_is_not(
    tmp_path: Path, stages: Path, run_micro: Runs
) -> None:
    shared = copy_stages(stages, tmp_path / "shared", "base", "traces", "critic_sft")
    runs = [
        run_micro(output_dir=str(tmp_path / name), stages={"folder": str(folder)})
        for name, folder in (("one", stages), ("two", shared))
    ]
    assert results(runs[0]) == results(runs[1])
    assert weights(runs[0]) == weights(runs[1])
    assert rows(runs[0], "rollouts") == rows(runs[1], "rollouts")
    assert rows(runs[0], "estimates") == rows(runs[1], "estimates")
    # `stages.seed` fixes what joint training starts from, so only the joint stage is another.
    other = run_micro(seed=1, output_dir=str(tmp_path / "other"), stages={"seed": 0})
    assert results(other, "critic_rl") == results(runs[0], "critic_rl")
    assert results(other, "joint") != results(runs[0], "joint")


def rows(run: Run, table: str) -> list[Any]:
    return [repr(run.table(table, *key)) for key in run.tables(table)]


def test_a_finished_run_is_not_run_again(
    recipe: Callable[..., str],
    genac: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = recipe(algorithm="grpo")
    first = genac("train", file)
    assert first.code == 0 and "held-out success" in first.out
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    monkeypatch.setattr(pipeline, "prepare", None)
    again = genac("train", file)
    assert again.code == 0 and "held-out success" in again.out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_a_finished_stage_is_skipped_and_a_changed_one_gets_its_own_folder(
    genac: Callable[..., Answer], recipe: Callable[..., str], stages: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    file = recipe(stages={"folder": str(folder)})
    names = lambda: sorted(p.name for p in folder.iterdir() if p.is_dir())  # noqa: E731
    assert genac("synthesize", file).code == 0
    first = names()
    assert [n.split("-")[0] for n in first] == ["base", "traces"]
    begun = (folder / first[0] / "done.json").stat().st_mtime_ns
    assert genac("sft", file).code == 0
    assert [n.split("-")[0] for n in names()] == ["base", "critic_sft", "traces"]
    assert genac("pretrain-critic", file).code == 0
    assert len(names()) == 4
    assert genac("pretrain-critic", file).code == 0
    assert len(names()) == 4
    assert (folder / first[0] / "done.json").stat().st_mtime_ns == begun
    # Another critic SFT: base and traces stay, SFT and what follows from it are new.
    changes = ("--stages.sft.epochs", "1", "--stages.sft.save_every", "2")
    assert genac("pretrain-critic", file, *changes).code == 0
    kinds = [n.split("-")[0] for n in names()]
    assert kinds == ["base", "critic_rl", "critic_rl", "critic_sft", "critic_sft", "traces"]
    assert list(folder.glob("*/checkpoints/*/*")) == []  # finished stages keep none


def test_the_run_folder(run_micro: Runs, micro: Callable[..., Values]) -> None:
    panel = {"panel_problems": 2, "num_problems": 8, "num_samples": 4}
    run = run_micro(evaluate=panel, stages={"joint": {"steps": 2}})
    config = resolve(micro(evaluate=panel, stages={"joint": {"steps": 2}}))
    assert json.loads((run.path / "config.json").read_text()) == config.model_dump()
    assert {"config_hash", "python", "versions"} <= set(run.environment())
    kinds = dict.fromkeys(line["stage"] for line in run.metrics())
    assert list(kinds) == ["base", "synthesize", "critic_sft", "critic_rl", "joint"]
    rollouts = run.table("rollouts", "joint", 0)
    assert len(rollouts) == 16
    assert all(row["reward"] in (0.0, 1.0) and row["prompt"] for row in rollouts)
    estimates = run.table("estimates", "joint", 1)
    assert {"step_text", "value", "advantage", "rationale", "critic_version"} <= set(estimates[0])
    assert any("<answer>" in row["rationale"] for row in estimates)
    looked_at(rollouts, estimates)
    answer = np.concatenate([row["entropies"] for row in rollouts])
    measured = run.metrics("joint")[0]["entropy"]  # by the learner, over the same tokens
    assert answer.mean() == pytest.approx(measured, abs=1e-3)  # stored with three decimals
    assert all(abs(row["advantage"]) <= 1 for row in estimates)
    summary_is_complete(run.summary())
    page = (run.path / "report.html").read_text()
    assert len(page) > 10_000 and "http://" not in page.replace("http://www.w3.org", "")


def looked_at(rollouts: list[Values], estimates: list[Values]) -> None:
    """What the viewer shows: texts of all tokens, the critic's prompt and score distribution."""
    for row in rollouts:
        assert len(row["tokens"]) == len(row["response_ids"]) and all(row["tokens"])
        assert len(row["entropies"]) == len(row["response_ids"])
    for row in estimates:
        assert "".join(row["rationale_tokens"]) == row["rationale"]
        assert len(row["rationale_logprobs"]) == len(row["rationale_tokens"])
        assert len(row["rationale_entropies"]) == len(row["rationale_tokens"])
        assert row["critic_prompt"]
    known = [row for row in estimates if row["score_probs"] is not None]
    assert known and all(abs(sum(row["score_probs"]) - 1) < 0.01 for row in known)


def summary_is_complete(summary: Values) -> None:
    """The keys that docs/run-folder.md promises."""
    for moment in ("success_before", "success_after"):
        assert (
            0 <= summary[moment]["low"] <= summary[moment]["mean"] <= summary[moment]["high"] <= 1
        )
    gain = summary["success_gain"]
    change = summary["success_after"]["mean"] - summary["success_before"]["mean"]
    assert gain["mean"] == pytest.approx(change) and gain["low"] <= gain["mean"] <= gain["high"]
    promised = (
        "mse mse_gain mse_gain_interval mse_constant mse_success_rate mse_sft auc_within_problem "
        "parse_rate"
    )
    assert set(promised.split()) <= set(summary["critic"])
    assert summary["critic"]["stages"].keys() == {"sft", "rl"}
    roles = {"actor_sampling", "critic_sampling", "actor_training", "critic_training"}
    assert roles <= set(summary["seconds"])
    assert roles <= set(summary["tokens"])
    assert summary["config_hash"] and summary["versions"]


def test_a_critic_without_a_teacher_is_measured_untrained_too(run_micro: Runs) -> None:
    panel = {"panel_problems": 2, "num_problems": 8, "num_samples": 4}
    critic = run_micro(algorithm="ppo", evaluate=panel, stages={"joint": {"steps": 1}}).summary()[
        "critic"
    ]
    assert critic["stages"].keys() == {"untrained", "rl"}
    assert critic["mse_untrained"] == critic["stages"]["untrained"]["mse"]


@pytest.mark.parametrize("algorithm", ["genac", "ppo"])
def test_saved_models_are_ordinary(algorithm: str, run_of: Callable[[str], Run]) -> None:
    run = run_of(algorithm)
    for role in ("actor", "critic"):
        model = AutoModelForCausalLM.from_pretrained(run.path / role, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(run.path / role)
        ids = torch.tensor([tokenizer.encode("3 a+4>")])
        assert torch.isfinite(model(ids).logits).all()
    if algorithm == "genac":
        critic = Critic.from_pretrained(run.path / "critic")
        judged = critic.score("3 a+4>", "a+4=7\n")
        assert judged.rationale and (judged.value is None or 0 <= judged.value <= 1)
    else:
        with pytest.raises(ValueError, match="discriminative"):
            Critic.from_pretrained(run.path / "critic")


def test_verbs_on_a_finished_run(
    run_micro: Runs, genac: Callable[..., Answer], micro: Callable[..., Values]
) -> None:
    run = run_micro(task={"shift": {"longer": {"max_steps": 3}}})
    evaluated = genac("eval", str(run.path))
    assert evaluated.code == 0
    result = json.loads((run.path / "evaluation.json").read_text())
    assert set(result) == {"in distribution", "longer"}
    (run.path / "report.html").unlink()
    assert genac("report", str(run.path)).code == 0
    assert (run.path / "report.html").exists()
    scored = genac("score", str(run.path / "critic"), "3 a+4>", "a+4=7\\n")
    assert scored.code == 0 and scored.out.startswith("value ")
    assert genac("env").code == 0


def test_critics_against_panels(
    run_micro: Runs, genac: Callable[..., Answer], refused: Callable[..., str], tmp_path: Path
) -> None:
    """The run's own critic and a value head, on the task and on a shift of it."""
    shift = {"task": {"shift": {"two": {"min_steps": 2}}}, "evaluate": {"num_problems": 4}}
    run = run_micro(**shift)
    head = run_micro(**shift, algorithm="ppo", output_dir=str(tmp_path / "head"))
    sizes = ("--problems", "3", "--continuations", "3")
    answer = genac("eval", "critic", str(run.path), str(head.path), *sizes)
    assert answer.code == 0
    table = json.loads((run.path / "critics.json").read_text())
    assert set(table) == {"in distribution", "two"}
    for cells in table.values():
        assert list(cells) == [str(run.path), str(head.path)]
        assert all(0 <= cell["mse"] <= 1 and cell["problems"] == 3 for cell in cells.values())
        assert 0 <= cells[str(run.path)]["verdict_accuracy"] <= 1
        assert "verdict_accuracy" not in cells[str(head.path)]
    assert (run.path / "critics.md").read_text().count(str(head.path)) == 2
    assert (run.path / "critics-reliability.svg").read_text().startswith("<?xml")
    assert "at least 2 continuations" in refused(
        "eval", "critic", str(run.path), "--continuations", "0"
    )
    queries = ("eval", "critic", str(run.path), str(tmp_path), *sizes)
    assert "holds no critic.json" in refused(*queries)
