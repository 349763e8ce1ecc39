"""What is done with a finished run: cards, plain transformers, generate, eval search, push."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from micro import MICRO, Answer, Values

from genac import Critic
from genac.commands.push import refresh
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.runs.store import Run
from genac.stages.pipeline import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Run:

    folder = tmp_path_factory.mktemp("artefacts") / "run"
    values: Values = merge(MICRO, {"output_dir": str(folder), "stages": {"folder": str(stages)}})
    values = merge(values, {"task": {"shift": {"longer": {"max_steps": 3}}}})
    return Run.open(train(resolve(values)))


def code_of(card: str, heading: str) -> str:
    """The last block of Python under a heading."""
    return re.findall(r"```python\n(.*?)```", card.split(heading)[1], flags=re.S)[-1]


def test_cards_state_the_runs_results_and_nothing_of_the_machine(run):
    summary = run.summary()
    for role in ("actor", "critic"):
        text = (run.path / role / "README.md").read_text()
        assert str(run.path.parent) not in text and "/tmp" not in text and "/home" not in text
        card = ModelCard(text)
        assert card.data.to_dict()["library_name"] == "transformers"
        assert "arithmetic" in text and "Licen" not in card.data.to_dict()
    results = ModelCard((run.path / "actor" / "README.md").read_text()).data.eval_results
    assert results is not None
    assert results[1].metric_value == pytest.approx(summary["success_after"]["mean"], abs=1e-6)
    critic = (run.path / "critic" / "README.md").read_text()
    saved = json.loads((run.path / "critic" / "critic.json").read_text())
    assert f"`{saved['prompt_hash']}`" in critic and "{problem}{response}<judge>{icc}" in critic


def test_the_critics_card_scores_with_plain_transformers_as_genac_does(run, monkeypatch):
    code = code_of((run.path / "critic" / "README.md").read_text(), "transformers alone")
    monkeypatch.chdir(run.path / "critic")
    names: dict[str, Any] = {}
    exec(code, names)
    critic = Critic.from_pretrained(run.path / "critic", device="cpu")
    for problem, partial in [("3 a+4>", "a+4=7\n"), ("3 a+4>", ""), ("3 <eos>a+4>", "</answer>")]:
        assert tuple(names["prompt_ids"](problem, partial)) == critic.prompt(problem, partial)
    value, rationale = names["score"]("3 a+4>", "a+4=7\n")
    assert rationale and (value is None or 0 <= value <= 1)


def test_the_actors_card_runs(run, monkeypatch, capsys):
    monkeypatch.chdir(run.path / "actor")
    code = code_of((run.path / "actor" / "README.md").read_text(), "## Use")
    exec(code.replace('problem = "..."', 'problem = "3 a+4>"'), {})
    assert capsys.readouterr().out.strip()


def test_generate(run, genac: Callable[..., Answer], refused: Callable[..., str]):
    rows = []
    for search in ("sample", "majority", "best-of-n", "weighted", "beam"):
        arguments = ("--search", search, "--n", "3", "--json", "--heldout", "2")
        answer = genac("generate", str(run.path), *arguments)
        assert answer.code == 0, answer
        results = [json.loads(line) for line in answer.out.replace("} {", "}\n{").splitlines()]
        assert len(results) == 2 and all(row["response"] for row in results)
        rows.append(results)
    assert all(row["value"] is None for results in rows[:2] for row in results)
    assert any(row["value"] is not None for results in rows[2:] for row in results)
    plain = genac("generate", str(run.path / "actor"), "3 a+4>", "--max-tokens", "9")
    assert plain.code == 0 and plain.out.startswith("--- 3 a+4>")
    folder = ("--critic", str(run.path / "critic"))
    alone = genac(
        "generate",
        str(run.path / "actor"),
        "3 a+4>",
        "--search",
        "beam",
        *folder,
        "--n",
        "2",
        "--max-tokens",
        "9",
    )
    assert alone.code == 0 and "--- 3 a+4>" in alone.out
    model = str(run.path / "actor")
    assert "name it by --critic" in refused("generate", model, "3 a+4>", "--search", "beam")
    assert "needs a run" in refused("generate", model, "--heldout", "1")
    assert "one of the two" in refused("generate", str(run.path))
    assert "--n is 0" in refused(
        "generate", str(run.path), "3 a+4>", "--search", "majority", "--n", "0"
    )


def test_eval_search(run, genac: Callable[..., Answer], refused: Callable[..., str]):
    queries = ("eval", "search", str(run.path), "--n", "2", "--problems", "6")
    answer = genac(*queries)
    assert answer.code == 0, answer
    result = json.loads((run.path / "search.json").read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["oracle"]["success"] >= max(
        rows[m]["success"] for m in ("majority", "best-of-n, last", "weighted, end")
    )
    assert rows["majority"]["critic_tokens"] == 0 < rows["beam"]["critic_tokens"]
    for row in result["rows"]:
        assert row["tokens"] == pytest.approx(row["actor_tokens"] + row["critic_tokens"])
        if row["critic_tokens"]:
            # The vote it is compared with never had less to spend.
            vote = row["majority_at_equal_tokens"]
            assert vote["tokens"] >= row["tokens"] and vote["n"] >= 2 and vote["funded"]
            assert vote["gain"] == pytest.approx(row["success"] - vote["success"])
    assert "| best-of-n, last | 2 |" in (run.path / "search.md").read_text()
    first = result
    assert genac(*queries).code == 0
    assert json.loads((run.path / "search.json").read_text()) == first  # seeded, without clocks
    other = shutil.copytree(run.path, run.path.parent / "other")
    both = genac("eval", "search", str(run.path), str(other), "--n", "2", "--problems", "4")
    assert "the mean over runs" in both.out and "| run | other | mean |" in both.out
    assert genac(*queries, "--shift", "longer", "--rationales", "3").code == 0
    assert "names the shifts ['longer']" in refused(*queries, "--shift", "other")
    assert "at least 2" in refused("eval", "search", str(run.path), "--n", "1")


def test_push_lists_both_models(run, genac: Callable[..., Answer]):
    answer = genac("push", str(run.path), "me/thing", "--dry-run")
    assert answer.code == 0
    assert "me/thing-actor:" in answer.out and "me/thing-critic:" in answer.out
    assert "critic.json" in answer.out and "README.md" in answer.out
    one = genac("push", str(run.path), "me/thing", "--only", "critic", "--dry-run")
    assert one.out.startswith("me/thing:") and "-actor" not in one.out


def test_a_critic_that_stands_alone_gets_a_card_without_figures(run, genac, tmp_path):
    alone = shutil.copytree(run.path / "critic", tmp_path / "alone")
    (alone / "README.md").unlink()
    assert genac("push", str(alone), "me/thing", "--dry-run").code == 0
    assert not (alone / "README.md").exists()
    assert refresh(alone) == []
    card = (alone / "README.md").read_text()
    assert "## Prompt" in card and "## Metrics" not in card
    assert ModelCard(card).data.to_dict()["tags"][:2] == ["genac", "generative-critic"]
    # Inside its run the figures come back.
    (run.path / "critic" / "README.md").write_text(card)
    assert refresh(run.path / "critic") == []
    assert "## Metrics" in (run.path / "critic" / "README.md").read_text()
