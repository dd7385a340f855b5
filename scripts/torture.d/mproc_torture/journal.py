"""A goroutine's journal: what it began and what was acknowledged, in a file, which no SIGKILL takes back.

One system call a record: it is written whole or not at all.
"""

from __future__ import annotations

import os
import struct
from collections import Counter

START, INTENT, ACK = 0, 1, 2

_RECORD = struct.Struct("<BQ")


class Journal:
    """Open for appending; one for each goroutine, kept by all its lives."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, kind: int, *numbers: int) -> None:
        """Append a record of that kind for each number, all in one write."""
        os.write(self._fd, b"".join(_RECORD.pack(kind, n) for n in numbers))

    def close(self) -> None:
        os.close(self._fd)


def read(path: str) -> dict[int, Counter[int]]:
    """What stands in a journal: kind -> how often each number."""
    found: dict[int, Counter[int]] = {START: Counter(), INTENT: Counter(), ACK: Counter()}
    if os.path.exists(path):
        with open(path, "rb") as file:
            for kind, number in _RECORD.iter_unpack(file.read()):
                found[kind][number] += 1
    return found
