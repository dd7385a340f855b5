"""A program that attaches to the runtime, sends numbers once each over a named channel, and is killed."""

from __future__ import annotations

import sys
from typing import Any

from mproc_go import Chan, attach
from mproc_torture.bodies import message
from mproc_torture.journal import ACK, INTENT, Journal


def main(runtime: str, channel: str, capacity: int, path: str, n: int) -> None:
    with attach(runtime):
        ch: Chan[Any] = Chan(capacity, name=channel)
        journal = Journal(path)
        for number in range(n):
            journal.add(INTENT, number)
            ch.send(message(number, number % 100 * (5_000 if not number % 50 else 1)))
            journal.add(ACK, number)
        journal.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
