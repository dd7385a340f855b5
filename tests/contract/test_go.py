"""go(fn, *args, **kwargs): what can be a goroutine, what it is given, and what comes back by its handle."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import operator
import socket
import threading
import time

import numpy
import pytest

from mproc_go import (
    Chan,
    ChanClosed,
    EncodeError,
    Goroutine,
    RemoteError,
    WaitGroup,
    go,
    num_goroutine,
)
from tests.contract.support import DEADLINE_S, echo, fail

Point = collections.namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


@dataclasses.dataclass
class Box:
    name: str
    inside: list


class Adder:
    def __init__(self, n):
        self.n = n

    def add(self, x):
        return self.n + x

    @classmethod
    def of_ten(cls, x):
        return cls(10).add(x)

    @staticmethod
    def double(x):
        return 2 * x

    def __call__(self, x, *, times=1):
        return (self.n + x) * times


class OwnError(Exception):
    def __init__(self, code, *, detail):
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail

    def __reduce__(self):
        return _own_error, (self.code, self.detail)


def _own_error(code, detail):
    return OwnError(code, detail=detail)


def divide(a, b):
    return a / b


# ------------------------------------------------------------ functions
def test_function_of_a_module(who):
    """A module-level function gets its arguments, and its result comes by the handle."""
    assert who(lambda: go(divide, 6, 3).result(DEADLINE_S)) == 2.0


def test_keyword_arguments(who):
    """Positional and keyword arguments arrive as such, also those named like our own parameters."""

    def f(*args, **kwargs):
        return args, kwargs

    def body():
        assert go(f).result() == ((), {})
        assert go(f, 1, a=2, fn=3, timeout=4, self=5).result() == ((1,), {"a": 2, "fn": 3, "timeout": 4, "self": 5})
        assert go(dict, fn=1, m=2).result() == {"fn": 1, "m": 2}

    who(body)


def test_lambda_closure_nested_function(who):
    """What can't be imported is shipped by value, with what it captured."""

    def body():
        n = 5

        def nested(x):
            def inner():
                return x * n

            return inner()

        assert go(lambda: n + 1).result() == 6
        assert go(nested, 4).result() == 20
        assert [h.result() for h in [go(lambda i=i: i * n) for i in range(20)]] == [5 * i for i in range(20)]

    who(body)


def test_recursive_closure(who):
    """A closure that refers to itself travels."""

    def body():
        def fact(n):
            return n * fact(n - 1) if n else 1

        assert go(fact, 10).result() == 3628800

    who(body)


def test_callables_of_every_kind(who):
    """Methods, partials, callable objects, classes and builtins are functions like any other."""

    def body():
        adder = Adder(3)
        assert go(adder.add, 4).result() == 7
        assert go(Adder.add, adder, 4).result() == 7
        assert go(Adder.of_ten, 4).result() == 14
        assert go(Adder.double, 4).result() == 8
        assert go(adder, 4, times=2).result() == 14
        assert go(functools.partial(adder, 1, times=3)).result() == 12
        assert go(functools.partial(divide, b=2), 8).result() == 4.0
        assert go(Adder, 9).result().n == 9
        assert go(len, [1, 2, 3]).result() == 3
        assert go("x-y".split, "-").result() == ["x", "y"]
        assert go([3, 1].index, 1).result() == 1
        assert go(int, "12").result() == 12
        assert go(operator.itemgetter(1), [4, 5]).result() == 5
        assert go(functools.reduce, operator.add, [1, 2, 3]).result() == 6

    who(body)


def test_bound_method_of_a_handle(who):
    """go(ch.send, 1): methods of handles keep the handle."""

    def body():
        ch = Chan(1)
        go(ch.send, 41).result()
        assert go(ch.recv).result() == 41
        h = go(echo, 5)
        assert go(h.result).result() == 5
        wg = WaitGroup()
        wg.add(1)
        go(wg.done).result()
        wg.wait(DEADLINE_S)
        go(ch.close).result()
        assert ch.closed

    who(body)


def test_function_evaluated_at_once(who):
    """What a function captured is copied when go is called: later changes are not seen."""

    def body():
        box, gate = [1], Chan()
        n = 1

        def f():
            gate.recv()
            return box, n

        h = go(f)
        box.append(2)
        n = 2
        gate.send(None)
        assert h.result() == ([1], 1)
        h = go(f)
        gate.send(None)
        assert h.result() == ([1, 2], 2)

    who(body)


SETTING = 1


def test_globals_evaluated_at_once(rt):
    """A function shipped by value sees the globals as they are when go is called."""
    global SETTING
    namespace = {"__name__": "__main__", "setting": 1, "things": [1]}
    exec("def f(gate):\n    gate.recv()\n    return setting, things", namespace)
    f, gate = namespace["f"], Chan()
    first = go(f, gate)
    namespace["setting"] = 2
    namespace["things"].append(2)
    second = go(f, gate)
    gate.send(0)
    gate.send(0)
    assert first.result(DEADLINE_S) == (1, [1])
    assert second.result(DEADLINE_S) == (2, [1, 2])


def test_captured_state_is_not_shared_between_goroutines(who):
    """Two goroutines of one function each have their own copy of what it captured, wherever they run."""

    def body():
        seen = []

        def f(x):
            seen.append(x)
            return list(seen)

        assert [go(f, i).result() for i in range(6)] == [[i] for i in range(6)]
        assert seen == []

    who(body)


def test_captured_scalar_is_not_shared_between_goroutines(who):
    """nonlocal counters too."""

    def body():
        n = 0

        def f():
            nonlocal n
            n += 1
            return n

        assert [go(f).result() for _ in range(6)] == [1] * 6
        assert n == 0

    who(body)


# ------------------------------------------------------------ arguments and results are copies
def test_arguments_are_copies(who):
    """Changing an argument on either side is not seen on the other."""

    def change(box, gate):
        gate.recv()
        box.append("goroutine")
        return box

    def body():
        box, gate = ["caller"], Chan()
        h = go(change, box, gate)
        box.append("later")
        gate.send(None)
        assert h.result() == ["caller", "goroutine"]
        assert box == ["caller", "later"]

    who(body)


def test_default_values_are_copies(who):
    """A mutable default argument is a value like any other."""

    def body():
        def f(x, seen=[]):  # noqa: B006 - that is the point
            seen.append(x)
            return seen

        assert [go(f, i).result() for i in range(5)] == [[i] for i in range(5)]

    who(body)


def test_every_reader_of_a_result_gets_a_copy(who):
    """result() twice gives two objects."""

    def body():
        h = go(echo, [1])
        first, second = h.result(), h.result()
        first.append(2)
        assert second == [1]
        assert h.result() == [1]

    who(body)


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**64,
    -(3**500),
    1.5,
    float("inf"),
    -0.0,
    3 + 4j,
    "",
    "text",
    "sn\u00f6\U0001f600",
    "\ud800",
    "x" * 5000,
    b"",
    b"bytes\x00\xff",
    bytearray(b"array"),
    (),
    (1, "a", None),
    [],
    [1, [2, [3]], ()],
    {},
    {"a": 1, 2: [3], None: (4,), (1, 2): b""},
    set(),
    {1, 2},
    frozenset({1, "a"}),
    range(3, 9, 2),
    slice(1, None, 2),
    Ellipsis,
    NotImplemented,
    Point(1, [2]),
    Colour.RED,
    {Colour.BLUE: Colour.RED},
    Box("b", [Point(1, 2)]),
    collections.OrderedDict(a=1, b=2),
    collections.deque([1, 2], maxlen=3),
    collections.Counter("hello"),
    collections.defaultdict(list, a=[1]),
    ValueError("as a value"),
    int,
    Box,
    divide,
    len,
]


def shape(v):
    """The value with the type of everything in it."""
    if isinstance(v, dict):
        return type(v), [(shape(k), shape(x)) for k, x in v.items()]
    if isinstance(v, (list, tuple, collections.deque)):
        return type(v), [shape(x) for x in v]
    if isinstance(v, (set, frozenset)):
        return type(v), {(type(x), x) for x in v}
    if isinstance(v, Exception):
        return type(v), shape(v.args)
    if isinstance(v, float):
        return float, v.hex()
    return type(v), v


def test_types_are_kept_exactly(who):
    """Arguments, results and messages arrive as the very type that was sent, at every depth."""

    def body():
        ch = Chan(1)
        for v in VALUES:
            want = shape(v)
            assert go(shape, v).result() == want, f"argument {v!r:.60}"
            assert shape(go(echo, v).result()) == want, f"result {v!r:.60}"
            ch.send(v)
            assert shape(ch.recv()) == want, f"message {v!r:.60}"
        everything = list(VALUES)
        assert shape(go(echo, everything).result()) == shape(everything)

    who(body)


def test_identity_within_one_message_is_kept(who):
    """A list that stands twice in a message, or in itself, does so in the copy."""

    def body():
        one = [1]
        a, b = go(echo, (one, one)).result()
        assert a is b
        one.append(one)
        loop = go(echo, one).result()
        assert loop[1] is loop

    who(body)


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays(who, order):
    """Arrays keep dtype, shape and order, and are writable copies."""

    def body():
        for array in (
            numpy.arange(12, dtype="f8").reshape(3, 4, order=order),
            numpy.zeros((0, 3), "i2"),
            numpy.array(5),
            numpy.array(["a", "bc"]),
            numpy.array([1, "x", None], dtype=object),
            numpy.ones(100_000)[::2],
        ):
            back = go(echo, array).result()
            assert type(back) is numpy.ndarray
            assert back.dtype == array.dtype and back.shape == array.shape
            assert (back == array).all()
            assert back.flags.writeable
        scalar = go(echo, numpy.float32(1.5)).result()
        assert type(scalar) is numpy.float32 and scalar == 1.5

    who(body)


# ------------------------------------------------------------ exceptions
def test_exception_by_handle(who):
    """An exception that leaves the function is raised by result(): its type, its arguments, the worker's traceback."""

    def body():
        h = go(divide, 1, 0)
        with pytest.raises(ZeroDivisionError, match=r"^division by zero") as caught:
            h.result(DEADLINE_S)
        notes = "".join(caught.value.__notes__)
        assert "in divide" in notes and "return a / b" in notes
        assert f"goroutine {h.id}" in notes
        assert type(h.exception()) is ZeroDivisionError
        assert h.done()

    who(body)


def test_exception_type_with_its_own_arguments(who):
    """An exception class of the program's arrives as that class, with its attributes."""

    def body():
        def f():
            raise OwnError(7, detail=["why"])

        with pytest.raises(OwnError) as caught:
            go(f).result()
        assert (caught.value.code, caught.value.detail) == (7, ["why"])

    who(body)


def test_exception_that_can_not_travel(who):
    """What can't be rebuilt is stood for by RemoteError, which has its name, text and traceback."""

    def body():
        def f():
            class Local(Exception):
                lock = threading.Lock()

            raise Local("the text")

        h = go(f)
        with pytest.raises(RemoteError, match="the text") as caught:
            h.result()
        assert "Local" in caught.value.type_name
        assert "raise Local" in caught.value.traceback_text

    who(body)


def test_exception_with_what_can_not_travel(who):
    """Whatever an exception carries, its type, or its stand-in, and its text arrive."""

    def body():
        def f():
            error = ValueError("the text", 5)
            error.lock = threading.Lock()
            raise error

        error = go(f).exception(DEADLINE_S)
        assert isinstance(error, ValueError | RemoteError)
        assert "the text" in str(error)

        def g():
            raise ValueError("the text", threading.Lock())

        error = go(g).exception(DEADLINE_S)
        assert isinstance(error, ValueError | RemoteError)
        assert "the text" in str(error)

    who(body)


def test_cause_and_context_are_told(who):
    """The traceback text of the worker has the whole chain."""

    def body():
        def f():
            try:
                divide(1, 0)
            except ZeroDivisionError as error:
                raise ValueError("second") from error

        with pytest.raises(ValueError, match="second") as caught:
            go(f).result()
        assert "ZeroDivisionError" in "".join(caught.value.__notes__)

    who(body)


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), SystemExit(3), GeneratorExit()])
def test_base_exceptions_are_the_handles(who, error):
    """Not only Exception: whatever leaves the function is the handle's, and no worker ends of it."""

    def body():
        h = go(fail, error)
        assert type(h.exception(DEADLINE_S)) is type(error)
        with pytest.raises(type(error)):
            h.result()
        assert go(echo, 1).result() == 1

    who(body)


def test_exception_is_none_where_it_returned(who):
    """exception() of a goroutine that returned."""
    assert who(lambda: go(echo, 1).exception(DEADLINE_S)) is None


def test_waiting_twice_for_an_exception(who):
    """Each reader has an exception of its own: notes don't pile up."""

    def body():
        h = go(divide, 1, 0)
        counts = []
        for _ in range(3):
            with pytest.raises(ZeroDivisionError) as caught:
                h.result()
            counts.append(len(caught.value.__notes__))
        assert len(set(counts)) == 1

    who(body)


# ------------------------------------------------------------ handles of goroutines
def test_done_and_timeouts(who):
    """done() turns true at the end; result(timeout) raises TimeoutError before, never early, and leaves no trace."""

    def body():
        gate = Chan()
        h = go(gate.recv)
        assert not h.done()
        for timeout in (0, -1, 0.05):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                h.result(timeout)
            assert time.monotonic() - began >= timeout
            with pytest.raises(TimeoutError):
                h.exception(timeout)
        gate.send("v")
        assert h.result(DEADLINE_S) == "v"
        assert h.done()
        assert h.result(0) == "v"

    who(body)


def test_many_wait_for_one_goroutine(who):
    """Any number may wait, in any process; each gets the result."""

    def body():
        gate = Chan()
        h = go(gate.recv)
        readers = [go(h.result) for _ in range(30)]
        gate.send([1])
        assert h.result() == [1]
        assert [r.result() for r in readers] == [[1]] * 30
        h = go(gate.recv_ok, None)
        failures = [go(h.result) for _ in range(10)]
        gate.close()
        assert [r.result() for r in failures] == [(None, False)] * 10

    who(body)


def test_many_wait_for_one_failure(who):
    """Each of those who wait gets the exception."""

    def body():
        gate = Chan()
        h = go(gate.recv)
        readers = [go(h.exception) for _ in range(10)]
        gate.close()
        assert [type(r.result()) for r in readers] == [ChanClosed] * 10
        assert type(h.exception()) is ChanClosed

    who(body)


def test_handle_travels(who):
    """A handle goes through channels, arguments, results and containers, and is the same goroutine everywhere."""

    def body():
        ch = Chan(1)
        h = go(echo, 5)
        ch.send({"h": [h]})
        again = ch.recv()["h"][0]
        assert again == h and hash(again) == hash(h) and again.id == h.id
        assert again in {h}
        assert again.result() == 5
        assert go(lambda handle: handle.result() + 1, h).result() == 6
        inner = go(lambda: go(echo, "deep")).result()
        assert isinstance(inner, Goroutine)
        assert inner.result() == "deep"
        assert go(echo, 5) != h
        assert bool(h)

    who(body)


def test_a_handle_that_another_thread_sent(who):
    """Whoever received it has it, though the thread that made the goroutine drops its own."""

    def ask(ch, seen):
        h = ch.recv()
        seen.send(None)
        return h.result()

    def body():
        ch, gate, seen = Chan(1), Chan(), Chan()
        made = [go(gate.recv)]
        reader = go(ask, ch, seen)
        thread = threading.Thread(target=lambda: ch.send(made[0]))
        thread.start()
        thread.join()
        seen.recv(DEADLINE_S)
        made.clear()
        for _ in range(100):  # a record freed too early would be another goroutine's by now
            go(echo, 0).result()
        gate.send("its result")
        assert reader.result(DEADLINE_S) == "its result"

    who(body)


def test_handle_captured_by_a_closure(who):
    """A captured handle travels by reference."""

    def body():
        ch = Chan()
        h = go(echo, 3)
        go(lambda: ch.send(h.result())).result
        assert ch.recv(DEADLINE_S) == 3

    who(body)


def test_ids_are_unique(who):
    """Every goroutine has a number of its own."""

    def body():
        handles = [go(echo, i) for i in range(300)]
        assert len({h.id for h in handles}) == 300
        assert [h.result() for h in handles] == list(range(300))

    who(body)


def test_result_of_itself(who):
    """A goroutine that waits for its own end is told so."""

    def body():
        ch = Chan(1)

        def f():
            return ch.recv().result()

        h = go(f)
        ch.send(h)
        with pytest.raises(RuntimeError, match="own result"):
            h.result(DEADLINE_S)

    who(body)


def test_goroutine_class_makes_none(rt):
    """The class itself says how one is made."""
    with pytest.raises(TypeError, match="go"):
        Goroutine()


def test_dropped_handle_runs_all_the_same(who):
    """Nobody needs to hold the handle."""

    def body():
        ch = Chan(100)
        for i in range(100):
            go(ch.send, i)
        assert sorted(ch.recv(DEADLINE_S) for _ in range(100)) == list(range(100))

    who(body)


# ------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("fn", "text"), [(None, "go of nil func value"), (5, "int"), ("print", "str"), ([], "list"), ({}, "dict")]
)
def test_not_a_function(who, fn, text):
    """go of what can't be called is a TypeError of the caller, in Go's words for nil; nothing starts."""

    def body():
        before = num_goroutine()
        with pytest.raises(TypeError, match=text):
            go(fn)
        with pytest.raises(TypeError, match=text):
            WaitGroup().go(fn)
        assert num_goroutine() == before

    who(body)


def test_go_without_a_function(rt):
    """go() itself."""
    with pytest.raises(TypeError):
        go()


UNENCODABLE = {
    "lock": threading.Lock,
    "generator": lambda: (i for i in range(3)),
    "TextIOWrapper": lambda: open("/dev/null"),
    "list": lambda: [threading.Lock()],
    "socket": socket.socket,
}


@pytest.mark.parametrize("kind", sorted(UNENCODABLE))
def test_unencodable_argument(who, kind):
    """EncodeError in the caller, naming the type; nothing was started."""
    name = "lock" if kind == "list" else kind

    def body():
        before = num_goroutine()
        value = UNENCODABLE[kind]()
        for call in (
            lambda: go(echo, value),
            lambda: go(echo, v=value),
            lambda: go(lambda: value),
            lambda: WaitGroup().go(echo, value),
        ):
            with pytest.raises(EncodeError, match=name):
                call()
        if hasattr(value, "close"):
            value.close()
        assert num_goroutine() == before
        assert go(echo, 1).result() == 1

    who(body)


def test_unencodable_argument_that_raises(who):
    """An object whose own pickling fails says so."""

    def body():
        class Bad:
            def __reduce__(self):
                raise ValueError("refuses")

        with pytest.raises(EncodeError, match="Bad"):
            go(echo, Bad())

    who(body)


def test_unencodable_result(who):
    """A result that can't travel is an EncodeError of the handle; where nobody wants it, nothing happens."""

    def body():
        h = go(threading.Lock)
        with pytest.raises(EncodeError, match="lock"):
            h.result(DEADLINE_S)
        assert isinstance(h.exception(), EncodeError)
        ch = Chan()

        def f():
            ch.send(1)
            return threading.Lock()

        go(f)
        assert ch.recv(DEADLINE_S) == 1
        assert go(echo, 1).result() == 1

    who(body)


def test_function_that_is_not_there_in_the_worker(rt, tmp_path):
    """A name that can't be imported there is an ImportError of the handle."""
    import sys
    import types

    module = types.ModuleType("only_in_main_module")
    exec("def f():\n    return 1", module.__dict__)
    sys.modules["only_in_main_module"] = module
    try:
        h = go(module.f)
        error = h.exception(DEADLINE_S)
        assert error is None or isinstance(error, ImportError)
    finally:
        del sys.modules["only_in_main_module"]


# ------------------------------------------------------------ nesting
def fib(n):
    if n < 2:
        return n
    a, b = go(fib, n - 1), go(fib, n - 2)
    return a.result() + b.result()


def test_tree_of_goroutines(who):
    """Goroutines that start goroutines and wait for them need no P each: fib(12) ends, with any number of Ps."""
    assert who(fib, 12) == 144


def chain(n):
    return n if n == 0 else 1 + go(chain, n - 1).result()


def test_chain_of_waiting_goroutines(who):
    """Each waits for the next, 300 deep."""
    assert who(chain, 300) == 300


def test_thread_in_a_goroutine(rt):
    """Threads that a goroutine starts may use the library, too."""

    def f():
        out, results = Chan(), []

        def work(i):
            results.append(go(echo, i).result(DEADLINE_S))
            out.send(i, DEADLINE_S)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        got = sorted(out.recv(DEADLINE_S) for _ in threads)
        for thread in threads:
            thread.join()
        return got, sorted(results)

    assert go(f).result(DEADLINE_S) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_recursion_depth_is_the_goroutines_own(who):
    """A goroutine may recurse as deep as a plain program, however deep its spawner was, and others go on after."""

    def deep(n):
        return deep(n - 1) + 1 if n else 0

    def spawn_deep(n):
        return spawn_deep(n - 1) if n else go(deep, 700).result()

    def body():
        assert go(deep, 700).result() == 700
        assert go(spawn_deep, 700).result() == 700
        with pytest.raises(RecursionError):
            go(deep, 100_000).result()
        assert go(deep, 700).result() == 700

    who(body)


def test_who_timed_out_may_wait_again(who):
    """Readers who came, timed out, and came again get the result once."""

    def body():
        gate, timed_out, out = Chan(), Chan(10), Chan(10)

        def reader(h):
            try:
                h.result(0.01)
            except TimeoutError:
                timed_out.send(1)
            out.send(h.result())

        h = go(gate.recv)
        for _ in range(5):
            go(reader, h)
        for _ in range(5):
            timed_out.recv(DEADLINE_S)
        gate.send(1)
        assert [out.recv(DEADLINE_S) for _ in range(5)] == [1] * 5

    who(body)
