"""``mproc-go doctor``: what this machine allows, what the library needs of it, and what would break.

Every line is a try or a figure of now, none is a guess from a version number where it can be tried.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import os
import platform
import resource
import select
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import click

from mproc_go.shm import names
from mproc_go.tools.exits import EXIT_FAILURE, one_line
from mproc_go.tools.which import amount

OK, NOTE, BAD = "ok", "note", "BAD"
_PACKAGES: Final = ("posix_ipc", "greenlet", "msgpack", "cloudpickle", "psutil", "click", "rich")
# Of the user's: what a runtime with the default options needs at the least.
_FILES_NEEDED: Final = 256
_MAPS_NEEDED: Final = 2_000
_LOGIND: Final = "/etc/systemd/logind.conf"
# Where systemd keeps logins of users; system users, below that number, are spared.
_FIRST_USER: Final = 1000


class Finding(NamedTuple):
    """One line: how it is, of what, and what to know or do."""

    how: str
    what: str
    text: str


@click.command(name="doctor", short_help="Show what this machine allows, and what would break.")
def command() -> int:
    """Try what the library needs of this machine: memory, semaphores, descriptors, limits, packages.

    A line begins with 'ok', 'note' (works, but know it) or 'BAD' (something would break; the exit status is then 1).
    """
    bad = False
    for look in (_python, _packages, _system, _cpus, _memory, _dev_shm, _limits, _folder, _logout, _trial):
        for finding in _guarded(look):
            bad = bad or finding.how == BAD
            click.echo(f"{finding.how:<5} {finding.what}: {one_line(finding.text)}")
    return EXIT_FAILURE if bad else 0


def _guarded(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:  # a doctor does not fall ill of the patient
        yield Finding(BAD, look.__name__.strip("_"), f"{type(error).__name__}: {error}")


# ---------------------------------------------------------------- Python
def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if platform.python_implementation() != "CPython":
        yield Finding(BAD, "Python", f"{platform.python_implementation()} {version}; CPython is needed")
    else:
        yield Finding(OK, "Python", f"{version}, {sys.executable}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        yield Finding(NOTE, "Python", "a free-threaded build: not tested with it")
    try:
        from _multiprocessing import SemLock

        quick = hasattr(SemLock, "_rebuild")
    except ImportError:
        quick = False
    if not quick:
        yield Finding(NOTE, "semaphores", "_multiprocessing.SemLock is missing: posix_ipc waits instead, slower")


def _packages() -> Iterator[Finding]:
    missing, found = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    yield Finding(OK, "packages", ", ".join(found))
    for package in missing:
        yield Finding(BAD, "packages", f"{package} is not installed")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        yield Finding(OK, "NumPy", importlib.metadata.version("numpy"))


# ---------------------------------------------------------------- the system
def _system() -> Iterator[Finding]:
    if sys.platform != "linux":
        yield Finding(BAD, "system", f"{sys.platform}; Linux is needed")
        return
    machine = platform.machine()
    known = machine in ("x86_64", "AMD64")
    text = f"Linux {platform.release()}, {machine}{'' if known else ': not tested with it'}"
    yield Finding(OK if known else NOTE, "system", text)
    fd = -1
    try:
        fd = os.memfd_create("mproc-go doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 1 << 20)
        os.posix_fallocate(fd, 0, 1 << 16)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        try:
            os.ftruncate(fd, 0)
            yield Finding(NOTE, "memfd", "seals have no effect: a process gone wrong could take memory away")
        except PermissionError:
            yield Finding(OK, "memfd", "made, filled and sealed")
    except OSError as error:
        yield Finding(BAD, "memfd", f"{error}: there is no shared memory for a runtime")
    finally:
        if fd >= 0:
            os.close(fd)
    try:
        fd = os.pidfd_open(os.getpid())
        select.select([fd], [], [], 0)
        os.close(fd)
        yield Finding(OK, "pidfd", "processes can be watched")
    except OSError as error:
        yield Finding(BAD, "pidfd", f"{error}: a worker's death would not be seen")
    try:
        names.start_time(os.getpid())
        names.start_time(os.getppid() or 1)
        yield Finding(OK, "/proc", "readable")
    except (OSError, ProcessLookupError) as error:
        yield Finding(NOTE, "/proc", f"{error}: a call that blocks may not be seen, and 'gc' can't tell who is dead")


def _cpus() -> Iterator[Finding]:
    from mproc_go.sched import cpus

    quota = cpus.cgroup_quota()
    limit = f", cgroup quota {quota:g}" if quota is not None else ""
    yield Finding(OK, "processors", f"{cpus.num_cpu()} of {os.cpu_count()}{limit}")


def _memory() -> Iterator[Finding]:
    from mproc_go.shm.segment import default_limit_bytes

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Finding(OK, "memory", f"{amount(total)}; a runtime may grow to {amount(default_limit_bytes())} (memory=)")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            with open(path, encoding="ascii") as file:
                limit = int(file.read())
            if limit < total:
                small = limit < 256 << 20
                text = "; the kernel kills who goes beyond, workers first" if small else ""
                yield Finding(NOTE if small else OK, "memory.max", f"{amount(limit)} for this container{text}")


def _dev_shm() -> Iterator[Finding]:
    from mproc_go.errors import SharedMemoryFull
    from mproc_go.runtime.boot import CLIENTS, DEFAULT_MAX_MS
    from mproc_go.shm import doors, sem
    from mproc_go.shm.layout import N_LOCKS

    count = N_LOCKS + doors.all_slots(DEFAULT_MAX_MS, CLIENTS)
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        stat = os.statvfs(names.SHM_FOLDER)
    except OSError as error:
        yield Finding(BAD, names.SHM_FOLDER, f"{error.strerror}: there is no place for semaphores; mount a tmpfs there")
        return
    free, size = stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize
    text = f"{amount(free)} free of {amount(size)}; a runtime takes {amount(count * page)}, for {count} semaphores"
    room = free >= count * page or size == 0  # 0: without a limit
    yield Finding(OK if room else BAD, names.SHM_FOLDER, text + ("" if room else "; make it larger (--shm-size=64m)"))
    name = names.new_prefix() + ".doctor"
    try:
        sem.create(name, 1)
        opened = sem.Semaphore(name)
        taken = opened.acquire(False) and not opened.acquire(True, 0.001)
        yield Finding(OK if taken else BAD, "semaphore", "made, taken and removed" if taken else "it does not count")
    except (OSError, SharedMemoryFull) as error:
        yield Finding(BAD, "semaphore", str(error))
    finally:
        sem.unlink(name)
    left = names.left_semaphores()
    if left:
        yield Finding(NOTE, "left behind", f"{len(left)} semaphores of dead runtimes; 'mproc-go gc' removes them")


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < _FILES_NEEDED
    more = f"; it takes {_FILES_NEEDED} for many workers: ulimit -n" if few else ""
    yield Finding(BAD if few else OK, "descriptors", f"{_text(soft)} (ulimit -n), at most {_text(hard)}{more}")
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            maps = int(file.read())
        few = maps < _MAPS_NEEDED
        yield Finding(BAD if few else OK, "vm.max_map_count", f"{maps}; a process takes some 500")
    for kind, what, flag in (
        (resource.RLIMIT_AS, "address space", "-v"),
        (resource.RLIMIT_FSIZE, "file size", "-f"),
        (resource.RLIMIT_NPROC, "processes", "-u"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY and kind != resource.RLIMIT_NPROC:
            yield Finding(NOTE, what, f"limited to {amount(soft)} (ulimit {flag}): the shared memory gets half of it")
        elif soft != resource.RLIM_INFINITY and soft < _FILES_NEEDED:
            yield Finding(NOTE, what, f"limited to {soft} (ulimit {flag})")


def _text(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


# ---------------------------------------------------------------- standing runtimes
def _folder() -> Iterator[Finding]:
    path = names.folder_path()
    try:
        with names.Folder() as folder:
            running = folder.living()
        yield Finding(OK, "standing runtimes", f"{path}; running: {', '.join(running) or 'none'}")
    except FileNotFoundError:
        if os.access(os.path.dirname(path), os.W_OK):
            yield Finding(OK, "standing runtimes", f"{path} will be made; running: none")
        else:
            yield Finding(BAD, "standing runtimes", f"{path} can't be made")
    except OSError as error:
        yield Finding(BAD, "standing runtimes", str(error))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        from mproc_go.supervisor import control, reception

        _, uid = control.peer(ours)
        if uid != os.getuid():
            yield Finding(BAD, "peer credentials", f"the kernel says user {uid} of ourselves")
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, reception.SO_PEERPIDFD))
            yield Finding(OK, "peer credentials", "uid and pidfd")
        except OSError as error:
            known = errno.errorcode.get(error.errno or 0, "")
            yield Finding(OK, "peer credentials", f"uid; no pidfd ({known}): watched by number from then on")


def _logout() -> Iterator[Finding]:
    if not os.path.isdir("/run/systemd/system") or not 0 < os.getuid() >= _FIRST_USER:
        return
    setting = "yes"
    for path in (_LOGIND, *_overrides()):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.strip().partition("=")
                if key.strip() == "RemoveIPC":
                    setting = value.strip().lower()
    if setting not in ("no", "false", "off", "0"):
        yield Finding(
            NOTE,
            "RemoveIPC",
            "when you log out for the last time, systemd-logind removes your semaphores under a running runtime: "
            "nobody can attach to it any more. loginctl enable-linger, or RemoveIPC=no in logind.conf",
        )


def _overrides() -> list[str]:
    folder = _LOGIND + ".d"
    try:
        return [os.path.join(folder, entry) for entry in sorted(os.listdir(folder)) if entry.endswith(".conf")]
    except OSError:
        return []


# ---------------------------------------------------------------- all together
def _trial() -> Iterator[Finding]:
    import mproc_go

    started = time.perf_counter()
    with mproc_go.Runtime():
        right = mproc_go.go(pow, 2, 10).result(30) == 1024
    took_ms = (time.perf_counter() - started) * 1000
    yield Finding(OK if right else BAD, "trial", f"a runtime started, ran a goroutine and ended in {took_ms:.0f} ms")
