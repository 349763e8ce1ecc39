"""The README's annotated tree is the real one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tree_names_every_module_once():
    tree = (ROOT / "README.md").read_text().split("## Files")[1]
    named, folder = set(), ""
    for line in re.findall(r"^  (  )?([a-z_]+(?:\.py|/))", tree, flags=re.M):
        indent, name = line
        if name.endswith("/"):
            folder = name
        else:
            named.add((folder if indent else "") + name)
    real = {
        str(path.relative_to(ROOT / "genac"))
        for path in (ROOT / "genac").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert named - {"__init__.py"} == real
