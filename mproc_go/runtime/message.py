"""Messages in shared memory: a header word, then the payload, inline or in a block.

A message is encoded before any lock is taken and decoded after it was given back; under the lock it is only two numbers
or a copy of at most 56 bytes. ``body`` below is the payload itself while it is short, and the base of its block once it
was spilled.

Large buffers travel beside it, as handles of memory of their own (runtime/buffers.py). Other long payloads are copied
in once, whatever pieces they come in, and decoded where they lie.

Handles inside a message count as references while it travels: taken when it is packed, given back when it is opened or
discarded. A message with handles always has a block, whose head and first word say whose it is and which handles count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mproc_go.codec import wire
from mproc_go.codec.handles import Triple, entries, handle_table, pack_table, table_bytes
from mproc_go.runtime import refs
from mproc_go.runtime.buffers import open_view, store
from mproc_go.sched import repairs
from mproc_go.shm.layout import (
    BLOCK_DATA,
    HDR_HAS_BUFFERS,
    HDR_HAS_HANDLES,
    HDR_LEN_MASK,
    HDR_SPILLED,
    HEAD_WORDS,
    INLINE_BYTES,
    KIND_BUFFER,
    KIND_LETTER,
    LARGE_ORDER,
    LT_BLOCK,
    LT_POOL,
    LT_STATE,
    MIN_BLOCK_ORDER,
    MSG_BODY,
    MSG_COUNT,
    MSG_HDR,
    MSG_TABLE,
    POOL_OBJECT,
    R_GEN,
    REC_CARRIES,
    WORD,
)
from mproc_go.shm.pool import give, give_block, give_large, put_block, take, take_block

if TYPE_CHECKING:
    from mproc_go.runtime.process import M
    from mproc_go.shm.thread import Thread

# Payload of a message: its bytes, or the base of the block it was spilled to.
Body = bytes | int

# The part of a header that is the codec's.
CODEC_MASK = (HDR_SPILLED - 1) & ~HDR_HAS_BUFFERS

# From here on a payload is decoded where it lies; below, a copy is cheaper than a view.
_IN_PLACE_BYTES = 32 * 1024
# What fits the smallest block: most messages with handles.
_SMALL_BYTES = ((1 << MIN_BLOCK_ORDER) - 1) * WORD


def pack(m: M, value: Any, inline_bytes: int = INLINE_BYTES) -> tuple[int, Body]:
    """Encode `value` into a message that is ours until it is put somewhere.

    Raises:
        EncodeError: it can't travel.
        SharedMemoryFull: no room for a long payload.
    """
    return stow(m, *wire.encode(value), inline_bytes)


def stow(m: M, hdr: int, data: bytes | wire.Pieces, inline_bytes: int = INLINE_BYTES) -> tuple[int, Body]:
    """Make a message of an encoded value. One that is long, or has handles, gets a block; its handles are counted."""
    if type(data) is wire.Pieces:
        return _stow_pieces(m, hdr, data)
    assert isinstance(data, bytes)
    if not hdr & HDR_HAS_HANDLES and len(data) <= inline_bytes:
        return hdr, data
    block = take(m, MIN_BLOCK_ORDER) if len(data) <= _SMALL_BYTES else take_block(m, len(data))
    start = (block + BLOCK_DATA) * WORD
    m.mem[start : start + len(data)] = data
    if hdr & HDR_HAS_HANDLES:
        m.process.refs.carry(m, block, handle_table(data))
    return hdr | HDR_SPILLED, block


def _stow_pieces(m: M, hdr: int, pieces: wire.Pieces) -> tuple[int, Body]:
    """Make a message of a long value: its buffers first, each in memory of its own, then the rest in one block."""
    refs = m.process.refs
    made: list[Triple] = []
    block = length = 0
    carried = False
    try:
        parts, table = pieces.parts, pieces.handles
        for view in pieces.buffers:
            made.append(store(m, view))
        if made:
            table = table + made
            parts = [pack_table(table), *parts]
            hdr |= HDR_HAS_HANDLES
        length = sum(map(len, parts))
        block = take_block(m, length)
        at = (block + BLOCK_DATA) * WORD
        for part in parts:
            m.segment.fill(at, part)
            at += len(part)
        if hdr & HDR_HAS_HANDLES:
            table = table or handle_table(parts[0])
            carried = True
            refs.carry(m, block, table)
    except BaseException:  # no room, or Ctrl-C in the middle
        if carried:
            refs.unload(m, block, table)
        if block:
            give_block(m, block, length)
        raise
    finally:
        pieces.release()
        for kind, base, _ in made:  # from here on the message alone keeps them
            refs.drop(m, kind, base)
    return hdr & ~HDR_LEN_MASK | length | HDR_SPILLED, block


def own(t: Thread, hdr: int, body: Body) -> None:
    """Say that a message in a block is ours. Before the store that takes it out of where it was (shm/pool.py)."""
    if isinstance(body, int):
        w = t.w
        state = t.carries if hdr & HDR_HAS_HANDLES else t.cached
        w[body] = w[body] >> HEAD_WORDS << HEAD_WORDS | state


def let_go(t: Thread, body: Body) -> None:
    """Say that a message in a block is where others find it. Beside the store that puts it there (shm/pool.py)."""
    if isinstance(body, int):
        put_block(t, body)


def put(w: Any, mem: Any, at: int, hdr: int, body: Body) -> None:
    """Write a message at word `at`. Whoever publishes that place gives the message away."""
    if hdr & HDR_SPILLED:
        w[at + MSG_BODY] = body
    else:
        start = (at + MSG_BODY) * WORD
        mem[start : start + (hdr & HDR_LEN_MASK)] = body
    w[at] = hdr  # last: a header that says so has a block behind it


def fetch(w: Any, mem: Any, at: int) -> tuple[int, Body]:
    """Read the message at word `at`, without opening it."""
    hdr = w[at + MSG_HDR]
    if hdr & HDR_SPILLED:
        return hdr, w[at + MSG_BODY]
    start = (at + MSG_BODY) * WORD
    return hdr, mem[start : start + (hdr & HDR_LEN_MASK)]


def _length_in_block(hdr: int) -> int:
    return hdr & HDR_LEN_MASK if hdr & HDR_SPILLED else 0


def _read(m: M, hdr: int, body: Body) -> bytes | memoryview:
    """The payload, left where it is; a long one is not copied, so the message must outlive what is returned."""
    if not isinstance(body, int):
        return body
    length = hdr & HDR_LEN_MASK
    start = (body + BLOCK_DATA) * WORD
    if length >= _IN_PLACE_BYTES:
        window: memoryview = m.segment.window(start, length)
        return window
    data: bytes = m.mem[start : start + length]
    return data


def _table(m: M, hdr: int, body: Body) -> list[Triple]:
    """The handles in a message; none where the table is damaged, so that nothing is counted by it."""
    if not hdr & HDR_HAS_HANDLES:
        return []
    try:
        if isinstance(body, int):
            start = (body + BLOCK_DATA) * WORD
            n = m.w[body + BLOCK_DATA]
            return handle_table(m.mem[start : start + min(hdr & HDR_LEN_MASK, table_bytes(n))])
        return handle_table(body)
    except ValueError:
        return []


def _decode(m: M, hdr: int, body: Body, table: list[Triple], mine: bool) -> Any:
    """Decode a message with those handles, which goes on to be there meanwhile. `mine`: nobody decodes it after me."""
    data = _read(m, hdr, body)
    try:
        if hdr & HDR_HAS_BUFFERS:
            buffers = [open_view(m, base, gen, mine) for kind, base, gen in table if kind == KIND_BUFFER]
            return wire.decode(hdr & CODEC_MASK, data, buffers)
        return wire.decode(hdr & CODEC_MASK, data)
    finally:
        if type(data) is memoryview:
            data.release()  # the traceback of an error may live on, and its frames with it


def open_message(m: M, hdr: int, body: Body) -> Any:
    """Decode a message that is ours, and free what it occupied."""
    if hdr & HDR_HAS_HANDLES or _length_in_block(hdr) >= _IN_PLACE_BYTES:
        assert isinstance(body, int)
        table = _table(m, hdr, body)
        try:
            return _decode(m, hdr, body, table, True)
        finally:
            # Only now: until the handles made here are counted, the message is what keeps the records alive.
            if table:
                m.process.refs.unload(m, body, table)
            give_block(m, body, hdr & HDR_LEN_MASK)
    data = _read(m, hdr, body)
    if isinstance(body, int):
        give_block(m, body, hdr & HDR_LEN_MASK)
    return wire.decode(hdr & CODEC_MASK, data)


def copy(m: M, hdr: int, body: Body, mine: bool = False) -> Any:
    """Decode a message and leave it as it is, for whoever asks next.

    Args:
        mine: nobody will, if this goes well: the caller discards it.
    """
    return _decode(m, hdr, body, _table(m, hdr, body) if hdr & HDR_HAS_BUFFERS else [], mine)


def copy_exception(m: M, hdr: int, body: Body) -> tuple[BaseException, str]:
    """Decode the exception and its traceback that a goroutine ended with, and leave them as they are."""
    return wire.decode_exception(hdr & CODEC_MASK, peek(m, hdr, body))


def peek(m: M, hdr: int, body: Body) -> bytes:
    """The payload, left where it is."""
    if isinstance(body, int):
        start = (body + BLOCK_DATA) * WORD
        data: bytes = m.mem[start : start + (hdr & HDR_LEN_MASK)]
        return data
    return body


def discard(m: M, hdr: int, body: Body) -> None:
    """Free a message that is ours and that nobody will read."""
    if isinstance(body, int):
        if hdr & HDR_HAS_HANDLES:
            m.process.refs.unload(m, body, _table(m, hdr, body))
        give_block(m, body, hdr & HDR_LEN_MASK)


def discard_at(m: M, at: int) -> None:
    """Take the message at word `at` of a record that is ours alone, and free it. May be done again where it was cut."""
    w = m.w
    hdr = w[at]
    if hdr & HDR_SPILLED:
        body = w[at + MSG_BODY]
        own(m, hdr, body)
        w[at] = 0  # publishes: it is out of the record
        discard(m, hdr, body)


def _destroy_letter(m: M, base: int) -> None:
    """Free a block that was in the hands of somebody dead. Twin: supervisor/reaper.py."""
    w = m.w
    block, pool = w[base + LT_BLOCK], w[base + LT_POOL]
    if block:
        state = m.carries if w[base + LT_STATE] == REC_CARRIES else m.cached
        w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | state
        w[base + LT_BLOCK] = 0  # publishes: it is out of the record
        if state == m.carries:
            n = w[block + MSG_TABLE] & MSG_COUNT
            start = (block + MSG_TABLE + 1) * WORD
            m.process.refs.unload(m, block, entries(m.mem[start : start + table_bytes(n) - WORD]))
        if pool < LARGE_ORDER:
            give(m, pool, block)
        else:
            give_large(m, pool, block)
    w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


refs.DESTROY[KIND_LETTER] = _destroy_letter
repairs.NAMES[KIND_LETTER] = lambda w, base: [w[base + LT_BLOCK]] if w[base + LT_BLOCK] else []
