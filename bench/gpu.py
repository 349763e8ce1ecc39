"""Everything that wants a GPU, in one call: the tests marked `gpu`, then the benchmarks.

    python bench/gpu.py --device cuda --json gpu.json

Each section is a process of its own with a time limit; one that fails is written down with its last
lines, and the others go on. The file is written anew after every section, so that an interruption
loses only the one that was running. The exit code is 1 unless all sections did well.

    tests            tests/gpu and every other test marked gpu
    engine ...       sampling, 0.9 M parameters and 0.7 B
    critic ...       scoring and training on shared prefixes; with FlexAttention and without
    step ...         an iteration of GenAC, PPO, VinePPO and GRPO by phase
    scale, memory    the cost model, and what training takes beside what doctor estimates

Ten minutes are meant to be enough for a current data-centre GPU. With --device cpu --quick it
tries itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from common import machine, parse, parser, roofline, table

HERE = Path(__file__).parent
LAST = 40  # lines of a section that failed
PATIENCE = 300.0  # with --quick, for a machine that does other work as well
LEAST = 15.0  # seconds without which a section is not begun
# 0.7 B parameters in the shape of Qwen3-0.6B, whose vocabulary `step` cannot have.
LARGE = {"hidden": 1024, "layers": 28, "heads": 16}
VOCABULARY = 151_936
SMALL = {"hidden": 64, "layers": 2, "heads": 2}  # in its place where --quick tries the call
TINY: dict[str, dict[str, int]] = {
    "engine": {"new": 4},
    "critic": {"rationale": 4},
    "step": {"prompts": 1, "generations": 2, "response": 32, "states": 2, "rationale": 8},
}


@dataclass(frozen=True)
class Section:
    """A command, what it leaves in the file that stands for {out}, and how long it may take."""

    name: str
    command: tuple[str, ...]
    limit: float
    env: dict[str, str] = field(default_factory=dict)


def bench(
    name: str, script: str, args: argparse.Namespace, limit: float, env: dict[str, str], **how: Any
) -> Section:
    """A benchmark on the device."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in how.items()]
    quick = ["--quick"] if args.quick else []
    common = ["--device", args.device, "--seed", str(args.seed), "--threads", str(args.threads)]
    command = [sys.executable, str(HERE / f"{script}.py"), *common, *quick, *flags]
    limit = limit if not args.quick else PATIENCE
    return Section(name, (*command, "--json", "{out}"), limit, env)


def tests(args: argparse.Namespace) -> Section:
    """Every test marked gpu; a few of them where the call is only tried."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--junitxml", "{out}"]
    if args.quick:
        command += ["-k", "stop_strings or optimizers_step", str(HERE.parent / "tests" / "gpu")]
    elif importlib.util.find_spec("xdist"):  # much of it is compiling, which takes one core each
        command += ["-n", "4"]
    return Section("tests", tuple(command), 280, {"GENAC_TEST_DEVICE": args.device})


def sections(args: argparse.Namespace) -> list[Section]:
    """In the order of their worth, should the time run out."""
    large = SMALL if args.quick else LARGE
    words = {} if args.quick else {"vocab": VOCABULARY}
    few = {"repeats": 1 if args.quick else 2}
    writes, rates = (dict(TINY[k]) if args.quick else {} for k in ("engine", "critic"))
    rates |= {"rows": 16 if args.quick else 64}
    steps = TINY["step"] if args.quick else {"prompts": 2}
    dense = {"GENAC_FLEX": "0"}

    def add(name: str, script: str, limit: float, env: dict[str, str], **how: Any) -> Section:
        return bench(name, script, args, limit, env, **how)

    return [
        tests(args),
        add("engine", "engine", 60, {}, against="generate", **writes, **few),
        add(
            "engine, large", "engine", 90, {}, against="generate", **writes, **few, **large, **words
        ),
        add("critic, large", "critic", 90, {}, **rates, **few, **large, **words),
        add("critic, large, no flex", "critic", 90, dense, **rates, **few, **large, **words),
        add("step, large", "step", 120, {}, **steps, **few, **large),
        add("critic", "critic", 60, {}, **rates, **few),
        add("critic, no flex", "critic", 60, dense, **rates, **few),
        add("step", "step", 60, {}, **steps, **few),
        add("memory", "memory", 60, {}, **few),
        add("scale", "scale", 90, {}, **few),
    ]


def main() -> int:
    args = arguments()
    chosen = sections(args)
    unknown = set(args.only) - {s.name for s in chosen}
    if unknown:
        raise SystemExit(f"--only {sorted(unknown)} is none of {[s.name for s in chosen]}")
    end = time.monotonic() + 60 * args.minutes
    result: dict[str, Any] = {
        "machine": machine(args),
        "roofline": roofline(args.device),
        "command": shlex.join(["python", *sys.argv]),
        "sections": {},
    }
    for section in chosen:
        if args.only and section.name not in args.only:
            continue
        results = run(section, min(section.limit, end - time.monotonic()))
        result["sections"][section.name] = results
        text = "well" if results["ok"] else f"FAILED: {results['why']}"
        print(f"{section.name}: {text} ({results['seconds']:.0f} s)", flush=True)
        print(
            "\n".join(results.get("last", ())), end="\n" if results.get("last") else "", flush=True
        )
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(["section", "", "seconds", "found"], [*overview(result)]))
    return 0 if all(results["ok"] for results in result["sections"].values()) else 1


def run(section: Section, limit: float) -> dict[str, Any]:
    """What a section left, or why there is nothing and its last lines."""
    about = {"command": shlex.join(section.command[1:]), "env": section.env}
    if limit < LEAST:
        return about | {"ok": False, "why": "no time was left for it", "seconds": 0.0}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out", Path(folder) / "log"
        command = [str(out) if part == "{out}" else part for part in section.command]
        code = ended(command, limit, log, {**os.environ, **section.env})
        about |= {"seconds": time.monotonic() - begin, "result": read(out)}
        if code == 0 and about["result"] is not None:
            return about | {"ok": True}
        why = f"exit code {code}" if code is not None else f"it ran past {limit:.0f} s"
        lines = log.read_text(errors="replace").splitlines()[-LAST:]
        return about | {"ok": False, "why": why, "last": lines}


def ended(command: Sequence[str], limit: float, log: Path, env: dict[str, str]) -> int | None:
    """The exit code; None where it had to be ended, together with what it had started."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=env, cwd=HERE.parent, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def read(out: Path) -> dict[str, Any] | None:
    """What a benchmark wrote, or the counts of a test report and the names of what failed."""
    if not out.exists():
        return None
    text = out.read_text()
    if not text.startswith("<"):
        return json.loads(text)
    suite = ElementTree.fromstring(text).find("testsuite")
    assert suite is not None
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = {
        f"{case.get('classname')}.{case.get('name')}": (what.get("message") or "")[:500]
        for case in suite.iter("testcase")
        for what in (*case.iter("failure"), *case.iter("error"))
    }
    return {**counts, "failed": failed}


def overview(result: dict[str, Any]) -> Iterator[list[Any]]:
    """A line per section with its figures at the top level."""
    for name, results in result["sections"].items():
        numbers = [
            f"{key} {value:.4g}"
            for key, value in (results.get("result") or {}).items()
            if isinstance(value, int | float) and key != "repeats"
        ]
        yield [name, "ok" if results["ok"] else "FAILED", results["seconds"], ", ".join(numbers)]


def arguments() -> argparse.Namespace:
    out = parser(__doc__.splitlines()[0])
    out.set_defaults(device="cuda")
    out.add_argument("--minutes", type=float, default=10.0, help="for everything together")
    out.add_argument("--only", nargs="+", default=[], metavar="SECTION", help="these sections")
    return parse(out)


if __name__ == "__main__":
    sys.exit(main())
