"""The entries of the code table: what the functions of goroutines are, by number (made in runtime/spawn.py)."""

from __future__ import annotations

from typing import Any

from mproc_go.sched import repairs
from mproc_go.shm.layout import BLOCK_DATA, CODES, CODES_COUNT, CODES_ENTRY, WORD
from mproc_go.shm.thread import Thread


def blob(t: Thread, number: int) -> bytes:
    """The bytes of entry `number`, which there is."""
    block = t.w[CODES + CODES_ENTRY + number - 1]
    start = (block + BLOCK_DATA + 1) * WORD
    return bytes(t.mem[start : start + t.w[block + BLOCK_DATA]])


def blocks(w: Any) -> list[int]:
    """The blocks of the table."""
    return [w[CODES + CODES_ENTRY + i] for i in range(w[CODES + CODES_COUNT])]


repairs.TABLES.append(blocks)
