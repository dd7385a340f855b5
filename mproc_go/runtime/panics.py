"""How a panic leaves: an exception that nobody waits for ends the program, with its traceback."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from mproc_go.codec import wire
from mproc_go.errors import Deadlock, GoroutinePanic, SharedMemoryFull, WorkerLost, tell
from mproc_go.runtime import message
from mproc_go.shm import note
from mproc_go.shm.layout import (
    BLOCK_DATA,
    G_GOID,
    H_ON_PANIC,
    H_SLOTS,
    H_STOP,
    HDR_EXCEPTION,
    L_SCHED,
    M_ATTENTION,
    M_KIND,
    ON_PANIC_LOG,
    S_FATAL,
    STOP_DEADLOCK,
    STOP_LOST,
    STOP_PANIC,
    WORD,
    slot_base,
)
from mproc_go.shm.pool import put_block, take_block

if TYPE_CHECKING:
    from mproc_go.runtime.process import M

_RECORD_BYTES = 3 * WORD  # goid, header, body


# Modules of ours that call the goroutine's function.
_CALLERS = ("mproc_go.runtime.worker", "mproc_go.runtime.process", "mproc_go.sync.waitgroup", "mproc_go.lib.group")


def traceback_text(exc: BaseException) -> str:
    """The traceback, without the frames of ours that called the goroutine's function."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_globals.get("__name__") in _CALLERS:
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(exc), exc, tb))


def summary(exc: BaseException) -> str:
    """One line about an exception, as in the last line of a traceback."""
    text = str(exc)
    return f"{type(exc).__qualname__}: {text}" if text else type(exc).__qualname__


def panic(m: M, g: int, exc: BaseException, text: str) -> None:
    """An exception left the goroutine `g` and nobody holds its handle: end the program, or log it (``on_panic``)."""
    w = m.w
    goid = w[g + G_GOID]
    if w[H_ON_PANIC] == ON_PANIC_LOG:
        tell(str(GoroutinePanic(summary(exc), goid, text)))
        return
    try:
        hdr, body = message.stow(m, *wire.encode_exception(exc, text), 0)
        record = take_block(m, _RECORD_BYTES)
    except SharedMemoryFull:
        tell(str(GoroutinePanic(summary(exc), goid, text)))
        record = 0
    if record:
        w[record + BLOCK_DATA] = goid
        w[record + BLOCK_DATA + 1] = hdr | HDR_EXCEPTION
        w[record + BLOCK_DATA + 2] = body
        put_block(m, record)  # for ever, as the program is over
        message.let_go(m, body)
    lock = m.locks[L_SCHED]
    m.enter(lock)
    if not w[S_FATAL]:
        w[S_FATAL] = record  # the first one wins
    m.leave(lock)
    if not w[H_STOP]:
        w[H_STOP] = STOP_PANIC  # publishes
    wake_everybody(m)


def _text(m: M, block: int) -> str:
    """What the supervisor wrote into the block about the end of the program."""
    length = m.w[block + BLOCK_DATA]
    start = (block + BLOCK_DATA + 1) * WORD
    return bytes(m.mem[start : start + length]).decode()


def wake_everybody(m: M) -> None:
    """Have every sleeping thread look at H_STOP."""
    for slot in range(1, m.w[H_SLOTS]):
        if m.w[slot_base(slot) + M_KIND]:
            m.w[slot_base(slot) + M_ATTENTION] = 1
            note.wake(m, slot)


def fatal(m: M) -> Exception | None:
    """The error that ended the program, for goroutine 1 to raise; None if it was simply closed."""
    w = m.w
    stop = w[H_STOP]
    if stop in (STOP_LOST, STOP_DEADLOCK) and not w[S_FATAL]:
        kind = WorkerLost if stop == STOP_LOST else Deadlock
        return kind("there was no shared memory left to say more; the supervisor wrote it to stderr")
    if stop == STOP_LOST:
        return WorkerLost(*_text(m, w[S_FATAL]).split("\n\n", 1))  # Twin: supervisor/reaper.py
    if stop == STOP_DEADLOCK:
        return Deadlock(_text(m, w[S_FATAL]))
    if stop != STOP_PANIC:
        return None
    if not w[S_FATAL]:
        return GoroutinePanic("there was no shared memory left to say more; the worker wrote it to stderr")
    at = w[S_FATAL] + BLOCK_DATA
    goid, hdr, body = w[at], w[at + 1], w[at + 2]
    cause, text = message.copy_exception(m, hdr, body)
    error = GoroutinePanic(summary(cause), goid, text)
    error.__cause__ = cause
    return error
