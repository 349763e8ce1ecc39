"""Stop strings: a completion ends with the token that completes one, and with no other."""

from __future__ import annotations

from typing import Any

import pytest
from engine_models import GROUPED, chain_model, engine_of, random_model, same
from fakes import byte_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config

from genac.engines.base import Completion, Request
from genac.models.tiny import build_tokenizer

TOKENIZER = build_tokenizer([*"abcdef", "ab", "ans=", " "], 64)


def ids_of(*words: str) -> list[int]:
    return [TOKENIZER.convert_tokens_to_ids(word) for word in words]


def talking(*words: str) -> Any:
    """An engine that says the words in this order, whichever of them the prompt ends with."""
    model = chain_model(ids_of(*words), len(TOKENIZER))
    return engine_of(model, tokenizer=TOKENIZER)


def completed(engine: Any, word: str, **options: Any) -> Completion:
    request = Request(tuple(ids_of(word)), 6, seed=0, temperature=0.0, **options)
    return engine.generate([request])[0]


@pytest.fixture(scope="module")
def engine() -> Any:
    shape = GROUPED | {"vocab_size": len(TOKENIZER), "initializer_range": 0.05}
    return engine_of(random_model(Qwen3Config(**shape)), tokenizer=TOKENIZER)


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["b"], ["b", "c"]),
        (["b", "c"], ["b", "c", "ans="]),  # a run of them ends with the first other token
        (["a"], ["b", "c", "ans=", "e", "f", "1"]),  # one in the prompt is none
        (["1"], ["b", "c", "ans=", "e", "f", "1"]),  # nothing follows within the budget
    ],
)
def test_the_token_behind_a_line_is_the_last(lines, answer):
    engine = talking("a", "b", "c", "ans=", "e", "f", "1", "2")
    done = completed(engine, "a", line_ids=tuple(ids_of(*lines)))
    assert done.ids == tuple(ids_of(*answer))
    assert done.finish == ("stop" if len(answer) < 6 else "length")


@pytest.mark.parametrize(
    ("stop", "answer"),
    [
        ("b", ["b"]),
        ("bc", ["b", "c"]),
        ("bcans=e", ["b", "c", "ans=", "e"]),
        ("ns", ["b", "c", "ans="]),  # begins and ends within a token
        ("cans", ["b", "c", "ans="]),
        ("s=e", ["b", "c", "ans=", "e"]),
        ("f1", ["b", "c", "ans=", "e", "f", "1"]),  # with the last token of the budget
    ],
)
def test_the_token_that_completes_a_stop_string_is_the_last(stop, answer):
    done = completed(talking("a", "b", "c", "ans=", "e", "f", "1", "2"), "a", stop=(stop,))
    assert done.ids == tuple(ids_of(*answer)) and done.finish == "stop"
    assert len(done.logprobs) == len(answer)


@pytest.mark.parametrize("stop", ["12", "cb", "bce", "abc", "a", "ba"])
def test_a_string_that_does_not_occur_stops_nothing(stop):
    """Neither the prompt nor what prompt and completion spell together counts."""
    done = completed(talking("a", "b", "c", "d", "e", "f", "1", "2"), "a", stop=(stop,))
    assert len(done.ids) == 6 and done.finish == "length"


def test_the_first_of_several_strings_and_tokens_wins():
    engine = talking("a", "b", "c", "d", "e", "f", "1")
    assert completed(engine, "a", stop=("ef", "cd")).ids == tuple(ids_of("b", "c", "d"))
    token = tuple(ids_of("c"))
    assert completed(engine, "a", stop=("cd",), stop_ids=token).ids == tuple(ids_of("b", "c"))
    assert completed(engine, "a", stop=("bc",), stop_ids=token).finish == "stop"
    token = tuple(ids_of("e"))
    assert completed(engine, "a", stop=("cd",), stop_ids=token).ids == tuple(ids_of("b", "c", "d"))


def test_every_request_has_strings_of_its_own():
    engine = talking("a", "b", "c", "d", "e", "f", "1")
    stops = [("bc",), (), ("b", "ef"), ("d",), ("x",)]
    prompt = tuple(ids_of("a"))
    requests = [Request(prompt, 6, seed=0, temperature=0.0, stop=stop) for stop in stops]
    assert [len(c.ids) for c in engine.generate(requests)] == [2, 6, 1, 3, 6]
    # A call without stop strings is not touched by one with them.
    assert len(completed(engine, "a").ids) == 6


# --- against a search of the whole text -------------------------------------------------------


def test_stops_are_where_a_search_finds_them(engine):
    """Sampled text, in which stop strings of all lengths lie across tokens."""
    free = engine.generate([Request((5, 6), 24, seed=s) for s in range(40)])
    requests, expected = [], []
    for seed, done in enumerate(free):
        text = TOKENIZER.decode(done.ids)
        low, length = seed % 11, 1 + seed % 7
        stop = (text[low : low + length], "never said")
        ends = [n for n in range(1, 25) if stop[0] in TOKENIZER.decode(done.ids[:n])]
        requests.append(Request((5, 6), 24, seed=seed, stop=stop))
        expected.append(done.ids[: ends[0]])
    together = engine.generate(requests)
    assert [c.ids for c in together] == expected
    assert {c.finish for c in together} == {"stop"}
    assert len({len(ids) for ids in expected}) > 5
    for request, done in zip(requests[:5], together, strict=False):
        same(done, engine.generate([request])[0])


def test_rows_enter_while_others_watch_for_strings(engine):
    small = engine_of(
        random_model(Qwen3Config(**GROUPED | {"vocab_size": len(TOKENIZER)})),
        tokenizer=TOKENIZER,
        max_rows=3,
    )
    requests = [
        Request((5, 6 + i % 2), 3 + 5 * i % 17, seed=i, stop=("a", "7") if i % 2 else ("ans=",))
        for i in range(12)
    ]
    done = small.generate(requests)
    assert {c.finish for c in done} == {"stop", "length"}
    for request, one in zip(requests, done, strict=True):
        same(one, small.generate([request])[0])


# --- other tokenizers ---------------------------------------------------------------------------


def test_a_character_spread_over_tokens():
    """Two bytes of one letter are two tokens, and neither is text on its own."""
    tokenizer = byte_tokenizer()
    words = tokenizer.encode("aé=b", add_special_tokens=False)
    assert len(words) == 5
    engine = engine_of(chain_model(words, len(tokenizer)), tokenizer=tokenizer)
    for stop, length in (("é", 2), ("é=", 3), ("=", 3), ("=b", 4)):
        request = Request((words[0],), 4, seed=0, temperature=0.0, stop=(stop,))
        assert engine.generate([request])[0].ids == tuple(words[1 : 1 + length])


def test_a_string_that_ends_in_a_space():
    """Llama's and Mistral's tokenizers put the space before a word, where decoding the word alone
    drops it.
    """
    pieces = ["<unk>", "▁a", "▁b", "▁c", "▁d"]
    fast = Tokenizer(WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    fast.decoder = Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>")
    assert tokenizer.decode([2, 3]) == "b c" and tokenizer.decode([3]) == "c"
    engine = engine_of(chain_model([1, 2, 3, 4], 5), tokenizer=tokenizer)
    done = engine.generate([Request((1,), 3, seed=0, temperature=0.0, stop=("b ",))])[0]
    assert done.ids == (2, 3) and done.finish == "stop"


def test_a_vocabulary_larger_than_the_tokenizer():
    """Embeddings are often padded to a round number of tokens, which stand for no text."""
    words = [*ids_of("a", "b"), len(TOKENIZER) + 3, *ids_of("c", "d")]
    engine = engine_of(chain_model(words, len(TOKENIZER) + 8), tokenizer=TOKENIZER)
    assert completed(engine, "a", stop=("c",)).ids == (*words[1:4],)


# --- requests that cannot be met ----------------------------------------------------------------


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="stop string is empty"):
        completed(talking("a", "b", "c", "d", "e", "f", "1"), "a", stop=("x", ""))


def test_stop_strings_need_a_tokenizer():
    engine = engine_of(chain_model(ids_of("a", "b"), len(TOKENIZER)))
    assert len(completed(engine, "a").ids) == 6
    with pytest.raises(ValueError, match="tokenizer=tokenizer"):
        completed(engine, "a", stop=("b",))
