"""A prompt begins as tokenizer and template begin it, and stays open where the answer begins."""

from __future__ import annotations

import pytest
from fakes import CHAT, byte_tokenizer
from tokenizers.processors import TemplateProcessing

from genac.critics.prompts import PromptBuilder, template
from genac.critics.zero_shot import ZERO_SHOT, plain_prompt
from genac.models.chat import encode_prompt, encode_prompts, prefix_ids, special_ids
from genac.types import Problem

QUESTION = {"role": "user", "content": "2+3?"}
SYSTEM = {"role": "system", "content": "You add."}
BEGUN = {"role": "assistant", "content": "Let us see:\n2+3="}
CHATML = (
    "{% for m in messages %}<|user|>{{ m['role'] }}:{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def adding(single: str, chat: str | None = None):
    """A tokenizer that writes `single` around every text, as add_bos_token and add_eos_token do."""
    tokenizer = byte_tokenizer(chat, bos=True)
    tokens = [(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=tokens
    )
    return tokenizer


@pytest.mark.parametrize("chat", [None, CHAT])
@pytest.mark.parametrize("prompt", ["2+3?", [QUESTION], [QUESTION, BEGUN], [SYSTEM]])
@pytest.mark.parametrize(
    "single", ["$A", "$A <eos>", "<bos> $A", "<bos> $A <eos>", "<bos> $A <eos> <eos>"]
)
def test_no_prompt_ends_with_an_eos_that_the_tokenizer_adds(single, prompt, chat):
    tokenizer, bare = adding(single, chat), byte_tokenizer(chat, bos=True)
    problem = Problem("p", prompt, "")
    ids, inner = encode_prompt(tokenizer, problem), encode_prompt(bare, problem)
    starts = "<bos>" in single and not chat  # a template writes its own BOS, where it wants one
    assert ids == ((tokenizer.bos_token_id, *inner) if starts else inner)
    assert ids[-1] != tokenizer.eos_token_id
    assert encode_prompts(tokenizer, [problem] * 3) == [ids] * 3


@pytest.mark.parametrize(("single", "bos"), [("$A <eos>", 0), ("<bos> $A <eos>", 1), ("$A", 0)])
def test_the_critics_prompt_has_no_eos_and_one_bos(single, bos):
    tokenizer = adding(single)
    builder = PromptBuilder(template("paper"), tokenizer, tokenizer)
    ids = builder.render_text(Problem("p", "2+3?", ""), "5", None)
    assert tokenizer.eos_token_id not in ids
    assert ids.count(tokenizer.bos_token_id) == bos
    assert not bos or ids[0] == tokenizer.bos_token_id
    assert prefix_ids(tokenizer) == (tokenizer.bos_token_id,) * bos


def test_a_bos_that_is_written_already_is_not_doubled():
    tokenizer = adding("<bos> $A <eos>")
    ids = encode_prompt(tokenizer, Problem("p", "<bos>2+3?", ""))
    assert ids == encode_prompt(tokenizer, Problem("p", "2+3?", ""))
    chat = adding("<bos> $A <eos>", "<bos>" + CHATML)
    ids = encode_prompt(chat, Problem("p", "2+3?", ""))
    assert ids.count(chat.bos_token_id) == 1 and ids[0] == chat.bos_token_id
    assert ids.count(chat.eos_token_id) == 1  # the template's, behind the user's turn


def test_a_token_that_both_begins_and_ends_texts_stays_at_the_beginning():
    """GPT-2 and OPT have one token for both."""
    tokenizer = adding("<eos> $A <eos>")
    tokenizer.bos_token = "<eos>"
    ids = encode_prompt(tokenizer, Problem("p", "2+3?", ""))
    assert ids[0] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1


# --- the beginning of the answer ------------------------------------------------------------------


def test_a_final_message_of_the_assistant_is_continued():
    tokenizer = byte_tokenizer(CHATML)
    chat = [SYSTEM, QUESTION, BEGUN]
    text = tokenizer.decode(encode_prompt(tokenizer, Problem("p", chat, "")))
    assert text == (
        "<|user|>system:You add.<eos>\n<|user|>user:2+3?<eos>\n<|user|>assistant:Let us see:\n2+3="
    )
    assert text == tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)


@pytest.mark.parametrize(
    "last",
    [
        QUESTION,
        {"role": "tool", "content": "5"},
        SYSTEM,
    ],
)
def test_behind_any_other_message_a_turn_is_opened(last):
    tokenizer = byte_tokenizer(CHATML)
    text = tokenizer.decode(encode_prompt(tokenizer, Problem("p", [QUESTION, last], "")))
    assert text.endswith(f"{last['role']}:{last['content']}<eos>\n<|assistant|>")


@pytest.mark.parametrize(
    "template", [CHATML, CHATML.replace("m['content']", "m['content'] | trim")]
)
@pytest.mark.parametrize("blank", ["", " ", "\n\n"])
def test_an_empty_beginning_is_none(template, blank):
    tokenizer = byte_tokenizer(template)
    chat = [QUESTION, {"role": "assistant", "content": blank}]
    opened = encode_prompt(tokenizer, Problem("p", [QUESTION], ""))
    assert encode_prompt(tokenizer, Problem("p", chat, "")) == opened


def test_white_space_at_the_end_of_a_beginning_stays():
    tokenizer = byte_tokenizer(CHATML)
    chat = [QUESTION, {"role": "assistant", "content": "So:\n\n "}]
    text = tokenizer.decode(encode_prompt(tokenizer, Problem("p", chat, "")))
    assert text.endswith("assistant:So:\n\n ")


def test_without_a_template_the_text_goes_on_where_it_ends():
    tokenizer = byte_tokenizer()
    text = tokenizer.decode(encode_prompt(tokenizer, Problem("p", [QUESTION, BEGUN], "")))
    assert text == "2+3?\nLet us see:\n2+3="


def test_a_template_that_cannot_be_continued_says_so():
    tokenizer = byte_tokenizer("{% for m in messages %}<|user|>{{ m['role'] }}{% endfor %}")
    with pytest.raises(ValueError, match=r"cannot write messages of the roles \['user', 'assis"):
        encode_prompt(tokenizer, Problem("p", [QUESTION, BEGUN], ""))


@pytest.mark.parametrize("chat", [None, CHAT])
def test_the_critic_reads_the_beginning_as_part_of_the_answer(chat):
    tokenizer = byte_tokenizer(chat)
    begun, plain = Problem("p", [QUESTION, BEGUN], ""), Problem("p", [QUESTION], "")
    builder = PromptBuilder(template("paper"), tokenizer, tokenizer)
    prompt = builder.render_text(begun, "5", None)
    assert prompt == builder.render_text(plain, BEGUN["content"] + "5", None)
    assert "Problem:\n2+3?\n\nPartial solution:\nLet us see:\n2+3=5\n" in tokenizer.decode(prompt)
    text = plain_prompt(ZERO_SHOT, begun, "5", None)
    assert "Problem:\n2+3?\n\nPartial solution:\nLet us see:\n2+3=5\n" in text


@pytest.mark.parametrize("prompt", ["\ud83d?", [{"role": "user", "content": "\ud83d?"}]])
@pytest.mark.parametrize("chat", [None, CHATML])
def test_half_a_surrogate_pair_is_replaced(prompt, chat):
    tokenizer = byte_tokenizer(chat)
    assert "??" in tokenizer.decode(encode_prompt(tokenizer, Problem("p", prompt, "")))


def test_every_special_added_token_is_a_control_token():
    tokenizer = byte_tokenizer(CHAT)
    names = {"<pad>", "<eos>", "<bos>", "<|user|>", "<|assistant|>"} - {"<bos>"}
    assert special_ids(tokenizer) == {tokenizer.convert_tokens_to_ids(t) for t in names}
