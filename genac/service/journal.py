"""What is about to be learnt, on disk before it is: a killed service repeats it after its restart.

    FOLDER/learnt/000012.npz    what took the critic from step 12 to step 13

Weights are saved now and then, this with every request: the states with their outcomes, and the
rationales with the probabilities that they were sampled at. Learning them again from the same
weights gives the same weights, so nothing that was acknowledged is lost, and nothing is learnt
twice.

Shapes: _R rollout, _S state, _U set of rationales, _T rationale. Lists of different lengths are one
array and an array of lengths.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from genac.runs.files import durable
from genac.types import Estimate, Problem, Rationale, Rollout, State

Arrays = dict[str, np.ndarray]
NOBODY = Problem("", "", "")  # learning reads no problem


@dataclass(frozen=True)
class Lesson:
    """A request to be learnt, as it was when learning began."""

    request_id: str
    digest: str
    step: int  # that of the trainer, for the seeds
    rate: dict[str, Any]  # the success rate before its outcomes
    estimates: list[Estimate]


class Journal:
    """The lessons behind the oldest checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "learnt"

    def write(self, number: int, lesson: Lesson) -> None:
        """Once this returns, the lesson survives kill and power cut. OSError on a full disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        durable(self._file(number), packed(lesson))

    def drop(self, number: int) -> None:
        """Takes back a lesson that could not be learnt."""
        self._file(number).unlink(missing_ok=True)

    def read(self, number: int) -> Lesson | None:
        """The lesson that began at step `number`; None where there is none. ValueError where it
        cannot be read."""
        file = self._file(number)
        if not file.exists():
            return None
        try:
            return read_packed(file.read_bytes())
        except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
            raise ValueError(
                f"{file} cannot be read ({error}); restore it, or delete it and all later ones to "
                f"go on from step {number}"
            ) from error

    def require_end(self, number: int) -> None:
        """ValueError where there are lessons behind step `number`, to which none leads."""
        if later := sorted(f.name for f in self.folder.glob("*.npz") if int(f.stem) >= number):
            raise ValueError(
                f"{self.folder} holds {later[0]}, but checkpoints and lessons lead to step "
                f"{number} only; restore what is missing, or delete {len(later)} lessons from "
                f"{later[0]} on to go on without them"
            )

    def prune(self, first: int) -> None:
        """Removes what no kept checkpoint needs: all before the step `first`."""
        for file in self.folder.glob("*.npz"):
            if int(file.stem) < first:
                file.unlink()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def packed(lesson: Lesson) -> bytes:
    estimates = lesson.estimates
    rollouts = {id(e.state.rollout): e.state.rollout for e in estimates}
    sets = {id(e.rationales): e.rationales for e in estimates}
    rationales = {id(t): t for own in sets.values() for t in own}
    place_R, place_U, place_T = (
        {key: i for i, key in enumerate(table)} for table in (rollouts, sets, rationales)
    )
    head = {
        "request_id": lesson.request_id,
        "digest": lesson.digest,
        "step": lesson.step,
        "rate": lesson.rate,
    }
    arrays = {
        "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
        "rewards": optional([r.reward for r in rollouts.values()]),
        "values": optional([e.value for e in estimates]),
        "versions": np.array([e.version for e in estimates], np.int64),
        "states": np.array(
            [
                (place_R[id(s.rollout)], s.start, s.end, s.trains, place_U[id(e.rationales)])
                for e in estimates
                for s in [e.state]
            ],
            np.int64,
        ).reshape(-1, 5),
        **ragged("prompts", [r.prompt_ids for r in rollouts.values()]),
        **ragged("responses", [r.response_ids for r in rollouts.values()]),
        **ragged("sets", [[place_T[id(t)] for t in own] for own in sets.values()]),
        **packed_rationales(list(rationales.values())),
    }
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def read_packed(data: bytes) -> Lesson:
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return unpacked(dict(stored))


def packed_rationales(rationales: Sequence[Rationale]) -> Arrays:
    """All that REINFORCE reads of a rationale."""
    return {
        **ragged("read", [t.prompt_ids for t in rationales]),
        **ragged("written", [t.completion_ids for t in rationales]),
        "logprobs": np.concatenate([np.zeros(0, np.float32), *(t.logprobs for t in rationales)]),
        "scores": optional([t.value for t in rationales]),
        "score_at": np.array([-1 if t.score_at is None else t.score_at for t in rationales]),
        **known_rows("score_probs", [t.score_probs for t in rationales]),
        **known_rows("after_one", [t.after_one for t in rationales]),
    }


def unpacked(arrays: Arrays) -> Lesson:
    head = json.loads(arrays["head"].tobytes())
    rollouts = [
        Rollout(NOBODY, 0, i, prompt, response, np.zeros(0, np.float32), "", "stop", 0, reward)
        for i, (prompt, response, reward) in enumerate(
            zip(
                lists(arrays, "prompts"),
                lists(arrays, "responses"),
                missing(arrays["rewards"]),
                strict=True,
            )
        )
    ]
    rationales = unpacked_rationales(arrays)
    sets = [tuple(rationales[i] for i in own) for own in lists(arrays, "sets")]
    estimates = [
        Estimate(State(rollouts[r], start, end, bool(trains)), value, sets[u], version)
        for (r, start, end, trains, u), value, version in zip(
            arrays["states"].tolist(),
            missing(arrays["values"]),
            arrays["versions"].tolist(),
            strict=True,
        )
    ]
    return Lesson(**head, estimates=estimates)


def unpacked_rationales(arrays: Arrays) -> list[Rationale]:
    written = lists(arrays, "written")
    ends = np.cumsum([len(ids) for ids in written])
    probs, after = rows_by_place(arrays, "score_probs"), rows_by_place(arrays, "after_one")
    return [
        Rationale(
            prompt_ids=prompt,
            completion_ids=ids,
            logprobs=arrays["logprobs"][end - len(ids) : end],
            text="",
            value=value,
            score_at=None if at < 0 else at,
            score_probs=probs.get(i),
            after_one=after.get(i),
        )
        for i, (prompt, ids, end, value, at) in enumerate(
            zip(
                lists(arrays, "read"),
                written,
                ends,
                missing(arrays["scores"]),
                arrays["score_at"].tolist(),
                strict=True,
            )
        )
    ]


def ragged(name: str, rows: Sequence[Sequence[int]]) -> Arrays:
    return {
        name: np.array([i for row in rows for i in row], np.int64),
        f"{name}_lengths": np.array([len(row) for row in rows], np.int64),
    }


def lists(arrays: Arrays, name: str) -> list[tuple[int, ...]]:
    ends = np.cumsum(arrays[f"{name}_lengths"])
    flat = arrays[name].tolist()
    starts = ends - arrays[f"{name}_lengths"]
    return [tuple(flat[a:b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def optional(values: Sequence[float | None]) -> np.ndarray:
    """(N,) float64, NaN where nothing is known."""
    return np.array([np.nan if v is None else v for v in values], np.float64)


def missing(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else v for v in values.tolist()]


def known_rows(name: str, rows: Sequence[np.ndarray | None]) -> Arrays:
    """The rows that there are, in the precision that they have, and their places."""
    known = {i: row for i, row in enumerate(rows) if row is not None}
    return {
        name: np.stack(list(known.values())) if known else np.zeros((0, 0)),
        f"{name}_places": np.array(list(known), np.int64),
    }


def rows_by_place(arrays: Arrays, name: str) -> dict[int, np.ndarray]:
    return dict(zip(arrays[f"{name}_places"].tolist(), arrays[name], strict=True))
