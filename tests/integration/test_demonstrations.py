"""A critic learns from demonstrations with wrong results, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genac.config.recipes import resolve
from genac.stages.pipeline import prepare_until
from genac.stages.traces.files import Trace, read_traces

Micro = Callable[..., dict[str, Any]]


def made(micro: Micro, **synthesize: Any) -> list[Trace]:
    stage = {"oracle": "calibrated", "num_states": 10_000} | synthesize
    return read_traces(
        Path(prepare_until(resolve(micro(stages={"synthesize": stage})), "synthesize"))
    )


def test_they_are_judged_and_take_no_part_in_calibration(micro: Micro) -> None:
    plain = made(micro)
    own = {(t.problem["id"], t.partial) for t in plain}
    assert all(t.target is not None for t in plain)
    mixed = made(micro, demonstrations=24, fault_rate=4.0)
    added = [t for t in mixed if t.target is None]
    assert len(added) == 24 and len(mixed) == len(plain) + len(added)
    assert sum(" no" in t.reasoning for t in added) > len(added) / 4, "their results are wrong"
    assert not own & {(t.problem["id"], t.partial) for t in added}
    before = {(t.problem["id"], t.partial): t.score for t in plain}
    after = {(t.problem["id"], t.partial): t.score for t in mixed if t.target is not None}
    assert after == before


def test_an_oracle_that_does_not_read_them_is_named(micro: Micro) -> None:
    with pytest.raises(ValueError, match="demonstrations is 2 but oracle is 'outcome'"):
        resolve(micro(stages={"synthesize": {"oracle": "outcome", "demonstrations": 2}}))
