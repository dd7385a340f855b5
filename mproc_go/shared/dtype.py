"""What an item of a shared array is: ``struct`` letters and NumPy's names, without NumPy as far as that goes.

A *letter* is a type that a memoryview reads and writes by itself: native numbers and truth values. For all else (dates,
complex and half numbers, text, records, other byte orders) NumPy is asked, which then has to be installed.
"""

from __future__ import annotations

import pickle
import struct
import sys
from typing import Any, Final, NamedTuple

# What memoryview.cast can make, but for pointers.
LETTERS: Final = frozenset("cbBhHiIlLqQnNfd?")
_BY_SIZE: Final = {
    **{f"i{struct.calcsize(c)}": c for c in "bhiq"},
    **{f"u{struct.calcsize(c)}": c for c in "BHIQ"},
    "f4": "f",
    "f8": "d",
    "b1": "?",
    "S1": "c",
}
_BY_NAME: Final = {
    **{f"int{8 * struct.calcsize(c)}": c for c in "bhiq"},
    **{f"uint{8 * struct.calcsize(c)}": c for c in "BHIQ"},
    "float32": "f",
    "float64": "d",
    "single": "f",
    "double": "d",
    "float": "d",
    "byte": "b",
    "ubyte": "B",
    "short": "h",
    "ushort": "H",
    "intc": "i",
    "uintc": "I",
    "int": "q",
    "int_": "q",
    "uint": "Q",
    "long": "l",
    "ulong": "L",
    "longlong": "q",
    "ulonglong": "Q",
    "intp": "n",
    "uintp": "N",
    "bool": "?",
    "bool_": "?",
}
_BY_TYPE: Final = {float: "d", int: "q", bool: "?"}
# With a byte order, struct gives these other sizes than the machine does.
_STANDARD: Final = {"l": "i", "L": "I"}
_NATIVE: Final = "<" if sys.byteorder == "little" else ">"


class Item(NamedTuple):
    """What an item is, as it travels.

    Attributes:
        size: bytes of one.
        letter: for memoryviews, or "" where only NumPy knows it.
        name: as the user wrote it, or "".
        pickled: NumPy's dtype where `name` is not enough, or b"".
    """

    size: int
    letter: str
    name: str
    pickled: bytes

    def numpy(self) -> Any:
        """NumPy's dtype of it. Raises: ImportError."""
        import numpy

        # A letter and a name are read as the memoryview reads them: "<l" has 4 bytes in struct, 8 in NumPy.
        return pickle.loads(self.pickled) if self.pickled else numpy.dtype(self.letter or self.name)

    def given(self) -> Any:
        """What the user gave: a string, or NumPy's dtype."""
        return self.name or self.numpy()


def parse(dtype: Any) -> Item:
    """Read a dtype.

    Raises:
        TypeError: it is none, it holds Python objects, or only NumPy knows it and is not installed.
        ValueError: it has no size of its own.
    """
    if isinstance(dtype, str):
        letter = _letter(dtype)
        if letter:
            return Item(struct.calcsize(letter), letter, dtype, b"")
    elif isinstance(dtype, type) and dtype in _BY_TYPE:
        letter = _BY_TYPE[dtype]
        return Item(struct.calcsize(letter), letter, letter, b"")
    try:
        import numpy
    except ImportError:
        raise TypeError(
            f"SharedArray: dtype {dtype!r} is no letter of struct and no name of a plain number; "
            "for other dtypes NumPy has to be installed"
        ) from None
    try:
        if dtype is None:  # which NumPy reads as float64
            raise TypeError
        found = numpy.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(
            f"SharedArray: {dtype!r} is no dtype: use a letter of struct ('d', 'i', 'B' ...) or what NumPy knows "
            "('float64', numpy.int32, '<f4' ...)"
        ) from None
    if found.hasobject:
        raise TypeError(f"SharedArray: dtype {dtype!r} holds Python objects, which can't lie in shared memory")
    if not found.itemsize:
        raise ValueError(f"SharedArray: dtype {dtype!r} has no size; say how many bytes or characters ('S10', 'U10')")
    if found.subdtype is not None:
        raise TypeError(f"SharedArray: dtype {dtype!r} has a shape of its own; put that into the array's shape")
    letter = _letter(found.str) if found.names is None and found.isnative else ""
    if isinstance(dtype, str) and found.names is None:
        return Item(found.itemsize, letter, dtype, pickle.dumps(found))
    return Item(found.itemsize, letter, "", pickle.dumps(found))


def _letter(text: str) -> str:
    """The letter of a name, or "" if none of ours is that."""
    if text in LETTERS:
        return text
    order = text[:1] if text[:1] in ("<", ">", "=", "|", "@") else ""
    name = text[len(order) :]
    letter = _BY_SIZE.get(name) or (name if order and name in LETTERS else "" if order else _BY_NAME.get(name, ""))
    if not letter:
        return ""
    if order in ("<", ">", "="):
        if letter in "nN":  # struct has them in the machine's order only
            return ""
        letter = _STANDARD.get(letter, letter) if name in LETTERS else letter
        if order not in ("=", _NATIVE) and struct.calcsize(letter) > 1:
            return ""
    return letter
