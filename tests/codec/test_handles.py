"""codec/handles.py: handles travel by reference, are counted wherever they hide, and nowhere else."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproc_go.codec import handles, wire
from mproc_go.errors import EncodeError, NotRunning


class Toy(handles.Handle):
    """A handle as a channel's would be: one object per record and process."""

    __slots__ = ()
    KIND = 201

    def send(self, value: int) -> str:
        return f"{self._base}:{value}"

    def __len__(self) -> int:
        return 0


class Abstract(handles.Handle):
    __slots__ = ()


OPENED: weakref.WeakValueDictionary[tuple[int, int], Toy] = weakref.WeakValueDictionary()


def open_toy(base: int, gen: int) -> Toy:
    if base == 666:
        raise NotRunning("closed")
    toy = OPENED.get((base, gen))
    if toy is None:
        toy = Toy()
        toy._base, toy._gen = base, gen
        OPENED[base, gen] = toy
    return toy


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    handles.register(Toy.KIND, open_toy)
    yield
    del handles.OPENERS[Toy.KIND]


@dataclasses.dataclass
class Holder:
    toy: Toy


def roundtrip(value: object) -> tuple[object, list[tuple[int, int, int]]]:
    header, data = wire.encode(value)
    assert header & wire.LENGTH_MASK == len(data)
    assert bool(header & wire.HAS_HANDLES) == bool(wire.handles_in(header, data))
    return wire.decode(header, data), wire.handles_in(header, data)


def test_a_handle_as_the_whole_message() -> None:
    """The same handle comes out, and the table names it."""
    toy = open_toy(7, 2)
    back, table = roundtrip(toy)
    assert back is toy and table == [(201, 7, 2)]
    assert handles.handle_table(wire.encode(toy)[1]) == table


def test_handles_are_counted_wherever_they_hide() -> None:
    """In containers, attributes, closures, bound methods, defaults, partials, local classes."""
    import functools

    toy, other = open_toy(1, 1), open_toy(2, 5)
    one, two = (201, 1, 1), (201, 2, 5)
    back, table = roundtrip([toy, {"k": (other,)}])
    assert back[0] is toy and back[1]["k"][0] is other and table == [one, two]
    assert roundtrip({toy: 1, other: 2})[1] == [one, two]
    back, table = roundtrip(Holder(toy))
    assert back.toy is toy and table == [one]
    back, table = roundtrip(toy.send)
    assert back(3) == "1:3" and table == [one]
    back, table = roundtrip(lambda: toy.send(4))
    assert back() == "1:4" and table == [one]
    back, table = roundtrip(functools.partial(Toy.send, other))
    assert back(5) == "2:5" and table == [two]

    class Local:
        channel = toy

        def __init__(self) -> None:
            self.other = other

    back, table = roundtrip(Local())
    assert back.other is other and sorted(table) == [one, two]


def test_handles_among_the_items_of_a_tuple() -> None:
    """Each at its place, counted before those deeper inside; a named tuple stays one."""
    a, b = open_toy(1, 1), open_toy(2, 5)
    value = (1, a, [b, None], None, b, "x")
    back, table = roundtrip(value)
    assert type(back) is tuple and back == value and back[1] is a and back[4] is b and back[2][0] is b
    assert table == [(201, 1, 1), (201, 2, 5), (201, 2, 5)]
    assert roundtrip((a,))[0] == (a,)
    fn, twin = roundtrip((lambda: a, b))[0]
    assert fn() is a and twin is b
    with pytest.raises(EncodeError, match=r"'_thread\.lock' \(found in tuple\[1\] -> list\[0\]\)"):
        wire.encode((a, [threading.Lock()]))
    with pytest.raises(EncodeError, match="abstract handle"):
        wire.encode((a, Abstract()))


def test_one_object_counts_once_and_equal_objects_each() -> None:
    """Pickle writes an object once; a second object of the same record is a second reference."""
    toy = open_toy(1, 1)
    twin = Toy()
    twin._base, twin._gen = 1, 1
    assert twin == toy and hash(twin) == hash(toy) and {toy: 1}[twin] == 1
    assert roundtrip([toy, toy])[1] == [(201, 1, 1)]
    assert roundtrip([toy, twin])[1] == [(201, 1, 1)] * 2


def test_messages_without_handles_say_so() -> None:
    """No table, no flag: also right after a message with handles."""
    toy = open_toy(1, 1)
    for value in ([1], {"a": (1,)}, lambda: 1):
        roundtrip([toy])
        header, data = wire.encode(value)
        assert not header & wire.HAS_HANDLES and wire.handles_in(header, data) == []


def test_a_failed_encode_leaves_no_handle_behind() -> None:
    """Neither in the next message of the plain pickler nor of the other one."""
    toy = open_toy(1, 1)
    for bad in ([toy, threading.Lock()], [toy, lambda: 0, threading.Lock()]):
        with pytest.raises(EncodeError):
            wire.encode(bad)
        assert roundtrip([2, (3,)])[1] == []
        assert roundtrip([open_toy(9, 9)])[1] == [(201, 9, 9)]


class SendsMeanwhile:
    """Its pickling encodes another message with a handle."""

    def __reduce__(self) -> tuple[object, ...]:
        assert roundtrip([open_toy(50, 1)])[1] == [(201, 50, 1)]
        return SendsMeanwhile, ()


def test_handles_of_an_encode_inside_an_encode_are_its_own() -> None:
    """Each message has the table of what it holds."""
    assert roundtrip([open_toy(1, 1), SendsMeanwhile(), open_toy(2, 2)])[1] == [(201, 1, 1), (201, 2, 2)]


class Parks:
    """Its pickling lets another goroutine run, which encodes and parks too."""

    switch = staticmethod(lambda: None)

    def __reduce__(self) -> tuple[object, ...]:
        type(self).switch()
        return Parks, ()


def test_a_goroutine_that_parks_in_the_middle_of_an_encode() -> None:
    """Two greenlets of one thread, encoding in turns: the handles do not mix."""
    greenlet = pytest.importorskip("greenlet")
    tables: dict[int, list[tuple[int, int, int]]] = {}

    def work(n: int) -> None:
        tables[n] = roundtrip([open_toy(n, 1), Parks(), open_toy(n, 2)])[1]

    first, second = greenlet.greenlet(work), greenlet.greenlet(work)
    main = greenlet.getcurrent()
    Parks.switch = staticmethod(lambda: main.switch())
    try:
        first.switch(1)
        second.switch(2)
        first.switch()
        second.switch()
    finally:
        Parks.switch = staticmethod(lambda: None)
    assert tables == {1: [(201, 1, 1), (201, 1, 2)], 2: [(201, 2, 1), (201, 2, 2)]}


def test_handles_in_exceptions_are_counted() -> None:
    """An exception, and its cause, may carry a channel."""
    exc = ValueError(open_toy(1, 1))
    exc.__cause__ = KeyError(open_toy(2, 2))
    header, data = wire.encode_exception(exc, "tb")
    assert sorted(wire.handles_in(header, data)) == [(201, 1, 1), (201, 2, 2)]
    back, text = wire.decode_exception(header, data)
    assert back.args[0] is open_toy(1, 1) and back.__cause__.args[0] is open_toy(2, 2) and text == "tb"


def test_outside_of_messages_handles_do_not_pickle() -> None:
    """They would not be counted."""
    toy = open_toy(1, 1)
    with pytest.raises(TypeError, match="handles travel in arguments and messages of goroutines"):
        pickle.dumps([toy])
    with pytest.raises(EncodeError, match="abstract handle"):
        wire.encode(Abstract())


def test_a_copy_of_a_handle_is_the_handle() -> None:
    """There is nothing else to copy."""
    toy = open_toy(1, 1)
    assert copy.copy(toy) is toy and copy.deepcopy([toy])[0] is toy


def test_equality_truth_and_repr() -> None:
    """By kind, base and generation; true also when empty."""
    toy = open_toy(1, 1)

    class Other(handles.Handle):
        __slots__ = ()
        KIND = 204

    other = Other()
    other._base, other._gen = 1, 1
    assert toy != other and len({toy, other}) == 2
    assert toy != open_toy(1, 2) and toy != open_toy(2, 1) and toy != 1 and bool(toy)
    assert repr(toy) == "<Toy 1.1>" and repr(Toy()) == "<Toy ?.?>"


def test_encoding_keeps_no_handle_alive() -> None:
    """A message is bytes: what it names is kept by whoever counts."""

    def send() -> weakref.ref[Toy]:
        toy = open_toy(77, 1)
        wire.encode([toy])
        wire.encode(lambda: toy)
        return weakref.ref(toy)

    gone = send()
    gc.collect()
    assert gone() is None


def test_unknown_kinds_and_errors_of_openers() -> None:
    """An unknown kind can't be decoded; an error of the runtime passes as it is."""
    header, data = wire.encode([open_toy(1, 1)])
    opener = handles.OPENERS.pop(201)
    with pytest.raises(wire.DecodeError, match="kind 201"):
        wire.decode(header, data)
    handles.OPENERS[201] = opener
    twin = Toy()
    twin._base, twin._gen = 666, 1
    for message in (twin, [twin]):
        with pytest.raises(NotRunning):
            wire.decode(*wire.encode(message))


def test_register_refuses_what_can_only_be_a_mistake() -> None:
    """Kind 0, and a kind that is taken; the same opener again is none."""
    with pytest.raises(ValueError, match="positive"):
        handles.register(0, open_toy)
    with pytest.raises(ValueError, match="taken"):
        handles.register(201, lambda base, gen: open_toy(base, gen))
    handles.register(201, open_toy)


def test_an_empty_table_is_a_value_error() -> None:
    """A message without handles has no table, and its header says so."""
    with pytest.raises(ValueError, match="0 handles"):
        handles.handle_table(bytes(8))


@given(st.binary(max_size=200))
def test_a_table_of_nonsense_is_a_value_error(data: bytes) -> None:
    """Whatever the bytes are, the table lies inside them."""
    try:
        table = handles.handle_table(data)
    except ValueError:
        return
    assert 0 < len(table) <= len(data) // 24


@given(st.lists(st.tuples(*[st.integers(0, (1 << 64) - 1)] * 3), min_size=1), st.binary())
def test_tables_read_back(table: list[tuple[int, int, int]], payload: bytes) -> None:
    """What is written is read, and the payload is what is behind it."""
    data = handles.pack_table(table) + payload
    assert handles.handle_table(data) == table
    assert bytes(handles.split_table(data)[1]) == payload


def test_a_handle_in_a_class_is_counted_with_each_message() -> None:
    """The bytes of a class are kept for the next message; not so where that would keep a handle from being counted."""

    class Owner:
        toy = open_toy(8, 1)

    for _ in range(2):
        assert wire.handles_in(*wire.encode(Owner())) == [(Toy.KIND, 8, 1)]
