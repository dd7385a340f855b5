"""The semaphores of one runtime by name: the doors of its locks and the notes of its threads, as one process has them.

All are made by the supervisor at the start. Whoever started the runtime opens them all and says so; then the names are
unlinked. A door made later, for a lock that was recovered, keeps its name until the runtime ends.
"""

from __future__ import annotations

from mproc_go.errors import NotRunning
from mproc_go.shm import sem
from mproc_go.shm.layout import MAX_SLOTS, N_LOCKS
from mproc_go.shm.lock import Lock


def door_name(prefix: str, number: int, gen: int) -> str:
    return f"{prefix}.d{number}.{gen}"


def note_name(prefix: str, slot: int) -> str:
    return f"{prefix}.n{slot}"


class Doors:
    """Semaphores of a runtime, opened.

    Attributes:
        notes: by slot.
    """

    def __init__(self, prefix: str, slots: int) -> None:
        self.prefix = prefix
        self.made: list[tuple[int, int]] = []  # doors this process made after the start
        self._doors = {(number, 0): sem.Semaphore(door_name(prefix, number, 0)) for number in range(N_LOCKS)}
        self.notes = [sem.Semaphore(note_name(prefix, slot)) for slot in range(slots)]

    def door(self, number: int, gen: int) -> sem.Semaphore:
        """The door of that generation; opened by name if it was made after we began.

        Raises:
            NotRunning: the runtime ended, and that name with it.
        """
        key = (number, gen)
        if key not in self._doors:
            try:
                self._doors[key] = sem.Semaphore(door_name(self.prefix, number, gen))
            except FileNotFoundError:
                raise NotRunning("the runtime was closed while it was used here") from None
        return self._doors[key]

    def make_shut(self, number: int, gen: int) -> sem.Semaphore:
        """Make the door of a new generation, without a token; its name stays until the runtime ends."""
        sem.create(door_name(self.prefix, number, gen), 0)
        self.made.append((number, gen))
        return self.door(number, gen)

    def locks(self, w: memoryview) -> list[Lock]:
        """The locks of the runtime, for this process."""
        locks = [Lock(number, self.door) for number in range(N_LOCKS)]
        for lock in locks:
            lock.refresh(w)
            lock.home = locks
        return locks


def create_all(prefix: str, slots: int) -> None:
    """Make every semaphore a runtime starts with; leaves none behind if one can't be made.

    Raises:
        SharedMemoryFull: no room in /dev/shm.
    """
    try:
        for number in range(N_LOCKS):
            sem.create(door_name(prefix, number, 0), 1)
        for slot in range(slots):
            sem.create(note_name(prefix, slot), 0)
    except BaseException:
        unlink_all(prefix, slots)
        raise


def unlink_all(prefix: str, slots: int) -> None:
    """Remove the names of what :func:`create_all` made; open semaphores stay usable."""
    for number in range(N_LOCKS):
        sem.unlink(door_name(prefix, number, 0))
    for slot in range(slots):
        sem.unlink(note_name(prefix, slot))


def all_slots(max_ms: int, clients: int) -> int:
    """Slots with a note: the supervisor's, the workers', the clients'."""
    return min(MAX_SLOTS, 1 + max_ms + clients)
