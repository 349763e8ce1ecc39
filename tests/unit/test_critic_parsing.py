"""The critic's score: the last well-formed tag of its own completion, or nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genac.critics.scores import parse_score, score_position


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<answer>7</answer>", 7),
        ("<answer>0</answer>", 0),
        ("<answer>10</answer>", 10),
        ("so <answer> 7\n</answer> it is", 7),
        ("<answer>3</answer> no: <answer>8</answer>", 8),
        ("<answer>3</answer> or <answer>maybe</answer>", 3),
        ("<answer>9</answer></think>then <answer>2</answer>", 2),
        ("<think><answer>9</answer></think> no idea", None),
        ("<answer>11</answer>", None),
        ("<answer>5</answer> rather <answer>11</answer>", None),
        ("<answer>100</answer>", None),
        ("<answer>-3</answer>", None),
        ("<answer>7.5</answer>", None),
        ("<answer>7/10</answer>", None),
        ("<answer></answer>", None),
        ("<answer>7", None),
        ("7</answer>", None),
        ("7", None),
        ("", None),
        ("<ANSWER>7</ANSWER>", None),
        ("<answer>٧</answer>", None),
        ("<answer>７</answer>", None),
        ("<answer>²</answer>", None),
        ("<answer><answer>4</answer>", 4),
        ("\ud800<answer>4</answer>\udfff", 4),
    ],
)
def test_parse_score(text, score):
    assert parse_score(text) == score


@settings(max_examples=50)
@given(st.text())
def test_any_text_parses_to_a_score_or_none(text):
    assert parse_score(text) in (None, *range(11))
    assert parse_score(text + "<answer>6</answer>") == 6


@pytest.mark.parametrize(
    "piece", ["<answer>", "</answer>", "</think>", "<answer> ", "<answer>1", " "]
)
def test_hostile_repetition_is_fast(piece):
    start = time.perf_counter()
    parse_score(piece * (10**6 // len(piece)))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("pieces", "at"),
    [
        (["ok", "<answer>", "7", "</answer>", "<eos>"], 2),
        (["<answer>", "3", "</answer>", "<answer>", "8", "</answer>"], 4),
        (["<", "answer", ">", "1", "0", "</", "answer", ">"], 3),
        (["<answer", "> 1", "0</answer>"], 1),
        (["<answer>", "", "7", "</answer>"], 2),
        (["<answer>", "7"], None),
        ([], None),
    ],
)
def test_score_position(pieces, at):
    assert score_position(pieces) == at
