"""What the site needs besides the pages: links that leave docs/, pages that may be missing, and a
name for the theme's search, which screen readers would else announce without one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# A site holds no source files, so a link to one becomes its text.
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)]*|[^):]*/?bench)\)")


def on_config(config: Any) -> Any:
    """Leaves out entries of the navigation whose page does not exist."""
    config["nav"] = existing(config["nav"], Path(config["docs_dir"]))
    return config


def existing(nav: list[dict[str, Any]], docs: Path) -> list[dict[str, Any]]:
    kept = []
    for entry in nav:
        (title, place), *_ = entry.items()
        if isinstance(place, list):
            kept.append({title: existing(place, docs)})
        elif (docs / place).exists():
            kept.append(entry)
    return kept


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    docs = Path(page.file.abs_src_path).parent
    root = docs.parents[len(Path(page.file.src_uri).parts) - 1]

    def text_or_link(match: re.Match[str]) -> str:
        target = (docs / match[2].split("#")[0]).resolve()
        inside = target.is_relative_to(root / "docs") and target.is_file()
        return match[0] if inside else match[1]

    return OUTSIDE.sub(text_or_link, markdown)


def on_post_page(output: str, **_: Any) -> str:
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"', 1)
