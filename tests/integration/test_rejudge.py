"""genac eval states: another critic's estimates with the run's own, on disk and in the viewer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from micro import MICRO, copy_stages

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.runs.store import Run
from genac.stages import artifacts
from genac.stages.pipeline import prepare, train
from genac.stages.setup import Setup, critic_card
from genac.ui.viewer.server import make_app


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these tests alone, which look into it."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Path:
    folder = tmp_path_factory.mktemp("rejudge") / "run"
    places = {"output_dir": str(folder), "stages": {"folder": str(stages)}}
    return train(resolve(merge(MICRO, places)))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A run that the test may change."""
    return Run.open(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Run:
    """A run of a value head, which tests only add to."""
    places = {
        "output_dir": str(tmp_path_factory.mktemp("head") / "run"),
        "stages": {"folder": str(stages)},
    }
    own = {"algorithm": "ppo", "credit": {"granularity": "states"}}
    return Run.open(train(resolve(merge(merge(MICRO, places), own))))


def rows(run: Run, folder: str, step: int = 1) -> list[dict]:
    return run.table(folder, "joint", step)


def test_states_are_judged_again_and_shown_side_by_side(run, genac, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(run.path / "critic", other)
    answer = genac("eval", "states", str(run.path), str(other), "--step", "1")
    assert answer.code == 0 and "at 1 steps (1 judged now)" in answer.out, answer.err
    own, again = rows(run, "estimates"), rows(run, "judged/other")
    same = ("problem_id", "group", "member", "start", "end", "step_text", "reward", "state")
    assert [[r[k] for k in same] for r in own] == [[r[k] for k in same] for r in again]
    assert all(r["rationale"] and r["critic_prompt"] for r in again)
    # the final critic of three steps is not the one that judged at step 1
    assert [r["rationale"] for r in own] != [r["rationale"] for r in again]

    more = genac("eval", "states", str(run.path), str(other))
    assert "at 3 steps (2 judged now)" in more.out
    assert rows(run, "judged/other") == again
    assert run.tables("estimates") == run.tables("judged/other") and run.judges() == ["other"]

    with TestClient(make_app(run)) as client:
        result = client.get("/api/versions/joint/1/0/0", params={"start": 0}).json()
    ours = next(r for r in again if (r["group"], r["member"], r["start"]) == (0, 0, 0))
    assert [(s["judge"], s["step"]) for s in result] == [(None, 1), ("other", 1)]
    assert result[1]["rationale"] == ours["rationale"] and result[1]["value"] == ours["value"]


def test_the_actor_of_a_resumed_run_leaves_no_stale_judgements(run, genac):
    genac("eval", "states", str(run.path), str(run.path), "--name", "final")
    run.truncate_after("joint", 0)
    assert run.tables("judged/final") == [("joint", 0)]


def test_bad_requests_are_one_line_and_write_nothing(run, genac, tmp_path: Path):
    path = str(run.path)
    for arguments, answer in (
        ((path, path, "--step", "7"), "at step 7; it holds the steps 0, 1, 2"),
        ((path, path, "--stage", "base"), "stage 'base'; it holds the steps (none)"),
        ((path, str(tmp_path)), "holds no critic.json"),
        ((path, path, "--name", "../up"), "cannot name judgements"),
    ):
        reply = genac("eval", "states", *arguments)
        assert reply.code == 2 and answer in reply.err
    assert run.judges() == []


def test_another_critic_under_the_same_name_is_refused(run, genac, tmp_path: Path):
    queries = ("eval", "states", str(run.path))
    name = ("--name", "mine", "--step", "0")
    assert genac(*queries, str(run.path), *name).code == 0
    assert "(0 judged now)" in genac(*queries, str(run.path), *name).out
    shutil.copytree(run.path / "critic", tmp_path / "second")
    answer = genac(*queries, str(tmp_path / "second"), *name)
    assert answer.code == 2 and "values of another critic" in answer.err


def test_a_value_head_judges_where_the_prompts_can_be_rebuilt(head: Run, genac):
    run = head
    answer = genac("eval", "states", str(run.path), str(run.path), "--name", "head", "--step", "2")
    assert answer.code == 0, answer.err
    own, again = rows(run, "estimates", 2), rows(run, "judged/head", 2)
    assert [r["state"] for r in own] == [r["state"] for r in again]
    assert all(r["value"] is not None for r in again)


def test_checkpoints_inside_a_run_are_critics(run, genac):
    """Two of joint training, side by side."""
    joint = run.path / "checkpoints" / "joint"
    for folder in ("step-000002", "step-3"):
        answer = genac("eval", "states", str(run.path), str(joint / folder), "--step", "2")
        assert answer.code == 0 and "(1 judged now)" in answer.out, answer.err
    assert run.judges() == ["joint-step-000002", "joint-step-000003"]
    same, later = (rows(run, run.judged(name), 2) for name in run.judges())
    assert [r["critic_prompt"] for r in same] == [r["critic_prompt"] for r in later]
    assert [r["rationale_logprobs"] for r in same] != [r["rationale_logprobs"] for r in later]
    with TestClient(make_app(run)) as client:
        result = client.get("/api/versions/joint/2/0/0", params={"start": 0}).json()
    assert [state["judge"] for state in result] == [None, *run.judges()]


@pytest.mark.parametrize("stage", ["critic_sft", "critic_rl"])
def test_a_checkpoint_of_a_stage_is_a_critic_until_that_stage_is_done(
    stage: str, run, genac, tmp_path, monkeypatch
):
    """Killed before the stage was declared done; its last checkpoint is the critic."""
    config = run.config()
    done = Path(config["stages"]["folder"])
    names = ["base", "traces", "critic_sft"][: 2 if stage == "critic_sft" else 3]
    early = copy_stages(done, tmp_path / "early", *names)
    config["stages"]["folder"] = str(early)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(artifacts, "write_done", interrupted)
        prepare(Setup.of(RunConfig(**config)))
    place = max(early.glob(f"{stage}-*/checkpoints/{stage}/step-*"))
    whole = done / place.parents[2].name / "model"
    for name, critic in (("saved", whole), ("early", place)):
        answer = genac("eval", "states", str(run.path), str(critic), "--name", name, "--step", "1")
        assert answer.code == 0, answer.err
    assert rows(run, "judged/early") == rows(run, "judged/saved")
    finished = whole.parent / "checkpoints" / stage / place.name
    answer = genac("eval", "states", str(run.path), str(finished))
    assert answer.code == 2 and f"keeps only its model; name {whole}" in answer.err


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_last_checkpoint_is_the_critic_that_was_saved(run, genac):
    last = run.path / "checkpoints" / "joint" / "step-000003" / "critic"
    for name, critic in (("final", run.path), ("last", last)):
        genac("eval", "states", str(run.path), str(critic), "--name", name, "--step", "1")
    assert rows(run, "judged/final") == rows(run, "judged/last")
    card = critic_card(last)
    assert card == critic_card(run.path / "critic")


def test_what_a_checkpoint_lacks_is_reported(run, genac, tmp_path: Path):
    joint = run.path / "checkpoints" / "joint"
    queries = ("eval", "states", str(run.path))
    answer = genac(*queries, str(joint / "step-1"))
    assert answer.code == 2 and "joint has step-000002, step-000003 (training keeps" in answer.err
    elsewhere = tmp_path / "away" / "step-000003"
    shutil.copytree(joint / "step-000003", elsewhere)
    answer = genac(*queries, str(elsewhere))
    assert answer.code == 2 and "nothing names the prompt of the critic in" in answer.err
    shutil.copytree(joint / "step-000003", joint / "kept-3")  # what training does not drop
    assert genac(*queries, str(joint / "kept-3"), "--step", "0").code == 0
    weights = joint / "step-000003" / "critic" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    answer = genac(*queries, str(joint / "step-000003"))
    assert answer.code == 2 and "damaged: critic/model.safetensors" in answer.err
    shutil.rmtree(joint / "step-000002" / "critic")
    answer = genac(*queries, str(joint / "step-000002"))
    assert answer.code == 2 and "holds no critic: its run trains none" in answer.err
    assert run.judges() == ["joint-kept-3"]


def test_the_value_head_of_a_checkpoint_is_used(head: Run, genac):
    run = head
    place = run.path / "checkpoints" / "joint" / "step-000002"
    answer = genac("eval", "states", str(run.path), str(place), "--step", "2")
    assert answer.code == 0, answer.err
    own, again = rows(run, "estimates", 2), rows(run, "judged/joint-step-000002", 2)
    assert [r["value"] for r in own] == pytest.approx([r["value"] for r in again], abs=1e-5)
