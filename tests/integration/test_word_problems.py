"""All stages on word problems: a tiny model over the task's words, and models with the tokenizers
and chat templates of real families.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from families import FAMILIES, save_family
from micro import Answer, Values
from transformers import AutoTokenizer

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.runs.store import Run
from genac.stages.pipeline import train
from genac.stages.traces.files import read_traces

OPTIONS = {"max_steps": 3, "max_number": 30, "grammars": ["gain_lose", "compare"]}
SHIFT = {"wording": {"wording": "heldout"}, "structure": {"grammars": ["share"], "distractors": 1}}
SHORT: Values = {
    "rollout": {"num_prompts": 2, "num_generations": 2, "max_completion_length": 32},
    "critic": {"generative": {"max_new_tokens": 24}},
    "stages": {
        "base": {"steps": 20, "batch_size": 8},
        "synthesize": {"num_prompts": 4, "num_generations": 2, "num_states": 16},
        "sft": {"epochs": 1},
        "critic_rl": {"steps": 1},
        "joint": {"steps": 2, "eval_every": 0},
    },
    "evaluate": {"num_problems": 2, "num_samples": 1, "during": 2, "panel_problems": 0},
}


def word_problems(values: Values, **more: object) -> Values:
    """The recipe of `values` on word problems instead of its task."""
    task = {"name": "word_problems", "options": OPTIONS, "shift": SHIFT}
    return merge(merge(values, SHORT), {**more}) | {"task": task}


def test_all_stages_and_the_shifts(
    micro: Callable[..., Values], genac: Callable[..., Answer]
) -> None:
    values = word_problems(micro(), actor={"tiny": {"max_length": 512}})
    run = Run.open(train(resolve(values)))
    assert len(run.metrics("joint")) == 2
    for moment in ("success_before", "success_after"):
        result = run.summary()[moment]["diagnosis"]
        assert result["right"] + sum(result["first_mistakes"].values()) == result["responses"] == 2
    (file,) = (f for f in Path(values["stages"]["folder"]).rglob("traces.jsonl")
               if "word_problems" in f.read_text())  # fmt: skip
    traces = read_traces(file)
    assert all(t.reasoning.endswith("\n") and 0 <= t.score <= 10 for t in traces)
    assert any("Left: " in t.reasoning for t in traces)
    assert genac("eval", str(run.path)).code == 0
    result = json.loads((run.path / "evaluation.json").read_text())
    assert set(result) == {"in distribution", "wording", "structure"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of digits that are several tokens
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("real", [False, True], ids=["tokenizer of its own", "SmolLM2's tokenizer"])
def test_every_family_through_its_chat_template(
    family: str, real: bool, micro: Callable[..., Values], tmp_path: Path
) -> None:
    tokenizer = None
    if real:
        file = os.environ.get("GENAC_SMOLLM2", "")
        if not file.endswith(".gguf"):
            pytest.skip("GENAC_SMOLLM2 names no GGUF file, which holds a real BPE tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(Path(file).parent, gguf_file=Path(file).name)
    model = save_family(family, tmp_path / "model", context=2048, tokenizer=tokenizer)
    models = {
        "actor": {"model_name_or_path": model},
        "critic": {"model_name_or_path": model, "generative": {"prompt": "paper"}},
    }
    run = Run.open(train(resolve(word_problems(micro(), **models))))
    assert len(run.metrics("joint")) == 2
    (row, *_) = run.table("rollouts", "joint", 0)
    assert "How many" in row["prompt"]
