"""The one shared segment: made by the supervisor, mapped whole by everybody, grown by ``posix_fallocate`` only.

It is a sealed memfd, handed on by inheritance and over the control socket: no 64 MB limit as in ``/dev/shm`` of a
container, no file that could be left behind, no name another user could squat. The address space is reserved at once
(a sparse file), so nobody ever maps again; memory is committed extent by extent before the first touch, so that a full
machine is a :class:`SharedMemoryFull` in the caller and never a SIGBUS somewhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import resource
from typing import Any

from mproc_go.errors import SharedMemoryFull, bug
from mproc_go.shm.layout import (
    DYNAMIC,
    H_COMMITTED_WORDS,
    H_HASH_KEY,
    H_LIMIT_WORDS,
    H_MAGIC,
    H_MAX_MS,
    H_VERSION,
    LAYOUT_VERSION,
    MAGIC,
    PAGE_WORDS,
    WORD,
)

PAGE = PAGE_WORDS * WORD
# Address space reserved per byte of limit. Freed large blocks keep their addresses for blocks of their size alone, up
# to twice the limit for each size in use at some time; addresses cost nothing.
_RESERVE_FACTOR = 16
_PIECE_BYTES = 4 << 20  # half a millisecond
_F_ADD_SEALS = 1033
_F_SEAL_SHRINK = 0x0002
_F_SEAL_GROW = 0x0004


class Segment:
    """The mapped segment.

    Attributes:
        fd: descriptor of the memory file.
        mem: the bytes, for payloads (slices are copies).
        w: the same bytes as 64-bit words.
    """

    __slots__ = ("_view", "fd", "mem", "w")

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        self.fd = fd
        self.mem = mmap.mmap(fd, size, mmap.MAP_SHARED)
        self._view = memoryview(self.mem)
        self.w = self._view.cast("Q")

    @classmethod
    def create(cls, limit_bytes: int, max_ms: int) -> Segment:
        """Make a segment that may grow to `limit_bytes` and has `max_ms` worker slots.

        Raises:
            SharedMemoryFull: the tables alone don't fit.
        """
        fixed = DYNAMIC * WORD
        if limit_bytes < fixed:
            raise SharedMemoryFull(
                f"memory={limit_bytes} is too small: the tables of a runtime alone take {fixed} bytes"
            )
        fd = os.memfd_create("mproc-go", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            size = _reserve(fd, limit_bytes)
            commit(fd, 0, fixed)
            # Nobody, not even a process gone wrong, can take pages away from under the others.
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW)
            segment = cls(fd)
        except BaseException:
            os.close(fd)
            raise
        w = segment.w
        w[H_VERSION] = LAYOUT_VERSION
        w[H_MAX_MS] = max_ms
        w[H_LIMIT_WORDS] = min(limit_bytes, size) // WORD
        w[H_COMMITTED_WORDS] = DYNAMIC
        for i in range(2):
            w[H_HASH_KEY + i] = int.from_bytes(os.urandom(WORD), "little")
        w[H_MAGIC] = MAGIC  # last: whoever sees it sees the rest
        return segment

    @classmethod
    def join(cls, fd: int) -> Segment:
        """Map a segment that another process made.

        Raises:
            ValueError: not one of ours, or of another version.
        """
        size = os.fstat(fd).st_size
        if size < DYNAMIC * WORD or size % WORD:
            raise ValueError(f"not a segment of mproc_go: {size} bytes")
        segment = cls(fd)
        magic, version = segment.w[H_MAGIC], segment.w[H_VERSION]
        if magic != MAGIC or version != LAYOUT_VERSION:
            segment.w.release()
            segment._view.release()
            segment.mem.close()
            raise ValueError(f"not a segment of this version of mproc_go (layout {version}, ours {LAYOUT_VERSION})")
        return segment

    def close(self) -> None:
        """Unmap. Nobody may hold the words or the bytes any more: whoever does gets a ValueError from now on."""
        self.w.release()
        self._view.release()
        self.mem.close()
        os.close(self.fd)

    def commit(self, base: int, words: int) -> None:
        """Have memory behind `words` words from `base` on, zeroed where it was not yet.

        Raises:
            SharedMemoryFull: the machine has none left.
        """
        commit(self.fd, base * WORD, words * WORD)

    def window(self, start: int, length: int) -> memoryview:
        """The bytes from `start` on, shared and not copied, for as long as they are ours."""
        return self._view[start : start + length]

    def fill(self, start: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` to byte `start`; in pieces if it is long, so that other threads of the process get their turn."""
        mem = self.mem
        n = len(data)
        if n <= _PIECE_BYTES:
            mem[start : start + n] = data
            return
        with memoryview(data) as view:
            for at in range(0, n, _PIECE_BYTES):
                piece = view[at : at + _PIECE_BYTES]
                mem[start + at : start + at + len(piece)] = piece

    def shared_array(self, start: int, length: int, used: int) -> Any:
        """A ctypes array over the first `used` of these bytes: what views keep alive, and what they end with."""
        array = _array_type(length).from_buffer(self.mem, start)
        array.used = used
        return array

    def private_array(self, start: int, length: int, used: int) -> Any:
        """The same of a private copy of the first `used` bytes: a page is copied when it is first written to.

        Nobody may change the shared ones any more.
        """
        first = start // PAGE * PAGE
        size = start + used - first
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, self.fd, first)
        if address == _MAP_FAILED:  # too many mappings, or no memory: a copy then
            return bytearray(self.window(start, used))
        array = _array_type(length).from_address(address + start - first)
        array.mapping = _Mapping(address, size)
        array.used = used
        return array

    def make_private(self, array: Any) -> None:
        """Put a copy of what such an array shows in its place, at the same address and at one moment."""
        first = ctypes.addressof(array) // PAGE * PAGE
        size = -(-(ctypes.addressof(array) - first + array.used) // PAGE) * PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if address != _MAP_FAILED:
            ctypes.memmove(address, first, size)
            _libc.mremap(address, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, first)

    def give_back(self, base: int, words: int) -> None:
        """Return the pages wholly inside `words` words from `base` on to the machine."""
        start = -(-base * WORD // PAGE) * PAGE
        end = (base + words) * WORD // PAGE * PAGE
        if end > start:
            with contextlib.suppress(OSError):  # not every kernel can; the block then stays committed
                self.mem.madvise(mmap.MADV_REMOVE, start, end - start)


def _reserve(fd: int, limit_bytes: int) -> int:
    """Make the file as long as addresses may be needed, within what the process may map and write."""
    size = -(-limit_bytes * _RESERVE_FACTOR // PAGE) * PAGE
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            size = min(size, soft // 2 // PAGE * PAGE)
    if size < DYNAMIC * WORD:
        raise SharedMemoryFull(f"the limits of this process (ulimit -v, -f) leave {size} bytes for the segment")
    os.ftruncate(fd, size)
    return size


def commit(fd: int, start: int, length: int) -> None:
    """``posix_fallocate`` with a clear error."""
    try:
        os.posix_fallocate(fd, start, length)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG):
            raise SharedMemoryFull(
                f"the machine has no memory left for {length // 1024} KiB of shared memory: {error.strerror}"
            ) from error
        raise


def default_limit_bytes() -> int:
    """What a segment may grow to by default: half of the memory this process may use (machine or cgroup)."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):  # no such controller, or "max"
            continue
    return total // 2


class _Mapping:
    """A mapping that ends with this object."""

    __slots__ = ("_address", "_size", "_unmap")

    def __init__(self, address: int, size: int) -> None:
        self._address = address
        self._size = size
        self._unmap = _libc.munmap  # at the end of the process there may be no _libc any more

    def __del__(self) -> None:
        self._unmap(self._address, self._size)


@functools.cache
def _array_type(length: int) -> Any:
    return ctypes.c_char * length


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
_MREMAP_MAYMOVE = 1
_MREMAP_FIXED = 2
_MAP_FAILED = ctypes.c_void_p(-1).value
_PR_SET_NAME = 15
_PR_SET_PDEATHSIG = 1


def set_death_signal(signum: int, parent: int) -> None:
    """Have the kernel send us `signum` when our parent thread ends; leave at once if it already did."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        bug(f"prctl(PR_SET_PDEATHSIG): errno {ctypes.get_errno()}")
    if os.getppid() != parent:
        os._exit(1)


def set_process_name(name: str) -> None:
    """The name that ``ps`` and ``top`` show for this process, 15 bytes at most."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
