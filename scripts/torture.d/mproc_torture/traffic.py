"""The traffic: each kind is a function that runs one round, from a thread that no kill takes along, and checks it.

What was acknowledged is there once; what was not is accounted for: at most what the lives that ended had in hand.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from mproc_go import (
    Chan,
    Goroutine,
    KeyedChan,
    Mutex,
    SharedArray,
    SharedMap,
    WaitGroup,
    WorkerLost,
    go,
    gomaxprocs,
)
from mproc_go.runtime import process as rt
from mproc_go.shm.layout import WG_COUNT
from mproc_torture import bodies, journal
from mproc_torture.bodies import RETRIES
from mproc_torture.journal import ACK, INTENT, START

# Whatever takes longer hangs.
PATIENCE_S = 60.0
# A mutex that nobody got for so long was taken by one that died before it could say so.
STUCK_S = 3.0


class Violation(Exception):
    """Something was lost, doubled, damaged, or hangs."""


@dataclasses.dataclass
class Ledger:
    """What all rounds came to. Guard: `lock`.

    Attributes:
        folder: for journals.
        runtime: its name, for programs that attach.
        killed: os_pids of workers, those about to be killed included.
    """

    folder: str
    runtime: str
    killed: set[int] = dataclasses.field(default_factory=set)
    names: list[int] = dataclasses.field(default_factory=list)
    new_names: Iterator[int] = dataclasses.field(default_factory=itertools.count)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        with self.lock:
            self.counts.update(counts)


def check(fact: bool, what: str) -> None:
    if not fact:
        raise Violation(what)


def _again(fn: Callable[..., Any], *args: Any) -> Goroutine[Any]:
    return go.options(retries=RETRIES)(fn, *args)


# ---------------------------------------------------------------- channels
def hand_on(rnd: random.Random, ledger: Ledger) -> None:
    """Numbers from here through goroutines of workers and back."""
    source: Chan[Any] = Chan(rnd.choice([0, 0, 1, 3, 16, 64]))
    sink: Chan[Any] = Chan(rnd.choice([0, 1, 8, 64]))
    n, size = rnd.randrange(20, 300), rnd.choice([0, 0, 10, 100, 5_000, 200_000])
    if size > 1000:
        n //= 4
    replies: dict[int, Chan[int]] = {}
    ways = [rnd.choice(["plain", "select", "many", "timeout"]) for _ in range(rnd.randrange(1, 5))]
    with tempfile.TemporaryDirectory(dir=ledger.folder) as folder:
        paths = [f"{folder}/{i}" for i in range(len(ways))]
        handles = [_again(bodies.consumer, path, source, sink, how) for path, how in zip(paths, ways, strict=True)]
        got: Counter[int] = Counter()
        draining = _Drain(sink, got)
        try:
            for number in range(n):
                reply: Chan[int] | None = None
                if rnd.random() < 0.1:
                    reply = replies[number] = Chan(1)
                source.send(bodies.message(number, size, reply), PATIENCE_S)
            source.close()
            for handle in handles:
                handle.result(PATIENCE_S)
        finally:
            draining.stop()
        for number, reply in replies.items():
            while len(reply):
                got[number] += 1
                reply.recv()
        _settle(ledger, "handed on", paths, got, n, 5)


def produced(rnd: random.Random, ledger: Ledger) -> None:
    """Numbers from goroutines of workers to here."""
    ch: Chan[Any] = Chan(rnd.choice([0, 0, 1, 3, 64]))
    n, size = rnd.randrange(20, 200), rnd.choice([0, 0, 10, 100, 5_000, 200_000])
    if size > 1000:
        n //= 4
    ways = [rnd.choice(["plain", "select", "many", "timeout"]) for _ in range(rnd.randrange(1, 5))]
    got: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(dir=ledger.folder) as folder:
        paths = [f"{folder}/{i}" for i in range(len(ways))]
        draining = _Drain(ch, got)
        try:
            handles = [
                _again(bodies.producer, path, ch, i * n, n, size, how)
                for i, (path, how) in enumerate(zip(paths, ways, strict=True))
            ]
            for handle in handles:
                handle.result(PATIENCE_S)
        finally:
            draining.stop()
        for i in range(len(ways)):
            mine = [number for number in draining.order if i * n <= number < (i + 1) * n]
            check(mine == sorted(mine), f"the order of a producer ({ways[i]}) was changed: {mine}")
        _settle(ledger, "produced", paths, got, n * len(ways), 4)


class _Drain(threading.Thread):
    """Receives until told to stop, then what is left."""

    def __init__(self, ch: Chan[Any], got: Counter[int]) -> None:
        super().__init__(daemon=True)
        self.ch, self.got, self.order = ch, got, list[int]()
        self.error: BaseException | None = None
        self._over = False
        self.start()

    def run(self) -> None:
        try:
            while True:
                over = self._over
                try:
                    value = self.ch.recv(0.01)
                except TimeoutError:
                    if over:
                        return
                    continue
                number, _ = bodies.opened(value)
                self.got[number] += 1
                self.order.append(number)
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._over = True
        self.join()
        if self.error is not None:
            raise self.error


def _settle(ledger: Ledger, what: str, paths: list[str], got: Counter[int], n: int, in_hand: int) -> None:
    """Compare what came with what the journals say."""
    begun: Counter[int] = Counter()
    acked: Counter[int] = Counter()
    deaths = 0
    for path in paths:
        found = journal.read(path)
        begun += found[INTENT]
        acked += found[ACK]
        deaths += found[START][0] - 1
    everything = set(range(n))
    check(set(got) <= everything, f"{what}: numbers that nobody sent: {sorted(set(got) - everything)[:5]}")
    doubled = [k for counter in (got, begun, acked) for k, times in counter.items() if times > 1]
    check(not doubled, f"{what}: more than once: {doubled[:5]}")
    lost = set(acked) - set(got)
    check(not lost, f"{what}: acknowledged and lost: {sorted(lost)[:5]} of {n}, deaths {deaths}")
    strange = set(got) - set(begun)
    check(not strange, f"{what}: came without having been begun: {sorted(strange)[:5]}")
    doubt = everything - set(acked)
    check(len(doubt) <= deaths * in_hand, f"{what}: {len(doubt)} of {n} unaccounted for, {deaths} deaths: {sorted(doubt)[:9]}")
    ledger.add(acknowledged=len(acked), in_doubt_arrived=len(doubt & set(got)), in_doubt_lost=len(doubt - set(got)))


def closed(rnd: random.Random, ledger: Ledger) -> None:
    """A close reaches everybody who waits, in whatever process."""
    ch: Chan[Any] = Chan(rnd.choice([0, 3]))
    handles = [_again(bodies.told_of_close, ch) for _ in range(rnd.randrange(1, 20))]
    if rnd.random() < 0.5:
        time.sleep(rnd.random() * 0.02)
    ch.close()
    for handle in handles:
        check(handle.result(PATIENCE_S), "a receiver did not learn of a close")
    ledger.add(told_of_close=len(handles))


# ---------------------------------------------------------------- maps
def maps(rnd: random.Random, ledger: Ledger) -> None:
    """Counts are what was acknowledged, and those in doubt; what was stored is there, and whole."""
    counts: SharedMap[int, int] = SharedMap()
    kept: SharedMap[int, Any] = SharedMap()
    n, m, keys = rnd.randrange(10, 100), rnd.randrange(2, 6), rnd.randrange(1, 6)
    size = rnd.choice([0, 10, 100, 5_000])
    with tempfile.TemporaryDirectory(dir=ledger.folder) as folder:
        paths = [f"{folder}/{i}" for i in range(2 * m)]
        handles = [_again(bodies.counter, path, counts, keys, n) for path in paths[:m]]
        handles += [_again(bodies.keeper, path, kept, i * n, n, size) for i, path in enumerate(paths[m:])]
        for handle in handles:
            handle.result(PATIENCE_S)
        found = [journal.read(path) for path in paths[:m]]
        acked, begun = sum(f[ACK].total() for f in found), sum(f[INTENT].total() for f in found)
        total = sum(counts.values())
        check(acked <= total <= begun, f"map: counted {total}, {acked} acknowledged, {begun} begun")
        check(begun == n * m, f"map: {begun} begun of {n * m}")
        there = dict(kept.items())
        wanted = {number for number in range(n * m) if number % 3}
        check(set(there) == wanted, f"map: {len(there)} keys, {len(wanted)} stored: {sorted(set(there) ^ wanted)[:5]}")
        for number, value in there.items():
            check(bodies.opened(value)[0] == number, f"map: {value!r} under {number}")
    ledger.add(counted=total, kept=len(there))


def keyed(rnd: random.Random, ledger: Ledger) -> None:
    """Whoever waits for a key gets its value, before or after it was sent."""
    channel: KeyedChan[int, Any] = KeyedChan()
    keys, size = list(range(rnd.randrange(1, 20))), rnd.choice([0, 100, 5_000])
    asked = [rnd.choice(keys) for _ in range(rnd.randrange(1, 20))]
    waiting = [_again(bodies.hear, channel, key) for key in asked]
    telling = [_again(bodies.tell, channel, key, size) for key in rnd.sample(keys, len(keys))]
    for handle in telling:
        handle.result(PATIENCE_S)
    for key, heard in zip(asked, waiting, strict=True):
        value = heard.result(PATIENCE_S)
        check(value == key, f"keyed channel: {value} came for {key}")
    check(len(channel) == len(keys), f"keyed channel: {len(channel)} keys of {len(keys)}")
    ledger.add(keyed=len(asked))


# ---------------------------------------------------------------- arrays
def arrays(rnd: random.Random, ledger: Ledger) -> None:
    """Everybody's part of an array is filled, and so is what travels beside the messages."""
    m, n = rnd.randrange(1, 8), rnd.choice([1, 100, 20_000])
    array = SharedArray(m * n, "q")
    handles = [_again(bodies.fill, array, i * n, n, i + 1) for i in range(m)]
    for i, handle in enumerate(handles):
        long = handle.result(PATIENCE_S)
        check(long == bytearray((i + 1).to_bytes(8, "little") * n), f"array: a long result of {n} words is damaged")
    numbers = array.memoryview()
    wrong = [i for i in range(m * n) if numbers[i] != i // n + 1]
    check(not wrong, f"array: {len(wrong)} of {m * n} words are wrong, first {wrong[:1]}")
    ledger.add(array_words=m * n)


# ---------------------------------------------------------------- other programs
def programs(rnd: random.Random, ledger: Ledger) -> None:
    """A program that attached sends, and is killed, or not: what it was told was sent is there, once and in order."""
    with ledger.lock:  # names are for ever, so they are used again
        number = ledger.names.pop() if ledger.names else next(ledger.new_names)
    title, capacity = f"torture-{number}", (0, 1, 64)[number % 3]
    n = rnd.randrange(20, 2000)
    ch: Chan[Any] = Chan(capacity, name=title)
    got: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(dir=ledger.folder) as folder:
        path = f"{folder}/0"
        draining = _Drain(ch, got)
        try:
            command = [sys.executable, "-m", "mproc_torture.program", ledger.runtime, title, str(capacity), path, str(n)]
            with subprocess.Popen(command) as program:
                end = time.monotonic() + PATIENCE_S
                while not journal.read(path)[INTENT] and program.poll() is None and time.monotonic() < end:
                    time.sleep(0.01)
                if rnd.random() < 0.8:
                    time.sleep(rnd.random() * 0.2)
                    program.kill()
                program.wait(PATIENCE_S)
        finally:
            draining.stop()
        if program.returncode == 0:
            check(len(got) == n, f"a program that ended sent {n}, {len(got)} came")
        else:
            check(program.returncode == -signal.SIGKILL, f"a program ended with status {program.returncode}")
        check(draining.order == sorted(draining.order), "the order of a program was changed")
        found = journal.read(path)
        check(max(got.values(), default=1) == 1, "a message of a program came twice")
        lost = set(found[ACK]) - set(got)
        check(not lost, f"sent by a program, acknowledged and lost: {sorted(lost)[:5]}")
        check(set(got) <= set(found[INTENT]), "came from a program that had not begun it")
        check(len(set(found[INTENT]) - set(found[ACK])) <= 1, "a program had more than one in hand")
    with ledger.lock:
        ledger.names.append(number)
    ledger.add(programs=1, programs_killed=program.returncode != 0, of_programs=len(got))


# ---------------------------------------------------------------- results
_KINDS = ["compute", "compute", "sleep", "after", "blocked", "blocking", "large"]


def results(rnd: random.Random, ledger: Ledger) -> None:
    """Every handle resolves, to the right value."""
    asked = [(rnd.choice(_KINDS), rnd.randrange(10**6)) for _ in range(rnd.randrange(1, 40))]
    handles = [_again(bodies.work, kind, n) for kind, n in asked]
    if rnd.random() < 0.3:  # through others
        handles = [_again(bodies.relay, handle) for handle in handles]
    for (kind, n), handle in zip(asked, handles, strict=True):
        value = handle.result(PATIENCE_S)
        check(value == n, f"result of {kind}: {value!r}, not {n}")
    ledger.add(results=len(handles))


def trees(rnd: random.Random, ledger: Ledger) -> None:
    """Goroutines that wait for goroutines."""
    depth, n = rnd.randrange(1, 5), rnd.randrange(100)
    value = _again(bodies.tree, depth, n).result(PATIENCE_S)
    check(value == bodies.tree_sum(depth, n), f"tree of depth {depth}: {value}")
    ledger.add(trees=1)


def without_retries(rnd: random.Random, ledger: Ledger) -> None:
    """The value, or WorkerLost that names a process which was killed."""
    asked = [(rnd.choice(_KINDS), rnd.randrange(10**6)) for _ in range(rnd.randrange(1, 30))]
    handles = [go(bodies.work, kind, n) for kind, n in asked]
    lost = 0
    for (kind, n), handle in zip(asked, handles, strict=True):
        try:
            value = handle.result(PATIENCE_S)
            check(value == n, f"result of {kind}: {value!r}, not {n}")
        except WorkerLost as error:
            lost += 1
            found = re.search(r"worker (\d+) \(M\d+\) was killed by SIGKILL while it was ", str(error))
            check(found is not None, f"text of WorkerLost: {error}")
            assert found is not None
            check(int(found[1]) in ledger.killed, f"WorkerLost names a process that was not killed: {error}")
    ledger.add(values=len(handles) - lost, worker_lost=lost)


# ---------------------------------------------------------------- wait groups, mutexes, Ps
def wait_groups(rnd: random.Random, ledger: Ledger) -> None:
    """The counter is what was acknowledged, and those in doubt."""
    wg = WaitGroup()
    n = rnd.randrange(1, 40)
    wg.add(n)
    with tempfile.TemporaryDirectory(dir=ledger.folder) as folder:
        paths = [f"{folder}/{i}" for i in range(n)]
        handles = [_again(bodies.member, path, wg, rnd.randrange(3000)) for path in paths]
        for handle in handles:
            handle.result(PATIENCE_S)
        acked = sum(journal.read(path)[ACK][0] for path in paths)
        begun = sum(journal.read(path)[INTENT][0] for path in paths)
    left = rt.current().w[wg._base + WG_COUNT]
    check(begun == n, f"wait group: {begun} of {n} begun")
    check(n - begun <= left <= n - acked, f"wait group: {left} left of {n}, {acked} acknowledged, {begun} begun")
    for _ in range(left):
        wg.done()
    wg.wait(PATIENCE_S)
    ledger.add(done=acked)


def mutexes(rnd: random.Random, ledger: Ledger) -> None:
    """Nobody is in a critical section together with another; nobody waits for ever."""
    mutex = Mutex()
    n, rounds = rnd.randrange(2, 8), rnd.randrange(5, 60)
    with tempfile.TemporaryDirectory(dir=ledger.folder) as folder:
        memory = f"{folder}/memory"
        with open(memory, "wb") as file:
            file.write(bytes(24))
        paths = [f"{folder}/{i}" for i in range(n)]
        handles = [_again(bodies.locker, path, memory, i, mutex, rounds) for i, path in enumerate(paths)]
        broken = 0
        start = moved = time.monotonic()
        before = (0, 0, 0)
        while not all(handle.done() for handle in handles):
            time.sleep(0.01)
            now, seen = time.monotonic(), bodies.counts(memory)
            if seen != before:
                before, moved = seen, now
            check(now - start < 2 * PATIENCE_S, f"mutex: {n} goroutines hang at {seen}")
            if now - moved > STUCK_S and not seen[0] and not all(handle.done() for handle in handles):
                # Its last holder died between having it and saying so. (Or nobody waits for it: then it is free.)
                if mutex.try_lock():
                    mutex.unlock()
                else:
                    mutex.unlock()
                    broken += 1
                moved = now
        for handle in handles:
            handle.result(PATIENCE_S)
        owner, a, b = bodies.counts(memory)
        deaths = sum(journal.read(path)[START][0] - 1 for path in paths)
        together = [number for path in paths for number in journal.read(path)[INTENT]]
        check(not together, f"mutex: two at once: {[(x >> 32, x & 0xFFFF) for x in together]}")
        check(broken <= deaths, f"mutex: {broken} times held by nobody, with {deaths} deaths")
        check(a == b >= n * rounds and not owner, f"mutex: counted {a} and {b}, {n * rounds} wanted, owner {owner}")
    ledger.add(sections=a, mutexes_of_the_dead=broken)


def resize(rnd: random.Random, ledger: Ledger) -> None:
    """GOMAXPROCS changes under all that."""
    gomaxprocs(rnd.randrange(1, 5))
    time.sleep(rnd.random() * 0.05)
    ledger.add(resizes=1)


KINDS: dict[str, Callable[[random.Random, Ledger], None]] = {
    "hand_on": hand_on,
    "produced": produced,
    "closed": closed,
    "arrays": arrays,
    "maps": maps,
    "keyed": keyed,
    "programs": programs,
    "results": results,
    "trees": trees,
    "without_retries": without_retries,
    "wait_groups": wait_groups,
    "mutexes": mutexes,
    "resize": resize,
}

