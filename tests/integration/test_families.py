"""Real families end to end: every stage, other tokenizers on the critic's side, save, reload in
plain transformers, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, save_family
from micro import weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from genac.config.recipes import resolve
from genac.critics.prompts import PromptBuilder, template
from genac.models.loading import load_tokenizer
from genac.rollout import encode_prompt
from genac.runs.store import Run
from genac.stages.pipeline import train
from genac.stages.setup import Setup
from genac.types import Problem

REWARD = """
def has_digit(completions, **columns):
    return [float(any(c.isdigit() for c in str(completion))) for completion in completions]
"""
PAIRS = [("qwen3", "llama"), ("llama", "llama"), ("gemma", "qwen3"), ("mistral", "gemma")]


def recipe(folder: Path, actor: str, critic: str, **rest: Any) -> dict[str, Any]:
    rows = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(6) for b in "12"
            for b in (int(b),)]  # fmt: skip
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "closeness.py").write_text(REWARD)
    models = {
        role: save_family(name, folder / role, seed=i)
        for i, (role, name) in enumerate((("actor", actor), ("critic", critic)))
    }
    optimizer = {"learning_rate": 1e-3}
    return {
        "output_dir": str(folder / "run"),
        "task": {
            "name": "file",
            "path": str(folder / "sums.jsonl"),
            "reward": f"{folder}/closeness.py:has_digit",
            "options": {"heldout_fraction": 0.3, "instruction": "Box the answer."},
        },
        "actor": {"model_name_or_path": models["actor"], "optimizer": optimizer},
        "critic": {
            "model_name_or_path": models["critic"],
            "optimizer": optimizer,
            "generative": {"prompt": "paper", "max_new_tokens": 10},
        },
        "rollout": {"num_prompts": 2, "num_generations": 2, "max_completion_length": 12},
        "states": {"splitter": "window", "window": 6},
        "stages": {
            "folder": str(folder / "stages"),
            "synthesize": {"oracle": "outcome", "num_prompts": 4, "num_states": 8},
            "sft": {"epochs": 20, "batch_size": 8, "optimizer": {"learning_rate": 2e-2}},
            "critic_rl": {"steps": 1},
            "joint": {"steps": 3, "eval_every": 0, "save_every": 1},
        },
        "evaluate": {"num_problems": 2, "num_samples": 2, "panel_problems": 0},
        "hardware": {"device": "cpu", "threads": 1},
        **rest,
    }


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    """A run that is stopped right after a joint step was logged."""
    log = Run.log

    def stop(self: Run, stage: str, at: int, row: Any) -> None:
        log(self, stage, at, row)
        if (stage, at) == ("joint", step):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(resolve(values))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("actor", "critic"),
    [PAIRS[0], *(pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS[1:])],
)
def test_all_stages_save_reload_resume(
    actor: str, critic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe(tmp_path, actor, critic)
    whole = Run.open(train(resolve(values)))
    stages = list(dict.fromkeys(line["stage"] for line in whole.metrics()))
    assert stages == ["synthesize", "critic_sft", "critic_rl", "joint"]
    assert any(row["critic/parse_failure_rate"] < 1 for row in whole.metrics("joint"))
    again = values | {"output_dir": str(tmp_path / "again")}
    interrupted_at(1, monkeypatch, again)
    resumed = Run.open(train(resolve(again)))
    assert [e["stage"] for e in resumed.events("resumed")] == ["joint"]
    assert weights(resumed) == weights(whole)
    for role, family in (("actor", actor), ("critic", critic)):
        model = AutoModelForCausalLM.from_pretrained(whole.path / role)
        tokenizer = AutoTokenizer.from_pretrained(whole.path / role)
        assert model.config.model_type == FAMILIES[family].config.model_type
        start = AutoTokenizer.from_pretrained(values[role]["model_name_or_path"])
        assert tokenizer.encode(REWARD) == start.encode(REWARD)
        assert tokenizer.chat_template == FAMILIES[family].template
        message = [{"role": "user", "content": "What is 2 + 3?"}]
        ids = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            assert model.generate(**ids, max_new_tokens=4).shape[1] > ids["input_ids"].shape[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_base_with_two_sets_of_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages on one copy of the frozen weights, resumed, and evaluated from its folder."""
    pytest.importorskip("peft")
    values = recipe(tmp_path, "qwen3", "qwen3")
    lora = {"rank": 8, "alpha": 32}
    values["actor"] |= {"lora": lora}
    values["critic"] |= {"lora": lora, "share_base": True, "model_name_or_path": None}
    values["evaluate"] |= {"panel_problems": 2, "panel_continuations": 2}
    values["stages"]["joint"]["steps"] = 2
    whole = Run.open(train(resolve(values)))
    again = values | {"output_dir": str(tmp_path / "again")}
    interrupted_at(1, monkeypatch, again)
    resumed = Run.open(train(resolve(again)))
    assert weights(resumed) == weights(whole)
    first, last = (
        json.loads((f / "critic.json").read_text())["base"]
        for f in (next(tmp_path.glob("stages/critic_sft-*/model")), whole.path / "critic")
    )
    assert first == last  # the adapters of every stage are on the model that all began with
    cfg = resolve(values)
    trained = Setup.of(cfg).actor(whole.path / "actor")
    critic = Setup.of(cfg).critic(whole.path / "critic", trained)  # its merged weights, alone
    assert critic.runtime is not None
    shared = {p.data_ptr() for p in trained.model.parameters()}
    assert not shared & {p.data_ptr() for p in critic.runtime.model.parameters()}


def test_sharing_needs_one_model_and_one_shape(tmp_path: Path) -> None:
    values = recipe(tmp_path, "qwen3", "llama")
    values["actor"] |= {"lora": {"rank": 8}}
    values["critic"] |= {"lora": {"rank": 8}, "share_base": True}
    with pytest.raises(ValueError, match=r"critic\.share_base needs .* the actor's model"):
        resolve(values)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_prompts_are_those_of_plain_transformers(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(name, tmp_path / name))
    message = [{"role": "user", "content": "What is 2 + 3?"}]
    expected = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert list(encode_prompt(tokenizer, Problem("p", "What is 2 + 3?", "5"))) == list(expected)
    builder = PromptBuilder(template("paper"), tokenizer, tokenizer)
    prompt = builder.render_text(Problem("p", "2 + 3?", "5"), "We add: <answer>10</answer>", None)
    text = tokenizer.decode(prompt)
    assert text.count("2 + 3?") == text.count("We add: <answer>10</answer>") == 1
    assert prompt.count(tokenizer.bos_token_id) <= 1


def test_thinking_is_switched_by_the_template(tmp_path: Path) -> None:
    folder = save_family("qwen3", tmp_path / "qwen3")
    problem = Problem("p", "What is 2 + 3?", "5")
    both = [load_tokenizer(folder, kwargs) for kwargs in ({}, {"enable_thinking": False})]
    texts = [tokenizer.decode(encode_prompt(tokenizer, problem)) for tokenizer in both]
    assert "<think>" not in texts[0] and texts[1].endswith("<think>\n\n</think>\n\n")


def test_a_template_that_refuses_a_role_says_which(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family("gemma", tmp_path / "gemma"))
    chat = [{"role": "system", "content": "You add."}, {"role": "user", "content": "2 + 3?"}]
    with pytest.raises(ValueError, match=r"\['system', 'user'\] \(System role not supported\)"):
        encode_prompt(tokenizer, Problem("p", chat, "5"))
