"""Goroutine bodies, shipped by name. Any of them may be killed anywhere, and is run again from its beginning."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator
from typing import Any

from mproc_go import (
    Chan,
    ChanClosed,
    KeyedChan,
    Mutex,
    SharedArray,
    SharedMap,
    WaitGroup,
    after,
    blocking,
    go,
    select,
    sleep,
)
from mproc_torture.journal import ACK, INTENT, START, Journal, read

# As good as for ever: no goroutine of a round is killed that often.
RETRIES = 1_000_000


# ---------------------------------------------------------------- messages that show if they were damaged
def message(number: int, size: int, reply: Chan[int] | None = None) -> tuple[int, bytes, Chan[int] | None]:
    return number, _pattern(number, size), reply


def _pattern(number: int, size: int) -> bytes:
    return (number.to_bytes(8, "little") * (size // 8 + 1))[:size]


def opened(value: Any) -> tuple[int, Chan[int] | None]:
    """Number and reply channel of a message.

    Raises:
        AssertionError: it is not what was sent.
    """
    number, data, reply = value
    assert data == _pattern(number, len(data)), f"message {number} is damaged"
    return number, reply


# ---------------------------------------------------------------- channels
def take(ch: Chan[Any], how: str) -> Iterator[list[Any]]:
    """What comes from the channel, some at a time, until it is closed and drained."""
    never: Chan[Any] = Chan()
    while True:
        if how == "select":
            chosen = select(never.recv, ch.recv)
            if not chosen.ok:
                return
            yield [chosen.value]
        elif how == "many":
            values = ch.recv_many(5)
            if not values:
                return
            yield values
        elif how == "timeout":
            try:
                yield [ch.recv(0.002)]
            except TimeoutError:
                continue
            except ChanClosed:
                return
        else:
            value, ok = ch.recv_ok()
            if not ok:
                return
            yield [value]


def put(ch: Chan[Any], values: list[Any], how: str) -> None:
    if how == "many":
        ch.send_many(values)
        return
    for value in values:
        if how == "select":
            never: Chan[Any] = Chan()
            select(never.recv, (ch.send, value))
        elif how == "timeout":
            while True:
                try:
                    ch.send(value, 0.002)
                    break
                except TimeoutError:
                    continue
        else:
            ch.send(value)


def consumer(path: str, source: Chan[Any], sink: Chan[Any], how: str) -> None:
    """Hand on what comes: INTENT when it has it, ACK once it was sent."""
    journal = Journal(path)
    journal.add(START, 0)
    for values in take(source, how):
        numbers = [opened(value)[0] for value in values]
        journal.add(INTENT, *numbers)
        for value in values:
            number, reply = opened(value)
            if reply is not None:
                reply.send(number)
            else:
                sink.send(value)
            journal.add(ACK, number)
    journal.close()


def producer(path: str, ch: Chan[Any], first: int, n: int, size: int, how: str) -> None:
    """Send `n` numbers once each: what was begun in an earlier life is in doubt, and is not sent again."""
    begun = read(path)[INTENT]
    journal = Journal(path)
    journal.add(START, 0)
    todo = [number for number in range(first, first + n) if number not in begun]
    step = 4 if how == "many" else 1
    for i in range(0, len(todo), step):
        batch = todo[i : i + step]
        journal.add(INTENT, *batch)
        put(ch, [message(number, size) for number in batch], how)
        journal.add(ACK, *batch)
    journal.close()


def told_of_close(ch: Chan[Any]) -> bool:
    return ch.recv_ok() == (None, False)


# ---------------------------------------------------------------- maps
def counter(path: str, counts: SharedMap[Any, Any], keys: int, n: int) -> None:
    """Add 1 to some key, `n` times once each: what was begun in an earlier life is in doubt, and is not done again."""
    begun = read(path)[INTENT]
    journal = Journal(path)
    journal.add(START, 0)
    for i in range(n):
        if i not in begun:
            journal.add(INTENT, i)
            counts.compute(i % keys, _one_more, 0)
            journal.add(ACK, i)
    journal.close()


def _one_more(v: int) -> int:
    return v + 1


def keeper(path: str, kept: SharedMap[Any, Any], first: int, n: int, size: int) -> None:
    """Store each number under itself; every third one is deleted again."""
    begun = read(path)[ACK]
    journal = Journal(path)
    journal.add(START, 0)
    for number in range(first, first + n):
        if number in begun:
            continue
        kept[number] = message(number, size)
        value, there = kept.load(number)
        assert there and opened(value)[0] == number
        if not number % 3:
            kept.delete(number)
        journal.add(ACK, number)
    journal.close()


def tell(keyed: KeyedChan[Any, Any], key: int, size: int) -> None:
    keyed.send(key, message(key, size))


def hear(keyed: KeyedChan[Any, Any], key: int) -> int:
    return opened(keyed.receive(key))[0]


# ---------------------------------------------------------------- arrays
def fill(array: SharedArray, first: int, n: int, value: int) -> bytearray:
    """Store it in a part of the array, and return what is long enough to travel beside its message."""
    numbers = array.memoryview()
    for i in range(first, first + n):
        numbers[i] = value
    return bytearray(_pattern(value, 8 * n))


# ---------------------------------------------------------------- results
def work(kind: str, n: int) -> int:
    if kind == "compute":
        total = 0
        for i in range(n % 3000):
            total += i
    elif kind == "sleep":
        sleep(n % 20 / 1000)
    elif kind == "after":
        after(n % 20 / 1000).recv()
    elif kind == "blocked":
        time.sleep(n % 20 / 1000)
    elif kind == "blocking":
        blocking(time.sleep, n % 20 / 1000)
    elif kind == "large":
        return len(go.options(retries=RETRIES)(bytes, n % 300_000).result()) + n - n % 300_000
    return n


def tree(depth: int, n: int) -> int:
    """Goroutines that start goroutines and wait for them."""
    if not depth:
        return n
    left = go.options(retries=RETRIES)(tree, depth - 1, 2 * n)
    right = go.options(retries=RETRIES)(tree, depth - 1, 2 * n + 1)
    return left.result() + right.result()


def tree_sum(depth: int, n: int) -> int:
    return sum(range(n << depth, (n + 1) << depth))


def relay(handle: Any) -> Any:
    return handle.result()


# ---------------------------------------------------------------- wait groups, mutexes
def member(path: str, wg: WaitGroup, n: int) -> None:
    """Be counted as done once, whatever happens."""
    begun = read(path)[INTENT]
    journal = Journal(path)
    journal.add(START, 0)
    work("compute", n)
    if 0 not in begun:
        journal.add(INTENT, 0)
        wg.done()
        journal.add(ACK, 0)
    journal.close()


_COUNTS = struct.Struct("<QQQ")  # owner (+ 1), two counters that are always equal outside the section


def locker(path: str, memory: str, me: int, mutex: Mutex, rounds: int) -> None:
    """Count in a critical section, which shows if two are in it; one that was killed there is ended by its next life."""
    journal = Journal(path)
    journal.add(START, 0)
    with open(memory, "r+b") as file, mmap.mmap(file.fileno(), _COUNTS.size) as shared:
        if _COUNTS.unpack_from(shared)[0] == me + 1:  # the life before died in it: make it whole, and leave
            _, a, b = _COUNTS.unpack_from(shared)
            shared[:] = _COUNTS.pack(me + 1, max(a, b), max(a, b))
            shared[:8] = bytes(8)
            mutex.unlock()
        for _ in range(rounds):
            mutex.lock()
            owner, a, b = _COUNTS.unpack_from(shared)
            if owner or a != b:
                journal.add(INTENT, owner << 32 | me)  # told as a violation
            shared[:8] = (me + 1).to_bytes(8, "little")
            shared[8:16] = (a + 1).to_bytes(8, "little")
            shared[16:24] = (b + 1).to_bytes(8, "little")
            shared[:8] = bytes(8)
            mutex.unlock()
    journal.close()


def counts(memory: str) -> tuple[int, int, int]:
    with open(memory, "rb") as file:
        owner, a, b = _COUNTS.unpack(file.read())
    return owner, a, b
