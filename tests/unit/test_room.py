"""Prompts beyond the context are named by their rows, or left out, before anything is trained."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import CHAT, byte_tokenizer
from tokenizers.normalizers import NFD, NFKC, NFKD, Lowercase

from genac.config.recipes import resolve
from genac.critics.prompts import PromptBuilder, template
from genac.evals.room import beyond_context, places, require_room, splits_of, too_long
from genac.models.chat import encode_prompt
from genac.models.tiny import save_tiny
from genac.stages.critic_rl import CriticRLInputs
from genac.stages.panels import PanelInputs
from genac.stages.setup import Setup, make_world, require_fitting
from genac.stages.traces.inputs import TraceInputs
from genac.stages.traces.states import CandidateInputs
from genac.tasks.files import FileTask
from genac.types import Problem

SHAPE = {"hidden_size": 32, "layers": 1, "heads": 2, "seed": 0}


def write(path: Path, lengths: list[int], sign: str = "+") -> str:
    """Rows 1, 2, ... with prompts of so many characters."""
    rows = [{"prompt": (f"{i} " + sign * n)[:n], "answer": "5"} for i, n in enumerate(lengths)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def problems(lengths: list[int], text: str = "x") -> list[Problem]:
    return [Problem(f"file-{i}", text * n, "") for i, n in enumerate(lengths, 1)]


@pytest.mark.parametrize("chat", [None, CHAT])
@pytest.mark.parametrize(
    "text",
    ["x", "é", "\ufdfa", "\ud83d", "\u0130", "\uac01", "\N{CJK UNIFIED IDEOGRAPH-7B2C}", "+"],
)
def test_prompts_are_measured_in_tokens_with_their_template(chat, text):
    tokenizer = byte_tokenizer(chat)
    many = problems([1, 30, 31, 32, 33, 34, 100, 3], text)
    lengths = [len(encode_prompt(tokenizer, p)) for p in many]
    for room in (1, 30, 33, 34, 35, 64, 10_000):
        expected = {i: n for i, n in enumerate(lengths) if n > room}
        assert too_long(tokenizer, many, room) == expected


@pytest.mark.parametrize("normaliser", [NFKD, NFKC, NFD, Lowercase])
@pytest.mark.parametrize("text", ["\ufdfa", "\u0130", "\uac01", "\u3300", "é", "\u1fb7"])
def test_a_tokenizer_that_takes_characters_apart_is_measured_too(normaliser, text):
    """U+FDFA becomes 18 characters."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normaliser()
    tokens = len(encode_prompt(tokenizer, problems([50], text)[0]))
    assert too_long(tokenizer, problems([50], text), tokens - 1) == {0: tokens}
    assert not too_long(tokenizer, problems([50], text), tokens)


def test_chat_prompts_are_measured_as_they_are_sent():
    tokenizer = byte_tokenizer(CHAT)
    begun = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "x" * 50}]
    tools = [{"role": "user", "content": "2?", "name": "x" * 90}]
    many = [Problem("a-1", p, "") for p in (begun, tools, begun[:1], [*begun, *begun])]
    lengths = [len(encode_prompt(tokenizer, p)) for p in many]
    assert too_long(tokenizer, many, 20) == {i: n for i, n in enumerate(lengths) if n > 20}


def test_the_rows_are_named_with_number_and_remedy():
    tokenizer = byte_tokenizer()
    splits = {"train": problems([9, 50, 9, 70]), "heldout": problems([60, 8])}
    with pytest.raises(ValueError) as error:
        require_room(splits, tokenizer, 64, 20, "actor")
    message = str(error.value)
    assert "3 of 6 prompts are too long (train rows 2, 4; heldout row 1)" in message
    assert (
        "train row 4 has 70 tokens, which with 20 new tokens exceeds the context of 64" in message
    )
    assert "overlong" in message and "max_completion_length" in message
    require_room(splits, tokenizer, 90, 20, "actor")
    with pytest.raises(ValueError, match=r"64 new tokens leave no room .* context of 64"):
        require_room(splits, tokenizer, 64, 64, "actor")
    many = {"train": problems([50] * 30)}
    assert places(many, {"train": range(30)}) == "train rows 1, 2, 3, 4, 5 and 25 more"


def test_the_critic_judges_every_problem_that_fits():
    tokenizer = byte_tokenizer()
    builder = PromptBuilder(template("compact"), tokenizer, tokenizer)
    around = len(builder.render_text(Problem("", "", ""), "", None))
    splits = {"train": problems([5, 20, 21], "é")}
    assert beyond_context(splits, builder, around + 42, None) == ""
    assert beyond_context(splits, builder, around + 41, None) == "1 of 3 problems (train row 3)"
    with pytest.raises(ValueError, match="no prompt about any of the 3 problems fits"):
        beyond_context(splits, builder, around + 9, None)


def test_a_hundred_thousand_rows_take_seconds():
    tokenizer = byte_tokenizer(CHAT)
    builder = PromptBuilder(template("paper"), tokenizer, tokenizer)
    rows = [*problems([300 + i % 7 for i in range(50_000)]), *problems([90] * 50_000, "\u7b2c")]
    splits = {"train": rows}
    start = time.perf_counter()
    require_room(splits, tokenizer, 4096, 1024, "actor")
    assert beyond_context(splits, builder, 3000, None) == ""
    assert time.perf_counter() - start < 10


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path):
    """recipe(lengths, ...) -> config of a run on rows of these lengths and a model of context
    64."""

    def make(
        lengths: list[int],
        options: dict[str, Any] | None = None,
        algorithm: str = "genac",
        **critic: Any,
    ):
        path = write(tmp_path / "rows.jsonl", lengths)
        save_tiny(tmp_path / "model", FileTask(path).alphabet(), max_length=64, **SHAPE)
        model = {"model_name_or_path": str(tmp_path / "model")}
        return resolve(
            {
                "output_dir": str(tmp_path / "run"),
                "algorithm": algorithm,
                "task": {"name": "file", "path": path, "options": options or {}},
                "actor": model,
                "critic": {"generative": {"prompt": "compact", "max_new_tokens": 8}, **critic},
                "rollout": {"max_completion_length": 24},
                "stages": {"folder": str(tmp_path / "stages")},
                "hardware": {"device": "cpu"},
            }
        )

    return make


def test_a_run_refuses_long_rows_before_it_begins(recipe):
    require_fitting(Setup.of(recipe([10, 20, 40])))
    with pytest.raises(ValueError, match=r"2 of 4 prompts are too long .*row 3.* exceeds the"):
        require_fitting(Setup.of(recipe([10, 20, 90, 60])))


def test_a_tiny_model_that_is_not_built_yet_is_measured_too(recipe):
    cfg = recipe([10, 20, 90])
    actor = cfg.actor.model_copy(update={"model_name_or_path": None})
    with pytest.raises(ValueError, match="1 of 3 prompts are too long"):
        tiny = actor.tiny.model_copy(update={"max_length": 64})
        own = actor.model_copy(update={"tiny": tiny})
        require_fitting(Setup.of(cfg.model_copy(update={"actor": own})))


def test_long_rows_are_left_out_and_counted_where_configured(recipe):
    cfg = recipe([10, 20, 90, 30, 60], {"overlong": "skip", "heldout_fraction": 0.4})
    setup = Setup.of(cfg)
    require_fitting(setup)
    task = setup.world.task
    kept = sorted(p.id for split in splits_of(task).values() for p in split)
    assert kept == ["file-1", "file-2", "file-4"]
    assert task.row_counts()["removed"]["overlong"] == 2
    again = splits_of(make_world(cfg).task)
    assert again == splits_of(task)  # whoever makes the task again gets the same one
    actor = Path(cfg.actor.model_name_or_path)
    for inputs in (
        CandidateInputs.of(cfg, actor),
        TraceInputs.of(cfg, actor),
        CriticRLInputs.of(cfg, actor, actor),
        PanelInputs.of(cfg, actor, {}),
    ):
        assert splits_of(inputs.setup().world.task) == again, inputs.stage


def test_a_value_head_of_a_shorter_context_leaves_out_what_it_cannot_read(recipe, tmp_path):
    path = str(tmp_path / "critic")
    options = {"overlong": "skip"}
    cfg = recipe([10, 20, 38, 30, 25], options, algorithm="ppo", model_name_or_path=path)
    save_tiny(path, FileTask(cfg.task.path).alphabet(), max_length=50, **SHAPE)
    setup = Setup.of(cfg)
    require_fitting(setup)
    kept = sorted(p.id for split in splits_of(setup.world.task).values() for p in split)
    assert kept == ["file-1", "file-2", "file-5"]


def test_nothing_left_is_reported_with_its_cause(recipe):
    with pytest.raises(ValueError, match=r"'skip' leaves nothing of the train split: all 3 "):
        Setup.of(recipe([90, 70, 80], {"overlong": "skip"}))


def test_a_critic_without_room_is_reported(recipe, capsys):
    generative = {"prompt": "compact", "max_new_tokens": 30}
    require_fitting(Setup.of(recipe([10, 20, 40], generative=generative)))
    assert "about 1 of 3 problems" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no prompt about any"):
        generative = {"prompt": "compact", "max_new_tokens": 58}
        require_fitting(Setup.of(recipe([30, 30], generative=generative)))


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="overlong is 'drop'; use 'refuse' or 'skip'"):
        FileTask(write(tmp_path / "a.jsonl", [3]), overlong="drop")
