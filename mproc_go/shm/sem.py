"""POSIX semaphores: the one home of making, opening, waiting and posting.

Named semaphores are made and unlinked by posix_ipc. They are waited on through the standard library's own binding of
the same ``sem_t`` (``_multiprocessing.SemLock``), opened by name, for two reasons measured here: posix_ipc's acquire
always drops the interpreter lock, even when a token is there (58 against 89 ns a pair; with a busy thread in the
process 0.6 against 68 us), and it throws away an exception that a signal handler raised, so that ``sys.exit()`` in a
SIGTERM handler would vanish. Where ``SemLock._rebuild`` is missing, posix_ipc does everything, slower.

What they are called: shm/names.py. The names of a runtime that nobody can attach to are unlinked as soon as everybody
who needs them has them open, so that even ``kill -9`` of all processes leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

import posix_ipc

from mproc_go.errors import SharedMemoryFull

try:
    from _multiprocessing import SemLock

    _rebuild: Callable[[int, int, int, str], object] | None = SemLock._rebuild
except (ImportError, AttributeError):  # a Python without it: slower, but the same semaphore
    _rebuild = None

_SEMAPHORE_KIND = 1
_MAX_VALUE = 2**31 - 1


class Semaphore:
    """An open semaphore.

    Attributes:
        acquire: ``acquire(block=True, timeout=None) -> bool``; drops the interpreter lock only when it has to sleep.
        release: posts one token.
    """

    __slots__ = ("_held", "acquire", "release")

    acquire: Callable[..., bool]
    release: Callable[[], None]

    def __init__(self, name: str) -> None:
        if _rebuild is not None:
            held = _rebuild(0, _SEMAPHORE_KIND, _MAX_VALUE, name)
            self._held: object = held
            self.acquire = held.acquire  # type: ignore[attr-defined]
            self.release = held.release  # type: ignore[attr-defined]
        else:
            try:
                sem = posix_ipc.Semaphore(name)
            except posix_ipc.ExistentialError as error:
                raise FileNotFoundError(str(error)) from None
            self._held = sem
            self.acquire = _posix_acquire(sem)
            self.release = sem.release


def _posix_acquire(sem: posix_ipc.Semaphore) -> Callable[..., bool]:
    def acquire(block: bool = True, timeout: float | None = None) -> bool:
        try:
            sem.acquire(timeout if block else 0)
        except posix_ipc.BusyError:
            return False
        return True

    return acquire


def create(name: str, value: int) -> None:
    """Make a named semaphore with `value` tokens, for the owner alone.

    Raises:
        SharedMemoryFull: no room in /dev/shm, where the system keeps named semaphores.
    """
    try:
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600, initial_value=value).close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT):
            raise SharedMemoryFull(
                f"no room for a semaphore in /dev/shm ({free_text('/dev/shm')}); "
                "make it larger (docker run --shm-size=64m) or remove what others left there"
            ) from error
        raise


def unlink(name: str) -> None:
    """Remove a name; whoever has the semaphore open keeps it. A name already gone is fine."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_semaphore(name)


def free_text(path: str) -> str:
    """Free space of a file system, for error texts."""
    try:
        stat = os.statvfs(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{stat.f_bavail * stat.f_frsize // 1024} KiB free of {stat.f_blocks * stat.f_frsize // 1024} KiB"
