"""Jobs, the units of an experiment: each is done once, kept on disk, and several run at a time.

A job is a function of JSON-able arguments with a JSON-able result. What is finished is read back,
so an interrupted experiment goes on where it stopped; delete the folder to measure again.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genac.runs.store import atomic_write, stable_hash

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Jobs:
    """Finished jobs lie in `folder`; up to `processes` workers of one CPU thread do the others."""

    folder: Path
    processes: int = 1
    commits: set[str] = field(default_factory=set)  # of the code that did the jobs read so far

    def map(self, function: Callable[..., Any], items: Sequence[Arguments]) -> list[Any]:
        """function(**item) for each item, in order; equal items are done once.

        ValueError names the job that failed and its log; finished jobs stay.
        """
        files = [self.file(function, item) for item in items]
        open_jobs = {f: i for f, i in zip(files, items, strict=True) if not f.exists()}
        if open_jobs:
            self.folder.mkdir(parents=True, exist_ok=True)
            print(f"{function.__name__}: {len(open_jobs)} of {len(set(files))} jobs", flush=True)
            self._work(function, open_jobs)
        rows = [json.loads(f.read_text()) for f in files]
        self.commits.update(row["commit"] for row in rows)
        return [row["result"] for row in rows]

    def file(self, function: Callable[..., Any], item: Arguments) -> Path:
        return self.folder / f"{function.__name__}-{stable_hash(counted(item))}.json"

    def _work(self, function: Callable[..., Any], jobs: dict[Path, Arguments]) -> None:
        if self.processes == 1:
            for file, item in jobs.items():
                one(function, item, file, commit())
            return
        begin, done, name = time.monotonic(), 0, commit()
        # Workers start afresh ("spawn"): torch's threads do not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        workers = ProcessPoolExecutor(
            self.processes, mp_context=spawn, initializer=leave_with_parent
        )
        with single_threads(), workers as pool:
            waiting = {pool.submit(one, function, i, f, name): f for f, i in jobs.items()}
            try:
                for future in as_completed(waiting):
                    future.result()
                    done += 1
                    passed = time.monotonic() - begin
                    print(f"  {done}/{len(jobs)} after {passed:.0f} s", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def counted(item: Arguments) -> Arguments:
    """What identifies a job: the arguments, and what the files that a config names hold."""
    if "config" not in item:
        return item
    from genac.config.run import RunConfig
    from genac.stages.contents import contents

    digests = contents(RunConfig(**item["config"]))
    return item | {"contents": digests} if digests else item


def leave_with_parent() -> None:
    """Ends this worker when its parent does, however: one that went on would write into the runs
    of whoever starts the experiment again.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=end_with, args=(parent.pid,), daemon=True).start()


def end_with(parent: int) -> None:
    """Ends this process soon after its parent has."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def one(function: Callable[..., Any], item: Arguments, file: Path, name: str) -> None:
    """Does one job with the code of commit `name`; what it prints goes to a log next to it."""
    log, begin = file.with_suffix(".log"), time.monotonic()
    try:
        with (
            open(log, "w") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            result = function(**item)
    except Exception as error:
        raise ValueError(f"{function.__name__} failed: {error!r}; its log is {log}") from error
    spent = time.monotonic() - begin
    row = {"arguments": item, "result": result, "seconds": spent, "commit": name}
    atomic_write(file, json.dumps(row))
    log.unlink(missing_ok=True)


@contextlib.contextmanager
def single_threads() -> Iterator[None]:
    """Processes started inside compute on one thread each, which beats sharing the cores."""
    old = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if old is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = old


def commit() -> str:
    """The commit of the code, marked where its files differ from it."""
    here = Path(__file__).parent
    try:
        name = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=True, cwd=here,
        ).stdout.strip()  # fmt: skip
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", ".."],
            capture_output=True, text=True, check=True, cwd=here,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return f"{name} with changes" if changed else name
