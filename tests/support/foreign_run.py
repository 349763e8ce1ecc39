"""What other programs, and people who mean harm, leave in a run folder: one function per kind.

A change takes a run of `viewer_run` and the step whose files it damages. In the name of a file STEP
stands for that step; the texts next to a change are what a notice must name.
"""

from __future__ import annotations

import decimal
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from genac.runs.store import Run

Change = Callable[[Run, int], None]
Damage = tuple[Change, tuple[str, ...]]


def replaced(folder: str, name: str, make: Callable[[Any], Any]) -> Change:
    """A column with what `make` gives of it: an Arrow array, or a list."""

    def change(run: Run, step: int) -> None:
        path = run.table_path(folder, "joint", step)
        rows = parquet.read_table(path)
        column = make(rows[name].combine_chunks())
        column = pa.array(column) if isinstance(column, list) else column
        place = rows.column_names.index(name)
        parquet.write_table(rows.set_column(place, name, column), path)

    return change


def raw_text(data: bytes) -> Callable[[Any], Any]:
    """Text whose bytes are not checked by whoever writes it."""

    def make(column: Any) -> Any:
        whole = pa.array([data] * len(column), pa.binary())
        return pa.StringArray.from_buffers(len(whole), whole.buffers()[1], whole.buffers()[2])

    return make


def same(value: Any, kind: Any = None) -> Callable[[Any], Any]:
    return lambda column: pa.array([value] * len(column), kind)


def as_type(kind: Any) -> Callable[[Any], Any]:
    return lambda column: column.cast(kind)


def metrics(line: str) -> Change:
    def change(run: Run, step: int) -> None:
        path = run.path / "metrics.jsonl"
        path.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n" + path.read_bytes())

    return change


def log_line(**values: Any) -> Change:
    return metrics(json.dumps({"stage": "joint", "step": 0, "time": 1.0, **values}))


def written(name: str, data: bytes) -> Change:
    return lambda run, step: place(run, step, name).write_bytes(data) and None


def place(run: Run, step: int, name: str) -> Any:
    """Where the file is, with nothing there."""
    path = run.path / at(name, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rename(path.with_name(f"was-{path.name}"))
    path.unlink(missing_ok=True)
    return path


def at(name: str, step: int) -> str:
    return name.replace("STEP", f"{step:06d}")


def pipe(name: str) -> Change:
    return lambda run, step: os.mkfifo(place(run, step, name))


def folder(name: str) -> Change:
    return lambda run, step: place(run, step, name).mkdir()


def link(name: str, to: str) -> Change:
    def change(run: Run, step: int) -> None:
        target = run.path.parent / f"{to}-{step}"
        if to == "elsewhere":
            original = run.path / at(name, step)
            target.write_bytes(original.read_bytes())
        place(run, step, name).symlink_to(target)

    return change


def a_socket(name: str) -> Change:
    def change(run: Run, step: int) -> None:
        here = os.getcwd()
        path = place(run, step, name)
        os.chdir(path.parent)  # addresses of sockets are short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(here)

    return change


def renamed(name: str) -> Change:
    """A copy of a table under another name."""

    def change(run: Run, step: int) -> None:
        data = run.table_path("estimates", "joint", step).read_bytes()
        with open(os.fsencode(run.path / "estimates") + b"/" + os.fsencode(name), "wb") as file:
            file.write(data)

    return change


def doubled(name: str) -> Change:
    def change(run: Run, step: int) -> None:
        path = run.table_path("estimates", "joint", step)
        rows = parquet.read_table(path)
        parquet.write_table(rows.append_column(name, rows["step_text"]), path)

    return change


def config(**values: Any) -> Change:
    def change(run: Run, step: int) -> None:
        held = run.config() | values
        (run.path / "config.json").write_text(json.dumps(held))

    return change


ROLLOUTS, ESTIMATES = "rollouts/joint-STEP.parquet", "estimates/joint-STEP.parquet"
DEEP = "[" * 100_000 + "]" * 100_000
# name -> (change, what the notice names)
TABLES: dict[str, Damage] = {}
for column in ("value", "reward", "advantage", "expected", "critic_version", "state"):
    where = (ESTIMATES, column)
    TABLES |= {
        f"{column} text": (replaced("estimates", column, same("high")), where),
        f"{column} list": (replaced("estimates", column, same([1.0])), where),
        f"{column} struct": (replaced("estimates", column, same({"a": 1})), where),
    }
for column in ("group", "member", "start", "end"):
    where = (ESTIMATES, column)
    TABLES |= {
        f"{column} text": (replaced("estimates", column, same("0")), where),
        f"{column} list": (replaced("estimates", column, same([0])), where),
        f"{column} null": (replaced("estimates", column, same(None)), where),
        f"{column} large": (replaced("estimates", column, same(2**40)), where),
        f"{column} uint64": (replaced("estimates", column, same(2**64 - 1, pa.uint64())), where),
        f"{column} half": (replaced("estimates", column, same(0.5)), where),
        f"{column} nan": (replaced("estimates", column, same(float("nan"))), where),
        f"{column} time": (replaced("estimates", column, same(0, pa.timestamp("s"))), where),
    }
for column in ("step_text", "rationale", "problem_id", "critic_prompt"):
    where = (ESTIMATES, column)
    TABLES |= {
        f"{column} number": (replaced("estimates", column, same(1)), where),
        f"{column} list": (replaced("estimates", column, same(["a"])), where),
        f"{column} bytes": (replaced("estimates", column, same(b"\xff\xfe<b>")), where),
        f"{column} not utf-8": (
            replaced("estimates", column, raw_text(b"\xff<b>\xed\xa0\x80")),
            where,
        ),
    }
for column in ("response_ids", "logprobs", "tokens", "entropies"):
    where = (ROLLOUTS, column)
    TABLES |= {
        f"{column} text": (replaced("rollouts", column, same("a")), where),
        f"{column} number": (replaced("rollouts", column, same(1)), where),
        f"{column} nested": (replaced("rollouts", column, same([[1]])), where),
        f"{column} struct": (replaced("rollouts", column, same([{"a": 1}])), where),
    }
TABLES |= {
    "ids large": (
        replaced("rollouts", "response_ids", same([2**40] * 6)),
        (ROLLOUTS, "response_ids"),
    ),
    "ids null": (
        replaced("rollouts", "response_ids", same([1, None, 3])),
        (ROLLOUTS, "response_ids"),
    ),
    "tokens null": (replaced("rollouts", "tokens", same(["a", None])), (ROLLOUTS, "tokens")),
    "tokens short": (replaced("rollouts", "tokens", same(["a"])), (ROLLOUTS, "tokens")),
    "logprobs short": (replaced("rollouts", "logprobs", same([-1.0])), (ROLLOUTS, "logprobs")),
    "entropies long": (
        replaced("rollouts", "entropies", same([1.0] * 99)),
        (ROLLOUTS, "entropies"),
    ),
    "tokens bytes": (replaced("rollouts", "tokens", same([b"\xff"] * 6)), (ROLLOUTS, "tokens")),
    "critic tokens short": (
        replaced("estimates", "rationale_tokens", same(["a"])),
        (ESTIMATES, "rationale_logprobs"),
    ),
    "reward inf": (replaced("estimates", "reward", same(float("inf"))), (ESTIMATES, "reward")),
    "reward 1e300": (replaced("rollouts", "reward", same(1e300)), (ROLLOUTS, "reward")),
    "value -inf": (replaced("estimates", "value", same(float("-inf"))), (ESTIMATES, "value")),
    "version large": (
        replaced("rollouts", "actor_version", same(2**63 - 1)),
        (ROLLOUTS, "actor_version"),
    ),
    "start negative": (replaced("estimates", "start", same(-5)), (ESTIMATES, "start")),
    "end first": (replaced("estimates", "start", same(99)), (ESTIMATES, "start and end")),
    "value twice": (doubled("value"), (ESTIMATES, "value")),
    "group twice": (doubled("group"), (ESTIMATES, "group")),
    "prompt number": (replaced("rollouts", "prompt", same(1)), (ROLLOUTS, "prompt")),
    "answer list": (replaced("rollouts", "answer", same(["1"])), (ROLLOUTS, "answer")),
    "response number": (replaced("rollouts", "response", same(1.5)), (ROLLOUTS, "response")),
    "finish number": (replaced("rollouts", "finish", same(1)), (ROLLOUTS, "finish")),
    "problem bytes": (
        replaced("rollouts", "problem_id", raw_text(b"\xfe")),
        (ROLLOUTS, "problem_id"),
    ),
    "junk": (written(ROLLOUTS, os.urandom(5000)), (ROLLOUTS,)),
    "empty": (written(ESTIMATES, b""), (ESTIMATES,)),
    "magic only": (written(ESTIMATES, b"PAR1" + b"\0" * 100 + b"PAR1"), (ESTIMATES,)),
    "a folder": (folder(ESTIMATES), (ESTIMATES, "a folder")),
    "a pipe": (pipe(ESTIMATES), (ESTIMATES, "a pipe")),
    "a pipe of rollouts": (pipe(ROLLOUTS), (ROLLOUTS, "a pipe")),
    "a socket": (a_socket(ESTIMATES), (ESTIMATES, "a socket")),
    "a device": (
        lambda run, step: place(run, step, ESTIMATES).symlink_to("/dev/zero"),
        (ESTIMATES, "a device"),
    ),
    "a dead link": (link(ESTIMATES, "nowhere"), (ESTIMATES, "leads nowhere")),
    "a link out": (link(ESTIMATES, "elsewhere"), (ESTIMATES, "out of the folder")),
    "a loop": (
        lambda run, step: place(run, step, ESTIMATES).symlink_to(run.path / at(ESTIMATES, step)),
        (ESTIMATES,),
    ),
}
# kinds that mean the same: nothing is to be reported
EQUAL: dict[str, Change] = {
    "value float32": replaced("estimates", "value", as_type(pa.float32())),
    "value decimal": replaced(
        "estimates",
        "value",
        lambda c: pa.array(
            [None if v is None else decimal.Decimal(f"{v:.4f}") for v in c.to_pylist()]
        ),
    ),
    "value null": replaced("estimates", "expected", same(None)),
    "group int64": replaced("estimates", "group", as_type(pa.int64())),
    "group uint8": replaced("estimates", "group", as_type(pa.uint8())),
    "member double": replaced("estimates", "member", as_type(pa.float64())),
    "start decimal": replaced("estimates", "start", as_type(pa.decimal128(12, 2))),
    "text large": replaced("estimates", "rationale", as_type(pa.large_string())),
    "text view": replaced("estimates", "rationale", as_type(pa.string_view())),
    "text bytes": replaced("estimates", "step_text", as_type(pa.binary())),
    "text dictionary": replaced("estimates", "problem_id", lambda c: c.dictionary_encode()),
    "ids int64": replaced("rollouts", "response_ids", as_type(pa.list_(pa.int64()))),
    "ids large": replaced("rollouts", "response_ids", as_type(pa.large_list(pa.int32()))),
    "logprobs double": replaced("rollouts", "logprobs", as_type(pa.list_(pa.float64()))),
    "tokens fixed": replaced("rollouts", "tokens", as_type(pa.list_(pa.string(), 6))),
    "value nan": replaced("estimates", "expected", same(float("nan"))),
    "reward bool": replaced(
        "rollouts", "reward", lambda c: pa.array([v == 1 for v in c.to_pylist()])
    ),
    "another file": written("estimates/README.md", b"notes"),
    "a hidden file": written("estimates/._joint-000010.parquet", b"junk"),
}
NAMES = [
    "joint-\u00b2.parquet",
    "joint-\u0661\u0662\u0663\u0664\u0665\u0666.parquet",
    f"joint-{'9' * 20}.parquet",
    "joint-2147483648.parquet",
    "joint-7.parquet",
    "joint-0000010.parquet",
    "joint.parquet",
    "-000010.parquet",
    "joint-00001 .parquet",
    "joint-\udcff-000010.parquet",
    "joint\n\x1b[2J-.parquet",
    f"{'x' * 230}-1.parquet",
]
NUMBER = "a whole number"
LOGS: dict[str, Damage] = {
    "step infinite": (metrics('{"stage": "joint", "step": Infinity}'), ("step", NUMBER)),
    "step 1e400": (metrics('{"stage": "joint", "step": 1e400}'), ("step", NUMBER)),
    "step nan": (metrics('{"stage": "joint", "step": NaN}'), ("step", NUMBER)),
    "step text": (log_line(step="ten"), ("step", NUMBER)),
    "step list": (log_line(step=[1]), ("step", NUMBER)),
    "step huge": (log_line(step=10**400), ("step", NUMBER)),
    "step half": (log_line(step=0.5), ("step", NUMBER)),
    "step null": (log_line(step=None), ("step", NUMBER)),
    "step true": (log_line(step=True), ("step", NUMBER)),
    "stage list": (log_line(stage=["joint"]), ("stage", "text")),
    "stage missing": (metrics('{"step": 1}'), ("stage", "missing")),
    "time infinite": (metrics('{"stage": "joint", "step": 0, "time": 1e999}'), ("time",)),
    "time huge": (log_line(time=10**400), ("time",)),
    "reward text": (log_line(reward="high"), ("reward", "a number")),
    "reward list": (log_line(reward=[0.5]), ("reward", "a list")),
    "reward huge": (log_line(reward=10**400), ("reward",)),
    "reward object": (log_line(**{"eval/success": {"mean": 1}}), ("eval/success", "an object")),
    "cost infinite": (metrics('{"stage":"joint","step":0,"cost/tokens":-1e999}'), ("cost/tokens",)),
    "a list": (metrics("[1, 2]"), ("line 1", "not a JSON object")),
    "deep": (metrics('{"stage": "joint", "step": 0, "x": ' + DEEP + "}"), ("line 1",)),
    "digits": (metrics('{"stage": "joint", "step": ' + "1" * 5000 + "}"), ("line 1",)),
    "utf-16": (metrics('{"stage": "j\udcff"}'), ("line 1",)),
}
FILES: dict[str, Damage] = {
    "config a pipe": (pipe("config.json"), ("config.json", "a pipe")),
    "config a folder": (folder("config.json"), ("config.json", "a folder")),
    "config a link out": (link("config.json", "elsewhere"), ("config.json", "out of the folder")),
    "config deep": (
        written("config.json", b'{"name": ' + DEEP.encode() + b"}"),
        ("config.json", "deep"),
    ),
    "config binary": (written("config.json", os.urandom(300)), ("config.json",)),
    "config a list": (written("config.json", b"[]"), ("config.json",)),
    "summary a pipe": (pipe("summary.json"), ("summary.json", "a pipe")),
    "summary deep": (written("summary.json", DEEP.encode()), ("summary.json",)),
    "metrics a pipe": (pipe("metrics.jsonl"), ("metrics.jsonl", "a pipe")),
    "metrics a folder": (folder("metrics.jsonl"), ("metrics.jsonl", "a folder")),
    "metrics a dead link": (link("metrics.jsonl", "nowhere"), ("metrics.jsonl", "leads nowhere")),
    "rollouts a file": (written("rollouts", b"x"), ("rollouts",)),
    "rollouts a pipe": (pipe("rollouts"), ("rollouts",)),
}
