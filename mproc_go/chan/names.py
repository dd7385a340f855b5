"""Named channels: a table in shared memory from names to channels, for processes that have no handle to begin with.

A name is for ever, as long as its runtime: whoever comes later finds the channel, and what is in it, also when nobody
has a handle of it at the moment. So entries are only ever added, and one store publishes each.

Crash: the entry, and the reference that it is of the channel, are published in one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from mproc_go.runtime.process import M
from mproc_go.sched import repairs
from mproc_go.shm import counts
from mproc_go.shm.layout import (
    BLOCK_DATA,
    L_NAMES,
    N_NAMES,
    NAMES,
    NM_CHAN,
    NM_GEN,
    NM_LENGTH,
    NM_LINK,
    NM_NAME,
    WORD,
)
from mproc_go.shm.pool import give_block, put_block, take_block

# (base, generation) of a channel.
Ref = tuple[int, int]


def open_or_make(m: M, name: str, make: Callable[[], Any]) -> Ref:
    """The channel of that name; where there is none, what `make` makes gets the name.

    Raises: what `make` raises; SharedMemoryFull.     Blocks: for the table's lock.
    """
    key = name.encode()
    chain = NAMES + zlib.crc32(key) % N_NAMES
    lock = m.locks[L_NAMES]
    m.enter(lock)
    found = _find(m, chain, key)
    m.leave(lock)
    if found:
        return found
    made = make()
    size = NM_NAME * WORD + len(key)
    block = take_block(m, size)
    entry = block + BLOCK_DATA
    w = m.w
    w[entry + NM_CHAN], w[entry + NM_GEN], w[entry + NM_LENGTH] = made._base, made._gen, len(key)
    start = (entry + NM_NAME) * WORD
    m.mem[start : start + len(key)] = key
    m.enter(lock)
    found = _find(m, chain, key)
    if not found:
        w[entry + NM_LINK] = w[chain]
        counts.count(m, made._base, 1, chain, entry, 1)  # publishes: the name is a reference
        put_block(m, block)
    m.leave(lock)
    if not found:
        return made._base, made._gen
    give_block(m, block, size)
    return found


def blocks(w: Any) -> list[int]:
    """The blocks of the table."""
    found = []
    for chain in range(NAMES, NAMES + N_NAMES):
        entry = w[chain]
        while entry:
            found.append(entry - BLOCK_DATA)
            entry = w[entry + NM_LINK]
    return found


def _find(m: M, chain: int, key: bytes) -> Ref | None:
    """Lock: the table's."""
    w = m.w
    entry = w[chain]
    while entry:
        start = (entry + NM_NAME) * WORD
        if w[entry + NM_LENGTH] == len(key) and m.mem[start : start + len(key)] == key:
            return w[entry + NM_CHAN], w[entry + NM_GEN]
        entry = w[entry + NM_LINK]
    return None


repairs.TABLES.append(blocks)
