"""Crash sweep: die at the n-th store of an operation, repair, and find every invariant and every permit in place.

The words are a list that kills whoever makes the n-th store; no process, no lock, nothing else.
"""

from __future__ import annotations

import pytest

from mproc_go.sched import waitq
from mproc_go.shm.layout import (
    G_DECIDE,
    G_GOID,
    G_SUDOG,
    G_WORDS,
    MX_LOCKED,
    MX_WAITQ,
    MX_WOKEN,
    OC_RUNNER,
    OC_STATE,
    OC_WAITQ,
    ONCE_RUNNING,
    OUT_AGAIN,
    OUT_MASK,
    OUT_OK,
    RW_READQ,
    RW_STATE,
    RW_WRITEQ,
    RW_WRITER,
    SG_MSG,
    SM_HELD,
    SM_SIZE,
    SM_WAITQ,
)
from mproc_go.sync import grants, mutex, once, rwmutex, semaphore

OBJECT = 64
SLOT = 7
LONG_AGO = 1


class Killed(Exception):
    pass


class Words(list):
    """Words of a segment; `left` stores from now on the process dies, before it makes that store."""

    left = -1

    def __setitem__(self, i, v):
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().__setitem__(i, v)


def goroutine(n):
    return 128 + n * G_WORDS


def make(*queues):
    """An object whose queues hold these goroutines; their sudogs carry what is in the tuple (g, word)."""
    w = Words([0] * 2048)
    for q, members in queues:
        for g, word in members:
            waitq.settle_sudog(w, g)
            w[g + G_GOID] = g
            w[g + G_SUDOG + SG_MSG] = word
            waitq.join(w, OBJECT + q, g)
    return w


def sweep(prepare, operation):
    """Yield the words after a death at each store of the operation, and at last after none."""
    for n in range(200):
        w = prepare()
        w.left = n
        try:
            operation(w)
        except Killed:
            w.left = -1
            yield w
            continue
        w.left = -1
        assert n > 0
        yield w
        return
    raise AssertionError("an operation of 200 stores")


def given(w, gs):
    return [g for g in gs if w[g + G_DECIDE] & OUT_MASK == OUT_OK]


A, B, C = (goroutine(n) for n in range(3))


@pytest.mark.parametrize("now", [LONG_AGO, 10 * mutex.STARVING_NS])
def test_mx1_unlock(now):
    def prepare():
        w = make((MX_WAITQ, [(A, LONG_AGO), (B, LONG_AGO)]))
        w[OBJECT + MX_LOCKED] = 1
        return w

    for w in sweep(prepare, lambda w: mutex.pass_on(w, OBJECT, SLOT, now)):
        mutex.repair(w, OBJECT, SLOT)
        mutex.check(w, OBJECT)
        owners = given(w, [A, B])
        assert len(owners) <= 1
        assert not owners or w[OBJECT + MX_LOCKED], "given, and free"
        woken = w[OBJECT + MX_WOKEN]
        assert not woken or w[woken + G_DECIDE] & OUT_MASK == OUT_AGAIN


def test_mx1_the_one_woken_to_compete_dies():
    w = make((MX_WAITQ, [(A, LONG_AGO), (B, LONG_AGO)]))
    w[OBJECT + MX_LOCKED] = 1
    assert mutex.pass_on(w, OBJECT, SLOT, LONG_AGO) == A
    assert mutex.forget(w, OBJECT, lambda g: g == C, SLOT) == []
    assert mutex.forget(w, OBJECT, lambda g: g == A, SLOT) == [B]
    mutex.check(w, OBJECT)


def test_back_to_the_head_of_the_queue():
    def prepare():
        w = make((MX_WAITQ, [(B, LONG_AGO), (C, LONG_AGO)]))
        waitq.settle_sudog(w, A)
        return w

    for w in sweep(prepare, lambda w: waitq.enqueue_first(w, OBJECT + MX_WAITQ, A + G_SUDOG)):
        waitq.repair(w, OBJECT + MX_WAITQ)
        waitq.check(w, OBJECT + MX_WAITQ)
        assert [s - G_SUDOG for s in waitq.sudogs(w, OBJECT + MX_WAITQ)] in ([B, C], [A, B, C])


def test_sm1_release():
    def prepare():
        w = make((SM_WAITQ, [(A, 2), (B, 1), (C, 3)]))
        w[OBJECT + SM_SIZE] = w[OBJECT + SM_HELD] = 4
        return w

    def release(w):
        w[OBJECT + SM_HELD] -= 3
        semaphore.admit(w, OBJECT, SLOT)

    before = 0
    for w in sweep(prepare, release):
        semaphore.repair(w, OBJECT, SLOT)
        semaphore.check(w, OBJECT)
        owners = given(w, [A, B, C])
        assert owners in ([], [A, B])
        assert w[OBJECT + SM_HELD] == (4 if not owners else 1 + 3)
        assert len(owners) >= before, "what was given stays given"
        before = len(owners)
    assert before == 2


@pytest.mark.parametrize("readers", [[], [(A, 0), (B, 0)]])
def test_rw1_rw2_unlock(readers):
    def prepare():
        w = make((RW_READQ, readers), (RW_WRITEQ, [(C, 0)]))
        w[OBJECT + RW_STATE] = RW_WRITER
        return w

    def unlock(w):
        w[OBJECT + RW_STATE] = 0
        rwmutex.admit_readers(w, OBJECT, SLOT) or rwmutex.admit_writer(w, OBJECT, SLOT)

    for w in sweep(prepare, unlock):
        held_before = w[OBJECT + RW_STATE] == RW_WRITER and not w[C + G_DECIDE]
        rwmutex.repair(w, OBJECT, SLOT)
        rwmutex.check(w, OBJECT)
        reading, writing = given(w, [A, B]), given(w, [C])
        assert not (reading and writing)
        state = w[OBJECT + RW_STATE]
        if writing:
            assert state == RW_WRITER
        elif reading:
            assert state == len(reading)
        else:
            assert held_before, "nobody has it, and nobody was given it"


def test_rw1_the_last_writer_leaves_the_queue():
    w = make((RW_READQ, [(A, 0), (B, 0)]))
    w[OBJECT + RW_STATE] = 1
    assert rwmutex.repair(w, OBJECT, SLOT) == [A, B]  # as the reaper does, once it has taken the writer out
    assert w[OBJECT + RW_STATE] == 3


def test_oc1_finish():
    def prepare():
        w = make((OC_WAITQ, [(A, 0), (B, 0)]))
        w[OBJECT + OC_STATE] = ONCE_RUNNING
        w[OBJECT + OC_RUNNER] = C
        return w

    for w in sweep(prepare, lambda w: once.finish(w, OBJECT, SLOT)):
        once.repair(w, OBJECT, SLOT)
        once.forget(w, OBJECT, lambda g: g == C, SLOT)
        once.check(w, OBJECT)
        assert given(w, [A, B]) == [A, B]


def test_give_first_is_told_from_a_give_that_did_not_happen():
    def prepare():
        w = make((SM_WAITQ, [(A, 1), (B, 1)]))
        w[OBJECT + SM_HELD] = 5
        return w

    for w in sweep(prepare, lambda w: grants.give_first(w, OBJECT + SM_WAITQ, OBJECT + SM_HELD, 6, SLOT)):
        grants.repair(w, OBJECT + SM_WAITQ, OBJECT + SM_HELD, SLOT)
        assert given(w, [A, B]) == ([A] if w[OBJECT + SM_HELD] == 6 else [])
        waitq.check(w, OBJECT + SM_WAITQ)
