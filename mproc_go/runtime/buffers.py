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
from typing import TYPE_CHECKING, Any

from mproc_go.codec.handles import Triple
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.sched import repairs
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
    REFS_MASK,
    WORD,
)
from mproc_go.shm.pool import acquire, block_pool, give, give_block, own_block, put_block, take

if TYPE_CHECKING:
    from mproc_go.runtime.process import M, Process

_BEFORE_BYTES = (MB_DATA - BLOCK_DATA) * WORD  # of a block's payload, before the memory itself


def new_memory(m: M, kind: int, n_bytes: int, zeroed: bool = False) -> int:
    """Make a record of that kind with memory of its own, and be its first handle; return its base.

    Raises:
        SharedMemoryFull: no room.

    Crash: the record is live, with our bit, before it has a block, and the block is ours until the record names it.
    """
    refs = m.process.refs
    refs.settle(m)
    base = take(m, POOL_OBJECT)
    w = m.w
    w[base + O_KIND] = 0  # until it is filled, it is not what it was before
    refs.adopt(w, base)
    w[base + MB_BLOCK] = 0
    w[base + O_KIND] = kind
    w[base] = m.live  # publishes
    try:
        block, fresh = acquire(m, n_bytes + _BEFORE_BYTES)
        try:
            if zeroed and not fresh:
                start = (block + MB_DATA) * WORD
                for at in range(0, n_bytes, len(_ZEROS)):
                    m.segment.fill(start + at, _ZEROS[: n_bytes - at])
        finally:
            w[base + MB_BYTES] = n_bytes
            w[base + MB_BLOCK] = block  # publishes: it goes with the record
            put_block(m, block)
    except BaseException:  # no room, or Ctrl-C in the middle of zeroing
        refs.drop(m, kind, base)
        raise
    return base


_ZEROS = memoryview(bytes(1 << 20))


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
    try:
        m.segment.fill(start_of(m.w, base), data)
    except BaseException:  # Ctrl-C
        m.process.refs.drop(m, KIND_BUFFER, base)
        raise
    return KIND_BUFFER, base, m.w[base + R_GEN]


class Buffer(SharedHandle):
    """The handle of a buffer that came beside a message. Users never see it: their views hold it."""

    __slots__ = ()

    KIND = KIND_BUFFER


def open_view(m: M, base: int, gen: int, mine: bool) -> memoryview:
    """Look at a buffer that a message names, which still counts it. `mine`: nobody will open that message later.

    Returns: writable bytes that are the caller's own.
    Raises:
        DecodeError: there is no such buffer (genuine.py).
    """
    w = m.w
    m.process.refs.records.check(w, KIND_BUFFER, base, gen)
    # The message itself: nobody else has a handle of it, or can get one.
    alone = mine and w[base + R_REFS] & REFS_MASK == 1
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
        exporter = m.segment.shared_array(start, length, n_bytes)
    exporter.handle = handle
    if m.process.exporters is not None:
        m.process.exporters[id(exporter)] = exporter
    return pickle.PickleBuffer(exporter).raw()[:n_bytes]


def keep_views(process: Process) -> None:
    """Make what views of this process show its own, which it keeps. Runs: last thing before it leaves a runtime that
    goes on, and will use that memory for others.
    """
    for exporter in list((process.exporters or {}).values()):
        process.segment.make_private(exporter)


def free_memory(m: M, base: int) -> None:
    """Free the block of a record and the record: nobody has a handle of it any more."""
    w = m.w
    block = w[base + MB_BLOCK]
    if block:
        own_block(m, block)
        w[base + MB_BLOCK] = 0  # publishes
        give_block(m, block, w[base + MB_BYTES] + _BEFORE_BYTES)
    w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


def names(w: Any, base: int) -> list[int]:
    """The block of a record, if it has one."""
    return [w[base + MB_BLOCK]] if w[base + MB_BLOCK] else []


register(Buffer, free_memory)
repairs.NAMES[KIND_BUFFER] = names
