"""What the warm-up trains: responses behind prompts as RL writes them, from a task or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import CHAT, byte_tokenizer

from genac.config.run import RunConfig, TaskConfig
from genac.models.chat import encode_prompt
from genac.stages.warmup import Samples, WarmupInputs, check, of_file, response_sample
from genac.tasks import make_task
from genac.tasks.files import FileTask
from genac.types import Problem, Sample

PAIRS = [{"prompt": f"{a}+1=?", "completion": f"It is {a + 1}."} for a in range(7)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": pair["prompt"]},
            {"role": "assistant", "content": pair["completion"]},
        ]
    }
    for pair in PAIRS
]


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def config(**warmup: Any) -> RunConfig:
    return RunConfig(stages={"warmup": {"steps": 3, "batch_size": 4, **warmup}})  # pyright: ignore[reportArgumentType]


def texts(tokenizer: Any, sample: Sample) -> tuple[str, str]:
    """What is read, and what is trained."""
    start = int(np.argmax(sample.weights))
    return tokenizer.decode(sample.ids[:start]), tokenizer.decode(sample.ids[start:])


@pytest.mark.parametrize("chat", [None, CHAT])
def test_only_the_response_and_its_end_are_trained(chat: str | None):
    tokenizer, problem = byte_tokenizer(chat), Problem("p", "2+3=?", "5")
    sample = response_sample(tokenizer, problem, "It is 5.")
    prompt = encode_prompt(tokenizer, problem)
    assert sample.ids[: len(prompt)] == prompt and sample.ids[-1] == tokenizer.eos_token_id
    assert list(sample.weights) == [0.0] * len(prompt) + [1.0] * (len(sample.ids) - len(prompt))
    assert texts(tokenizer, sample)[1] == "It is 5.<eos>"


def test_chats_and_columns_of_the_same_words_are_the_same_samples(tmp_path: Path):
    tokenizer = byte_tokenizer(CHAT)
    batches = [
        Samples(config(path=written(tmp_path, rows)), tokenizer, 100).batch(0)[0]
        for rows in (PAIRS, CHATS)
    ]
    assert [s.ids for s in batches[0]] == [s.ids for s in batches[1]]


def test_columns_may_have_other_names(tmp_path: Path):
    rows = [{"q": row["prompt"], "a": row["completion"]} for row in PAIRS]
    cfg = config(path=written(tmp_path, rows), prompt_column="q", completion_column="a")
    assert [text for _, text in of_file(cfg)] == [p["completion"] for p in PAIRS]


def test_a_prompt_of_messages_takes_a_completion_of_one_message(tmp_path: Path):
    row = {"prompt": CHATS[0]["messages"][:1], "completion": CHATS[0]["messages"][1:]}
    problem, text = of_file(config(path=written(tmp_path, [row])))[0]
    assert problem.prompt == row["prompt"] and text == "It is 1."


def test_rows_are_prompted_as_rl_prompts_the_problems_of_the_file_task(tmp_path: Path):
    options = {"instruction": "Think step by step.", "system": "You are terse."}
    cfg = config(path=written(tmp_path, PAIRS))
    cfg = cfg.model_copy(update={"task": TaskConfig(name="file", options=options)})
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "0+1=?", "answer": "1"}))
    task = FileTask(str(data), heldout_fraction=0.0, **options)
    (problem, text), tokenizer = of_file(cfg)[0], byte_tokenizer(CHAT)
    assert text == "It is 1."
    prompt = encode_prompt(tokenizer, task.problem("train", 0))
    assert encode_prompt(tokenizer, problem) == prompt
    (row, *_), _ = Samples(cfg, tokenizer, 200).batch(0)
    assert "You are terse." in texts(tokenizer, row)[0]


def test_what_a_row_states_itself_is_not_repeated(tmp_path: Path):
    options = {"instruction": "Think.", "system": "You are terse."}
    own = [
        {"role": "system", "content": "Be long."},
        {"role": "user", "content": "1+1=?\n\nThink."},
        {"role": "assistant", "content": "2"},
    ]
    cfg = config(path=written(tmp_path, [{"messages": own}]))
    cfg = cfg.model_copy(update={"task": TaskConfig(name="file", options=options)})
    (problem, _), *_ = of_file(cfg)
    assert problem.prompt == own[:2]


def test_what_prompts_wear_is_counted_in_the_folder_of_a_warm_up_by_file(tmp_path: Path):
    file = written(tmp_path, PAIRS)

    def name(**options: str) -> str:
        cfg = config(path=file)
        task = TaskConfig(name="file", options=options)
        return WarmupInputs.of(cfg.model_copy(update={"task": task}), Path("actor")).name

    assert name() == name(overlong="skip") == name(system="")
    assert len({name(), name(system="a"), name(instruction="a"), name(instruction="b")}) == 4


def test_an_epoch_shows_every_row_once_in_another_order(tmp_path: Path):
    samples = Samples(config(path=written(tmp_path, PAIRS)), byte_tokenizer(), 100)
    drawn = [sample.ids for step in range(7) for sample in samples.batch(step)[0]]
    epochs = [drawn[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_its_step_alone(tmp_path: Path):
    cfg = config(path=written(tmp_path, PAIRS))
    one, two = (Samples(cfg, byte_tokenizer(), 100) for _ in range(2))
    one.batch(0), one.batch(1)
    assert [s.ids for s in one.batch(2)[0]] == [s.ids for s in two.batch(2)[0]]


def test_demonstrations_of_a_task_are_correct():
    cfg = config()
    task, tokenizer = make_task(cfg.task, cfg.seed), byte_tokenizer()
    batch, dropped = Samples(cfg, tokenizer, 500).batch(2)
    assert dropped == 0 and len(batch) == 4
    for index, sample in enumerate(batch, 8):
        problem = task.problem("train", index)
        response = texts(tokenizer, sample)[1].removesuffix("<eos>")
        assert task.verify(problem, response) == 1.0


def test_rows_beyond_the_context_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [*PAIRS, {"prompt": "1+1=?", "completion": "x" * 200}]
    samples = Samples(config(path=written(tmp_path, rows)), byte_tokenizer(), 60)
    assert len(samples.rows) == len(PAIRS)
    assert "1 of 8 rows" in capsys.readouterr().err


def test_a_file_of_which_no_row_fits_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no row of .*rows\.jsonl' fits .* 5 tokens .*longest"):
        Samples(config(path=written(tmp_path, PAIRS)), byte_tokenizer(), 5)


def test_a_task_whose_demonstrations_do_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"no demonstration of warm-up step 0 fits .* 5 tokens"):
        Samples(config(), byte_tokenizer(), 5).batch(0)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"question": "2+3", "answer": "5"}], r"neither .*'messages' nor .*\['question', 'answer"),
        ([PAIRS[0], {"prompt": "2+3", "completion": ""}], r"row 2 .*'completion' is empty"),
        ([PAIRS[0], {"prompt": None, "completion": "5"}], r"row 2 .*'prompt' is empty"),
        ([{"prompt": "2+3", "completion": 5}], r"row 1 .*the completion a text"),
        ([{"messages": CHATS[0]["messages"][:1]}], r"row 1 .*the last is the assistant's"),
        ([CHATS[0], {"messages": "2+3"}], r"row 2 .*list of messages"),
    ],
)
def test_bad_rows_are_refused_before_any_model_is_made(
    rows: list[dict[str, Any]], says: str, tmp_path: Path
):
    with pytest.raises(ValueError, match=says):
        check(config(path=written(tmp_path, rows)))


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"none\.jsonl' does not exist"):
        check(config(path="none.jsonl"))


def test_without_steps_nothing_is_read():
    check(config(steps=0, path="none.jsonl"))
