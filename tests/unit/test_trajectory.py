"""A response as steps: what was judged where, what outcomes say, how it is shown."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from genac.runs.store import Run
from genac.runs.trajectory import group_of, parse_address
from genac.types import Estimate, Problem, Rationale, Rollout, State
from genac.ui.viewer.digest import judged
from genac.ui.viewer.tree import tree


def rollout(member=0, ids=(3, 4, 5), reward: float | None = 1.0, text="a b c"):
    logprobs = np.full(len(ids), -0.5, np.float32)
    problem = Problem("p1", "1+2", "3")
    return Rollout(problem, 0, member, (1, 2), tuple(ids), logprobs, text, "stop", 7, reward)


def estimate(response, start, end, value, text="fine"):
    probs = np.zeros(11)
    probs[[2, 8]] = 0.5
    ids = (65, 66)
    rationale = Rationale(
        (9, 9, start), ids, np.array([-0.1, -2.0], np.float32), text, value, 1, probs
    )
    return Estimate(State(response, start, end), value, (rationale,), version=3)


def decode(ids):
    return "".join(f"<{i}>" for i in ids)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"name": "toy"}, {})


def store(run, responses, estimates, **texts):
    run.write_rollouts("joint", 4, responses, decode)
    run.write_estimates("joint", 4, estimates, {}, **texts)


def test_a_stored_response_comes_back_with_all_its_estimates(run):
    one = rollout()
    store(
        run,
        [one],
        [estimate(one, 0, 2, 0.9), estimate(one, 2, 3, 0.2)],
        decode=decode,
        critic_decode=decode,
    )
    result = run.trajectory(4)
    assert result.address == "joint/4/0/0" and result.tokens == ("<3>", "<4>", "<5>")
    first, last = result.steps
    assert (first.text, first.value, first.after) == ("<3><4>", 0.9, 0.2)
    assert (last.value, last.after, last.change) == (0.2, 1.0, 0.8)  # at the end, the reward
    assert first.critic_prompt == "<9><9><0>" and first.rationale == "fine"
    assert first.rationale_tokens == ("<65>", "<66>")
    assert first.rationale_logprobs == pytest.approx((-0.1, -2.0), abs=1e-3)
    assert first.score_probs is not None and first.score_probs[2] == 0.5
    assert first.spread == pytest.approx(0.3)  # half at 0.2, half at 0.8
    assert result.worst == 0


def test_without_decoders_texts_are_missing_and_nothing_fails(run):
    one = rollout()
    store(run, [one], [estimate(one, 0, 3, 0.9)])
    step = run.trajectory(4).steps[0]
    assert step.critic_prompt is None and step.rationale_tokens is None
    assert step.text == "<3><4><5>"  # from the response's own tokens


def test_several_rationales_are_kept_apart(run):
    one = rollout()
    twice = estimate(one, 0, 3, 0.5)
    both = Estimate(twice.state, 0.5, twice.rationales * 2, 3)
    store(run, [one], [both], critic_decode=decode)
    step = run.trajectory(4).steps[0]
    assert step.rationale_tokens == ("<65>", "<66>", "\n---\n", "<65>", "<66>")
    assert step.rationale_logprobs is not None and step.rationale_logprobs[2] is None


def test_segments_at_which_nothing_was_judged_are_shown_as_such(run):
    one = rollout(ids=(3, 4, 5, 6))
    store(run, [one], [estimate(one, 1, 2, 0.5)])
    steps = run.trajectory(4).steps
    assert [(s.start, s.end, s.judged) for s in steps] == [
        (0, 1, False),
        (1, 2, True),
        (2, 4, False),
    ]


def test_a_missing_score_is_bridged_by_the_next_value(run):
    one = rollout()
    store(run, [one], [estimate(one, s, s + 1, v) for s, v in enumerate((0.8, None, 0.1))])
    steps = run.trajectory(4).steps
    assert steps[1].judged and steps[1].value is None and steps[1].change is None
    assert steps[0].after == 0.1 and run.trajectory(4).worst == 0


@pytest.mark.parametrize(
    ("values", "worst", "fall"),
    [
        ((0.6, 0.5, 0.9, None), 0, 0.1),  # the last score is unreadable
        ((0.6, 0.5, 0.9), 0, 0.1),  # the last step was not judged
        ((0.5, 0.9, None), None, 0.0),
        ((0.9, 0.85, 0.9, 0.86), None, 0.05),  # less than a score's width is no fall worth a mark
        ((0.9, None, 0.4, 0.3), 0, 0.5),
    ],
    ids=str,
)
def test_the_reward_is_no_part_of_the_largest_fall(run, values, worst, fall):
    """Page and list agree on it."""
    one = rollout(ids=(3, 4, 5, 6), reward=0.0)
    store(run, [one], [estimate(one, s, s + 1, v) for s, v in enumerate(values)])
    result = run.trajectory(4)
    assert result.worst == worst
    assert judged(run, "joint", 4)[0]["fall"] == pytest.approx([fall])
    if worst is not None:
        assert -result.steps[worst].change == pytest.approx(fall)


def test_observed_success_counts_the_responses_that_share_the_prefix(run):
    responses = [
        rollout(0, (3, 4, 5), 1.0),
        rollout(1, (3, 4, 6), 0.0),
        rollout(2, (8, 4, 5), None),
    ]
    judged = [estimate(r, s, s + 1, 0.5) for r in responses for s in range(3)]
    store(run, responses, judged)
    first, second, third = run.group("joint", 4, 0)
    assert [(s.observed, s.observed_count) for s in first.steps] == [(0.5, 2), (0.5, 2), (0.5, 2)]
    assert [(s.observed, s.observed_count) for s in third.steps] == [(0.5, 2), (None, 0), (None, 0)]
    assert second.steps[0].observed == 0.5


def test_equal_states_have_equal_numbers_and_others_do_not(run):
    responses = [rollout(0, (3, 4, 5)), rollout(1, (3, 9, 5))]
    store(run, responses, [estimate(r, s, s + 1, 0.5) for r in responses for s in range(3)])
    rows = run.table("estimates", "joint", 4, ["member", "start", "state"])
    state = {(row["member"], row["start"]): row["state"] for row in rows}
    assert state[0, 0] == state[1, 0] and state[0, 1] == state[1, 1] != state[0, 0]
    assert state[0, 2] != state[1, 2]


def test_the_tree_draws_shared_prefixes_once(run):
    responses = [rollout(0, (3, 4, 5)), rollout(1, (3, 4, 6), 0.0), rollout(2, (3, 4, 5))]
    store(run, responses, [estimate(r, s, s + 1, 0.5) for r in responses for s in range(3)])
    nodes = tree(run.group("joint", 4, 0))
    assert [n["members"] for n in nodes] == [[0, 1, 2], [0, 1, 2], [0, 2], [1]]
    assert [n["parent"] for n in nodes] == [None, 0, 1, 1]
    assert [e["member"] for e in nodes[2]["ends"]] == [0, 2]


def test_estimates_without_rollouts_and_rollouts_without_estimates_are_shown(run):
    one = rollout()
    run.write_estimates("joint", 1, [estimate(one, 0, 3, 0.5)], {}, decode)
    run.write_rollouts("joint", 2, [one])
    assert run.trajectory(1).prompt is None and run.trajectory(1).steps[0].value == 0.5
    only = run.trajectory(2)
    assert [(s.text, s.judged) for s in only.steps] == [("a b c", False)]


def test_foreign_rows_are_refused_by_name():
    with pytest.raises(ValueError, match="lack end, start"):
        group_of("joint", 0, [], [{"group": 0, "member": 0}])


@pytest.mark.parametrize("place", [(5, 0, 0), (4, 9, 0), (4, 0, 9)])
def test_what_the_run_does_not_hold_is_a_clear_error(run, place):
    store(run, [rollout()], [])
    with pytest.raises(ValueError, match=r"holds no group|has no response 9"):
        run.trajectory(*place)


def test_addresses():
    assert parse_address("joint/39/0/3") == ("joint", 39, 0, 3)
    for wrong in ("joint/39/0", "joint/a/0/3", "/1/2/3", "joint/1/2/-3", "joint/1/2/\u00b2"):
        with pytest.raises(ValueError, match="no address"):
            parse_address(wrong)


def hostile(run):
    one = rollout(text="<script>alert(1)</script>")
    evil = estimate(one, 0, 3, 0.5, text="</pre><img src=x onerror=alert(1)> ``` | `")
    store(run, [one], [evil], decode=lambda ids: "<script>`|x</script>\n")
    return run.trajectory(4)


def test_pages_escape_what_models_wrote(run):
    one = hostile(run)
    for text in (one.to_html(), one._repr_html_()):
        assert "<script>" not in text and "<img" not in text
        assert "&lt;script&gt;" in text and "&lt;img" in text


def test_markdown_holds_whatever_the_text_is_in_indented_blocks(run):
    text = hostile(run).to_markdown()
    assert "\n    <script>`|x</script>\n" in text
    assert "\n    </pre><img src=x onerror=alert(1)> ``` | `\n" in text


def test_tokens_are_escaped_as_all_text(run):
    one = rollout()
    run.write_rollouts("joint", 4, [one], lambda ids: "<script>`| |")
    run.write_estimates("joint", 4, [estimate(one, 0, 3, 0.5)], {})
    result = run.trajectory(4)
    html, text = result.to_html(tokens=True), result.to_markdown(tokens=True)
    assert "<script>" not in html and "&lt;script&gt;`|·|" in html
    assert "\n           0.61        -  <script>`|·|\n" in text


@pytest.mark.parametrize("known", [(True, True), (True, False)])
def test_entropies_of_rationales_are_kept_where_all_are_known(run, known):
    one = rollout()
    queries = estimate(one, 0, 3, 0.5)
    rows = tuple(
        replace(queries.rationales[0], entropies=np.array([0.25, 1.5], np.float32) if k else None)
        for k in known
    )
    store(run, [one], [replace(queries, rationales=rows)], critic_decode=decode)
    result = run.trajectory(4).steps[0].rationale_entropies
    assert result == ((0.25, 1.5, None, 0.25, 1.5) if all(known) else None)


def test_entropies_that_an_engine_did_not_report_are_null(run):
    known = replace(rollout(1), entropies=np.array([0, 0.1234, 2], np.float32))
    store(run, [rollout(), known], [])
    assert run.trajectory(4).entropies is None
    assert run.trajectory(4, member=1).entropies == pytest.approx((0, 0.123, 2))
    rows = run.table("rollouts", "joint", 4, ["entropies"])
    assert rows[0] == {"entropies": None}


def test_json_holds_no_bare_nan(run):
    import json

    one = rollout()
    store(run, [one], [estimate(one, 0, 3, math.nan)])
    json.dumps(run.trajectory(4).as_dict(), allow_nan=False)


def test_frames_hold_every_step_with_its_stage(run):
    pytest.importorskip("pandas")
    one = rollout()
    store(run, [one], [estimate(one, 0, 3, 0.9)])
    run.write_rollouts("critic_rl", 1, [one, one])
    run.log("joint", 0, {"reward": 0.5})
    frame = run.rollouts_frame(columns=["reward"])
    assert frame[["stage", "step"]].values.tolist() == [["critic_rl", 1]] * 2 + [["joint", 4]]
    assert run.estimates_frame("joint").value.tolist() == [0.9]
    assert run.estimates_frame("critic_rl").empty
    assert run.metrics_frame().reward.tolist() == [0.5]


def test_frames_without_pandas_say_what_to_do(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match="genac\\[notebook\\]"):
        run.metrics_frame()
