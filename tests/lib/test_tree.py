"""Crash sweep of the lists of contexts: die at the n-th store, repair, finish, and find CX1 and CX2."""

from __future__ import annotations

import itertools

from mproc_go.lib import tree
from mproc_go.shm.layout import CX_CANCELED, CX_OWNER, CX_PREV, CX_STATE
from tests.sync.test_repair import Killed, Words

ROOT, A, B, C = 64, 128, 192, 256
ALL = (ROOT, A, B, C)


def prepare(*linked):
    w = Words([0] * 512)
    for base in linked:
        tree.link(Supervisor(w), base, ROOT)
    return w


def deaths(make, operation):
    for n in itertools.count():
        w = make()
        w.left = n
        try:
            operation(w)
        except Killed:
            w.left = -1
            yield w
            continue
        w.left = -1
        yield w
        return


def test_cx1_link():
    for w in deaths(lambda: prepare(A, B), lambda w: tree.link(Supervisor(w), C, ROOT)):
        tree.repair(w, ALL)
        tree.check(w, ROOT)
        assert tree.members(w, ROOT) in ([B, A], [C, B, A])


def test_cx1_unlink_anywhere():
    for gone in (A, B, C):
        rest = [base for base in (C, B, A) if base != gone]
        for w in deaths(lambda: prepare(A, B, C), lambda w, gone=gone: tree.unlink(Supervisor(w), gone)):
            tree.repair(w, ALL)
            tree.check(w, ROOT)
            assert tree.members(w, ROOT) in ([C, B, A], rest)
            assert bool(w[gone + CX_OWNER]) == (gone in tree.members(w, ROOT))
            tree.unlink(Supervisor(w), gone)  # works as ever after the repair
            assert tree.members(w, ROOT) == rest
            tree.check(w, ROOT)


def test_an_ended_context_takes_nobody_in():
    w = prepare(A)
    w[ROOT + CX_STATE] = CX_CANCELED
    assert tree.link(Supervisor(w), B, ROOT) is False
    assert tree.members(w, ROOT) == [A]
    assert w[A + CX_PREV] == 0


class Lock:
    number = 0


class Supervisor:
    """Just enough of a thread: the locks are free."""

    slot = 0

    def __init__(self, w):
        self.w = w
        self.locks = [Lock] * 1000

    def enter(self, lock, level=0):
        pass

    leave = enter


def test_cx2_finish_ends_what_was_left():
    w = prepare(A, B)
    tree.link(Supervisor(w), C, A)
    w[ROOT + CX_STATE] = CX_CANCELED  # and then its canceller died
    tree.finish(Supervisor(w), ALL)
    for base in ALL:
        assert w[base + CX_STATE] & CX_CANCELED
        tree.check(w, base)
