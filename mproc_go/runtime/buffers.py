"""Large buffers beside a message: memory of their own, which the receiver looks at without a copy.

The sender copies a buffer once, into a block that a record of its own names. The record travels as a handle in the
message's table, so the counting of references, the reaper and what discards a message cover it as they cover a channel.
The receiver makes a view of the block. What holds the handle is the *exporter* at the bottom of every view: a ctypes
array over the shared bytes. NumPy arrays, memoryviews, their slices and what is made of those refer to it; with the
last of them in the process it goes, and with the last process the block.

A view is its holder's own. Who receives the message is the only one there is, and writes to the block. Where a message
is read more than once (the result of a goroutine), each reader has a private mapping: pages are shared until one is
written to, and nobody writes to the block itself.

Rejected, measured for 64 MiB on CPython 3.11: a copy for each reader (12 ms with NumPy's huge pages, 37 ms for bytes; a
private mapping that is read through 8 ms); one ctypes type for each length (12 us; one for each size of block 1 us);
``weakref.finalize`` of a memoryview (a slice of it does not keep it alive, only the exporter).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mproc_go.codec.handles import Triple
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.shm.layout import (
    BLOCK_DATA,
    KIND_BUFFER,
    MB_BLOCK,
    MB_BYTES,
    MB_DATA,
    O_KIND,
    POOL_OBJECT,
    R_GEN,
    R_REFS,
    WORD,
)
from mproc_go.shm.pool import block_pool, give, give_block, take_block
from mproc_go.shm.pool import take as take_record

if TYPE_CHECKING:
    from mproc_go.runtime.process import M

_BEFORE_BYTES = (MB_DATA - BLOCK_DATA) * WORD  # of a block's payload, before the memory itself


def new_memory(m: M, kind: int, n_bytes: int, take: Callable[[M, int], int] = take_block) -> int:
    """Make a record of that kind with memory of its own, and be its first handle; return its base.

    Raises:
        SharedMemoryFull: no room.

    Crash: the record bears our bit before it has a block; the reaper frees both.
    """
    refs = m.process.refs
    refs.settle(m)
    base = take_record(m, POOL_OBJECT)
    w = m.w
    w[base + O_KIND] = 0  # until it is filled, it is not what it was before
    refs.adopt(w, base)
    w[base + MB_BLOCK] = 0
    w[base + MB_BYTES] = n_bytes
    w[base + O_KIND] = kind
    try:
        block = take(m, n_bytes + _BEFORE_BYTES)
    except BaseException:
        refs.drop(m, kind, base)
        raise
    w[base + MB_BLOCK] = block  # publishes: it goes with the record
    return base


def start_of(w: Any, base: int) -> int:
    """The byte of the segment where the memory of a record begins."""
    start: int = (w[base + MB_BLOCK] + MB_DATA) * WORD
    return start


def store(m: M, data: memoryview) -> Triple:
    """Copy `data` into memory of its own, of which we have the only handle; return its name.

    Raises:
        SharedMemoryFull: no room.
    """
    base = new_memory(m, KIND_BUFFER, len(data))
    m.segment.fill(start_of(m.w, base), data)
    return KIND_BUFFER, base, m.w[base + R_GEN]


class Buffer(SharedHandle):
    """The handle of a buffer that came beside a message. Users never see it: their views hold it."""

    __slots__ = ()

    KIND = KIND_BUFFER


def open_view(m: M, base: int, gen: int, mine: bool) -> memoryview:
    """Look at a buffer that a message names, which still counts it. `mine`: nobody will open that message later.

    Returns: writable bytes that are the caller's own.
    """
    w = m.w
    alone = mine and w[base + R_REFS] == 1  # the message itself: nobody else has a handle of it, or can get one
    return view_of(m, Buffer._open(base, gen), not alone)


def view_of(m: M, handle: SharedHandle, private: bool = False) -> memoryview:
    """All bytes of the memory; they stay as long as any view made of this one. `private`: a copy, made as needed."""
    w, base = m.w, handle._base
    n_bytes = w[base + MB_BYTES]
    start = start_of(w, base)
    # One type of array for each size of block: making a type takes longer than all the rest.
    length = (1 << block_pool(n_bytes + _BEFORE_BYTES)) * WORD - MB_DATA * WORD
    exporter: Any
    if private:
        exporter = m.segment.private_array(start, length, n_bytes)
        if type(exporter) is bytearray:
            return memoryview(exporter)
    else:
        exporter = m.segment.shared_array(start, length)
    exporter.handle = handle
    return pickle.PickleBuffer(exporter).raw()[:n_bytes]


def free_memory(m: M, base: int) -> None:
    """Free the block of a record and the record: nobody has a handle of it any more."""
    w = m.w
    block = w[base + MB_BLOCK]
    if block:
        give_block(m, block, w[base + MB_BYTES] + _BEFORE_BYTES)
    w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


register(Buffer, free_memory)
