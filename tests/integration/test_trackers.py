"""Trackers get what metrics.jsonl gets, go on after an interruption, and never end a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro import results

from genac.config.recipes import resolve
from genac.runs import trackers
from genac.runs.sinks import Place, Table
from genac.runs.store import Run
from genac.stages.pipeline import train

pytestmark = pytest.mark.usefixtures("trackers_at_home")


class Kept:
    """A sink that keeps what it gets; fails at the joint step `fail_at`."""

    opened: list[Any] = []  # noqa: RUF012
    fail_at: int | None = None

    def __init__(self, library: Any, place: Place) -> None:
        del library
        self.name = place.known or f"{place.title}-1"
        self.lines: list[tuple[str, int, dict[str, float]]] = []
        self.tables: list[tuple[str, int, Table]] = []
        self.files: list[tuple[str, str]] = []
        Kept.opened.append(self)

    def log(self, axis: str, step: int, values: dict[str, float]) -> None:
        if (axis, step) == ("joint/step", self.fail_at):
            raise ConnectionError("no server")
        self.lines.append((axis, step, values))

    def table(self, key: str, axis: str, step: int, table: Table) -> None:
        assert axis == f"{key.partition('/')[0]}/step"
        self.tables.append((key, step, table))

    def attach(self, file: Path) -> None:
        self.files.append((file.name, file.read_text()))

    def close(self) -> None:
        self.lines.append(("closed", 0, {}))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setitem(trackers.SINKS, "tensorboard", Kept)
    monkeypatch.setattr(Kept, "opened", [])
    return Kept


def test_a_sink_gets_every_line_of_every_stage(run_micro: Callable[..., Run], kept) -> None:
    run = run_micro(report_to=["tensorboard"])
    (sink,) = kept.opened
    *lines, last = sink.lines
    assert last[0] == "closed"
    logged = [(f"{m['stage']}/step", m["step"]) for m in run.metrics()]
    assert [(axis, step) for axis, step, _ in lines] == logged
    assert {"base/step", "critic_sft/step", "joint/step"} <= {axis for axis, _ in logged}
    expected = run.metrics("joint")[1]["reward"]
    line = next(v for axis, n, v in lines if (axis, n) == ("joint/step", 1))
    assert line["joint/reward"] == expected
    assert sink.tables == []
    assert sink.files == [("report.html", (run.path / "report.html").read_text())]


def test_joint_metrics_lie_where_those_of_trl_lie(run_micro: Callable[..., Run], kept) -> None:
    loss = {"num_iterations": 1, "num_minibatches": 2}
    run = run_micro(report_to=["tensorboard"], tracking={"trl_names": True}, actor={"loss": loss})
    lines = kept.opened[0].lines
    shared = [(step, values) for axis, step, values in lines if axis == "train/global_step"]
    assert [step for step, _ in shared] == [2, 4, 6]  # two updates of the weights in each step
    joint = run.metrics("joint")
    assert [values["train/reward"] for _, values in shared] == [m["reward"] for m in joint]
    own = next(v for axis, n, v in lines if (axis, n) == ("joint/step", 0))
    assert "joint/critic/mse" in own and "joint/num_tokens" in own and "joint/reward" not in own
    assert any("base/loss" in values for *_, values in lines)  # other stages keep their names


def test_every_name_of_trl_is_one_that_its_trainer_logs() -> None:
    pytest.importorskip("trl")
    import trl.trainer.grpo_trainer as module

    text = Path(str(module.__file__)).read_text()
    by_transformers = {"loss", "grad_norm"}
    for ours, name in trackers.TRL_NAMES.items():
        bare = name.partition("/")[2]
        assert ours == bare or (ours, name) == ("eval/success", "eval/reward")
        assert bare in by_transformers or f'["{bare}"]' in text, name


def test_the_table_holds_the_judged_steps_of_what_went_wrong_first(
    run_micro: Callable[..., Run], kept
) -> None:
    run = run_micro(report_to=["tensorboard"], tracking={"judged_rows": 5})
    stored = run.tables("estimates", "joint")
    tables = kept.opened[0].tables
    assert [(key, step) for key, step, _ in tables] == [("joint/judged", n) for _, n in stored]
    _, step, table = tables[-1]
    assert table.columns == trackers.JUDGED and len(table.rows) == 5
    for row in table.rows:
        values = dict(zip(table.columns, row, strict=True))
        at, group, member = map(int, values["response"].split("/")[1:])
        assert at == step
        one = run.trajectory(step, group, member)
        judged = {(s.text, s.value, s.rationale) for s in one.steps}
        assert (values["step_text"], values["value"], values["reasoning"]) in judged
        assert (values["prompt"], values["outcome"]) == (one.prompt, one.reward)
    outcomes = [row[-1] for row in table.rows]
    assert outcomes == sorted(outcomes, key=lambda reward: reward is None or reward >= 0.5)


def test_responses_that_fall_most_come_first() -> None:
    def steps(member: int, reward: float | None, *values: float | None) -> list[dict[str, Any]]:
        own = {"group": 0, "member": member, "reward": reward}
        return [own | {"start": i, "value": value} for i, value in enumerate(values)]

    rows = [
        *(steps(0, 1.0, 0.9, 0.1) + steps(1, 0.0, 0.5, None, 0.4)),
        *(steps(2, 0.0, 0.8, 0.2) + steps(3, None, 0.9)),
    ]
    order = [row["member"] for row in trackers.most_telling(rows)]
    assert order == [2, 2, 1, 1, 1, 0, 0, 3]


def test_a_resumed_run_goes_on_under_the_same_name(micro, kept, monkeypatch, tmp_path) -> None:
    values = micro(report_to=["tensorboard"])
    log = Run.log

    def stop(self: Run, stage: str, at: int, row: Any) -> None:
        log(self, stage, at, row)
        if (stage, at) == ("joint", 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "log", stop)
        train(resolve(values))
    train(resolve(values))
    first, second = kept.opened
    assert second.name == first.name
    assert first.lines[-1][0] == "closed"
    assert {axis for axis, *_ in second.lines} == {"joint/step", "closed"}
    assert first.files == [] and len(second.files) == 1
    file = json.loads((tmp_path / "run" / "trackers.json").read_text())
    assert file == {"tensorboard": first.name}


def test_a_tracker_that_fails_is_left_out(
    run_micro: Callable[..., Run], kept, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Kept, "fail_at", 1)
    run = run_micro(report_to=["tensorboard"])
    assert len(run.metrics("joint")) == 3
    (event,) = run.events("tracker_failed")
    assert (event["tracker"], event["error"]) == ("tensorboard", "ConnectionError: no server")
    assert "tensorboard failed (ConnectionError: no server)" in capsys.readouterr().err


def test_one_that_fails_after_the_end_leaves_the_run_finished(
    micro, kept, monkeypatch, capsys
) -> None:
    def refuse(self: Kept, file: Path) -> None:
        raise ConnectionError(f"no place for {file.name}")

    monkeypatch.setattr(Kept, "attach", refuse)
    values = micro(report_to=["tensorboard"])
    run = Run.open(train(resolve(values)))
    assert run.events("tracker_failed") == []
    assert "no place for report.html" in capsys.readouterr().err
    assert train(resolve(values)) == run.path and len(kept.opened) == 1


def test_trackers_change_no_result(run_micro: Callable[..., Run], kept, tmp_path) -> None:
    tracking = {"project": "p", "tags": ["t"], "trl_names": True, "judged_rows": 3}
    one = run_micro(report_to=["tensorboard"], tracking=tracking, output_dir=str(tmp_path / "a"))
    other = run_micro(output_dir=str(tmp_path / "b"))
    assert results(one) == results(other)
    assert one.summary()["config_hash"] == other.summary()["config_hash"]


def test_one_that_is_not_installed_says_so(monkeypatch) -> None:
    monkeypatch.setitem(trackers.LIBRARIES, "wandb", "no_such_tracker")
    with pytest.raises(ValueError, match=r"pip install 'genac\[wandb\]'"):
        trackers.load("wandb")
    with pytest.raises(ValueError, match="'neptune'; use one of"):
        trackers.load("neptune")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"project": " "}, "tracking.project"),
        ({"judged_rows": -1}, "tracking.judged_rows"),
        ({"tags": "fast"}, "tracking.tags"),
        ({"projct": "x"}, "tracking.project"),
    ],
)
def test_a_wrong_value_names_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve({"tracking": values})


def test_a_missing_extra_is_named_before_torch_is_imported(tmp_path: Path) -> None:
    """In an interpreter that cannot see trackio."""
    code = (
        "import sys; sys.modules['trackio'] = None; from genac.cli import main\n"
        "try: main(['train', 'arithmetic', '--report_to', 'trackio'])\n"
        "finally: print('torch' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(trackers.__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert "pip install 'genac[trackio]'" in result.stderr and result.stdout.endswith("False\n")
    assert list(tmp_path.iterdir()) == []
