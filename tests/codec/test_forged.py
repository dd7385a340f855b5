"""Handles of nothing: forged, damaged or too old, they are one clear error and change nothing."""

from __future__ import annotations

import gc
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mproc_go import (
    AtomicInt,
    Chan,
    Cond,
    KeyedChan,
    Mutex,
    Once,
    RemoteError,
    Runtime,
    RWMutex,
    Semaphore,
    SharedArray,
    SharedMap,
    Ticker,
    Timer,
    WaitGroup,
    after_func,
    context,
    go,
    num_goroutine,
    stats,
)
from mproc_go.codec import handles, wire
from mproc_go.codec.wire import DecodeError
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from tests.codec import forge

DEADLINE_S = 60
Triple = tuple[int, int, int]


@pytest.fixture(scope="module")
def rt_(module_leaves_nothing: None) -> Iterator[Runtime]:
    with Runtime(2) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def made(rt_: Runtime) -> tuple[dict[str, Any], dict[str, int]]:
    mutex, ch = Mutex(), Chan(1)
    ticker = Ticker(1000)
    ticker.stop()
    objects = {
        "goroutine": go(len, ""),
        "channel": ch,
        "send-only channel": ch.sender,
        "receive-only channel": ch.receiver,
        "wait group": WaitGroup(),
        "mutex": mutex,
        "rwmutex": RWMutex(),
        "once": Once(),
        "cond": Cond(mutex),
        "semaphore": Semaphore(1),
        "atomic": AtomicInt(),
        "timer": Timer(1000),
        "call": after_func(1000, len, ""),
        "ticker": ticker,
        "context": context.with_cancel(context.background())[0],
        "map": SharedMap(),
        "keyed channel": KeyedChan(),
        "array": SharedArray(4),
    }
    objects["goroutine"].result(DEADLINE_S)
    gc.collect()
    return objects, stats()["objects"]


@pytest.fixture(scope="module")
def counts(made: tuple[dict[str, Any], dict[str, int]]) -> dict[str, int]:
    """How many records of each kind there are while nothing else is alive."""
    return made[1]


@pytest.fixture(scope="module")
def objects(made: tuple[dict[str, Any], dict[str, int]]) -> dict[str, Any]:
    """One of each kind that travels."""
    return made[0]


class Forged:
    """Pickles as a handle of whatever it is told; no table counts it."""

    def __init__(self, triple: Triple) -> None:
        self.triple = triple

    def __reduce__(self) -> tuple[Any, ...]:
        return handles.open_handle, self.triple


def records() -> tuple[list[int], list[bytes]]:
    """The words of all goroutines and objects."""
    w = rt.current().w
    bases = pool.records(w, L.POOL_OBJECT) + pool.records(w, L.POOL_G)
    return bases, [bytes(w[base : base + 32]) for base in bases]


def refuses(triple: Triple, match: str = "which is not there") -> None:
    """Opening it fails, and no word of a record changes."""
    before = records()
    with pytest.raises(DecodeError, match=match):
        wire.decode(wire.T_HANDLE << wire.TAG_SHIFT | wire.HAS_HANDLES | 32, handles.pack_table([triple]))
    assert records() == before


def discards(triple: Triple | None, n: int = 1) -> None:
    """A message whose table names it is thrown away, and no word of a record changes but the message's own.

    None: a mutex that is gone.
    """
    gone, mutex = Mutex(), Mutex()
    ch: Chan[Any] = Chan(1)
    free = gone._base
    del gone
    triple = triple or (L.KIND_MUTEX, free, rt.current().w[free + L.R_GEN])
    ch.send([mutex])
    data = forge.payload(rt.current(), ch)
    assert 32 <= len(data) < 200
    data[0:32] = struct.pack("<4Q", n, *triple)
    kept = dict(zip(*records(), strict=True))
    own = {ch._base, mutex._base}
    del ch, data
    assert mutex.try_lock()
    after = dict(zip(*records(), strict=True))
    changed = {base: (kept[base], after[base]) for base in kept if base not in own and kept[base] != after[base]}
    assert not changed, changed
    forge.uncount(rt.current(), mutex._base)  # what the message counted, and nobody can know any more


def test_each_kind_can_be_opened(objects: dict[str, Any]) -> None:
    """By its name: an equal handle; what is refused below is refused for what is wrong with it."""
    for what, handle in objects.items():
        assert handles.open_handle(*handle._name()) == handle, what


def test_another_generation(objects: dict[str, Any]) -> None:
    """Older or newer."""
    for handle in objects.values():
        kind, base, gen = handle._name()
        for other in {gen + 1, max(gen - 1, 0), (1 << 64) - 1} - {gen}:
            refuses((kind, base, other))
            discards((kind, base, other))


def test_another_kind(objects: dict[str, Any]) -> None:
    """Whatever lies there: nothing is opened as what it is not."""
    channels = {L.KIND_CHAN, L.KIND_SEND_CHAN, L.KIND_RECV_CHAN}
    clocks = {L.KIND_TIMER, L.KIND_TICKER}
    for what, handle in objects.items():
        kind, base, gen = handle._name()
        fits = {kind}
        if what in ("timer", "ticker"):
            fits = channels | clocks
        elif kind in channels:
            fits = channels
        for other in {*handles.HOMES, L.KIND_LETTER, 0, 7, 255, 1 << 40} - fits:
            refuses((other, base, gen), "which is not there|no handle of kind")
            discards((other, base, gen))


def test_another_place(objects: dict[str, Any]) -> None:
    """Beside a record, in the tables, among blocks and sudogs, behind all there is, beyond the segment."""
    w = rt.current().w
    entry = L.EXTENTS + L.EXTENTS_ENTRY
    extents = [entry + i * L.EXTENT_WORDS for i in range(w[L.EXTENTS + L.EXTENTS_COUNT])]
    others = [w[at + L.E_BASE] for at in extents if w[at + L.E_POOL] not in (L.POOL_G, L.POOL_OBJECT)]
    assert others
    last = w[extents[-1] + L.E_BASE] + w[extents[-1] + L.E_WORDS]
    places = [0, 1, L.SCHED, L.LOCKS, L.slot_base(1), L.PS, L.DYNAMIC - 32, *others, last, last + (1 << 20), len(w) - 1]
    places += [len(w), len(w) + 32, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 32, (1 << 64) - 1]
    for handle in objects.values():
        kind, base, gen = handle._name()
        for place in [*places, base + 1, base - 1, base + 8, base + 16]:
            refuses((kind, place, gen))
            refuses((kind, place, 0))
    for place in places:
        discards((L.KIND_MUTEX, place, 0))


def test_tables_with_a_wrong_count(objects: dict[str, Any]) -> None:
    """None, more than the message has room for, more than any has."""
    triple = objects["channel"]._name()
    for n in (0, 8, 1 << 20, 1 << 32, 1 << 61, (1 << 64) - 1):
        discards(triple, n)


def imitate(w: Any, base: int, gen: int) -> None:
    """Write what looks like a mutex."""
    for word, value in ((L.R_HEAD, w[rt.current().g]), (L.R_GEN, gen), (L.R_REFS, 1), (L.O_KIND, L.KIND_MUTEX)):
        w[base + word] = value


def test_what_only_looks_like_a_record(objects: dict[str, Any]) -> None:
    """In data of the user's own, and in the middle of a record."""
    w = rt.current().w
    array = SharedArray(1024, "Q")
    view = array.memoryview()
    view[0] = 0x1234_5678_9ABC_DEF0
    start = w[array._base + L.MB_BLOCK] + L.MB_DATA
    assert w[start] == view[0]
    for place in (-(-start // 32) * 32, objects["atomic"]._base + 16):
        imitate(w, place, 7)
        refuses((L.KIND_MUTEX, place, 7))
        discards((L.KIND_MUTEX, place, 7))


def test_free_records(objects: dict[str, Any]) -> None:
    """With the generation they have now; and those that never were anything."""
    w = rt.current().w
    gone = [Mutex() for _ in range(10)]
    bases = [mutex._base for mutex in gone]
    gone.clear()
    for base in bases:
        refuses((L.KIND_MUTEX, base, w[base + L.R_GEN]))
        refuses((L.KIND_MUTEX, base, w[base + L.R_GEN] - 1))
    discards(None)
    for which, kind in ((L.POOL_OBJECT, L.KIND_MUTEX), (L.POOL_G, L.KIND_GOROUTINE)):
        extent, carved = divmod(w[L.POOLS + which * L.POOL_WORDS + L.POOL_CUR], 1 << 32)
        first = w[L.EXTENTS + L.EXTENTS_ENTRY + (extent - 1) * L.EXTENT_WORDS + L.E_BASE]
        for i in range(carved, carved + 3):
            refuses((kind, first + 32 * i, 0))
            refuses((0, first + 32 * i, 0), "which is not there|no handle of kind")


def test_records_that_never_have_handles(objects: dict[str, Any]) -> None:
    """The one by which a thread waits: it goes with the thread, whoever would have a handle."""
    m = rt.current()
    refuses((L.KIND_GOROUTINE, m.g, m.w[m.g + L.R_GEN]))


def test_nobody_can_tell_records_from_extents_that_are_new(objects: dict[str, Any]) -> None:
    """A process learns of extents as it meets them."""
    w = rt.current().w
    n = w[L.EXTENTS + L.EXTENTS_COUNT]
    made = []
    while w[L.EXTENTS + L.EXTENTS_COUNT] == n:
        made += [Mutex() for _ in range(100)]
    assert go(open_all, [mutex._name() for mutex in made]).result(DEADLINE_S) == len(made)


def open_all(triples: list[Triple]) -> int:
    return len([handles.open_handle(*triple) for triple in triples])


def open_one(triple: Triple) -> str:
    """What a worker says to it."""
    try:
        return repr(handles.open_handle(*triple))
    except DecodeError as error:
        return str(error)


ARRIVALS: dict[str, Callable[[Forged], object]] = {}


def arrives(fn: Callable[[Forged], object]) -> Callable[[Forged], object]:
    ARRIVALS[fn.__name__] = fn
    return fn


@arrives
def received(forged: Forged) -> object:
    ch: Chan[Any] = Chan(1)
    ch.send([forged])
    return ch.recv(DEADLINE_S)


@arrives
def received_by_a_select(forged: Forged) -> object:
    from mproc_go import select

    ch: Chan[Any] = Chan(1)
    ch.send([forged])
    return select(ch.recv)


@arrives
def received_with_others(forged: Forged) -> object:
    ch: Chan[Any] = Chan(3)
    for value in (1, forged, 2):
        ch.send(value)
    assert ch.recv_many(3) == [1]
    try:
        return ch.recv(DEADLINE_S)
    finally:
        assert ch.recv(DEADLINE_S) == 2


@arrives
def argument(forged: Forged) -> object:
    return go(len, [forged]).result(DEADLINE_S)


@arrives
def result(forged: Forged) -> object:
    return go(Forged, forged.triple).result(DEADLINE_S)


@arrives
def value_of_a_map(forged: Forged) -> object:
    shared: SharedMap[Any, Any] = SharedMap()
    shared["key"] = forged
    return shared["key"]


@arrives
def value_of_a_context(forged: Forged) -> object:
    return context.with_value(context.background(), "key", forged).value("key")


@pytest.mark.parametrize("how", ARRIVALS)
def test_in_a_message(objects: dict[str, Any], counts: dict[str, int], how: str) -> None:
    """Whoever reads it gets the error; the message is gone, and nothing with it."""
    kind, base, gen = objects["mutex"]._name()
    for triple in ((kind, base + 1, gen), (kind, base, gen + 1), (L.KIND_CHAN, base, gen), (kind, 1 << 63, gen)):
        with pytest.raises(DecodeError, match="which is not there"):
            ARRIVALS[how](Forged(triple))
        assert "which is not there" in str(go(open_one, triple).result(DEADLINE_S))
    until(lambda: stats()["objects"] == counts and num_goroutine() == 1)
    objects["mutex"].lock(DEADLINE_S)
    objects["mutex"].unlock()


def test_a_handle_that_no_message_counts_is_one_like_others(objects: dict[str, Any]) -> None:
    """Forged so well that it names what is there: it is counted, and keeps it."""
    ch: Chan[Any] = Chan(1)
    ch.send("kept")
    name = ch._name()
    seen = go(open_and_hold, name, held := Chan(), let_go := Chan())
    held.recv(DEADLINE_S)
    del ch
    gc.collect()
    again = handles.open_handle(*name)
    assert again.recv(DEADLINE_S) == "kept"  # type: ignore[attr-defined]
    let_go.close()
    seen.result(DEADLINE_S)
    del again
    gc.collect()
    until(lambda: go(open_one, name).result(DEADLINE_S).endswith("not there"))


def open_and_hold(name: Triple, held: Chan[None], let_go: Chan[None]) -> None:
    handle = handles.open_handle(*name)
    held.send(None)
    let_go.recv_ok()
    del handle


def until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(DEADLINE_S * 200):
        if condition():
            return
        gc.collect()
        waited.wait(0.005)
    raise AssertionError(f"did not become true: {stats()}")


ROUNDS = {"some": 600, "many": 20_000}


@pytest.mark.parametrize("rounds", ["some", pytest.param("many", marks=pytest.mark.slow)])
def test_damaged_where_they_lie(seed: int, rounds: str, tmp_path: pathlib.Path) -> None:
    """Messages with handles, in channels of a runtime that goes on; in a process that could afford to crash."""
    program = pathlib.Path(__file__).with_name("forge.py")
    command = [sys.executable, str(program), str(seed), str(ROUNDS[rounds])]
    folder = str(pathlib.Path(__file__).resolve().parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, cwd=tmp_path, env={**os.environ, "PYTHONPATH": folder}
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    assert done.stdout.endswith(" errors\n")


def test_outside_of_messages(objects: dict[str, Any]) -> None:
    """Pickled by a user's own pickler a forged one is as forged."""
    kind, base, gen = objects["channel"]._name()
    with pytest.raises(DecodeError, match="which is not there"):
        pickle.loads(pickle.dumps(Forged((kind, base, gen + 1))))


@pytest.mark.parametrize("shape", [lambda ch: ch, lambda ch: (ch, [None]), lambda ch: (b"\0", ch), lambda ch: ("", [ch])])
def test_nothing_is_received_from_a_channel_in_a_message(objects: dict[str, Any], shape: Callable[[Any], object]) -> None:
    """Where the codec's own lists should be, and are not: going through it would take its messages, or wait for ever."""
    ch: Chan[Any] = Chan(4)
    for value in (b"\0", [None], 3):
        ch.send(value)
    data, triples = wire.dump(shape(ch))
    data = handles.pack_table(triples) + data
    with pytest.raises(DecodeError, match="not a message"):
        wire.decode(wire.T_TUPLE << wire.TAG_SHIFT | wire.HAS_HANDLES | len(data), data)
    error, _ = wire.decode_exception(wire.T_EXCEPTION << wire.TAG_SHIFT | wire.HAS_HANDLES | len(data), data)
    assert isinstance(error, RemoteError) and "can't be read here" in str(error)
    assert ch.recv_many(4) == [b"\0", [None], 3]
