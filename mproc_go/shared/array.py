"""``SharedArray``: an array in shared memory that every goroutine reads and writes in place.

Memory, record and views are those of a large message (runtime/buffers.py): the record's block holds the items, and
behind them what they are. A view keeps a handle, so the array lives as long as its last handle or view, wherever.

Nothing here locks: items are plain memory. Who writes where is the user's affair, as with a slice in Go.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import math
import operator
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeVar

from mproc_go.runtime import process as rt
from mproc_go.runtime import spawn
from mproc_go.runtime.buffers import free_memory, names, new_memory, start_of, view_of
from mproc_go.runtime.goroutine import Goroutine, start_quiet
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.sched import repairs
from mproc_go.shared import dtype as dtypes
from mproc_go.shm.layout import AR_BYTES, H_STOP, KIND_ARRAY, MB_BLOCK, MB_BYTES, R_GEN, S_GOMAXPROCS

if TYPE_CHECKING:
    import numpy

R = TypeVar("R")
_View = memoryview  # which is a method below

_C_TYPES: dict[str, Any] = {
    "c": ctypes.c_char,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "n": ctypes.c_ssize_t,
    "N": ctypes.c_size_t,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
    "?": ctypes.c_bool,
}
# What a memoryview can have.
_MAX_DIMENSIONS = 64
_CHUNKS_A_P = 4


class _Keeper(SharedHandle):
    """The handle that the views of an array hold, so that the array's own handle may refer to a view."""

    __slots__ = ()

    KIND = KIND_ARRAY


class SharedArray(SharedHandle):
    """An array of fixed shape in shared memory, zeroed. Every process sees the same items, without a copy.

    Args:
        shape: how many items, or how many along each axis: an integer or a sequence of them.
        dtype: a letter of ``struct`` (``'d'``, ``'i'``, ``'B'`` ...) or anything that NumPy takes for a dtype
            (``'float64'``, ``numpy.int32``, ``'<f4'``, records). Names of plain numbers work without NumPy.

    Items are read and written with ``array[i]``, ``array[i, j]``, ``array[i:j]``; calculate with :meth:`numpy` or
    :meth:`memoryview`. Two that write one item at the same time need a lock, or a plan of who writes where.

    Raises:
        TypeError: `shape` is not made of integers, `dtype` is none, or holds Python objects.
        ValueError: a negative length, or more than 64 axes.
        SharedMemoryFull: more than the runtime may use (``memory=``).

    Two handles of one array are equal. An array travels by reference; it is freed when its last handle and its last
    view, in whichever process, are gone.

    Blocks: for the time that its memory takes to come from the machine, some 0.3 ms a MiB.
    """

    __slots__ = ("_bytes", "_item", "_shape", "_view")

    KIND = KIND_ARRAY

    _shape: tuple[int, ...]
    _item: dtypes.Item
    _bytes: memoryview | None
    _view: memoryview | None

    def __init__(self, shape: int | Sequence[int], dtype: Any = "d") -> None:
        self._shape = _shape_of(shape)
        self._item = dtypes.parse(dtype)
        self._bytes = self._view = None
        n_bytes = self.nbytes
        described = pickle.dumps((self._shape, tuple(self._item)), 5)
        m = rt.current()
        if m.w[H_STOP]:
            m.interrupted()
        base = new_memory(m, KIND_ARRAY, n_bytes + len(described), zeroed=True)
        self._bind(m, base, m.w[base + R_GEN])  # from here on the record goes with this object
        m.w[m.w[base + MB_BLOCK] + AR_BYTES] = n_bytes
        m.segment.fill(start_of(m.w, base) + n_bytes, described)

    @classmethod
    def _open(cls, base: int, gen: int) -> SharedArray:
        array = super()._open(base, gen)
        m = rt.current()
        w = m.w
        n_bytes = w[w[base + MB_BLOCK] + AR_BYTES]
        start = start_of(w, base)
        array._shape, item = pickle.loads(m.mem[start + n_bytes : start + w[base + MB_BYTES]])
        array._item = dtypes.Item(*item)
        array._bytes = array._view = None
        return array

    # ------------------------------------------------------------ what it is
    @property
    def shape(self) -> tuple[int, ...]:
        """How many items there are along each axis."""
        return self._shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """How many items it has."""
        return math.prod(self._shape)

    @property
    def dtype(self) -> Any:
        """What an item is, as it was given: a string, or NumPy's dtype."""
        return self._item.given()

    @property
    def itemsize(self) -> int:
        """Bytes of an item."""
        return self._item.size

    @property
    def nbytes(self) -> int:
        """Bytes of all items."""
        return math.prod(self._shape) * self._item.size

    def __len__(self) -> int:
        """Its length along the first axis."""
        if not self._shape:
            raise TypeError("a SharedArray without axes has no length")
        return self._shape[0]

    def __repr__(self) -> str:
        try:
            name = self._item.name or str(self._item.numpy())
            return f"<SharedArray {self._shape} {name}>"
        except (AttributeError, ImportError):
            return super().__repr__()

    # ------------------------------------------------------------ views
    def _memory(self) -> memoryview:
        """All its bytes."""
        if self._bytes is None:
            m = self._m()
            view = view_of(m, _Keeper._open(self._base, self._gen))
            self._bytes = view[: self.nbytes]
        return self._bytes

    def _items(self) -> memoryview:
        if self._view is None:
            self._view = _shaped(self._memory(), self._shape, self._item)
        return self._view

    def memoryview(self) -> memoryview:
        """A writable view with its shape and format, without a copy; it keeps the memory as long as it lives.

        Raises:
            TypeError: only NumPy knows that dtype, and can't make a memoryview of it (dates).
            NotRunning: the runtime is over, and this process had not looked at the array before.
        """
        return memoryview(self._items())

    def numpy(self) -> numpy.ndarray[Any, Any]:
        """A writable NumPy array over the same memory, in every process; it keeps the memory as long as it lives.

        Raises:
            ImportError: NumPy is not installed.
            NotRunning: the runtime is over, and this process had not looked at the array before.
        """
        import numpy

        return numpy.ndarray(self._shape, self._item.numpy(), self._memory())

    def __buffer__(self, flags: int) -> _View:
        """The view, where a buffer is wanted (from Python 3.12 on)."""
        return self.memoryview()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """What ``numpy.asarray`` makes of it: the view, unless another dtype or a copy is asked for."""
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"a view of a SharedArray of {array.dtype} can't be one of {dtype}")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __getitem__(self, key: Any) -> Any:
        """An item, or a view of some: ``a[i]``, ``a[i, j]``, ``a[i:j]``; a row of several axes is a memoryview.

        Raises:
            IndexError: there is none at that place.
            TypeError: no index; or one for which NumPy is needed (``array.numpy()[...]``).
        """
        items = self._items()
        if items.ndim > 1 and not isinstance(key, tuple | slice):
            i = operator.index(key)
            n = self._shape[0]
            if not -n <= i < n:
                raise IndexError(f"index {i} of a SharedArray with {n} rows")
            i %= n
            row = self.nbytes // n
            return _shaped(self._memory()[i * row : (i + 1) * row], self._shape[1:], self._item)
        try:
            return items[key]
        except NotImplementedError:
            raise TypeError(self._no_index(key)) from None

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set an item, or those of a slice from something with a buffer of the same format. Raises: as reading."""
        items = self._items()
        try:
            items[key] = value
        except NotImplementedError:
            raise TypeError(self._no_index(key)) from None

    def _no_index(self, key: Any) -> str:
        return f"a SharedArray of shape {self._shape} has no index {key!r} of its own; array.numpy() has"

    # ------------------------------------------------------------ in parallel
    def parallel(self, fn: Callable[[Any], R], chunks: int | None = None) -> Iterator[R]:
        """Call ``fn(chunk)`` for consecutive chunks of the first axis, in goroutines on all Ps, without copies.

        The calls begin at once. A chunk is a view: of NumPy where that is installed, else a memoryview. What `fn`
        writes to it is in the array; what it returns is copied.

        Args:
            chunks: how many, of nearly the same length; default: some 4 a P. Never more than there are rows.

        Returns: an iterator over the results, in order. Its next step blocks the goroutine until that one is there, and
            raises what left `fn`, as ``go(fn).result()`` does. Dropping it early leaves nothing behind: calls that have
            not begun never do, and what the others come to is nobody's business.

        Raises:
            TypeError: `fn` can't be called, `chunks` is not an integer, or the array has no axis.
            ValueError: `chunks` is less than 1.
            EncodeError: `fn` can't travel.
        """
        if not callable(fn):
            raise TypeError(f"parallel needs a function to call, not {type(fn).__name__}")
        if not self._shape:
            raise TypeError("a SharedArray without axes has no chunks")
        m = rt.current()
        if chunks is None:
            chunks = _CHUNKS_A_P * m.w[S_GOMAXPROCS]
        elif isinstance(chunks, bool) or not hasattr(chunks, "__index__"):
            raise TypeError(f"chunks is an integer, not {type(chunks).__name__}")
        chunks = operator.index(chunks)
        if chunks < 1:
            raise ValueError(f"chunks is at least 1, not {chunks}")
        n = self._shape[0]
        chunks = min(chunks, n)
        with_numpy = _numpy_is_installed()
        bounds = [n * i // chunks for i in range(chunks + 1)] if chunks else []
        started = deque(
            start_quiet(_call, fn, self, start, stop, with_numpy) for start, stop in itertools.pairwise(bounds)
        )
        return _results(started)

    def _chunk(self, start: int, stop: int, with_numpy: bool) -> Any:
        if with_numpy:
            try:
                return self.numpy()[start:stop]
            except ImportError:  # there, but broken
                pass
        row = self.nbytes // self._shape[0]
        return _shaped(self._memory()[start * row : stop * row], (stop - start, *self._shape[1:]), self._item)


@functools.cache
def _numpy_is_installed() -> bool:
    return importlib.util.find_spec("numpy") is not None


def _call(fn: Callable[[Any], Any], array: SharedArray, start: int, stop: int, with_numpy: bool) -> Any:
    """One chunk's goroutine; nothing if nobody waits for it any more."""
    return rt.call_out(fn, array._chunk(start, stop, with_numpy)) if spawn.is_held(rt.current()) else None


def _results(started: deque[Goroutine[R]]) -> Iterator[R]:
    while started:
        yield started.popleft().result()


def _shape_of(shape: Any) -> tuple[int, ...]:
    """Raises: TypeError, ValueError."""
    lengths: tuple[int, ...]
    try:
        lengths = (operator.index(shape),)
    except TypeError:
        try:
            if isinstance(shape, str | bytes | Set | Mapping):  # in no order, or surely a mistake
                raise TypeError from None
            lengths = tuple(map(operator.index, shape))
        except TypeError:
            raise TypeError(f"SharedArray: a shape is an integer or a sequence of integers, not {shape!r}") from None
    if any(n < 0 for n in lengths):
        raise ValueError(f"SharedArray: a length is not negative: {shape!r}")
    if len(lengths) > _MAX_DIMENSIONS:
        raise ValueError(f"SharedArray: at most {_MAX_DIMENSIONS} axes, not {len(lengths)}")
    return lengths


def _shaped(flat: memoryview, shape: tuple[int, ...], item: dtypes.Item) -> memoryview:
    """The bytes as items of that shape."""
    if not item.letter:
        import numpy

        try:
            return memoryview(numpy.ndarray(shape, item.numpy(), flat))  # type: ignore[arg-type]
        except (ValueError, NotImplementedError) as error:
            raise TypeError(f"no memoryview can be made of dtype {item.given()!r} ({error}); use numpy()") from None
    if len(shape) == 1:
        return flat.cast(item.letter)  # type: ignore[call-overload,no-any-return]
    if 0 not in shape:
        return flat.cast(item.letter, shape)  # type: ignore[call-overload,no-any-return]
    # Which cast can't make. There is no item whose format anybody could read.
    kind: Any = _C_TYPES[item.letter]
    for n in reversed(shape):
        kind *= n
    return memoryview(kind())


register(SharedArray, free_memory)
repairs.NAMES[KIND_ARRAY] = names
