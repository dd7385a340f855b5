"""The only by-reference path: a handle travels as (kind, base word index, generation).

A message that holds handles begins with a table of them, so that whoever keeps the message in shared memory can count
the references in flight without unpickling anything:

    u64 n, then n times (u64 kind, u64 base, u64 generation), little-endian, then the payload.

Rejected: a thread-local "current encode" that ``Handle.__reduce__`` appends to. A user's ``__reduce__`` may park its
goroutine in the middle of an encode, and the next goroutine of the same thread would then fill the wrong list. The
pickler itself meets every handle (``reducer_override`` in wire.py) and keeps the list, so each encode has its own.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Sequence
from typing import ClassVar, NoReturn, Self

from mproc_go.errors import EncodeError
from mproc_go.shm.layout import MSG_HANDLES

__all__ = [
    "HANDLE_TYPES",
    "HOMES",
    "OPENERS",
    "Handle",
    "entries",
    "handle_table",
    "open_handle",
    "pack_table",
    "register",
    "split_table",
    "table_bytes",
]

#: (kind, base, generation) of one handle.
Triple = tuple[int, int, int]

_WORD_BYTES = 8
_ENTRY_BYTES = 3 * _WORD_BYTES
_read_count = struct.Struct("<Q").unpack_from
_read_entry = struct.Struct("<3Q")
# Tables of up to 8 handles, by number: nearly all there are, at a third of the price.
_SMALL = [struct.Struct(f"<{1 + 3 * n}Q") for n in range(9)]

#: Every subclass of Handle. ``type(x) in HANDLE_TYPES`` is 18 ns where ``isinstance`` of what is none is 42.
HANDLE_TYPES: set[type] = set()


class Handle:
    """Names one record in shared memory.

    Subclasses set ``KIND`` to a number of their own and :func:`register` how one is opened. Equal and hashed by
    (kind, base, generation), whatever way the handle came.

    Attributes:
        KIND: what the record is; 0 is abstract and can't travel.
    """

    __slots__ = ("__weakref__", "_base", "_gen")

    KIND: ClassVar[int] = 0

    _base: int
    _gen: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        HANDLE_TYPES.add(cls)

    def _name(self) -> Triple:
        """What a message calls it.

        Raises:
            NotRunning: what it names is not there any more (subclasses).
        """
        return self.KIND, self._base, self._gen

    def __reduce__(self) -> NoReturn:
        """Refuse every pickler but the codec's own, which never asks (it would not be counted)."""
        raise TypeError(
            f"can't pickle {self!r}: handles travel in arguments and messages of goroutines; "
            "outside of them they would not be counted"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Handle):
            return NotImplemented
        return self._base == other._base and self._gen == other._gen and self.KIND == other.KIND

    def __hash__(self) -> int:
        return hash((self.KIND, self._base, self._gen))

    def __bool__(self) -> bool:
        """Stay true also where a subclass has a length of 0."""
        return True

    def __repr__(self) -> str:
        # A handle whose constructor failed has no record yet; its repr must not hide the first error.
        return f"<{type(self).__name__} {getattr(self, '_base', '?')}.{getattr(self, '_gen', '?')}>"


#: The module that registers a kind, for a process that meets a handle of it before it has imported that.
HOMES: dict[int, str] = {}

#: How a handle of each kind is opened in this process: (base, generation) -> handle.
OPENERS: dict[int, Callable[[int, int], Handle]] = {}


def register(kind: int, opener: Callable[[int, int], Handle]) -> None:
    """Say how handles of `kind` are opened here.

    Raises:
        ValueError: the kind is not positive, or another opener has it.
    """
    if kind <= 0:
        raise ValueError(f"a handle's kind is a positive number, not {kind}")
    if OPENERS.setdefault(kind, opener) is not opener:
        raise ValueError(f"handle kind {kind} is taken by {OPENERS[kind]!r}")


def open_handle(kind: int, base: int, gen: int) -> Handle:
    """Return this process's handle of that record; the pickled form of a handle is a call of this function.

    Raises:
        LookupError: nothing here knows that kind.
    """
    opener = OPENERS.get(kind)
    if opener is None and kind in HOMES:
        importlib.import_module(HOMES[kind])
        opener = OPENERS.get(kind)
    if opener is None:
        raise LookupError(f"no handle of kind {kind} is known in this process")
    return opener(base, gen)


def pack_table(triples: Sequence[Triple]) -> bytes:
    """Return the table that a message with these handles begins with.

    Raises:
        EncodeError: there are too many.
    """
    n = len(triples)
    if n > MSG_HANDLES:
        raise EncodeError(f"a message holds up to {MSG_HANDLES:,} handles, not {n:,}: send fewer at a time")
    if n == 1:
        return _SMALL[1].pack(1, *triples[0])
    flat = [word for triple in triples for word in triple]
    return _SMALL[n].pack(n, *flat) if n < len(_SMALL) else struct.pack(f"<{1 + len(flat)}Q", n, *flat)


def table_bytes(n: int) -> int:
    """Length of a table of `n` handles."""
    return _WORD_BYTES + n * _ENTRY_BYTES


def handle_table(data: bytes | bytearray | memoryview) -> list[Triple]:
    """Read the table at the head of a message whose header says HAS_HANDLES.

    Raises:
        ValueError: the bytes hold no such table.
    """
    return split_table(data)[0]


def split_table(data: bytes | bytearray | memoryview) -> tuple[list[Triple], memoryview]:
    """Return the table and the payload behind it (a view, not a copy).

    Raises:
        ValueError: the bytes hold no such table.
    """
    view = memoryview(data)
    if len(view) < _WORD_BYTES:
        raise ValueError(f"a handle table of {len(view)} bytes has no count")
    n: int = _read_count(view)[0]
    # Compared by division: n is up to 64 bits of nonsense, and an empty table is never written.
    if not 0 < n <= (len(view) - _WORD_BYTES) // _ENTRY_BYTES:
        raise ValueError(f"a handle table of {len(view)} bytes can't hold {n} handles")
    end = _WORD_BYTES + n * _ENTRY_BYTES
    if n == 1:
        return [_read_entry.unpack_from(view, _WORD_BYTES)], view[end:]
    return entries(view[_WORD_BYTES:end]), view[end:]


def entries(data: bytes | memoryview) -> list[Triple]:
    """The handles of a table, from the bytes behind its count."""
    return list(_read_entry.iter_unpack(data))
