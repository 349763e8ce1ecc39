"""genac eval solutions: critics of every kind on files of solutions, resumed, shown, refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import Act, ChatServer, says
from fastapi.testclient import TestClient

from genac.commands import eval_solutions
from genac.commands.eval_solutions import judged_rows
from genac.config.models import CriticConfig
from genac.critics.prompts import template
from genac.evals.solution_files import Solution
from genac.models.loading import load_model, load_tokenizer
from genac.models.value_head import ValueModel
from genac.runs.store import Run
from genac.scoring import Judgement, ValueHead, load_scorer
from genac.serving.app import create_app
from genac.ui.viewer.server import make_app

ROWS = [
    {"problem": "a+3>", "solution": "a=\na+3", "correct": True},
    {"problem": "a+3>", "solution": "a=\n3+3", "correct": False},
    {"problem": "b*2>", "solution": "b", "correct": False},
]


def save(folder: Path, tiny_folder: Path, kind: str, **generative: Any) -> Path:
    """A critic's folder of the tiny random model."""
    model = load_model(str(tiny_folder))
    if kind == "discriminative":
        model = ValueModel(model, 1)
        model.head.weight.data.normal_()
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    load_tokenizer(str(tiny_folder)).save_pretrained(folder)
    options = {"prompt": "compact", "max_new_tokens": 12, "num_samples": 2} | generative
    card: dict[str, Any] = {"kind": kind, "config": CriticConfig(kind=kind).model_dump()}
    if kind == "generative":
        card |= {
            "config": CriticConfig(generative=options).model_dump(),  # type: ignore[arg-type]
            "success_rate": {"momentum": 0.9, "value": 0.5},
            "prompt_hash": template(options["prompt"]).hash,
            "actor_size": "1K",
        }
    (folder / "critic.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def critics(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("critics")
    return {
        "generative": save(root / "generative", tiny_folder, "generative"),
        "discriminative": save(root / "run" / "critic", tiny_folder, "discriminative").parent,
    }


def written(folder: Path, rows: Sequence[dict[str, Any]] = ROWS) -> str:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "rows.jsonl")


def stored(out: Path) -> dict[str, Any]:
    return json.loads((out / "solutions.json").read_text())


@pytest.mark.parametrize("kind", ["generative", "discriminative"])
def test_a_saved_critic_of_either_kind(genac, critics, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    arguments = ("eval", "solutions", str(critics[kind]), written(tmp_path), "--out", str(out))
    answer = genac(*arguments)
    assert answer.code == 0 and "3 solutions of 2 problems, 8 states" in answer.out, answer.err
    result = stored(out)
    assert result["about"]["kind"] == kind and result["tokens"] > 0
    assert [r["fraction"] for r in result["outcome"]["by_fraction"]] == [0, 0.25, 0.5, 0.75, 1]
    assert result["outcome"]["by_fraction"][0]["auc_within_problem"] == 0.5
    assert result["settings"]["samples"] == (2 if kind == "generative" else 1)

    (file,) = out.glob("judged-*.jsonl")
    kept = file.read_text()
    file.write_text(kept[: kept.rfind("{") + 20])  # a line that a kill cut off
    resumed = genac(*arguments)
    assert resumed.code == 0 and "judging 1/1" in resumed.out
    again = [json.loads(line) for line in file.read_text().splitlines()]
    for before, after in zip(kept.splitlines(), again, strict=True):
        first, second = json.loads(before)["values"], after["values"]
        assert [v is None for v in first] == [v is None for v in second]
        assert [v or 0 for v in second] == pytest.approx([v or 0 for v in first], rel=1e-5)

    run = Run(out)
    rows = run.table("estimates", "solutions", 0)
    assert [(r["start"], r["end"]) for r in rows[:3]] == [(0, 1), (1, 2), (2, 2)]
    assert rows[0]["step_text"] == "a=\n" and rows[0]["reward"] == 1.0
    with TestClient(make_app(run)) as client:
        shown = client.get("/api/trajectory/solutions/0/0/1").json()
    assert [s["text"] for s in shown["steps"]] == ["a=\n", "3+3", ""] and shown["reward"] == 0.0
    assert shown["problems"] == []


def test_a_value_head_reads_a_solution_once_for_all_its_states(critics) -> None:
    head = load_scorer(critics["discriminative"])
    assert isinstance(head, ValueHead)
    prompts = [head.prompt("a+3>", text) for text in ("a=\na+3", "a=\n", "", "b")]
    before = head.processed_tokens
    together = head.judge(prompts, [0] * 4)
    assert head.processed_tokens - before <= len(prompts[0]) + len(prompts[3])
    alone = [head.judge([ids], [0])[0].value for ids in prompts]
    assert [j.value for j in together] == pytest.approx(alone, rel=1e-4)
    assert len(set(alone)) == 4 and together[0].rationale == ""


def test_score_serve_and_eval_give_a_value_head_the_same_value(genac, critics, tmp_path) -> None:
    folder, out = str(critics["discriminative"]), tmp_path / "out"
    problem, partial = "2 a+3>", "a=\n"
    head = load_scorer(folder)
    value = head.score(problem, partial).value
    printed = genac("score", folder, "2 a+3>", "a=\\n3")  # a line break, then 3
    assert printed.code == 0 and float(printed.out.split()[1]) == head.score(problem, "a=\n3").value
    body = {"problem": problem, "partial_response": partial}
    with TestClient(create_app(head, head.describe()), base_url="http://127.0.0.1") as client:
        reply = client.post("/score", json=body).json()
        assert client.get("/card").json()["kind"] == "discriminative"
    assert reply["value"] == pytest.approx(value, rel=1e-5) and reply["rationales"] == []
    row = {"problem": problem, "solution": "a=\n3", "correct": True}
    assert genac("eval", "solutions", folder, written(tmp_path, [row]), "--out", str(out)).code == 0
    stored_values = [r["value"] for r in Run(out).table("estimates", "solutions", 0)]
    assert stored_values[1] == pytest.approx(value, rel=1e-5)


def test_a_model_behind_an_api_is_queried_by_the_same_command(genac, tmp_path: Path) -> None:
    def script(prompt: str, number: int):
        return says("fine <answer>9</answer>" if "a+3\n\n(" in prompt else "unsure")

    with ChatServer(script) as server:
        arguments = ("eval", "solutions", f"openai:m@{server.url}", written(tmp_path),
                     "--out", str(tmp_path / "out"))  # fmt: skip
        answer = genac(*arguments)
        assert answer.code == 0, answer.err
        count = server.count
        assert count == 6  # of 8 states; equal ones are judged once
        assert genac(*arguments).code == 0 and server.count == count
        refused = genac(*arguments, "--samples", "2")
        assert refused.code == 2 and "judges each state once" in refused.err
    result = stored(tmp_path / "out")
    assert result["missing"] == 7 and result["outcome"]["by_fraction"][-1]["missing"] == 2


def test_what_a_server_left_unanswered_is_sent_again(genac, tmp_path: Path) -> None:
    works: list[bool] = []

    def script(prompt: str, number: int):
        bad = "b*2" in prompt and not works
        return Act(status=500) if bad else says("fine <answer>9</answer>")

    with ChatServer(script) as server:
        endpoint = tmp_path / "endpoint.yaml"
        endpoint.write_text(f"{{model: m, base_url: '{server.url}', max_retries: 0}}")
        arguments = ("eval", "solutions", str(endpoint), written(tmp_path),
                     "--out", str(tmp_path / "out"))  # fmt: skip
        answer = genac(*arguments)
        assert answer.code == 0, answer.err
        assert "2 got no answer: the same command sends them again" in answer.out
        assert (stored(tmp_path / "out")["missing"], server.count) == (2, 6)
        works.append(True)
        assert "no answer" not in genac(*arguments).out
        assert (stored(tmp_path / "out")["missing"], server.count) == (0, 8)


class Counting:
    """A scorer that computes; it is killed where it would judge `fatal`."""

    rationales = 1

    def __init__(self, fatal: str = "") -> None:
        self.fatal, self.processed_tokens = fatal, 0
        self.prompts: list[str] = []

    def describe(self) -> dict[str, Any]:
        return {}

    def prompt(self, problem: Any, partial: str, success_rate: float | None = None) -> str:
        return problem + partial

    def judge(self, prompts: Sequence[str], seeds: Any, rationales: Any = None) -> list[Judgement]:
        if self.fatal in prompts and self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.prompts += prompts
        self.processed_tokens += len(prompts)
        return [Judgement(len(p) / 100, p, None) for p in prompts]


def test_after_kill_9_only_what_was_not_judged_is_judged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(eval_solutions, "AT_ONCE", 2)
    plans = [(Solution(i, f"{i}>", ("ab\n",)), (0, 1)) for i in range(6)]
    file = tmp_path / "judged.jsonl"
    if (child := os.fork()) == 0:
        judged_rows(Counting(fatal="3>"), plans, 1, file)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(file.read_text().splitlines()) == 3
    scorer = Counting()
    rows = judged_rows(scorer, plans, 1, file)
    assert scorer.prompts == ["3>", "3>ab\n", "4>", "4>ab\n", "5>", "5>ab\n"]
    assert [r["values"] for r in rows] == [[0.02, 0.05]] * 6
    assert sum(r["tokens"] for r in rows) == 12


def test_labels_of_steps_and_a_given_threshold(genac, critics, tmp_path: Path) -> None:
    steps = {"problem": "a+3>", "steps": ["a=", "3+3"]}
    rows = [steps | {"label": 1, "labels": [1, 0]}, steps | {"label": -1, "labels": [1, 1]}]
    arguments = ("eval", "solutions", str(critics["discriminative"]), written(tmp_path, rows),
                 "--out", str(tmp_path / "out"))  # fmt: skip
    answer = genac(*arguments, "--threshold", "0.5")
    assert (
        answer.code == 0
        and "First error: F1" in answer.out
        and "(of the command line)" in answer.out
    )
    assert "Step labels: AUC" in answer.out and "outcome" not in stored(tmp_path / "out")
    refused = genac(*arguments, "--states", "2")
    assert refused.code == 2 and "cannot be combined with labels of steps" in refused.err


def test_prompts_beyond_the_context_are_missing_and_counted(
    genac, tiny_folder, tmp_path: Path
) -> None:
    folder = save(tmp_path / "short", tiny_folder, "generative", max_new_tokens=2040)
    answer = genac("eval", "solutions", str(folder), written(tmp_path), "--samples", "1",
                   "--states", "2", "--out", str(tmp_path / "out"))  # fmt: skip
    assert answer.code == 0, answer.err
    result = stored(tmp_path / "out")
    assert result["too_long"] == result["missing"] == result["states"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{critic}", "{file}", "--limit", "0"), "--limit 0: use at least 1"),
        (("{critic}", "{file}", "--states", "1"), "--states 1: use at least 2"),
        (("{critic}", "{file}", "--columns", "correct"), "write OURS=NAME"),
        (("{critic}", "nowhere.jsonl"), "'nowhere.jsonl' does not exist"),
        (("{tiny}", "{file}"), "holds no critic.json"),
        (("openai:m", "{file}"), "openai:MODEL@URL"),
        (("{head}", "{file}", "--samples", "2"), "is a value head, which writes none"),
    ],
)
def test_bad_requests_are_one_line_before_anything_is_loaded(
    genac, critics, tiny_folder, tmp_path: Path, monkeypatch, arguments, message
) -> None:
    monkeypatch.setattr(eval_solutions, "load_scorer", None)
    names = {"critic": critics["generative"], "file": written(tmp_path), "tiny": tiny_folder}
    names["head"] = critics["discriminative"]
    answer = genac("eval", "solutions", *(a.format(**names) for a in arguments))
    assert answer.code == 2 and message in answer.err, answer
