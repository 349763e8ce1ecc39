"""The run folder: what is written is read back; a killed writer or full disk costs nothing."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from genac.runs.files import alone
from genac.runs.store import Run, atomic_write, environment, stable_hash
from genac.types import Estimate, Problem, Rationale, Rollout, State

NO_SPACE = "No space left on device"


def make_run(path):
    return Run.create(path / "run", {"name": "toy", "steps": 3}, {"python": "3"})


def make_rollout(member=0, text="1+2=3\n3", reward: float | None = 1.0):
    return Rollout(
        Problem("train-0", "1+2", "3"),
        group=0,
        member=member,
        prompt_ids=(1, 2),
        response_ids=(3, 4, 5),
        logprobs=np.array([-0.5, -0.25, -1.0], dtype=np.float32),
        text=text,
        finish="stop",
        actor_version=7,
        reward=reward,
        reason="" if reward is not None else "timed out",
    )


def full_disk(monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, NO_SPACE)

    monkeypatch.setattr(os, "fsync", fail)


def test_create_writes_config_and_hash_and_open_reads_them(tmp_path):
    run = make_run(tmp_path)
    again = Run.open(run.path)
    assert again.config() == {"name": "toy", "steps": 3}
    assert again.config_hash() == stable_hash({"steps": 3, "name": "toy"})
    assert again.checkpoints.is_dir() and again.summary() == {}


def test_create_refuses_a_folder_that_holds_a_run(tmp_path):
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match="already holds a run"):
        Run.create(run.path, {}, {})


def test_open_refuses_a_folder_without_config(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        Run.open(tmp_path)


def test_metrics_come_back_by_stage_with_numbers_of_every_kind(tmp_path):
    run = make_run(tmp_path)
    run.log("joint", 0, {"reward": np.float32(0.5), "kl": None, "note": "ok"})
    run.log("base", 1, {"loss": float("nan"), "high": float("inf")})
    joint, base = run.metrics("joint"), run.metrics("base")
    assert joint[0]["reward"] == 0.5 and joint[0]["kl"] is None and joint[0]["note"] == "ok"
    assert np.isnan(base[0]["loss"]) and base[0]["high"] == float("inf")
    assert len(run.metrics()) == 2
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # strict JSON: no bare NaN


@pytest.mark.parametrize("torn", ['{"stage": "joint", "st', "\0\0\0\0", "{", "12"])
def test_a_torn_last_line_is_left_out_and_does_not_join_the_next(tmp_path, torn):
    run = make_run(tmp_path)
    run.log("joint", 0, {"reward": 0.5})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write(torn)
    resumed = Run.open(run.path)
    assert [line["step"] for line in resumed.metrics()] == [0]
    resumed.log("joint", 1, {"reward": 0.6})
    assert [line["step"] for line in resumed.metrics()] == [0, 1]


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path):
    run = make_run(tmp_path)
    run.log("joint", 0, {})
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    resumed = Run.open(run.path)
    resumed.log("joint", 1, {})
    assert [line["step"] for line in resumed.metrics()] == [0, 1]


def test_a_bad_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    run = make_run(tmp_path)
    (run.path / "metrics.jsonl").write_text('{"stage": "a", "step": 0}\nrubbish\n{}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2"):
        run.metrics()


def test_truncate_after_drops_what_one_stage_did_later(tmp_path):
    run = make_run(tmp_path)
    for step in range(4):
        run.log("joint", step, {"reward": step / 10})
        run.log("critic_rl", step, {})
        run.write_rollouts("joint", step, [make_rollout()])
        run.write_estimates("critic_rl", step, [])
    before = (run.path / "metrics.jsonl").read_text().splitlines()
    run.truncate_after("joint", 1)
    assert [line["step"] for line in run.metrics("joint")] == [0, 1]
    assert [line["step"] for line in run.metrics("critic_rl")] == [0, 1, 2, 3]
    assert run.tables("rollouts") == [("joint", 0), ("joint", 1)]
    assert len(run.tables("estimates")) == 4
    assert (run.path / "metrics.jsonl").read_text().splitlines() == before[:4] + before[5::2]


def test_rollouts_come_back_with_null_rewards_and_lone_surrogates(tmp_path):
    run = make_run(tmp_path)
    hostile = make_rollout(member=1, text="\ud800 </answer>", reward=None)
    run.write_rollouts("joint", 12, [make_rollout(), hostile])
    first, second = run.table("rollouts", "joint", 12)
    assert (run.path / "rollouts" / "joint-000012.parquet").is_file()
    assert first["response_ids"] == [3, 4, 5] and first["logprobs"] == [-0.5, -0.25, -1.0]
    assert first["reward"] == 1.0 and first["actor_version"] == 7 and first["prompt"] == "1+2"
    assert second["reward"] is None and second["reason"] == "timed out"
    assert second["response"] == "? </answer>"


def written(ids):
    return "".join(f"<{i}>" for i in ids)


def test_estimates_come_back_with_advantage_step_text_and_missing_values(tmp_path):
    run = make_run(tmp_path)
    rollout = make_rollout()
    probs = np.zeros(11, dtype=np.float32)
    probs[[6, 8]] = 0.5
    rationale = Rationale((1,), (2,), np.zeros(1, np.float32), "so far right", 0.8, 0, probs)
    answer = Estimate(State(rollout, 0, 2), 0.8, (rationale,), version=3)
    missing = Estimate(State(rollout, 2, 3), None)
    run.write_estimates("joint", 0, [answer, missing], {(0, 0, 0): 0.2}, decode=written)
    first, second = run.table("estimates", "joint", 0)
    assert first["step_text"] == "<3><4>" and first["rationale"] == "so far right"
    assert first["advantage"] == 0.2 and first["critic_version"] == 3
    assert first["expected"] == pytest.approx(0.7)
    assert second["value"] is None and second["advantage"] is None and second["expected"] is None


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    run = make_run(tmp_path)
    run.write_estimates("joint", 0, [])
    assert run.table("estimates", "joint", 0) == []


def test_a_full_disk_leaves_the_previous_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "state.bin"
    atomic_write(path, b"old")
    full_disk(monkeypatch)
    with pytest.raises(OSError, match=r"state\.bin.*previous file.*Free disk space") as caught:
        atomic_write(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.bin"]


def test_a_full_disk_keeps_the_previous_summary_and_rollouts(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    run.write_summary({"success_after": 0.5})
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="rollouts"):
        run.write_rollouts("joint", 0, [make_rollout()])
    with pytest.raises(OSError, match="summary"):
        run.write_summary({"success_after": 0.9})
    assert run.summary() == {"success_after": 0.5} and run.tables("rollouts") == []


def test_a_disk_that_fills_up_within_a_line_leaves_no_half_line(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    run.log("joint", 0, {"reward": 0.5})
    before = (run.path / "metrics.jsonl").read_bytes()

    class HalfWriter:
        def __init__(self, path, mode):
            self.file = real_open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise OSError(errno.ENOSPC, NO_SPACE)

    real_open = open
    monkeypatch.setattr("genac.runs.files.open", HalfWriter, raising=False)
    with pytest.raises(OSError, match="Free disk space"):
        run.log("joint", 1, {"reward": 0.6})
    assert (run.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, capsys, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("genac.runs.files.fcntl.flock", refuse)
    with alone(tmp_path / "runs" / "a"):
        assert (tmp_path / "runs").is_dir()
    assert "no file locks here" in capsys.readouterr().err


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    def fail(file, operation):
        raise OSError(errno.EIO, "the disk is ill")

    monkeypatch.setattr("genac.runs.files.fcntl.flock", fail)
    with pytest.raises(OSError, match="the disk is ill"), alone(tmp_path / "a"):
        raise AssertionError("nobody may work here")


def test_stable_hash_ignores_order_and_sees_content():
    assert stable_hash({"a": 1, "b": (1, 2)}) == stable_hash({"b": [1, 2], "a": 1})
    assert stable_hash({"a": 1}) != stable_hash({"a": 2})
    assert len(stable_hash({})) == 12


def test_environment_is_serialisable_and_names_versions():
    result = environment()
    assert result["versions"]["numpy"] == np.__version__ and result["cpus"] >= 1
    json.dumps(result, allow_nan=False)


def test_importing_the_store_imports_nothing_heavy():
    heavy = "{'torch', 'pyarrow', 'matplotlib', 'rich'}"
    modules = "genac.runs.store, genac.runs.alarms, genac.ui.report.document, genac.runs.progress"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
