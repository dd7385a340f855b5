"""Who may come in: the socket of a standing runtime, and the programs that are attached to it.

1. Only this user: the socket is in a folder that nobody else may enter (shm/names.py), and the kernel is asked whose
   process is at the other end before its first byte is read.
2. Every request is one packet (control.py); what is no request of ours closes that connection and touches nothing else.
3. Nobody can make the supervisor wait: all sockets are non-blocking, an answer that would block closes the connection,
   who says nothing for :data:`SILENT_S` is sent away, and connections are bounded.
4. Who attaches gets the segment and a slot; the threads of that program take further slots, hosted by that one. From
   then on its process is watched: if it dies, all its slots are buried like a worker's (reaper.py), at whatever
   instruction it was. Detaching is the same burial, asked for by a process that promises not to touch them any more.

Runs: the supervisor's loop.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from mproc_go.observe.stats import stats_of
from mproc_go.shm.layout import (
    H_MAX_MS,
    H_SLOTS,
    H_STOP,
)
from mproc_go.shm.names import Folder
from mproc_go.shm.thread import take_client_slot
from mproc_go.supervisor import control

if TYPE_CHECKING:
    from mproc_go.supervisor.main import Supervisor

# Who is connected and has not attached is sent away after this, in seconds without a request.
SILENT_S: Final = 5.0
# Connections at the same time; a runtime has slots for fewer programs than that.
MAX_GUESTS: Final = 96
_BACKLOG = 64
SO_PEERPIDFD = 77  # Linux 6.5


class Guest:
    """A connection, and the process that is or was behind it.

    Attributes:
        slot: its host slot, 0 until it attaches.
        pidfd: watches the process, -1 until it attaches.
        leaving: it asked to be detached and waits for the answer.
    """

    def __init__(self, sock: socket.socket, os_pid: int) -> None:
        self.sock: socket.socket | None = sock
        self.os_pid = os_pid
        self.slot = 0
        self.pidfd = -1
        self.leaving = False
        self.heard = time.monotonic()


class Reception:
    """The socket of one runtime and everybody who came in by it.

    Attributes:
        name: of the runtime.
        stop_asked: somebody asked for its end.
    """

    def __init__(self, name: str) -> None:
        """Take the name.

        Raises:
            Taken: a runtime of that name runs already.
            PermissionError, OSError: as names.Folder.
        """
        self.name = name
        self.stop_asked = False
        self.folder = Folder(make=True)
        self._guests: dict[int, Guest] = {}  # by descriptor of the connection
        self._watched: dict[int, Guest] = {}  # by pidfd
        self._deaths = select.poll()
        self._listener: socket.socket | None = None
        self._spare = -1
        try:
            self._lock = self.folder.claim(name)
        except BaseException:
            self.folder.close()
            raise

    def open(self, supervisor: Supervisor, path: list[str]) -> None:
        """Listen. `path`: where the workers look for modules.

        Raises:
            OSError: the socket can't be made.
        """
        self._supervisor = supervisor
        self._path = path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            at = self.folder.socket_path(self.name)
            listener.bind(at)
            os.chmod(at, 0o600)
            listener.listen(_BACKLOG)
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        supervisor.poll.register(listener.fileno(), select.POLLIN)

    def close(self, keep_log: bool = False) -> None:
        """Let the name go."""
        self.folder.release(self.name, self._lock, keep_log)
        self.folder.close()

    # ------------------------------------------------------------ the loop's side
    def handle(self, fd: int) -> bool:
        """Something happened at a descriptor; whether it was one of ours."""
        if self._listener is not None and fd == self._listener.fileno():
            self._accept()
        elif fd in self._guests:
            self._serve(self._guests[fd])
        elif fd not in self._watched:  # deaths: see collect
            return False
        return True

    def tick(self) -> None:
        """Send away who says nothing."""
        now = time.monotonic()
        for guest in list(self._guests.values()):
            if not guest.slot and now - guest.heard > SILENT_S:
                self._hang_up(guest)

    def collect(self) -> list[tuple[int, int, str]]:
        """Programs that died attached since the last call: slot, os_pid, how."""
        dead = []
        for fd, _ in self._deaths.poll(0) if self._watched else ():
            guest = self._unwatch(fd)
            if not guest.leaving:  # else it is in the hands of the burial already
                dead.append((guest.slot, guest.os_pid, "ended without detaching"))
            self._hang_up(guest)
        return dead

    def buried(self, slot: int) -> None:
        """All that a program had is cleaned up: if it still lives, it may go."""
        for fd, guest in list(self._watched.items()):
            if guest.slot == slot and guest.leaving:
                self._unwatch(fd)
                self._answer(guest, {"ok": True})
                self._hang_up(guest)

    # ------------------------------------------------------------ connections
    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # else it would wait at the door, and we would spin
                os.close(self._spare)
                with contextlib.suppress(OSError):
                    self._listener.accept()[0].close()
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            return
        sock.setblocking(False)
        os_pid, uid = control.peer(sock)
        guest = Guest(sock, os_pid)
        if uid != os.getuid():  # the folder should have kept it out
            sock.close()
            return
        why = ""
        if len(self._guests) >= MAX_GUESTS:
            why = f"{MAX_GUESTS} programs are connected to runtime {self.name!r} already"
        elif not os_pid:
            why = "this program runs in another pid namespace (a container), where process numbers mean something else"
        if why:
            self._answer(guest, {"error": why})
            sock.close()
            return
        self._guests[sock.fileno()] = guest
        self._supervisor.poll.register(sock.fileno(), select.POLLIN)

    def _hang_up(self, guest: Guest) -> None:
        """Close the connection; whether its process is watched is another matter."""
        sock, guest.sock = guest.sock, None
        if sock is not None:
            self._guests.pop(sock.fileno(), None)
            with contextlib.suppress(KeyError, OSError):
                self._supervisor.poll.unregister(sock.fileno())
            sock.close()

    def _unwatch(self, fd: int) -> Guest:
        guest = self._watched.pop(fd)
        self._deaths.unregister(fd)
        with contextlib.suppress(KeyError, OSError):
            self._supervisor.poll.unregister(fd)
        os.close(fd)
        guest.pidfd = -1
        return guest

    def _answer(self, guest: Guest, packet: dict[str, Any], fds: tuple[int, ...] = ()) -> bool:
        """Answer; whether it was taken. Who does not read is sent away rather than waited for."""
        if guest.sock is None:
            return False
        try:
            control.send(guest.sock, packet, fds)
        except OSError:
            return False
        return True

    # ------------------------------------------------------------ requests
    def _serve(self, guest: Guest) -> None:
        assert guest.sock is not None
        try:
            packet, _ = control.receive(guest.sock)
            if packet is None:  # it hung up; if it is attached, its process may go on without having detached
                self._hang_up(guest)
                return
            guest.heard = time.monotonic()
            answered = self._do(guest, control.field(packet, "do", str), packet)
        except BlockingIOError:
            return
        except (ValueError, OSError) as error:  # malformed; or a limit of ours, which it is told
            self._answer(guest, {"error": str(error)})
            answered = False
        if not answered:
            self._hang_up(guest)

    def _do(self, guest: Guest, what: str, packet: dict[str, Any]) -> bool:
        if what == "attach":
            return self._attach(guest, packet)
        if what == "detach":
            if not guest.slot or guest.leaving:
                raise ValueError("not attached")
            guest.leaving = True
            self._supervisor.depart(guest.slot, guest.os_pid)
            return True
        if what == "stats":
            return self._answer_long(guest, stats_of(self._supervisor.segment.w))
        if what == "stop":
            self.stop_asked = True
            return self._answer(guest, {"ok": True, "os_pid": os.getpid()})
        raise ValueError(f"no request {what[:40]!r}")

    def _answer_long(self, guest: Guest, value: dict[str, Any]) -> bool:
        """Answer with as much as it takes, in a file of memory: one packet, and nobody waits for a reader."""
        fd = os.memfd_create("mproc-go answer", os.MFD_CLOEXEC)
        try:
            text = json.dumps(value).encode()
            with open(fd, "wb", closefd=False) as file:
                file.write(text)
            return self._answer(guest, {"os_pid": os.getpid(), "started": self._supervisor.began}, (fd,))
        finally:
            os.close(fd)

    def _attach(self, guest: Guest, packet: dict[str, Any]) -> bool:
        supervisor, ours = self._supervisor, control.versions()
        if guest.slot:
            raise ValueError("attached already")
        for what, kind in (("layout", int), ("python", str)):
            if control.field(packet, what, kind) != ours[what]:
                return self._answer(guest, {"version": ours}) and False
        if supervisor.w[H_STOP]:
            raise ValueError(f"runtime {self.name!r} is ending")
        guest.pidfd = _pidfd(guest)
        guest.slot = take_client_slot(supervisor.thread, guest.os_pid)
        if not guest.slot:
            os.close(guest.pidfd)
            guest.pidfd = -1
            clients = supervisor.w[H_SLOTS] - supervisor.w[H_MAX_MS] - 1
            raise ValueError(f"{clients} threads use runtime {self.name!r} already, there is no room for one more")
        self._watched[guest.pidfd] = guest
        self._deaths.register(guest.pidfd, select.POLLIN)
        supervisor.poll.register(guest.pidfd, select.POLLIN)
        opened = supervisor.doors
        answer = {"prefix": opened.prefix, "slots": len(opened.notes), "client": guest.slot, "path": self._path}
        return self._answer(guest, {**answer, "environment": sys.prefix}, (supervisor.segment.fd,))


def _pidfd(guest: Guest) -> int:
    """A descriptor of the process behind a connection.

    Raises:
        ValueError: it is gone.
        OSError: none is left.
    """
    assert guest.sock is not None
    try:
        return guest.sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EINVAL):
            raise
    try:
        return os.pidfd_open(guest.os_pid)
    except ProcessLookupError:
        raise ValueError("the program that asks is gone") from None
