"""Locks whose doors move on while several threads of one process use them."""

from __future__ import annotations

from mproc_go.shm import layout as L
from mproc_go.shm.lock import LOCKS, Lock, phase_word
from mproc_go.shm.thread import Thread


class FakeDoor:
    def __init__(self, tokens):
        self.tokens = tokens

    def acquire(self, block=True, timeout=None):
        if not self.tokens:
            assert not block, "would sleep for ever"
            return False
        self.tokens -= 1
        return True

    def release(self):
        self.tokens += 1


class Segment:
    def __init__(self):
        self.w = self.mem = [0] * L.PS


def process(words, doors, slots):
    """Threads of one process, with the locks they share; only the first lock has a door."""
    locks = [Lock(number, lambda number, gen: doors[gen]) for number in range(2)]
    for lock in locks:
        lock.refresh(words)
        lock.home = locks
    segment = Segment()
    segment.w = words
    return [Thread(segment, locks, [None] * 9, slot) for slot in slots]


def test_who_has_a_lock_gives_back_what_it_took():
    """One thread is inside while another one of its process goes through the new door: the old token goes to the old door."""
    words, doors = [0] * L.PS, {0: FakeDoor(1), 1: FakeDoor(0)}
    inside, other = process(words, doors, [1, 2])
    lock = inside.locks[0]
    inside.enter(lock)
    words[LOCKS] = 1  # somebody died with that door in its phase word: the supervisor fences ...
    doors[0].release()  # ... and floods whoever sleeps out of the old door
    doors[1].release()  # (as if the repair were done, so that the other one need not sleep here)
    other.enter(other.locks[0])
    assert words[other.ph] == phase_word(0, 1)
    assert words[inside.ph] == phase_word(0, 0)
    inside.leave(lock)
    assert doors[1].tokens == 0, "the one who was inside opened the new door"
    assert doors[0].tokens == 2
    other.leave(lock)
    assert doors[1].tokens == 1


def test_a_token_of_the_old_door_is_no_lock():
    """Two threads are flooded out of the old door: the second one sees that it is old although the first one moved on."""
    words, doors = [0] * L.PS, {0: FakeDoor(1), 1: FakeDoor(1)}
    first, second = process(words, doors, [1, 2])
    mine = second.locks[0]  # in hand while it sleeps at the old door
    words[LOCKS] = 1
    first.enter(first.locks[0])
    words[second.ph] = mine.phase
    assert mine.acquire(False)
    assert words[mine.gen_word] != mine.gen, "it takes a token of the old door for the lock"
    first.leave(mine)
    mine = mine.renewed(words, second.ph)
    assert mine.gen == 1 and words[second.ph] == phase_word(0, 1)
    assert (doors[0].tokens, doors[1].tokens) == (1, 0)
    second.held.append(mine)
    second.leave(mine)


def test_the_next_enter_goes_through_the_new_door_at_once():
    """The table of the process has the lock that somebody renewed."""
    words, doors = [0] * L.PS, {0: FakeDoor(1), 1: FakeDoor(1)}
    (t,) = process(words, doors, [1])
    stale = t.locks[0]
    words[LOCKS] = 1
    t.enter(stale)
    t.leave(stale)
    assert t.locks[0] is not stale and t.locks[0].gen == 1
    assert stale.gen == 0
