"""The page's files, and the page as one file: with its scripts, style and answers, for sending.

Scripts are modules that import each other by name. In one file each becomes a function that returns
what it exports.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genac.runs.files import atomic_write, encodable
from genac.runs.store import Run
from genac.runs.trajectory import Trajectory, parse_address
from genac.ui import html
from genac.ui.viewer.answers import describe, member_of, with_siblings
from genac.ui.viewer.digest import SNIPPET
from genac.ui.viewer.filters import Filters
from genac.ui.viewer.index import Index
from genac.ui.viewer.tree import tree

STATIC = Path(__file__).parent / "static"
KATEX = Path(__file__).parent.parent / "vendor" / "katex"  # sets formulas; MIT, see its LICENSE
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:function|const) (\w+))", re.MULTILINE)
FORMULA = re.compile(r"\\[(\[]|\\boxed|\\begin|\$")
Group = tuple[str, int, int]


def write_page(run: Run, target: Path, addresses: Sequence[str], filters: Filters) -> int:
    """Writes the named responses, else those that the filters choose, as one interactive page;
    returns how many. ValueError where there is none.
    """
    index = Index(run)
    index.refresh()
    places = [parse_address(address) for address in addresses]
    if not places:
        rows = index.page(filters)["rows"]
        places = [(row["stage"], row["step"], row["group"], row["member"]) for row in rows]
    if not places:
        raise ValueError(f"{run.path} holds no response to export under these filters")
    atomic_write(target, document(describe(run, index), answers(run, places)))
    return len(set(places))


def answers(run: Run, places: Sequence[tuple[str, int, int, int]]) -> dict[str, Any]:
    """What the page requests of these responses, by path."""
    chosen: dict[Group, list[int]] = {}
    for stage, step, group, member in dict.fromkeys(places):
        chosen.setdefault((stage, step, group), []).append(member)
    groups = {place: run.group(*place) for place in chosen}
    result: dict[str, Any] = {}
    for place, members in chosen.items():
        own = [member_of(groups[place], member) for member in members]
        result |= {f"trajectory/{one.address}": with_siblings(one, own) for one in own}
        first = own[0]
        about = {"problem_id": first.problem_id, "prompt": first.prompt, "answer": first.answer}
        result["tree/" + "/".join(map(str, place))] = about | {"nodes": tree(own)}
    rows = [row(member_of(groups[place[:3]], place[3])) for place in dict.fromkeys(places)]
    listed = {"total": len(rows), "page": 1, "size": len(rows), "rows": rows, "searched": None}
    return result | {"rollouts": listed}


def row(one: Trajectory) -> dict[str, Any]:
    """A line of the list."""
    fall = None if one.worst is None else -(one.steps[one.worst].change or 0.0)
    keys = ("stage", "step", "group", "member", "problem_id", "reward", "finish")
    states = [step for step in one.steps if step.judged]
    return {key: getattr(one, key) for key in keys} | {
        "prompt": one.prompt and one.prompt[:SNIPPET],
        "missing": sum(step.value is None for step in states),
        "fall": fall,
        "gap": None,
        "values": [step.value for step in states],
    }


def document(about: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    """The whole page."""
    shared = {key: value for key, value in about.items() if key != "path"}  # of this machine
    data = json.dumps({"run": shared, **held}, allow_nan=False, separators=(",", ":"))
    data = encodable(data).replace("<", "\\u003c")
    scripts, style = [bundle()], (STATIC / "style.css").read_text(encoding="utf-8")
    if FORMULA.search(data):
        scripts.insert(0, (KATEX / "katex.min.js").read_text(encoding="utf-8"))
        style += fonts_inside((KATEX / "katex.min.css").read_text(encoding="utf-8"))
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    body = index.partition("<body>\n")[2].partition("</body>")[0]
    body += f'<script type="application/json" id="answers">{data}</script>'
    return html.page(about["name"], body, style=style, scripts=scripts, kind="single")


def bundle() -> str:
    """The page's modules as one script, each after those that it imports."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        text = (STATIC / f"{name}.js").read_text(encoding="utf-8")
        for match in IMPORT.finditer(text):
            if match[2] not in parts:
                add(match[2])
        names = [match[2] for match in EXPORT.finditer(text)]
        text = EXPORT.sub(r"\1", IMPORT.sub(r"const {\1} = modules.\2;", text))
        parts[name] = (
            f"modules.{name} = (() => {{\n{text}\nreturn {{ {', '.join(names)} }};\n}})();"
        )

    add("app")
    return '(() => {\n"use strict";\nconst modules = {};\n' + "\n".join(parts.values()) + "\n})();"


def fonts_inside(style: str) -> str:
    """The style sheet with its fonts in it."""

    def font(match: re.Match[str]) -> str:
        data = base64.b64encode((KATEX / match[1]).read_bytes()).decode()
        return f"url(data:font/woff2;base64,{data})"

    return re.sub(r"url\((fonts/[\w-]+\.woff2)\)", font, style)
