"""Runtimes whose supervisor, at a store of ours to choose, dies itself or has another worker die.

The supervisor is the real one, exec'd as ever; before it serves, it lets :func:`arm` wrap the steps of its work. What it
is to do stands in a file of a few words that both processes map (:class:`Plan`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
import time

from mproc_go.runtime import boot
from mproc_go.supervisor import main
from mproc_go.supervisor.deadlock import Detector
from mproc_go.supervisor.reaper import Reaper
from mproc_go.supervisor.sysmon import Sysmon
from tests.kills.test_every_store import DEADLINE_S

PLAN = "MPROC_GO_TEST_PLAN"
STEPS = {
    "bury": (Reaper, "bury"),
    "mend": (Reaper, "mend"),
    "retake": (Sysmon, "_retake"),
    "rebalance": (Sysmon, "_rebalance"),
    "spawn an M": (main.Supervisor, "fork_worker"),
    "report": (Detector, "report"),
    "stop": (main.Supervisor, "stop"),
}
ITSELF, ANOTHER = range(2)
_WHICH, _N, _WHOM, _FIRED, _STORES = range(5)


class Plan:
    """What the supervisor is to do, and what it did."""

    def __init__(self, path):
        self.path = path
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4096)
        self.w = memoryview(self.map).cast("Q")

    def close(self):
        self.w.release()
        self.map.close()

    def make(self, step, n, whom):
        """At the n-th store (from 0) of one time it takes that step."""
        w = self.w
        w[_FIRED] = w[_STORES] = 0
        w[_N], w[_WHOM] = n, whom
        w[_WHICH] = [*STEPS].index(step) + 1  # publishes

    def drop(self):
        """It is to do nothing any more; returns the most stores of one time it took the step."""
        self.w[_WHICH] = 0
        return self.w[_STORES]

    @property
    def done(self):
        """Whether it took the step and went on, or is dead."""
        return self.w[_STORES] or (self.w[_FIRED] and self.w[_WHOM] == ITSELF)

    @property
    def fired(self):
        """The process that was killed, or 0."""
        return self.w[_FIRED]


@contextlib.contextmanager
def planned(path):
    """Runtimes started meanwhile do what the plan says."""
    path.write_bytes(bytes(4096))
    plain = boot._BOOTSTRAP
    os.environ[PLAN] = str(path)
    boot._BOOTSTRAP = plain.replace("main(s,o)", "from tests.kills.supervised import arm;arm();main(s,o)")
    plan = Plan(path)
    try:
        yield plan
    finally:
        plan.close()
        boot._BOOTSTRAP = plain
        del os.environ[PLAN]


# ---------------------------------------------------------------- in the supervisor
class _Words:
    """The supervisor's words during a step."""

    def __init__(self, w, n, act):
        self.w, self.n, self.act = w, n, act
        self.stores = 0
        self.os_pid = os.getpid()

    def __getitem__(self, index):
        return self.w[index]

    def __len__(self):
        return len(self.w)

    def __setitem__(self, index, value):
        if os.getpid() == self.os_pid:  # a worker that is being forked has them as well
            if self.stores == self.n:
                self.act()
            self.stores += 1
        self.w[index] = value


def arm():
    """Do what the plan says, in this process."""
    plan = Plan(os.environ[PLAN])
    supervisors = []
    began = main.Supervisor.__init__

    def begin(self, *args, **kwargs):
        supervisors.append(self)
        began(self, *args, **kwargs)

    main.Supervisor.__init__ = begin
    for number, (home, name) in enumerate(STEPS.values(), 1):
        setattr(home, name, _watched(getattr(home, name), number, plan, supervisors))


def _watched(step, number, plan, supervisors):
    def watched(*args, **kwargs):
        (supervisor,) = supervisors
        if plan.w[_WHICH] != number or plan.fired or not hasattr(supervisor, "thread"):
            return step(*args, **kwargs)
        w = supervisor.w
        words = _Words(w, plan.w[_N], lambda: _die(plan, supervisor))
        supervisor.w = supervisor.thread.w = words
        try:
            return step(*args, **kwargs)
        finally:
            supervisor.w = supervisor.thread.w = w
            plan.w[_STORES] = max(plan.w[_STORES], words.stores)

    return watched


def _die(plan, supervisor):
    if plan.w[_WHOM] == ITSELF:
        plan.w[_FIRED] = os.getpid()
        os.kill(os.getpid(), signal.SIGKILL)
    for os_pid, _ in supervisor.workers.values():
        os.kill(os_pid, signal.SIGKILL)
        os.waitid(os.P_PID, os_pid, os.WEXITED | os.WNOWAIT)  # gone, and not noticed yet
        plan.w[_FIRED] = os_pid
        return


# ---------------------------------------------------------------- in the program
def alive(os_pid):
    """Whether it runs; one that nobody has reaped does not."""
    try:
        with open(f"/proc/{os_pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processes_of(plan):
    """Those of its runtimes that are there: they have the plan in their environment."""
    mark, found = f"{PLAN}={plan.path}".encode(), []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit():
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(entry))
    return found


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


class Beside(threading.Thread):
    """A call in a thread of its own, which ends with it."""

    def __init__(self, fn, *args):
        super().__init__()
        self.call = fn, args
        self.value = self.error = None
        self.start()

    def run(self):
        fn, args = self.call
        try:
            self.value = fn(*args)
        except Exception as error:
            self.error = error

    def result(self):
        """What it returned. Raises what it raised."""
        self.join(2 * DEADLINE_S)
        assert not self.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.value
