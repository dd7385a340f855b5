"""What a process does to shared memory, step by step, so that it dies, stops or is interrupted before any of them.

A step is a store of a word; with :meth:`Steps.semaphores` also the taking of a token from a door, however often it is
tried, its giving back, and a post that wakes somebody. Between two steps nothing changes that another could see. So who
is killed before step 0, 1, 2, ... has been killed everywhere, but for the time it sleeps at a door.
"""

from __future__ import annotations

import contextlib
import os
import signal


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Steps:
    """Counts steps; before the n-th, from 0, it calls `act`, once.

    Attributes:
        taken: how many there were.
        counts: False: none of them counts.
    """

    def __init__(self, n, act=die, counts=True):
        self.n, self.act, self.counts = n, act, counts
        self.taken = 0

    def step(self):
        if self.counts:
            self.taken += 1  # what it calls may raise, and what is done then is no step of these
            if self.taken == self.n + 1:
                self.act()

    def words(self, w):
        """The words, whose stores are steps."""
        return _Words(w, self)

    @contextlib.contextmanager
    def semaphores(self, process):
        """Meanwhile, what is done with the semaphores of that runtime by this process is a step, too."""
        kept = [(lock, lock._open, lock.acquire, lock.release) for lock in process.locks]
        notes = [(note, note.release) for note in process.notes]
        for lock, open_door, *_ in kept:
            lock._open = lambda number, gen, open_door=open_door: Door(open_door(number, gen), self)
            door = Door(lock, self)
            lock.acquire, lock.release = door.acquire, door.release
        for note, release in notes:
            note.release = self._then(release)
        try:
            yield
        finally:
            self.counts = False  # some locks were renewed meanwhile, and are as we made them
            for lock, *was in kept:
                lock._open, lock.acquire, lock.release = was
            for note, release in notes:
                note.release = release

    def _then(self, call):
        def stepped():
            self.step()
            call()

        return stepped


class _Words:
    def __init__(self, w, steps):
        self.w, self.steps = w, steps

    def __getitem__(self, index):
        return self.w[index]

    def __len__(self):
        return len(self.w)

    def __setitem__(self, index, value):
        self.steps.step()
        self.w[index] = value


class Door:
    """A door; who tries it again and again takes one step."""

    def __init__(self, door, steps):
        self._acquire, self.steps, self.trying = door.acquire, steps, False
        self.release = steps._then(door.release)

    def acquire(self, *args):
        if not self.trying:
            self.trying = True
            self.steps.step()
        taken = self._acquire(*args)
        self.trying = not taken
        return taken


class KilledAt(_Words):
    """The words of a thread that kills its process at the n-th store."""

    def __init__(self, w, n):
        super().__init__(w, Steps(n))
