"""How an error ends a command: its text on stderr and its exit status.

Go's texts and Go's status 2 for what ends a program in Go; one line ``mproc-go: ...`` for what the user can correct.
"""

from __future__ import annotations

import sys

from mproc_go.errors import EXIT_PANIC, MprocError, ending_text

EXIT_FAILURE = 1

# What a terminal would obey instead of show: C0 but tab and newline, DEL and C1. A file may be called "\x1b[2J".
_CONTROLS = {c: f"\\x{c:02x}" for c in (*range(0x20), *range(0x7F, 0xA0)) if c not in (0x09, 0x0A)}


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes spelled out, fit for any terminal and any pipe."""
    return text.translate(_CONTROLS).encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """Return `text` as one printable line."""
    return printable(" ".join(text.split()))


def complain(text: str) -> None:
    """Write the one line ``mproc-go: text`` to stderr."""
    print(f"mproc-go: {one_line(text)}", file=sys.stderr)


def end_of_program(error: MprocError) -> int | None:
    """Write what Go writes when `error` ends a program; return the exit status, None if Go has no text for it."""
    text = ending_text(error)
    if text is None:
        return None
    sys.stdout.flush()  # where both go to one file, what was printed before the end stands before it
    print(text, file=sys.stderr)
    return EXIT_PANIC
