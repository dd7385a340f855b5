"""Who has a P and who sleeps: the wake protocol.

A worker must hold a P to run goroutines. The steps, as in Go:

* **submit, then look**: whoever queues work then looks whether a P is idle while nobody searches, and if so hands an
  idle P to a sleeping M, which starts to search (:func:`wake_p`).
* **announce, then look**: a worker without work gives its P up, announces that it sleeps, and then looks at all queues
  once more. Twin of the step above: one of the two sees the other.
* **searchers are few**: an M searches only while the searchers are less than half of the busy Ps; a searcher that finds
  work, and was the last one, wakes another, so that work arriving meanwhile is not overlooked.

Rejected: waking a worker for each new goroutine (a system call a spawn, and a stampede for one goroutine), and handing
over work directly (the worker may be slower awake than the spawner is done).

The words are recomputed by :func:`repair` from what each M says of itself; none of them is lost by a kill.
Source: Go proc.go, "Worker thread parking/unparking"; wakep, releasep, acquirep, resetspinning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING

from mproc_go.sched import runq
from mproc_go.shm import note
from mproc_go.shm.layout import (
    H_MAX_MS,
    H_NEED_M,
    L_SCHED,
    M_ATTENTION,
    M_P,
    M_RESIDENT,
    M_SPINNING,
    N_HOLDER_WORDS,
    P_DEAD,
    P_IDLE,
    P_M,
    P_RUNNING,
    P_STATUS,
    S_GOMAXPROCS,
    S_GQ,
    S_MIDLE,
    S_NSPINNING,
    S_PIDLE,
    S_PWAIT,
    S_PWAIT_NEXT,
    p_base,
    slot_base,
)

if TYPE_CHECKING:
    from mproc_go.shm.thread import Thread

Words = MutableSequence[int]


def start(w: Words, procs: int) -> None:
    """Make `procs` idle Ps. Runs: the supervisor, before there are workers."""
    w[S_GOMAXPROCS] = procs
    for p in range(procs):
        w[p_base(p) + P_STATUS] = P_IDLE
    w[S_PIDLE] = (1 << procs) - 1


def wake_p(t: Thread) -> None:
    """Hand an idle P to a sleeping M, unless somebody searches already. Blocks: for the scheduler's lock."""
    w = t.w
    if not w[S_PIDLE] or w[S_NSPINNING]:
        return
    lock = t.locks[L_SCHED]
    m = 0
    t.enter(lock)
    if w[S_PIDLE] and not w[S_NSPINNING]:
        m = _best_idle_m(w)
        if m:
            _hand_to_searcher(w, m)
        else:
            w[H_NEED_M] = 1  # the supervisor forks one
    t.leave(lock)
    if m:
        note.wake(t, m)


def better_placed(w: Words, resident: int) -> bool:
    """Whether a goroutine should rather start on an M that sleeps than on one with that many residents.

    Unlike Go's, a goroutine stays where it starts. A pool of workers that is started before there is work for it parks
    at once, one after the other, on the first M that is awake; all its work would then be done there. So an M that has
    residents leaves the next goroutine to an idle M that has fewer. The M with the fewest never does, so it runs.
    """
    if not w[S_PIDLE]:
        return False
    return any(w[slot_base(m) + M_RESIDENT] < resident for m in _bits(w, S_MIDLE))


def pass_on(t: Thread) -> None:
    """Leave the work there is to a better placed M: stop searching ourselves, so that it is woken, and wake it."""
    w = t.w
    if w[t.base + M_SPINNING]:
        lock = t.locks[L_SCHED]
        t.enter(lock)
        _stop_spinning(w, t.base)
        t.leave(lock)
    wake_p(t)


def acquire_p(t: Thread, waiting: bool = False, take: bool = True) -> bool:
    """Take an idle P, unless one was handed to us already; False if there is none. Runs: a worker.

    Args:
        waiting: there is something to run that is bound to this M: queue for a P if none is idle.
        take: False only enters this M into the list of sleepers.
    """
    w = t.w
    if w[t.base + M_P]:
        return True
    lock = t.locks[L_SCHED]
    t.enter(lock)
    got = bool(w[t.base + M_P])
    if not got:
        if take and w[S_PIDLE]:
            _assign(w, t.slot, _lowest(w[S_PIDLE]))
            got = True
        else:  # one list or the other: who is on none is never woken; and who has no P does not search
            _stop_spinning(w, t.base)
            _set_bit(w, S_MIDLE, t.slot, not waiting)
            _set_bit(w, S_PWAIT, t.slot, waiting)
    t.leave(lock)
    return got  # even if it was taken away since: whoever has none and is on no list must not go to sleep


def release_p(t: Thread) -> bool:
    """Give the P up and announce that this M sleeps; False if work arrived in the global list. Runs: a worker.

    The caller then looks at all queues once more before it sleeps.
    """
    w = t.w
    lock = t.locks[L_SCHED]
    woken = 0
    t.enter(lock)
    idle = not w[S_GQ]
    if idle:
        woken = _give_up(w, t.base)
        _stop_spinning(w, t.base)
        _set_bit(w, S_MIDLE, t.slot, True)
        note.announce(t)
    t.leave(lock)
    if woken:
        note.wake(t, woken)
    return idle


def yield_p(t: Thread) -> None:
    """Give the P to an M that waits for one, if there is one. Runs: a worker told to (M_YIELD)."""
    w = t.w
    lock = t.locks[L_SCHED]
    woken = 0
    t.enter(lock)
    if any(w[S_PWAIT + i] for i in range(N_HOLDER_WORDS)):
        woken = _give_up(w, t.base)
        _stop_spinning(w, t.base)
    t.leave(lock)
    if woken:
        note.wake(t, woken)


def leave(t: Thread) -> bool:
    """Take this M off the list of sleepers, to end; False if it was just given a P. Runs: a worker that sleeps."""
    lock = t.locks[L_SCHED]
    t.enter(lock)
    unused = not t.w[t.base + M_P]
    if unused:
        _set_bit(t.w, S_MIDLE, t.slot, False)
        _set_bit(t.w, S_PWAIT, t.slot, False)
    t.leave(lock)
    return unused


def rebalance(t: Thread) -> int:
    """Give queued work to a sleeper if nobody really searches; return the M to wake. Runs: the supervisor, locked.

    Go's sysmon trusts the counters; here a searcher may have died, or been stopped, with them.
    """
    w = t.w
    w[S_NSPINNING] = sum(w[slot_base(m) + M_SPINNING] for m in range(1, w[H_MAX_MS] + 1) if w[slot_base(m) + M_P])
    if w[S_NSPINNING] or not w[S_PIDLE]:
        return 0
    m = _best_idle_m(w)
    if m:
        _hand_to_searcher(w, m)
    return m


def retake(t: Thread, m: int) -> int:
    """Take the P of `m`, which is blocked, and hand it to whoever needs one. Runs: the supervisor, under L_SCHED.

    Returns: the M to wake, 0 if there is none: then the P is idle, and a new M is wanted if there is work.
    Source: Go proc.go retake, handoffp.
    """
    w = t.w
    woken = _give_up(w, slot_base(m))
    _stop_spinning(w, slot_base(m))
    if not woken and w[S_PIDLE]:
        woken = _best_idle_m(w)
        if woken:
            _assign(w, woken, _lowest(w[S_PIDLE]))
    return woken


def resize(t: Thread, procs: int) -> tuple[int, list[int]]:
    """Have `procs` Ps; return how many there were, and the goroutines queued at Ps that are gone (to be queued again).

    Runs: any thread.     Blocks: for the scheduler's lock and those of the Ps that go.
    Source: Go proc.go procresize.
    """
    w = t.w
    lock = t.locks[L_SCHED]
    woken = []
    t.enter(lock)
    old: int = w[S_GOMAXPROCS]
    w[S_GOMAXPROCS] = procs
    for p in range(old, procs):
        w[p_base(p) + P_M] = 0
        woken.append(_free(w, p))
    for p in range(procs, old):
        w[S_PIDLE] &= ~(1 << p)
        m = w[p_base(p) + P_M]
        w[p_base(p) + P_STATUS] = P_DEAD
        if m:
            w[p_base(p) + P_M] = 0
            w[slot_base(m) + M_P] = 0
            _stop_spinning(w, slot_base(m))
            w[slot_base(m) + M_ATTENTION] = 1
    t.leave(lock)
    for m in woken:
        if m:
            note.wake(t, m)
    orphans: list[int] = []
    for p in range(procs, old):
        # Not only while there seems to be something: the lock is what makes a put that is under way visible.
        while taken := runq.grab(t, p):
            orphans += taken
    return old, orphans


def start_spinning(t: Thread) -> bool:
    """Become a searcher, if there are not too many already. Runs: a worker with a P."""
    w = t.w
    if w[t.base + M_SPINNING]:
        return True
    if 2 * w[S_NSPINNING] >= w[S_GOMAXPROCS] - w[S_PIDLE].bit_count():
        return False
    lock = t.locks[L_SCHED]
    t.enter(lock)
    if w[t.base + M_P] and not w[t.base + M_SPINNING]:  # whoever took our P meanwhile counts us out
        w[t.base + M_SPINNING] = 1
        w[S_NSPINNING] += 1
    t.leave(lock)
    return bool(w[t.base + M_SPINNING])


def found_work(t: Thread) -> None:
    """A searcher found something: stop being one, and see to it that somebody else searches on if need be."""
    w = t.w
    if not w[t.base + M_SPINNING]:
        return
    lock = t.locks[L_SCHED]
    t.enter(lock)
    _stop_spinning(w, t.base)
    last = not w[S_NSPINNING]
    t.leave(lock)
    if last and w[S_PIDLE]:
        wake_p(t)


def any_work(w: Words) -> bool:
    """Whether some queue holds a goroutine; may be stale."""
    return bool(w[S_GQ]) or any(runq.length(w, p) for p in range(w[S_GOMAXPROCS]))


def repair(w: Words, living: Iterable[int]) -> None:
    """Recompute idle Ps, idle Ms and searchers from what the living Ms say. Runs alone, under the scheduler's lock."""
    idle = (1 << w[S_GOMAXPROCS]) - 1
    spinning = 0
    for word in range(N_HOLDER_WORDS):
        w[S_MIDLE + word] = 0
        w[S_PWAIT + word] = 0
    for p in range(w[S_GOMAXPROCS]):
        w[p_base(p) + P_M] = 0
        w[p_base(p) + P_STATUS] = P_IDLE
    for m in living:
        p = w[slot_base(m) + M_P] - 1
        if p >= 0:
            idle &= ~(1 << p)
            w[p_base(p) + P_M] = m
            w[p_base(p) + P_STATUS] = P_RUNNING
            spinning += w[slot_base(m) + M_SPINNING]
        else:
            w[slot_base(m) + M_SPINNING] = 0  # its waker died before it had the P
            _set_bit(w, S_MIDLE, m, True)
    w[S_PIDLE] = idle
    w[S_NSPINNING] = spinning


def _assign(w: Words, m: int, p: int) -> None:
    # Whoever gets a P neither sleeps nor waits for one any more: a bit left behind would hand it a second one.
    _set_bit(w, S_MIDLE, m, False)
    _set_bit(w, S_PWAIT, m, False)
    w[slot_base(m) + M_P] = p + 1  # publishes: the truth about who has the P
    w[p_base(p) + P_M] = m
    w[p_base(p) + P_STATUS] = P_RUNNING
    w[S_PIDLE] &= ~(1 << p)


def _hand_to_searcher(w: Words, m: int) -> None:
    """Hand an idle P to the sleeping `m`, which is to search. Lock: the scheduler's.

    It may be awake, and see its P without the lock: it must find itself counted then, or it would count itself again,
    or run something for long and be taken for a searcher all the while.
    """
    w[slot_base(m) + M_SPINNING] = 1
    w[S_NSPINNING] += 1
    _assign(w, m, _lowest(w[S_PIDLE]))


def _give_up(w: Words, base: int) -> int:
    """Take the P of the M at `base`, if it has one, and free it; return the M to wake."""
    p = w[base + M_P] - 1
    if p < 0:
        return 0
    w[base + M_P] = 0  # publishes
    w[p_base(p) + P_M] = 0
    if p >= w[S_GOMAXPROCS]:
        w[p_base(p) + P_STATUS] = P_DEAD
        return 0
    return _free(w, p)


def _free(w: Words, p: int) -> int:
    """Hand a free P to the next M that waits for one, and return that; else make it idle and return 0."""
    w[p_base(p) + P_STATUS] = P_IDLE
    w[S_PIDLE] |= 1 << p
    waiting = list(_bits(w, S_PWAIT))
    if not waiting:
        return 0
    start = w[S_PWAIT_NEXT]
    m = min(waiting, key=lambda slot: (slot < start, slot))
    w[S_PWAIT_NEXT] = m + 1
    _assign(w, m, p)
    return m


def _stop_spinning(w: Words, base: int) -> None:
    if w[base + M_SPINNING]:
        w[base + M_SPINNING] = 0
        w[S_NSPINNING] -= 1


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _bits(w: Words, mask: int) -> Iterator[int]:
    """Slots in the mask of N_HOLDER_WORDS words at `mask`."""
    for word in range(N_HOLDER_WORDS):
        bits = w[mask + word]
        while bits:
            yield word * 64 + _lowest(bits)
            bits &= bits - 1


def _set_bit(w: Words, mask: int, m: int, on: bool) -> None:
    bit = 1 << m % 64
    if on:
        w[mask + m // 64] |= bit
    else:
        w[mask + m // 64] &= ~bit


def _best_idle_m(w: Words) -> int:
    """The idle M with the fewest goroutines bound to it, 0 if none is idle."""
    return min(_bits(w, S_MIDLE), key=lambda m: w[slot_base(m) + M_RESIDENT], default=0)
