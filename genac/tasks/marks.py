"""What a reward function changed in its process: a response must not be judged by what another one
left behind.

    marks = Marks();  ...;  marks.changed()  ->  {"working directory", "threads"}

The list cannot be complete: whatever Python code can reach, it can change. It holds what reward
functions were seen to leave, and costs some fifty microseconds to look at.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import _thread
import builtins
import contextlib
import ctypes
import decimal
import gc
import json
import locale
import math
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

try:
    import resource
except ImportError:  # no POSIX system
    resource = None

WATCHED = (builtins, json, math, os, os.path, pickle, re, subprocess, time)
HANDLED = [
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]
LIMITS = ("NOFILE", "AS", "CPU", "FSIZE")
LIMITED = [getattr(resource, f"RLIMIT_{n}") for n in LIMITS if hasattr(resource, f"RLIMIT_{n}")]
OWN_THREADS = ("asyncio_", "waitpid-")  # of an event loop: names resolved, children waited for
PR_SET_CHILD_SUBREAPER = 36


class Marks:
    """Remembers the process's state; `changed` says what is different from the last look."""

    def __init__(self) -> None:
        self._saved = [dict(vars(module)) for module in WATCHED]
        self._state = {kind: look() for kind, look in LOOKS.items()}
        self._modules, self._children = len(sys.modules), has_children()
        self._threads, self._loop_threads = threads(), loop_threads()

    def changed(self) -> set[str]:
        """Also ends what would come later: alarms."""
        stop_alarms()
        state = {kind: look() for kind, look in LOOKS.items()}
        kinds = {kind for kind in state if differ(state[kind], self._state[kind])}
        self._state = state
        if any(map(differ, map(vars, WATCHED), self._saved)):
            kinds.add("functions of Python")
            self._saved = [dict(vars(module)) for module in WATCHED]
        if len(sys.modules) < self._modules:
            kinds.add("modules")
        self._modules = len(sys.modules)
        if (count := threads()) != self._threads:
            own = loop_threads()
            if count - own > self._threads - self._loop_threads:
                kinds.add("threads")
            self._threads, self._loop_threads = count, own
        if (children := has_children()) and not self._children:
            kinds.add("children")
        self._children = children
        return kinds


def differ(one: Any, other: Any) -> bool:
    """A comparison that raises says that something else stands there."""
    try:
        return bool(one != other)
    except Exception:  # numpy arrays, users' classes
        return True


def stop_alarms() -> None:
    """No signal of a timer that one response's judge has set reaches the next one's."""
    if hasattr(signal, "setitimer"):
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)


def threads() -> int:
    """How many threads Python has started, also below `threading`."""
    return _thread._count()  # pyright: ignore[reportAttributeAccessIssue]


def loop_threads() -> int:
    """Those of an event loop: they stay for the next response."""
    return sum(thread.name.startswith(OWN_THREADS) for thread in threading.enumerate())


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants whose parents end (Linux), so that
    `has_children` sees sessions and daemons.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no Linux
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def has_children() -> bool:
    """Whether any child lives, or has ended and was not waited for. It is not waited for here."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _directory() -> Any:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _streams() -> Any:
    streams = (sys.stdin, sys.stdout, sys.stderr)
    closed = [getattr(stream, "closed", None) for stream in streams]
    return [*map(id, streams), *closed, *map(_file, (0, 1, 2))]


def _file(descriptor: int) -> Any:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _can_open() -> bool:
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno not in (23, 24)  # ENFILE, EMFILE
    return True


def _handlers() -> Any:
    blocked = _signal.pthread_sigmask(signal.SIG_BLOCK, []) if os.name == "posix" else None
    return [blocked, *map(_signal.getsignal, HANDLED)]  # the wrappers' enums take time


def _limits() -> Any:
    if resource is None:
        return None
    return [*map(resource.getrlimit, LIMITED), os.getpriority(os.PRIO_PROCESS, 0)]


def _interpreter() -> Any:
    sums = decimal.getcontext()
    numpy = sys.modules.get("numpy")
    return [
        sys.getrecursionlimit(),
        sys.get_int_max_str_digits(),
        sys.getswitchinterval(),
        sys.gettrace(),
        sys.getprofile(),
        gc.isenabled(),
        warnings.filters[:],
        (sums.prec, sums.rounding, sums.Emin, sums.Emax),
        locale.setlocale(locale.LC_ALL),
        socket.getdefaulttimeout(),
        getattr(numpy, "geterr", bool)(),  # False while numpy is not loaded
    ]


LOOKS: dict[str, Callable[[], Any]] = {
    "working directory": _directory,
    "environment": lambda: vars(os.environ)["_data"].copy(),  # its own copy decodes every name
    "import path": lambda: sys.path[:],
    "standard streams": _streams,
    "open files": _can_open,
    "signal handlers": _handlers,
    "limits": _limits,
    "interpreter's settings": _interpreter,
}
