"""Large values travel without a second copy: equal, of equal type, their receiver's own, and freed with the last view."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mproc_go import (
    Chan,
    EncodeError,
    KeyedChan,
    Runtime,
    SharedMap,
    WorkerLost,
    after_func,
    context,
    go,
    select,
    stats,
)
from mproc_go.codec import wire
from mproc_go.runtime import process
from tests.contract.support import DEADLINE_S, until

np = pytest.importorskip("numpy")

LARGE = wire.LARGE_BYTES
REPO = str(pathlib.Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module")
def runtime(module_leaves_nothing):
    with Runtime(2) as started:
        yield started


@pytest.fixture
def flat(runtime):
    """Nothing that a test sent is there any more after it."""
    gc.collect()
    before = stats()["memory_bytes"]
    yield
    until(lambda: "large buffers" not in stats()["objects"], error="a buffer is left")
    most = before + 12 * LARGE  # caches of blocks of 256 KB
    until(lambda: stats()["memory_bytes"] <= most, error="memory of a buffer is left")


def buffers():
    return stats()["objects"].get("large buffers", 0)


def echo(ch, out):
    for value in ch:
        out.send(value)
        del value


def there_and_back(*values):
    """Through a goroutine in a worker."""
    there, back = Chan(), Chan()
    handle = go(echo, there, back)
    got = []
    for value in values:
        there.send(value)
        got.append(back.recv(DEADLINE_S))
    there.close()
    handle.result(DEADLINE_S)
    return got[0] if len(values) == 1 else got


class Sub(np.ndarray):
    """A subclass of arrays."""


def arrays():
    rng = np.random.default_rng(1)
    square = rng.standard_normal((300, 400))
    readonly = square.copy()
    readonly.flags.writeable = False
    return {
        "C order": square,
        "Fortran order": np.asfortranarray(square),
        "transposed": square.T,
        "every second row": square[::2],
        "every second column": square[:, ::2],
        "backwards": square[::-1],
        "readonly": readonly,
        "readonly with gaps": readonly[:, ::2],
        "a slice": square[100:],
        "bytes": rng.integers(0, 255, LARGE, dtype="u1"),
        "complex": square + 1j,
        "big endian": square.astype(">f8"),
        "structured": np.zeros(20_000, dtype=[("a", "i4"), ("b", "f8")]),
        "dates": np.arange(20_000).astype("M8[s]"),
        "text": np.full(20_000, "some text"),
        "bools": square > 0,
        "zero-size": np.zeros((0, 100_000)),
        "0-d": np.array(5.0),
        "0-d large": np.zeros((), dtype=f"V{LARGE}"),
        "objects": np.array([1, "a", None, square], dtype=object),
        "subclass": square.view(Sub),
        "masked": np.ma.masked_less(square, 0),
        "broadcast": np.broadcast_to(np.arange(50_000.0), (3, 50_000)),
        "one below": np.zeros(LARGE - 1, "u1"),
    }


@pytest.mark.parametrize("name", arrays())
def test_arrays(flat, name):
    """Equal values, dtype, shape and order; writable, unless the one sent was not (with gaps: always, as in pickle)."""
    array = arrays()[name]
    got = there_and_back(array)
    assert type(got) is type(array) and got.dtype == array.dtype and got.shape == array.shape
    if array.dtype == object:
        assert all(np.array_equal(a, b) for a, b in zip(got, array, strict=True))
    else:
        assert got.tobytes() == array.tobytes() if array.dtype.kind == "V" else np.ma.allequal(got, array)
    if array.flags.f_contiguous or array.flags.c_contiguous:
        assert got.flags.f_contiguous == array.flags.f_contiguous
    plain = pickle.loads(pickle.dumps(array, 5, buffer_callback=None))
    assert got.flags.writeable == plain.flags.writeable
    assert got.flags.aligned


def plain_values():
    return {
        "bytes": os.urandom(2 * LARGE),
        "bytearray": bytearray(os.urandom(2 * LARGE)),
        "str": "ä" * LARGE,
        "list with bytes": [1, b"x" * LARGE, bytearray(b"y" * LARGE), "z" * LARGE],
        "the same twice": [(both := b"b" * LARGE), both],
        "memoryview": memoryview(bytearray(2 * LARGE)),
        "readonly memoryview": memoryview(bytes(2 * LARGE)),
        "memoryview with a shape": memoryview(bytearray(8 * 300 * 400)).cast("d", [300, 400]),
        "memoryview with gaps": memoryview(bytearray(range(256)) * 4096)[::2],
    }


@pytest.mark.parametrize("name", plain_values())
def test_bytes_and_their_kin(flat, name):
    """bytes stay bytes, a bytearray a bytearray, a memoryview what it was."""
    value = plain_values()[name]
    got = there_and_back(value)
    assert type(got) is type(value)
    assert got == value
    if isinstance(value, memoryview):
        assert (got.format, got.shape, got.readonly) == (value.format, value.shape, value.readonly)
    if name == "the same twice":
        assert got[0] is got[1]


class Table:
    """As a data frame: arrays in an object of its own."""

    def __init__(self, **columns):
        self.columns = columns

    def __eq__(self, other):
        return self.columns.keys() == other.columns.keys() and all(
            np.array_equal(mine, other.columns[name]) for name, mine in self.columns.items()
        )


def test_arrays_inside_other_things(flat):
    """In dicts, tuples, objects, beside handles, and one array met twice stays one."""
    one, two = np.arange(50_000), np.ones((200, 200))
    back = Chan()
    values = (
        {"a": one, "b": [two, {"c": one}]},
        (1, "two", one, two),
        (back, one),
        [back, two, back],
        Table(x=one, y=two),
        Table(x=lambda: 1).columns["x"],
    )
    got = there_and_back(*values)
    assert np.array_equal(got[0]["a"], one) and np.array_equal(got[0]["b"][0], two)
    assert got[0]["b"][1]["c"] is got[0]["a"]
    assert got[1][:2] == (1, "two") and np.array_equal(got[1][2], one)
    assert got[2][0] == back and np.array_equal(got[2][1], one)
    assert got[3][0] == got[3][2] == back
    assert got[4] == values[4]
    got.clear()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.integers() | st.text(max_size=5) | st.sampled_from(["array", "bytes", "bytearray", "small", "view"]),
        lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=6,
    ),
    st.integers(LARGE - 10, LARGE + 10),
    st.randoms(use_true_random=False),
)
def test_any_mixture(flat, shape, size, random):
    """Equal values of equal type, whatever lies in what, just below and above the size from which it travels beside."""

    def filled(value):
        if isinstance(value, list):
            return [filled(v) for v in value]
        if isinstance(value, tuple):
            return tuple(filled(v) for v in value)
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        data = random.randbytes(64) * (size // 64) + b"x" * (size % 64)
        made = {
            "array": lambda: np.frombuffer(bytearray(data), "u1"),
            "bytes": lambda: data,
            "bytearray": lambda: bytearray(data),
            "small": lambda: np.arange(10),
            "view": lambda: memoryview(data),
        }
        return made[value]() if isinstance(value, str) and value in made else value

    value = filled(shape)
    ch = Chan(1)
    ch.send(value)
    assert same(ch.recv(), value)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b) and a.dtype == b.dtype
    return a == b


# ------------------------------------------------------------ whose it is
def add_one(array):
    array += 1
    return float(array.sum())


def test_what_was_sent_is_nobody_elses(flat):
    """Neither side sees what the other writes: not the sender, not another receiver, not who sends it on."""
    array = np.zeros(100_000)
    assert go(add_one, array).result(DEADLINE_S) == 100_000
    assert not array.any()
    ch = Chan(3)
    ch.send(array)
    array[:] = 7
    first = ch.recv()
    assert not first.any()
    ch.send(first)
    ch.send(first[:50_000])
    first[:] = 1
    second, third = ch.recv(), ch.recv()
    assert not second.any() and not third.any()
    third[:] = 2
    assert not second.any() and first.all()


def make(n):
    return np.arange(float(n))


def test_each_reader_of_a_result_has_its_own(flat):
    """However often a result is asked for, by whomever, written to or not, and after the handle is gone."""
    handle = go(make, 100_000)
    one = handle.result(DEADLINE_S)
    one[:] = 0
    two = handle.result(DEADLINE_S)
    assert two[-1] == 99_999
    two[:10] = 5
    assert not one.any()
    elsewhere = go(lambda h: float(h.result(DEADLINE_S).sum()), handle).result(DEADLINE_S)
    assert elsewhere == make(100_000).sum()
    three = handle.result(DEADLINE_S)
    assert buffers() == 1
    del handle
    gc.collect()
    assert np.array_equal(three, make(100_000)) and two[0] == 5 and two[10] == 10 and not one.any()
    del one, two
    assert buffers() == 1
    del three
    assert not buffers()


def test_a_retried_goroutine_gets_its_arguments_as_they_were(flat, tmp_path):
    """The first run wrote into its array, and died."""

    def spoil(array, path):
        seen = float(array.sum())
        array[:] = -1
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return seen

    handle = go.options(retries=1)(spoil, np.ones(100_000), tmp_path / "died")
    assert handle.result(DEADLINE_S) == 100_000
    del handle


def test_values_of_maps_and_keyed_channels(flat):
    """Each load has its own array; one that was loaded stays as it is when another is stored."""
    table, keyed = SharedMap(), KeyedChan()
    table["a"] = {"array": make(100_000)}
    keyed.send("a", make(100_000))
    one, two = table["a"]["array"], keyed.receive("a")
    one[:] = two[:] = -1
    kept = table["a"]["array"]
    assert np.array_equal(kept, make(100_000)) and np.array_equal(keyed.receive("a"), make(100_000))
    assert go(lambda t: float(t["a"]["array"].sum()), table).result(DEADLINE_S) == make(100_000).sum()
    table["a"] = np.zeros(100_000)
    keyed.send("a", np.zeros(100_000))
    for _ in range(3):
        table["b"] = np.full(100_000, 5)
    assert np.array_equal(kept, make(100_000)) and not table["a"].any() and not keyed.receive("a").any()
    table.clear()
    keyed.delete("a")
    assert buffers() == 2 and (one == -1).all()  # what was loaded first, of each


def raise_with(array):
    raise ValueError(array, "large")


def test_exceptions_contexts_and_timers(flat):
    """Large values wherever else a value travels."""
    with pytest.raises(ValueError, match="large") as caught:
        go(raise_with, make(100_000)).result(DEADLINE_S)
    assert np.array_equal(caught.value.args[0], make(100_000))
    del caught
    ctx = context.with_value(context.background(), "key", make(100_000))
    assert go(lambda c: float(c.value("key")[-1]), ctx).result(DEADLINE_S) == 99_999
    first, second = ctx.value("key"), ctx.value("key")
    first[:] = 0
    assert second[-1] == 99_999 or second is first  # a context keeps what it has read
    del ctx, first, second
    out = Chan(1)
    timer = after_func(0.01, out.send, make(100_000))
    assert out.recv(DEADLINE_S)[-1] == 99_999
    del timer


def test_asyncio(flat):
    """arecv gives the receiver's own array too."""

    async def main():
        ch = Chan(1)
        await ch.asend(make(100_000))
        got = await ch.arecv()
        got += 1
        return float(got[-1])

    assert asyncio.run(main()) == 100_000


def test_batches_and_select(flat):
    """recv_many, send_many and select carry them too; each is the receiver's own to write to."""
    ch = Chan(4)
    ch.send_many([np.full(50_000, i) for i in range(4)])
    got = ch.recv_many(4)
    for i, array in enumerate(got):
        assert (array == i).all()
        array += 1
        assert (array == i + 1).all()
    assert select((ch.send, np.ones(50_000))).index == 0
    assert select(ch.recv).value.sum() == 50_000
    got.clear()
    del array


def test_views_of_views_keep_the_memory(flat):
    """A slice, a reshaped view, a memoryview of it: the memory goes with the last of them."""
    ch = Chan(1)
    ch.send(np.arange(100_000))
    array = ch.recv()
    part = array[10:20].reshape(2, 5)
    view = memoryview(part)
    del array
    gc.collect()
    others = [np.zeros(100_000) for _ in range(3)]
    for other in others:
        ch.send(other)
        ch.recv()
    assert part.tolist() == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    del part
    assert buffers() == 1 and view[1, 0] == 15
    view.release()
    del view
    assert not buffers()


def test_discarded_messages_free_their_buffers(flat):
    """In a channel nobody has any more, after a timeout, in a result nobody asks for."""
    ch = Chan(2)
    ch.send(np.zeros(100_000))
    ch.send([np.zeros(100_000), bytes(3 * LARGE)])
    assert buffers() == 2
    with pytest.raises(TimeoutError):
        ch.send(np.zeros(100_000), 0.01)
    assert buffers() == 2
    del ch
    assert not buffers()
    go(make, 100_000).done()


def test_encode_errors_leave_nothing(flat):
    """Also where the bad part comes after a large one, or memory runs out in the middle."""
    ch = Chan(1)
    for bad in ([np.zeros(100_000), threading.Lock()], (ch, np.zeros(100_000), (x for x in [1]))):
        with pytest.raises(EncodeError) as caught:
            ch.send(bad)
        assert not buffers()
        assert "can't send" in str(caught.value)
    grown = bytearray(4 * LARGE)
    ch.send(grown)
    grown.extend(b"x")  # nothing has a view of it any more
    ch.recv()
    array = np.zeros(LARGE, "u1")
    view = memoryview(bytearray(LARGE))
    ch.send([array, view])
    ch.recv()
    view.release()


def test_memory_that_runs_out_in_the_middle_of_a_message():
    """Of many buffers some fit: none is left, and the next message finds room."""
    outlive("""
        import numpy as np
        from mproc_go import Chan, SharedMemoryFull, run, stats

        def main():
            ch = Chan(1)
            part = np.zeros(2 << 20, "u1")
            before = stats()["memory_bytes"]
            try:
                ch.send([part.copy() for _ in range(64)])
            except SharedMemoryFull as error:
                assert "memory=" in str(error)
                assert "large buffers" not in stats()["objects"], stats()
            else:
                raise AssertionError("it did fit")
            assert stats()["memory_bytes"] <= before + (1 << 20)
            assert len(ch) == 0
            for _ in range(100):
                ch.send([part, part.copy(), part.copy()])
                assert ch.recv()[2].nbytes == 2 << 20

        run(main, procs=1, memory=64 << 20)
    """)


def sum_all(ch, out):
    total = 0.0
    for array in ch:
        array += 1
        total += float(array[0])
    out.send(total)


def test_memory_is_flat_over_a_thousand_large_messages(flat):
    """What is used, what is kept for the next, and what the machine gives, in both directions."""
    ch, out = Chan(2), Chan()
    go(sum_all, ch, out)
    array = np.zeros(100_000)
    used = []
    for i in range(1000):
        ch.send(array)
        if i % 100 == 50:
            used.append(stats()["memory_bytes"] + stats()["memory_kept_bytes"])
    ch.close()
    assert out.recv(DEADLINE_S) == 1000
    assert max(used) <= min(used) + (8 << 20)


# ------------------------------------------------------------ ends
def hold(array, ready):
    ready.send(os.getpid())
    array[0] = 1
    Chan().recv()
    return array


def test_a_killed_worker_with_views_gives_their_memory_back(flat):
    """Views of messages, views of results, and what it was just making."""
    ready = Chan()
    handles = [go(hold, np.zeros(1 << 20), ready) for _ in range(3)]
    for pid in {ready.recv(DEADLINE_S) for _ in handles}:
        os.kill(pid, signal.SIGKILL)
    for handle in handles:
        with pytest.raises(WorkerLost):
            handle.result(DEADLINE_S)


def outlive(script):
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": REPO},
    )
    assert (out.returncode, out.stderr) == (0, ""), out.stderr
    return out.stdout.split()


def test_views_outlive_the_runtime():
    """Their memory stays as long as they do; the next runtime has nothing to do with them; exit is quiet."""
    out = outlive("""
        import os, gc
        import numpy as np
        from mproc_go import Chan, go, run, stats

        def f(n):
            return np.arange(n)

        def main(keep):
            ch = Chan(1)
            ch.send(np.ones(200_000))
            keep.append(ch.recv())
            h = go(f, 200_000)
            keep.append(h.result())
            return h.result()

        keep = []
        last = run(main, keep, procs=1)
        last[0] = 3
        print(int(keep[0].sum()), int(keep[1].sum()), int(last[0]))
        keep.append(run(main, [], procs=1))
        print(int(keep[2][-1]))
        pid = os.fork()
        if not pid:
            keep[0][:] = 2
            keep.clear(); gc.collect()
            os._exit(0)
        os.waitpid(pid, 0)
        fds = len(os.listdir("/proc/self/fd"))
        maps = open("/proc/self/maps").read().count("memfd:mproc-go")
        del keep, last
        gc.collect()
        assert open("/proc/self/maps").read().count("memfd:mproc-go") < maps
        print(open("/proc/self/maps").read().count("memfd:mproc-go"))
        late = run(main, [], procs=1)
    """)
    assert out == ["200000", "19999900000", "3", "199999", "0"]


def test_a_fork_with_views_does_not_free_them(flat):
    """The child's views are its own copies of the handles: its end says nothing to the runtime."""
    ch = Chan(1)
    ch.send(np.arange(100_000))
    array = ch.recv()
    pid = os.fork()
    if not pid:
        del array
        gc.collect()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert buffers() == 1
    ch.send(np.zeros(100_000))
    ch.recv()
    assert np.array_equal(array, np.arange(100_000))


def test_deepcopies_and_pickles_of_received_arrays_are_free_of_it(flat):
    """They are ordinary arrays: copied, pickled, saved; the copies need no runtime."""
    ch = Chan(1)
    ch.send(np.arange(100_000))
    array = ch.recv()
    again = [copy.deepcopy(array), pickle.loads(pickle.dumps(array)), array.copy()]
    del array
    assert not buffers()
    assert all(np.array_equal(one, np.arange(100_000)) for one in again)


def test_nothing_imports_numpy_by_itself():
    """A worker that was sent bytes and memoryviews has none of it."""
    out = outlive("""
        import sys
        from mproc_go import go, run

        def has(view):
            return "numpy" in sys.modules, len(view)

        def main():
            for value in (bytes(300_000), bytearray(300_000), memoryview(bytearray(300_000))):
                print(*go(has, value).result())
            print("numpy" in sys.modules)

        run(main, procs=1)
    """)
    assert out == ["False", "300000"] * 3 + ["False"]




class Interrupted(BaseException):
    """What a signal handler raises."""


def test_an_exception_in_the_middle_of_copying_leaves_nothing(flat):
    """Ctrl-C comes when it comes: neither the buffers nor the block of the message stay."""
    ch = Chan(1)
    before = stats()["memory_bytes"]
    segment = process.process.segment

    class Interrupting:
        """The segment, but for the n-th copy."""

        def __init__(self, n):
            self.left = n

        def __getattr__(self, name):
            return getattr(segment, name)

        def fill(self, start, data):
            self.left -= 1
            if self.left < 0:
                raise Interrupted
            segment.fill(start, data)

    m = process.current()
    value = [make(100_000), bytes(2 << 20), make(100_000)]
    for n in range(20):
        m.segment = Interrupting(n)
        try:
            ch.send(value)
            break
        except Interrupted:
            assert len(ch) == 0
        finally:
            m.segment = segment
    assert 4 <= n < 19
    assert len(ch.recv()[1]) == 2 << 20
    assert not buffers() and stats()["memory_bytes"] <= before + (1 << 20)
