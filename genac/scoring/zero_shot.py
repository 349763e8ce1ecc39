"""A model behind an API as a scorer: the zero-shot prompt as text, each answer kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genac.critics.prompts import Template
from genac.critics.scores import SCORES, parse_score
from genac.critics.zero_shot import ZERO_SHOT, plain_prompt
from genac.endpoint.client import Endpoint
from genac.scoring.generative import Judgement, Prompt, check_prompt
from genac.types import Problem


class ZeroShot:
    """Whatever was answered before is not sent again. An answer that cannot be read is missing."""

    rationales = 1

    def __init__(self, endpoint: Endpoint, file: Path, chosen: Template = ZERO_SHOT) -> None:
        self.endpoint, self.file, self.template = endpoint, file, chosen
        self.processed_tokens = 0  # by the server's own count, of all answers that were used

    def describe(self) -> dict[str, Any]:
        """What it is; fit for JSON."""
        return {"kind": "zero-shot", **self.endpoint.cfg.identity(), "prompt": self.template.hash}

    def prompt(self, problem: Prompt, partial: str, success_rate: float | None = None) -> str:
        """The whole prompt. It says nothing of the author, whose success rate nobody knows."""
        del success_rate
        item = Problem("", check_prompt(problem), "")
        return plain_prompt(self.template, item, partial, None, self.endpoint.cfg.notes)

    def judge(
        self, prompts: Sequence[str], seeds: Sequence[int], rationales: int | None = None
    ) -> list[Judgement]:
        """One judgement per prompt. ValueError where the server cannot be used at all."""
        del seeds
        if rationales not in (None, 1):
            raise ValueError(
                f"{rationales} rationales: a model behind an API judges each state once; use 1"
            )
        replies, bill = self.endpoint.ask(prompts, self.file)
        self.processed_tokens += bill.prompt_tokens + bill.completion_tokens
        texts = [replies[p].text if p in replies else None for p in prompts]
        scores = [None if text is None else parse_score(text) for text in texts]
        return [
            Judgement(None if score is None else score / (SCORES - 1), text or "", None)
            for score, text in zip(scores, texts, strict=True)
        ]
