"""The responses of a group as one tree, in which shared prefixes are drawn once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from genac.runs.trajectory import Trajectory


def tree(group: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """The responses of a group with shared prefixes once: nodes in drawing order.

    A node is a segment: `id`, `parent` (None at the root), `depth`, `text`, `members` through it,
    `values` before it (one per member that was judged there) and, where a response ends with
    it, `ends`: [{member, reward}].
    """
    nodes: dict[Any, dict[str, Any]] = {}
    for one in group:
        parent: dict[str, Any] | None = None
        for depth, step in enumerate(one.steps):
            # The parent is part of the key: equal text behind different prefixes is another state.
            above = None if parent is None else parent["id"]
            key = (above, one.ids[step.start : step.end] if one.ids is not None else step.text)
            fresh = {"id": len(nodes), "parent": above, "depth": depth, "text": step.text}
            fresh |= {"start": step.start, "members": [], "values": [], "ends": []}
            parent = nodes.setdefault(key, fresh)
            parent["members"].append(one.member)
            if step.value is not None:
                parent["values"].append(step.value)
        if parent is not None:
            parent["ends"].append({"member": one.member, "reward": one.reward})
    return _depth_first(list(nodes.values()))


def _depth_first(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    below: dict[int | None, list[dict[str, Any]]] = defaultdict(list)
    for node in nodes:
        below[node["parent"]].append(node)
    out, waiting = [], below[None][::-1]
    while waiting:
        node = waiting.pop()
        out.append(node)
        waiting += below[node["id"]][::-1]
    return out
