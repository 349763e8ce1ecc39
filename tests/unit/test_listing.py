"""`genac ls`: which folders are runs, and how far each has come."""

import os
import subprocess
import sys
import time

import pytest

from genac.cli import main
from genac.runs.listing import list_runs, status
from genac.runs.store import Run

CONFIG = {"algorithm": "genac", "stages": {"joint": {"steps": 40}}}


def make(path, steps=2, age=0.0, config=CONFIG):
    run = Run.create(path, config, {})
    for step in range(steps):
        run.log("joint", step, {"reward": 0.25})
    if age:
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        os.utime(run.path / "config.json", (time.time() - age,) * 2)
    return run


def test_a_run_that_logs_is_running_then_interrupted_then_finished(tmp_path):
    run = make(tmp_path / "a", age=1e6)
    result = status(run)
    assert (result.state, result.stage, result.step, result.steps) == ("running", "joint", 1, 40)
    assert result.algorithm == "genac" and result.result == "reward 0.250"
    later = time.time() + 3600
    assert status(run, now=later).state == "interrupted"
    run.write_summary({"algorithm": "genac", "success_before": 0.25, "success_after": 0.5})
    assert status(run, now=later).state == "finished"
    assert status(run).result == "success 25.0 % → 50.0 %"


def test_a_run_with_long_steps_is_given_time(tmp_path):
    run = Run.create(tmp_path / "a", CONFIG, {})
    lines = [f'{{"stage": "joint", "step": {i}, "time": {1000.0 * i}}}' for i in range(3)]
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    os.utime(run.path / "config.json", (0, 0))
    assert status(run, now=2000 + 2900).state == "running"
    assert status(run, now=2000 + 3100).state == "interrupted"


def test_a_run_that_goes_on_with_another_number_of_steps_is_running(tmp_path):
    run = make(tmp_path / "a")
    later = time.time() + 1e6
    assert status(run, now=later).state == "interrupted"
    os.utime(run.path / "config.json", (later, later))
    assert status(run, now=later).state == "running"


def test_damaged_runs_are_listed_with_the_reason(tmp_path):
    run = make(tmp_path / "a")
    (run.path / "config.json").write_text("{")
    result = list_runs(tmp_path)
    assert [one.state for one in result] == ["unreadable"] and "config.json" in result[0].result


def test_runs_below_the_folder_are_listed_and_models_are_not(tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "deep" / "er" / "two")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    results = [str(one.path.relative_to(tmp_path)) for one in list_runs(tmp_path)]
    assert results == ["deep/er/two", "one"]


def test_only_the_end_of_long_metrics_is_read(tmp_path):
    run = make(tmp_path / "a", steps=0)
    with open(run.path / "metrics.jsonl", "w") as file:
        file.writelines(f'{{"stage": "joint", "step": {i}}}\n' for i in range(20_000))
        file.write('{"stage": "jo')
    assert [line["step"] for line in run.last_metrics(2)] == [19_998, 19_999]


def test_the_verb_prints_every_run_and_refuses_what_is_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    make(tmp_path / "one")
    assert main(["ls", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "one" in text and "running" in text and "2/40" in text
    assert main(["ls", str(tmp_path / "nowhere")]) == 2
    assert "not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "nonsense\n", "[1]\n"])
def test_metrics_that_are_none_leave_the_run_listed(tmp_path, content):
    run = make(tmp_path / "a", steps=0)
    (run.path / "metrics.jsonl").write_text(content)
    assert status(run).step is None


def test_stages_are_no_runs_and_80_columns_are_enough(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    for name in ("runs/qwen3-1.7b-gsm8k", "runs/stages/critic_rl-286b9a99cb9e"):
        make(tmp_path / name)
    assert [str(one.path) for one in list_runs("runs")] == ["runs/qwen3-1.7b-gsm8k"]
    assert main(["ls"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert "status" in head and "2/40" in line and max(len(head), len(line)) <= 80


def test_runs_are_listed_without_the_viewers_extra(tmp_path):
    make(tmp_path / "a")
    code = (
        "import sys; sys.modules['duckdb'] = None; from genac.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "ls", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert "running" in done.stdout
