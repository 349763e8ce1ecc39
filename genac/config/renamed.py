"""Names that were changed: an old one is refused, and the message says what to write today.

There are no aliases. Whoever refuses an unknown name asks `called_now` for the end of its message.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import NoReturn

# Where a name stands -> the old name -> today's. A dotted key holds the values of that key.
RENAMED: dict[str, dict[str, str]] = {
    "key": {"loss": "actor.loss"},
    "critic.kind": {"exact": "actor_likelihood"},
    "critic.generative.prompt": {"trunk-first": "prefix-first"},
    "option": {"--thoughts": "--rationales"},
    "field": {"thoughts": "rationales"},
    "metric": {"critic/thought_length": "critic/rationale_length"},
    "column": {},
    "experiment folder": {"cells": "jobs"},
}


def called_now(place: str, name: str, known: Collection[str] | None = None) -> str:
    """The end of a message that refuses `name`: "; 'old' is called 'new' now", or "".

    place: a key of RENAMED. known: the names that are accepted; a hint at another is left out.
    """
    new = RENAMED[place].get(name)
    if new is None or (known is not None and new not in known):
        return ""
    return f"; {name!r} is called {new!r} now"


def older(place: str, names: Collection[str]) -> list[str]:
    """A sentence for each of the `names` of a run's metrics or columns that is an old one."""
    return [
        f"the {place} {old} is called {new} now and is not shown: an older version of genac wrote "
        "this run"
        for old, new in RENAMED[place].items()
        if old in names
    ]


class Parser(argparse.ArgumentParser):
    """Refuses an unknown option with the one that was meant, an old name with today's."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):  # type: ignore[override]
        options = [option for action in self._actions for option in action.option_strings]
        for argument in args or ():
            name = argument.partition("=")[0]
            if name not in options and (hint := called_now("option", name, options)):
                self.error(f"unknown option {name}{hint}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        unknown = re.findall(r"(?<!\S)--[\w-]+", message) if "unrecognized" in message else []
        near = [n for name in unknown for n in difflib.get_close_matches(name, options, 1)]
        hint = f"; did you mean {' '.join(near)}?" if near else ""
        super().error(f"{message}{hint}")
