"""Messages in shared memory: a header word, then the payload, inline or in a block.

A message is encoded before any lock is taken and decoded after it was given back; under the lock it is only two numbers
or a copy of at most 56 bytes. ``body`` below is the payload itself while it is short, and the base of its block once it
was spilled.

Handles inside a message count as references while it travels: taken when it is packed, given back when it is opened or
discarded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mproc_go.codec import wire
from mproc_go.codec.handles import handle_table
from mproc_go.shm.layout import (
    BLOCK_DATA,
    HDR_HAS_HANDLES,
    HDR_LEN_MASK,
    HDR_SPILLED,
    INLINE_BYTES,
    MSG_BODY,
    MSG_HDR,
    WORD,
)
from mproc_go.shm.pool import give_block, take_block

if TYPE_CHECKING:
    from mproc_go.runtime.process import M

# Payload of a message: its bytes, or the base of the block it was spilled to.
Body = bytes | int

# The part of a header that is the codec's.
CODEC_MASK = HDR_SPILLED - 1


def pack(m: M, value: Any, inline_bytes: int = INLINE_BYTES) -> tuple[int, Body]:
    """Encode `value` into a message that is ours until it is put somewhere.

    Raises:
        EncodeError: it can't travel.
        SharedMemoryFull: no room for a long payload.
    """
    return stow(m, *wire.encode(value), inline_bytes)


def stow(m: M, hdr: int, data: bytes, inline_bytes: int = INLINE_BYTES) -> tuple[int, Body]:
    """Make a message of an encoded value: spill it if it is long, and count the handles in it."""
    body: Body = data
    if (hdr & HDR_LEN_MASK) > inline_bytes:
        body = take_block(m, len(data))
        start = (body + BLOCK_DATA) * WORD
        m.mem[start : start + len(data)] = data
        hdr |= HDR_SPILLED
    if hdr & HDR_HAS_HANDLES:
        m.process.refs.retain(m, handle_table(data))
    return hdr, body


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


def _data(m: M, hdr: int, body: Body) -> bytes:
    """The payload; frees its block."""
    if isinstance(body, int):
        length = hdr & HDR_LEN_MASK
        start = (body + BLOCK_DATA) * WORD
        data: bytes = m.mem[start : start + length]
        give_block(m, body, length)
        return data
    return body


def open_message(m: M, hdr: int, body: Body) -> Any:
    """Decode a message that is ours, and free what it occupied."""
    data = _data(m, hdr, body) if hdr & HDR_SPILLED else body
    if not hdr & HDR_HAS_HANDLES:
        return wire.decode(hdr & CODEC_MASK, data)  # type: ignore[arg-type]
    try:
        return wire.decode(hdr & CODEC_MASK, data)  # type: ignore[arg-type]
    finally:
        # Only now: until the handles made here are counted, the message is what keeps the records alive.
        m.process.refs.release(m, handle_table(data))  # type: ignore[arg-type]


def copy(m: M, hdr: int, body: Body) -> Any:
    """Decode a message and leave it as it is, for whoever asks next."""
    return wire.decode(hdr & CODEC_MASK, peek(m, hdr, body))


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
    data = _data(m, hdr, body)
    if hdr & HDR_HAS_HANDLES:
        m.process.refs.release(m, handle_table(data))
