"""Reward functions as a user writes them (TRL's signature), some of them bad."""

import asyncio
import os
import time


def exact(completions, answer, **kwargs):
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


def misbehaving(prompts, completions):
    """Does what the response says."""
    text = completions[0]
    if text == "hang":
        time.sleep(60)
    if text == "raise":
        raise KeyError("no such unit")
    if text == "die":
        os._exit(3)
    return [{"none": None, "big": 1.5, "nan": float("nan"), "word": "good"}.get(text, 0.25)]


def weighs_columns(completions, answer, topic, *, level=(1,)):
    return [float(completions[0] == answer[0] and topic == ["sums"]) * level[0] / 2]


def chat(completions, **columns):
    assert columns["prompts"][0][0]["role"] == "system"
    return [float(completions[0][0] == {"role": "assistant", "content": columns["answer"][0]})]


def wants_more(completions, rubric):
    return [0.0]


def wrong_length(completions):
    return [0.0, 1.0]


async def slowly(completions, answer):
    await asyncio.sleep(0)
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert (data_source, extra_info) == ("sums", {"index": 7})
    return {"score": float(solution_str == ground_truth), "acc": True}


def compute_number(solution_str, ground_truth, **rest):
    return 0.5


def compute_nothing(**columns):
    return {"acc": 1.0}
