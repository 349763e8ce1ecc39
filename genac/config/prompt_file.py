"""A critic's prompt of one's own: a YAML file whose content takes the place of its name.

    critic.generative.prompt: prompts/code.yaml

The config, and so the run folder and the saved critic, hold the text itself: a critic works where
the file is not, and an edited file is another config. docs/prompts.md says how to write one.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from genac.config.base import Section

PROBLEM, RESPONSE, CONDITIONING = "{problem}", "{response}", "{icc}"
PLACES = (PROBLEM, RESPONSE, CONDITIONING)
ENDINGS = (".yaml", ".yml")


class PromptFile(Section):
    """The keys of the file. In `text`, {problem} and {response} are filled with what the actor was
    prompted with and has written, {icc} with the sentence about the actor.
    """

    name: str = Field(default="own", description="how messages and model cards call it")
    text: str = Field(description="the prompt, with {problem} and {response} once each")
    system: str = Field(default="", description="the system's message, where there is a chat")
    icc: str | None = Field(
        default=None,
        description="the sentence about the actor, with {size} and {rate}; none = the built-in one",
    )

    @field_validator("text")
    @classmethod
    def _places(cls, text: str) -> str:
        for place, what in ((PROBLEM, "the problem"), (RESPONSE, "the partial response")):
            if text.count(place) != 1:
                raise ValueError(
                    f"the place {place} stands there {text.count(place)} times; write it once, "
                    f"where {what} goes"
                )
        if text.index(PROBLEM) > text.index(RESPONSE):
            raise ValueError(f"{RESPONSE} stands before {PROBLEM}; put the problem first")
        if text.count(CONDITIONING) > 1:
            raise ValueError(f"the place {CONDITIONING} stands there twice or more; write it once")
        return text

    @field_validator("system")
    @classmethod
    def _no_places(cls, text: str) -> str:
        if place := next((p for p in PLACES if p in text), None):
            raise ValueError(f"{place} belongs into text, not into the system's message")
        return text

    @field_validator("icc")
    @classmethod
    def _fillable(cls, text: str | None) -> str | None:
        try:
            filled = (text or "").format(size="1.5B", rate=0.5, rate10=5)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f"cannot be filled ({type(error).__name__}: {error}); of places it may hold "
                "{size}, {rate} and {rate10} only; write other braces twice"
            ) from error
        if place := next((p for p in PLACES if p in filled), None):
            raise ValueError(f"{place} belongs into text, not into icc")
        return text

    @model_validator(mode="after")
    def _conditioned(self) -> PromptFile:
        if self.icc and CONDITIONING not in self.text:
            raise ValueError(f"there is an icc, but text has no place for it: write {CONDITIONING}")
        return self


def is_content(prompt: str) -> bool:
    """Whether a value of critic.generative.prompt is the content of a file, not a name."""
    return "\n" in prompt


def content_of(prompt: str) -> str:
    """The value as the config holds it: a file's content for its name, other names as they are.

    ValueError, which names file and place, where a file is missing or is no prompt.
    """
    if is_content(prompt):
        return written(parse(prompt, "the prompt"))
    if not prompt.endswith(ENDINGS):
        return prompt
    file = Path(prompt).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no prompt file {prompt!r}; give the path of a YAML file")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{prompt} is not UTF-8 ({error}); convert it") from error
    return written(parse(text, prompt))


def parse(text: str, where: str) -> PromptFile:
    """The checked keys of a content; ValueError naming `where`, the key and what is wrong."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold the keys {', '.join(PromptFile.model_fields)}")
    try:
        return PromptFile(**values)
    except (ValidationError, TypeError) as error:
        raise ValueError(f"{where}: {explained(error)}") from error


def explained(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "its keys must be texts"
    lines = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            text = f"unknown key; use {', '.join(PromptFile.model_fields)}"
        elif problem["type"] == "missing":
            text = f"is missing; write the prompt, with the places {PROBLEM} and {RESPONSE}"
        else:
            text = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{key}: {text}" if key else text)
    return "; ".join(lines)


def written(prompt: PromptFile) -> str:
    """The content in one form, whatever the file's layout and comments."""
    values = prompt.model_dump(exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=True, allow_unicode=True, width=10_000) + "\n"
