"""Reward functions that do what the response names, and a right one for every other response.

`judge` is plain, `judge_later` the same as an async function. What is hostile lasts beyond the
response, or reaches for the process that judges it: another response must not suffer.
"""

import asyncio
import builtins
import contextlib
import ctypes
import decimal
import faulthandler
import gc
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings

SOON = 0.05  # seconds
NICE = os.nice(0)  # of the worker, as it was when this was loaded


def fork_and_raise():
    if os.fork() == 0:
        raise KeyError("from the child")


def fork_and_return():
    if os.fork() == 0:
        return 0.75
    return 0.25


def fork_and_exit():
    if os.fork() == 0:
        sys.exit(3)


def fork_below_python():
    if ctypes.CDLL(None).fork() == 0:
        raise KeyError("from the child")


def fork_and_stay():
    if os.fork() == 0:
        time.sleep(60)


def daemon(then=lambda: time.sleep(60)):
    """A session of its own whose parent has ended."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            then()
        os._exit(0)
    os.waitpid(pid, 0)


def daemon_that_kills():
    worker = os.getpid()
    daemon(lambda: (time.sleep(SOON), os.kill(worker, signal.SIGKILL)))


def session():
    subprocess.Popen(["sleep", "60"], start_new_session=True)


def session_with_pipe():
    subprocess.Popen(["sleep", "60"], start_new_session=True, close_fds=False)
    os._exit(3)


def thread_that_kills():
    threading.Timer(SOON, os._exit, (3,)).start()


def thread_that_works():
    def work():
        while True:
            json.dumps(list(range(10**4)))

    threading.Thread(target=work, daemon=True).start()


def thread_that_reads():
    def steal():
        for number in range(3, 300):
            with contextlib.suppress(OSError):
                os.set_blocking(number, False)
                os.read(number, 10**6)

    threading.Timer(SOON, steal).start()


def alarm():
    signal.alarm(1)


def alarm_soon():
    signal.setitimer(signal.ITIMER_REAL, SOON, SOON)


def alarm_that_raises():
    signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
    signal.setitimer(signal.ITIMER_REAL, SOON)


def processor_alarm():
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)


def faulthandler_exit():
    file = open(os.devnull, "w")  # noqa: SIM115 (as long as the timer runs)
    faulthandler.dump_traceback_later(SOON, exit=True, file=file)


def write_everywhere(text=b"no frame of yours" * 10):
    for number in range(3, 1100):
        with contextlib.suppress(OSError):
            os.write(number, text)


def write_little():
    write_everywhere(b"x")


def thread_that_writes():
    threading.Timer(SOON, write_everywhere).start()


def close_everything():
    os.closerange(3, 5000)


def close_streams():
    sys.stdout.close()
    sys.stderr.close()


def close_standard():
    for number in (0, 1, 2):
        os.close(number)


def no_streams():
    sys.stdout = None


def print_much():
    with open(os.devnull, "w") as nowhere:
        for _ in range(100):
            print("x" * 10**6, file=nowhere)
    print("x" * 10**6)


def exit_now():
    os._exit(0)


def exit_politely():
    sys.exit(3)


def kill_group():
    os.killpg(0, signal.SIGTERM)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def segfault():
    ctypes.string_at(0)


def interrupt():
    raise KeyboardInterrupt


def generator_exit():
    raise GeneratorExit


def cancelled():
    raise asyncio.CancelledError


class Silent(Exception):
    def __str__(self):
        raise self


def error_without_text():
    raise Silent


class Loud(BaseException):
    def __repr__(self):
        sys.exit(2)

    __str__ = __repr__


def loud_error():
    raise Loud


def change_directory():
    os.chdir("/")


def empty_environment():
    os.environ.clear()


def change_environment():
    os.environ["GENAC_TEST_UNIT"] = "other"


def empty_path():
    sys.path.clear()


def little_recursion():
    sys.setrecursionlimit(60)


def ignore_signals():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def block_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def low_priority():
    os.nice(5)


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def little_memory():
    resource.setrlimit(resource.RLIMIT_AS, (10**8, 10**8))


def little_processor():
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))


def open_many():
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    KEPT.extend(os.dup(0) for _ in range(1000))


KEPT = []


def delete_modules():
    for name in ("json", "os", "re", "genac.types", "pickle"):
        sys.modules.pop(name, None)


def clear_modules():
    sys.modules.clear()


def patch_json():
    json.loads = lambda text: 1 / 0


def patch_pickle():
    pickle.dumps = pickle.loads = lambda *_: 1 / 0


def patch_builtins():
    builtins.float = lambda value: 0.75


def patch_clock():
    time.monotonic = lambda: 0.0


def patch_system():
    os.getpid = os.getcwd = lambda: 1 / 0


def trace():
    sys.settrace(lambda *_: 1 / 0)


def no_collection():
    gc.disable()


def errors_for_warnings():
    warnings.simplefilter("error")


def few_digits():
    decimal.getcontext().prec = 1


def hang():
    time.sleep(60)


def spin():
    while True:
        pass


def hang_without_lock():
    (lambda text: __import__("re").match(r"(a+)+$", text))("a" * 60 + "b")


class Strange:
    """Is no number, and runs its action when it is looked at."""

    def __init__(self, **calls):
        self.calls = calls

    def __getattr__(self, name):
        if name == "item" and "item" in self.calls:
            return self.calls["item"]
        raise AttributeError(name)

    def __len__(self):
        return self.calls["length"]() if "length" in self.calls else 1

    def __iter__(self):
        return iter([self.calls.get("value", 0.25)])


def length_raises():
    return Strange(length=lambda: 1 / 0)


def length_hangs():
    return Strange(length=hang)


def item_hangs():
    return [Strange(item=hang)]


def item_exits():
    return [Strange(item=exit_now)]


HOSTILE = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", None) == __name__ and name.islower()
}


def right(text):
    """N / 100 for "fine N", where the process is as it was."""
    assert json.loads('{"a": 1}') == {"a": 1}
    assert decimal.Decimal(1) / 3 != decimal.Decimal("0.3")
    assert os.getcwd() != "/" and os.environ.get("PATH") and sys.path
    assert os.environ.get("GENAC_TEST_UNIT") is None
    assert sys.getrecursionlimit() > 500 and os.nice(0) == NICE
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    warnings.warn("not an error", UserWarning, stacklevel=1)
    with open(__file__) as file:
        assert file.read(3) == '"""'
    sys.stdout.flush()
    print("x", end="", file=sys.stderr)
    time.sleep(0.02)  # what is to come has time to come
    return float(text.removeprefix("fine ")) / 100


def judge(completions):
    text = completions[0]
    if text not in HOSTILE:
        return [right(text)]
    result = HOSTILE[text]()
    return [result] if isinstance(result, float) else [0.25] if result is None else result


async def judge_later(completions):
    await asyncio.sleep(0.01)
    result = judge(completions)
    await asyncio.sleep(0.01)
    return result


# --- what is no number, and what is ---


def returns(completions):
    """The value of the expression that the response holds."""
    names = {"Strange": Strange, "hang": hang}
    for module in ("decimal", "fractions", "numpy", "itertools", "math"):
        names[module] = __import__(module)
    return eval(completions[0], names)
