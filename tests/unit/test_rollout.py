"""Rollouts: groups in order, verified, and pure in (seed, step)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import CHAT, EchoTask, ScriptedEngine, byte_tokenizer, runtime_with, says

from genac.config.run import RolloutConfig
from genac.rollout import World, collect, encode_prompt, problems_at, stop_ids
from genac.search.candidates import Candidate, answers
from genac.tasks.files import FileTask
from genac.tasks.verifier import Verifier
from genac.types import Problem


def world_of(task: EchoTask, seed: int = 0, **rollout: Any) -> World:
    return World(task, Verifier(task), RolloutConfig(num_generations=2, **rollout), seed)


def ids_of(world: World, first: int, count: int) -> list[str]:
    return [p.id for p in problems_at(world, "train", first, count)]


def test_an_endless_task_is_read_in_order():
    assert ids_of(world_of(EchoTask()), 5, 3) == ["train-5", "train-6", "train-7"]


def test_a_finite_task_is_reshuffled_every_epoch():
    world = world_of(EchoTask(count=7))
    epochs = [ids_of(world, 7 * e, 7) for e in range(3)]
    assert all(sorted(e) == sorted(epochs[0]) for e in epochs) and len(set(epochs[0])) == 7
    assert epochs[0] != epochs[1] != epochs[2]
    assert ids_of(world, 5, 4) == [*epochs[0][5:], *epochs[1][:2]]
    assert ids_of(world_of(EchoTask(count=7), seed=1), 0, 7) != epochs[0]


def test_an_empty_split_is_an_error():
    with pytest.raises(ValueError, match="train split of task 'echo' is empty"):
        ids_of(world_of(EchoTask(count=0)), 0, 1)


def test_collect_groups_scores_and_keeps_the_reason(tokenizer, tiny_model):
    words = iter(["x", "y", "x", "z"])
    engine = ScriptedEngine(lambda request: says(tokenizer, next(words)), version=3)
    actor = runtime_with(engine, tokenizer, tiny_model)
    actor.version = 3
    task = EchoTask({"x": 1.0, "y": 0.0, "z": None})
    world = world_of(task, max_completion_length=9, temperature=0.5)
    groups = collect(actor, world, problems_at(world, "train", 0, 2), "s", 0)
    assert [[r.reward for r in g] for g in groups] == [[1.0, 0.0], [1.0, None]]
    assert [[(r.group, r.member) for r in g] for g in groups] == [
        [(0, 0), (0, 1)],
        [(1, 0), (1, 1)],
    ]
    last = groups[1][1]
    assert "cannot judge" in last.reason and last.actor_version == 3 and last.text == "z"
    assert last.prompt_ids == tuple(tokenizer.encode("1>"))
    np.testing.assert_array_equal(last.logprobs, np.float32([-0.5]))
    assert len({r.seed for r in engine.requests}) == 4
    assert {(r.max_new_tokens, r.temperature) for r in engine.requests} == {(9, 0.5)}


def test_a_verifier_that_raises_costs_its_own_rollout(tokenizer, tiny_model):
    class Raises(EchoTask):
        def verify(self, problem: Problem, text: str) -> float | None:
            return 1.0 if text == "x" else 1 / 0

    words = iter("xy")
    actor = runtime_with(
        ScriptedEngine(lambda request: says(tokenizer, next(words))), tokenizer, tiny_model
    )
    world = world_of(Raises())
    group = collect(actor, world, problems_at(world, "train", 0, 1), "s")[0]
    assert [r.reward for r in group] == [1.0, None] and "ZeroDivisionError" in group[1].reason


def test_a_thought_that_the_chat_template_opens_is_open_until_the_response_closes_it(
    tiny_model, tmp_path
):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "2+3", "answer": "5"}\n')
    texts = [r"so \boxed{5}", r"so \boxed{4}?</think>\boxed{5}"]
    expected = {CHAT + "<think>\n": [0.0, 1.0], CHAT: [1.0, 1.0]}
    for reward in ("match", "format"):
        task = FileTask(str(data), heldout_fraction=0.0, reward=reward)
        for template, rewards in expected.items():
            chatty, answer = byte_tokenizer(template), iter(texts)
            engine = ScriptedEngine(lambda _, answer=answer, t=chatty: says(t, next(answer)))
            actor = runtime_with(engine, chatty, tiny_model)
            with Verifier(task) as verifier:
                world = World(task, verifier, RolloutConfig(num_generations=2), 0)
                group = collect(actor, world, problems_at(world, "train", 0, 1), "s")[0]
            assert [r.reward for r in group] == rewards
            assert [r.text for r in group] == texts
            votes = answers(task, [Candidate(r) for r in group])
            assert votes == (["5", "5"] if all(rewards) else [None, "5"])


@pytest.mark.parametrize("opened", [False, True])
def test_the_tags_of_a_thought_are_read_where_the_tokenizer_calls_them_special(
    tiny_model, tmp_path, opened
):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "2+3", "answer": "5"}\n')
    tags = ["[THINK]", "[/THINK]"]
    chatty = byte_tokenizer(CHAT + tags[0] if opened else CHAT)
    chatty.add_special_tokens({"extra_special_tokens": ["<|user|>", "<|assistant|>", *tags]})
    begin = "" if opened else tags[0]
    rows = [f"{begin}\\boxed{{5}}", f"{begin}\\boxed{{5}}[/THINK]4", f"{begin}4[/THINK]5"]
    rows = [*rows, r"\boxed{5}<eos>"]
    texts = iter(rows)
    engine = ScriptedEngine(lambda _: says(chatty, next(texts)))
    task = FileTask(str(data), heldout_fraction=0.0)
    with Verifier(task) as verifier:
        world = World(task, verifier, RolloutConfig(num_generations=4), 0)
        actor = runtime_with(engine, chatty, tiny_model)
        group = collect(actor, world, problems_at(world, "train", 0, 1), "s")[0]
    assert [r.reward for r in group] == [0, 0, 1, 0 if opened else 1]
    assert [r.text for r in group] == [*rows[:3], r"\boxed{5}"]


def test_prompts_go_through_the_chat_template_where_there_is_one(tokenizer):
    chatty = byte_tokenizer(CHAT)
    messages = [{"role": "user", "content": "2+3"}]
    by_text, by_chat = (encode_prompt(chatty, Problem("p", m, "")) for m in ("2+3", messages))
    assert by_text == by_chat and chatty.decode(by_chat) == "<|user|>2+3<eos><|assistant|>"
    assert encode_prompt(tokenizer, Problem("p", "2+3", "")) == tuple(tokenizer.encode("2+3"))
    assert encode_prompt(tokenizer, Problem("p", messages, "")) == tuple(tokenizer.encode("2+3\n"))


@pytest.mark.parametrize(("configured", "expected"), [(None, (1,)), (1, (1,)), ([7, 1], (1, 7))])
def test_stop_ids_are_those_of_tokenizer_and_model(tokenizer, tiny_model, configured, expected):
    tiny_model.generation_config.eos_token_id = configured
    runtime = runtime_with(None, tokenizer, tiny_model)
    assert stop_ids(runtime) == expected
