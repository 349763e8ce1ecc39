"""Scorers, TRL's signature, and the verifier's promise: one bad response costs only itself."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from genac.tasks import verifier as verifying
from genac.tasks.answers import final_answer
from genac.tasks.files import FileTask
from genac.tasks.rewards import check_outcome, load_reward
from genac.tasks.verifier import Outcome, Verifier
from genac.types import Problem

DATA = Path(__file__).parents[1] / "data"
FUNCTIONS = DATA / "user_rewards.py"
PROBLEM = Problem("p", "2 + 3?", "5", extras={"topic": "sums", "level": 2, "unused": 1})


def user(name: str) -> str:
    return f"{FUNCTIONS}:{name}"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5", "5"),
        ("a+2=4\nans=5", "5"),
        ("first ans=3\nthen\nans= 5 \n", "5"),
        ("so #### 1,000.", "1,000."),
        ("<answer>3</answer> no, <answer>\n5\n</answer>", "5"),
        ("<answer>10</answer>\nans=5", "5"),
        ("ans=5\n<answer>", "5"),
        (r"thus \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"thus \boxed{1", r"thus \boxed{1"),
        ("line\nlast line \n", "last line"),
        ("", ""),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


def test_final_answer_of_hostile_text_is_linear():
    for piece in ("<answer>", "</answer>", "ans=", "\\boxed{", "\n", "\ud800", "####"):
        start = time.process_time()
        final_answer(piece * (10**6 // len(piece)))
        assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("reference", "text", "reward"),
    [
        ("5", "5", 1.0),
        ("5", "the answer is\n5.", 1.0),
        ("1000", "ans=$1,000.00", 1.0),
        ("-12", "ans=12", 0.0),
        ("2 * 9 = 18\n#### 18", "ans=18", 1.0),
        ("Paris", "<answer> Paris </answer>", 1.0),
        ("Paris", "paris", 0.0),
        ("1e400", "1e401", 0.0),
        ("nan", "inf", 0.0),
        ("5", "1e999999999", 0.0),
        ("5", "9" * 10**6, 0.0),
        ("5", "", 0.0),
    ],
)
def test_match(reference, text, reward):
    assert load_reward("match")(Problem("p", "?", reference), text) == reward


def test_math_judges_equivalence_also_outside_the_main_thread():
    pytest.importorskip("math_verify")
    score = load_reward("math")
    rows = [
        (r"\frac{1}{2}", r"so \boxed{0.5}", 1.0),
        ("0.5", r"$\frac{2}{4}$", 1.0),
        ("x^2 + 1", r"$1 + x^2$", 1.0),
        ("x^2 + 1", "$1$", 0.0),
        ("1,000", "the answer is 1000.", 1.0),
        (r"We find \boxed{-3}", "#### -3", 1.0),
        ("6 * 3 = 18\n#### 18", r"\boxed{18}", 1.0),
        ("(1, 2)", r"$(1,2)$", 1.0),
        ("$5", "it costs $5", 1.0),
        ("7", "the answer is 8", 0.0),
        ("$$", "7", None),
        ("7", "no idea", 0.0),
    ]
    results: list[float | None] = []
    thread = threading.Thread(
        target=lambda: results.extend(
            score(Problem("p", "?", gold), text) for gold, text, _ in rows
        )
    )
    thread.start()
    thread.join()
    assert results == [reward for *_, reward in rows]


def test_trl_functions_get_the_keywords_they_accept():
    assert load_reward(user("exact"))(PROBLEM, "5") == 1.0
    assert load_reward(user("exact"))(PROBLEM, "6") == 0.0
    assert load_reward(user("weighs_columns"))(PROBLEM, "5") == 1.0  # topic and level are columns
    prompt = [{"role": "system", "content": "add"}, {"role": "user", "content": "2 + 3?"}]
    assert load_reward(user("chat"))(Problem("p", prompt, "5"), "5") == 1.0
    assert callable(load_reward("json:loads"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("best", "'best' is unknown; use one of"),
        (user("absent"), "no function 'absent'"),
        ("nowhere/file.py:fn", "does not exist"),
        ("no_such_package.rewards:fn", "No module named"),
    ],
)
def test_a_reward_that_cannot_be_loaded(spec, message):
    with pytest.raises(ValueError, match=message):
        load_reward(spec)


@pytest.mark.parametrize(
    ("name", "message"),
    [("wants_more", r"needs \['rubric'\]"), ("wrong_length", "for one completion")],
)
def test_a_function_that_breaks_the_signature_is_a_bug(name, message):
    with pytest.raises(ValueError, match=message):
        load_reward(user(name))(PROBLEM, "5")


def test_rewards_lie_in_the_unit_interval():
    assert check_outcome(None, "r") is None
    assert [check_outcome(v, "r") for v in (0, 1.0, True, np.float32(0.5))] == [0, 1, 1, 0.5]
    for value in (1.5, -0.01, math.nan, math.inf, "0.5"):
        with pytest.raises(ValueError, match=f"reward 'mine' is {value!r}"):
            check_outcome(value, "mine")


def test_what_rounding_puts_outside_the_interval_is_its_end():
    vector = np.full(3, 0.1, np.float32)
    cosine = vector @ vector / (np.linalg.norm(vector) ** 2) * np.float32(1.0000001192)
    assert [check_outcome(v, "r") for v in (1.0000001192, cosine, 1 + 1e-6)] == [1.0, 1.0, 1.0]
    ends = [check_outcome(v, "r") for v in (-1e-6, -1.1e-7, np.float32(-1e-7), -0.0)]
    assert ends == [0.0, 0.0, 0.0, 0.0]
    assert math.copysign(1, ends[-1] or 0.0) == 1
    for value in (1 + 1.1e-6, 1.000002, -1.1e-6):
        with pytest.raises(ValueError, match=r"not a number in \[0, 1\]"):
            check_outcome(value, "r")


# --- the verifier ---


def file_task(tmp_path: Path, reward: str) -> FileTask:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "2 + 3?", "answer": "5"}\n')
    return FileTask(str(data), reward=reward)


def test_a_bad_response_costs_only_itself(tmp_path):
    """Hang, exception, death of the process, and None, from a thread that is not the main one."""
    task = file_task(tmp_path, user("misbehaving"))
    texts = ["fine", "hang", "fine", "raise", "none", "die", "fine", "\ud800" * 10**5]
    results: list[Outcome] = []
    with Verifier(task, time_limit=0.5) as verifier:
        judge = lambda: results.extend(verifier.verify([(PROBLEM, text) for text in texts]))  # noqa: E731
        start = time.perf_counter()
        thread = threading.Thread(target=judge)
        thread.start()
        thread.join()
        assert time.perf_counter() - start < 20
    assert [o.reward for o in results] == [0.25, None, 0.25, None, None, None, 0.25, 0.25]
    assert results[0].reason == ""
    reasons = ["more than 0.5 s", "raised KeyError", "returned None", "process died"]
    for outcome, reason in zip((results[1], *results[3:6]), reasons, strict=True):
        assert reason in outcome.reason


def test_a_reward_out_of_range_crashes_and_names_itself(tmp_path):
    with Verifier(file_task(tmp_path, user("misbehaving"))) as verifier:
        for text in ("big", "nan", "word"):
            with pytest.raises(ValueError, match=r"user_rewards.py:misbehaving' is .*\[0, 1\]"):
                verifier.verify([(PROBLEM, text)])
        assert verifier.verify([(PROBLEM, "fine")]) == [Outcome(0.25)]


def test_a_broken_signature_crashes_from_the_worker(tmp_path):
    with (
        Verifier(file_task(tmp_path, user("wants_more"))) as verifier,
        pytest.raises(ValueError, match="rubric"),
    ):
        verifier.verify([(PROBLEM, "5")])


def test_a_task_that_cannot_be_sent_says_so(tmp_path):
    class Local(FileTask):
        pass

    path = file_task(tmp_path, user("exact")).path
    with (
        Verifier(Local(path, reward=user("exact"))) as verifier,
        pytest.raises(ValueError, match="define it in a module"),
    ):
        verifier.verify([(PROBLEM, "5")])


class Trusted:
    """Judged in process: raises on "raise", is out of range on "big"."""

    name, trusted = "fake", True

    def verify(self, problem: Problem, text: str) -> float | None:
        if text == "raise":
            raise RecursionError("too deep")
        return {"big": 2.0, "none": None}.get(text, 1.0)


def test_trusted_tasks_need_no_process(monkeypatch):
    monkeypatch.setattr(verifying, "Worker", None)
    verifier = Verifier(Trusted())
    good, bad, none, last = verifier.verify([(PROBLEM, t) for t in ("a", "raise", "none", "b")])
    assert good == last == Outcome(1.0)
    assert bad == Outcome(None, "the verifier raised RecursionError: too deep")
    assert none == Outcome(None, verifying.UNJUDGED)
    with pytest.raises(ValueError, match=r"reward 'fake' is 2\.0"):
        verifier.verify([(PROBLEM, "big")])


def test_many_responses_are_judged_side_by_side(tmp_path, monkeypatch):
    """Two workers, two hangs of half a second each among forty: every outcome at its place."""
    monkeypatch.setattr(verifying, "WORKERS", 2)
    slots, run = set(), verifying.Slot.run

    def counted(slot, work):
        slots.add(slot)
        run(slot, work)

    monkeypatch.setattr(verifying.Slot, "run", counted)
    texts = ["fine"] * 18 + ["hang", "none", "hang", "die"] + ["fine"] * 18
    with Verifier(file_task(tmp_path, user("misbehaving")), time_limit=0.5) as verifier:
        result = verifier.verify([(PROBLEM, text) for text in texts])
        assert len(slots) == 2
        with pytest.raises(ValueError, match="misbehaving"):
            verifier.verify([(PROBLEM, t) for t in ["fine"] * 20 + ["big"] + ["fine"] * 20])
        assert verifier.verify([(PROBLEM, "fine")]) == [Outcome(0.25)]
    assert [o.reward for o in result] == [
        None if t in ("hang", "none", "die") else 0.25 for t in texts
    ]
    assert "0.5 s" in result[18].reason and "0.5 s" in result[20].reason
    assert "died" in result[21].reason


def test_weighted_rewards():
    score = load_reward("0.75 * match + 0.25 * format")
    assert score(PROBLEM, r"\boxed{5}") == 1.0
    assert score(PROBLEM, "ans=5") == 0.75
    assert score(PROBLEM, r"\boxed{6}") == 0.25
    none = load_reward(f"0.5 * match + 0.5 * {user('misbehaving')}")
    assert none(PROBLEM, "none") is None
    assert none(PROBLEM, "5") == 0.5 * 1 + 0.5 * 0.25
    assert load_reward("1.0 * match")(PROBLEM, "5") == 1.0
    for weights in ((0.7, 0.2, 0.1), (0.3333334, 0.3333334, 0.3333334), (0.1,) * 10):
        assert load_reward(" + ".join(f"{w} * match" for w in weights))(PROBLEM, "5") == 1.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0.5 * match + 0.6 * format", "sum to 1.1"),
        ("match + 0.5 * format", "every term needs a weight"),
        ("0.5 * match + 0.5 * best", "'best' is unknown"),
    ],
)
def test_weighted_rewards_that_cannot_be(spec, message):
    with pytest.raises(ValueError, match=message):
        load_reward(spec)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{5}", 1.0),
        (r"<think>5?</think> \boxed{5}", 1.0),
        (r"<think>\boxed{5}</think>", 0.0),
        (r"<think>\boxed{5}", 0.0),
        (r"a</think>b \boxed{5}", 1.0),
        (r"\boxed{ }", 0.0),
        ("5", 0.0),
    ],
)
def test_format(text, value):
    assert load_reward("format")(PROBLEM, text) == value


def test_short_falls_from_one_to_zero():
    values = [load_reward("short")(PROBLEM, "x" * n) for n in (0, 2000, 5000, 8000, 9000)]
    assert values == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_async_functions_and_verls_signature():
    assert load_reward(user("slowly"))(PROBLEM, "5") == 1.0
    verl = load_reward(f"verl:{user('compute_score')}")
    row = Problem("p", "2 + 3?", "5", "file", {"data_source": "sums", "extra_info": {"index": 7}})
    assert verl(row, "5") == 1.0
    assert verl(row, "6") == 0.0
    assert load_reward(f"verl:{user('compute_number')}")(row, "5") == 0.5
    with pytest.raises(ValueError, match="a dict needs 'score'"):
        load_reward(f"verl:{user('compute_nothing')}")(row, "5")


def test_the_worker_ends_with_its_verifier(tmp_path):
    verifier = Verifier(file_task(tmp_path, user("exact")))
    assert verifier.verify([(PROBLEM, "5")]) == [Outcome(1.0)]
    stop = verifier._slots[0].worker.stop
    del verifier
    assert not stop.alive
    with pytest.raises(ValueError, match="time_limit is 0"):
        Verifier(Trusted(), time_limit=0)
