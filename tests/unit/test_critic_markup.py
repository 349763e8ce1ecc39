"""What the actor wrote cannot become markup of the critic's prompt, whatever names it."""

from __future__ import annotations

import random
import time

import pytest
from fakes import CHAT, byte_tokenizer, make_rollout
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from genac.critics.prompts import PromptBuilder, template
from genac.types import Problem, State

PROBLEM = Problem("p", "2+3?", "5")
LLAMA = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
    "\n\n{{ m['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
NAMES = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
RESERVED = [f"<|reserved_special_token_{i}|>" for i in range(8)]
THINK = ["<think>", "</think>"]


def with_tokens(
    chat: str | None, special: list[str], content: list[str], **options: bool
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose added tokens are in no named list, as in Llama 3's files."""
    backend = byte_tokenizer().backend_tokenizer
    backend.add_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in content])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", **options
    )
    tokenizer.chat_template = chat
    return tokenizer


@pytest.fixture(scope="module")
def llama() -> PreTrainedTokenizerFast:
    tokenizer = with_tokens(LLAMA, [*NAMES, *RESERVED], THINK)
    assert tokenizer.all_special_tokens == ["<eos>"]
    return tokenizer


def ids_of(tokenizer, names: list[str]) -> list[int]:
    return tokenizer.convert_tokens_to_ids(names)


def state_of(ids) -> State:
    return State(make_rollout(ids, problem=PROBLEM), len(ids), len(ids))


def spelled(tokenizer, text: str) -> list[int]:
    """Character by character: no token of more than one byte."""
    return [i for c in text for i in tokenizer.encode(c, add_special_tokens=False)]


def test_control_tokens_in_no_named_list_are_left_out(llama):
    builder = PromptBuilder(template("paper"), llama, llama)
    clean = spelled(llama, "5 is right")
    mixed = list(clean)
    for i in ids_of(llama, [*NAMES, *RESERVED, "<eos>"]):
        mixed.insert(random.Random(i).randrange(len(mixed)), i)
    assert builder.render(state_of(mixed), None) == builder.render(state_of(clean), None)


@pytest.mark.parametrize("chat", [None, CHAT])
def test_they_are_left_out_for_a_critic_with_another_tokenizer_too(llama, chat):
    critic = byte_tokenizer(chat)
    builder = PromptBuilder(template("paper"), critic, llama)
    assert not builder.same_tokenizer
    mixed = [*ids_of(llama, NAMES), *spelled(llama, "5"), *ids_of(llama, RESERVED)]
    assert builder.render(state_of(mixed), None) == builder.render_text(PROBLEM, "5", None)


def test_control_tokens_of_the_critic_alone_are_left_out():
    """One vocabulary, in which only the critic's tokenizer marks the tokens as special."""
    actor, critic = with_tokens(None, [], NAMES), with_tokens(LLAMA, NAMES, [])
    builder = PromptBuilder(template("paper"), critic, actor)
    assert builder.same_tokenizer
    mixed = [*ids_of(actor, NAMES), *spelled(actor, "5")]
    assert builder.render(state_of(mixed), None) == builder.render_text(PROBLEM, "5", None)


@pytest.mark.parametrize("name", [*NAMES, "<eos>", RESERVED[3]])
def test_a_spelled_control_token_stays_text(llama, name):
    builder = PromptBuilder(template("paper"), llama, llama)
    harmless = builder.render_text(PROBLEM, "x", None)
    hostile = builder.render_text(PROBLEM, f"a{name}b", None)
    (control,) = ids_of(llama, [name])
    assert hostile.count(control) == harmless.count(control)
    assert f"Partial solution:\na{name}b\n" in llama.decode(hostile)


def test_added_tokens_that_are_content_stay_as_they_are(llama):
    builder = PromptBuilder(template("paper"), llama, llama)
    opens, closes = ids_of(llama, THINK)
    ids = (opens, *spelled(llama, "2+3"), closes, *spelled(llama, "5"))
    prompt = builder.render(state_of(ids), None)
    assert any(prompt[i : i + len(ids)] == ids for i in range(len(prompt)))
    assert builder.render_text(PROBLEM, "<think>2+3</think>5", None) == prompt


@pytest.mark.parametrize("by", ["tokens", "text", "problem"])
@pytest.mark.parametrize("name", [*NAMES, "<answer>", "</answer>"])
def test_markup_of_ordinary_added_tokens_cannot_be_forged(name, by):
    """Some tokenizers mark no token of their chat format as special, and answer tags may be
    tokens: what the prompt itself is written with is markup."""
    tokenizer = with_tokens(LLAMA, [], [*NAMES, "<answer>", "</answer>", *THINK])
    builder = PromptBuilder(template("paper"), tokenizer, tokenizer)
    (token,) = ids_of(tokenizer, [name])
    harmless = builder.render_text(PROBLEM, "x", None)
    assert token in harmless
    text = f"a{name}{name}b"
    if by == "tokens":
        ids = (*spelled(tokenizer, "a"), token, token, *spelled(tokenizer, "b"))
        prompt = builder.render(state_of(ids), None)
    elif by == "text":
        prompt = builder.render_text(PROBLEM, text, None)
    else:
        prompt = builder.render_text(Problem("p", text, ""), "x", None)
    assert prompt.count(token) == harmless.count(token)
    assert text in tokenizer.decode(prompt)


def test_white_space_words_and_signs_are_no_markup():
    """Gemma adds runs of line breaks, GPT-NeoX runs of blanks; a padding token may be a sign."""
    tokenizer = with_tokens(LLAMA, ["!"], [*NAMES, "\n\n", "  ", "solution", "user"])
    tokenizer.pad_token = "!"
    builder = PromptBuilder(template("paper"), tokenizer, tokenizer)
    text = "a\n\nb  solution by a user"
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    assert len(set(ids) & {*ids_of(tokenizer, ["\n\n", "  ", "solution", "user"])}) == 4
    for prompt in (
        builder.render(state_of(ids), None),
        builder.render_text(PROBLEM, text, None),
        builder.render_text(Problem("p", text, ""), "5", None),
    ):
        assert any(prompt[i : i + len(ids)] == ids for i in range(len(prompt)))
    assert "so 5!" in tokenizer.decode(builder.render_text(PROBLEM, "so 5!", None))


def test_a_vocabulary_that_spells_its_control_tokens_is_no_way_round():
    """As where a tokenizer's merges lead to </s> although it is not matched as a whole."""
    words = ["<unk>", "</s>", "<", "/", "s", ">", "x", "\n", "</", "s>"]
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    backend = Tokenizer(BPE({w: i for i, w in enumerate(words)}, merges, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = None
    assert tokenizer.encode("</s>", split_special_tokens=True) == [1]
    builder = PromptBuilder(template("compact"), tokenizer, tokenizer)
    prompt = builder.render_text(PROBLEM, "x</s>x</s>", None)
    assert tokenizer.eos_token_id not in prompt
    assert "x</s>x</s>" in tokenizer.decode(prompt).replace(" ", "")


# --- long responses -------------------------------------------------------------------------------


def sentences(count: int) -> str:
    rng = random.Random(0)
    words = ["add", "sum ", "x = 3", "\n", "so that", "é", "  ", "answer.\n\n"]
    return "".join(rng.choice(words) for _ in range(count))


@pytest.mark.parametrize("length", [10, 900, 2000, 9000, 20_000])
def test_a_cut_prompt_is_that_of_the_whole_text(length):
    """Of a text far beyond the context only the ends are read, with the same result."""
    critic, actor = byte_tokenizer(CHAT), byte_tokenizer()
    builder = PromptBuilder(template("paper"), critic, actor)
    text = sentences(length)
    by_ids = tuple(actor.encode(text, add_special_tokens=False))
    same = PromptBuilder(template("paper"), actor, actor)
    for limit in (700, 1500, 10_000):
        cut = builder.render_text(PROBLEM, text, None, limit)
        assert cut == builder.render_ids(PROBLEM, by_ids, None, limit)
        whole = builder.render_text(PROBLEM, text, None)
        assert len(cut) == min(len(whole), max(limit, 0)) or len(whole) <= limit
        plain = same.render_text(PROBLEM, text, None, limit)
        assert plain == same.render_ids(PROBLEM, by_ids, None, limit)
        left = builder.render_text(PROBLEM, text, None, limit, cut=False)
        assert left == whole if len(whole) <= limit else len(left) > limit


@pytest.mark.parametrize("order", ["dense first", "dense last", "dense middle"])
def test_a_text_of_long_tokens_is_cut_like_any_other(order):
    """64 characters per token at one end, one at the other."""
    tokenizer = with_tokens(None, [], ["x" * 64])
    builder = PromptBuilder(template("compact"), tokenizer, byte_tokenizer(CHAT))
    dense, thin = sentences(20_000), "x" * 64 * 3000
    text = {
        "dense first": dense + thin,
        "dense last": thin + dense,
        "dense middle": thin + dense + thin,
    }[order]
    whole = builder.render_text(PROBLEM, text, None)
    for limit in (200, 1000, 4000):
        cut = builder.render_text(PROBLEM, text, None, limit)
        assert len(cut) == limit
        gap = tuple(tokenizer.encode("\n[...]\n", add_special_tokens=False))
        at = next(i for i in range(limit) if cut[i : i + len(gap)] == gap)
        assert cut[:at] == whole[:at] and cut[at + len(gap) :] == whole[at + len(gap) - limit :]


def test_a_million_characters_take_the_time_of_their_ends():
    tokenizer = byte_tokenizer()
    builder = PromptBuilder(template("paper"), tokenizer, byte_tokenizer(CHAT))
    for text in ("a" * 10**6, sentences(300_000), " " * 10**6, "\n" * 10**6):
        start = time.perf_counter()
        assert len(builder.render_text(PROBLEM, text, None, 2000)) == 2000
        assert len(builder.render_text(PROBLEM, text, None, 2000, cut=False)) > 2000
        problem = Problem("p", text, "")
        assert len(builder.render_text(problem, "5", None, 2000)) > 2000
        assert time.perf_counter() - start < 2
