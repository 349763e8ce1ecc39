"""The parser of every verb's options; without pydantic, so that `--help` comes at once."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Refuses an unknown option with the one that was meant."""

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        unknown = re.findall(r"(?<!\S)--[\w-]+", message) if "unrecognized" in message else []
        near = [n for name in unknown for n in difflib.get_close_matches(name, options, 1)]
        hint = f"; did you mean {' '.join(near)}?" if near else ""
        super().error(f"{message}{hint}")
