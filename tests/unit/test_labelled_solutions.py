"""Traces from solutions that others wrote: states, scores and prompts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import CHAT, byte_tokenizer

from genac.commands.doctor.report import examine
from genac.commands.early import require_inputs
from genac.config.recipes import from_command_line, resolve
from genac.config.run import RunConfig, StatesConfig
from genac.critics.prompts import PromptBuilder, template
from genac.stages.traces.files import Trace, problem_of
from genac.stages.traces.inputs import TraceInputs
from genac.stages.traces.labels import check, labelled, require_fitting, responses, traces_of
from genac.tasks import make_task

RIGHT = {"problem": "p", "solution": "a\nb\nc", "correct": True}
WRONG = {"problem": "q", "solution": "d\ne\n", "correct": False}
STEPS = {"problem": "p", "steps": ["a", "b", "c"]}


def written(folder: Path, *rows: dict[str, Any], name: str = "solutions.jsonl") -> str:
    file = folder / name
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def config(path: str | None, stage: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    stage = {"oracle": "labels", "path": path} | (stage or {})
    return resolve({"stages": {"synthesize": stage}, **more})


def problems(folder: Path, *texts: str) -> dict[str, Any]:
    """A file task that holds these problems out."""
    train = written(folder, {"prompt": "other", "answer": "1"}, name="train.jsonl")
    held = written(folder, *({"prompt": t, "answer": "1"} for t in texts), name="held.jsonl")
    return {"name": "file", "path": train, "options": {"heldout": held}}


def traces(cfg: RunConfig, states: StatesConfig | None = None, chat: str | None = None):
    tokenizer = byte_tokenizer(chat)
    some = labelled(cfg, make_task(cfg.task, cfg.seed))
    return traces_of(list(responses(some.pairs, tokenizer)), states or StatesConfig(), tokenizer)


def scores(some: list[Trace]) -> list[tuple[str, int]]:
    return [(one.partial, one.score) for one in some]


def test_each_state_has_the_score_of_the_outcome_and_no_reasoning(tmp_path: Path):
    some = traces(config(written(tmp_path, RIGHT, WRONG)))
    assert scores(some) == [
        *(("", 10), ("a\n", 10), ("a\nb\n", 10), ("a\nb\nc", 10)),
        *(("", 0), ("d\n", 0), ("d\ne\n", 0)),
    ]
    assert {one.reasoning for one in some} == {""}
    assert {one.success_rate for one in some} == {0.5}
    assert len({one.problem["id"] for one in some}) == 2


@pytest.mark.parametrize(
    ("labels", "result"),
    [
        ({"correct": True, "label": -1}, [10, 10, 10, 10]),
        ({"correct": True, "label": 1}, [10, 10, 0, 0]),  # a right answer behind a wrong step
        ({"correct": False, "label": 2}, [0, 0, 0, 0]),
        ({"label": 1}, [0, 0, 0, 0]),  # without an outcome a wrong step makes it wrong
        ({"labels": [1, 1, 1]}, [10, 10, 10, 10]),
        ({"labels": [1, 0, 1]}, [0, 0, 0, 0]),
        ({"labels": [0, -1, 0], "correct": 1}, [10, 10, 0, 0]),  # 0 is neutral
        ({"correct": 0, "label": -1}, [0, 0, 0, 0]),
    ],
)
def test_from_the_first_wrong_step_on_the_score_is_zero(tmp_path: Path, labels, result):
    some = traces(config(written(tmp_path, STEPS | labels)))
    assert [one.score for one in some] == result


def test_equal_states_have_the_mean_of_their_labels(tmp_path: Path):
    rows = [RIGHT, RIGHT | {"solution": "a\nx", "correct": False}, RIGHT | {"solution": "y"}]
    assert dict(scores(traces(config(written(tmp_path, *rows))))) == {
        **{"": 7, "a\n": 5, "a\nb\n": 10, "a\nb\nc": 10},
        **{"a\nx": 0, "y": 10},
    }


def test_states_are_cut_as_the_config_says(tmp_path: Path):
    cfg = config(written(tmp_path, RIGHT))
    windows = traces(cfg, StatesConfig(splitter="window", window=2))
    assert [one.partial for one in windows] == ["", "a\n", "a\nb\n", "a\nb\nc"]
    few = traces(cfg, StatesConfig(max_states=2))
    assert [one.partial for one in few] == ["", "a\nb\nc"]


@pytest.mark.parametrize("chat", [None, CHAT])
def test_the_critic_learns_from_what_eval_solutions_shows_it(tmp_path: Path, chat: str | None):
    row = {"problem": "Add <eos>", "solution": "é = 1\n<|user|>\n\nb", "correct": 1}
    some = traces(config(written(tmp_path, row)), chat=chat)
    assert [one.partial for one in some] == ["", "é = 1\n", "é = 1\n<|user|>\n\n", row["solution"]]
    tokenizer = byte_tokenizer(chat)
    builder = PromptBuilder(template("paper"), tokenizer, tokenizer)
    for one in some:
        problem = problem_of(one.problem)
        shown = builder.render_text(problem, one.partial, None)
        assert builder.render_ids(problem, one.partial_ids, None) == shown


def test_a_problem_is_asked_as_the_task_asks_it(tmp_path: Path):
    task = problems(tmp_path, "held")
    task["options"] |= {"instruction": "Think.", "system": "Be terse."}
    (one, *_) = traces(config(written(tmp_path, RIGHT), task=task))
    assert one.problem["prompt"] == [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "p\n\nThink."},
    ]


# --- what is left out, and what is refused --------------------------------------------------------


def test_held_out_problems_are_left_out_and_counted(tmp_path: Path):
    task = problems(tmp_path, "  Q ", "else")
    task["options"]["instruction"] = "Think."
    rows = [RIGHT, WRONG, WRONG | {"problem": "q\n"}, RIGHT | {"correct": None}]
    cfg = config(written(tmp_path, *rows), task=task)
    some = labelled(cfg, make_task(cfg.task, 0))
    assert [solution.problem for _, solution in some.pairs] == ["p"]
    assert some.left_out == {"unlabelled": 1, "heldout": 2}


def test_a_file_without_anything_to_learn_from_is_refused(tmp_path: Path):
    task = problems(tmp_path, "p", "q")
    cfg = config(written(tmp_path, RIGHT, WRONG), task=task)
    with pytest.raises(ValueError, match=r"solutions.jsonl': all of its problems are held-out pro"):
        check(cfg, make_task(cfg.task, 0))
    cfg = config(written(tmp_path, RIGHT | {"correct": None}))
    with pytest.raises(ValueError, match="not one of its 1 solutions has a label; fill in correct"):
        check(cfg, make_task(cfg.task, 0))
    cfg = config(written(tmp_path, {"problem": "p", "solution": "a"}))
    with pytest.raises(ValueError, match=r"has no labels.*stages\.synthesize\.columns\.correct=is"):
        check(cfg, make_task(cfg.task, 0))
    cfg = config(written(tmp_path, RIGHT), stage={"columns": {"correct": "ok"}})
    with pytest.raises(ValueError, match=r"stages\.synthesize\.columns\.correct=ok: .* no column"):
        check(cfg, make_task(cfg.task, 0))


def test_solutions_beyond_the_context_of_the_actor_are_refused(tmp_path: Path):
    cfg = config(written(tmp_path, RIGHT, WRONG))
    some, tokenizer = labelled(cfg, make_task(cfg.task, 0)), byte_tokenizer()
    require_fitting(cfg, some, tokenizer, 5)
    with pytest.raises(ValueError, match=r"context of 4 tokens \(the shortest has 5 with"):
        require_fitting(cfg, some, tokenizer, 4)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"oracle": "labels"},
            "there is no file of labelled solutions; set stages.synthesize.path",
        ),
        ({"oracle": "outcome", "path": "x"}, "path is 'x' but oracle is 'outcome'.*leave path out"),
        ({"own_responses": True}, "own_responses is True but oracle is 'task'"),
    ],
)
def test_keys_of_another_oracle_are_refused(stage: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        resolve({"stages": {"synthesize": stage}})


def test_columns_and_the_actors_share_on_the_command_line():
    typed = ["--stages.synthesize.oracle", "labels", "--stages.synthesize.path", "x.csv"]
    typed += ["--stages.synthesize.columns.correct", "ok"]
    stage = from_command_line(typed, "genac sft").stages.synthesize
    assert stage.columns == {"correct": "ok"} and stage.responses == 0
    own = from_command_line([*typed, "--stages.synthesize.own-responses"], "genac sft")
    assert own.stages.synthesize.responses == stage.num_prompts * stage.num_generations


def test_a_splitter_that_needs_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"low_probability.*set it to newline or"):
        config("x.jsonl", states={"splitter": "low_probability"})


def test_a_missing_file_is_refused_at_once_where_a_critic_learns_from_it():
    with pytest.raises(ValueError, match=r"'nowhere\.jsonl' does not exist"):
        require_inputs(config("nowhere.jsonl"))
    require_inputs(config("nowhere.jsonl", algorithm="grpo"))


def test_the_doctor_counts_labels_and_what_is_left_out(tmp_path: Path):
    tiny = {"actor": {"tiny": {"hidden_size": 32, "layers": 1, "heads": 2, "max_length": 1024}}}
    tiny |= {"critic": {"generative": {"prompt": "compact", "max_new_tokens": 16}}}

    def line(*rows: dict[str, Any], **stage: Any) -> list[str]:
        cfg = config(written(tmp_path, *rows), stage, task=problems(tmp_path, "q"), **tiny)
        return [one for one in examine(cfg)[0] if "solution" in one]

    (text,) = line(RIGHT, WRONG, RIGHT | {"solution": "x", "correct": 0})
    assert text == (
        "ok   labels: 1 of 2 solutions are right; 1 solve a held-out problem of the task and are "
        "left out"
    )
    (text,) = line(RIGHT)
    assert text.startswith("warn labels: 1 of 1 solutions are right; so the critic learns a const")
    assert "stages.synthesize.own_responses" in text
    assert line(RIGHT, own_responses=True)[0].startswith("ok ")
    (text,) = line(WRONG)
    assert text.startswith("FAIL labelled solutions: stages.synthesize.path")


def test_the_contents_of_the_file_count_and_not_its_place(tmp_path: Path):
    def name(path: str) -> str:
        return TraceInputs.of(config(path), Path("base-0/model")).name

    first = name(written(tmp_path, RIGHT, WRONG))
    assert name(written(tmp_path, RIGHT, WRONG, name="moved.jsonl")) == first
    assert name(written(tmp_path, RIGHT, WRONG | {"correct": True})) != first
