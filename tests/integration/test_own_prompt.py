"""A run under a prompt of one's own, and its critic where the prompt's file is gone."""

from __future__ import annotations

import json
from pathlib import Path

from genac.critics.prompts import template
from genac.scoring import Critic

CONTENT = 'text: "{problem}{response}{icc}<judge>"\nicc: "rate {rate10}\\n"\nname: short\n'


def test_a_run_and_its_critic_hold_the_prompt(run_micro, genac, recipe, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(CONTENT)
    generative = {"prompt": str(file), "max_new_tokens": 16}
    run = run_micro(critic={"generative": generative})
    held = run.config()["critic"]["generative"]["prompt"]
    assert template(held).name == "short" and template(held).hash != template("compact").hash
    rows = run.table("estimates", "joint", 0)
    assert any(
        "rate" in row["critic_prompt"] and "size" not in row["critic_prompt"] for row in rows
    )
    assert "Template `short`" in (run.path / "critic" / "README.md").read_text()

    changed = tmp_path / "changed.yaml"
    changed.write_text(CONTENT.replace("<judge>", "<judge>\\n"))
    path = recipe(critic={"generative": generative | {"prompt": str(changed)}})
    again = genac("train", path)
    assert again.code == 2 and "critic.generative.prompt: a text of" in again.err, again.err

    file.unlink()
    critic = Critic.from_pretrained(run.path / "critic")
    assert critic.describe()["prompt"]["hash"] == template(held).hash
    assert critic.describe()["prompt"]["text"] == "{problem}{response}{icc}<judge>"
    answer = genac("score", str(run.path), "2 a+3 b+4>", "a+3=5\\n")
    assert answer.code == 0 and answer.out.startswith("value"), answer
    answer = genac("eval", "states", str(run.path), str(run.path), "--step", "0", "--name", "own")
    assert answer.code == 0, answer.err
    solutions = tmp_path / "solutions.jsonl"
    row = {"problem": "2 a+3 b+4>", "solution": "a+3=5\nb+4=9\n", "correct": True}
    solutions.write_text("\n".join(map(json.dumps, [row, row | {"correct": False}])))
    answer = genac("eval", "solutions", str(run.path), str(solutions), "--out", str(tmp_path / "o"))
    assert answer.code == 0 and "2 solutions of 1 problems" in answer.out, answer.err
