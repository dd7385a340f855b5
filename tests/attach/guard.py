"""Ends the standing runtimes of a test process that is gone: killed, or ended by a timeout, it can't stop them itself.

Run as a program, it waits for the end of its stdin, which the test process holds open.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

GRACE_S = 10


@contextlib.contextmanager
def guarding(folder):
    """A watch over the runtimes that are started with an XDG_RUNTIME_DIR below `folder`."""
    command = [sys.executable, "-IS", __file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guard:
        yield guard.pid


def standing_below(folder):
    """Processes of the supervisors there."""
    mark = b"XDG_RUNTIME_DIR=" + os.fsencode(folder) + b"/"
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            theirs = any(line.startswith(mark) for line in (entry / "environ").read_bytes().split(b"\0"))
            if theirs and (entry / "comm").read_bytes() == b"mproc-go sched\n":
                found.append(int(entry.name))
    return found


def end(folder):
    """Have them end, and remove what they made."""
    deadline = time.monotonic() + GRACE_S
    while left := standing_below(folder):
        for os_pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(os_pid, signal.SIGCONT)
                os.kill(os_pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.read()
    end(sys.argv[1])
