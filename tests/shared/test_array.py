"""SharedArray: one memory for all processes, with and without NumPy; freed with its last handle and its last view."""

from __future__ import annotations

import array as stdlib_array
import copy
import gc
import os
import pathlib
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
import threading

import pytest

from mproc_go import (
    Chan,
    EncodeError,
    Mutex,
    Runtime,
    SharedArray,
    SharedMemoryFull,
    WaitGroup,
    WorkerLost,
    go,
    gomaxprocs,
    num_goroutine,
    select,
    stats,
)
from mproc_go.shared.dtype import LETTERS
from tests.contract.support import DEADLINE_S, until

np = pytest.importorskip("numpy")
REPO = str(pathlib.Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module")
def runtime(module_leaves_nothing):
    with Runtime(2) as started:
        yield started


@pytest.fixture
def flat(runtime):
    """No array is there any more after the test, and no goroutine."""
    before = stats()["memory_bytes"]
    yield
    until(lambda: not {"arrays", "large buffers"} & stats()["objects"].keys(), error="an array is left")
    until(lambda: num_goroutine() == 1, error="a goroutine is left")
    assert stats()["memory_bytes"] <= before + (2 << 20)


def arrays():
    return stats()["objects"].get("arrays", 0)


def outside(script, **env):
    """Run a script in a process of its own; what it printed."""
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": REPO, **env},
    )
    assert (out.returncode, out.stderr) == (0, ""), out.stderr
    return out.stdout.split()


# ------------------------------------------------------------ what it is
def test_a_plain_one(flat):
    """Zeroed; items by index and by slice; its figures."""
    a = SharedArray(10, "d")
    assert (a.shape, a.dtype, a.nbytes, a.ndim, a.size, a.itemsize, len(a)) == ((10,), "d", 80, 1, 10, 8, 10)
    assert list(a) == [0.0] * 10
    a[3] = 1.5
    a[-1] = 2
    assert a[3] == 1.5 and a[9] == 2.0 and a[-7] == 1.5
    a[0:2] = stdlib_array.array("d", [7, 8])
    assert a[:4].tolist() == [7, 8, 0, 1.5]
    view = a.memoryview()
    assert (view.format, view.shape, view.readonly, view.nbytes) == ("d", (10,), False, 80)
    view[5] = 5
    assert a.numpy()[5] == 5 and a[5] == 5
    assert bool(a) and bool(SharedArray(0, "d"))
    assert "SharedArray" in repr(a) and "(10,)" in repr(a) and "d" in repr(a)
    for bad in (10, -11):
        with pytest.raises(IndexError):
            a[bad]
        with pytest.raises(IndexError):
            a[bad] = 1
    with pytest.raises(TypeError):
        a["x"]
    with pytest.raises((TypeError, ValueError)):
        a[0] = "text"


def test_several_axes(flat):
    """Rows are views; all indices together are an item; what only NumPy can index says so."""
    a = SharedArray((3, 4, 5), "i")
    assert len(a) == 3 and a.nbytes == 240
    a[1, 2, 3] = 7
    assert a[1, 2, 3] == 7 and a[1, 2, -2] == 7
    row = a[1]
    assert row.shape == (4, 5) and row.format == "i" and row[2, 3] == 7
    row[0, 0] = 9
    assert a[1, 0, 0] == 9 and a[-2][0, 0] == 9 and a.numpy()[1, 0, 0] == 9
    assert a[1:].shape == (2, 4, 5)
    with pytest.raises(IndexError):
        a[3]
    for call in (lambda: a[1, 2], lambda: a[1, :, 2]):
        with pytest.raises((TypeError, NotImplementedError), match="numpy|sub-views|slice"):
            call()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0, 2), (1,), (2,) * 12, [4, 5], np.int64(3), np.array([2, 3])])
@pytest.mark.parametrize("dtype", ["d", "int32", "?", "complex64"])
def test_shapes(flat, shape, dtype):
    """None, one and many axes, of no length too."""
    a = SharedArray(shape, dtype)
    expected = np.zeros(shape, dtype)
    assert a.shape == expected.shape and a.nbytes == expected.nbytes
    assert np.array_equal(a.numpy(), expected) and a.numpy().dtype == expected.dtype
    assert a.memoryview().shape == expected.shape
    back = go(lambda a: (a.shape, a.dtype, a.numpy().sum()), a).result(DEADLINE_S)
    assert back == (expected.shape, dtype, 0)
    del a


@pytest.mark.parametrize("letter", sorted(LETTERS))
def test_letters(flat, letter):
    """Each letter of struct is that letter in the memoryview, and the same type in NumPy."""
    a = SharedArray(4, letter)
    assert a.itemsize == struct.calcsize(letter) and a.memoryview().format == letter
    value = b"x" if letter == "c" else True if letter == "?" else 3
    a[2] = value
    assert a[2] == value
    assert a.numpy().itemsize == a.itemsize and a.numpy()[2] == value
    if letter != "c":
        assert a.numpy().dtype == np.dtype(letter)


@pytest.mark.parametrize(
    "dtype",
    [
        *["float64", "float32", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "complex128", "intp", "longlong"],
        *["<f4", "<i8", ">f8", ">i2", "=i4", "|u1", "f8", "i4", "u1", "e", "S5", "U3", "M8[s]", "m8[ms]", "V7", "half", "bool_", "long"],
        np.float32,
        np.dtype("u2"),
        np.bool_,
        float,
        int,
        bool,
        [("x", "f8"), ("n", "i4"), ("s", "S3")],
        "i4,f8",
    ],
    ids=str,
)
def test_dtypes_of_numpy(flat, dtype):
    """The dtype is what NumPy says, here and in a worker, and compares equal to what was given."""
    a = SharedArray((2, 3), dtype)
    assert a.numpy().dtype == np.dtype(dtype)
    assert a.numpy().flags.aligned and a.numpy().flags.writeable and not a.numpy().tobytes().strip(b"\0")
    assert a.dtype == dtype or np.dtype(a.dtype) == np.dtype(dtype)
    assert go(lambda a: a.numpy().dtype, a).result(DEADLINE_S) == np.dtype(dtype)
    if np.dtype(dtype).kind not in "mM":
        assert a.memoryview().shape == (2, 3)
    else:
        with pytest.raises(TypeError, match="numpy"):
            a.memoryview()


def test_the_standard_size_of_struct(flat):
    """With a byte order, struct's long has 4 bytes, in the memoryview and in NumPy's array."""
    assert SharedArray(3, "l").itemsize == struct.calcsize("l")
    a = SharedArray(3, "<l")
    assert a.itemsize == struct.calcsize("<l") == a.numpy().itemsize


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ((2.5,), TypeError, "shape"),
        (("10",), TypeError, "shape"),
        (((2, 3.0),), TypeError, "shape"),
        (("",), TypeError, "shape"),
        ((b"ab",), TypeError, "shape"),
        (({2, 3},), TypeError, "shape"),
        (({2: 3},), TypeError, "shape"),
        ((None,), TypeError, "shape"),
        ((-1,), ValueError, "negative"),
        (((3, -2),), ValueError, "negative"),
        (((1,) * 65,), ValueError, "64 axes"),
        ((1 << 70,), SharedMemoryFull, "memory="),
        (((1 << 40, 1 << 40),), SharedMemoryFull, "memory="),
        ((1 << 45,), SharedMemoryFull, "memory="),
        ((3, "nonsense"), TypeError, "nonsense"),
        ((3, ""), (TypeError, ValueError), "dtype"),
        ((3, "O"), TypeError, "Python objects"),
        ((3, object), TypeError, "Python objects"),
        ((3, [("a", "O")]), TypeError, "Python objects"),
        ((3, "x"), TypeError, "dtype"),
        ((3, "2d"), TypeError, "shape"),
        ((3, "S"), ValueError, "size"),
        ((3, None), TypeError, "dtype"),
        ((3, 7), TypeError, "dtype"),
        ((3, print), TypeError, "dtype"),
    ],
    ids=str,
)
def test_bad_input(flat, args, error, words):
    """One clear error, and nothing is left of the attempt."""
    before = stats()["memory_bytes"]
    with pytest.raises(error, match=words) as caught:
        SharedArray(*args)
    assert len(str(caught.value)) < 300
    assert not arrays() and stats()["memory_bytes"] == before


def test_the_limit_is_exact():
    """What fits by its size is had, also after others were freed; what does not is refused with the figures."""
    outside("""
        from mproc_go import SharedArray, SharedMemoryFull, run, stats

        def main():
            free = stats()["memory_limit_bytes"] - stats()["memory_bytes"]
            for size in (free // 2, free // 3, free // 5, free - (1 << 20), free // 7, free // 2):
                a = SharedArray(size, "B")
                a[size - 1] = 1
                del a
            half = SharedArray(free // 2, "B")
            try:
                SharedArray(free // 2 + 200_000, "B")
            except SharedMemoryFull as error:
                assert "memory=" in str(error)
            else:
                raise AssertionError("it fits")
            del half
            SharedArray(free // 2 + 200_000, "B")

        run(main, procs=1, memory=200 << 20)
    """)


def test_zeroed_whatever_was_there(flat):
    """Memory that messages and other arrays used before is zero again, of all sizes."""
    ch = Chan(1)
    for n in (1, 100, 5_000, 100_000, 300_000, 3_000_000):
        for _ in range(3):
            ch.send(b"\xff" * n)
            ch.recv()
            a = SharedArray(n, "B")
            assert not any(a.memoryview()) if n < 10_000 else not a.numpy().any()
            a.numpy()[:] = 255


# ------------------------------------------------------------ one memory
def fill(a, value):
    a.numpy()[:] = value


def test_everybody_sees_the_same(flat):
    """In arguments, messages, containers, results; in threads and workers; no way makes a copy."""
    a = SharedArray((100, 100), "int64")
    go(fill, a, 1).result(DEADLINE_S)
    assert (a.numpy() == 1).all()
    ch = Chan(2)
    ch.send({"the array": [a]})
    b = ch.recv()["the array"][0]
    assert b == a and hash(b) == hash(a) and b is not a
    b[0, 0] = 5
    assert a[0, 0] == 5
    c = go(lambda a: a, a).result(DEADLINE_S)
    assert c == a and {a: 1}[c] == 1
    assert a != SharedArray((100, 100), "int64")
    c.numpy()[:] = 3
    assert a[50, 50] == 3
    select((ch.send, a))
    assert select(ch.recv).value == a
    thread = threading.Thread(target=fill, args=(a, 4))
    thread.start()
    thread.join()
    assert a[99, 99] == 4
    go(fill, a=a, value=6).result(DEADLINE_S)
    assert a[1, 1] == 6
    assert copy.copy(a) is a and copy.deepcopy(a) is a
    with pytest.raises(TypeError, match="can't pickle <SharedArray"):
        pickle.dumps(a)


def add(a, mutex, wg, n):
    view = a.memoryview()
    for _ in range(n):
        with mutex:
            view[0] += 1
    wg.done()


def test_with_a_mutex_nothing_is_lost(flat):
    """Goroutines of several workers count in one item."""
    a, mutex, wg = SharedArray(1, "q"), Mutex(), WaitGroup()
    wg.add(8)
    for _ in range(8):
        go(add, a, mutex, wg, 100)
    wg.wait(DEADLINE_S)
    assert a[0] == 800


def test_numpy_makes_no_copy(flat):
    """numpy(), asarray, the memoryview: one address; another dtype or a copy when asked for."""
    a = SharedArray((4, 5), "d")
    assert np.shares_memory(a.numpy(), np.asarray(a)) and np.shares_memory(a.numpy(), np.frombuffer(a.memoryview()))
    assert np.asarray(a, "f4").dtype == "f4"
    other = np.array(a)
    other[:] = 1
    assert not a.numpy().any()
    np.asarray(a)[:] = 2
    assert a[3, 4] == 2
    a.numpy().sort()
    assert np.add(a, 1).sum() == 60


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes have buffers from 3.12 on")
def test_the_array_itself_is_a_buffer(flat):
    """memoryview, bytes and file.write take it as it is."""
    a = SharedArray(4, "i")
    a[1] = 5
    view = memoryview(a)
    view[2] = 6
    assert view.format == "i" and a[2] == 6
    assert bytes(a) == struct.pack("4i", 0, 5, 6, 0)


def test_larger_than_the_first_extent(flat):
    """64 MB at once, written by workers, each its part."""

    def part(a, i):
        a.numpy()[i << 20 : (i + 1) << 20] = i

    a = SharedArray(8 << 20, "d")
    for handle in [go(part, a, i) for i in range(8)]:
        handle.result(DEADLINE_S)
    assert a.numpy().sum() == sum(range(8)) << 20
    assert a.numpy()[::1 << 20].tolist() == list(range(8))


# ------------------------------------------------------------ its end
def test_freed_with_its_last_handle_and_its_last_view(flat):
    """In whichever order they go, views of views too."""
    a = SharedArray(1 << 20, "B")
    b, view = a, a.memoryview()
    del a, b
    gc.collect()
    assert arrays() == 1
    part = np.asarray(view)[10:20]
    view.release()
    del view
    assert arrays() == 1
    part[:] = 1
    del part
    assert not arrays()
    a = SharedArray(1 << 20, "B")
    number = a.numpy()
    del number
    assert arrays() == 1
    del a
    assert not arrays()


def keep(a, ready, gate):
    view = a.numpy()[5:10]
    del a
    gc.collect()
    ready.send(os.getpid())
    gate.recv()
    return view.tolist()


def test_a_view_in_another_process_keeps_it(flat):
    """This process has nothing of it any more; a worker has a slice."""
    ready, gate = Chan(), Chan()
    a = SharedArray(1 << 20, "B")
    a[7] = 7
    handle = go(keep, a, ready, gate)
    del a
    ready.recv(DEADLINE_S)
    others = [SharedArray(1 << 20, "B") for _ in range(3)]
    for other in others:
        other.numpy()[:] = 255
    assert arrays() == 4
    gate.send(None)
    assert handle.result(DEADLINE_S) == [0, 0, 7, 0, 0]
    del other
    others.clear()


def die(a):
    a.numpy()[0] = 1
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_takes_its_views_along(flat):
    """What it wrote is there; what only it had is freed."""
    a = SharedArray(1 << 20, "B")
    handle = go(die, a)
    with pytest.raises(WorkerLost):
        handle.result(DEADLINE_S)
    assert a[0] == 1
    ready, gate = Chan(), Chan()
    handle = go(keep, SharedArray(1 << 20, "B"), ready, gate)
    pid = ready.recv(DEADLINE_S)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        handle.result(DEADLINE_S)
    until(lambda: arrays() == 1, error="its memory is left")


def test_made_and_dropped(flat):
    """Memory stays flat, small and large, with and without views, here and elsewhere."""

    def some(n):
        for i in range(n):
            a = SharedArray(100_000 if i % 10 else 10, "d")
            if i % 3:
                a.memoryview()[5] = 1
        return None

    some(50)
    go(some, 50).result(DEADLINE_S)
    before = stats()["memory_bytes"]
    some(300)
    go(some, 300).result(DEADLINE_S)
    assert stats()["memory_bytes"] <= before + (1 << 20)


def test_after_the_runtime():
    """Views live on; a handle without one says what is the matter; the next runtime does not know it."""
    out = outside("""
        import gc
        from mproc_go import Chan, NotRunning, SharedArray, run

        def main(kept):
            kept += [SharedArray(200_000, "d"), SharedArray(10, "i")]
            kept.append(kept[0].memoryview())
            kept[2][7] = 7
            go_on = kept[0].numpy()
            kept.append(go_on)

        def other(array):
            try:
                Chan(1).send(array)
            except NotRunning as error:
                print("sent:", type(error).__name__)

        kept = []
        run(main, kept, procs=1)
        print(kept[2][7], kept[3][7], kept[0][7], repr(kept[0])[:12])
        try:
            kept[1].memoryview()
        except NotRunning as error:
            print("not-running")
        run(other, kept[0], procs=1)
        view = kept[2]
        kept.clear()
        gc.collect()
        view[8] = 8
        print(view[7] + view[8])
    """)
    assert out == ["7.0", "7.0", "7.0", "<SharedArray", "not-running", "sent:", "NotRunning", "15.0"]


# ------------------------------------------------------------ parallel
def count(chunk):
    chunk += 1
    return len(chunk), os.getpid()


def test_parallel_covers_everything_once(flat):
    """Consecutive chunks of nearly the same length, results in order, what is written is in the array."""
    a = SharedArray((1003, 2), "d")
    for chunks in (None, 1, 7, 1003, 5000):
        a.numpy()[:] = 0
        sizes = [n for n, _ in a.parallel(count, chunks)]
        assert sum(sizes) == 1003 and max(sizes) - min(sizes) <= 1
        assert len(sizes) == min(1003, chunks or 4 * gomaxprocs())
        assert (a.numpy() == 1).all()
    a.numpy()[:, 0] = range(1003)
    assert [first for first, _ in a.parallel(lambda chunk: (chunk[0, 0], 0), 5)] == [0, 200, 401, 601, 802]
    assert list(a.parallel(lambda c: None, chunks=np.int64(3))) == [None] * 3


def test_parallel_begins_at_once_and_works_nested(flat):
    """Nobody has to ask for the results; inside a goroutine; of an empty array there are none."""
    a = SharedArray(100, "q")
    results = a.parallel(count)
    until(lambda: (a.numpy() == 1).all())
    assert sum(n for n, _ in results) == 100
    assert go(lambda a: sum(n for n, _ in a.parallel(count)), a).result(DEADLINE_S) == 100
    assert list(SharedArray(0, "d").parallel(count)) == []
    assert list(SharedArray((0, 4), "d").parallel(count, 3)) == []


def fail_at(chunk):
    if chunk[0] >= 50:
        raise ValueError(f"not {chunk[0]}")
    return int(chunk[0])


def test_what_leaves_fn_is_raised_in_its_place(flat):
    """The results before it come; then the exception with the worker's traceback; the rest is no panic."""
    a = SharedArray(100, "q")
    a.numpy()[:] = range(100)
    results = a.parallel(fail_at, 10)
    got = []
    with pytest.raises(ValueError, match="not 50") as caught:
        for value in results:
            got.append(value)
    assert got == [0, 10, 20, 30, 40]
    assert "fail_at" in caught.value.__notes__[0]
    assert next(results, "over") == "over"
    del caught, results


def slowly(gate, chunk):
    gate.recv_ok()
    chunk[:] = 1
    raise ValueError("nobody's business")


def test_an_abandoned_iterator_leaves_nothing_behind(flat):
    """Calls that have not begun never do; failures of the others are nobody's panic."""
    from functools import partial

    gate = Chan()
    a = SharedArray(200, "q")
    results = a.parallel(partial(slowly, gate), 100)
    until(lambda: stats()["goroutines_by_state"].get("chan receive", 0) >= 1)
    del results
    gc.collect()
    begun = None

    def settled():
        nonlocal begun
        before, begun = begun, stats()["goroutines_by_state"]
        return before == begun and not begun.get("runnable")

    until(settled)
    gate.close()
    until(lambda: num_goroutine() == 1)
    results = a.parallel(fail_at, 4)
    next(results)
    results.close()
    until(lambda: num_goroutine() == 1)
    a.parallel(fail_at)
    until(lambda: num_goroutine() == 1)
    assert go(count, np.zeros(3)).result(DEADLINE_S)[0] == 3  # the program goes on


def test_calls_that_have_not_begun_never_do(flat):
    """One P, kept busy: of an iterator dropped at once no call is made."""
    outside("""
        import time
        from mproc_go import Chan, SharedArray, go, num_goroutine, run

        def busy(ready, stop):
            ready.send(None)
            while not stop[0]:
                pass

        def mark(chunk):
            chunk[0] = 1

        def main():
            ready, stop = Chan(), SharedArray(1, "B")
            a = SharedArray(64, "q")
            handle = go(busy, ready, stop)
            ready.recv()
            a.parallel(mark, 64)
            stop[0] = 1
            handle.result()
            while num_goroutine() > 1:
                time.sleep(0.01)
            assert not any(a), list(a)
            list(a.parallel(mark, 64))
            assert all(a)

        run(main, procs=1, max_ms=1)
    """)


def lose(chunk):
    if chunk[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def test_a_lost_worker_in_parallel(flat):
    """WorkerLost in its place where the results are asked for; no panic where they are not."""
    a = SharedArray(10, "q")
    a.numpy()[:] = range(10)
    with pytest.raises(WorkerLost):
        list(a.parallel(lose, 10))
    a.parallel(lose, 10)
    until(lambda: num_goroutine() == 1)
    assert go(count, np.zeros(3)).result(DEADLINE_S)[0] == 3


def test_bad_calls_of_parallel(flat):
    """Each its error, before anything starts."""
    a = SharedArray(10, "q")
    for args, error in (
        ((None,), TypeError),
        ((7,), TypeError),
        ((count, 0), ValueError),
        ((count, -3), ValueError),
        ((count, 2.5), TypeError),
        ((count, True), TypeError),
        ((threading.Lock().acquire,), EncodeError),
    ):
        with pytest.raises(error):
            a.parallel(*args)
        assert num_goroutine() == 1
    with pytest.raises(TypeError, match="axes"):
        SharedArray((), "d").parallel(count)


# ------------------------------------------------------------ without NumPy
WITHOUT = """
import sys
from mproc_go import SharedArray, go, run, stats

def double(chunk):
    for i in range(len(chunk)):
        chunk[i] *= 2
    return type(chunk).__name__, sum(chunk)

def rows(chunk):
    return chunk.shape, chunk[0, 1]

def look(a):
    a[0] = a[1] + 1
    return a, a.memoryview().tolist()[:3], "numpy" in sys.modules

def main():
    a = SharedArray(100, "q")
    a.memoryview()[:] = memoryview(bytes(800)).cast("q")
    for i in range(100):
        a[i] = i
    print(list(a.parallel(double, 2)))
    print(go(look, a).result()[1:], a[0], a == go(look, a).result()[0])
    for name in ("float64", "<i4", "u1", "bool", float):
        print(SharedArray((2, 3), name).memoryview().format)
    b = SharedArray((4, 3), "int32")
    b[2, 1] = 8
    print(list(b.parallel(rows, 2)), SharedArray((0, 2), "d").memoryview().shape)
    for bad in ("complex128", "nonsense", ">f8", "O", object):
        try:
            SharedArray(3, bad)
        except TypeError as error:
            print("NumPy" in str(error))
    try:
        a.numpy()
    except ImportError:
        print("ImportError")
    print("numpy" in sys.modules, repr(b))

run(main, procs=2)
"""


def test_without_numpy(tmp_path):
    """Everything but numpy() works where NumPy can't be imported, in no process."""
    (tmp_path / "numpy.py").write_text("raise ImportError('there is no NumPy here')\n")
    out = outside(WITHOUT, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPO}")
    assert " ".join(out) == (
        "[('memoryview', 2450), ('memoryview', 7450)] ([3, 2, 4], False) 3 True "
        "d i B ? d [((2, 3), 0), ((2, 3), 8)] (0, 2) True True True True True ImportError False "
        "<SharedArray (4, 3) int32>"
    )


def test_nobody_imports_numpy_unasked():
    """Making, sending and indexing arrays of plain dtypes imports it nowhere."""
    out = outside("""
        import sys
        from mproc_go import SharedArray, go, run

        def look(a):
            a[0] = 5
            return "numpy" in sys.modules

        def main():
            a = SharedArray((10, 2), "float64")
            print(go(lambda a: (a.shape, "numpy" in sys.modules)[1], a).result(), "numpy" in sys.modules)
            print(go(look, SharedArray(5, "B")).result(), a[1].shape)

        run(main, procs=1)
    """)
    assert out == ["False", "False", "False", "(2,)"]


def test_in_a_runtime_of_its_own(runtime):
    """The default runtime starts by itself for an array."""
    assert outside("""
        from mproc_go import SharedArray
        a = SharedArray(3, "i")
        a[1] = 4
        print(a[1])
    """) == ["4"]


