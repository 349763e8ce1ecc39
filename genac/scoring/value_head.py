"""A saved value head for inference: values of partial responses, without reasons.

head = ValueHead.from_pretrained("runs/ppo/critic")
head.score("6 a+3 b*7 c-8>", "a+3=9\\n").value
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from genac.config.run import HardwareConfig
from genac.hardware import Hardware
from genac.models.chat import encode_prompt, encode_response
from genac.models.value_head import HEAD_FILE
from genac.runs.manifest import require_saved
from genac.runtime import ModelSpec, Runtime, build
from genac.scoring.generative import (
    Ids,
    Judgement,
    Prompt,
    TooLong,
    check_prompt,
    critic_config,
    local_folder,
    read_card,
)
from genac.types import Problem


class ValueHead:
    """A discriminative critic for inference. It reads the problem as its actor did, then the
    partial response, and has one value for them: seeds and success rates change nothing.
    """

    rationales = 1

    def __init__(self, runtime: Runtime, card: dict[str, Any]) -> None:
        self.runtime, self.card = runtime, card

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        threads: int = 0,
        batch_size: int = 64,
    ) -> ValueHead:
        """Loads a value head that a run saved; arguments as `Critic.from_pretrained`.

        ValueError where the folder holds none, or where a file is not as the run wrote it.
        """
        place = local_folder(folder)
        require_saved(place)
        saved = read_card(place, "discriminative")
        cfg = critic_config(saved, place)
        if not (place / HEAD_FILE).exists():
            raise ValueError(f"{place} lacks {HEAD_FILE}, the value head: save the critic again")
        spec = ModelSpec(
            "critic",
            str(place),
            cfg.optimizer,
            max_rows=batch_size,
            head=cfg.discriminative.head,
            bins=cfg.discriminative.bins,
            load=cfg.load.model_copy(update={"dtype": "fp32"}),
            trained=True,
        )
        hardware = HardwareConfig(device=device, precision=precision, threads=threads)
        return cls(build(spec, Hardware.resolve(hardware)), saved)

    @property
    def processed_tokens(self) -> int:
        """Tokens read so far."""
        return self.runtime.processed_tokens

    def describe(self) -> dict[str, Any]:
        """What it is; fit for JSON."""
        head = self.card["config"]["discriminative"]["head"]
        return {"kind": "discriminative", "head": head, "max_tokens": self.runtime.max_length}

    def prompt(self, problem: Prompt, partial: str, success_rate: float | None = None) -> Ids:
        """Token ids of problem and partial response; TooLong where they exceed the context."""
        del success_rate
        tokenizer = self.runtime.tokenizer
        before = encode_prompt(tokenizer, Problem("", check_prompt(problem), ""))
        ids = (*before, *encode_response(tokenizer, partial))
        if len(ids) > self.runtime.max_length:
            raise TooLong(
                f"problem and partial response have {len(ids)} tokens, and the value head's "
                f"context is {self.runtime.max_length}; give shorter ones"
            )
        return ids

    def judge(
        self, prompts: Sequence[Ids], seeds: Sequence[int], rationales: int | None = None
    ) -> list[Judgement]:
        """One judgement per prompt; prompts that begin another one are read with it."""
        del seeds, rationales
        sequence_of = longest(prompts)
        rows = list(dict.fromkeys(sequence_of.values()))
        values = dict(zip(rows, self.runtime.learner.values(rows), strict=True))
        return [
            Judgement(float(values[sequence_of[ids]][len(ids)]), "", None)
            for ids in map(tuple, prompts)
        ]

    def score(self, problem: Prompt, partial: str, success_rate: float | None = None) -> Judgement:
        """Value of a partial response; a linear (MSE) head may leave [0, 1]."""
        return self.judge([self.prompt(problem, partial, success_rate)], [0])[0]


def longest(prompts: Sequence[Ids]) -> dict[Ids, Ids]:
    """Each prompt -> the longest of them that begins with it and is read for it."""
    result: dict[Ids, Ids] = {}
    current: Ids = ()
    # In this order what begins with a prompt comes right before it.
    for ids in sorted(set(map(tuple, prompts)), reverse=True):
        current = current if current[: len(ids)] == ids else ids
        result[ids] = current
    return result
