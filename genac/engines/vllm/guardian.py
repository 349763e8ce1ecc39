"""Runs a server as its parent, and ends it when the process that started it is gone.

    python guardian.py CONTROLLER_PID TEMPORARY WEIGHTS COMMAND...

The controller holds the other end of standard input: a byte ends the server, and so does the
controller's death. The folder TEMPORARY is removed at the end, WEIGHTS where the controller died.
Imports the standard library only and is started by its path, so that it costs a few megabytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

POLL = 0.25  # seconds between looks at the controller
LOOK = 2.0  # seconds between looks at the server's shared memory
GRACE = 5.0  # seconds in which a server may end by itself
PDEATHSIG, SUBREAPER = 1, 36  # prctl's numbers


def main() -> int:
    controller, command = int(sys.argv[1]), sys.argv[4:]
    temporary, weights = sys.argv[2:4]
    prctl(SUBREAPER, 1)  # orphans of the server become ours
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: prctl(PDEATHSIG, signal.SIGKILL),
    )
    shared, looked = set[str](), time.monotonic()
    try:
        while server.poll() is None and needed(controller):
            if time.monotonic() > looked + LOOK:
                shared |= shared_memory(server.pid)
                looked = time.monotonic()
        shared |= shared_memory(server.pid)
        if server.poll() is None:
            server.terminate()
        end_group(server)
    finally:
        for file in shared:
            with contextlib.suppress(OSError):  # mostly the server removed it
                os.unlink(file)
        shutil.rmtree(temporary, ignore_errors=True)
        if died(controller):
            shutil.rmtree(weights, ignore_errors=True)
    return server.returncode or 0


def prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the guardian's own watch has to do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def needed(controller: int) -> bool:
    """Waits a little; False once the controller wrote something or died."""
    return not readable(POLL) and os.getppid() == controller


def died(controller: int) -> bool:
    """A process that the controller forked may hold its end open, so that its death alone is not
    enough to look for, and takes a moment to show.
    """
    return os.getppid() != controller or (readable(0.0) and not os.read(0, 1))


def readable(seconds: float) -> bool:
    return bool(select.select([0], [], [], seconds)[0])


def shared_memory(group: int) -> set[str]:
    """Files in /dev/shm that processes of the group use: those that are killed leave them."""
    result = set[str]()
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if os.getpgid(int(name)) == group:
                result |= shared_by(int(name))
    return result


def shared_by(pid: int) -> set[str]:
    """The same of one process. OSError where it has ended, or is another user's.

    By number: who makes a semaphore has it in memory under a name that it has lost since.
    """
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
        numbers = {int(line.split(maxsplit=5)[4]) for line in lines if "/dev/shm/" in line}
    with os.scandir("/dev/shm") as files:
        return {file.path for file in files if file.inode() in numbers} if numbers else set()


def end_group(server: subprocess.Popen) -> None:
    """Waits for the server and all that it started, and kills what is left after GRACE."""
    end = time.monotonic() + GRACE
    while time.monotonic() < end and alive(server):
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    while alive(server):
        time.sleep(0.02)


def alive(server: subprocess.Popen) -> bool:
    """Whether a process of the group runs. Reaps those that ended."""
    running = server.poll() is None
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-server.pid, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(server.pid, 0)
    except (ProcessLookupError, PermissionError):
        return running
    return True


if __name__ == "__main__":
    sys.exit(main())
