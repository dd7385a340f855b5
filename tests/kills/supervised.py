"""Runtimes whose supervisor, at a step of ours to choose, dies itself or has another process die.

The supervisor is the real one, exec'd as ever; before it serves, it lets :func:`arm` wrap the steps of its work. What it
is to do stands in a file of a few words that both processes map (:class:`Plan`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import threading
import time

from mproc_go.runtime import boot
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from mproc_go.supervisor import main
from mproc_go.supervisor.deadlock import Detector
from mproc_go.supervisor.reaper import Reaper
from mproc_go.supervisor.sysmon import Sysmon
from tests.kills.steps import Door, Steps
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
ITSELF, ANOTHER, WHO_STOPPED = range(3)
_WHICH, _N, _WHOM, _FIRED, _STORES, _STOPPED, _HELD, _BEHIND, _WITHIN = range(9)


class Plan:
    """What the supervisor is to do, and what it did; and how far others came.

    Attributes:
        held, behind: of those whose death a test is about, see tests/kills/test_one_lock.py: processes, or 0.
    """

    def __init__(self, path):
        self.path = path
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 4096)
        self.w = memoryview(self.map).cast("Q")

    def close(self):
        self.w.release()
        self.map.close()

    def make(self, step, n, whom):
        """Before the n-th store or semaphore (from 0) of one time it takes that step.

        Args:
            whom: who dies then; WHO_STOPPED is who called :meth:`stop`, and n counts from that moment.
        """
        w = self.w
        w[_FIRED] = w[_STORES] = 0
        w[_N], w[_WHOM] = n, whom
        w[_WHICH] = [*STEPS].index(step) + 1  # publishes

    def drop(self):
        """It is to do nothing any more; returns the most it did in one time it took the step."""
        self.w[_WHICH] = 0
        return self.w[_STORES]

    @property
    def done(self):
        """Whether it took the step and went on, or is dead."""
        return self.w[_STORES] or (self.w[_FIRED] and self.w[_WHOM] == ITSELF)

    @property
    def within(self):
        """Whether it is in the middle of that step."""
        return self.w[_WITHIN] != 0

    @property
    def fired(self):
        """The process that was killed, or 0."""
        return self.w[_FIRED]

    @property
    def stopped(self):
        """The process that stopped, or 0."""
        return self.w[_STOPPED]

    @stopped.setter
    def stopped(self, os_pid):
        self.w[_STOPPED] = os_pid

    def stop(self):
        """Stay here for ever."""
        self.stopped = os.getpid()
        while True:
            time.sleep(DEADLINE_S)

    @property
    def held(self):
        return self.w[_HELD]

    @held.setter
    def held(self, os_pid):
        self.w[_HELD] = os_pid

    @property
    def behind(self):
        return self.w[_BEHIND]

    @behind.setter
    def behind(self, os_pid):
        self.w[_BEHIND] = os_pid


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
class _Steps(Steps):
    """The supervisor's, as the plan says."""

    def __init__(self, plan, supervisor):
        super().__init__(plan.w[_N], self.fire)
        self.plan, self.supervisor = plan, supervisor
        self.os_pid, self.before = os.getpid(), 0

    def step(self):
        if self.plan.w[_WHOM] == WHO_STOPPED and not self.plan.stopped:
            self.before += 1
        elif os.getpid() == self.os_pid:  # a worker that is being forked takes them as well
            super().step()

    def fire(self):
        _die(self.plan, self.supervisor)

    def door(self, number, gen):
        return Door(self.doors.door(number, gen), self)

    def make_shut(self, number, gen):
        self.step()
        return Door(self.doors.make_shut(number, gen), self)

    @contextlib.contextmanager
    def taken_by(self, supervisor):
        w, reaper = supervisor.w, supervisor.reaper
        self.doors = reaper.doors
        supervisor.w = supervisor.thread.w = self.words(w)
        reaper.doors = self
        self.plan.w[_WITHIN] = 1
        try:
            yield
        finally:
            self.plan.w[_WITHIN] = 0
            reaper.doors = self.doors
            supervisor.w = supervisor.thread.w = w
            self.plan.w[_STORES] = max(self.plan.w[_STORES], self.before + self.taken)


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
        with _Steps(plan, supervisor).taken_by(supervisor):
            return step(*args, **kwargs)

    return watched


def _die(plan, supervisor):
    if plan.w[_WHOM] == ITSELF:
        plan.w[_FIRED] = os.getpid()
        os.kill(os.getpid(), signal.SIGKILL)
    os_pid = plan.stopped
    if plan.w[_WHOM] == ANOTHER:
        os_pid = next((os_pid for os_pid, _ in supervisor.workers.values()), 0)
    if os_pid:
        end(os_pid)
        plan.w[_FIRED] = os_pid


def end(os_pid):
    """Kill it. When we are back it is gone, and whose child it is has not been told."""
    fd = os.pidfd_open(os_pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [])
    finally:
        os.close(fd)


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


def buried(os_pid):
    """Whether nobody takes it for a worker, or a program, any more; until then it may be given something to run."""
    w = rt.current().w
    slots = [L.slot_base(slot) for slot in range(1, w[L.H_SLOTS])]
    return not any(w[base + L.M_KIND] and w[base + L.M_OS_PID] == os_pid for base in slots)


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
