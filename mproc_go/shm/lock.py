"""Locks that survive their holder: a semaphore behind a door with a generation.

A POSIX semaphore can't say who holds it, and a killed holder never posts it. An owner word beside it does not help:
token and owner are two words, and a kill between them can't be told apart. So nobody decides; the lock is *fenced*:

* ``gen[L]``, the generation of lock L, is stored only by the supervisor. The semaphore ``door(L, gen)`` guards it.
* The *phase word* of a slot says which door that slot may hold. It is stored before the token is taken and cleared
  after it was given back, by the owner of the slot alone.
* When a slot dies, the supervisor retires the door in its phase word: it moves the generation on to a door that is
  shut, floods everybody out of the old door, waits until no living slot shows it, lets the structure be repaired and
  opens the new door with exactly one token. Nothing is ever posted to a live door on behalf of the dead.

Worker (shm/thread.py ``enter`` and ``leave``; the hot paths write these lines out)::

    lock:    w[ph] = lk.phase                            # 1 intent, before the token
             if not lk.acquire(False): lk.contended()    # 2
             if w[lk.gen_word] != lk.gen: lk = lk.renewed(w, ph)  # 3 old door: give the token back, again
    unlock:  lk.release()                                # 4
             w[ph] = 0                                   # 5

Rejected: an owner word (stuck locks in 0.4 % of random kills), owner word with a timeout (lets two in), fcntl and SysV
locks that the kernel releases (10 to 15 times the price). The price here is two word stores and one read a pair.

What may be done inside: reads and stores of words and bytes. No encoding, no allocation of user objects, no callback,
no switch. Several locks only in ascending number, the i-th in phase word i.

Source: the protocol and its proof are in docs/architecture.md, "Locks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import Protocol

from mproc_go.shm.layout import LOCK_GEN, LOCK_WORDS, LOCKS, M_PHASE

Words = MutableSequence[int]

# Tries before a locker sleeps. A critical section takes about a microsecond and a failed try 40 ns, while sleeping
# and being woken costs 20 to 50 us; scripts/bench hot shows the pair.
SPIN = 200
# A process that outlives the supervisor looks this often, in seconds, whether it is still there to free the lock.
WATCH_S = 0.1


class Door(Protocol):
    """What a lock needs of its semaphore."""

    @property
    def acquire(self) -> Callable[..., bool]: ...
    @property
    def release(self) -> Callable[[], None]: ...


OpenDoor = Callable[[int, int], Door]


class Lock:
    """One lock, as one process sees it.

    Attributes:
        number: which lock; also its rank.
        gen_word: index of its generation word.
        gen: generation whose door this process has in hand.
        phase: the phase word that says so.
        watch: called every :data:`WATCH_S` while its door stays shut, with the seconds since; raises where nobody will
            open it again. None: nobody looks.
        home: the locks of the process, which its threads share: such a lock is never changed, but replaced there.
        acquire, release: of that door's semaphore.
    """

    __slots__ = ("_open", "acquire", "gen", "gen_word", "home", "number", "phase", "release", "watch")

    acquire: Callable[..., bool]
    release: Callable[[], None]

    def __init__(self, number: int, open_door: OpenDoor) -> None:
        self.number = number
        self.gen_word = LOCKS + number * LOCK_WORDS + LOCK_GEN
        self._open = open_door
        self.gen = -1
        self.phase = 0
        self.home: MutableSequence[Lock] | None = None
        self.watch: Callable[[float], None] | None = None

    def refresh(self, w: Sequence[int]) -> None:
        """Take the door of the present generation in hand."""
        gen = w[self.gen_word]
        door = self._open(self.number, gen)
        self.acquire = door.acquire
        self.release = door.release
        self.gen = gen
        self.phase = phase_word(self.number, gen)

    def contended(self) -> None:
        """Take the token of the door in hand: spin a little, then sleep. Blocks."""
        acquire = self.acquire
        for _ in range(SPIN):
            if acquire(False):
                return
        if self.watch is None:
            acquire()
            return
        waited = 0.0
        while not acquire(True, WATCH_S):
            waited += WATCH_S
            self.watch(waited)

    def retreat(self, w: Words, ph: int) -> None:
        """Called with the token of an old door: leave that door open, go through the present one. Blocks."""
        while True:
            self.release()
            self.refresh(w)
            w[ph] = self.phase
            if not self.acquire(False):
                self.contended()
            if w[self.gen_word] == self.gen:
                return

    def renewed(self, w: Words, ph: int) -> Lock:
        """As :meth:`retreat`, but this lock stays as it is: other threads of the process may wait at its door, or have
        its token, and must go on with that door. Returns: the lock that was taken. Blocks.
        """
        lock = type(self).__new__(type(self))
        for name in Lock.__slots__:
            setattr(lock, name, getattr(self, name))
        lock.retreat(w, ph)
        if self.home is not None and self.home[self.number].gen < lock.gen:
            self.home[self.number] = lock
        return lock


def phase_word(number: int, gen: int) -> int:
    """The word that says "may hold the door of generation `gen` of lock `number`"; never 0."""
    return (gen + 1) << 16 | number + 1


def phase_lock(phase: int) -> tuple[int, int]:
    """Lock number and generation of a phase word that is not 0."""
    return (phase & 0xFFFF) - 1, (phase >> 16) - 1


class DoorKeeper(Protocol):
    """What recovery needs of the machine it runs on (the supervisor's: processes; a test's: greenlets)."""

    def make_shut(self, number: int, gen: int) -> Door:
        """The door of a new generation, without a token."""

    def door(self, number: int, gen: int) -> Door:
        """A door that exists already."""

    def living_slots(self) -> Iterable[int]:
        """Bases of the slots whose owner is alive; reaps first, so that no corpse is waited for."""

    def dead_slots(self) -> Iterable[int]:
        """Bases of the slots whose owner is dead and whose phase words nobody has cleared yet."""

    def pause(self) -> None:
        """Let others run for a moment."""


# Locks whose structure is being repaired, by this process. A repair may wait for a lock further up, and have deaths
# noticed meanwhile: who died waiting at a door that is still shut must not get that door opened under the repair.
_repairing: list[int] = []


def recover(
    w: Words, keeper: DoorKeeper, slot_base: int, repair: Callable[[int], None], levels: int = 1, above: int = -1
) -> list[int]:
    """Free every lock that the dead slot at `slot_base` may hold; return the numbers of the locks repaired.

    Runs:   the supervisor only, one at a time     Blocks: until the living have left the old doors
    Args:
        repair: ``repair(number)`` completes or drops the half-done change under that lock; runs alone.
        levels: how many phase words to look at.
        above: look at locks of a higher number only: called while something waits for that lock to become quiet.
    Crash:  the supervisor is the only one that recovers; if it dies the runtime is over.
    """
    repaired = []
    for level in range(levels):
        ph = slot_base + M_PHASE + level
        phase = w[ph]
        if not phase:
            continue
        number, gen = phase_lock(phase)
        if number <= max(above, *_repairing, -1):
            continue
        gen_word = LOCKS + number * LOCK_WORDS + LOCK_GEN
        old = keeper.door(number, gen)
        if w[gen_word] != gen:  # died at a door already retired: it may hold its latch token, so give one back
            old.release()
            w[ph] = 0
            continue
        new = keeper.make_shut(number, gen + 1)
        w[gen_word] = gen + 1  # fence: from here on a token of the old door buys only a retreat
        while True:
            # Post before every scan, also before the first one that might be empty: somebody may sleep at the old
            # door without showing a phase yet seen, and the post is also the barrier between fence and scan.
            old.release()
            if not any(_shows(w, base, phase, levels) for base in keeper.living_slots()):
                break
            # A living holder of this lock may wait for one further up that another of the dead holds.
            for other_base in keeper.dead_slots():
                repaired += recover(w, keeper, other_base, repair, levels, number)
            keeper.pause()
        _repairing.append(number)
        try:
            repair(number)
        finally:
            _repairing.pop()
        for base in keeper.dead_slots():
            for other in range(levels):
                if w[base + M_PHASE + other] == phase:
                    w[base + M_PHASE + other] = 0
        old.release()  # latch: whoever still has the old generation in hand passes through
        new.release()  # open, exactly once
        repaired.append(number)
    return repaired


def _shows(w: Words, base: int, phase: int, levels: int) -> bool:
    return any(w[base + M_PHASE + level] == phase for level in range(levels))
