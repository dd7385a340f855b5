"""Damaged messages, decoded in a process of its own: ``python damage.py SEED ROUNDS``; says what it did.

Each is a real message with some bytes changed, cut, doubled or put in from another one, or with another header. It is
decoded with little memory and against the clock: a value or one of our errors must come, soon.
"""

from __future__ import annotations

import collections
import datetime
import random
import resource
import signal
import sys
from typing import Any

from mproc_go.codec import handles, wire
from mproc_go.errors import MprocError, NotRunning
from mproc_go.shm.layout import HDR_LEN_MASK

# A pickle may ask for much memory in a few bytes; then it gets a MemoryError, as on a machine that has no more.
MEMORY_BYTES = 1 << 30
# One message takes microseconds; a machine may be slow.
HANG_S = 60


class Toy(handles.Handle):
    """A handle as a channel's would be."""

    __slots__ = ()
    KIND = 201


def open_toy(base: int, gen: int) -> Toy:
    if base != 7:
        raise NotRunning("no such record")
    toy = Toy()
    toy._base, toy._gen = base, gen
    return toy


VALUES: list[object] = [
    None,
    True,
    -1,
    1 << 80,
    2.5,
    "text \xe4",
    b"bytes",
    [1, [2, "three"], None],
    {"key": (1, 2.5), 7: {b"x"}},
    tuple(range(20)),
    ("a", 1, ["b"]),
    frozenset({1, "x"}),
    collections.OrderedDict(a=[1]),
    datetime.datetime(2020, 1, 2, 3, 4),
    list(range(300)),
    bytearray(b"abc"),
    complex(1, 2),
]


def messages() -> list[tuple[int, bytes]]:
    toys: list[Any] = [open_toy(7, 1), [open_toy(7, 2), 1], ("x", open_toy(7, 3)), {"h": (open_toy(7, 4),)}]
    found = [wire.encode(value) for value in [*VALUES, *toys]]
    found.append(wire.encode_exception(ValueError("no", 1), "Traceback ..."))
    found.append(wire.encode_exception(KeyError(("k", [1])), ""))
    return [(header, bytes(data)) for header, data in found]


def damaged(rnd: random.Random, all_of: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    header, data = rnd.choice(all_of)
    spoiled = bytearray(data)
    for _ in range(rnd.randint(1, 3)):
        at = rnd.randrange(len(spoiled) + 1)
        what = rnd.randrange(6)
        if what == 0 and at < len(spoiled):
            spoiled[at] ^= 1 << rnd.randrange(8)
        elif what == 1 and at < len(spoiled):
            spoiled[at] = rnd.choice((0, 1, 0x7F, 0x80, 0xFF, rnd.randrange(256)))
        elif what == 2:
            del spoiled[at:]
        elif what == 3:
            spoiled[at:at] = rnd.randbytes(rnd.randint(1, 9))
        elif what == 4:
            other = rnd.choice(all_of)[1]
            spoiled[at:] = other[rnd.randrange(len(other) + 1) :]
        else:
            del spoiled[at : at + rnd.randint(1, 9)]
    if rnd.random() < 0.2:
        header = rnd.choice(all_of)[0]
    return header & ~HDR_LEN_MASK | len(spoiled), bytes(spoiled)


def main(seed: int, rounds: int) -> None:
    handles.register(Toy.KIND, open_toy)
    all_of = messages()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    rnd = random.Random(seed)
    counts: collections.Counter[str] = collections.Counter()
    for i in range(rounds):
        header, data = damaged(rnd, all_of)
        decode = wire.decode_exception if rnd.random() < 0.1 else wire.decode
        signal.alarm(HANG_S)  # ends this process, whatever it is in
        try:
            decode(header, data)
            counts["values"] += 1
        except (wire.DecodeError, MprocError) as error:
            counts["errors"] += 1
            assert len(str(error)) < 10_000, (i, header, data)
        except BaseException:
            print(f"round {i} of seed {seed}: {decode.__name__}({header:#x}, {data!r})", flush=True)
            raise
    print(f"{counts['values']} values, {counts['errors']} errors")
    assert counts["values"] and counts["errors"]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
