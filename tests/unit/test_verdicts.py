"""A critic's verdicts against the program's, and the first mistakes of responses."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import (
    EchoTask,
    FixedCritic,
    ScriptedEngine,
    byte_tokenizer,
    make_rollout,
    runtime_with,
    says,
)

from genac.commands.eval_critics import verdict_table
from genac.commands.summary import mistake_lines
from genac.config.run import RolloutConfig
from genac.critics.base import Critic
from genac.critics.monte_carlo import MonteCarloValue
from genac.evals.critic import brief, evaluate_critic
from genac.evals.ground_truth import Panel, revalue
from genac.evals.policy import PolicyScore, diagnosed, evaluate_policy
from genac.evals.verdicts import program_verdicts
from genac.rollout import World
from genac.runs.store import Run, environment
from genac.tasks.arithmetic import ArithmeticTask
from genac.tasks.exact import ModularTask
from genac.tasks.verifier import Verifier
from genac.tasks.word_problems.task import WordProblemTask
from genac.types import Estimate, Problem, Rationale, State
from genac.ui.report.folder import Folder, load
from genac.ui.report.groups import grouped
from genac.ui.report.mistakes import first_mistakes, verdicts

TASK: Any = WordProblemTask()
TOKENIZER: Any = byte_tokenizer()
ANA = Problem(
    "ana",
    "Ana has 7 books. She buys 33 more. She gives away 23. How many has she now?",
    "17",
    extras={
        "numbers": ((7, "amount"), (33, "amount"), (23, "amount")),
        "steps": (("Ana buys 33", 0, "+", 1), ("Ana gives away 23", ~0, "-", 2)),
        "needed": (0, 1),
    },
)
TOM = replace(ANA, id="tom")
RIGHT, SLIP = "7 + 33 = 40\n", "7 + 33 = 41\n"
RESPONSES = {
    "right": RIGHT + "40 - 23 = 17\nAnswer: 17",
    "slip of arithmetic": SLIP + "41 - 23 = 18\nAnswer: 18",
    "misused number": RIGHT + "40 - 33 = 7\nAnswer: 7",
    "needless calculation": RIGHT + "40 - 23 = 17\n17 + 33 = 50\nAnswer: 50",
    "answer too early": RIGHT + "Answer: 40",
    "wrong answer": RIGHT + "40 - 23 = 17\nAnswer: 1",
    "no answer": RIGHT + "So she has 40 now",
}
SILENT = "It is hard to say."
LEFT = "Left: Ana gives away 23; the answer.\n"


def world_of(task: Any) -> World:
    rollout = RolloutConfig(num_generations=2, max_completion_length=200)
    return World(task, Verifier(task), rollout, seed=0)


def actor_of(text: str = "", model: Any = None) -> Any:
    """It always writes the same."""
    return runtime_with(ScriptedEngine(lambda request: says(TOKENIZER, text)), TOKENIZER, model)


def state_of(problem: Problem, partial: str, member: int) -> State:
    """The state behind `partial`, of a response that goes on from it."""
    ids = TOKENIZER.encode(f"{partial}...", add_special_tokens=False)
    rollout = make_rollout(ids, 0.0, group=problem is TOM, member=member, problem=problem)
    return State(rollout, len(ids) - 3, len(ids))


PARTIALS = [
    (ANA, "", 0.6),
    (ANA, RIGHT, 0.8),
    (ANA, SLIP, 0.0),
    (TOM, RIGHT, 0.4),
    (TOM, SLIP + RIGHT, 0.5),  # mended
    (TOM, RIGHT + "40 - 33 = 7\n", 0.1),
]


@pytest.fixture
def panel() -> Panel:
    states = [state_of(problem, text, i) for i, (problem, text, _) in enumerate(PARTIALS)]
    values = [MonteCarloValue(value, 10) for *_, value in PARTIALS]
    judged = program_verdicts(states, world_of(TASK), actor_of())
    return Panel(states, values, [0.5] * len(states), judged)


@dataclass
class WritingCritic(Critic):
    """Computes its reasoning from the problem and what is written so far."""

    write: Callable[[Problem, str], list[str]]

    def estimate(self, states: Any, step: int) -> list[Estimate]:
        return [Estimate(s, 0.5, self.rationales(s)) for s in states]

    def rationales(self, state: State) -> tuple[Rationale, ...]:
        partial = TOKENIZER.decode(list(state.rollout.response_ids[: state.start]))
        texts = self.write(state.rollout.problem, partial)
        return tuple(Rationale((1,), (2,), np.zeros(1, np.float32), t, 0.5) for t in texts)


def oracle(problem: Problem, partial: str) -> str:
    return f"{TASK.oracle(problem, partial, None).reasoning}<answer>5</answer>"


# --- verdicts -------------------------------------------------------------------------------------


def test_the_program_says_where_a_mistake_stands(panel):
    assert panel.verdicts is not None
    assert panel.verdicts.program == [False, False, True, False, False, True]


def test_a_critic_that_writes_as_the_program_does_has_right_verdicts(panel):
    result = evaluate_critic(WritingCritic(lambda p, text: [oracle(p, text)]), panel)
    assert (result["verdict_accuracy"], result["verdict_accuracy_interval"]) == (1.0, (1.0, 1.0))
    assert (result["verdict_false_alarms"], result["verdict_misses"]) == (0.0, 0.0)
    assert (result["verdict_rate"], result["verdict_mistakes"]) == (1.0, pytest.approx(1 / 3))
    # 0 and .1 around .05; .6, .8, .4 and .5 around .575
    squares = 2 * 0.05**2 + 0.025**2 + 0.225**2 + 0.175**2 + 0.075**2
    assert result["mse_verdict"] == pytest.approx(squares / 6)
    assert "verdict_accuracy" in brief(result)


def test_false_alarms_and_misses_are_shares_of_their_own_states(panel):
    """It takes every calculation for wrong but slips: alarms at three of four right states, silent
    at one, one of two mistakes missed.
    """

    def write(problem: Problem, partial: str) -> list[str]:
        if not partial:
            return [SILENT]
        return [LEFT if partial == SLIP else "Line 1: it is 40, says 40. Wrong.\n"]

    result = evaluate_critic(WritingCritic(write), panel)
    assert result["verdict_false_alarms"] == 0.75 and result["verdict_misses"] == 0.5
    assert result["verdict_accuracy"] == pytest.approx(1 / 6)
    assert result["verdict_rate"] == pytest.approx(5 / 6)
    # by problem: none of three states, and one of three
    assert result["by_problem"]["verdict_accuracy"] == [[0.0, 3.0], [1.0, 3.0]]
    assert result["verdict_accuracy_interval"] == pytest.approx((0.0, 1 / 3))


def test_all_rationales_of_a_state_count_alike(panel):
    result = evaluate_critic(WritingCritic(lambda p, text: [oracle(p, text), SILENT]), panel)
    assert (result["verdict_accuracy"], result["verdict_rate"]) == (0.5, 0.5)
    assert (result["verdict_false_alarms"], result["verdict_misses"]) == (0.0, 0.5)


def test_critics_and_tasks_without_verdicts_have_no_such_keys(panel):
    class Running(WritingCritic):
        reads_whole_responses = True

    spoken = WritingCritic(lambda p, text: [oracle(p, text)])
    results = [
        evaluate_critic(FixedCritic(lambda s: 0.5), panel),
        evaluate_critic(WritingCritic(lambda p, text: [SILENT]), panel),
        evaluate_critic(Running(spoken.write), panel),
        evaluate_critic(spoken, replace(panel, verdicts=None)),
    ]
    assert not any(key.startswith("verdict") for result in results for key in result)
    assert program_verdicts(panel.states, world_of(EchoTask()), actor_of()) is None


def test_revalued_states_keep_their_verdicts(panel, tiny_model):
    later = revalue(panel, actor_of("Answer: 17", tiny_model), world_of(TASK), 2)
    assert later.verdicts is not None and panel.verdicts is not None
    assert later.verdicts.program == panel.verdicts.program


@pytest.mark.parametrize(
    ("reasoning", "verdict"),
    [
        ("Line 1: Ana buys 33, 7 + 33 is 40, says 41. Wrong.\nThe lines repeat.\n", True),
        ("Line 1: 7 + 33 is 40, says 44. Wrong: it adds 3.\nThe answer 17 is right.\n", False),
        ("Line 2 answers 18, but the lines give 17. Wrong.\n", True),
        ("Line 1: Ana buys 33, 7 + 33 is 40, says 41. Wrong.\n" + LEFT, True),
        ("Line 1: Ana buys 33, 7 + 33 is 40, says", None),
        ("Wrongly put.", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_in_the_words_of_the_oracle(reasoning, verdict):
    assert TASK.verdict(reasoning) is verdict


@pytest.mark.parametrize("task", [ArithmeticTask(), ModularTask(), ModularTask(style="direct")])
def test_the_tiny_tasks_read_their_own_verdicts(task):
    """Behind every line of demonstrations with faults, up to the answer."""
    verdicts = set()
    for index in range(20):
        problem = task.problem("train", index)
        text = task.demonstration(problem, random.Random(index), 2.0)
        lines = text.splitlines(keepends=True)[:-1]
        for end in range(len(lines) + 1):
            partial = "".join(lines[:end])
            trace = task.oracle(problem, partial, None)
            wrong = task.lines_right(problem, partial) is None
            if task.name == "arithmetic":
                assert task.verdict(trace.reasoning) == wrong
            verdicts.add(task.verdict(trace.reasoning))
            assert task.verdict(trace.reasoning) is not True or trace.score <= 1
    assert verdicts == ({False} if getattr(task, "style", "") == "direct" else {True, False})
    assert task.verdict("there is no error, ok") is None


# --- first mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RESPONSES)
def test_the_kind_of_a_first_mistake(kind):
    expected = "" if kind == "right" else kind
    assert TASK.diagnose(ANA, RESPONSES[kind]).mistake == expected


def test_wrong_results_are_counted_among_all_calculations():
    one = TASK.diagnose(ANA, "7 + 33 = 41\n41 - 23 = 18, so 18 + 2 = 21\nAnswer: 21")
    assert (one.calculations, one.wrong_calculations) == (3, 2)
    last = TASK.diagnose(ANA, "So it is 7 + 33 = 41")  # a response that has ended
    assert (last.calculations, last.wrong_calculations) == (1, 1)


def groups_of(*kinds: str) -> list[list[Any]]:
    return [
        [make_rollout(problem=ANA, text=RESPONSES[k], reward=float(k == "right"))] for k in kinds
    ]


def test_first_mistakes_of_responses_are_counted():
    kinds = ("right", "wrong answer", "slip of arithmetic", "slip of arithmetic", "no answer")
    result = diagnosed(TASK, groups_of(*kinds))
    assert result == {
        "responses": 5,
        "right": 1,
        "first_mistakes": {"slip of arithmetic": 2, "wrong answer": 1, "no answer": 1},
        "calculations": 2 + 2 + 2 + 2 + 1,
        "wrong_calculations": 2,
    }
    assert diagnosed(EchoTask(), groups_of("right")) is None


def test_the_held_out_evaluation_says_which_mistakes_come_first(tiny_model):
    score = evaluate_policy(actor_of("Answer: 0", tiny_model), world_of(TASK), 3, 2)
    assert score.diagnosis is not None
    assert score.diagnosis["first_mistakes"] == {"answer too early": 6}
    assert PolicyScore.of(score.as_dict()) == score
    assert "diagnosis" not in replace(score, diagnosis=None).as_dict()


# --- what is shown --------------------------------------------------------------------------------


def folder_of(path: Path, summary: dict[str, Any]) -> Folder:
    Run.create(path, {"name": "toy", "seed": 0}, environment()).write_summary(summary)
    return load(path)


def test_the_report_has_a_table_of_each_where_they_exist(panel, tmp_path):
    right = brief(evaluate_critic(WritingCritic(lambda p, text: [oracle(p, text)]), panel))
    scores = [
        {"mean": 0.2, "low": 0.1, "high": 0.3, "diagnosis": diagnosed(TASK, groups_of(*kinds))}
        for kinds in (("right", "wrong answer"), ("right", "right"))
    ]
    stages = {"stages": {"rl": right}}
    summary = {"success_before": scores[0], "success_after": scores[1], "critic": stages}
    page = grouped([folder_of(tmp_path / "run", summary)])
    shown = first_mistakes(page)
    assert "<td>wrong answer</td><td>50.0 % (1 of 2)</td><td>0.0 % (0 of 2)</td>" in shown
    assert "<td>wrong results, of all calculations</td><td>0.0 % (0 of 4)</td>" in shown
    assert "<td>after critic RL</td><td>100.0 % [100.0, 100.0]</td>" in verdicts(page)
    line = "first mistakes of 2 responses: wrong answer 1 -> 0"
    assert mistake_lines(scores[0], scores[1]) == [line]
    assert mistake_lines({}, scores[1]) == []
    nothing = grouped([folder_of(tmp_path / "other", {"success_after": {"diagnosis": 3}})])
    assert first_mistakes(nothing) == verdicts(nothing) == ""


def test_the_table_of_critics_has_verdicts_where_they_exist(panel):
    right = evaluate_critic(WritingCritic(lambda p, text: [oracle(p, text)]), panel)
    silent = evaluate_critic(FixedCritic(lambda s: 0.5), panel)
    table = verdict_table({"in distribution": {"own": right, "head": silent}, "none": {}})
    assert "| in distribution | own | 1.000 [1.000, 1.000] | 0.000" in table
    assert "head" not in table and verdict_table({"in distribution": {"head": silent}}) == ""
