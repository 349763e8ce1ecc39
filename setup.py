"""The long description for a package index: the README without links that only a checkout has.

Everything else is in pyproject.toml.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).parent / "README.md"
PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*(\*[^*]+\*\n+)?")  # and its caption
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")


def for_index(readme: str) -> str:
    """An index shows no file of the repository: pictures go, links become their text."""
    return LINK.sub(r"\1", PICTURE.sub("", readme))


if __name__ == "__main__":
    text = for_index(README.read_text(encoding="utf-8"))
    setup(long_description=text, long_description_content_type="text/markdown")
