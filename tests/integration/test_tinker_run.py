"""Whole runs whose models are at a Tinker service, against a server in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import MICRO, Values, results
from tinker_server import TinkerServer

from genac.commands.doctor.lengths import candidates, measure
from genac.commands.doctor.price import bounds
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.models.loading import load_model
from genac.runs.store import Run
from genac.stages.pipeline import Prepared, train

LORA = {"rank": 4}
PRICES = {"prefill": 1.0, "sample": 2.0, "train": 3.0}
RunAt = Callable[..., Run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tinker")


@pytest.fixture(scope="module")
def served(prepared: Prepared) -> Iterator[tuple[TinkerServer, str]]:
    fake = TinkerServer(prepared.actor, prepared.critic)
    with fake as url:
        yield fake, url


@pytest.fixture(scope="module")
def run_at(served: tuple[TinkerServer, str], prepared: Prepared, folder: Path) -> RunAt:
    """run_at(name, **overrides) -> a finished run; the stages before joint training are shared."""

    def run(name: str, **overrides: Any) -> Run:
        values = {
            "output_dir": str(folder / name),
            "actor": {"model_name_or_path": str(prepared.actor), "lora": LORA},
            "critic": {"model_name_or_path": str(prepared.critic), "lora": LORA},
            "rollout": {"num_prompts": 2},
            "stages": {
                "folder": str(folder / "stages"),
                "synthesize": {"num_states": 24},
                "sft": {"epochs": 1},
                "critic_rl": {"steps": 1},
            },
            "hardware": {
                "backend": "tinker",
                "tinker": {"url": served[1], "timeout": 60, "prices": PRICES},
            },
        }
        return Run.open(train(resolve(merge(merge(MICRO, values), overrides))))

    return run


@pytest.fixture(scope="module")
def whole(run_at: RunAt) -> Run:
    return run_at("whole")


def summary_of(run: Run) -> Values:
    return json.loads((run.path / "summary.json").read_text())


def test_a_run_trains_both_models_at_the_service(served, run_at, whole):
    fake, _ = served
    steps = results(whole, "joint")
    assert [s["step"] for s in steps] == [0, 1, 2]
    assert max(step["publish_changed"] for step in steps) > 0
    for step in steps:
        assert step["critic/parse_failure_rate"] < 1
        assert step["sampling/sampling_logp_difference/mean"] < 1e-4
        assert step["critic/grad_norm"] > 0
    # What is saved says where the weights are.
    pointer = json.loads((whole.path / "critic" / "tinker.json").read_text())
    assert pointer["path"] in fake.saved
    assert not list((whole.path / "actor").glob("*.safetensors"))
    assert "at a Tinker service" in (whole.path / "actor" / "README.md").read_text()
    # Nothing is left to do: a second call sends the service nothing.
    before = len(fake.calls)
    assert run_at("whole").path == whole.path
    assert "create_model" not in fake.calls[before:] and "asample" not in fake.calls[before:]


def test_the_summary_accounts_for_all_stages(whole):
    tokens = summary_of(whole)["tinker"]
    assert all(tokens[role]["trained"] > 0 for role in ("actor", "critic"))
    assert tokens["critic"]["forwarded"] == tokens["critic"]["trained"]
    kinds = {k: sum(tokens[role][k] for role in ("actor", "critic")) for k in tokens["actor"]}
    cost = kinds["prefilled"] + 2 * kinds["sampled"] + 3 * (kinds["trained"] + kinds["forwarded"])
    assert tokens["cost"] == pytest.approx(cost / 1e6)
    joint = sum(summary_of(whole)["tokens"].values())
    everything = sum(n for kind, n in kinds.items() if kind != "cached")
    assert everything > joint  # which knows nothing of the critic's own stages


def test_a_run_whose_service_failed_goes_on_as_if_uninterrupted(served, run_at, whole):
    fake, _ = served
    fake.steps_left = 3  # the critic's second step of joint training fails
    with pytest.raises(Exception, match="out of order"):
        run_at("broken")
    fake.steps_left = None
    resumed = run_at("broken")
    assert len(resumed.events("resumed")) == 1
    lines, expected = (stripped(results(run, "joint")) for run in (resumed, whole))
    assert len(lines) == 3 and lines == expected


def stripped(lines: list[Values]) -> list[Values]:
    return [{k: v for k, v in line.items() if not k.startswith("cost/")} for line in lines]


@pytest.mark.slow
def test_without_a_critic_the_actor_alone_is_there(served, run_at):
    fake, _ = served
    before = fake.calls.count("create_model")
    run = run_at("grpo", algorithm="grpo", hardware={"tinker": {"prices": {"train": None}}})
    assert len(results(run, "joint")) == 3 and fake.calls.count("create_model") == before + 1
    tokens = summary_of(run)["tinker"]
    assert tokens["actor"]["trained"] > 0 and tokens["cost"] is None and "critic" not in tokens


def test_the_doctor_bounds_what_a_run_then_uses(whole, genac, tmp_path):
    cfg = resolve(whole.config())
    tokens = summary_of(whole)["tinker"]
    for role, bound in bounds(cfg, measure(cfg, candidates(cfg))).items():
        for kind, most in asdict(bound).items():
            assert tokens[role][kind] <= most, (role, kind)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(whole.config()))
    answer = genac("doctor", str(recipe))
    assert "tinker: critic at most prefilled" in answer.out
    assert "by hardware.tinker.prices" in answer.out and "FAIL" not in answer.out


def test_what_holds_no_weights_is_neither_loaded_here_nor_pushed(whole, refused):
    with pytest.raises(ValueError, match=r"at a Tinker service.*set hardware.backend to tinker"):
        load_model(str(whole.path / "actor"))
    message = refused("push", str(whole.path), "someone/model", "--dry-run")
    assert "holds no weights" in message


def test_a_finished_run_is_evaluated_at_the_service(whole, genac):
    answer = genac("eval", str(whole.path))
    assert answer.code == 0, answer.err
    assert (whole.path / "evaluation.json").exists()
