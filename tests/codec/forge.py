"""Messages damaged where they lie, in a runtime that goes on: ``python forge.py SEED ROUNDS``; says what it did.

Each is a real message with handles, in a channel. Some of its bytes are changed there, or its header; then a goroutine
or this thread receives it, or nobody does and the channel goes. A value or one of our errors must come; and what was
there before is there then, counted as before, with no lock held. Now and then it lies with a sender that waits, and is
killed.

Bytes can name by chance what is there, and the count of a name that is damaged can't be known any more. So what the
table says before and after is compared here, and the counts are put right as the damage has made them wrong.
"""

from __future__ import annotations

import collections
import gc
import os
import random
import resource
import signal
import struct
import sys
import threading
from typing import Any

from mproc_go import (
    Chan,
    MprocError,
    Mutex,
    Runtime,
    SharedMap,
    Ticker,
    Timer,
    WaitGroup,
    WorkerLost,
    context,
    go,
    gosched,
)
from mproc_go.codec import handles, wire
from mproc_go.runtime import process as rt
from mproc_go.sched import states
from mproc_go.shm import layout as L
from mproc_go.shm import pool

HANG_S = 60
# A damaged pickle may ask for much memory; then it gets a MemoryError.
MEMORY_BYTES = 1 << 30
Triple = tuple[int, int, int]


# ---------------------------------------------------------------- a message in a channel
def slot_of(m: rt.M, ch: Chan[Any]) -> int:
    """Where the header of the first message of a channel lies, or of the first that waits to be sent."""
    if not ch.capacity:
        return m.w[ch._base + L.CH_SENDQ] + L.SG_MSG
    return m.w[ch._base + L.CH_RING] + m.w[ch._base + L.CH_HEAD] % ch.capacity * L.SLOT_MSG_WORDS


def payload(m: rt.M, ch: Chan[Any]) -> memoryview:
    """The bytes of the first message of a channel, where they lie."""
    at = slot_of(m, ch)
    header = m.w[at]
    start = (m.w[at + L.MSG_BODY] + L.BLOCK_DATA if header & L.HDR_SPILLED else at + L.MSG_BODY) * L.WORD
    return m.segment.window(start, header & L.HDR_LEN_MASK)


def table_of(m: rt.M, ch: Chan[Any]) -> collections.Counter[Triple]:
    """What the first message of a channel names, as far as it is there."""
    found: collections.Counter[Triple] = collections.Counter()
    if not m.w[slot_of(m, ch)] & L.HDR_HAS_HANDLES:
        return found
    data = bytes(payload(m, ch))
    if len(data) >= 8:
        (n,) = struct.unpack_from("<Q", data)
        if 0 < n <= (len(data) - 8) // 24:
            found.update(triple for triple in struct.iter_unpack("<3Q", data[8 : 8 + 24 * n]) if is_there(m.w, triple))
    return found


def is_there(w: Any, triple: Triple) -> bool:
    kind, base, gen = triple
    if kind == L.KIND_GOROUTINE:
        if base not in pool.records(w, L.POOL_G) or w[base + L.G_M] > w[L.H_MAX_MS]:
            return False
        if w[base + L.G_STATUS] & states.STATUS_MASK == states.UNMADE:
            return False
    elif base not in pool.records(w, L.POOL_OBJECT):
        return False
    else:
        says = w[base + L.O_KIND]
        fits = {says} & handles.HOMES.keys()
        if says == L.KIND_CHAN:
            fits |= {L.KIND_SEND_CHAN, L.KIND_RECV_CHAN} | ({L.KIND_TIMER, L.KIND_TICKER} if w[base + L.TM_TIMED] else set())
        if kind not in fits:
            return False
    return bool(w[base + L.R_HEAD] & 0xFF == L.REC_LIVE and w[base + L.R_GEN] == gen)


def count(m: rt.M, base: int, by: int) -> None:
    """Change the count of a record behind everybody's back."""
    lock = m.locks[L.object_lock(base)]
    m.enter(lock)
    m.w[base + L.R_REFS] += by
    m.leave(lock)


def uncount(m: rt.M, base: int) -> None:
    count(m, base, -1)


# ---------------------------------------------------------------- damage
TAGS = (*range(12), 127)


def damage(m: rt.M, ch: Chan[Any], rnd: random.Random) -> None:
    """Change some of the first message of a channel, but not how long it is: that is for its place to know."""
    data = payload(m, ch)
    names = 8 + 24 * rnd.randint(1, 2)
    for _ in range(rnd.randint(1, 3)):
        # Half of the time in the table, or where it would be.
        at = rnd.randrange(min(len(data), names) if rnd.random() < 0.5 else len(data))
        what = rnd.randrange(6)
        if what == 0:
            data[at] ^= 1 << rnd.randrange(8)
        elif what == 1:
            data[at] = rnd.choice((0, 1, 0x7F, 0x80, 0xFF, rnd.randrange(256)))
        elif what == 2:
            n = rnd.randint(1, min(9, len(data) - at))
            data[at : at + n] = rnd.randbytes(n)
        elif what == 3:
            n = rnd.randint(1, min(32, len(data) - at))
            source = rnd.randrange(len(data) - n + 1)
            data[at : at + n] = bytes(data[source : source + n])
        elif what == 4:
            word = at // 8 * 8
            if word + 8 <= len(data):
                (value,) = struct.unpack_from("<Q", data, word)
                struct.pack_into("<Q", data, word, (value + rnd.choice((-32, -1, 1, 8, 32, 512, 1 << 40))) % (1 << 64))
        else:
            slot = slot_of(m, ch)
            header = m.w[slot]
            if rnd.random() < 0.5:
                header ^= rnd.choice((L.HDR_HAS_HANDLES, L.HDR_HAS_BUFFERS))
            else:
                header = header & ~(0x7F << wire.TAG_SHIFT) | rnd.choice(TAGS) << wire.TAG_SHIFT
            m.w[slot] = header


# ---------------------------------------------------------------- what must be as before
def state(m: rt.M) -> dict[int, int]:
    """Every object that is there, with its references."""
    w = m.w
    return {
        base: w[base + L.R_REFS]
        for base in pool.records(w, L.POOL_OBJECT)
        if w[base + L.R_HEAD] & 0xFF == L.REC_LIVE
    }


def must_be(m: rt.M, before: dict[int, int], what: str) -> None:
    """Wait until it is so: a worker may be about to drop what it had. No lock is held, or this hangs."""
    waited = threading.Event()
    for lock in m.locks:
        m.enter(lock)
        m.leave(lock)
    for i in range(HANG_S * 100):
        now = state(m)
        if now == before:
            return
        if i == 2:
            gc.collect()
            go(gc.collect).result(HANG_S)
        waited.wait(0.01 if i > 2 else 0.001)
    changed = {base: (before.get(base), now.get(base)) for base in before.keys() | now.keys()}
    raise AssertionError(f"{what}: {({base: was for base, was in changed.items() if was[0] != was[1]})}")


def read(ch: Chan[Any]) -> str:
    """Receive, and say how that went; nothing of it is kept."""
    try:
        ch.recv(HANG_S)
    except (wire.DecodeError, MprocError) as error:
        assert len(str(error)) < 10_000
        return "errors"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "values"


def send(ch: Chan[Any], value: Any) -> None:
    """Wait until the message is taken: for ever."""
    ch.send(value)


def kill_sender(m: rt.M, ch: Chan[Any]) -> None:
    """The worker of who waits to send."""
    home = m.w[m.w[m.w[ch._base + L.CH_SENDQ] + L.SG_G] + L.G_M]
    os.kill(m.w[L.slot_base(home) + L.M_OS_PID], signal.SIGKILL)


def limited(ch: Chan[Any]) -> str:
    """In a worker that has not much memory."""
    limit_memory()
    return read(ch)


def limit_memory() -> None:
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        with open("/proc/self/statm", encoding="ascii") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def things() -> list[Any]:
    """Values with handles; each a message."""
    ch, mutex, wg, table = Chan(1), Mutex(), WaitGroup(), SharedMap()
    ctx, _ = context.with_cancel(context.background())
    ticker = Ticker(1000)
    ticker.stop()
    kept = Timer(1000)
    kept.stop()
    return [
        ch,
        [ch],
        (1, ch, "x"),
        {"reply": ch.sender, "n": [1, 2.5, None]},
        (ch.receiver, [mutex, wg], b"bytes"),
        [mutex, mutex, "text", (wg,)],
        table,
        (table, {"a": ctx}),
        [kept, ticker],
        (ch, memoryview(bytearray(200_000))),
        [ch, "x" * 5000],
        [ch, mutex, wg, table, ctx, 1, 2, 3],
    ]


def main(seed: int, rounds: int) -> None:
    rnd = random.Random(seed)
    counts: collections.Counter[str] = collections.Counter()
    with Runtime(2, memory=64 << 20):
        m = rt.current()
        values = things()
        before = state(m)
        ch: Chan[Any] = Chan(1)
        ch.send(values)
        assert go(read, ch).result(HANG_S) == "values"  # so that all modules are there
        del ch
        must_be(m, before, "at the beginning")
        limit_memory()
        for i in range(rounds):
            signal.alarm(HANG_S * 3)  # ends this process, whatever it is in
            dies = rnd.random() < 0.02
            ch = Chan(0 if dies else 1)
            if dies:
                sender = go(send, ch, rnd.choice(values))
                while not m.w[ch._base + L.CH_SENDQ]:
                    gosched()
            else:
                ch.send(rnd.choice(values))
            counted = table_of(m, ch)
            damage(m, ch, rnd)
            data, header = bytes(payload(m, ch))[:300], m.w[slot_of(m, ch)]
            says = table_of(m, ch)
            for _, base, _ in (says - counted).elements():
                count(m, base, 1)
            how = "dies" if dies else rnd.choice(("here", "there", "nowhere"))
            came = "values"
            if how == "dies":
                kill_sender(m, ch)
                assert isinstance(sender.exception(HANG_S), WorkerLost)
                del sender
            elif how == "here":
                came = read(ch)
            elif how == "there":
                came = go(limited, ch).result(HANG_S)
            del ch
            what = f"round {i} of seed {seed}, {how}: {header:#x}, {data!r}"
            assert came in ("values", "errors"), f"{what}: {came}"
            counts[came] += how in ("here", "there")
            for kind, base, gen in (counted - says).elements():
                if kind == L.KIND_BUFFER:  # nobody else has one
                    handle = handles.open_handle(kind, base, gen)
                    uncount(m, base)
                    del handle
                else:
                    uncount(m, base)
            must_be(m, before, what)
    print(f"{counts['values']} values, {counts['errors']} errors")
    assert counts["values"] and counts["errors"]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
