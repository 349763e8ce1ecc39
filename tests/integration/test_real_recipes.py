"""The recipes for real models: what the doctor says of their true shapes, and every stage of them
on a tiny model of the same family with data of the same schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from families import save_family
from transformers import AutoConfig, Qwen3Config

from genac.commands.doctor.report import examine
from genac.config.algorithms import merge
from genac.config.recipes import read_recipe, resolve
from genac.runs.store import Run
from genac.stages.pipeline import train

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(p.stem for p in RECIPES.glob("qwen3-*.yaml"))
ALGORITHMS = ["genac", "ppo", "vineppo", "grpo"]
# The published shapes; the vocabulary is the models', the tokenizer is a small one.
SHAPES = {
    "Qwen/Qwen3-1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                        "num_attention_heads": 16},
    "Qwen/Qwen3-4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                      "num_attention_heads": 32},
    "Qwen/Qwen3-8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                      "num_attention_heads": 32, "tie_word_embeddings": False},
}  # fmt: skip
COMMON = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
          "max_position_embeddings": 40_960, "tie_word_embeddings": True}  # fmt: skip
ROWS = {
    "gsm8k": [{"question": f"Ann has {a} pens and buys {b}. How many has she now?",
               "answer": f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}"}
              for a in range(12) for b in range(3)],
    "math": [{"problem": f"Compute ${a} \\cdot {b}$.", "level": "Level 1", "type": "Algebra",
              "solution": f"It is $\\boxed{{{a * b}}}$."} for a in range(12) for b in range(3)],
    "deepscaler": [{"problem": f"Compute ${a} + {b}$.", "answer": f"{a + b}",
                    "solution": f"Adding gives {a + b}."} for a in range(12) for b in range(3)],
}  # fmt: skip
TINY_STEPS: dict[str, Any] = {
    "rollout": {"num_prompts": 2, "num_generations": 2, "max_completion_length": 12},
    "critic": {"generative": {"max_new_tokens": 12}, "num_continuations": 2},
    "stages": {
        "synthesize": {
            "num_prompts": 4,
            "num_generations": 2,
            "num_requests": 8,
            "num_states": 8,
            "continuations": 2,
            "bare_scores": True,  # a tiny model writes no score that could be read
        },
        "critic_rl": {"steps": 1, "num_prompts": 2},
        "joint": {"steps": 2, "eval_every": 0},
    },
    "evaluate": {"num_problems": 2, "num_samples": 1, "during": 2, "panel_problems": 0},
    "hardware": {"device": "cpu", "threads": 1},
}


def local_copy(name: str, folder: Path, model: str) -> dict[str, Any]:
    """The recipe with local data of the same schema and a local model."""
    values = read_recipe(RECIPES / f"{name}.yaml")
    schema = values["task"]["path"]
    rows = ROWS[schema]
    files = {"path": rows[:-6], "heldout": rows[-6:]}
    for key, part in files.items():
        (folder / f"{key}.jsonl").write_text("\n".join(map(json.dumps, part)))
    options = {"heldout": str(folder / "heldout.jsonl")}
    if "decontaminate" in values["task"]["options"]:
        options["decontaminate"] = [str(folder / "heldout.jsonl")]
    places = {
        "output_dir": str(folder / "run"),
        "task": {"path": str(folder / "path.jsonl"), "options": options},
        "stages": {"folder": str(folder / "stages")},
        **{role: {"model_name_or_path": model} for role in ("actor", "critic")},
    }
    return merge(values, places)


def costs_in_the_docs(name: str) -> dict[str, list[str]]:
    """What docs/real-models.md says of a recipe: GiB, then tokens of a joint step."""
    text = (RECIPES.parent / "docs" / "real-models.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    memory, tokens = ([cell.strip() for cell in row.split("|")[2:-1]] for row in rows)
    _, genac, ppo, neither = memory
    responses, rationales, continuations = tokens
    return {
        "genac": [genac, responses, rationales],
        "ppo": [ppo, responses],
        "vineppo": [neither, responses, continuations],
        "grpo": [neither, responses],
    }


def cost(lines: list[str]) -> list[str]:
    """The same from the doctor's lines."""
    (memory,) = (line for line in lines if line.startswith("ok   memory: about"))
    (tokens,) = (line for line in lines if line.startswith("ok   tokens: a joint step"))
    return [f"{float(memory.split()[3]):.0f}", *re.findall(r"[\d,]*\d", tokens)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "algorithm", ["genac", *(pytest.param(a, marks=pytest.mark.slow) for a in ALGORITHMS[1:])]
)
def test_the_doctor_finds_no_fault_on_the_gpu_it_is_for(
    name: str, algorithm: str, tmp_path: Path
) -> None:
    expected = read_recipe(RECIPES / f"{name}.yaml")["actor"]["model_name_or_path"]
    folder = Path(save_family("qwen3", tmp_path / "model", context=40_960))
    shape = COMMON | SHAPES[expected]
    small = AutoConfig.from_pretrained(folder)
    Qwen3Config(
        **shape, eos_token_id=small.eos_token_id, pad_token_id=small.pad_token_id
    ).save_pretrained(folder)
    cfg = resolve(local_copy(name, tmp_path, str(folder)), {"algorithm": algorithm})
    lines, healthy = examine(cfg, gpu_gib=80)
    assert healthy, lines
    assert any("a GPU of 80 GiB, bf16" in line for line in lines)
    tokens = "ok   critic: scores 0..9 are one token each, 10 two"
    assert (tokens in lines) == (algorithm == "genac" and "paper" not in name)
    shown = costs_in_the_docs(name)[algorithm]
    assert shown == cost(lines)
    if algorithm == "genac":
        head = (RECIPES / f"{name}.yaml").read_text().split("\nname:")[0]
        assert all(number in head for number in (f"{shown[0]} GiB", *shown[1:]))
    lines, healthy = examine(cfg, gpu_gib=8)
    (line,) = [line for line in lines if line.startswith("FAIL memory")]
    assert not healthy and "the models alone are too large" in line
    assert ("lora.rank 16" in line) == ("lora" not in name)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_stage_of_an_instruct_model_teaches_reasoning_and_not_only_scores(name: str):
    oracle = read_recipe(RECIPES / f"{name}.yaml")["stages"]["synthesize"]["oracle"]
    assert oracle in ("monte_carlo", "endpoint")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_stage_on_a_tiny_model_of_the_family(
    name: str, algorithm: str, tmp_path: Path
) -> None:
    model = save_family("qwen3", tmp_path / "model", context=2048)
    values = merge(local_copy(name, tmp_path, model), TINY_STEPS)
    if values["stages"]["synthesize"]["oracle"] == "endpoint":  # there is none here
        values["stages"]["synthesize"]["oracle"] = "outcome"
    values["hardware"] = values["hardware"] | {"processes": 2 if "8gpu" in name else 1}
    for own in values["per_algorithm"].values():
        own.get("stages", {}).get("critic_rl", {}).update({"steps": 1, "num_prompts": 2})
        own.pop("critic", None)
    if algorithm in ("genac", "ppo") or "lora" in name:  # stored bf16 wants bf16 arithmetic
        values["hardware"] = values["hardware"] | {"precision": "bf16"}
    run = Run.open(train(resolve(values, {"algorithm": algorithm})))
    assert len(run.metrics("joint")) == 2
    assert run.summary()["data"]["removed"]
