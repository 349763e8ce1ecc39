"""Which traces a step of the critic's SFT reads."""

from __future__ import annotations

import itertools

from genac.stages.sft import epoch_order
from genac.stages.traces.files import Trace


def traces(problems: int, lengths: int) -> list[Trace]:
    """Of every problem one trace per length, the lengths first."""
    return [
        Trace({"id": f"p{p}"}, "", tuple(range(n)), 0.5, "", 5, None)
        for n, p in itertools.product(range(lengths), range(problems))
    ]


def test_an_epoch_reads_every_trace_once_in_an_order_of_its_own() -> None:
    rows = traces(6, 4)
    orders = [epoch_order(rows, f"0/sft/{epoch}", by) for epoch in (0, 1) for by in (False, True)]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_by_problem_a_problems_traces_stand_together_and_prefixes_side_by_side() -> None:
    rows = traces(6, 4)
    order = epoch_order(rows, "0/sft/0", by_problem=True)
    groups = [[rows[i] for i in order[k : k + 4]] for k in range(0, 24, 4)]
    assert all(len({t.problem["id"] for t in group}) == 1 for group in groups)
    assert all([len(t.partial_ids) for t in group] == [0, 1, 2, 3] for group in groups)
    assert [g[0].problem["id"] for g in groups] != [f"p{p}" for p in range(6)]  # shuffled
