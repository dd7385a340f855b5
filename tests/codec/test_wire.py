"""codec/wire.py: an equal value of equal exact type, always; errors that name the culprit; exceptions that travel."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import math
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import typing
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproc_go.codec import wire
from mproc_go.codec.handles import pack_table
from mproc_go.errors import EncodeError, RemoteError

REPO = pathlib.Path(__file__).resolve().parents[2]


class Colour(enum.IntEnum):
    RED = 1


class Permission(enum.Flag):
    R = 1
    W = 2


Point = collections.namedtuple("Point", "x y")


class Text(str):
    pass


class Number(int):
    pass


@dataclasses.dataclass
class Record:
    a: int
    b: list[int]


def same(a: object, b: object) -> bool:
    """Equal, and of equal exact type all the way down; a NaN is itself, and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k, other_k) and same(v, other_v)
            for (k, v), (other_k, other_v) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, (list, tuple, collections.deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        left = sorted(a, key=lambda item: (type(item).__name__, repr(item)))
        right = sorted(b, key=lambda item: (type(item).__name__, repr(item)))
        return len(a) == len(b) and all(map(same, left, right))
    return bool(a == b)


def sent(value: object) -> tuple[int, bytes, list[bytearray]]:
    """The value as a message: header, data, and what travels beside it."""
    header, data = wire.encode(value)
    assert header >> wire.TAG_SHIFT & 0x7F
    assert header < 1 << 57
    if isinstance(data, bytes):
        assert header & wire.LENGTH_MASK == len(data)
        return header, data, []
    assert len(data) >= wire.LARGE_BYTES
    whole = b"".join(data.parts)
    if not data.buffers:
        assert header & wire.LENGTH_MASK == len(whole) == len(data) and not data.handles
    elif data.handles:
        whole = pack_table(data.handles) + whole
        header |= wire.HAS_HANDLES
    assert bool(data.buffers) == bool(header & wire.HAS_BUFFERS)
    beside = [bytearray(view) for view in data.buffers]
    assert all(len(one) >= wire.LARGE_BYTES for one in beside)
    data.release()
    return header & ~wire.HAS_BUFFERS, whole, beside


def copied(value: object) -> object:
    return wire.decode(*sent(value))


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(1 << 200), max_value=1 << 200)
    | st.integers(min_value=(1 << 63) - 2, max_value=(1 << 64) + 2)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(exclude_categories=()))  # lone surrogates included
    | st.binary()
    | st.binary().map(bytearray)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from([Colour.RED, Permission.R | Permission.W, ..., NotImplemented, int, Record, len, math.sin])
    | st.integers().map(Number)
    | st.text().map(Text)
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9))
)
hashable = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = hashable | st.tuples(hashable, hashable)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(hashable, inner)
        | st.sets(hashable)
        | st.frozensets(hashable)
        | st.builds(Point, inner, inner)
        | st.lists(inner).map(collections.deque)
        | st.dictionaries(hashable, inner).map(collections.OrderedDict)
    ),
    max_leaves=20,
)


@settings(max_examples=400, deadline=None)
@given(values)
def test_any_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    """The law of messages, on anything hypothesis can think of."""
    assert same(copied(value), value)


@settings(max_examples=100, deadline=None)
@given(values)
def test_encoding_does_not_change_the_value(value: object) -> None:
    """What is sent is as it was before."""
    before = copy.deepcopy(value)
    wire.encode(value)
    assert same(value, before)


@pytest.mark.parametrize(
    "value",
    [
        True,
        -0.0,
        float("nan"),
        float("-inf"),
        (1 << 63) - 1,
        -(1 << 63),
        1 << 63,
        -(1 << 63) - 1,
        "",
        "\ud800",
        "ab\udfffcd",
        "\x00",
        b"",
        b"x" * 5000,
        bytearray(b"ab"),
        bytearray(b"x" * 500_000),
        (),
        (1, [2, (3,)]),
        [True, 1, 1.0],
        {1: "a", "1": b"a", None: (), (1, 2): [3]},
        {"x": bytearray(b"y")},
        set(),
        frozenset({1, (2,)}),
        datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        decimal.Decimal("-0.00"),
        fractions.Fraction(1, 3),
        uuid.UUID(int=7),
        pathlib.PurePosixPath("/a"),
        Colour.RED,
        Permission.R | Permission.W,
        Point(1, [2]),
        Text("t"),
        Number(3),
        Record(1, [2]),
        collections.Counter("abca"),
        collections.defaultdict(list, a=[1]),
        types.SimpleNamespace(a=1),
        range(3),
        slice(1, 2, None),
        list[int],
        dict[str, int] | None,
        type(None),
        types.FunctionType,
        len,
        "".join,
        os.path,
        typing.Any,
    ],
    ids=repr,
)
def test_the_values_that_simple_encoders_change(value: object) -> None:
    """Each of these is changed or refused by msgpack, marshal or plain pickle somewhere."""
    back = copied(value)
    assert same(back, value) or (callable(value) and type(back) is type(value) and back("ab") == value("ab"))


def test_shared_and_recursive_structures_keep_their_shape() -> None:
    """Two references to one object stay two references to one object; a cycle stays a cycle."""
    shared = [1]
    pair = copied([shared, shared])
    assert pair[0] is pair[1]
    loop: list[object] = []
    loop.append(loop)
    back = copied(loop)
    assert back[0] is back
    keyed: dict[str, object] = {}
    keyed["me"] = (keyed,)
    got = copied(keyed)
    assert got["me"][0] is got


def test_a_message_is_a_copy() -> None:
    """Changing the value afterwards changes nothing on the way, also where it is large and written without a copy."""
    for value in ([1, 2], bytearray(300_000), {"a": bytearray(b"x" * 70_000)}):
        message = sent(value)
        expected = copy.deepcopy(value)
        inner = value["a"] if isinstance(value, dict) else value
        inner[0] = 99
        assert wire.decode(*message) == expected


def test_numpy_arrays_keep_dtype_shape_and_order() -> None:
    """Arrays, scalars, structured and object arrays."""
    np = pytest.importorskip("numpy")
    for array in (
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 3), "i2"),
        np.arange(100_000)[::2],
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array([1, "a", None], dtype=object),
        np.array(["2024-01-01"], dtype="M8[D]"),
        np.array(5),
    ):
        back = copied(array)
        assert type(back) is type(array) and back.dtype == array.dtype and back.shape == array.shape
        assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.c_contiguous
        assert np.array_equal(back, array)
        assert back.flags.writeable
    assert type(copied(np.float64(1.5))) is np.float64


def test_memoryviews_keep_format_shape_and_readonly() -> None:
    """Cloudpickle would make bytes of them."""
    for view in (
        memoryview(b"abc"),
        memoryview(bytearray(b"abc")),
        memoryview(bytes(16)).cast("d"),
        memoryview(bytearray(range(6))).cast("B", (2, 3)),
        memoryview(b""),
    ):
        back = copied(view)
        assert type(back) is memoryview and back == view
        assert type(copied([view, lambda: 0])[0]) is memoryview
        assert (back.format, back.shape, back.readonly) == (view.format, view.shape, view.readonly)


def test_functions_without_an_importable_name_travel_by_value() -> None:
    """Lambdas, closures and what they captured, recursion, decorated and cached functions."""
    step = 3

    def add(n: int) -> int:
        return n + step

    def fact(n: int) -> int:
        return 1 if n < 2 else n * fact(n - 1)

    @functools.lru_cache(maxsize=7)
    def cached(n: int) -> int:
        return n * 2

    assert copied(add)(1) == 4
    assert copied(lambda: add(2))() == 5
    assert copied(fact)(5) == 120
    assert copied(functools.partial(add, 4))() == 7
    back = copied(cached)
    assert back(4) == 8 and back.cache_parameters()["maxsize"] == 7
    assert copied([1, add, {"f": add}])[2]["f"](0) == 3
    assert copied(test_a_message_is_a_copy) is test_a_message_is_a_copy


def test_what_can_not_travel_is_told_with_the_way_out() -> None:
    """The two that come up first: a coroutine, for who knows asyncio, and a generator."""

    async def answer() -> int:
        return 42

    coroutine = answer()
    with pytest.raises(EncodeError, match=r"'coroutine' \(found in list\[0\]\): .*; a goroutine is a plain function"):
        wire.encode([coroutine])
    coroutine.close()
    with pytest.raises(EncodeError, match="'generator': .*; send its values over a channel"):
        wire.encode(n for n in range(3))


def test_local_classes_keep_their_identity() -> None:
    """A class made in a function is the same class after a round trip, and so are its instances' type and methods."""

    class Local:
        made = 0

        def __init__(self) -> None:
            self.x = [1]

        def double(self) -> list[int]:
            return self.x * 2

    back = copied(Local())
    assert type(back) is Local and back.x == [1] and back.double() == [1, 1]
    assert copied(Local) is Local

    class Shade(enum.Enum):
        DARK = "d"

    assert copied(Shade.DARK) is Shade.DARK


def test_an_old_message_does_not_reset_the_class_that_defined_it() -> None:
    """Class attributes and methods of the defining process are not overwritten by what comes back."""

    class Counter:
        count = 0

        def bump(self) -> None:
            type(self).count += 1

    method = Counter.bump
    header, data = wire.encode(Counter())
    Counter.count = 5
    wire.decode(header, data)
    assert Counter.count == 5
    assert Counter.bump is method


def test_a_class_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of one class carry the same bytes of it until it has a new version."""

    class Point:
        made = 0

    packed = []
    original = wire._pack_class

    def pack(cls: type) -> Any:
        packed.append(cls)
        return original(cls)

    monkeypatch.setattr(wire, "_pack_class", pack)
    for n in range(3):
        assert type(copied([Point(), Point()])[1]) is Point
        assert packed == [Point] * (1 if n < 2 else 2)
        if n == 1:
            Point.made = 1


def test_init_subclass_does_not_run_per_message() -> None:
    """A registry of subclasses in a base class sees a travelling class once."""
    seen = []

    class Base:
        def __init_subclass__(cls) -> None:
            seen.append(cls.__name__)

    class Child(Base):
        pass

    for _ in range(3):
        assert type(copied(Child())) is Child
    assert seen == ["Child"]


def test_modules_made_at_run_time_travel_by_value() -> None:
    """A module that nobody can import is no name to refer to, also while ``sys.modules`` has it."""
    module = types.ModuleType("made_at_run_time")
    sys.modules["made_at_run_time"] = module
    try:
        exec("def f(n):\n    return n + g\ng = 10\nclass C:\n    x = 4\n", module.__dict__)
        for value in (module.f, module.C, module):
            header, data = wire.encode(value)
            del sys.modules["made_at_run_time"]
            back = wire.decode(header, data)
            sys.modules["made_at_run_time"] = module
            if value is module.f:
                assert back(1) == 11
            elif value is module.C:
                assert back.x == 4
            else:
                assert back.f(2) == 12
    finally:
        sys.modules.pop("made_at_run_time", None)


@pytest.mark.parametrize(
    ("value", "culprit", "where"),
    [
        (threading.Lock(), "_thread.lock", None),
        ({"x": [1, 2, threading.Lock()]}, "_thread.lock", "dict key 'x' -> list[2]"),
        ((types.SimpleNamespace(a=threading.Lock()),), "_thread.lock", "tuple[0] -> attribute 'a' of SimpleNamespace"),
        ([0, 1, 2, (n for n in [])], "generator", "list[3]"),
        (Record(1, [sys._getframe()]), "frame", "attribute 'b' of Record -> list[0]"),
        (functools.partial(print, threading.Lock()), "_thread.lock", "partial.args -> tuple[0]"),
    ],
    ids=str,
)
def test_an_error_names_the_innermost_culprit(value: object, culprit: str, where: str | None) -> None:
    """The text says which type can't travel and where it lies; the first error is the cause."""
    with pytest.raises(EncodeError) as caught:
        wire.encode(value)
    text = str(caught.value)
    assert f"can't send a value of type '{culprit}'" in text
    assert (f"(found in {where})" in text) if where else ("found in" not in text)
    assert isinstance(caught.value.__cause__, Exception)


def test_an_error_names_what_a_closure_captured() -> None:
    """The variable's name is what the user knows it by."""
    lock = threading.Lock()

    def f() -> object:
        return lock

    with pytest.raises(EncodeError, match=r"'_thread.lock' \(found in list\[0\] -> variable 'lock' of f\(\)\)"):
        wire.encode([f])


def test_open_files_and_deep_nesting_are_errors() -> None:
    """Neither a StringIO in the place of a file nor a crash."""
    with open(__file__) as file, pytest.raises(EncodeError, match=r"_io\.TextIOWrapper"):
        wire.encode([file])
    deep: list[object] = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(EncodeError, match="nested too deeply") as raised:
        wire.encode(deep)
    assert len(str(raised.value)) < 1000
    while deep:  # taken apart from outside, so that its end is not deeply nested either
        deep = deep[0]
    assert type(copied(io.BytesIO(b"abc"))) is io.BytesIO


class EncodesMeanwhile:
    """A user's class whose pickling sends something itself."""

    def __init__(self, fail: bool = False) -> None:
        self.fail = fail

    def __reduce__(self) -> tuple[object, ...]:
        assert copied([1, {"a": (2,)}]) == [1, {"a": (2,)}]
        if self.fail:
            raise ValueError("no")
        return EncodesMeanwhile, (False,)


def test_an_encode_inside_an_encode_is_separate() -> None:
    """A user's __reduce__ may encode, and may fail, without any trace in the encodes around it."""
    back = copied([EncodesMeanwhile(), [EncodesMeanwhile()]])
    assert type(back[1][0]) is EncodesMeanwhile
    for _ in range(3):
        with pytest.raises(EncodeError, match=r"EncodesMeanwhile.*list\[0\].*: no"):
            wire.encode([EncodesMeanwhile(fail=True)])
        assert copied([1, (2,)]) == [1, (2,)]


def test_threads_encode_at_once() -> None:
    """Many threads, each with its own answer."""
    wrong = []

    def work(n: int) -> None:
        for i in range(300):
            value = [n, i, (str(n), EncodesMeanwhile()), {"n": n}]
            back = copied(value)
            if back[:2] != [n, i] or back[3] != {"n": n}:
                wrong.append(back)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_of_a_message_is_kept() -> None:
    """The reused picklers hold no reference to what they pickled."""
    import weakref

    value = Record(1, [2])
    gone = weakref.ref(value)
    wire.encode([value, value])
    del value
    assert gone() is None


@settings(max_examples=500, deadline=None)
@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=80), st.integers(0, 0x1FF))
def test_bytes_that_are_no_message_raise_decode_error(header: int, data: bytes, kind: int) -> None:
    """Any header and any bytes; pickles are trusted, so only the framing is fuzzed."""
    for one in (header, kind << wire.TAG_SHIFT | len(data)):
        if one >> wire.TAG_SHIFT & 0xFF in (wire.T_PICKLE, wire.T_TUPLE):
            continue
        try:
            wire.decode(one, data)
        except wire.DecodeError:
            pass


def test_truncated_messages_raise_decode_error() -> None:
    """A pickle cut short, a number of the wrong size, a tag of nobody's."""
    header, data = wire.encode([1, "abc"])
    with pytest.raises(wire.DecodeError):
        wire.decode(header, data[:-1])
    with pytest.raises(wire.DecodeError):
        wire.decode(wire.encode(1)[0], b"123")
    with pytest.raises(wire.DecodeError):
        wire.decode(0, b"")


def test_views_decode_as_bytes_do() -> None:
    """A slice of the segment may come as a memoryview."""
    for value in (1, 1.5, "ä", b"abc", [1], (1 << 80,)):
        header, data = wire.encode(value)
        assert same(wire.decode(header, memoryview(data)), value)


def test_a_missing_module_is_a_decode_error() -> None:
    """What the receiver lacks is named."""
    payload = pickle.dumps(Record(1, []), 5).replace(b"test_wire", b"no_module")
    with pytest.raises(wire.DecodeError, match="no_module"):
        wire.decode(wire.T_PICKLE << wire.TAG_SHIFT | len(payload), payload)


def test_cloudpickle_is_not_loaded_for_plain_values() -> None:
    """Importing it costs 25 ms: only what needs it pays."""
    code = "import sys; from mproc_go.codec import wire, functions; wire.encode([1, {2: (3,)}, len]);"
    code += "assert 'cloudpickle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


# -------------------------------------------------------------------------------------------------------- exceptions


class TwoArguments(Exception):
    """Its __init__ is not what pickle calls it with."""

    def __init__(self, name: str, *, code: int) -> None:
        super().__init__(f"{name} failed with {code}")
        self.code = code


class TextOfText(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"<{name}>")


class WithLock(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class BadText(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no text")


def thrown(exc: BaseException, text: str = "tb") -> BaseException:
    back, back_text = wire.decode_exception(*wire.encode_exception(exc, text))
    assert back_text == text
    return back


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x", 1),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "/x"),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("g", [ValueError(1), KeyError(2)]),
        TwoArguments("job", code=7),
        TextOfText("a"),
        subprocess.CalledProcessError(1, ["ls"]),
    ],
    ids=repr,
)
def test_exceptions_keep_type_arguments_and_attributes(exc: BaseException) -> None:
    """Also those whose __init__ breaks under plain pickle."""
    back = thrown(exc)
    assert type(back) is type(exc) and str(back) == str(exc)
    assert repr(back.args) == repr(exc.args)
    assert getattr(back, "code", None) == getattr(exc, "code", None)
    assert getattr(back, "filename", None) == getattr(exc, "filename", None)


def test_exceptions_that_cannot_travel_become_remote_errors() -> None:
    """Type name, text and traceback remain."""
    back = thrown(WithLock(), "the traceback")
    assert type(back) is RemoteError
    assert back.type_name.endswith("WithLock") and "locked" in str(back) and back.traceback_text == "the traceback"
    assert type(thrown(BadText())) is RemoteError
    assert type(thrown(ValueError(threading.Lock()))) is RemoteError


def test_causes_contexts_and_notes_travel() -> None:
    """What it was raised from, what was being handled, and what was noted; a cycle among them ends."""
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            first.add_note("a note")
            raise ValueError("second") from first
    except ValueError as exc:
        back = thrown(exc)
        assert type(back.__cause__) is KeyError and back.__cause__.__notes__ == ["a note"]
        assert back.__suppress_context__ and back.__context__ is back.__cause__
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second") from None
    except ValueError as exc:
        back = thrown(exc)
        assert back.__suppress_context__ and back.__cause__ is None
    broken = ValueError("x")
    broken.__cause__ = WithLock()
    assert type(thrown(broken).__cause__) is RemoteError


def test_an_exception_the_receiver_lacks_becomes_a_remote_error() -> None:
    """A module missing over there, and bytes that are none, do not hide the error that is being reported."""
    header, data = wire.encode_exception(TextOfText("a"), "the traceback")
    moved = data.replace(b"test_wire", b"no_module")
    back, text = wire.decode_exception(header, moved)
    assert type(back) is RemoteError and "no_module" in str(back) and text == "the traceback"
    assert back.traceback_text == "the traceback"
    for one in (header, 0, wire.T_EXCEPTION << 48 | wire.HAS_HANDLES):
        assert type(wire.decode_exception(one, b"nonsense")[0]) is RemoteError


# ------------------------------------------------------------------------------------------------ another process

SCRIPT = '''
import dataclasses, enum, functools, operator, subprocess, sys, typing
from mproc_go.codec import wire
from mproc_go.codec.handles import pack_table

total = 0

@dataclasses.dataclass
class Job:
    n: int
    done = 0
    def work(self):
        global total
        total += self.n
        return Job(self.n + offset)

class Kind(enum.Enum):
    A = 1

class Base:
    base = "old"

class Derived(Base):
    own = "old"
    def both(self):
        return f"{self.base} {self.own} {offset}"

Id = typing.NewType("Id", int)

@functools.lru_cache
def cached(n):
    return n * factor

factor = 3

class Failed(Exception):
    def __init__(self, job, *, kind):
        super().__init__(f"failed {job.n}")
        self.job, self.kind = job, kind

offset = 100

def helper(job):
    return job.work()

def run(job, kind):
    assert kind is Kind.A
    return [helper(job), Kind.A, {"cls": Job}]

CHILD = """
import sys
from mproc_go.codec import wire
from mproc_go.codec.handles import pack_table
for line in sys.stdin:
    header, data = line.split()
    fn, args = wire.decode(int(header), bytes.fromhex(data[1:]))
    try:
        header, data = wire.encode(fn(*args))
    except Exception as exc:
        header, data = wire.encode_exception(exc, "remote")
    print(header, "x" + data.hex(), flush=True)
"""

def fail(job, kind):
    raise Failed(job, kind=kind)

child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def call(fn, *args):
    header, data = wire.encode((fn, args))
    print(header, "x" + data.hex(), file=child.stdin, flush=True)
    header, data = child.stdout.readline().split()
    return int(header), bytes.fromhex(data[1:])

for round in range(3):
    work = Job.work
    Job.done = round + 5
    job, kind, rest = wire.decode(*call(run, Job(1), Kind.A))
    assert type(job) is Job and job == Job(101), job
    assert kind is Kind.A and rest["cls"] is Job
    assert Job.work is work and Job.done == round + 5
    assert wire.decode(*call(lambda j: type(j).done, Job(1))) == round + 5, "a changed class attribute was not sent"
    job.work()
    assert total == 101 * (round + 1), "a method lost the globals of __main__"

# Messages without a function of ours: the class goes along packed, and is loaded where it is newer.
both = operator.methodcaller("both")
for change, expected in [
    (None, "old old 100"),
    (None, "old old 100"),
    (("own", "new"), "old new 100"),
    (("base", "new"), "new new 100"),
    (("base", "newest"), "newest new 100"),
]:
    if change:
        setattr(Base if change[0] == "base" else Derived, *change)
    for _ in range(2):
        assert wire.decode(*call(both, Derived())) == expected, (change, expected)
old = wire.encode(Derived())
Derived.own = "latest"
assert wire.decode(*call(both, Derived())) == "newest latest 100"
assert type(wire.decode(*old)) is Derived and Derived.own == "latest", "an old message reset a class"
assert wire.decode(*call(both, wire.decode(*old))) == "newest latest 100"

assert wire.decode(*call(cached, 5)) == 15
assert wire.decode(*call(lambda f, n: [f(n), f.cache_info().misses], cached, 6)) == [18, 1]
assert wire.decode(*call(len, [Id])) == 1
exc, text = wire.decode_exception(*call(fail, Job(3), Kind.A))
assert type(exc) is Failed and type(exc.job) is Job and exc.kind is Kind.A and str(exc) == "failed 3"
assert text == "remote"
child.stdin.close()
child.wait()
print("fine")
'''


def test_main_classes_and_functions_travel_to_another_process_and_back(tmp_path: pathlib.Path) -> None:
    """What __main__ defines runs in a process with another __main__, and its results are of __main__'s own types."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    env = dict(os.environ, PYTHONPATH=str(REPO))
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine\n"
