"""A saved critic as an object: several rationales, seeds, chat prompts, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genac import Critic
from genac.cli import main
from genac.config.models import CriticConfig
from genac.critics.prompts import template
from genac.runs.manifest import write_done
from genac.scoring import read_card, spread
from genac.types import Rationale

GRID = np.arange(11) / 10


def save_critic_folder(tiny_folder: Path, folder: Path, **generative: Any) -> Path:
    """A critic folder of the tiny random model: its weights and critic.json."""
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    options = {"prompt": "compact", "max_new_tokens": 12, "num_samples": 2} | generative
    card = {
        "kind": "generative",
        "config": CriticConfig(generative=options).model_dump(),  # type: ignore[arg-type]
        "success_rate": {"momentum": 0.9, "value": 0.5},
        "prompt_hash": template(options["prompt"]).hash,
        "actor_size": "1K",
    }
    (folder / "critic.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_critic_folder(tiny_folder, tmp_path_factory.mktemp("saved") / "critic")


@pytest.fixture(scope="module")
def critic(folder: Path) -> Critic:
    return Critic.from_pretrained(folder, device="cpu", precision="fp32", batch_size=3)


def test_rationales_are_as_many_as_requested(critic):
    assert len(critic.score("a+3>", "a=").rationales) == critic.rationales == 2
    judged = critic.score("a+3>", "a=", rationales=5)
    assert len(judged.rationales) == len(judged.values) == 5
    assert judged.rationale == judged.rationales[0] and len(set(judged.rationales)) > 1
    with pytest.raises(ValueError, match="rationales is 0"):
        critic.score("a+3>", "a=", rationales=0)


def test_a_judgement_does_not_depend_on_its_batch(critic):
    pairs = [("a+3>", "a="), ("b>", ""), ("c-2>", "c=b")]
    together = critic.score_many(pairs, seed=4)
    assert together == [critic.score(*pair, seed=4) for pair in pairs]
    assert together[::-1] == critic.score_many(pairs[::-1], seed=4)
    assert together != critic.score_many(pairs, seed=5)


def test_chat_messages_are_read_as_their_text(critic):
    chat = [{"role": "system", "content": "a"}, {"role": "user", "content": "b>"}]
    assert critic.prompt(chat, "c") == critic.prompt("a\nb>", "c")
    for wrong in ([], [{"role": "user"}]):
        with pytest.raises(ValueError, match="chat messages"):
            critic.score(wrong, "c")


def test_the_success_rate_reaches_the_prompt(critic):
    assert critic.prompt("b>", "c") == critic.prompt("b>", "c", 0.5) != critic.prompt("b>", "c", 1)
    with pytest.raises(ValueError, match=r"success_rate is 1\.5"):
        critic.prompt("b>", "c", 1.5)


def test_text_beyond_the_context_is_refused_with_the_numbers(critic):
    with pytest.raises(ValueError, match=r"\d+ tokens, and its context leaves room for 2036"):
        critic.score_many([("b>", "c"), ("b>", "c" * 3000)])


def test_spread_by_hand():
    def rationale(value: float | None, *scores: int) -> Rationale:
        probs = np.bincount(scores, minlength=11) / len(scores) if scores else None
        return Rationale((1,), (2,), np.zeros(1, np.float32), "", value, 0, probs)

    # between rationales
    assert spread([rationale(0.2, 2), rationale(0.8, 8)]) == pytest.approx(0.3)
    assert spread([rationale(0.2, 2, 8)]) == pytest.approx(0.3)  # within one
    assert spread([rationale(0.2), rationale(0.8), rationale(None)]) == pytest.approx(0.3)
    assert spread([rationale(0.2)]) is None  # one sampled score says nothing of its spread


def test_describe_is_json_and_holds_the_prompt(critic):
    answer = json.loads(json.dumps(critic.describe()))
    assert answer["prompt"]["text"] == template("compact").text
    assert (answer["rationales"], answer["success_rate"], answer["actor_size"]) == (2, 0.5, "1K")


def test_what_is_no_generative_critic_is_refused(tmp_path, tiny_folder):
    with pytest.raises(ValueError, match=r"no critic\.json"):
        Critic.from_pretrained(tiny_folder)
    (tmp_path / "critic.json").write_text('{"kind": "discriminative"}')
    with pytest.raises(ValueError, match="is discriminative"):
        read_card(tmp_path)
    folder = save_critic_folder(tiny_folder, tmp_path / "old")
    card = json.loads((folder / "critic.json").read_text())
    card["config"]["dropped_key"] = 1
    (folder / "critic.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="another version of genac:\ndropped_key: unknown key"):
        Critic.from_pretrained(folder)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Critic.from_pretrained(save_critic_folder(tiny_folder, tmp_path / "new"), batch_size=0)


@pytest.mark.parametrize("verb", ["score", "serve"])
@pytest.mark.parametrize("name", ["model.safetensors", "critic.json"])
def test_a_damaged_critic_of_a_finished_run_is_refused(verb, name, tiny_folder, tmp_path, capsys):
    saved = save_critic_folder(tiny_folder, tmp_path / "critic")
    write_done(tmp_path, {})
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[:-1] + b"\0")
    assert main([verb, str(saved), *(["a+3>", "a="] if verb == "score" else [])]) == 2
    message = capsys.readouterr().err
    assert f"{saved / name} is not as it was written" in message and "restore it" in message


def test_a_name_the_hub_does_not_give(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError,
        match="'owner/nothing' is no folder here and was not downloaded, and HF_HUB_OFFLINE",
    ):
        Critic.from_pretrained("owner/nothing")


def test_only_so_many_problems_are_remembered(critic, monkeypatch):
    monkeypatch.setattr("genac.critics.prompts.REMEMBERED", 2)
    expected = [critic.prompt(f"{'a' * n}>", "b") for n in range(1, 6)]
    assert expected == [critic.prompt(f"{'a' * n}>", "b") for n in range(1, 6)]
    assert len(critic._critic.prompts._problems) <= 2
