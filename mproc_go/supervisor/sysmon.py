"""Go's sysmon: see which M is blocked in a call that nobody declared, and give its P to another.

An M that holds a P and whose scheduling tick stands still runs one goroutine for long: it computes, or it sits in a
call (``time.sleep``, a driver, a file on a slow disk, a C call that gave up the interpreter lock). Only the operating
system knows which, so it is asked, cheapest first:

1. the tick word: has it moved since the last look? (0.1 us)
2. the CPU clock of the process: has it run? (0.5 us; works on any process of ours)
3. ``/proc/PID/stat``: S or D means it sleeps, R that it waits for a processor (5 us, descriptor kept open).

A parked scheduler holds no P and is never looked at; a wait for a lock shows in the phase word. A P is taken only while
there is work for it; the M finds out at its next scheduling step, and needs a P before it runs anything.

What a wrong guess costs is one more worker. Source: Go proc.go sysmon, retake; Linux clock_getcpuclockid(3) for the
number of another process's clock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from mproc_go.errors import tell
from mproc_go.sched import idle
from mproc_go.shm import note
from mproc_go.shm.layout import (
    H_NEED_M,
    H_PREEMPT,
    KIND_WORKER,
    L_SCHED,
    M_ATTENTION,
    M_HANDOFFS,
    M_KIND,
    M_P,
    M_PHASE,
    M_RETIRE,
    M_RUNNING,
    M_TICK,
    M_YIELD,
    N_HOLDER_WORDS,
    S_GOMAXPROCS,
    S_HANDOFFS,
    S_MIDLE,
    S_PIDLE,
    S_PWAIT,
    slot_base,
)
from mproc_go.supervisor.thread import SupervisorThread

# Looks in a row for which an M's tick and its CPU clock must stand still before the system is asked ...
STILL_LOOKS = 2
# ... and CPU time it may use between two looks, in seconds, and count as standing still.
ASLEEP_CPU_S = 0.001
# An M that holds a P while others wait for one gives it up after this, in seconds. Source: Go forcePreemptNS.
SLICE_S = 0.010
# Spare workers are kept this long without having been needed, in seconds, and this many beyond GOMAXPROCS for ever.
SPARE_S = 5.0
SPARES = 1


# Asks a goroutine that computes to yield (Runtime(preempt=True)). Source: Go signal_unix.go sigPreempt.
PREEMPT_SIGNAL = signal.SIGURG


class _Watched:
    """What is known of one M."""

    __slots__ = ("cpu", "looks", "os_pid", "p", "since", "stat_fd", "tick")

    def __init__(self, os_pid: int) -> None:
        self.os_pid = os_pid
        self.stat_fd = os.open(f"/proc/{os_pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        self.tick = -1
        self.p = 0
        self.looks = 0
        self.cpu = 0.0
        self.since = 0.0


class Sysmon:
    """Watches the Ms of one runtime.

    Attributes:
        fork: starts one more worker; False if there are max_ms already.
    """

    def __init__(self, t: SupervisorThread, fork: Callable[[], bool]) -> None:
        self.t = t
        self.fork = fork
        self.watched: dict[int, _Watched] = {}
        self.needed_at = time.monotonic()  # when a spare worker was last of use
        self.at_bound = False

    def add(self, slot: int, os_pid: int) -> None:
        """Watch a new worker."""
        self.watched[slot] = _Watched(os_pid)

    def forget(self, slot: int) -> None:
        """A worker is gone."""
        os.close(self.watched.pop(slot).stat_fd)

    def tick(self) -> None:
        """Look at every M once."""
        w = self.t.w
        now = time.monotonic()
        waiting = any(w[S_PWAIT + i] for i in range(N_HOLDER_WORDS))
        work = waiting or idle.any_work(w)
        for slot, m in list(self.watched.items()):
            base = slot_base(slot)
            p = w[base + M_P]
            tick = w[base + M_TICK]
            if not p or tick != m.tick or p != m.p:
                m.tick, m.p, m.looks, m.since = tick, p, 0, now
                m.cpu = cpu_s(m.os_pid) if p else 0.0
                if p and waiting:
                    self._ask_to_yield(base)
                continue
            if not w[base + M_RUNNING] or w[base + M_PHASE]:
                continue
            if work or w[H_PREEMPT]:
                # Between two looks, not since the tick stopped: it may have computed before it went to sleep.
                used, m.cpu = m.cpu, cpu_s(m.os_pid)
                m.looks = m.looks + 1 if m.cpu - used < ASLEEP_CPU_S else 0
                if work and m.looks >= STILL_LOOKS and is_asleep(m.stat_fd):
                    self._retake(slot, tick)
                    m.looks = 0
                    continue
            if now - m.since > SLICE_S:
                if waiting:
                    self._ask_to_yield(base)
                if w[H_PREEMPT] and not m.looks:  # it computes
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(m.os_pid, PREEMPT_SIGNAL)
        w[H_NEED_M] = 0  # a hint: what counts is whether it is needed still
        if w[S_PIDLE] and idle.any_work(w):
            self._rebalance()
        elif now - self.needed_at > SPARE_S:
            self._retire_spares()
            self.needed_at = now

    def _retake(self, slot: int, tick: int) -> None:
        t = self.t
        w = t.w
        base = slot_base(slot)
        lock = t.locks[L_SCHED]
        if not t.try_enter(lock):
            return
        woken = 0
        taken = w[base + M_TICK] == tick and w[base + M_P]
        if taken:
            woken = idle.retake(t, slot)
            w[base + M_HANDOFFS] += 1
            w[S_HANDOFFS] += 1
        t.leave(lock)
        if not taken:
            return
        w[base + M_ATTENTION] = 1
        self.needed_at = time.monotonic()
        if woken:
            note.wake(t, woken)
        elif w[S_PIDLE]:
            self._one_more()

    def _rebalance(self) -> None:
        """Work is queued and a P is idle. If an M sleeps, that is a moment's state, unless a wake-up was lost; else one
        more M is needed. Told apart under the lock: whoever hands a P over takes the M off the list first.
        """
        t = self.t
        lock = t.locks[L_SCHED]
        if not t.try_enter(lock):
            return
        needed = bool(t.w[S_PIDLE]) and not self._sleepers()
        woken = 0 if needed else idle.rebalance(t)
        t.leave(lock)
        if needed:
            self._one_more()
        elif woken:
            note.wake(t, woken)

    def _one_more(self) -> None:
        self.needed_at = time.monotonic()
        w = self.t.w
        if any(not w[slot_base(slot) + M_TICK] for slot in self.watched):
            return  # one is just starting
        if self.fork():
            self.at_bound = False
        elif not self.at_bound:
            self.at_bound = True
            tell(
                "mproc_go: every worker is blocked in a call, and there are max_ms of them; goroutines wait until one "
                "returns. Use blocking(fn), which takes a thread instead of a worker, or a larger max_ms."
            )

    def _sleepers(self) -> bool:
        w = self.t.w
        return any(w[S_MIDLE + i] for i in range(N_HOLDER_WORDS))

    def _ask_to_yield(self, base: int) -> None:
        w = self.t.w
        w[base + M_YIELD] = 1
        w[base + M_ATTENTION] = 1

    def _retire_spares(self) -> None:
        """Have workers end that were of no use for long, down to GOMAXPROCS and a few."""
        w = self.t.w
        too_many = len(self.watched) - w[S_GOMAXPROCS] - SPARES
        for slot in list(self.watched)[::-1]:  # the youngest first
            if too_many <= 0:
                return
            base = slot_base(slot)
            if w[base + M_KIND] == KIND_WORKER and not w[base + M_P]:
                w[base + M_RETIRE] = 1
                w[base + M_ATTENTION] = 1
                note.wake(self.t, slot)
                too_many -= 1  # it may find that something is bound to it, and stay


def cpu_s(os_pid: int) -> float:
    """CPU time that a process has used, in seconds; 0 if it is gone."""
    try:
        return time.clock_gettime(((~os_pid) << 3) | 2)
    except OSError:
        return 0.0


def is_asleep(stat_fd: int) -> bool:
    """Whether the main thread of the process sleeps in the kernel (an open ``/proc/PID/stat``)."""
    try:
        stat = os.pread(stat_fd, 512, 0)
    except OSError:
        return False
    return stat[stat.rfind(b")") + 2 : stat.rfind(b")") + 3] in (b"S", b"D")
