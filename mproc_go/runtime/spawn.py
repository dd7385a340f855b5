"""``go``: from a function and its arguments to a goroutine in a run queue; and back, in the worker that starts it.

A function that can be imported, or that was shipped before, is a small number: the code table in shared memory holds
its name or its pickle once. Everything else travels with the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mproc_go.codec import functions, wire
from mproc_go.errors import GO_OF_NIL, bug
from mproc_go.runtime import message
from mproc_go.sched import codes, idle, runq, states, waitq
from mproc_go.shm.layout import (
    BLOCK_DATA,
    CODE_SHIFT,
    CODES,
    CODES_COUNT,
    CODES_ENTRY,
    G_CODE,
    G_COUNTED,
    G_DECIDE,
    G_GOID,
    G_HAS_KWARGS,
    G_INLINE_BYTES,
    G_JOINQ,
    G_LEFT,
    G_M,
    G_MSG,
    G_ONE_ARG,
    G_PARENT,
    G_QUIET,
    G_RETRY,
    G_RETRY_RECORD,
    G_STATUS,
    HDR_HAS_HANDLES,
    HDR_SPILLED,
    L_CODES,
    M_P,
    M_SPAWNED,
    N_CODES,
    POOL_G,
    R_GEN,
    R_REFS,
    REFS_MASK,
    S_NSPINNING,
    S_PIDLE,
    WORD,
)
from mproc_go.shm.pool import give, give_block, own_block, put_block, take, take_block

if TYPE_CHECKING:
    from mproc_go.runtime.process import M

_FLAGS = (1 << CODE_SHIFT) - 1
_RUNNABLE = states.RUNNABLE
_UNMADE = states.UNMADE
_RETRY_BYTES = 3 * WORD
# What a result may take in the record of a goroutine that may run again: up to the word that says from where.
RETRY_INLINE_BYTES = (G_RETRY_RECORD - G_MSG - 1) * WORD


class CodeTable:
    """The functions of the runtime by number, as this process knows them."""

    def __init__(self, current: Callable[[], M]) -> None:
        self._current = current
        self._numbers: dict[bytes, int] = {}  # blob -> number, of all entries up to _known
        self._known = 0
        self._loaded: dict[int, Callable[..., Any]] = {}
        self.functions = functions.FunctionCache(self._register)

    def _register(self, blob: bytes) -> int:
        """The number of the function with this blob, 0 if the table is full. Blocks: for the table's lock."""
        m = self._current()
        w = m.w
        self._read_new(m)
        if blob in self._numbers:
            return self._numbers[blob]
        size = len(blob) + WORD
        block = take_block(m, size)
        w[block + BLOCK_DATA] = len(blob)
        start = (block + BLOCK_DATA + 1) * WORD
        m.mem[start : start + len(blob)] = blob
        lock = m.locks[L_CODES]
        m.enter(lock)
        n: int = w[CODES + CODES_COUNT]
        mine = n == self._known and n < N_CODES  # else another process was faster: it may have added this very one
        if mine:
            w[CODES + CODES_ENTRY + n] = block
            w[CODES + CODES_COUNT] = n + 1  # publishes
            put_block(m, block)
        m.leave(lock)
        if mine:
            self._numbers[blob] = self._known = n + 1
            return n + 1
        give_block(m, block, size)
        return 0 if n >= N_CODES else self._register(blob)

    def _read_new(self, m: M) -> None:
        while self._known < m.w[CODES + CODES_COUNT]:
            self._known += 1
            self._numbers.setdefault(codes.blob(m, self._known), self._known)

    def load(self, m: M, number: int) -> Callable[..., Any]:
        """The function of that number.

        Raises:
            ImportError: its module can't be imported here.
        """
        try:
            return self._loaded[number]
        except KeyError:
            fn = self._loaded[number] = functions.load(codes.blob(m, number))
            return fn


def spawn(
    m: M,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    holder: bool,
    counter: Any = None,
    retries: int = 0,
    quiet: bool = False,
) -> int:
    """Queue a goroutine that calls ``fn(*args, **kwargs)``; return its base.

    Args:
        holder: the caller makes a handle of it.
        counter: handle of a wait group, whose ``_run(fn, args, kwargs)`` is called in its place.
        retries: how often it is run again if its worker dies.
        quiet: it is no panic if it fails once its handle was dropped.

    Raises:
        TypeError: `fn` can't be called.
        EncodeError: the function or an argument can't travel; nothing was started.
        SharedMemoryFull: no room.

    Blocks: for the run queue's lock.     Source: Go proc.go newproc.
    """
    # Cost: 2.5 us = encode, record from the cache, 13 words, 1 lock; scripts/bench hot
    process = m.process
    codes = process.codes.functions
    try:
        number = codes.ids.get(fn) or codes.code(fn)
    except TypeError:  # not hashable
        number = codes.code(fn) if callable(fn) else 0
    if not number and not callable(fn):
        raise TypeError(GO_OF_NIL if fn is None else f"go needs a function to call, not {type(fn).__name__}")
    flags = G_QUIET if quiet else 0
    value: Any
    if counter is not None:
        flags |= G_COUNTED
        if kwargs or not number:
            flags |= G_HAS_KWARGS
            value = (counter, args, kwargs) if number else (counter, args, kwargs, fn)
        else:  # a handle by itself, or as an item of a tuple, is the one that is cheap
            value = (counter, *args) if args else counter
    elif not number:
        value = (fn, args, kwargs)
    elif kwargs:
        flags |= G_HAS_KWARGS
        value = (args, kwargs)
    elif len(args) == 1:  # mostly a number, a string or a handle: shorter by itself than in a tuple
        flags |= G_ONE_ARG
        value = args[0]
    else:
        value = args or None
    hdr, data = wire.encode(value) if value is not None else (wire.H_NONE, b"")
    body: message.Body = data  # type: ignore[assignment]  # pieces are long, and stowed
    if retries:
        flags |= G_RETRY
        hdr, body = message.stow(m, hdr, data, -1)  # in a block in any case, which outlives the start
    elif hdr & HDR_HAS_HANDLES or len(data) > G_INLINE_BYTES:
        hdr, body = message.stow(m, hdr, data, G_INLINE_BYTES)
    record = 0
    try:
        if retries:
            record = take_block(m, _RETRY_BYTES)
        cache = m.caches[POOL_G]
        g = cache.pop() if cache else take(m, POOL_G)
    except BaseException:
        message.discard(m, hdr, body)
        if record:
            give_block(m, record, _RETRY_BYTES)
        raise
    w = m.w
    w[g + G_STATUS] = _UNMADE
    w[g] = m.live
    if record:
        w[record + BLOCK_DATA] = retries
        w[record + BLOCK_DATA + 1] = hdr
        w[record + BLOCK_DATA + 2] = body
        w[g + G_RETRY_RECORD] = record
    at = g + G_MSG
    w[at] = hdr
    if hdr & HDR_SPILLED:
        w[at + 1] = body
    elif data:
        at = at * 8 + 8
        m.mem[at : at + len(data)] = data
    w[g + G_CODE] = number << CODE_SHIFT | flags
    goid = m.next_goid
    if goid == m.goid_end:
        goid = m.new_goid()
    else:
        m.next_goid = goid + 1
    w[g + G_GOID] = goid
    w[g + G_PARENT] = w[m.g + G_GOID]
    w[g + G_M] = 0
    w[g + G_JOINQ] = 0
    if holder:
        process.refs.adopt(w, g, 2)  # the handle, and the goroutine itself until it ends
    else:
        w[g + R_REFS] = 1
    base = m.base
    spawned = w[base + M_SPAWNED] + 1
    w[g + G_DECIDE] = spawned  # no decision before it starts: tells the reaper whether it was counted
    w[g + G_STATUS] = _RUNNABLE
    if hdr & HDR_SPILLED:
        message.let_go(m, body)
        if record:
            put_block(m, record)
    w[base + M_SPAWNED] = spawned
    p = w[base + M_P] - 1
    if p < 0 or not runq.put(m, p, g):
        gs = [g] if p < 0 else [*runq.grab(m, p), g]
        runq.put_global(m, gs)
    # Twin: sched/idle.py (submit, then look)
    if w[S_PIDLE] and not w[S_NSPINNING]:
        idle.wake_p(m)
    return g


def args_of(m: M, g: int) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What the goroutine `g`, which now starts here, calls. It is RUNNING when its arguments are out of its record."""
    w = m.w
    code = w[g + G_CODE]
    hdr = w[g + G_MSG]
    if hdr == wire.H_NONE and code >> CODE_SHIFT and not code & _FLAGS:
        waitq.settle_sudog(w, g)
        w[g + G_STATUS] = states.RUNNING
        return m.process.codes.load(m, code >> CODE_SHIFT), (), {}
    hdr, body = message.fetch(w, m.mem, g + G_MSG)
    if not code & G_RETRY:
        message.own(m, hdr, body)
    waitq.settle_sudog(w, g)  # it lies where the arguments were
    w[g + G_STATUS] = states.RUNNING
    value = message.copy(m, hdr, body) if code & G_RETRY else message.open_message(m, hdr, body)
    number = code >> CODE_SHIFT
    if code & G_COUNTED:
        fn = m.process.codes.load(m, number) if number else value[3]
        if code & G_HAS_KWARGS:
            return value[0]._run, (fn, value[1], value[2]), {}
        if type(value) is tuple:
            return value[0]._run, (fn, value[1:], {}), {}
        return value._run, (fn, (), {}), {}
    if not number:
        return value  # type: ignore[no-any-return]
    fn = m.process.codes.load(m, number)
    if code & G_ONE_ARG:
        return fn, (value,), {}
    if code & G_HAS_KWARGS:
        return fn, value[0], value[1]
    return fn, value or (), {}


def is_held(m: M) -> bool:
    """Whether somebody has a handle of the goroutine that runs now. Once it is False it stays so."""
    return bool(m.w[m.g + R_REFS] & REFS_MASK > 1)


def is_quiet(w: Any, g: int) -> bool:
    """Whether it is no panic if `g` fails unheld."""
    return bool(w[g + G_CODE] & G_QUIET)


def take_retry_record(m: M, g: int, flag: int) -> int:
    """Take what a goroutine would run again from, and has ended, out of its record; return it, for us to free."""
    w = m.w
    record: int = w[g + G_RETRY_RECORD]
    message.own(m, w[record + BLOCK_DATA + 1], w[record + BLOCK_DATA + 2])
    own_block(m, record)
    w[g + G_CODE] &= ~flag  # publishes
    return record


def free_retry_record(m: M, record: int) -> None:
    """Free it. Runs: once the goroutine is seen to have ended, so that nobody runs it again from what is gone."""
    w = m.w
    message.discard(m, w[record + BLOCK_DATA + 1], w[record + BLOCK_DATA + 2])
    give_block(m, record, _RETRY_BYTES)


def forget(m: M, g: int) -> None:
    """Free the record of a goroutine that ended and whose last handle is gone."""
    w = m.w
    if w[g + G_STATUS] & states.STATUS_MASK not in (states.DONE, states.FAILED):
        bug(f"goroutine {g:#x} has no reference and has not ended")
    if w[g + G_CODE] & G_LEFT:
        free_retry_record(m, take_retry_record(m, g, G_LEFT))
    message.discard_at(m, g + G_MSG)
    w[g + R_GEN] += 1
    give(m, POOL_G, g)
