"""One turn: one subject measured once, in a process of its own, which may crash or hang without taking the run along.

Whatever the turn starts inherits MPROC_BENCH_TURN in its environment: so we know our own, end them by their id,
and notice who is still there after the measuring process has gone. Names in /dev/shm carry the pid of who made them;
the measuring process says which processes it started, since other programs of this machine leave names as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

__all__ = ["take_turn"]

MARK = "MPROC_BENCH_TURN"
GONE_S = 2.0  # what a turn started must be gone that soon after it


def take_turn(scenario: str, name: str, n: int, timeout_s: float) -> dict[str, object]:
    """Measure; return {"seconds"} or {"error"}, with {"left"} if anything stayed behind. Blocks: timeout_s + 2 s."""
    turn, names_before = uuid.uuid4().hex, _names()
    result: dict[str, Any] = {}
    command = [sys.executable, "-m", "mproc_bench.child", scenario, name, str(n)]
    # Files, not pipes: a process that stays behind would hold a pipe open, and us with it.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, MARK: turn},
            start_new_session=True,
        )
        try:
            child.wait(timeout_s)
            out.seek(0), err.seek(0)
            result = _answer(child.returncode, out.read().decode(), err.read().decode(errors="replace"))
        except subprocess.TimeoutExpired:
            result = {"error": f"no answer within {timeout_s:g} s"}
        finally:
            if child.poll() is None:  # a time-out or Ctrl-C: the others are seen to below
                child.kill()
                child.wait()
            makers = {child.pid, *result.pop("started", ())}
            left = _end_those_left(turn) + _orphaned(_names() - names_before, makers)
    if left and "error" not in result:
        result["left"] = left
    return result


def _answer(status: int, out: str, err: str) -> dict[str, object]:
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if status or not lines:
        last = (err.strip().splitlines() or ["no output"])[-1]
        return {"error": f"ended with status {status}: {last}"}
    answer: dict[str, object] = json.loads(lines[-1])
    return answer | {"stderr": err} if "error" in answer else answer


def _end_those_left(turn: str) -> list[str]:
    """Wait a moment for the turn's processes to go, kill those that did not; return their command lines."""
    end = time.monotonic() + GONE_S
    while (left := _marked(turn)) and time.monotonic() < end:
        time.sleep(0.02)
    for os_pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(os_pid, signal.SIGKILL)
    return list(left.values())


def _names() -> set[str]:
    return set(os.listdir("/dev/shm"))


def _orphaned(names: set[str], makers: set[int]) -> list[str]:
    """The names made by processes of this turn that are no more."""
    gone = {p for p in makers if not Path(f"/proc/{p}").exists()}
    return [f"/dev/shm/{name}" for name in sorted(names) if gone.intersection(_pids(name))]


def _pids(name: str) -> list[int]:
    if name.startswith("sem.mproc-go."):  # sem.mproc-go.UID.PID.START-NAMESPACE.RANDOM...: one of the numbers
        return [int(name.split(".")[3])]
    return [int(digits) for digits in re.findall(r"(?<![0-9a-z])[0-9]+(?![0-9a-z])", name)]


def _marked(turn: str) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={turn}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended, or is another user's
    return found
