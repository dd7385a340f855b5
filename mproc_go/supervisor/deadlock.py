"""All asleep? When no goroutine can ever run again, say so, with everybody's stack.

Exact over all processes: every M sleeps, no queue holds a goroutine, no inbox a delivery, no timer is pending, no
descriptor and no call is waited for, every client thread waits without a deadline, and no process of goroutines has a
thread that the runtime does not know and that may still act (runtime/outsiders.py). Anything else vetoes. Whoever
runs changes one of the counters first, so two looks with equal counters and nothing found between them are enough.

Source: Go proc.go checkdead.
"""

from __future__ import annotations

from mproc_go.observe import stacks
from mproc_go.sched import idle
from mproc_go.shm import pool
from mproc_go.shm.layout import (
    BLOCK_DATA,
    H_SLOTS,
    H_STOP,
    KIND_CLIENT,
    KIND_WORKER,
    L_SCHED,
    M_ATTENTION,
    M_DEADLINE,
    M_DUMP,
    M_EXTERNAL,
    M_FINISHED,
    M_HOST,
    M_INBOX,
    M_KIND,
    M_OUTSIDE,
    M_P,
    M_SLEEPING,
    M_SPAWNED,
    M_STATE,
    M_TICK,
    S_ADRIFT,
    S_DUMPER,
    S_FATAL,
    S_GOID,
    STOP_DEADLOCK,
    WORD,
    slot_base,
)
from mproc_go.supervisor.thread import SupervisorThread

TEXT = "all goroutines are asleep - deadlock!"
NO_GOROUTINES = "no goroutines (main called runtime.Goexit) - deadlock!"


class Detector:
    """Looks for a deadlock, tick by tick."""

    def __init__(self, t: SupervisorThread) -> None:
        self.t = t
        self._seen: tuple[int, ...] | None = None

    def look(self) -> bool:
        """Whether the runtime is dead: true at the second look in a row at which nothing can run and nothing moved."""
        now = self._counters()
        dead = now is not None and now == self._seen
        self._seen = now
        return dead

    def _counters(self) -> tuple[int, ...] | None:
        """What any progress changes; None while something can still happen."""
        w = self.t.w
        if w[H_STOP] or w[S_DUMPER] or w[S_ADRIFT] or idle.any_work(w):
            return None
        counters = [w[S_GOID]]
        waiters = 0
        for slot in range(1, w[H_SLOTS]):
            base = slot_base(slot)
            kind = w[base + M_KIND]
            if kind not in (KIND_WORKER, KIND_CLIENT):
                continue
            if w[base + M_STATE] != M_SLEEPING or w[base + M_DEADLINE] or w[base + M_EXTERNAL] or w[base + M_P]:
                return None
            if w[slot_base(w[base + M_HOST]) + M_OUTSIDE]:
                return None
            if kind == KIND_WORKER and (w[base + M_ATTENTION] or w[base + M_INBOX]):
                return None
            waiters += kind == KIND_CLIENT
            counters += [slot, w[base + M_TICK], w[base + M_SPAWNED], w[base + M_FINISHED]]
        return tuple(counters) if waiters else None

    def report(self) -> None:
        """End the program with every goroutine's state, reason and stack."""
        t, w = self.t, self.t.w
        workers = [s for s in range(1, w[H_SLOTS]) if w[slot_base(s) + M_KIND] == KIND_WORKER]
        number = max(w[slot_base(s) + M_DUMP] for s in workers) + 1 if workers else 1
        found = stacks.collect(t, number, workers)
        report = stacks.report(t, found)
        text = f"{TEXT}\n\n{report}" if report else NO_GOROUTINES
        circle = stacks.cycle(t)
        if circle:
            text += "\n\nwho waits for whom: goroutine " + " -> ".join(map(str, circle))
        data = text.encode(errors="replace")
        block = pool.take_block(t, len(data) + WORD)
        w[block + BLOCK_DATA] = len(data)
        start = (block + BLOCK_DATA + 1) * WORD
        t.mem[start : start + len(data)] = data
        t.enter(t.locks[L_SCHED])
        if not w[S_FATAL]:
            w[S_FATAL] = block
            w[H_STOP] = STOP_DEADLOCK
        t.leave(t.locks[L_SCHED])
