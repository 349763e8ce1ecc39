"""Everything that wants a GPU, in one call: the tests marked `gpu`, then the benchmarks.

    python bench/gpu.py --device cuda --json gpu.json

Each section is a process of its own with a time limit; one that fails is written down with its last
lines, and the others go on. The file is written anew after every section, so that an interruption
loses only the one that was running. The exit code is 1 unless all sections did well.

    tests            tests/gpu and every other test marked gpu
    vllm, joint      joint steps, actor and critic on vLLM: log-probabilities, published weights
    workers          the same on two workers, where two GPUs are visible
    vllm, tokens     new tokens per second of the local engine and of vLLM
    engine ...       sampling, 0.9 M parameters and 0.7 B
    critic ...       scoring and training on shared prefixes; with FlexAttention and without
    step ...         an iteration of GenAC, PPO, VinePPO and GRPO by phase
    scale, memory    the cost model, and what training takes and what doctor estimates

The sections of vLLM need --vllm-python, or vLLM in this environment. What cannot run here is
written down as skipped. Fifteen minutes is the limit for all; docs/gpu-checklist.md says what to
expect. With --device cpu --quick it tries itself.
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from common import machine, parse, parser, roofline, table

from genac.engines.vllm.checks import version_in

HERE = Path(__file__).parent
LAST = 40  # lines of a section that failed
PATIENCE = 600.0  # with --quick, for a machine that does other work as well
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
    skipped: str = ""  # why it cannot run here


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
    return Section("tests", tuple(command), 240, {"GENAC_TEST_DEVICE": args.device})


def outside(args: argparse.Namespace) -> list[Section]:
    """What samples on vLLM's servers, or trains on several workers."""
    python, why = args.vllm_python or sys.executable, ""
    try:
        if version_in(args.vllm_python) is None:
            why = f"{python} has no vLLM; name an interpreter that has with --vllm-python"
    except ValueError as error:
        why = str(error)
    large = SMALL if args.quick else LARGE
    joint = bench("vllm, joint", "joint", args, 200, {}, python=python)
    small = bench("vllm, tokens", "vllm_tokens", args, 90, {}, python=python, repeats=2)
    big = bench(
        "vllm, tokens, large", "vllm_tokens", args, 120, {}, python=python, repeats=2, **large
    )
    workers = bench("workers", "joint", args, 120, {}, processes=2)
    return [
        replace(joint, skipped=why),
        replace(workers, skipped=no_workers(args.device)),
        replace(small, skipped=why),
        *([] if args.quick else [replace(big, skipped=why)]),
    ]


def no_workers(device: str) -> str:
    """Why two workers cannot run here."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'genac[ray]'"
    if device == "cpu":
        return ""
    visible = torch.cuda.device_count()
    return "" if visible > 1 else f"{visible} GPU is visible, and two workers need two"


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
        *outside(args),
        add("engine", "engine", 60, {}, against="generate", **writes, **few),
        add(
            "engine, large", "engine", 90, {}, against="generate", **writes, **few, **large, **words
        ),
        add("critic, large", "critic", 90, {}, **rates, **few, **large, **words),
        add("critic, large, no flex", "critic", 90, dense, **rates, **few, **large, **words),
        add("step, large", "step", 120, {}, **steps, **few, **large),
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
        if "skipped" in results:
            text = f"skipped: {results['skipped']}"
        print(f"{section.name}: {text} ({results['seconds']:.0f} s)", flush=True)
        print(
            "\n".join(results.get("last", ())), end="\n" if results.get("last") else "", flush=True
        )
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(["section", "", "seconds", "figures"], [*overview(result)]))
    return 0 if all(results["ok"] for results in result["sections"].values()) else 1


def run(section: Section, limit: float) -> dict[str, Any]:
    """What a section left, or why there is nothing and its last lines."""
    about = {"command": shlex.join(section.command[1:]), "env": section.env}
    if section.skipped:
        return about | {"ok": True, "skipped": section.skipped, "seconds": 0.0}
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
        word = "skipped" if "skipped" in results else "ok" if results["ok"] else "FAILED"
        yield [name, word, results["seconds"], ", ".join(numbers)]


def arguments() -> argparse.Namespace:
    out = parser(__doc__.splitlines()[0])
    out.set_defaults(device="cuda")
    out.add_argument("--minutes", type=float, default=15.0, help="for everything together")
    out.add_argument("--vllm-python", help="an interpreter whose environment has vLLM")
    out.add_argument("--only", nargs="+", default=[], metavar="SECTION", help="these sections")
    return parse(out)


if __name__ == "__main__":
    sys.exit(main())
