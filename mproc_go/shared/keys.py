"""Keys of maps as bytes, the same in every process, and their hashes.

Two keys that are equal in a dict have the same canonical bytes: ``1``, ``1.0`` and ``True`` are one key, ``0.0`` and
``-0.0`` too, ``"a"`` and ``b"a"`` are two. Subclasses count as what they derive from (an ``IntEnum`` as its number).
Every NaN is one key: a dict tells them apart by identity, which no second process could know.

What was stored may look otherwise than its canonical form (``1.0`` is held as ``1``). Then its *exact* form is kept
beside it, for whoever lists the keys.

The hash is keyed with a secret of the runtime, so that nobody can choose keys that collide, and independent of
Python's own hash seed. Bytes are hashed by keyed BLAKE2. Numbers of up to 64 bits, which are most keys, are multiplied
and added to in 128 bits, at a third of the price, and the halves are folded: of any two numbers, both hashes are
uniform and independent over the secret, and the fold keeps the order of a listing from telling it. Rejected: Python's
``hash`` (another seed in every process that was not forked from ours); remembering the hashes of numbers (faster for a
thousand keys, slower for a million).

Source: BLAKE2, RFC 7693 (its keyed mode is a message authentication code); Dietzfelbinger, Universal Hashing and
k-Wise Independent Random Variables via Integer Arithmetic without Primes (1996).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

from mproc_go.codec.culprit import type_name
from mproc_go.codec.handles import HANDLE_TYPES, Handle, open_handle
from mproc_go.shm.layout import H_HASH_KEY, WORD

# Bits of a hash; two digits of a Python integer, which compares faster than three. The lowest one is always set.
HASH_BITS = 60

# Hashes that a process remembers, and the longest key among them: a program comes back to the same few keys.
_REMEMBERED = 2048
_LONGEST = 64

_TRIPLE = struct.Struct("<3Q")
_DOUBLE = struct.Struct("<d")
_NUMBER = struct.Struct("<c7xq")
_LENGTH = struct.Struct("<I")
_NAN = b"f" + _DOUBLE.pack(float("nan"))
_MOST = (1 << 32) - 1

_NUMBERS = 1 << 63
assert HASH_BITS == 60  # as the shifts in `number` have it
# The canonical form of an integer of 64 bits is two words: this, and the number in two's complement. No other key's
# begins so.
NUMBER = ord("q")

Triple = tuple[int, int, int]


class Keys:
    """Hashes keys. One a process and runtime.

    Attributes:
        of: ``of(key)`` is the hash of a key and its canonical bytes. Raises TypeError for what can't be a key, and
            NotRunning for a handle of a runtime that is over.
        number: ``number(key)`` is the hash of an integer of 64 bits, signed.
    """

    def __init__(self, w: Any) -> None:
        secret = b"".join(int(w[H_HASH_KEY + i]).to_bytes(WORD, "little") for i in range(2))
        blank = hashlib.blake2b(key=secret, digest_size=8)
        self.of, self.number = _hashers(blank)


def _hashers(blank: Any) -> tuple[Callable[[object], tuple[int, bytes]], Callable[[int], int]]:
    # Cost: 0.1 us for a remembered string, 0.3 us for a number, else 1 us. A closure: its variables are the fastest.
    strings: dict[str, tuple[int, bytes]] = {}
    pack = _NUMBER.pack

    def digest(data: bytes) -> int:
        h = blank.copy()
        h.update(data)
        return int.from_bytes(h.digest(), "little")

    factor, summand = (digest(name) | digest(name + b", high") << 64 for name in (b"factor", b"summand"))
    second = digest(b"second factor") | 1

    def number(key: int) -> int:
        y = key * factor + summand
        return ((y >> 64) * second ^ y) >> 4 & 0xFFFFFFFFFFFFFFF | 1

    def of(key: Any) -> tuple[int, bytes]:
        kind = type(key)
        if kind is str:
            found = strings.get(key)
            if found is not None:
                return found
            canonical = b"s" + key.encode("utf-8", "surrogatepass")
            pair = digest(canonical) >> 4 | 1, canonical
            if len(canonical) <= _LONGEST:
                if len(strings) >= _REMEMBERED:
                    strings.clear()
                strings[key] = pair
            return pair
        if kind is not int:
            canonical = encode(key)
            if canonical[:1] not in b"iq":
                if len(canonical) > _MOST:
                    raise TypeError(f"a key of {len(canonical)} bytes is too long for a shared map")
                return digest(canonical) >> 4 | 1, canonical
            key = decode(canonical)
        if -0x8000000000000000 <= key < 0x8000000000000000:
            return number(key), pack(b"q", key)
        canonical = encode(key)
        return digest(canonical) >> 4 | 1, canonical

    return of, number


def number_key(key: int) -> bytes:
    """The canonical form of an integer of 64 bits."""
    return _NUMBER.pack(b"q", key)


def encode(key: object, exact: bool = False) -> bytes:
    """The bytes of a key: canonical ones, or the exact form it has.

    Raises: as :meth:`Keys.of`.
    """
    if key is None:
        return b"n"
    if isinstance(key, str):
        return b"s" + str.encode(key, "utf-8", "surrogatepass")
    if isinstance(key, bool) and exact:
        return b"T" if key else b"F"
    if isinstance(key, int):
        n = int.__int__(key)
        if -_NUMBERS <= n < _NUMBERS:
            return _NUMBER.pack(b"q", n)
        return b"i" + n.to_bytes((n.bit_length() + 8) // 8, "little", signed=True)
    if isinstance(key, float):
        x = float.__float__(key)
        if x != x:
            return _NAN
        if x.is_integer() and not exact:
            return encode(int(x))
        return b"f" + _DOUBLE.pack(x)
    if isinstance(key, bytes):
        return b"b" + bytes(memoryview(key))
    if isinstance(key, tuple):
        parts = [encode(item, exact) for item in tuple.__iter__(key)]
        return b"t" + b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    if type(key) in HANDLE_TYPES and isinstance(key, Handle):
        return b"h" + _TRIPLE.pack(*key._name())
    way_out = "; key.item() gives Python's" if hasattr(key, "dtype") and hasattr(key, "item") else ""
    raise TypeError(
        f"a key of a shared map is None, a bool, int, float, str, bytes, a handle, or a tuple of these, "
        f"not {type_name(type(key))}{way_out}"
    )


def exact_form(key: object, canonical: bytes) -> bytes:
    """The exact form of a key, ``b""`` where it is the canonical one."""
    if isinstance(key, bool | float | tuple):
        exact = encode(key, True)
        return b"" if exact == canonical else exact
    return b""


def decode(data: bytes) -> Any:
    """The key of these bytes, canonical or exact. Opens handles: they are counted, so their records must be alive."""
    kind, rest = data[:1], data[1:]
    if kind == b"s":
        return rest.decode("utf-8", "surrogatepass")
    if kind == b"q":
        return _NUMBER.unpack(data)[1]
    if kind == b"i":
        return int.from_bytes(rest, "little", signed=True)
    if kind == b"n":
        return None
    if kind == b"T" or kind == b"F":
        return kind == b"T"
    if kind == b"f":
        return _DOUBLE.unpack(rest)[0]
    if kind == b"b":
        return rest
    if kind == b"h":
        return open_handle(*_TRIPLE.unpack(rest))
    return tuple(decode(part) for part in _parts(rest))


def handles_of(data: bytes) -> list[Triple]:
    """The handles in a key."""
    if data[:1] == b"h":
        return [_TRIPLE.unpack(data[1:])]
    if data[:1] == b"t":
        return [triple for part in _parts(data[1:]) for triple in handles_of(part)]
    return []


def _parts(data: bytes) -> list[bytes]:
    """The items of a tuple."""
    parts, at = [], 0
    while at < len(data):
        end = at + 4 + _LENGTH.unpack_from(data, at)[0]
        parts.append(data[at + 4 : end])
        at = end
    return parts
