"""How each kind of object is completed after a dead thread began to change it, registered by whoever defines the kind.

The reaper knows no channel and no wait group; it looks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

# kind -> repair(thread, base): completes the object under its lock, alone; returns goroutines to make ready.
REPAIR: dict[int, Callable[[Any, int], list[int]]] = {}
# kind -> names(w, base): the blocks, and records, that the object at `base` names: whose they are is said in their
# heads beside the store that publishes them, and so for an object that a dead thread was changing it is said again.
NAMES: dict[int, Callable[[Any, int], Iterable[int]]] = {}
# tables(w): the blocks that a table of the runtime names, from which nothing is ever taken out; as NAMES.
TABLES: list[Callable[[Any], Iterable[int]]] = []
# kind -> offsets of the heads of its wait queues.
QUEUES: dict[int, Sequence[int]] = {}
# kind -> forget(w, base, gone, slot): the goroutines `gone` are dead and in none of its queues any more; what the
# object expected of them, or kept from others for them, is settled. Under its lock; returns goroutines to make ready.
FORGET: dict[int, Callable[[Any, int, Callable[[int], bool], int], list[int]]] = {}
# Number of a lock that guards something of all objects of a kind -> (the kind, repair(w, bases of those objects)).
UNDER_LOCK: dict[int, tuple[int, Callable[[Any, Sequence[int]], None]]] = {}
# kind -> finish(t, bases of all objects of the kind): goes on with what a dead thread did to several of them. Runs in
# the supervisor, under no lock; returns goroutines to make ready.
FINISH: dict[int, Callable[[Any, Sequence[int]], list[int]]] = {}
# kind -> leave(t, bases of all objects of the kind, slots of the dead): lets go what words of these slots, or their
# goroutines, kept of them; what nobody else has becomes a dead slot's own (shm/pool.py). Runs in the supervisor, under
# no lock, once they are in no queue.
LEAVE: dict[int, Callable[[Any, Sequence[int], Sequence[int]], None]] = {}
# kind -> (word that is not 0 while somebody must look at the record in time, word with the host slot of whose alarm
# will): after a death the reaper clears the second, and has a living worker look.
LOOKED_AT: dict[int, tuple[int, int]] = {}
# What a worker calls when there are such records (S_ADRIFT): adopt(m) sees to them soon, and raises nothing.
ADOPT: list[Callable[[Any], None]] = []


def register(kind: int, queues: Sequence[int], repair: Callable[[Any, int], list[int]]) -> None:
    """Have the reaper repair objects of that kind, and take dead goroutines out of their queues."""
    REPAIR[kind] = repair
    QUEUES[kind] = queues
