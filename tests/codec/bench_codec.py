"""Prices of the codec: ``python tests/codec/bench_codec.py`` prints nanoseconds, best of 5."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
import timeit
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from mproc_go.codec import functions, handles, wire


class Toy(handles.Handle):
    __slots__ = ()
    KIND = 203


@dataclasses.dataclass
class Job:
    a: int
    b: str


K1, K2, K3, K4, K5 = 1, 2.5, "c", b"d", (1, 2)


def five_globals(n: int) -> Any:
    return n, K1, K2, K3, K4, K5


def best(statement: str, **names: Any) -> float:
    timer = timeit.Timer(statement, globals=names)
    number = max(1, int(timer.autorange()[0] / 5))
    return min(timer.repeat(5, number)) / number * 1e9


def as_received(header: int, pieces: wire.Pieces) -> tuple[int, bytes, list[bytearray]]:
    """A large message as its receiver has it: the pickle, and the buffers beside it."""
    return header & ~wire.HAS_BUFFERS, b"".join(pieces.parts), [bytearray(view) for view in pieces.buffers]


def main() -> None:
    from fractions import Fraction

    toy = Toy()
    toy._base, toy._gen = 7, 1
    handles.register(Toy.KIND, lambda base, gen: toy)
    k = 3
    values: dict[str, Any] = {
        "None": None,
        "True": True,
        "int": 123456,
        "int of 65 bits": 1 << 65,
        "float": 1.5,
        "str 11": "hello world",
        "str 11, not ASCII": "hellö world",
        "bytes 11": b"hello world",
        "bytes 1 MB": bytes(1 << 20),
        "bytearray 1 MB": bytearray(1 << 20),
        "tuple 3": (1, "a", 2.5),
        "list 10 ints": list(range(10)),
        "list 100 ints": list(range(100)),
        "dict 3": {"a": 1, "b": 2.5, "c": "x"},
        "nested": [(1, 2), {"a": [1]}],
        "(args, kwargs)": ((1, 2), {}),
        "object by name": Fraction(1, 3),
        "class by value": Job(1, "x"),
        "lambda": lambda n: n + k,
        "handle": toy,
        "handle in a list": [toy],
        "handle in a tuple": (toy, 1),
        "bound method": toy.__eq__,
    }
    print(f"{'':24}{'encode':>12}{'decode':>12}{'bytes':>10}")
    for name, value in values.items():
        header, data = wire.encode(value)
        price = best("encode(value)", encode=wire.encode, value=value)
        message = (header, data) if isinstance(data, bytes) else as_received(header, data)
        back = best("decode(*message)", decode=wire.decode, message=message)
        print(f"{name:24}{price:12.0f}{back:12.0f}{len(data):10}")
    exc = ValueError("x")
    header, data = wire.encode_exception(exc, "traceback")
    price = best("encode(exc, 't')", encode=wire.encode_exception, exc=exc)
    back = best("decode(header, data)", decode=wire.decode_exception, header=header, data=data)
    print(f"{'exception':24}{price:12.0f}{back:12.0f}{len(data):10}")

    blobs: list[bytes] = []
    cache = functions.FunctionCache(lambda blob: blobs.append(blob) or len(blobs))  # type: ignore[func-returns-value]
    lists: list[int] = []
    for name, fn in {
        "by name": math.sqrt,
        "5 globals": five_globals,
        "closure": lambda n: n + k,
        "captured list": lambda: lists,
    }.items():
        cache.code(fn)
        cache.code(fn)
        print(f"{'code(), ' + name:24}{best('code(fn)', code=cache.code, fn=fn):12.0f}")
    print(f"{'ids.get()':24}{best('get(fn)', get=cache.ids.get, fn=math.sqrt):12.0f}")
    print(f"{'code(), fresh lambda':24}{best('code(lambda n: n + k)', code=cache.code, k=k):12.0f}")


if __name__ == "__main__":
    main()
