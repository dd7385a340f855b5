"""``attach``: join a standing runtime from a program that did not start it; and ask one something without joining.

What is attached is a client like the program that starts a runtime: each of its threads that calls the library is an M
that runs no goroutines. It owns nothing, so that it may leave, or be killed, at any time.

Leaving is a burial (supervisor/reaper.py) that this process asks for, and after which it must never touch the shared
memory again. So :meth:`Attached.close` first makes sure that no other thread is inside the library:

1. New calls fail: there is no runtime in this process any more.
2. Threads that wait are woken and leave their queues.
3. Once none of them has a frame of ours on its stack, their Ms become :class:`_Gone`, for handles they may still have.
4. Then the supervisor is asked. If a thread does not come out (it is in a function of the user's that the library
   called), nothing is asked: what this process has stays its own until it ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from mproc_go.codec import byname
from mproc_go.errors import NotRunning
from mproc_go.observe.stacks import PACKAGE
from mproc_go.runtime import boot, buffers, panics
from mproc_go.runtime import process as rt
from mproc_go.runtime.boot import CLOSE_S, START_S
from mproc_go.runtime.client import ClientM
from mproc_go.runtime.process import M, Process
from mproc_go.shm import names
from mproc_go.shm.doors import Doors
from mproc_go.shm.layout import KIND_FREE, M_ATTENTION, M_HOST, M_KIND, MAX_SLOTS, slot_base
from mproc_go.shm.segment import Segment
from mproc_go.supervisor import control

_LOOK_S: Final = 0.002


def attach(name: str) -> Attached:
    """Join the runtime of that name: one that ``mproc-go start NAME`` or ``Runtime(name=NAME)`` of this user started.

    From then on ``go``, ``Chan(name=...)``, ``select`` and all the rest work in this program as in the one that started
    it. Functions and classes that the runtime's workers can't import travel by value.

    Returns: what to close, or a context manager: closing it leaves the runtime, which goes on.

    Raises:
        TypeError, ValueError: that is no name.
        NotRunning: no runtime of that name runs (the text lists those that do), or it has no room for one more program.
        RuntimeError: this process has a runtime already; or that one has another Python or version of mproc_go.
        PermissionError: the folder of standing runtimes is not this user's alone.

    Blocks: until its supervisor answers, some milliseconds.
    """
    names.check_name(name, "runtime")
    with boot.starting:
        if rt.process is not None:
            raise RuntimeError(f"attach({name!r}): this process has a runtime already; close that one first")
        return Attached(name)


class Attached:
    """A runtime that this program has joined. Use it as a context manager, or close it."""

    def __init__(self, name: str) -> None:
        """See :func:`attach`, which makes it."""
        self._name = name
        self._owner = os.getpid()
        self._process: Process | None = None
        boot.occupy_standard_streams()
        self._sock = connect(name)
        fds: list[int] = []
        try:
            packet, received = _ask(self._sock, name, {"do": "attach", **control.versions()}, 1)
            fds += received
            if "version" in packet:
                _refuse_version(name, packet["version"])
            if "error" in packet:
                raise NotRunning(str(packet["error"]))
            try:
                prefix, slots, client, path, environment = _joined(packet)
                if not fds:
                    raise ValueError("it brings no memory")
                segment = Segment.join(fds[0])
            except ValueError as error:
                raise _another_language(name, error) from error
            os_pid, _ = control.peer(self._sock)
            fds.append(os.pidfd_open(os_pid))
            try:
                opened = Doors(prefix, slots)
                locks = opened.locks(segment.w)
            except OSError as error:
                raise NotRunning(
                    f"runtime {name!r} can't be joined any more: a semaphore of it is gone from {names.SHM_FOLDER} "
                    f"({error}); did its user log out (RemoveIPC= of systemd-logind)? Start it again"
                ) from error
            process = boot.new_process(segment, locks, opened.notes, client, fds[1], name)
            process.exporters = weakref.WeakValueDictionary()
        except BaseException:
            with contextlib.suppress(OSError):  # we touch nothing any more; refused if we had not come that far
                control.send(self._sock, {"do": "detach"})
            self._sock.close()
            for fd in fds:
                os.close(fd)
            raise
        byname.look_in(path, environment == sys.prefix)
        self._process = rt.process = process

    @property
    def name(self) -> str:
        """Name of the runtime."""
        return self._name

    def close(self) -> None:
        """Leave the runtime, which goes on: goroutines that this program started run on, its handles are dropped.

        Other threads of this program that are in a call of the library get NotRunning from it. A second call does
        nothing. Blocks: until the supervisor has cleaned up behind us, milliseconds; 3 s at the most.

        Raises:
            GoroutinePanic, WorkerLost: what ended the runtime and was not raised here yet.
        """
        error = self._leave()
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        error = self._leave()
        # An exception of the block goes on, unless it only says that the runtime was ended by the panic we have here.
        if error is not None and (kind is None or issubclass(kind, NotRunning)):
            raise error

    def __repr__(self) -> str:
        return f"<Attached to {self._name!r}{'' if self._process is not None else ', closed'}>"

    def _leave(self) -> Exception | None:
        with boot.starting:
            process, self._process = self._process, None
            if process is None or os.getpid() != self._owner:  # a fork: nothing here is ours
                return None
            error: Exception | None = None
            m = getattr(process.tls, "m", None)
            if process.over is None:
                if m is not None and not process.told:
                    error = panics.fatal(m)
                process.over = f"this program has left {process.title}"
            if rt.process is process:
                rt.process = None
                byname.look_in(None)
            if m is not None:
                del process.tls.m
            if _come_out(process, m):
                buffers.keep_views(process)
                try:
                    _ask(self._sock, self._name, {"do": "detach"}, seconds=CLOSE_S)
                except (NotRunning, OSError):
                    pass  # it is over, and we with it
            self._sock.close()
            os.close(process.supervisor_fd)
            process.supervisor_fd = -1
            os.close(process.segment.fd)
            return error


class _Gone(ClientM):
    """What the M of a thread becomes when another thread leaves the runtime: any use of it says so."""

    def __getattr__(self, name: str) -> NoReturn:
        raise NotRunning(self.__dict__["why"])


def _come_out(process: Process, own: M | None) -> bool:
    """Have all other threads leave the library; whether they have."""
    w, host = process.segment.w, process.host
    for slot, note in enumerate(process.notes):
        base = slot_base(slot)
        if w[base + M_KIND] != KIND_FREE and w[base + M_HOST] == host:
            w[base + M_ATTENTION] = 1
            note.release()
    me = threading.get_ident()
    deadline = time.monotonic() + CLOSE_S
    swapped = False
    while True:
        inside = any(_is_inside(ident) for ident in sys._current_frames() if ident != me)
        if swapped and not inside:
            return True
        if not swapped and (not inside or time.monotonic() > deadline - CLOSE_S / 2):
            for m in list(process.threads):
                m.__class__ = _Gone
                m.__dict__.clear()
                m.__dict__["why"] = process.over
            swapped = True
            continue
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)


def _is_inside(ident: int) -> bool:
    frame = sys._current_frames().get(ident)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return True
        frame = frame.f_back
    return False


# ---------------------------------------------------------------- the other end of the socket
def connect(name: str, seconds: float = START_S) -> socket.socket:
    """A connection to the supervisor of that runtime.

    Raises:
        NotRunning: there is none; the text lists those that run.
        PermissionError: the folder of standing runtimes is not this user's alone, or the socket is another user's.
    """
    try:
        folder = names.Folder()
    except FileNotFoundError:
        raise _unknown(name, names.folder_path(), []) from None
    with folder:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(seconds)
            try:
                if not folder.is_alive(name):
                    raise FileNotFoundError(name)
                _connect(sock, folder.socket_path(name), time.monotonic() + seconds)
            except (FileNotFoundError, ConnectionRefusedError):
                raise _unknown(name, folder.path, folder.living()) from None
            except (TimeoutError, BlockingIOError):
                raise _silent(name) from None
            _, uid = control.peer(sock)
            if uid != os.getuid():
                raise PermissionError(f"runtime {name!r} in {folder.path} is run by user {uid}, not by {os.getuid()}")
        except BaseException:
            sock.close()
            raise
        return sock


def _connect(sock: socket.socket, path: str, deadline: float) -> None:
    """As ``sock.connect``, which with a timeout does not wait while many stand at the door."""
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_S)


def ask(name: str, what: str, seconds: float = START_S) -> tuple[dict[str, Any], bytes]:
    """Ask a runtime for something without joining it: its answer, and what came as a file with it.

    Args:
        seconds: to wait for the answer.

    Raises:
        NotRunning, PermissionError: as :func:`connect`; or it did not answer.
    """
    with connect(name, seconds) as sock:
        packet, fds = _ask(sock, name, {"do": what}, 1, seconds)
        text = b""
        for fd in fds:
            with open(fd, "rb") as file:
                size = os.fstat(fd).st_size  # what has none, a pipe or device, is not read
                text = file.read(size) if size and not file.seek(0) else b""
        if "error" in packet:
            raise NotRunning(str(packet["error"]))
        return packet, text


def _ask(
    sock: socket.socket, name: str, packet: dict[str, Any], max_fds: int = 0, seconds: float = START_S
) -> tuple[dict[str, Any], list[int]]:
    try:
        control.send(sock, packet)
        if not select.select([sock], [], [], seconds)[0]:
            raise _silent(name)
        answer, fds = control.receive(sock, max_fds)
    except (BrokenPipeError, ConnectionResetError):
        answer, fds = None, []
    except ValueError as error:
        raise _another_language(name, error) from error
    if answer is None:
        raise NotRunning(f"runtime {name!r} ended meanwhile")
    return answer, fds


def _joined(packet: dict[str, Any]) -> tuple[str, int, int, list[str], str]:
    """What the answer to a request to attach says: prefix of the semaphores, slots, our slot, path, environment.

    Raises:
        ValueError: it is no such answer.
    """
    prefix, path = control.field(packet, "prefix", str), control.field(packet, "path", list)
    slots, client = control.field(packet, "slots", int), control.field(packet, "client", int)
    if not 0 < client < slots <= MAX_SLOTS or not prefix.startswith("/mproc-go.") or "\0" in prefix:
        raise ValueError(f"not a control packet: slot {client} of {slots}, prefix {prefix[:80]!r}")
    if not all(isinstance(folder, str) for folder in path):
        raise ValueError("not a control packet: a path of other things than folders")
    return prefix, slots, client, path, control.field(packet, "environment", str)


def _another_language(name: str, error: ValueError) -> NotRunning:
    return NotRunning(f"runtime {name!r} speaks another language: {error}")


def _unknown(name: str, folder: str, running: list[str]) -> NotRunning:
    known = [other for other in running if other != name]
    others = f"running are {', '.join(known)}" if known else f"none does (in {folder})"
    return NotRunning(f"no runtime named {name!r} runs: {others}. Start it with: mproc-go start {name}")


def _silent(name: str) -> NotRunning:
    with names.Folder() as folder:
        os_pid = folder.os_pid(name)
    return NotRunning(f"runtime {name!r} does not answer; is its supervisor, process {os_pid}, stopped?")


def _refuse_version(name: str, theirs: Any) -> NoReturn:
    if not isinstance(theirs, dict):
        raise _another_language(name, ValueError(f"its version is {type(theirs).__name__}"))
    ours = control.versions()
    raise RuntimeError(
        f"runtime {name!r} was started by Python {theirs.get('python')} and mproc_go with memory layout "
        f"{theirs.get('layout')}; this program has Python {ours['python']} and layout {ours['layout']}. "
        "Both must be the same: start the one or the other with the same environment"
    )
