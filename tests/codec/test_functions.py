"""codec/functions.py: a function travels once where that is safe, and never stale."""

from __future__ import annotations

import functools
import gc
import importlib
import math
import os
import pathlib
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from mproc_go.codec import functions, handles, wire
from mproc_go.errors import EncodeError

REPO = pathlib.Path(__file__).resolve().parents[2]


class Table:
    """The runtime's code table: numbers from 1, until it is full."""

    def __init__(self, size: int = 1000) -> None:
        self.blobs: list[bytes] = []
        self.asked = 0
        self.size = size

    def register(self, blob: bytes) -> int:
        self.asked += 1
        if len(self.blobs) == self.size:
            return 0
        self.blobs.append(blob)
        return len(self.blobs)

    def load(self, code_id: int) -> Callable[..., Any]:
        return functions.load(self.blobs[code_id - 1])


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def cache(table: Table) -> functions.FunctionCache:
    return functions.FunctionCache(table.register)


def importable(n: int) -> int:
    return n + 1


class Tools:
    @classmethod
    def name(cls) -> str:
        return cls.__name__

    @staticmethod
    def twice(n: int) -> int:
        return 2 * n

    def method(self) -> str:
        return "method"


class SubTools(Tools):
    pass


@functools.lru_cache
def cached(n: int) -> int:
    return n


def module_of(source: str, name: str = "__main__") -> dict[str, Any]:
    """A namespace as a script's: functions made in it believe they are of `name`."""
    namespace: dict[str, Any] = {"__name__": name}
    exec(source, namespace)
    return namespace


# ------------------------------------------------------------------------------------------------------ by reference


@pytest.mark.parametrize(
    "fn",
    [importable, Tools.twice, Tools.method, Tools, len, math.sqrt, os.path.join, cached, Tools.name, SubTools.name],
    ids=lambda fn: getattr(fn, "__qualname__", str(fn)),
)
def test_what_can_be_imported_goes_by_name_at_once(
    fn: Callable[..., Any], cache: functions.FunctionCache, table: Table
) -> None:
    """Functions, static and class methods (on the class they are asked of), classes, builtins."""
    code_id = cache.code(fn)
    assert code_id > 0 and cache.code(fn) == code_id and cache.ids.get(fn) == code_id
    assert table.blobs[0][:1] == b"R" and len(table.blobs) == 1
    back = table.load(code_id)
    if isinstance(fn, types.MethodType):
        assert back.__self__ is fn.__self__ and back.__func__ is fn.__func__
    else:
        assert back is fn


def test_names_of_other_objects_are_not_used(cache: functions.FunctionCache, table: Table) -> None:
    """A function that claims a name which is something else by now does not go by that name."""
    claims = types.FunctionType((lambda n: n - 1).__code__, globals(), "importable")
    claims.__qualname__, claims.__module__ = "importable", __name__
    assert cache.code(claims) == 0
    code_id = cache.code(claims)
    assert table.blobs[code_id - 1][:1] == b"V" and table.load(code_id)(3) == 2


def test_modules_that_nobody_can_import_do_not_go_by_name(
    cache: functions.FunctionCache, table: Table, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made at run time, or found by a path that is gone; by a path that is there they do."""
    made = types.ModuleType("made_here")
    exec("def f(n): return n + 5", made.__dict__)
    monkeypatch.setitem(sys.modules, "made_here", made)
    assert cache.code(made.f) == 0
    code_id = cache.code(made.f)
    assert table.blobs[code_id - 1][:1] == b"V" and table.load(code_id)(1) == 6

    (tmp_path / "once_there.py").write_text("def f(n): return n + 6\ndef g(n): return n + 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("once_there")
    assert table.blobs[functions.FunctionCache(table.register).code(module.f) - 1] == b"Ronce_there:f"
    sys.path.remove(str(tmp_path))
    importlib.invalidate_caches()

    from mproc_go.codec import byname

    byname._modules.pop("once_there")
    assert cache.code(module.g) == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "once_there.py").write_text("def g(n): return 'another module of that name'\n")
    monkeypatch.syspath_prepend(other)
    byname._modules.pop("once_there")
    assert not byname.module_is_importable(module)
    monkeypatch.delitem(sys.modules, "once_there")


def test_an_import_that_fails_in_the_worker_says_so() -> None:
    """The text names the function and why: it is what the user reads in the panic."""
    with pytest.raises(ImportError, match="goroutine function 'no_such:f' can't be imported in the worker: Module"):
        functions.load(b"Rno_such:f")
    with pytest.raises(ImportError, match=r"goroutine function 'math:nope\.x' can't be imported in the worker: Attr"):
        functions.load(b"Rmath:nope.x")


def test_blobs_that_are_none() -> None:
    """Not a function's code: a DecodeError."""
    for blob in (b"", b"X", b"Vnonsense", b"V" + wire.dump(5)[0]):
        with pytest.raises(wire.DecodeError):
            functions.load(blob)


def test_callables_that_have_no_name_go_inline(cache: functions.FunctionCache, table: Table) -> None:
    """Partials, bound methods, callable objects, hashable or not: 0, and nothing is stored."""

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> None: ...

    for fn in (functools.partial(importable, 1), Tools().method, Unhashable(), [].append):
        for _ in range(3):
            assert cache.code(fn) == 0
    assert table.blobs == [] and cache.ids == {}


# ----------------------------------------------------------------------------------------------------------- by value


def test_a_function_of_main_gets_its_number_the_second_time(cache: functions.FunctionCache, table: Table) -> None:
    """Most run once: the first time costs no place in the table."""
    f = module_of("k = 3\ndef g(n): return n * k\ndef f(n): return g(n) + 1")["f"]
    assert cache.code(f) == 0 and table.blobs == []
    code_id = cache.code(f)
    assert code_id == 1 and cache.code(f) == 1 and len(table.blobs) == 1
    assert table.load(code_id)(2) == 7
    assert f not in cache.ids


CHANGES = [
    ("def f(): return k", "k = 2"),
    ("def f(): return g()\ndef g(): return k", "k = 2"),
    ("def f(): return g()\ndef g(): return 1", "def g(): return 2"),
    ("def f(): return g()\ndef g(): return 1", "g.__code__ = (lambda: 2).__code__"),
    ("def f(): return (lambda: [k for _ in (1,)])()[0]", "k = 2"),
    ("def f():\n  class C:\n    x = k\n  return C.x", "k = 2"),
    ("def f(n=1): return n", "f.__defaults__ = (2,)"),
    ("def f(*, n=1): return n", "f.__kwdefaults__['n'] = 2"),
    ("def f(*, n=1): return n", "f.__kwdefaults__ = {'n': 2}"),
    ("def g(n=1): return n\ndef f(): return g()", "g.__defaults__ = (2,)"),
    ("def f(): return f.n\nf.n = 1", "f.n = 2"),
    ("def f(): return getattr(f, 'n', 1)", "f.n = 2"),
    ("def f(): return len('a')", "def len(_): return 2"),
    ("def f(): return 1", "f.__code__ = (lambda: 2).__code__"),
    ("t = (1, 'a')\ndef f(): return t[0]", "t = (2, 'a')"),
    ("def make(n):\n  def f(): return n\n  return f\nf = make(1)", "f.__closure__[0].cell_contents = 2"),
    ("def make(n):\n  def h(): return n\n  def f(): return h()\n  return f, h\nf, h = make(1)",
     "h.__closure__[0].cell_contents = 2"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "change"), CHANGES, ids=[change for _, change in CHANGES])
def test_a_changed_capture_is_never_stale(
    source: str, change: str, cache: functions.FunctionCache, table: Table
) -> None:
    """The captured values are those of this call: whatever changes, the old number is not used any more."""
    namespace = module_of("k = 1\n" + source)
    f = namespace["f"]
    for _ in range(3):
        before = cache.code(f)
    assert before > 0 and table.load(before)() == 1
    exec(change, namespace)
    for _ in range(3):
        after = cache.code(f)
        assert after != before
        shipped = table.load(after) if after else wire.decode(*wire.encode(f))
        assert shipped() == 2


UNSAFE = {
    "captured list": "seen = []\ndef f():\n  seen.append(1)\n  return len(seen)",
    "list behind a function": "seen = []\ndef g():\n  seen.append(1)\n  return len(seen)\ndef f(): return g()",
    "list in a tuple": "seen = (1, [])\ndef f():\n  seen[1].append(1)\n  return len(seen[1])",
    "mutable default": "def f(seen=[]):\n  seen.append(1)\n  return len(seen)",
    "mutable keyword default": "def f(*, seen=[]):\n  seen.append(1)\n  return len(seen)",
    "global assigned": "n = 0\ndef f():\n  global n\n  n += 1\n  return n",
    "global assigned in a nested function": (
        "n = 0\ndef f():\n  def g():\n    global n\n    n += 1\n  g()\n  return n"
    ),
    "nonlocal": "def make():\n  n = 0\n  def f():\n    nonlocal n\n    n += 1\n    return n\n  return f\nf = make()",
    "nonlocal in a nested function": (
        "def make():\n  n = 0\n  def f():\n    def g():\n      nonlocal n\n      n += 1\n    g()\n    return n\n"
        "  return f\nf = make()"
    ),
    "list attribute": "def f():\n  f.seen.append(1)\n  return len(f.seen)\nf.seen = []",
    "object": "class C: n = 0\nc = C()\ndef f():\n  c.n += 1\n  return c.n",
}


@pytest.mark.parametrize("source", UNSAFE.values(), ids=UNSAFE)
def test_goroutines_of_one_worker_share_no_captured_value(
    source: str, cache: functions.FunctionCache, table: Table
) -> None:
    """What a goroutine could change has to be a copy for each: such a function never gets a number."""
    f = module_of(source)["f"]
    for _ in range(4):
        assert cache.code(f) == 0
        header, data = wire.encode(f)
        assert wire.decode(header, data)() == 1
    assert table.blobs == []


def test_assigning_inside_a_call_is_harmless(cache: functions.FunctionCache) -> None:
    """A variable that each call makes anew is nobody else's, also where an inner function assigns to it."""
    f = module_of("def f():\n  n = 0\n  def g():\n    nonlocal n\n    n += 1\n  g()\n  g()\n  return n", "__main__")[
        "f"
    ]
    cache.code(f)
    assert cache.code(f) > 0


def test_recursion_through_globals_and_cells(cache: functions.FunctionCache, table: Table) -> None:
    """A function that reaches itself, alone or in a ring."""
    namespace = module_of(
        "def fact(n): return 1 if n < 2 else n * fact(n - 1)\n"
        "def even(n): return n == 0 or odd(n - 1)\n"
        "def odd(n): return n != 0 and even(n - 1)\n"
        "def make():\n  def inner(n): return 0 if n == 0 else 1 + inner(n - 1)\n  return inner\n"
        "inner = make()"
    )
    for name, argument, expected in (("fact", 5, 120), ("even", 10, True), ("inner", 4, 4)):
        cache.code(namespace[name])
        code_id = cache.code(namespace[name])
        assert code_id > 0 and cache.code(namespace[name]) == code_id
        assert table.load(code_id)(argument) == expected


def test_decorated_functions(cache: functions.FunctionCache, table: Table) -> None:
    """functools.wraps leaves the wrapped function as an attribute: part of what is captured."""
    f = module_of(
        "import functools\n"
        "def deco(fn):\n  @functools.wraps(fn)\n  def wrapper(n): return fn(n) + 1\n  return wrapper\n"
        "@deco\ndef f(n): return n * 10"
    )["f"]
    cache.code(f)
    back = table.load(cache.code(f))
    assert back(2) == 21 and back.__name__ == "f"


def test_classes_of_main_are_fixed(cache: functions.FunctionCache, table: Table) -> None:
    """A function that makes objects of a class of __main__ has a number, and makes that very class's."""

    class Local:
        pass

    def f() -> Local:
        return Local()

    cache.code(f)
    assert type(table.load(cache.code(f))()) is Local


def test_a_lambda_in_a_loop_gets_one_number(cache: functions.FunctionCache, table: Table) -> None:
    """A fresh function object each time, the same code and captured values: one place in the table."""
    k = 7
    ids = [cache.code(lambda n: n + k) for _ in range(50)]
    assert ids[0] == 0 and set(ids[1:]) == {1} and len(table.blobs) == 1
    assert table.load(1)(1) == 8


def test_a_loop_variable_is_captured_each_time(cache: functions.FunctionCache, table: Table) -> None:
    """Lambdas that differ in what they captured never get each other's number."""
    for captured in (1, 1, 2, 2, True, True, 1.0, 1.0, 0.0, 0.0, -0.0, -0.0, "a", "a"):
        fn = lambda captured=captured: captured  # noqa: E731
        code_id = cache.code(fn)
        if code_id:
            back = table.load(code_id)()
            assert repr(back) == repr(captured) and type(back) is type(captured)

        def inner() -> object:
            return captured  # noqa: B023

        code_id = cache.code(inner)
        if code_id:
            assert repr(table.load(code_id)()) == repr(captured)


def test_a_million_lambdas_do_not_fill_the_table(cache: functions.FunctionCache, table: Table) -> None:
    """Closures of one piece of code may take a bounded number of places, and their plans a bounded memory."""
    for i in range(3000):
        fn = lambda i=i: i  # noqa: E731
        assert cache.code(fn) == 0
    assert table.blobs == []
    kept = [lambda i=i: i for i in range(3000)]
    for fn in kept:
        cache.code(fn)
        cache.code(fn)
    assert len(table.blobs) == functions.MAX_IDS_PER_CODE
    assert len(cache._by_function) <= functions.MAX_PLANS and len(cache._by_code) <= functions.MAX_PLANS


def test_functions_are_not_kept_alive(cache: functions.FunctionCache) -> None:
    """A plan dies with its function, also one that can reach itself; another's plan does not."""
    namespace = module_of("def f(n): return n\ndef g(n): return g(n - 1)\ndef h(n): return k(n)\ndef k(n): return 1")
    for name in ("f", "g", "h"):
        fn = namespace[name]
        cache.code(fn)
        assert cache.code(fn) > 0
        gone = weakref.ref(fn)
        del fn, namespace[name]
        assert gone() is None
    assert not cache._by_function
    gc.collect()


def test_functions_with_handles_go_inline(cache: functions.FunctionCache, table: Table) -> None:
    """A handle in a closure is counted per message, so it has to be in the message; also behind a class."""

    class Toy(handles.Handle):
        __slots__ = ()
        KIND = 202

    toy = Toy()
    toy._base, toy._gen = 1, 1

    class Behind:
        channel = toy

    def direct() -> object:
        return toy

    def behind() -> object:
        return Behind

    for fn in (direct, behind):
        for _ in range(4):
            assert cache.code(fn) == 0
    assert table.blobs == []
    header, data = wire.encode(direct)
    assert wire.handles_in(header, data) == [(202, 1, 1)]


def test_large_constants_stay_out_of_the_table(cache: functions.FunctionCache) -> None:
    """The table keeps what it has for good."""
    f = module_of(f"big = 'x' * {functions.MAX_CONSTANT_BYTES + 1}\ndef f(): return len(big)")["f"]
    for _ in range(3):
        assert cache.code(f) == 0


def test_a_full_table_is_no_error() -> None:
    """Everything goes inline then; what has a number keeps it."""
    table = Table(size=1)
    cache = functions.FunctionCache(table.register)
    assert cache.code(importable) == 1
    f = module_of("def f(): return 1")["f"]
    for _ in range(3):
        assert cache.code(Tools.twice) == 0 and cache.code(f) == 0
    assert cache.code(importable) == 1
    assert table.asked == 2, "the table was asked again, for every spawn"


def test_a_class_that_cannot_travel_is_an_encode_error(cache: functions.FunctionCache) -> None:
    """Found where the function would get its number; the text names what it is."""

    class Locked:
        lock = threading.Lock()

    def f() -> object:
        return Locked

    assert cache.code(f) == 0
    with pytest.raises(EncodeError, match=r"_thread\.lock"):
        cache.code(f)


def test_functions_of_main_run_in_another_process(tmp_path: pathlib.Path) -> None:
    """The blobs of a script's functions, loaded by a process that has another __main__."""
    script = tmp_path / "script.py"
    script.write_text(
        "import math, subprocess, sys\n"
        "from mproc_go.codec import functions\n"
        "factor = 3\n"
        "class Box:\n    def __init__(self, n): self.n = n\n"
        "def helper(n): return Box(n * factor)\n"
        "def work(n): return helper(math.floor(n)).n + (work(n - 1) if n > 1 else 0)\n"
        "blobs = []\n"
        "cache = functions.FunctionCache(lambda blob: blobs.append(blob) or len(blobs))\n"
        "assert cache.code(math.floor) == 1\n"
        "assert [cache.code(work) for _ in range(3)] == [0, 2, 2]\n"
        "child = 'import sys; from mproc_go.codec import functions\\n'\n"
        "child += 'fs = [functions.load(bytes.fromhex(a)) for a in sys.argv[1:]]\\nprint(fs[0](2.5), fs[1](3))'\n"
        "subprocess.run([sys.executable, '-c', child, *[blob.hex() for blob in blobs]], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, script], env=dict(os.environ, PYTHONPATH=str(REPO)), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 18\n"
