"""Real messages with bytes changed, cut, doubled or mixed: a value or a clear error, whatever they are."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROUNDS = 15_000


def test_damaged_messages(seed: int) -> None:
    """No crash, no hang, no other exception, no unbounded memory; in a process that could afford to crash."""
    program = pathlib.Path(__file__).with_name("damage.py")
    command = [sys.executable, str(program), str(seed), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    assert done.stdout.endswith(" errors\n")
