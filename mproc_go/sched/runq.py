"""Run queues: the ring of 256 goroutines of each P, and the global list. Only goroutines that have not started.

A goroutine in a queue is nothing but bytes, so anybody may take it. Whoever takes it first writes its own slot into the
head of the record and then publishes the removal: if it dies between removing and starting, the reaper finds a runnable
goroutine that bears a dead slot and is in no queue, and queues it again. Nothing is lost, nothing runs twice.

Invariants:
    RQ1  head <= tail <= head + RUNQ, and the places from head to tail hold runnable goroutines.
    RQ2  The links of the global list end with 0; its tail (while the head is not 0) is the last, its size the length.
    RQ3  A runnable goroutine is in one queue, or its head bears the slot of who is moving it.

Source: Go proc.go runqput, runqget, runqgrab, globrunqput, globrunqget; with locks where Go has compare-and-swap, which
Python lacks.
"""

from __future__ import annotations

import itertools
from collections.abc import MutableSequence, Sequence
from typing import TYPE_CHECKING

from mproc_go.shm.layout import (
    L_PS,
    L_SCHED,
    P_DEAD,
    P_HEAD,
    P_RUNQ,
    P_STATUS,
    P_TAIL,
    P_WORDS,
    PS,
    R_HEAD,
    R_LINK,
    RUNQ,
    S_GQ,
    S_GQ_SIZE,
    S_GQ_TAIL,
    p_base,
)

if TYPE_CHECKING:
    from mproc_go.shm.thread import Thread

Words = MutableSequence[int]


# ---------------------------------------------------------------- the ring of a P
def put(t: Thread, p: int, g: int) -> bool:
    """Queue `g` at the P; False if its ring is full, or the P is gone. Runs: the M that holds the P.

    Blocks: for the P's lock. Twin: idle.py resize marks a P as gone before it empties the ring under this lock, so that
    nothing is put where nobody looks any more.
    """
    # Cost: 0.4 us = 1 lock, 5 words
    w = t.w
    base = PS + p * P_WORDS
    lock = t.locks[L_PS + p]
    ph = t.ph
    w[ph] = lock.phase
    if not lock.acquire(False):
        lock.contended()
    if w[lock.gen_word] != lock.gen:
        lock = lock.renewed(w, ph)
    tail = w[base + P_TAIL]
    fits: bool = tail - w[base + P_HEAD] < RUNQ and w[base + P_STATUS] != P_DEAD
    if fits:
        w[base + P_RUNQ + tail % RUNQ] = g
        w[base + P_TAIL] = tail + 1  # publishes
    lock.release()
    w[ph] = 0
    return fits


def put_many(t: Thread, p: int, gs: list[int]) -> list[int]:
    """Queue as many of `gs` as there is room for, in order; return the rest (all of them if the P is gone)."""
    w = t.w
    base = p_base(p)
    lock = t.locks[L_PS + p]
    t.enter(lock)
    tail = w[base + P_TAIL]
    room = RUNQ - (tail - w[base + P_HEAD]) if w[base + P_STATUS] != P_DEAD else 0
    for i, g in enumerate(gs[:room]):
        w[base + P_RUNQ + (tail + i) % RUNQ] = g
    w[base + P_TAIL] = tail + min(room, len(gs))  # publishes
    t.leave(lock)
    return gs[room:]


def get(t: Thread, p: int) -> int:
    """Take the next goroutine of the P, 0 if there is none. Runs: the M that holds the P."""
    # Cost: 0.05 us if empty, else 0.4 us = 1 lock, 5 words
    w = t.w
    base = PS + p * P_WORDS
    if w[base + P_HEAD] == w[base + P_TAIL]:
        return 0
    lock = t.locks[L_PS + p]
    ph = t.ph
    w[ph] = lock.phase
    if not lock.acquire(False):
        lock.contended()
    if w[lock.gen_word] != lock.gen:
        lock = lock.renewed(w, ph)
    head = w[base + P_HEAD]
    g: int = 0
    if head != w[base + P_TAIL]:
        g = w[base + P_RUNQ + head % RUNQ]
        w[g + R_HEAD] = t.live
        w[base + P_HEAD] = head + 1  # publishes
    lock.release()
    w[ph] = 0
    return g


def grab(t: Thread, p: int) -> list[int]:
    """Take half of the P's goroutines, rounded up, oldest first. Runs: a thief, or the P's own M on overflow.

    Crash: killed before the publishing store: nothing moved; after it: they bear our slot, the reaper queues them.
    Source: Go proc.go runqgrab.
    """
    w = t.w
    base = p_base(p)
    lock = t.locks[L_PS + p]
    t.enter(lock)
    head = w[base + P_HEAD]
    n = w[base + P_TAIL] - head
    n -= n // 2
    taken = [w[base + P_RUNQ + (head + i) % RUNQ] for i in range(n)]
    for g in taken:
        w[g + R_HEAD] = t.live
    w[base + P_HEAD] = head + n  # publishes
    t.leave(lock)
    return taken


def length(w: Sequence[int], p: int) -> int:
    """Goroutines queued at the P; may be stale."""
    base = p_base(p)
    head = w[base + P_HEAD]  # head first: it only grows, so the difference is never negative
    return max(0, w[base + P_TAIL] - head)


# ---------------------------------------------------------------- the global list
def put_global(t: Thread, gs: list[int]) -> None:
    """Append `gs` to the global list, in order. Blocks: for the scheduler's lock."""
    w = t.w
    first, last = gs[0], gs[-1]
    for g, following in itertools.pairwise(gs):
        w[g + R_LINK] = following
    w[last + R_LINK] = 0
    lock = t.locks[L_SCHED]
    ph = t.ph
    w[ph] = lock.phase
    if not lock.acquire(False):
        lock.contended()
    if w[lock.gen_word] != lock.gen:
        lock = lock.renewed(w, ph)
    if w[S_GQ]:
        w[w[S_GQ_TAIL] + R_LINK] = first  # publishes
        w[S_GQ_TAIL] = last
    else:
        w[S_GQ_TAIL] = last
        w[S_GQ] = first  # publishes
    w[S_GQ_SIZE] += len(gs)
    lock.release()
    w[ph] = 0


def get_global(t: Thread, most: int, share: int = 1) -> list[int]:
    """Take a fair share of the global list: its length divided by `share`, plus one, at most `most`.

    Source: Go proc.go globrunqget.
    """
    w = t.w
    if not w[S_GQ]:
        return []
    lock = t.locks[L_SCHED]
    t.enter(lock)
    taken: list[int] = []
    n = min(most, w[S_GQ_SIZE] // share + 1)
    g = w[S_GQ]
    while g and len(taken) < n:
        w[g + R_HEAD] = t.live
        taken.append(g)
        g = w[g + R_LINK]
    w[S_GQ] = g  # publishes
    w[S_GQ_SIZE] -= len(taken)
    t.leave(lock)
    return taken


# ---------------------------------------------------------------- eyes, repair and invariants
def queued(w: Words, p: int) -> list[int]:
    """The goroutines queued at the P."""
    base = p_base(p)
    return [w[base + P_RUNQ + i % RUNQ] for i in range(w[base + P_HEAD], w[base + P_TAIL])]


def queued_global(w: Words) -> list[int]:
    """The goroutines in the global list."""
    found = []
    g = w[S_GQ]
    while g:
        found.append(g)
        g = w[g + R_LINK]
    return found


def repair_global(w: Words) -> None:
    """Recompute tail and size from the links. Runs alone, under the scheduler's lock."""
    gs = queued_global(w)
    w[S_GQ_TAIL] = gs[-1] if gs else 0
    w[S_GQ_SIZE] = len(gs)


def check(w: Words, p: int) -> None:
    """Assert RQ1. Runs alone."""
    base = p_base(p)
    assert 0 <= w[base + P_TAIL] - w[base + P_HEAD] <= RUNQ, f"RQ1: head {w[base + P_HEAD]} tail {w[base + P_TAIL]}"
    gs = queued(w, p)
    assert len(set(gs)) == len(gs) and 0 not in gs, f"RQ1: the queue of P{p} holds a goroutine twice, or none"


def check_global(w: Words) -> None:
    """Assert RQ2. Runs alone."""
    gs = queued_global(w)
    assert len(set(gs)) == len(gs), "RQ2: the global list holds a goroutine twice"
    assert not gs or w[S_GQ_TAIL] == gs[-1], f"RQ2: tail is {w[S_GQ_TAIL]}, not {gs[-1]}"
    assert w[S_GQ_SIZE] == len(gs), f"RQ2: size is {w[S_GQ_SIZE]}, not {len(gs)}"
