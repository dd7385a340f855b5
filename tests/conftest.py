"""For every test: a printed seed, and the check that it left nothing behind."""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import pathlib
import random
import signal
import sys
import threading
import time

import psutil
import pytest

REPO = str(pathlib.Path(__file__).resolve().parents[1])
if REPO not in sys.path:
    sys.path.insert(0, REPO)  # goroutines import the helpers of these tests by name

# What a test started may need a moment to be gone; it is an error only if it stays.
GONE_S = 10.0


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="seed of the tests that draw; default: a new one each time")
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config):
    # As in the background of a shell, or under nohup: the programs that tests start would inherit it.
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if config.getoption("--seed") is None:
        config.option.seed = random.SystemRandom().randrange(1 << 32)


def pytest_report_header(config):
    return f"seed: {config.getoption('--seed')} (again: --seed={config.getoption('--seed')})"


def pytest_collection_modifyitems(config, items):
    """Slow tests run when asked for: by --slow, by -m, or by name."""
    if config.getoption("--slow") or config.getoption("-m") or any("::" in arg for arg in config.args):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.fixture
def seed(request):
    """The seed of this run; shown with a failure."""
    value = request.config.getoption("--seed")
    print(f"seed {value}")
    return value


def semaphore_names():
    """Names that dead runtimes left: sem.mproc-go.UID.PID_OF_THE_SUPERVISOR.RANDOM... Others may run beside us."""
    names = [name for name in os.listdir("/dev/shm") if name.startswith("sem.mproc-go.")]
    return {name for name in names if not psutil.pid_exists(int(name.split(".")[3]))}


def children(os_pid, descendants):
    """Child processes with the times they started. Asks the kernel for them: psutil would look at all processes."""
    found = set()
    for task in _read_all(f"/proc/{os_pid}/task/*/children"):
        for child in task.split():
            for stat in _read_all(f"/proc/{child}/stat"):
                found.add((int(child), int(stat.rpartition(")")[2].split()[19])))
            if descendants:
                found |= children(child, True)
    return found


def _read_all(pattern):
    """The files there are; one whose process ends meanwhile is none."""
    for path in glob.iglob(pattern):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            yield file.read()


def state_of_this_process(descendants):
    """What a test must leave as it found it. A runtime that goes on may start and retire workers as it likes."""
    return {
        "child processes": children("self", descendants),
        "names in /dev/shm": semaphore_names(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": {thread.ident for thread in threading.enumerate()},
    }


def left_behind(before, descendants):
    now = state_of_this_process(descendants)
    left = {}
    for what, was in before.items():
        extra = now[what] - was if isinstance(was, set) else max(0, now[what] - was)
        if extra:
            left[what] = extra
    return left


def check_nothing_left(before, descendants):
    deadline = time.monotonic() + GONE_S
    left = left_behind(before, descendants)
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
        left = left_behind(before, descendants)
    assert not left, f"left behind: {left}"


@pytest.fixture(scope="module", autouse=True)
def module_leaves_nothing():
    """No process, semaphore name, descriptor or thread stays behind a module."""
    before = state_of_this_process(descendants=True)
    yield
    check_nothing_left(before, descendants=True)


@pytest.fixture(autouse=True)
def test_leaves_nothing(module_leaves_nothing, request):
    """No process, semaphore name, descriptor or thread stays behind a test."""
    if "rt" in request.fixturenames:
        request.getfixturevalue("rt")  # started before we look, so that what it has does not count
    before = state_of_this_process(descendants=False)
    yield
    check_nothing_left(before, descendants=False)
