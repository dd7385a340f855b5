"""``Context`` and what makes one. A context is a handle; how its end spreads is in tree.py.

A context has a record of its own where it adds something (an end, a deadline, a value); ``background()`` and ``todo()``
add nothing and are plain values. Whether a context has ended is one read of its nearest ancestor-or-self that can be
cancelled, in shared memory: no message is on the way anywhere.

Unlike Go: keys and values are copied, so a key is found again if it is *equal* to the one it was stored with; a context
that nobody can reach any more needs no cancel.

Source: Go context/context.go.
"""

from __future__ import annotations

import datetime
import struct
import time
from collections.abc import Callable
from typing import Any

from mproc_go.chan.channel import Chan
from mproc_go.codec import wire
from mproc_go.errors import GO_OF_NIL, Canceled, DeadlineExceeded
from mproc_go.lib import alarm, tree
from mproc_go.runtime import message, spawn
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M
from mproc_go.shm.layout import (
    CX_ACTIVE,
    CX_CANCEL,
    CX_CANCELED,
    CX_CANCELER,
    CX_DEADLINE,
    CX_DONE,
    CX_DONE_GEN,
    CX_EXCEEDED,
    CX_HOOK,
    CX_INHERITED,
    CX_KEY,
    CX_LOOK,
    CX_LOOKER,
    CX_MSG,
    CX_PARENT,
    CX_PARENT_GEN,
    CX_ROLE,
    CX_STATE,
    CX_VALUE,
    CX_WALL,
    CX_WITHOUT,
    H_STOP,
    KIND_CONTEXT,
    L_CONTEXT,
    POOL_OBJECT,
)

_LOOK = 2
_WHAT = "a time is a number of seconds"
_float_bits = struct.Struct("<d")
_word = struct.Struct("<Q")


class Context:
    """Carries an end, a deadline and values to whoever works on one request. Made by the functions of this module."""

    __slots__ = ()

    def done(self) -> Chan[Any]:
        """A channel that is closed once this has ended. Blocks: never.

        Where it never can, None: Go's nil channel, which ``select`` takes as a case that is never ready.
        """
        raise NotImplementedError

    def err(self) -> Canceled | DeadlineExceeded | None:
        """Why it has ended; None while it has not, and from its end on always the same. Blocks: never."""
        raise NotImplementedError

    def value(self, key: Any) -> Any:
        """The value stored last under a key equal to `key`, here or in an ancestor, or None. A copy each time."""
        raise NotImplementedError

    def deadline(self) -> float | None:
        """When it ends by itself, in seconds of ``time.time()``; None if never."""
        raise NotImplementedError


class _Root(Context):
    """Never ends, has no values."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def done(self) -> Chan[Any]:
        return None  # type: ignore[return-value] # Go's type does not tell a nil channel from others either

    def err(self) -> None:
        return None

    def value(self, key: Any) -> None:
        return None

    def deadline(self) -> None:
        return None

    def __reduce__(self) -> tuple[Callable[[], Context], tuple[()]]:
        return (background if self is _BACKGROUND else todo), ()

    def __copy__(self) -> _Root:
        return self

    def __deepcopy__(self, memo: object) -> _Root:
        return self

    def __repr__(self) -> str:
        return self._name


_BACKGROUND = _Root("context.Background")
_TODO = _Root("context.TODO")
_NO_KEY: Any = object()


class _Node(SharedHandle, Context):
    """A context with a record (or a hook, which is one without an end)."""

    __slots__ = ("_canceler", "_channel", "_key", "_up")

    KIND = KIND_CONTEXT

    _canceler: int
    _channel: Chan[Any] | None
    _key: Any
    _up: Context | None

    def _bind(self, m: M, base: int, gen: int) -> None:
        super()._bind(m, base, gen)
        self._canceler = m.w[base + CX_CANCELER]
        self._channel = self._up = None
        self._key = _NO_KEY

    def done(self) -> Chan[Any]:
        if self._channel is None and self._canceler:
            w = self._m().w
            self._channel = Chan._open(w[self._canceler + CX_DONE], w[self._canceler + CX_DONE_GEN])
        return self._channel  # type: ignore[return-value] # None as above

    def err(self) -> Canceled | DeadlineExceeded | None:
        # Cost: 0.2 us = 2 words
        m = self._m()
        w = m.w
        if w[H_STOP]:
            m.interrupted()
        state = w[self._canceler + CX_STATE] if self._canceler else CX_ACTIVE
        if not state:
            return None
        return Canceled() if state & ~CX_INHERITED == CX_CANCELED else DeadlineExceeded()

    def value(self, key: Any) -> Any:
        m = self._m()
        w = m.w
        if w[H_STOP]:
            m.surface()
        context: Context = self
        while isinstance(context, _Node):
            base = context._base
            if w[base + CX_ROLE] == CX_VALUE and context._own_key(m) == key:
                return message.copy(m, w[base + CX_MSG], w[base + CX_MSG + 1] or b"")
            context = context._parent()
        return None

    def _own_key(self, m: M) -> Any:
        """The key of a context with a value."""
        if self._key is _NO_KEY:
            w, at = m.w, self._base + CX_KEY
            self._key = message.copy(m, w[at], w[at + 1] or b"")
        return self._key

    def deadline(self) -> float | None:
        m = self._m()
        w = m.w
        if w[H_STOP]:
            m.surface()
        return self._deadline(w)

    def _deadline(self, w: Any) -> float | None:
        if not w[self._base + CX_DEADLINE]:
            return None
        wall: float = _float_bits.unpack(_word.pack(w[self._base + CX_WALL]))[0]
        return wall

    def _parent(self) -> Context:
        if self._up is None:
            w = self._m().w
            up = w[self._base + CX_PARENT]
            self._up = _Node._open(up, w[self._base + CX_PARENT_GEN]) if up else _BACKGROUND
        return self._up

    def _cancel(self) -> None:
        """End it, and all that end with it; once it has ended this does nothing. Blocks: never."""
        m = self._m()
        tree.end(m, self._base, CX_CANCELED)
        if m.w[H_STOP]:
            m.surface()

    def _cancel_cause(self, cause: BaseException | None = None) -> None:
        """End it as by a cancel, with a cause.

        Raises:
            TypeError: the cause is no exception.
        """
        if cause is None:
            return self._cancel()
        if not isinstance(cause, BaseException):
            raise TypeError(f"a cause is an exception, not {type(cause).__name__}")
        self._cancel_for(cause, "")
        m = self._m()
        if m.w[H_STOP]:
            m.surface()

    def _cancel_for(self, cause: BaseException, text: str) -> bool:
        """End it with a cause; `text` is the traceback it left. Return whether it had not ended before."""
        m = self._m()
        hdr, body = message.stow(m, *wire.encode_exception(cause, text), 0)
        return tree.end(m, self._base, CX_CANCELED, hdr, body)

    def _cause(self) -> tuple[BaseException | None, str]:
        """What the context ended with: the cause and its traceback."""
        error = self.err()
        if error is None:
            return None, ""
        m = self._m()
        w, base = m.w, self._canceler
        while w[base + CX_STATE] & CX_INHERITED:
            base = w[w[base + CX_PARENT] + CX_CANCELER]
        if not w[base + CX_MSG + 1]:
            return error, ""
        return message.copy_exception(m, w[base + CX_MSG], w[base + CX_MSG + 1])

    def _stop(self) -> bool:
        """Of a hook: keep it from being called; return whether that was in time. Blocks: never."""
        m = self._m()
        w, base = m.w, self._base
        lock = m.locks[L_CONTEXT]
        m.enter(lock)
        first = w[base + CX_STATE] == CX_ACTIVE
        w[base + CX_STATE] = w[base + CX_STATE] or CX_CANCELED
        tree.unlink(m, base)  # we hold it
        m.leave(lock)
        return bool(first)

    def __repr__(self) -> str:
        if self._words() is None:
            return f"<Context {self._base:#x} of a runtime that is over>"
        parts = []
        context: Context = self
        while isinstance(context, _Node):
            parts.append(context._text())
            context = context._parent()
        return ".".join([repr(context), *reversed(parts)])

    def _text(self) -> str:
        m = self._m()
        w, base = m.w, self._base
        role = w[base + CX_ROLE]
        if role == CX_VALUE:
            return f"WithValue({self._own_key(m)!r})"
        if role != CX_CANCEL:
            return "WithoutCancel" if role == CX_WITHOUT else "AfterFunc"
        above = w[base + CX_PARENT]
        if w[base + CX_DEADLINE] == (w[above + CX_DEADLINE] if above else 0):  # none of its own
            return "WithCancel"
        left = (w[base + CX_DEADLINE] - time.monotonic_ns()) / 1e9
        return f"WithDeadline({self._deadline(w)} [{left:.3f}s])"


def background() -> Context:
    """The root of all contexts: never ends, has no values."""
    return _BACKGROUND


def todo() -> Context:
    """As :func:`background`, where it is not clear yet which context to use."""
    return _TODO


def with_cancel(parent: Context) -> tuple[Context, Callable[[], None]]:
    """A context that ends with `parent`, or when the function returned beside it is called, in any process.

    Raises:
        TypeError: `parent` is no context.
        SharedMemoryFull: no room.
    """
    node = cancelable(parent)
    return node, node._cancel


def with_cancel_cause(parent: Context) -> tuple[Context, Callable[..., None]]:
    """As :func:`with_cancel`, but the function takes an exception, which :func:`cause` then returns.

    Raises: as :func:`with_cancel`.
    """
    node = cancelable(parent)
    return node, node._cancel_cause


def with_timeout(parent: Context, seconds: float) -> tuple[Context, Callable[[], None]]:
    """As :func:`with_cancel`, and it ends by itself in `seconds` from now, unless `parent` does so earlier.

    Raises:
        ValueError: `seconds` is not a number.
        TypeError, SharedMemoryFull: as :func:`with_cancel`.
    """
    seconds = rt.seconds(seconds, _WHAT)
    node = _with_deadline(parent, alarm.deadline_ns(seconds), time.time() + seconds)
    return node, node._cancel


def with_deadline(parent: Context, t: float | datetime.datetime) -> tuple[Context, Callable[[], None]]:
    """As :func:`with_cancel`, and it ends by itself at `t`, unless `parent` does so earlier.

    Args:
        t: seconds of ``time.time()``, or a datetime.

    Raises: as :func:`with_timeout`.
    """
    wall = t.timestamp() if isinstance(t, datetime.datetime) else rt.seconds(t, _WHAT)
    node = _with_deadline(parent, alarm.deadline_ns(wall - time.time()), wall)
    return node, node._cancel


def with_value(parent: Context, key: Any, value: Any) -> Context:
    """A context in which `key` has that value; it ends with `parent`.

    Raises:
        TypeError: `parent` is no context, or the key can't be hashed.
        ValueError: the key is None.
        EncodeError: key or value can't travel.
        SharedMemoryFull: no room.
    """
    if key is None:
        raise ValueError("nil key")
    try:
        hash(key)
    except TypeError:
        raise TypeError(f"key is not comparable: {type(key).__name__}") from None
    _check(parent)
    m = rt.current()
    packed = message.pack(m, key, 0)
    try:
        stored = message.pack(m, value, 0)
    except BaseException:
        message.discard(m, *packed)
        raise
    try:
        return _node(m, parent, CX_VALUE, key=packed, msg=stored)
    except BaseException:
        message.discard(m, *packed)
        message.discard(m, *stored)
        raise


def without_cancel(parent: Context) -> Context:
    """A context with the values of `parent` that does not end with it, and has no deadline.

    Raises: as :func:`with_cancel`.
    """
    _check(parent)
    return _node(rt.current(), parent, CX_WITHOUT)


def after_func(ctx: Context, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[[], bool]:
    """Call ``fn(*args, **kwargs)`` in a goroutine of its own once `ctx` has ended (at once if it has).

    Returns: a function that keeps it from being called, and returns whether that was in time; callable in any process.

    Raises:
        TypeError: `ctx` is no context, or `fn` can't be called.
        EncodeError: the function or an argument can't travel.
        SharedMemoryFull: no room.
    """
    _check(ctx)
    if not callable(fn):
        raise TypeError(GO_OF_NIL if fn is None else f"after_func needs a function, not {type(fn).__name__}")
    m = rt.current()
    hdr, body = message.pack(m, (fn, args, kwargs), 0)
    try:
        node = _node(m, None, CX_HOOK, msg=(hdr, body))
    except BaseException:
        message.discard(m, hdr, body)
        raise
    w, base = m.w, node._base
    owner = ctx._canceler if isinstance(ctx, _Node) else 0
    if owner:
        lock = m.locks[L_CONTEXT]
        m.enter(lock)
        ended = not tree.link(m, base, owner)
        if ended:
            w[base + CX_STATE] = w[owner + CX_STATE] | CX_INHERITED
        m.leave(lock)
        if ended:
            spawn.spawn(m, fn, args, kwargs, False)
    return node._stop


def cause(ctx: Context) -> BaseException | None:
    """Why `ctx` has ended: the exception given to the function of :func:`with_cancel_cause`, else ``ctx.err()``.

    Raises:
        TypeError: `ctx` is no context.
    """
    _check(ctx)
    return ctx._cause()[0] if isinstance(ctx, _Node) else None


# ---------------------------------------------------------------- making records
def _check(parent: Any) -> None:
    if not isinstance(parent, Context):
        raise TypeError(
            "cannot create context from nil parent" if parent is None else f"not a context: {type(parent).__name__}"
        )


def _node(
    m: M,
    parent: Context | None,
    role: int,
    *,
    key: tuple[int, message.Body] = (0, 0),
    msg: tuple[int, message.Body] = (0, 0),
    channel: Chan[Any] | None = None,
) -> _Node:
    """A context of that role, with what it has from its parent. The messages (spilled, or none) are its from then on.

    Crash: what it refers to, and its messages, come one by one once it is live: it is destroyed with what it has then.
    """
    if isinstance(parent, _Node):
        parent._m()  # of this runtime
    node = _Node.__new__(_Node)
    base = node._make(m, POOL_OBJECT)
    w = m.w
    for word in range(CX_STATE, CX_LOOKER + 1):
        w[base + word] = 0
    w[base + CX_ROLE] = role
    if isinstance(parent, _Node):
        above = parent._base
        if role != CX_WITHOUT:
            w[base + CX_CANCELER] = w[above + CX_CANCELER]
            w[base + CX_DEADLINE] = w[above + CX_DEADLINE]
            w[base + CX_WALL] = w[above + CX_WALL]
    node._made(m, base, KIND_CONTEXT)
    if isinstance(parent, _Node):
        m.process.refs.refer(m, base + CX_PARENT, parent._base)
    if channel is not None:
        m.process.refs.refer(m, base + CX_DONE, channel._base)
    for word, (hdr, body) in ((CX_KEY, key), (CX_MSG, msg)):
        if hdr:
            w[base + word + 1] = body or 0  # a constant needs no block
            w[base + word] = hdr  # publishes
            message.let_go(m, body)
    node._bind(m, base, node._gen)
    node._up = parent
    return node


def cancelable(parent: Context) -> _Node:
    """A context that can be cancelled, in the list of the ancestor it ends with."""
    _check(parent)
    m = rt.current()
    channel: Chan[Any] = Chan()
    node = _node(m, parent, CX_CANCEL, channel=channel)
    w, base = m.w, node._base
    node._channel = channel
    owner = w[base + CX_CANCELER]
    w[base + CX_CANCELER] = node._canceler = base
    if owner:
        lock = m.locks[L_CONTEXT]
        m.enter(lock)
        ended = not tree.link(m, base, owner)
        if ended:
            w[base + CX_STATE] = w[owner + CX_STATE] | CX_INHERITED
        m.leave(lock)
        if ended:
            tree.close_done(m, base)
    return node


def _with_deadline(parent: Context, when: int, wall: float) -> _Node:
    node = cancelable(parent)
    m = node._m()
    w, base = m.w, node._base
    if 0 < w[base + CX_DEADLINE] <= when:
        return node
    w[base + CX_DEADLINE] = when
    w[base + CX_WALL] = _word.unpack(_float_bits.pack(wall))[0]
    if when <= time.monotonic_ns():
        tree.end(m, base, CX_EXCEEDED)
    elif not w[base + CX_STATE]:
        w[base + CX_LOOKER] = m.process.host
        w[base + CX_LOOK] = when  # publishes: from here on others look, if we die
        alarm.of(m).look_at(m, when, base, node._gen, _LOOK)
    return node


alarm.register(_LOOK, (KIND_CONTEXT,), alarm.Kind(CX_LOOK, CX_LOOK, CX_LOOKER, tree.look, tree.has_ended))
register(_Node, tree.destroy)
