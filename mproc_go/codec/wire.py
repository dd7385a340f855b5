"""Values to bytes and back, exactly: an equal value of equal exact type, always.

A message is ``(header, data)``. The header is one 64-bit word, which fits beside the data in a channel's slot:

    bits 0..47 length of data in bytes    bits 48..54 tag, never 0    bit 55 HAS_BUFFERS: some of it travels beside
    bit 56 HAS_HANDLES: data begins with their table

Plain scalars have a tag each; all else is pickle protocol 5, and what pickle can't do (functions and classes without
an importable name) cloudpickle does.

Long values are not joined into one piece here: :class:`Pieces` are copied straight to where the message lies. What
pickle hands over as a buffer of LARGE_BYTES and more (arrays; protocol 5) travels beside the message, in memory of its
own, which the receiver looks at without a copy (runtime/buffers.py).

Rejected, measured on CPython 3.11:

* msgpack for scalars: pack + unpack of an int 51 + 67 ns and a length to compute; struct 47 + 44 ns, length known.
* msgpack for flat lists and dicts: proving a value flat costs as much as packing it (10 ints: 263 + 212 ns, pickle
  261 ns), and it is exact only behind that proof (it packs a bytearray as bytes and refuses integers of 65 bits).
* marshal: 380 ns for 10 ints, and it turns a bytearray into bytes.
* a BytesIO under the pickler: 70 ns more than a list that collects what it writes.
"""

from __future__ import annotations

import functools
import importlib
import marshal
import operator
import pickle
import struct
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final

from mproc_go.codec import byname, classes, culprit
from mproc_go.codec.captured import uses
from mproc_go.codec.handles import HANDLE_TYPES, Handle, Triple, open_handle, pack_table, split_table
from mproc_go.errors import EncodeError, MprocError, NotRunning, RemoteError

__all__ = [
    "HAS_BUFFERS",
    "HAS_HANDLES",
    "LARGE_BYTES",
    "LENGTH_MASK",
    "DecodeError",
    "Pieces",
    "decode",
    "decode_exception",
    "dump",
    "encode",
    "encode_exception",
    "handles_in",
]

Data = bytes | bytearray | memoryview

LENGTH_MASK: Final = (1 << 48) - 1
TAG_SHIFT: Final = 48
HAS_BUFFERS: Final = 1 << 55
HAS_HANDLES: Final = 1 << 56

# From here on a buffer travels beside its message: copying it once more would cost as much as a record, a block and a
# view of it.
LARGE_BYTES: Final = 128 * 1024

# Tags. 0 is an empty slot, not a message.
T_NONE: Final = 1
T_FALSE: Final = 2
T_TRUE: Final = 3
T_INT: Final = 4
T_FLOAT: Final = 5
T_STR: Final = 6
T_BYTES: Final = 7
T_PICKLE: Final = 8
T_HANDLE: Final = 9
T_EXCEPTION: Final = 10
T_TUPLE: Final = 11  # of which some items are handles: (request, reply channel), the arguments of a goroutine

# What is left of a header (without HAS_BUFFERS) when the length is shifted out: the tag, and 0x100 where there are
# handles.
_HANDLES_BIT: Final = HAS_HANDLES >> TAG_SHIFT
_K_PICKLE_HANDLES: Final = T_PICKLE | _HANDLES_BIT
_K_HANDLE: Final = T_HANDLE | _HANDLES_BIT
_K_TUPLE: Final = T_TUPLE | _HANDLES_BIT
_K_EXCEPTION_HANDLES: Final = T_EXCEPTION | _HANDLES_BIT

# Headers of fixed length, whole; and the tags of the others, in place.
H_NONE: Final = T_NONE << TAG_SHIFT
_H_FALSE: Final = T_FALSE << TAG_SHIFT
_H_TRUE: Final = T_TRUE << TAG_SHIFT
H_INT: Final = T_INT << TAG_SHIFT | 8
_H_FLOAT: Final = T_FLOAT << TAG_SHIFT | 8
_H_STR: Final = T_STR << TAG_SHIFT
_H_BYTES: Final = T_BYTES << TAG_SHIFT
_H_PICKLE: Final = T_PICKLE << TAG_SHIFT
_H_HANDLE: Final = T_HANDLE << TAG_SHIFT | HAS_HANDLES | 32
_H_TUPLE: Final = T_TUPLE << TAG_SHIFT | HAS_HANDLES
_H_EXCEPTION: Final = T_EXCEPTION << TAG_SHIFT

_CONSTANTS: Final = (None, None, False, True)  # by tag

_pack_int = struct.Struct("<q").pack
_unpack_int = struct.Struct("<q").unpack
_pack_float = struct.Struct("<d").pack
_unpack_float = struct.Struct("<d").unpack
_pack_handle = struct.Struct("<4Q").pack
_unpack_handle = struct.Struct("<4Q").unpack
_struct_error = struct.error
_read_count = struct.Struct("<Q").unpack_from
_read_triple = struct.Struct("<3Q").unpack_from
_loads = pickle.loads

PROTOCOL: Final = 5

_SHORT_TUPLE = 8
_no_handles = HANDLE_TYPES.isdisjoint

# A pickler keeps its memo table at the largest size it ever had, and clearing it takes time in proportion.
_KEEP_UP_TO_BYTES = 1 << 16
# Of an exception's causes and contexts, as many travel as a reader might follow.
_MAX_CHAIN = 32


class DecodeError(ValueError):
    """A message can't be rebuilt in this process; ``__cause__`` says why (a missing module, bytes that are none)."""


class Pieces:
    """The data of a long message, in pieces that may still be the value's own memory: copy them before it changes.

    Attributes:
        parts: what follows each other in the message (behind the table of handles, if there are buffers).
        handles: the handles in it, for the table, if there are buffers (else `parts` begins with the table).
        buffers: what travels beside it, each a flat view of bytes.
    """

    __slots__ = ("buffers", "handles", "parts")

    def __init__(self, parts: list[Data], handles: list[Triple], buffers: list[memoryview]) -> None:
        self.parts = parts
        self.handles = handles
        self.buffers = buffers

    def __len__(self) -> int:
        """Bytes of all of it; more than lies inline anywhere."""
        return sum(map(len, self.parts)) + sum(map(len, self.buffers))

    def release(self) -> None:
        """Let go of the value's memory."""
        self.parts.clear()
        for view in self.buffers:
            view.release()
        self.buffers.clear()


# ---------------------------------------------------------------------------------------------------------- encoding


def encode(value: object) -> tuple[int, bytes | Pieces]:
    """Return `value` as ``(header, data)``. The value is not changed, and bytes share nothing with it.

    Raises:
        EncodeError: it can't travel; the text names the type and where it lies, ``__cause__`` is the first error.
    """
    # Cost: int 0.11 us, str 0.13, None 0.06, a small list 0.6 (tests/codec/bench_codec.py)
    t = type(value)
    if t is int:
        try:
            return H_INT, _pack_int(value)
        except _struct_error:
            pass  # beyond 64 bits
    elif t is str:
        try:
            data = value.encode()  # type: ignore[attr-defined]
            return _H_STR | len(data), data
        except UnicodeEncodeError:
            pass  # lone surrogates, which pickle keeps
    elif t is bytes:
        return _H_BYTES | len(value), value  # type: ignore[arg-type, return-value]
    elif value is None:
        return H_NONE, b""
    elif t is float:
        return _H_FLOAT, _pack_float(value)
    elif t is bool:
        return (_H_TRUE if value else _H_FALSE), b""
    elif t is tuple:
        # A longer one is data rather than a request with its reply channel, and looking has its price.
        if len(value) <= _SHORT_TUPLE and not _no_handles(map(type, value)):  # type: ignore[arg-type, call-overload]
            return _encode_tuple(value)  # type: ignore[arg-type]
    elif t in HANDLE_TYPES and value.KIND > 0:  # type: ignore[attr-defined]
        return _H_HANDLE, _pack_handle(1, *value._name())  # type: ignore[attr-defined]
    # What _dump does, once more: two calls less are a quarter of the price of a small list.
    try:
        tools = _idle.pop()
    except IndexError:
        tools = _new_tools()
    pickle_it, parts, handles, clear_memo, buffers = tools
    try:
        pickle_it(value)
    except Exception as error:  # a user's __reduce__ may raise anything
        return _message(_H_PICKLE, *_dump_again(value, error))
    if len(parts) > 1 or buffers:
        return _message(_H_PICKLE, *_taken_from(tools, _idle))
    data = parts[0]
    size = len(data)
    header = _H_PICKLE | size
    if handles:
        data = pack_table(handles) + data
        header = _H_PICKLE | HAS_HANDLES | len(data)
        handles.clear()
    if size <= _KEEP_UP_TO_BYTES:
        parts.clear()
        clear_memo()
        _idle.append(tools)
    return header, data


def _encode_tuple(value: tuple[Any, ...]) -> tuple[int, bytes]:
    """Encode a tuple that holds handles beside other things.

    A handle inside a pickle costs a call of ``open_handle`` by name, 2 us here and 1 us there. Most handles travel as
    an item of a tuple, so those are taken out: the table comes first and has them in order, the pickle their places.
    """
    triples: list[Triple] = []
    places: list[int] = []
    rest = list(value)
    for place, item in enumerate(value):
        if type(item) in HANDLE_TYPES and item.KIND > 0:
            triples.append(item._name())
            places.append(place)
            rest[place] = None
    try:
        parts, found, buffers = _dump((bytes(places), rest), _idle)
    except Exception:
        dump(value)  # raises, and names the place in the user's own tuple
        raise
    return _message(_H_TUPLE, parts, triples + found, buffers)


def _message(tag: int, parts: list[Any], handles: list[Triple], buffers: list[memoryview]) -> tuple[int, Any]:
    """Make a message of what a pickler wrote and met."""
    # What was written without a copy may be a buffer that was too small to travel beside.
    parts = [part.raw() if type(part) is pickle.PickleBuffer else part for part in parts]
    if buffers:
        return tag | HAS_BUFFERS | sum(map(len, parts)), Pieces(parts, handles, buffers)
    if handles:
        parts = [pack_table(handles), *parts]
        tag |= HAS_HANDLES
    size = sum(map(len, parts))
    if size < LARGE_BYTES or len(parts) == 1:
        return tag | size, parts[0] if len(parts) == 1 else b"".join(parts)
    return tag | size, Pieces(parts, [], [])


def dump(value: object) -> tuple[bytes, list[Triple]]:
    """Pickle `value`, all in one piece; return the bytes and the handles met, one entry per handle object.

    Raises:
        EncodeError: as :func:`encode`.
    """
    try:
        return _dump_whole(value)
    except NotRunning:  # a handle of a runtime that is over
        raise
    except Exception as error:
        raise EncodeError(_complaint(value, error)) from error


def handles_in(header: int, data: Data) -> list[Triple]:
    """Return the handles that a message holds, by its header: most hold none and cost one test."""
    return split_table(data)[0] if header & HAS_HANDLES else []


class _ByValueError(Exception):
    """Not an error: the plain pickler met something that has to travel by value."""


class _Sink:
    """What a pickler writes to: its ``write`` is the append of a list."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], None]) -> None:
        self.write = write


class _Pickler(pickle.Pickler):
    """The fast pickler: reused, counts handles, gives up at what has no importable name."""

    def __init__(self, beside: bool) -> None:
        """`beside`: large buffers are kept for themselves."""
        self.parts: list[bytes] = []
        self.handles: list[Triple] = []
        self.buffers: list[memoryview] = []
        keep = _keeper(self.buffers) if beside else None
        super().__init__(_Sink(self.parts.append), PROTOCOL, buffer_callback=keep)

    def reducer_override(self, obj: Any) -> Any:
        # Called for everything but the built-in containers and scalars.
        t = type(obj)
        if t in HANDLE_TYPES:
            return _reduce_handle(obj, self.handles)
        if t is types.FunctionType:
            if not byname.is_by_name(obj):
                raise _ByValueError
        elif issubclass(t, type):
            if not byname.is_by_name(obj):
                reduced = classes.reduce_packed(obj, _pack_class)
                if reduced is None:
                    raise _ByValueError
                return reduced
        elif t in _NAMED:
            if not byname.is_by_name(obj):
                return _reduce_named(obj)
        elif t in _ONLY_CLOUDPICKLE:
            raise _ByValueError
        elif t is memoryview:
            return _reduce_memoryview(obj)
        elif t.__name__ == "ndarray":
            return _reduce_ndarray(obj)
        return NotImplemented


def _keeper(buffers: list[memoryview]) -> Callable[[Any], bool]:
    """What a pickler calls with a buffer: whether it goes into the pickle itself, else it is kept here."""

    def goes_inside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < LARGE_BYTES:
            view.release()
            return True
        buffers.append(view)
        return False

    return goes_inside


# Types that pickle as a name only, also where the worker's __main__ does not have that name.
_NAMED = frozenset({functools._lru_cache_wrapper, typing.NewType})
# Types that plain pickle refuses, or writes as a name in a module that the worker may not have.
_ONLY_CLOUDPICKLE = frozenset({types.ModuleType, typing.TypeVar})

# Picklers nobody uses at the moment. Taking one out is atomic, so that neither another thread nor a user's __reduce__
# that encodes (or parks its goroutine, and the next one encodes) ever meets one in use.
_Tools = tuple[Callable[[object], None], list[bytes], list[Triple], Callable[[], None], list[memoryview]]
_idle: list[_Tools] = []
_idle_whole: list[_Tools] = []  # of these nothing travels beside

# What a pickler wrote, in parts; the handles it met; the buffers it kept.
_Dumped = tuple[list[bytes], list[Triple], list[memoryview]]


def _new_tools(beside: bool = True) -> _Tools:
    """Make a pickler; return what is used of it: dump, what it wrote, handles it met, clear_memo, buffers it kept."""
    pickler = _Pickler(beside)
    return pickler.dump, pickler.parts, pickler.handles, pickler.clear_memo, pickler.buffers


def _dump(value: object, idle: list[_Tools]) -> _Dumped:
    try:
        tools = idle.pop()
    except IndexError:
        tools = _new_tools(idle is _idle)
    try:
        tools[0](value)
    except RecursionError:
        raise
    except Exception:  # a user's __reduce__ may raise anything
        # This pickler is not used again: its memo, and the handles it has met, go with it.
        return _dump_by_value(value, idle is _idle)
    return _taken_from(tools, idle)


def _taken_from(tools: _Tools, idle: list[_Tools]) -> _Dumped:
    """What a pickler wrote; it is used again, unless that was much.

    Several parts where something large was written without a copy. It may be a view of the user's own buffer.
    """
    _, parts, handles, clear_memo, buffers = tools
    if len(parts) > 1 or len(parts[0]) > _KEEP_UP_TO_BYTES:
        return parts, handles, buffers
    dumped = parts.copy(), handles.copy(), buffers.copy()
    handles.clear()
    parts.clear()
    buffers.clear()
    clear_memo()
    idle.append(tools)
    return dumped


def _dump_whole(value: object) -> tuple[bytes, list[Triple]]:
    parts, handles, _ = _dump(value, _idle_whole)
    return parts[0] if len(parts) == 1 else b"".join(parts), handles


def _dump_again(value: object, error: Exception) -> _Dumped:
    """Pickle what the plain pickler gave up at."""
    try:
        if isinstance(error, RecursionError | NotRunning):
            raise error
        return _dump_by_value(value)
    except NotRunning:  # a handle of a runtime that is over
        raise
    except Exception as last:
        raise EncodeError(_complaint(value, last)) from last


def _complaint(value: object, error: Exception) -> str:
    return culprit.describe(value, _can_dump, _message_of(error))


def _dump_by_value(value: object, beside: bool = True) -> _Dumped:
    parts: list[bytes] = []
    buffers: list[memoryview] = []
    # A new one each time: cloudpickle's pickler remembers the globals of the functions it has met.
    pickler = _by_value_pickler()(_Sink(parts.append), PROTOCOL, _keeper(buffers) if beside else None)
    pickler.dump(value)
    return parts, pickler.handles, buffers


def _pack_class(cls: type) -> tuple[bytes, list[type]] | None:
    """The bytes of a class that travels by value, and all such classes in them; None if they can't be kept."""
    parts: list[bytes] = []
    pickler = _by_value_pickler()(_Sink(parts.append), PROTOCOL, None)
    try:
        pickler.dump(cls)
    except Exception:  # a user's __reduce__ may raise anything; whoever pickles it for its message says what is wrong
        return None
    return None if pickler.handles else (b"".join(parts), pickler.classes)


_by_value_class: Any = None


def _by_value_pickler() -> Any:
    """Return the pickler class for what has no importable name, made when first needed (cloudpickle: 25 ms)."""
    global _by_value_class
    if _by_value_class is not None:
        return _by_value_class
    import io

    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(self, file: _Sink, protocol: int, keep: Callable[[Any], bool] | None) -> None:
            super().__init__(file, protocol, keep)
            self.handles: list[Triple] = []
            self.classes: list[type] = []

        def reducer_override(self, obj: Any) -> Any:
            t = type(obj)
            if t in HANDLE_TYPES:
                return _reduce_handle(obj, self.handles)
            if t is memoryview:
                return _reduce_memoryview(obj)
            if t is types.CodeType:
                return _reduce_code(obj)
            if t.__name__ == "ndarray":
                return _reduce_ndarray(obj)
            if t in _NAMED:
                return NotImplemented if byname.is_by_name(obj) else _reduce_named(obj)
            if t is io.TextIOWrapper and obj is not sys.stdout and obj is not sys.stderr:
                # cloudpickle would send a file that is open for reading as a StringIO.
                raise TypeError("an open file can't travel to another process")
            if t is types.FunctionType or issubclass(t, type):
                if byname.is_by_name(obj):
                    return NotImplemented
                if t.__module__ == "_ctypes" and hasattr(obj, "_length_"):
                    return operator.mul, (obj._type_, obj._length_)  # an array type is its item's times a number
                _tell_cloudpickle(cloudpickle, getattr(obj, "__module__", None))
                reduced = super().reducer_override(obj)
                if type(reduced) is not tuple or len(reduced) != 6:
                    return reduced
                if t is types.FunctionType:
                    return _with_class_globals(obj, reduced)
                self.classes.append(obj)
                return classes.reduce_class(obj, reduced)
            if t is types.ModuleType:
                if byname.module_is_importable(obj):
                    return importlib.import_module, (obj.__name__,)
                _tell_cloudpickle(cloudpickle, obj.__name__)
            return super().reducer_override(obj)

    _by_value_class = ByValuePickler
    return ByValuePickler


def _reduce_code(code: types.CodeType) -> Any:
    # cloudpickle 3.1.3 on drops the name of the file, and with it every line of the user's tracebacks; the bytes of a
    # code object are as much bound to one version of Python either way.
    try:
        return marshal.loads, (marshal.dumps(code),)
    except ValueError:  # a tool put a constant into it that no compiler would
        return NotImplemented


def _tell_cloudpickle(cloudpickle: Any, module_name: object) -> None:
    """Have cloudpickle treat a module by value that it would take for importable because ``sys.modules`` has it."""
    if isinstance(module_name, str) and module_name not in byname.MAIN_MODULES:
        module = sys.modules.get(module_name)
        if module is not None and not byname.module_is_importable(module):
            cloudpickle.register_pickle_by_value(module)


def _with_class_globals(fn: types.FunctionType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add the globals that classes inside `fn` read in their bodies: cloudpickle forgets them (a NameError there)."""
    names = uses(fn.__code__).class_names
    if names:
        _, slots = reduced[2]
        for name in names:
            if name in fn.__globals__:
                slots["__globals__"].setdefault(name, fn.__globals__[name])
    return reduced


def _reduce_handle(handle: Handle, handles: list[Triple]) -> tuple[Any, ...]:
    if handle.KIND <= 0:
        raise TypeError(f"{culprit.type_name(type(handle))} is an abstract handle: it names no record")
    triple = handle._name()
    handles.append(triple)
    return open_handle, triple


def _reduce_named(obj: Any) -> tuple[Any, ...]:
    if type(obj) is typing.NewType:
        return typing.NewType, (obj.__name__, obj.__supertype__)
    # With an empty cache: what it computes is the same, and the cache may be large.
    return _rebuild_lru_cache, (obj.__wrapped__, obj.cache_parameters())


def _rebuild_lru_cache(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)


def _reduce_memoryview(view: memoryview) -> tuple[Any, ...]:
    shape = view.shape or ()
    if not shape or (len(shape) > 1 and 0 in shape):
        raise TypeError("a memoryview without dimensions, or with an empty one among several, can't be rebuilt")
    # Fails here, in the sender, for a format that cast() can't make.
    memoryview(bytes(view.itemsize)).cast("B").cast(view.format)  # type: ignore[call-overload]
    flat: Any = view
    if view.nbytes < LARGE_BYTES or not view.c_contiguous:  # only what is in C order can be cast to the shape again
        flat = view.tobytes() if view.readonly else bytearray(view.tobytes())
    return _rebuild_memoryview, (pickle.PickleBuffer(flat), view.format, shape)


def _reduce_ndarray(array: Any) -> Any:
    """A large array with gaps is made one without: pickle would copy it more than once."""
    if (
        type(array).__module__ != "numpy"
        or array.flags.c_contiguous
        or array.flags.f_contiguous
        or array.nbytes < LARGE_BYTES
        or array.dtype.hasobject
    ):
        return NotImplemented
    return array.copy().__reduce_ex__(PROTOCOL)


def _rebuild_memoryview(buffer: Data, format: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer)
    if len(shape) == 1:
        return view if format == "B" else view.cast(format)  # type: ignore[call-overload]
    return view.cast(format, shape)  # type: ignore[call-overload, no-any-return]


def _can_dump(value: object) -> bool:
    try:
        _dump(value, _idle_whole)
    except Exception:  # as in _dump
        return False
    return True


def _message_of(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return _safe_str(error) or type(error).__name__


# ---------------------------------------------------------------------------------------------------------- decoding


def decode(header: int, data: Data, buffers: Iterable[Any] | None = None) -> Any:
    """Rebuild the value of a message.

    Args:
        header: without HAS_BUFFERS.
        buffers: what travelled beside it, in order.

    Raises:
        DecodeError: the bytes are no message, or something in it can't be made in this process, or a handle in it
            names nothing.
        MprocError: as raised where a handle in it was opened.
    """
    # Cost: int 0.11 us, str 0.13, None 0.06, a small list 0.4 (tests/codec/bench_codec.py)
    kind = header >> TAG_SHIFT
    try:
        if kind == T_INT:
            return _unpack_int(data)[0]
        if kind == T_PICKLE:
            return _loads(data, buffers=buffers)
        if kind <= T_TRUE:
            if kind and not data:
                return _CONSTANTS[kind]
        elif kind == T_STR:
            return data.decode() if type(data) is bytes else str(data, "utf-8")
        elif kind == T_BYTES:
            return data if type(data) is bytes else bytes(data)
        elif kind == T_FLOAT:
            return _unpack_float(data)[0]
        elif kind == _K_HANDLE:
            n, handle_kind, base, gen = _unpack_handle(data)
            if n == 1:
                return open_handle(handle_kind, base, gen)
        elif kind == _K_TUPLE:
            (n,) = _read_count(data)
            # The table has the handles of the tuple first, then those deeper inside.
            found = _loads(memoryview(data)[8 + 24 * n :], buffers=buffers)
            # Damaged it may be anything: a channel, say, and going through that would receive from it.
            if type(found) is tuple and len(found) == 2 and type(found[0]) is bytes and type(found[1]) is list:
                places, items = found
                at = 8
                for place in places:
                    items[place] = open_handle(*_read_triple(data, at))
                    at += 24
                return tuple(items)
        elif kind == _K_PICKLE_HANDLES:
            return _loads(split_table(data)[1], buffers=buffers)
    except (MprocError, DecodeError):
        raise
    except _struct_error as error:
        raise DecodeError(f"not a message: {error}") from error
    except Exception as error:
        raise DecodeError(f"can't rebuild a message here: {type(error).__name__}: {_safe_str(error)}") from error
    raise DecodeError(f"not a message: header {header:#x} with {len(data)} bytes")


# -------------------------------------------------------------------------------------------------------- exceptions

# What travels: (traceback_text, nodes), pickled; node 0 is the exception itself, the others are what it was raised
# from. A node is (type name, text, pickle or b"", index of cause, index of context, suppress_context); -1: none.
_Node = tuple[str, str, bytes, int, int, bool]


def encode_exception(exc: BaseException, traceback_text: str) -> tuple[int, bytes]:
    """Return an exception and its traceback text as ``(header, data)``. Never fails.

    What can't be pickled, or does not load back as what it was, travels as its type's name and its text, and becomes a
    :class:`RemoteError`. Causes, contexts and notes travel too.
    """
    chain = _chain_of(exc)
    index = {id(one): number for number, one in enumerate(chain)}
    nodes: list[_Node] = []
    handles: list[Triple] = []
    for one in chain:
        payload, found = _dump_exception(one)
        handles += found
        cause = index.get(id(one.__cause__), -1)
        context = index.get(id(one.__context__), -1)
        nodes.append((culprit.type_name(type(one)), _safe_str(one), payload, cause, context, one.__suppress_context__))
    data = pickle.dumps((str(traceback_text), nodes), PROTOCOL)
    if handles:
        data = pack_table(handles) + data
        return _H_EXCEPTION | HAS_HANDLES | len(data), data
    return _H_EXCEPTION | len(data), data


def decode_exception(header: int, data: Data) -> tuple[BaseException, str]:
    """Return the exception and its traceback text. Never fails: what can't be rebuilt here is a RemoteError."""
    try:
        kind = header >> TAG_SHIFT
        if kind != T_EXCEPTION and kind != _K_EXCEPTION_HANDLES:
            raise DecodeError(f"header {header:#x} is not an exception's")
        payload = split_table(data)[1] if kind == _K_EXCEPTION_HANDLES else data
        found = _loads(payload)
        # As in decode: nothing is gone through that may be a channel.
        if type(found) is not tuple or type(found[1]) is not list or {*map(type, found[1])} != {tuple}:
            raise DecodeError("the bytes are not an exception's")
        text, nodes = found
        excs = [_load_exception(node, text if number == 0 else "") for number, node in enumerate(nodes)]
        for exc, (_, _, _, cause, context, suppress) in zip(excs, nodes, strict=True):
            if cause >= 0:
                exc.__cause__ = excs[cause]
            if context >= 0:
                exc.__context__ = excs[context]
            # Last: assigning a cause sets it.
            exc.__suppress_context__ = suppress
        return excs[0], str(text)
    except Exception as error:  # must not fail: it runs where an error is already being reported
        broken = RemoteError(f"an exception of another process can't be read here: {_safe_str(error)}")
        broken.__cause__ = error
        return broken, ""


def _chain_of(exc: BaseException) -> list[BaseException]:
    chain = [exc]
    for one in chain:  # grows while it is walked
        for other in (one.__cause__, one.__context__):
            if other is not None and len(chain) < _MAX_CHAIN and not any(other is known for known in chain):
                chain.append(other)
    return chain


def _dump_exception(exc: BaseException) -> tuple[bytes, list[Triple]]:
    for form in (_as_it_pickles, _without_init):
        try:
            payload, handles = _dump_whole(form(exc))
            if _is_copy(_loads(payload), exc):
                return payload, handles
        except Exception:  # a user's __reduce__ or __init__; the next form may do
            continue
    return b"", []


def _as_it_pickles(exc: BaseException) -> object:
    return exc


class _WithoutInit:
    """Pickles as an exception that is rebuilt without its ``__init__``.

    Pickle calls ``cls(*args)``, and that is wrong for the many exceptions whose ``__init__`` takes something else than
    what it hands to ``Exception.__init__``: it fails, or builds the text of the text.
    """

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_exception, (type(self.exc), self.exc.args, dict(self.exc.__dict__))


def _without_init(exc: BaseException) -> object:
    return _WithoutInit(exc)


def _rebuild_exception(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    exc = cls.__new__(cls, *args)
    exc.args = args
    exc.__dict__.update(state)
    return exc


def _is_copy(back: object, exc: BaseException) -> bool:
    """Tell whether `back` is what `exc` was, as far as its type, plain arguments and attributes' names tell."""
    if type(back) is not type(exc) or len(back.args) != len(exc.args):
        return False
    for mine, theirs in zip(exc.args, back.args, strict=True):
        if type(mine) is not type(theirs) or (type(mine) in (str, int, bytes, bool) and mine != theirs):
            return False
    return exc.__dict__.keys() == back.__dict__.keys()


def _load_exception(node: _Node, traceback_text: str) -> BaseException:
    type_name, text, payload = node[:3]
    if payload:
        try:
            exc = _loads(payload)
            if isinstance(exc, BaseException):
                return exc
        except Exception as error:  # a missing module, or a user's __init__
            return RemoteError(
                f"{type_name}: {text} (can't be rebuilt here: {type(error).__name__}: {_safe_str(error)})",
                type_name,
                traceback_text,
            )
    return RemoteError(f"{type_name}: {text}", type_name, traceback_text)


def _safe_str(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # a user's __str__
        return f"<text of {type(exc).__name__} failed>"
