"""A saved generative critic: from a folder or hub name to values of partial responses.

critic = Critic.from_pretrained("runs/arithmetic/critic")
critic.score("6 a+3 b*7 c-8>", "a+3=9\\n").value
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from genac.config.models import CriticConfig
from genac.config.recipes import explain
from genac.config.run import HardwareConfig
from genac.critics.generative import GenerativeCritic, require_per_state
from genac.critics.prompts import Context
from genac.critics.saved import critic_card
from genac.hardware import Hardware
from genac.reach import at_hand
from genac.runs.manifest import require_saved
from genac.runtime import ModelSpec, build
from genac.seeding import derive_seed
from genac.types import SCORE_VALUES, Message, Problem, Rationale

Ids = tuple[int, ...]
Prompt = str | list[Message]


class TooLong(ValueError):
    """Problem and partial response exceed the context of the critic."""


@dataclass(frozen=True)
class Judgement:
    """What the critic says of one partial response.

    `value` in [0, 1] is the mean over its rationales (None = no rationale gave a score; that of a
    linear value head may leave [0, 1]),
    `rationale` the first rationale, `spread` the standard deviation of the score over everything it
    may have written: within each rationale's score distribution and between rationales (None = not
    known).
    """

    value: float | None
    rationale: str  # empty of a value head
    spread: float | None
    rationales: tuple[str, ...] = ()  # every rationale's text
    values: tuple[float | None, ...] = ()  # and its value


class Critic:
    """A generative critic for inference. Not safe to call from two threads at once."""

    def __init__(self, critic: GenerativeCritic, card: dict[str, Any] | None = None) -> None:
        self._critic, self.card = critic, card or {}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        threads: int = 0,
        batch_size: int = 64,
    ) -> Critic:
        """Loads a critic that a run saved, from its folder or from the hub ("owner/name").

        device and precision: auto = bf16 on a GPU where there is one, else on the CPU (with
        `threads` threads, 0 = torch's own choice) fp32, or bf16 for a critic of 50M parameters and
        more where that is faster. batch_size: rationales written side by side; it changes memory
        and speed, not values. ValueError where there is no generative critic, or where a file of
        it is not as the run wrote it.
        """
        place = local_folder(folder)
        require_saved(place)
        saved = read_card(place)
        cfg = critic_config(saved, place)
        require_per_state(cfg.generative, "scoring")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; use at least 1")
        hardware = HardwareConfig(device=device, precision=precision, threads=threads)
        runtime = build(
            ModelSpec(
                "critic",
                str(place),
                cfg.optimizer,
                max_rows=batch_size,
                load=cfg.load.model_copy(update={"dtype": "fp32"}),
            ),
            Hardware.resolve(hardware),
        )
        icc = cfg.generative.icc.model_copy(update={"actor_size": saved.get("actor_size")})
        generative = cfg.generative.model_copy(update={"icc": icc})
        critic = GenerativeCritic(runtime, runtime, generative, seed=0)
        critic.restore({k: saved[k] for k in ("success_rate", "prompt_hash")})
        return cls(critic, saved)

    @property
    def rationales(self) -> int:
        """Rationales per state where a call names no number: as many as in training."""
        return self._critic.cfg.num_samples

    @property
    def processed_tokens(self) -> int:
        """Tokens that the engine has read and written so far."""
        return self._critic.runtime.processed_tokens

    def describe(self) -> dict[str, Any]:
        """How the critic was made and is prompted; fit for JSON."""
        cfg, chosen = self._critic.cfg, self._critic.prompts.template
        return {
            "kind": "generative",
            "prompt": {"name": chosen.name, "version": chosen.version, "hash": chosen.hash}
            | {"text": chosen.text, "icc": chosen.icc if cfg.icc.enabled else ""},
            "actor_size": self._critic.actor_size,
            "success_rate": self._critic.rate.value,
            "readout": cfg.readout,
            "temperature": cfg.temperature,
            "rationales": self.rationales,
            "max_new_tokens": cfg.max_new_tokens,
            "max_prompt_tokens": self._critic.room,
        }

    def score(
        self,
        problem: Prompt,
        partial: str,
        success_rate: float | None = None,
        *,
        rationales: int | None = None,
        seed: int = 0,
    ) -> Judgement:
        """Value of a partial response. `problem` is a text or chat messages; `success_rate` is
        the author's, which conditions the critic (without it, the rate at the end of training);
        `rationales` are averaged (without it, as many as in training). ValueError where the text
        does not fit the critic's context.
        """
        many = self.score_many([(problem, partial)], success_rate, rationales=rationales, seed=seed)
        return many[0]

    def score_many(
        self,
        pairs: Sequence[tuple[Prompt, str]],
        success_rate: float | None = None,
        *,
        rationales: int | None = None,
        seed: int = 0,
    ) -> list[Judgement]:
        """One judgement per (problem, partial response), all written together.

        What a pair gets depends on itself and the seed, not on the other pairs (up to the
        rounding of a batch).
        """
        prompts = [self.prompt(*pair, success_rate) for pair in pairs]
        return self.judge(prompts, [seed] * len(prompts), rationales)

    def prompt(self, problem: Prompt, partial: str, success_rate: float | None = None) -> Ids:
        """Token ids of the critic's prompt; ValueError where it does not fit the context."""
        if success_rate is not None and not 0 <= success_rate <= 1:
            raise ValueError(f"success_rate is {success_rate}; it must lie in [0, 1]")
        context = self._critic.context()
        if context is not None and success_rate is not None:
            context = Context(context.size, success_rate)
        queries = Problem("", check_prompt(problem), "")
        room, cut = self._critic.room, self._critic.cfg.too_long == "truncate"
        ids = self._critic.prompts.render_text(queries, partial, context, room, cut)
        if len(ids) > room:
            raise TooLong(
                f"the critic's prompt has at least {len(ids)} tokens, and its context leaves room "
                f"for {room} next to a rationale of {self._critic.cfg.max_new_tokens}; give a "
                "shorter problem or partial response"
            )
        return ids

    def judge(
        self, prompts: Sequence[Ids], seeds: Sequence[int], rationales: int | None = None
    ) -> list[Judgement]:
        """Judgements of prompts made by `prompt`, each with its own seed."""
        if rationales is not None and rationales < 1:
            raise ValueError(f"rationales is {rationales}; ask for at least one")
        own = [derive_seed(s, "score", *ids) for s, ids in zip(seeds, prompts, strict=True)]
        return [
            self._judgement(result) for result in self._critic.think(prompts, own, rationales or 0)
        ]

    def _judgement(self, rationales: Sequence[Rationale]) -> Judgement:
        read = tuple(self._critic.value([rationale]) for rationale in rationales)
        return Judgement(
            self._critic.value(rationales),
            rationales[0].text,
            spread(rationales),
            tuple(rationale.text for rationale in rationales),
            read,
        )


def spread(rationales: Sequence[Rationale]) -> float | None:
    """Standard deviation of the score of a rationale drawn at random, in value units.

    Of the mean of the rationales' score distributions; where these are not known, of the sampled
    scores of two rationales or more.
    """
    known = [t.score_probs for t in rationales if t.score_probs is not None]
    if known:
        p = np.mean(known, axis=0)
        return float(np.sqrt(max(0.0, p @ SCORE_VALUES**2 - (p @ SCORE_VALUES) ** 2)))
    values = [t.value for t in rationales if t.value is not None]
    return float(np.std(values)) if len(values) > 1 else None


def check_prompt(problem: Prompt) -> Prompt:
    """The problem, where it is text or chat messages with text."""
    if isinstance(problem, str):
        return problem
    if not problem or not all(isinstance(m.get("content"), str) for m in problem):
        raise ValueError(
            "a problem is a string, or chat messages: a list of {'role': ..., 'content': text}"
        )
    return problem


def local_folder(name: str | Path) -> Path:
    """The folder itself, or where a snapshot of the hub's repository lies."""
    name = Path(name).expanduser() if str(name).startswith("~") else name
    if Path(name).is_dir() or str(name).count("/") != 1 or Path(name).is_absolute():
        return Path(name)
    place = at_hand(str(name))
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(place))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        raise ValueError(
            f"{name} is no folder here, and the hub did not give it ({reason:.200}); check the "
            "name, HF_TOKEN and the network"
        ) from error


def read_card(folder: Path, kind: str = "generative") -> dict[str, Any]:
    """critic.json; ValueError where there is none or it is of another kind of critic."""
    saved = critic_card(folder)
    if not saved:
        raise ValueError(f"{folder} holds no critic.json; give the 'critic' folder of a genac run")
    if saved["kind"] != kind:
        reason = "; only a generative one writes reasons" if kind == "generative" else ""
        raise ValueError(f"the critic in {folder} is {saved['kind']}, not {kind}{reason}")
    return saved


def critic_config(saved: dict[str, Any], folder: Path) -> CriticConfig:
    try:
        return CriticConfig(**saved["config"])
    except ValidationError as error:
        raise ValueError(
            f"the critic in {folder} was saved by another version of genac:\n{explain(error)}"
        ) from error
