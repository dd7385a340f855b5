"""A thread that runs no hub: the user's program, or a helper thread. It is an M that sleeps while it waits.

Such a thread has a goroutine record of its own (the thread that enters a runtime is goroutine 1), so that channels and
wait groups treat it like any other.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import NoReturn

from mproc_go.errors import Deadlock, NotRunning
from mproc_go.runtime import panics
from mproc_go.runtime.process import M, Process
from mproc_go.sched import states, waitq
from mproc_go.shm import note
from mproc_go.shm.layout import (
    G_CLIENT_COUNT,
    G_CODE,
    G_DECIDE,
    G_GOID,
    G_JOINQ,
    G_M,
    G_STATUS,
    H_MAX_MS,
    H_SLOTS,
    H_STOP,
    KIND_FREE,
    KIND_WORKER,
    M_ATTENTION,
    M_DEADLINE,
    M_FINISHED,
    M_KIND,
    M_OS_PID,
    M_REG_PHASE,
    M_SPAWNED,
    POOL_G,
    R_REFS,
    slot_base,
)
from mproc_go.shm.pool import flush_all, give, take
from mproc_go.shm.thread import take_client_slot

# Looks at its decision word before it sleeps: about 20 us, the price of sleeping and being woken.
# scripts/bench pingpong_remote shows what it buys.
SPIN = 400
# A sleeping client looks this often, in seconds, whether the supervisor is still there to wake it.
CHECK_S = 0.1


class ClientM(M):
    """A thread that waits by sleeping.

    Attributes:
        in_main: it is in the function that ``run`` was given.
    """

    def __init__(self, process: Process, slot: int) -> None:
        super().__init__(process, slot)
        self._ident = threading.get_ident()
        self.in_main = False
        process.outsiders.known[self._ident] = slot
        w = self.w
        g = take(self, POOL_G)
        self.g = g
        w[g + G_STATUS] = states.UNMADE
        w[g + G_CODE] = 0  # it runs nothing that could be run again
        w[g + G_GOID] = self.new_goid()
        w[g + G_M] = slot
        w[g + G_DECIDE] = 0
        w[g + G_JOINQ] = 0
        w[g + R_REFS] = 1
        waitq.settle_sudog(w, g)
        spawned = w[self.base + M_SPAWNED] + 1
        w[g + G_CLIENT_COUNT] = spawned  # tells the reaper whether it was counted
        w[g + G_STATUS] = states.RUNNING
        w[g] = self.live  # publishes
        w[self.base + M_SPAWNED] = spawned

    def park(self, deadline: float | None = None) -> int:
        w, g = self.w, self.g
        decide = g + G_DECIDE
        if not w[H_STOP]:
            for _ in range(SPIN):
                if w[decide]:
                    w[g + G_STATUS] = states.RUNNING
                    return int(w[decide])
        outsiders = self.process.outsiders
        outsiders.look()
        try:
            note.announce(self)
            while not w[decide]:
                if w[H_STOP]:
                    self.interrupted()
                if self.process.over is not None:  # another thread detached
                    raise NotRunning(self.process.over)
                timeout = CHECK_S
                if deadline is not None:
                    w[self.base + M_DEADLINE] = int(deadline * 1e9)
                    timeout = min(timeout, deadline - time.monotonic())
                    if timeout <= 0:
                        return 0
                if not note.sleep(self, timeout):
                    self.process.check_supervisor()
                    outsiders.look()
                elif not w[decide]:
                    note.announce(self)  # that was the waker of the wait before; the next must find that we sleep
        finally:
            w[self.base + M_DEADLINE] = 0
            note.awake(self)
            w[g + G_STATUS] = states.RUNNING
        return int(w[decide])

    def pause(self, deadline: float) -> None:
        self.begin_wait(states.SLEEP)
        self.park(deadline)

    def yield_(self) -> None:
        if self.w[H_STOP]:
            self.interrupted()
        os.sched_yield()

    def outlive(self) -> NoReturn:
        """The goroutine ended by goexit, and the program goes on: wait for its end, and raise it.

        Raises:
            Deadlock, GoroutinePanic, WorkerLost, NotRunning: as :meth:`interrupted`.
        """
        finished = self.base + M_FINISHED
        self.w[finished] += 1  # num_goroutine does not count it
        try:
            self.begin_wait(states.GOEXIT)
            while True:
                self.park()
        finally:
            self.w[finished] -= 1  # it is counted as ended when its slot is given back

    def interrupted(self) -> None:
        if self.process.over is not None:
            raise NotRunning(self.process.over)
        error = panics.fatal(self)
        if isinstance(error, Deadlock):
            error = Deadlock(self._with_our_stacks(str(error)))
        self.process.told = True
        if error is None:
            raise NotRunning(f"{self.process.title} was closed while it was used here")
        raise error

    def _with_our_stacks(self, text: str) -> str:
        """The supervisor's report with the stacks of this process's threads, which it could not ask."""
        from mproc_go.runtime import dump  # it needs this module

        process = self.process
        # Whoever comes first does it for all: the others wait here, or sleep still, so their stacks are what they were.
        with process.report_lock:
            if process.report is None:
                frames = sys._current_frames()
                ours = {slot: frames.get(ident) for ident, slot in list(process.outsiders.known.items())}
                lines = text.split("\n")
                for slot, frame in ours.items():
                    place = f"  in process {self.w[self.base + M_OS_PID]} (M{slot})"
                    if frame is not None and place in lines:
                        lines[lines.index(place)] = dump.frames_text(frame).rstrip("\n")
                frames.clear()  # our own is among them: no cycle
                ours.clear()
                del frame
                process.report = "\n".join(lines)
            return process.report

    def leave_runtime(self) -> None:
        """The thread ends: give back its goroutine, its caches and its slot.

        Crash: killed once its goroutine is DONE, the reaper counts that (_count).
        """
        w = self.w
        if w[self.ph]:  # an exception ended it in the middle of something
            self.mended()
        note.awake(self)
        g, finished = self.g, w[self.base + M_FINISHED] + 1
        w[g + G_DECIDE] = finished << 32  # it never waits again: redo record of the count, as of one that a worker ran
        w[g + R_REFS] = 0
        w[g + G_STATUS] = states.DONE  # publishes
        w[self.base + M_FINISHED] = finished
        give(self, POOL_G, g)
        flush_all(self)
        outsiders = self.process.outsiders
        if outsiders.look() and w[slot_base(self.process.host) + M_KIND] == KIND_WORKER:
            # The hub sleeps without looking around: have it see that it must.
            w[slot_base(self.process.host) + M_ATTENTION] = 1
            note.wake(self, self.process.host)
        outsiders.known.pop(self._ident, None)
        w[self.base + M_KIND] = KIND_FREE


class Registrar(M):
    """Takes the one lock that a thread needs before it has a slot of its own, under its host's second phase word."""

    def __init__(self, process: Process) -> None:
        super().__init__(process, process.host, phase_offset=M_REG_PHASE)

    def held_already(self) -> None:
        """The word is nobody's own."""

    def new_slot(self) -> int:
        """Take a free client slot.

        Raises:
            NotRunning: all are taken.
        """
        w = self.w
        found = take_client_slot(self, os.getpid(), self.process.host)
        if not found:
            raise NotRunning(
                f"{w[H_SLOTS] - w[H_MAX_MS] - 1} threads use this runtime already, there is no room for one more; "
                "call it from fewer threads"
            )
        return found
