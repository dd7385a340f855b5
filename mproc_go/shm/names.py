"""What runtimes are called outside: names of semaphores, the folder of standing runtimes, and whose each thing is.

**Semaphores** lie in ``/dev/shm``, where every user may write. Their names carry the uid and the supervisor's os_pid,
its start time and its pid namespace: a number alone is given to another process later, and means another process in
another container. The random part makes sure that nobody can plant a semaphore for us to open.

**Standing runtimes** have a folder of their user's own, ``$XDG_RUNTIME_DIR/mproc-go`` or ``/tmp/mproc-go-UID``. In
``/tmp`` another user may have made that name before us, so the folder is opened once, without following a link, its
owner and mode are checked on what was opened, and everything in it is reached through that descriptor. In it:

    NAME.lock   locked by the supervisor as long as it lives: who is alive is a fact the kernel keeps
    NAME.sock   where it listens (supervisor/reception.py)
    NAME.log    stdout and stderr of a runtime without a terminal

Rejected: pid files (a number says nothing in another container, and nothing after a reboot), and abstract sockets
(any user of the machine may take the name first).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import time
from typing import Final, NamedTuple

SHM_FOLDER: Final = "/dev/shm"
MAX_NAME: Final = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME - 1}}}")
_LOCK, _SOCK, _LOG = ".lock", ".sock", ".log"
# struct flock: type, whence, start, length, pid. Locks of an open file: held until its last descriptor is closed.
_FLOCK: Final = "hhqqi4x"
# Somebody who looks whether an owner lives, in order to remove what it left, has the lock for a moment.
_TRIES, _PAUSE_S = 5, 0.02
_MAX_PID: Final = 1 << 22  # Linux: PID_MAX_LIMIT


class Taken(RuntimeError):
    """A runtime of that name runs already."""


def check_name(name: object, of: str) -> str:
    """A name, checked. `of`: what it names, for the text.

    Raises:
        TypeError: it is no string.
        ValueError: it is no name.
    """
    if not isinstance(name, str):
        raise TypeError(f"name of a {of} is a string, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} is no name of a {of}: use up to {MAX_NAME} letters, digits, '_', '.' and '-', "
            "a letter or digit first"
        )
    return name


# ---------------------------------------------------------------- processes
class Owner(NamedTuple):
    """A process, told from any other that has or had its number."""

    os_pid: int
    started: int  # clock ticks after the machine's start
    namespace: int  # of process numbers

    def is_dead(self) -> bool:
        """Whether it is gone for certain; what another container's process is doing can't be seen from here."""
        if self.namespace != pid_namespace():
            return False
        try:
            return start_time(self.os_pid) != self.started
        except ProcessLookupError:
            return True
        except OSError:  # no /proc
            return False


def start_time(os_pid: int) -> int:
    """When a process started, in clock ticks after the machine's start.

    Raises:
        ProcessLookupError: there is none, or it has ended and only waits for its parent.
        OSError: /proc is not there.
    """
    try:
        with open(f"/proc/{os_pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # behind the name, which may hold anything
    except FileNotFoundError:
        os.kill(os_pid, 0)
        raise
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(errno.ESRCH, f"process {os_pid} has ended")
    return int(fields[19])


def pid_namespace() -> int:
    """Number of the pid namespace of this process, 0 if the system does not say."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


# ---------------------------------------------------------------- semaphores
def new_prefix() -> str:
    """A name prefix nobody can guess: whoever could plant a semaphore of that name could hold our locks."""
    try:
        started = start_time(os.getpid())
    except OSError:
        started = 0
    return f"/mproc-go.{os.getuid()}.{os.getpid()}.{started}-{pid_namespace()}.{os.urandom(8).hex()}"


def left_semaphores() -> list[str]:
    """Paths of the semaphores of this user whose supervisor is gone."""
    mine = f"sem.mproc-go.{os.getuid()}."
    found = []
    try:
        entries = os.listdir(SHM_FOLDER)
    except OSError:  # then nothing is in it
        return []
    for entry in entries:
        if not entry.startswith(mine):
            continue
        path = f"{SHM_FOLDER}/{entry}"
        try:
            owner = _owner_in(entry)
            there = os.lstat(path)
            # Whoever else may write there can use our prefix: what is not ours is not touched.
            if stat.S_ISREG(there.st_mode) and there.st_uid == os.getuid() and owner.is_dead():
                found.append(path)
        except (ValueError, IndexError, OSError):
            continue
    return sorted(found)


def _owner_in(entry: str) -> Owner:
    words = entry.split(".")
    started, _, namespace = words[4].partition("-")
    owner = Owner(int(words[3]), int(started), int(namespace))
    if not 0 < owner.os_pid <= _MAX_PID:
        raise ValueError(f"{owner.os_pid} is no number of a process")
    return owner


def remove_left() -> list[str]:
    """Unlink what killed runtimes of this user left in /dev/shm. Returns: the paths."""
    removed = []
    for path in left_semaphores():
        with contextlib.suppress(OSError):  # another one is at it as well
            os.unlink(path)
            removed.append(path)
    return removed


# ---------------------------------------------------------------- the folder of standing runtimes
def folder_path() -> str:
    """Where the standing runtimes of this user are."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base) and os.path.isdir(base):
        return os.path.join(base, "mproc-go")
    return f"/tmp/mproc-go-{os.getuid()}"


class Folder:
    """The folder of this user's standing runtimes, opened.

    Attributes:
        path: for texts; entries are reached through the descriptor.
    """

    def __init__(self, make: bool = False) -> None:
        """Open it. `make`: make it if it is not there.

        Raises:
            FileNotFoundError: it is not there.
            PermissionError: it is not ours alone: another user made it, may enter it, or it is a link.
            OSError: it can't be made.
        """
        self.path = path = folder_path()
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise PermissionError(f"{path} is no folder of ours but a link or a file: remove it") from None
            if error.errno == errno.EACCES:
                raise PermissionError(f"{path} belongs to another user: have it removed") from None
            raise
        try:
            found = os.fstat(self.fd)
            if found.st_uid != os.getuid():
                raise PermissionError(f"{path} belongs to user {found.st_uid}, not to {os.getuid()}: have it removed")
            mode = stat.S_IMODE(found.st_mode)
            if mode & 0o077:
                raise PermissionError(f"{path} is open to other users (mode {mode:o}): chmod 700 it")
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def socket_path(self, name: str) -> str:
        """A path to the socket that fits into an address (107 bytes), however long the folder's is."""
        return f"/proc/self/fd/{self.fd}/{name}{_SOCK}"

    def log_path(self, name: str) -> str:
        return os.path.join(self.path, name + _LOG)

    def names(self) -> list[str]:
        """Names that have a lock file, of the living and the dead."""
        entries = (entry.removesuffix(_LOCK) for entry in os.listdir(self.fd) if entry.endswith(_LOCK))
        return sorted(name for name in entries if _NAME.fullmatch(name))

    def is_alive(self, name: str) -> bool:
        """Whether a runtime of that name runs."""
        try:
            fd = os.open(name + _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return False
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
            return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)

    def os_pid(self, name: str) -> int:
        """Number of the supervisor that has the name or had it last, for texts; 0 if that is not known."""
        try:
            fd = os.open(name + _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            with open(fd, encoding="ascii") as file:
                return int(file.read(64).split()[0])
        except (OSError, ValueError, IndexError):
            return 0

    def living(self) -> list[str]:
        """Names of the runtimes that run."""
        return [name for name in self.names() if self.is_alive(name)]

    def claim(self, name: str) -> int:
        """Make the name ours as long as the descriptor that is returned is open.

        Raises:
            Taken: a runtime of that name runs.
            OSError: the file can't be made, or is none (a link that somebody planted).
        """
        for _ in range(_TRIES):
            fd = self._locked(name, os.O_CREAT)
            if fd >= 0:
                os.ftruncate(fd, 0)
                os.write(fd, f"{os.getpid()} {start_time(os.getpid())}\n".encode())
                for ending in (_SOCK, _LOG):
                    self._unlink(name + ending)
                return fd
            time.sleep(_PAUSE_S)
        raise Taken(f"a runtime named {name!r} runs already; join it with attach({name!r})")

    def _locked(self, name: str, flags: int = 0) -> int:
        """The lock file, open and locked, if nobody living has it; else -1."""
        while True:
            flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name + _LOCK, flags, 0o600, dir_fd=self.fd)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            except OSError as error:
                os.close(fd)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return -1
                raise
            try:
                if os.stat(name + _LOCK, dir_fd=self.fd, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
                    return fd
            except FileNotFoundError:
                pass
            os.close(fd)  # whoever had it removed it between our open and our lock

    def release(self, name: str, fd: int, keep_log: bool = False) -> None:
        """Remove the entries of a runtime that ends, the lock last."""
        for ending in (_SOCK, *(() if keep_log else (_LOG,)), _LOCK):
            self._unlink(name + ending)
        os.close(fd)

    def remove_left(self) -> list[str]:
        """Remove the entries of runtimes that are gone. Returns: their paths."""
        removed = []
        for name in self.names():
            with contextlib.suppress(OSError):
                fd = self._locked(name)
                if fd < 0:
                    continue
                entries = [name + ending for ending in (_SOCK, _LOG, _LOCK)]
                removed += [os.path.join(self.path, entry) for entry in entries if self._unlink(entry)]
                os.close(fd)
        entries = os.listdir(self.fd)
        locked = set(self.names())  # listed after them: who is starting now made its lock before the rest
        for entry in entries:  # the log of one that was ended by a panic, say
            name, ending = os.path.splitext(entry)
            if ending in (_SOCK, _LOG) and _NAME.fullmatch(name) and name not in locked and self._unlink(entry):
                removed.append(os.path.join(self.path, entry))
        return removed

    def _unlink(self, entry: str) -> bool:
        try:
            os.unlink(entry, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def open_log(self, name: str) -> int:
        """A new log, for the owner alone."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name + _LOG, flags, 0o600, dir_fd=self.fd)


def running() -> list[str]:
    """Names of this user's standing runtimes.

    Raises:
        PermissionError: as :class:`Folder`.
    """
    try:
        with Folder() as folder:
            return folder.living()
    except FileNotFoundError:
        return []
