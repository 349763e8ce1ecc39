"""From a problem's prompt to token ids: chat templates, and what a tokenizer adds by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from genac.types import Problem, open_answer, utf8

PROBE = "a"  # any text will do


def prompt_text(tokenizer: Any, problem: Problem) -> str:
    """What the actor reads: through the chat template where there is one, else plain text."""
    prompt = problem.prompt
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return chat_text(tokenizer, messages)
    if isinstance(prompt, str) or problem.beginning:
        return utf8(problem.text)
    return utf8(problem.text) + "\n"


def encode_prompt(tokenizer: Any, problem: Problem) -> tuple[int, ...]:
    """Token ids of a prompt. It begins with BOS where the tokenizer or the template puts one
    there, and never ends with an EOS that the tokenizer adds.
    """
    return encode_prompts(tokenizer, [problem])[0]


def encode_prompts(tokenizer: Any, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    """The same for many, which a fast tokenizer encodes on all cores."""
    texts = [prompt_text(tokenizer, problem) for problem in problems]
    # One text goes the way of `encode`, which not every tokenizer offers for several.
    rows = (
        [tokenizer.encode(texts[0], add_special_tokens=False)]
        if len(texts) == 1
        else tokenizer(texts, add_special_tokens=False)["input_ids"]
    )
    start = () if tokenizer.chat_template else prefix_ids(tokenizer)
    return [with_prefix(start, tuple(row)) for row in rows]


def encode_response(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokens of a text in the place of a response. What looks like a control token is text."""
    return tuple(tokenizer.encode(utf8(text), add_special_tokens=False, split_special_tokens=True))


def with_prefix(prefix: tuple[int, ...], ids: tuple[int, ...]) -> tuple[int, ...]:
    """The ids behind the prefix; a text that writes it itself does not get it twice."""
    return ids if ids[: len(prefix)] == prefix else prefix + ids


def prefix_ids(tokenizer: Any) -> tuple[int, ...]:
    """What the tokenizer puts before every text: BOS, where it adds one, else nothing.

    What it puts behind a text (EOS under `add_eos_token`) is no part of a prompt.
    """
    bare, whole = tokenizer.encode(PROBE, add_special_tokens=False), tokenizer.encode(PROBE)
    places = range(len(whole) - len(bare) + 1) if bare else ()
    start = next((i for i in places if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:start])


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Every control token: those with a name (EOS, padding, ...), and every added token that is
    marked special. Llama 3 has 256 of these, of which one has a name."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {i for i, t in added.items() if t.special}


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The messages as the tokenizer's chat template writes them, up to where the answer begins.

    A final message of the assistant is the beginning of the answer: it stays open and is
    continued. Behind any other message (also a tool's or the system's) a turn of the assistant is
    opened. Raises ValueError where the template refuses the messages (a role it does not know, for
    example).
    """
    chat = [{k: utf8(v) for k, v in message.items()} for message in messages]
    begun = open_answer(chat)
    if begun is not None and not begun.strip() and not chat[-1].get("tool_calls"):
        chat, begun = chat[:-1], None  # blanks begin nothing, and many templates strip them
    try:
        return tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=begun is None,
            continue_final_message=begun is not None,
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = [message.get("role") for message in messages]
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} cannot write messages of the roles "
            f"{roles} ({error}); leave out roles that it does not know (task.options.system, or "
            "system of a critic's prompt file), or correct load.chat_template_kwargs"
        ) from error
