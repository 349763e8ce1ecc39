"""A run's responses in a small in-memory table: pages, filters, search, without loading the run.

Every call does a bounded amount of work. `refresh` reads the newest steps first and stops when its
time is up, so a large run opens at once and fills in while it is looked at; the same call picks up
what a training run appends. The text stays in the Parquet files, which are searched in place.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from genac.runs.checked import step_files
from genac.runs.lines import LogWatch
from genac.runs.listing import STAGES
from genac.runs.store import Run
from genac.ui.viewer.digest import JUDGED, WRITTEN, judged, matching, unpack, written
from genac.ui.viewer.filters import Filters

Key = tuple[str, int]  # stage, step
FOLDERS = ("rollouts", "estimates")
# Nothing is written into the run or fetched: no spilling to disk, no extensions.
SETTINGS = {
    "memory_limit": "256MB",
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
TABLE = """
CREATE TABLE responses (stage VARCHAR, step INT, "group" INT, member INT, problem_id VARCHAR,
  prompt VARCHAR, reward DOUBLE, finish VARCHAR, states INT, missing INT, length INT,
  packed BLOB, "first" FLOAT, fall FLOAT, gap FLOAT);
CREATE TABLE hits (needle VARCHAR, stage VARCHAR, step INT, "group" INT, member INT);
"""
INSERT = """
INSERT INTO responses SELECT ?, ?, "group", member, coalesce(w.problem_id, j.problem_id), prompt,
  coalesce(w.reward, j.reward), finish, states, missing, length, packed, "first", fall, gap
FROM ({written}) w FULL JOIN ({judged}) j USING ("group", member)
"""
HIT = """
INSERT INTO hits SELECT DISTINCT ?, ?, ?, unnest(?::INT[]), unnest(?::INT[])
"""
SEARCH = {
    "rollouts": ("problem_id", "prompt", "response"),
    "estimates": ("rationale",),
}
KEPT_SEARCHES = 8
SHOWN_NOTES = 40
HISTORY = 1000  # responses to one problem


def newest_first(stage: str, step: int) -> tuple[int, str, int]:
    """Sorts steps of a run: the last stage first, in it the last step first."""
    place = STAGES.index(stage) if stage in STAGES else len(STAGES)
    return -place, stage, -step


class Index:
    """index = Index(run); index.refresh(0.2); index.page(Filters(outcome="wrong", sort="drop"))"""

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.version = run, 0
        self._clock, self._lock = clock, threading.Lock()
        self._database = duckdb.connect(":memory:", config=SETTINGS)
        self._database.execute(TABLE)
        self._stamps: dict[Key, tuple] = {}  # what was read of each step
        self._files: dict[Key, tuple] = {}  # what is on disk
        self._broken: set[tuple[str, Key]] = set()  # of which nothing could be read
        self._problems: dict[tuple[str, Key], dict[str, None]] = {}
        self._misnamed: list[str] = []
        self._metrics = LogWatch(run.path, "metrics.jsonl")
        self._searched: dict[str, set[Key]] = {}

    # --- reading the run -----------------------------------------------------------------------

    def refresh(self, budget: float | None = None) -> None:
        """Takes in new and changed steps, newest first, for at most about `budget` seconds."""
        with self._lock:
            end = None if budget is None else self._clock() + budget
            self._files = self._scan()
            for key in [key for key in self._stamps if key not in self._files]:
                self._forget(key)
            for key in sorted(self._files, key=lambda key: (-key[1], key[0])):
                if self._stamps.get(key) != self._files[key]:
                    self._take(key)
                    if end is not None and self._clock() >= end:
                        return
            self._metrics.look()

    def indexed(self) -> tuple[int, int]:
        """Steps read, and steps on disk."""
        done = sum(self._stamps.get(key) == stamp for key, stamp in self._files.items())
        return done, len(self._files)

    def notes(self) -> list[str]:
        """What could not be read."""
        with self._lock:
            tables = [text for _, some in sorted(self._problems.items()) for text in some]
            notes = list(dict.fromkeys([*self._misnamed, *self._metrics.problems(), *tables]))
        more = len(notes) - SHOWN_NOTES
        return notes if more <= 0 else [*notes[:SHOWN_NOTES], f"{more} more such notes"]

    def note(self, key: Key, problems: Iterable[str]) -> None:
        """Adds what came to light when more of a step was read than the list needs."""
        if some := dict.fromkeys(problems):
            with self._lock:
                self._problems.setdefault(("", key), {}).update(some)

    def _scan(self) -> dict[Key, tuple]:
        result: dict[Key, list] = {}
        self._misnamed = []
        for place, folder in enumerate(FOLDERS):
            keys, problems = step_files(self.run.path, folder)
            self._misnamed += problems
            for key in keys:
                if (stamp := _stamp(self.run.table_path(folder, *key))) is not None:
                    result.setdefault(key, [None, None])[place] = stamp
        return {key: tuple(stamps) for key, stamps in result.items()}

    def _forget(self, key: Key) -> None:
        self.version += 1
        if key not in self._stamps:
            return
        cursor = self._database.cursor()
        for table in ("responses", "hits"):
            cursor.execute(f"DELETE FROM {table} WHERE stage = ? AND step = ?", key)
        for seen in self._searched.values():
            seen.discard(key)
        for folder in ("", *FOLDERS):
            self._broken.discard((folder, key))
            self._problems.pop((folder, key), None)
        del self._stamps[key]

    def _take(self, key: Key) -> None:
        stamp = self._files[key]
        self._forget(key)
        cursor = self._database.cursor()
        columns: list[list] = []
        for folder, read, held, names in zip(
            FOLDERS, (written, judged), stamp, (WRITTEN, JUDGED), strict=True
        ):
            rows: dict[str, list] = {name: [] for name in names}
            problems: list[str] = []
            try:
                rows, problems = read(self.run, *key) if held else (rows, problems)
            except ValueError as error:
                self._broken.add((folder, key))
                problems = [str(error)]
            if problems:
                self._problems[folder, key] = dict.fromkeys(problems)
            columns += rows.values()
        insert = INSERT.format(written=_unnested(WRITTEN), judged=_unnested(JUDGED))
        cursor.execute(insert, [*key, *columns]).fetchall()
        self._stamps[key] = stamp

    # --- asking --------------------------------------------------------------------------------

    def page(self, filters: Filters, budget: float | None = None) -> dict[str, Any]:
        """{total, page, size, rows, searched}. With a search text, `searched` says how many steps
        were searched in `budget` seconds so far: ask again until it reaches the total.
        """
        searched = self._search(filters.needle, budget) if filters.needle else None
        where, values = filters.where()
        cursor = self._database.cursor()
        total = _one(cursor.execute(f"SELECT count(*) FROM responses WHERE {where}", values))
        # Rows are chosen first and read then: sorting whole rows would move all their values.
        chosen = (
            f"SELECT rowid FROM responses WHERE {where} ORDER BY {filters.order()} LIMIT ? OFFSET ?"
        )
        cursor.execute(
            f"SELECT * FROM responses WHERE rowid IN ({chosen}) ORDER BY {filters.order()}",
            [*values, filters.size, (filters.page - 1) * filters.size],
        )
        rows = [row | {"values": unpack(row.pop("packed"))} for row in _rows(cursor)]
        return {
            "total": total,
            "page": filters.page,
            "size": filters.size,
            "rows": rows,
            "searched": searched,
        }

    def overview(self) -> dict[str, Any]:
        """Counts, and the stages with their first and last step."""
        cursor = self._database.cursor()
        cursor.execute(
            "SELECT count(*) AS responses, coalesce(sum(states), 0)::BIGINT AS states, "
            "coalesce(sum(missing), 0)::BIGINT AS unparsable FROM responses"
        )
        counts = _rows(cursor)[0]
        cursor.execute(
            "SELECT stage, min(step) AS first_step, max(step) AS last_step, "
            "count(DISTINCT step) AS steps FROM responses GROUP BY stage ORDER BY stage"
        )
        return {**counts, "stages": _rows(cursor)}

    def history(self, problem_id: str) -> list[dict[str, Any]]:
        """Every stored response to a problem as the list's rows, the newest step first; at most
        HISTORY of them.
        """
        cursor = self._database.cursor()
        cursor.execute(
            "SELECT * EXCLUDE (problem_id, prompt) FROM responses WHERE problem_id = ? "
            'ORDER BY step DESC, stage, "group", member LIMIT ?',
            [problem_id, HISTORY],
        )
        rows = [row | {"values": unpack(row.pop("packed"))} for row in _rows(cursor)]
        return sorted(rows, key=lambda row: newest_first(row["stage"], row["step"]))

    def occurrences(self, problem_id: str, limit: int) -> list[tuple[str, int, int]]:
        """(stage, step, group) of the newest groups that answer a problem."""
        cursor = self._database.cursor()
        cursor.execute(
            'SELECT DISTINCT stage, step, "group" FROM responses WHERE problem_id = ?',
            [problem_id],
        )
        places = cursor.fetchall()
        return sorted(places, key=lambda p: (newest_first(p[0], p[1]), p[2]))[:limit]

    def _search(self, needle: str, budget: float | None) -> dict[str, int]:
        with self._lock:
            end = None if budget is None else self._clock() + budget
            if needle not in self._searched:
                self._drop_searches()
            seen = self._searched.setdefault(needle, set())
            for key in sorted(self._stamps.keys() - seen, key=lambda key: (-key[1], key[0])):
                self._search_step(needle, key)
                seen.add(key)
                if end is not None and self._clock() >= end:
                    break
            return {"done": len(seen & self._stamps.keys()), "total": len(self._files)}

    def _search_step(self, needle: str, key: Key) -> None:
        cursor = self._database.cursor()
        for folder, columns in SEARCH.items():
            if self._stamps[key][FOLDERS.index(folder)] is None or (folder, key) in self._broken:
                continue
            try:
                places = matching(self.run, folder, key, columns, needle)
            except ValueError as error:  # gone or damaged since it was read
                self._broken.add((folder, key))
                self._problems[folder, key] = {str(error): None}
                continue
            cursor.execute(HIT, [needle, *key, *places])

    def _drop_searches(self) -> None:
        """Room for a new one."""
        for old in list(self._searched)[: max(0, len(self._searched) - KEPT_SEARCHES + 1)]:
            del self._searched[old]
            self._database.cursor().execute("DELETE FROM hits WHERE needle = ?", [old])


def _unnested(kinds: Mapping[str, str]) -> str:
    """A table given as one list per column."""
    lists = (f'unnest(?::{kind}[]) AS "{name}"' for name, kind in kinds.items())
    return f"SELECT {', '.join(lists)}"


def _stamp(path: Path) -> tuple | None:
    """What changes with a file; None where it is gone: a resumed run drops what it will
    do again. What cannot be reached is named when it is read.
    """
    try:
        state = path.stat()
    except OSError as error:
        return (error.errno, 0) if os.path.lexists(path) else None
    return state.st_size, state.st_mtime_ns


def _one(cursor: Any) -> int:
    result = cursor.fetchone()
    assert result is not None
    return result[0]


def _rows(cursor: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
