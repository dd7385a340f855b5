"""Messages in shared memory: a header word, then the payload, inline or in a block.

A message is encoded before any lock is taken and decoded after it was given back; under the lock it is only two numbers
or a copy of at most 56 bytes. ``body`` below is the payload itself while it is short, and the base of its block once it
was spilled.

Large buffers travel beside it, as handles of memory of their own (runtime/buffers.py). Other long payloads are copied
in once, whatever pieces they come in, and decoded where they lie.

Handles inside a message count as references while it travels: taken when it is packed, given back when it is opened or
discarded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mproc_go.codec import wire
from mproc_go.codec.handles import Triple, handle_table, pack_table, table_bytes
from mproc_go.runtime import refs
from mproc_go.runtime.buffers import open_view, store
from mproc_go.shm.layout import (
    BLOCK_DATA,
    HDR_HAS_BUFFERS,
    HDR_HAS_HANDLES,
    HDR_LEN_MASK,
    HDR_SPILLED,
    INLINE_BYTES,
    KIND_BUFFER,
    KIND_LETTER,
    LT_MSG,
    MSG_BODY,
    MSG_HDR,
    POOL_OBJECT,
    R_GEN,
    WORD,
)
from mproc_go.shm.pool import acquire, give, give_block

if TYPE_CHECKING:
    from mproc_go.runtime.process import M

# Payload of a message: its bytes, or the base of the block it was spilled to.
Body = bytes | int

# The part of a header that is the codec's.
CODEC_MASK = (HDR_SPILLED - 1) & ~HDR_HAS_BUFFERS

# From here on a payload is decoded where it lies; below, a copy is cheaper than a view.
_IN_PLACE_BYTES = 32 * 1024


def pack(m: M, value: Any, inline_bytes: int = INLINE_BYTES) -> tuple[int, Body]:
    """Encode `value` into a message that is ours until it is put somewhere.

    Raises:
        EncodeError: it can't travel.
        SharedMemoryFull: no room for a long payload.
    """
    return stow(m, *wire.encode(value), inline_bytes)


def stow(m: M, hdr: int, data: bytes | wire.Pieces, inline_bytes: int = INLINE_BYTES) -> tuple[int, Body]:
    """Make a message of an encoded value: spill it if it is long, and count the handles in it."""
    if type(data) is wire.Pieces:
        return _stow_pieces(m, hdr, data)
    assert isinstance(data, bytes)
    body: Body = data
    if (hdr & HDR_LEN_MASK) > inline_bytes:
        body = acquire(m, len(data))[0]  # one of our cache until all is in it
        start = (body + BLOCK_DATA) * WORD
        m.mem[start : start + len(data)] = data
        hdr |= HDR_SPILLED
    if hdr & HDR_HAS_HANDLES:
        m.process.refs.retain(m, handle_table(data))
    if isinstance(body, int):
        m.w[body] = m.live
    return hdr, body


def _stow_pieces(m: M, hdr: int, pieces: wire.Pieces) -> tuple[int, Body]:
    """Make a message of a long value: its buffers first, each in memory of its own, then the rest in one block."""
    refs = m.process.refs
    made: list[Triple] = []
    block = length = 0
    try:
        parts, travelling = pieces.parts, pieces.handles
        for view in pieces.buffers:
            made.append(store(m, view))
        if made:
            parts = [pack_table(travelling + made), *parts]
        length = sum(map(len, parts))
        block = acquire(m, length)[0]
        at = (block + BLOCK_DATA) * WORD
        for part in parts:
            m.segment.fill(at, part)
            at += len(part)
        if not made and hdr & HDR_HAS_HANDLES:
            travelling = handle_table(parts[0])
    except BaseException:  # no room, or Ctrl-C in the middle of copying
        for kind, base, _ in made:
            refs.drop(m, kind, base)
        if block:
            give_block(m, block, length)
        raise
    finally:
        pieces.release()
    # From here on nothing fails.
    refs.retain(m, travelling)
    m.w[block] = m.live
    for _, base, _ in made:
        refs.hand_over(m, base)
        hdr |= HDR_HAS_HANDLES
    return hdr & ~HDR_LEN_MASK | length | HDR_SPILLED, block


def hold(m: M, hdr: int, body: Body) -> None:
    """Say that the message is ours alone: if we die it is discarded. For one that occupies a block, or has handles.

    Until ``w[m.hand] = 0``, which comes before it is published or given back. What it said before is forgotten, so who
    calls others while it holds a message may find that no more is said of it: then it stays where we die.
    """
    w = m.w
    at = m.hand
    w[at] = 0
    turn = m.holds = m.holds + 1
    if isinstance(body, int):
        w[at + MSG_BODY] = body
    else:
        start = (at + MSG_BODY) * WORD
        m.mem[start : start + len(body)] = body
    if m.holds == turn:  # else a finalizer or a signal handler came in between, and these words are its own
        w[at] = hdr  # publishes


def put(w: Any, mem: Any, at: int, hdr: int, body: Body) -> None:
    """Write a message at word `at`. Whoever publishes that place gives the message away."""
    w[at] = hdr
    if hdr & HDR_SPILLED:
        w[at + MSG_BODY] = body
    else:
        start = (at + MSG_BODY) * WORD
        mem[start : start + (hdr & HDR_LEN_MASK)] = body


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
        table = _table(m, hdr, body)
        hold(m, hdr, body)
        try:
            return _decode(m, hdr, body, table, True)
        finally:
            m.w[m.hand] = 0
            if isinstance(body, int):
                give_block(m, body, hdr & HDR_LEN_MASK)
            # Only now: until the handles made here are counted, the message is what keeps the records alive.
            m.process.refs.release(m, table)
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
    if not hdr & (HDR_SPILLED | HDR_HAS_HANDLES):
        return
    table = _table(m, hdr, body)
    if isinstance(body, int):
        give_block(m, body, hdr & HDR_LEN_MASK)
    m.process.refs.release(m, table)


def _destroy_letter(m: M, base: int) -> None:
    """Discard a message that a dead goroutine brought or was given. Twin: supervisor/reaper.py."""
    w = m.w
    hdr, body = fetch(w, m.mem, base + LT_MSG)
    w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)
    discard(m, hdr, body)


refs.DESTROY[KIND_LETTER] = _destroy_letter
