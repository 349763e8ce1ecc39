"""What the list of responses shows: filters and orders, as SQL over the table of `index`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SORTS = {
    "step": "step",
    "telling": "CASE WHEN reward < 0.5 THEN fall END",  # wrong ones, the largest fall first
    "drop": "fall",
    "gap": "gap",
    "reward": "reward",
    "value": '"first"',
    "missing": "missing",
    "problem": "problem_id",
}
OUTCOMES = {
    "right": "reward >= 0.5",
    "wrong": "reward < 0.5",
    "unscored": "reward IS NULL",
    "cut": "finish = 'length'",
}
MAX_PAGE = 200
LARGEST = 2**31 - 1  # of a page or a step


@dataclass(frozen=True)
class Filters:
    """What the list shows. ValueError names an impossible value."""

    stage: str | None = None
    step_min: int | None = None
    step_max: int | None = None
    outcome: str | None = None  # a key of OUTCOMES
    problem: str | None = None  # part of the problem's id
    min_drop: float | None = None
    min_gap: float | None = None
    unparsable: bool = False  # only responses with a score that could not be read
    q: str | None = None  # part of the problem, the response or the critic's reasoning
    sort: str = "step"
    ascending: bool = False
    page: int = 1
    size: int = 50

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("sort", self.sort, SORTS),
            ("outcome", self.outcome, OUTCOMES),
        ):
            if value is not None and value not in allowed:
                raise ValueError(f"{name} is {value!r}; it can be {', '.join(allowed)}")
        if not 1 <= self.page <= LARGEST or not 1 <= self.size <= MAX_PAGE:
            raise ValueError(
                f"page {str(self.page)[:20]} of size {str(self.size)[:20]}: pages start at 1, "
                f"sizes are 1..{MAX_PAGE}"
            )
        for name, step in (("step_min", self.step_min), ("step_max", self.step_max)):
            if step is not None and abs(step) > LARGEST:
                raise ValueError(f"{name} is {str(step)[:20]}; steps are at most {LARGEST}")

    def where(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its parameters."""
        tests: list[tuple[str, Any]] = [
            ("stage = ?", self.stage),
            ("step >= ?", self.step_min),
            ("step <= ?", self.step_max),
            ("contains(lower(problem_id), lower(?))", self.problem or None),
            ("fall >= ?", self.min_drop),
            ("gap >= ?", self.min_gap),
            ('(stage, step, "group", member) IN (SELECT (stage, step, "group", member) '
             "FROM hits WHERE needle = ?)", self.needle or None),
        ]  # fmt: skip
        used = [(test, value) for test, value in tests if value is not None]
        fixed = [OUTCOMES[self.outcome]] if self.outcome else []
        fixed += ["missing > 0"] if self.unparsable else []
        return " AND ".join([t for t, _ in used] + fixed) or "true", [v for _, v in used]

    def order(self) -> str:
        way = "ASC" if self.ascending else "DESC"
        return f'{SORTS[self.sort]} {way} NULLS LAST, step DESC, stage, "group", member'

    @property
    def needle(self) -> str:
        return (self.q or "").lower()
