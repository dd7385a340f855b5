"""What a worker that crashes says last: faulthandler's stack, in a file of memory that the supervisor reads.

SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT leave a stack; nothing can be said from within at SIGKILL or ``os._exit``.
"""

from __future__ import annotations

import faulthandler
import os

from mproc_go.errors import tell
from mproc_go.observe.stacks import PACKAGE

_MAX_BYTES = 64 * 1024
_WAS_ENABLED = faulthandler.is_enabled()


class Wrecks:
    """One file of memory for each slot that had a worker, used again by the next one there."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def make(self, slot: int) -> int:
        """An empty file for the worker of that slot, which is about to be forked; its descriptor.

        Raises:
            OSError: too few descriptors.
        """
        if slot not in self._fds:
            self._fds[slot] = os.memfd_create("mproc-go-wreck", os.MFD_CLOEXEC)
        fd = self._fds[slot]
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def stack(self, slot: int) -> str:
        """The stack that the dead worker of that slot left, most recent call last as Python prints it; "" if none."""
        fd = self._fds.get(slot, -1)
        if fd < 0:
            return ""
        text = os.pread(fd, _MAX_BYTES, 0).decode(errors="replace")
        if text and _WAS_ENABLED:  # who asked for it on stderr gets it there too
            tell(text.rstrip("\n"))
        frames = [line for line in text.splitlines() if line.startswith("  File ") and PACKAGE not in line]
        return "\n".join(reversed(frames))


def leave_in(fd: int) -> None:
    """Have a crash of this process write its stack there. Runs: a worker, once."""
    faulthandler.enable(fd, all_threads=False)
