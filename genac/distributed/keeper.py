"""Ends what this machine's Ray started once the process that uses it has ended, however it ended.

    python keeper.py CONTROLLER_PID MARK FOLDER

Ray ends its own processes on an ordinary exit. After a `kill -9` of the controller its agents live
on for about a minute. This process waits for that end, then kills every process whose environment
has `MARK`, and deletes `FOLDER`. It needs Linux, whose /proc shows environments.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

VARIABLE = "GENAC_RAY_SESSION"  # Ray's processes inherit it; its value is the mark
INTERVAL = 0.2  # seconds between two looks at the controller
DEADLINE = 15.0  # seconds in which marked processes have to be gone
SETTLED = 1.0  # seconds without one: what is just being started shows no environment yet


def marked(mark: str) -> list[int]:
    """Processes whose environment has the mark, zombies excepted."""
    line, result = f"{VARIABLE}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if line in (folder / "environ").read_bytes().split(b"\0"):
                result.append(int(folder.name))
        except OSError:  # it ended, or is another user's
            continue
    return result


def sweep(mark: str, settled: float = 0.0) -> None:
    """Kills marked processes until there have been none for `settled` seconds: one that dies may
    have just started another.
    """
    begin = seen = time.monotonic()
    while (now := time.monotonic()) < begin + DEADLINE:
        pids = marked(mark)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if pids:
            seen = now
        elif now >= seen + settled:
            return
        time.sleep(0.05)


def main() -> None:
    controller, mark, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    while os.getppid() == controller and not ended:
        time.sleep(INTERVAL)
    sweep(mark, 0.0 if ended else SETTLED)  # a controller that ends in order waits for this
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
