"""What a runtime has is its owner's alone: files, semaphores, memory; and who answers in its place is found out."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading

import msgpack
import pytest

from mproc_go import NotRunning, attach, go
from mproc_go.runtime import process as rt
from mproc_go.shm import names
from tests.attach.support import DEADLINE_S, raw, until
from tests.tools.test_cli import mproc_go as command_line

NOBODY = 65534


@pytest.fixture
def open_umask():
    """Of a user who lets everybody do everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_all_it_makes_is_for_the_owner(open_umask, standing):
    """Whatever the umask says."""
    one = standing()
    found = [os.path.join("/dev/shm", entry) for entry in one.semaphores()]
    found += [os.path.join(names.folder_path(), entry) for entry in os.listdir(names.folder_path())]
    assert len(found) > 100 and {os.path.splitext(path)[1] for path in found} >= {".sock", ".lock", ".log"}
    for path in [*found, names.folder_path()]:
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, path


INTRUDER = """
import os, sys
supervisor, semaphore = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
tried = 0
def refused(call, *args):
    global tried
    tried += 1
    try:
        call(*args)
    except PermissionError:
        return
    print("let in:", call, args)
refused(os.open, semaphore, os.O_RDWR)
refused(os.listdir, f"/proc/{supervisor}/fd")
for fd in range(40):
    refused(os.open, f"/proc/{supervisor}/fd/{fd}", os.O_RDWR)
refused(os.kill, supervisor, 15)
print("tried", tried)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_reaches_neither_memory_nor_locks(standing):
    """By name, or by way of the process that has them."""
    one = standing()
    with attach("one"):
        workers = [go(os.getpid).result(DEADLINE_S) for _ in range(3)]
        for os_pid in {one.os_pid, *workers, os.getpid()}:
            command = [sys.executable, "-IS", "-c", INTRUDER, str(os_pid), f"/dev/shm/{one.semaphores()[0]}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd="/")
            assert done.stdout == "tried 43\n", done


LOOK = """
import os
for fd in os.listdir("/proc/self/fd"):
    try: print(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError: pass
"""


def descriptors_of_a_child():
    """What a program that a goroutine starts has open, where nobody closes anything for it."""
    return subprocess.check_output([sys.executable, "-IS", "-c", LOOK], close_fds=False, text=True).splitlines()


def test_programs_that_goroutines_start_inherit_nothing(standing):
    """Neither memory nor a socket of ours, also where descriptors are not closed."""
    standing()
    with attach("one"):
        for opened in (go(descriptors_of_a_child).result(DEADLINE_S), descriptors_of_a_child()):
            ours = [path for path in opened if "memfd" in path or "pidfd" in path or path.startswith(("socket:", "/dev/shm"))]
            assert opened and not ours


def test_thousands_of_connections(standing):
    """One after the other and many at once, with half a request or none: those inside notice nothing."""
    one = standing()
    with attach("one"), names.Folder() as folder:
        path, held, came = folder.socket_path("one"), [], 0
        while came < 3000:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.setblocking(False)
            held.append(sock)
            try:
                sock.connect(path)
                came += 1
                sock.send(b"\x81\xa2do")
            except OSError:  # nobody waits at the door, or it was sent away already
                pass
            if len(held) > 300:
                held.pop(0).close()
            if came % 100 == 0:
                assert go(pow, 2, 5).result(DEADLINE_S) == 32
        for sock in held:
            sock.close()
        until(lambda: one.stats()["clients"] == 1)


# ---------------------------------------------------------------- somebody else answers
class Impostor:
    """Has a name, and answers every request with the same packet and descriptors."""

    def __init__(self, packet, fds=()):
        self.packet, self.fds = packet, fds

    def __enter__(self):
        self.folder = names.Folder(make=True)
        self.lock = self.folder.claim("two")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.bind(self.folder.socket_path("two"))
        self.sock.listen()
        self.thread = threading.Thread(target=self.answer)
        self.thread.start()
        return self

    def answer(self):
        while True:
            sock, _ = self.sock.accept()
            with sock:
                asked = sock.recv(1 << 16)
                if asked == b"end":
                    return
                socket.send_fds(sock, [self.packet], self.fds)

    def __exit__(self, *_):
        with raw("two") as sock:
            sock.send(b"end")
        self.thread.join(DEADLINE_S)
        self.sock.close()
        self.folder.release("two", self.lock)
        self.folder.close()


GOOD = {"prefix": "/mproc-go.none", "slots": 80, "client": 70, "path": [], "environment": ""}
ANSWERS = [
    b"nonsense",
    b"\x81" * 60_000,
    *(
        msgpack.packb(packet)
        for packet in (
            [],
            {},
            {"error": 3},
            {"version": []},
            GOOD,  # without memory
            {**GOOD, "prefix": 5},
            {**GOOD, "prefix": "/x\0y"},
            {**GOOD, "prefix": "no slash"},
            {**GOOD, "slots": 1 << 40},
            {**GOOD, "slots": -1},
            {**GOOD, "client": 1 << 40},
            {**GOOD, "client": -1},
            {**GOOD, "path": [3]},
            {**GOOD, "environment": None},
        )
    ),
]


@pytest.mark.parametrize("with_fd", [False, True])
def test_answers_that_are_none(with_fd):
    """Whoever asked gets one error, which says so, and has no runtime; no descriptor stays open."""
    with open(os.devnull, "rb") as null:
        for answer in ANSWERS:
            with Impostor(answer, [null.fileno()] if with_fd else []):
                with pytest.raises(NotRunning):
                    attach("two")
                assert rt.process is None


@pytest.mark.parametrize("verb", ["stats", "stacks", "stop", "ps"])
def test_answers_that_are_none_to_a_command(verb):
    """One line."""
    with open(os.devnull, "rb") as null, Impostor(msgpack.packb({"os_pid": "x"}), [null.fileno()]):
        done = command_line(verb, *(() if verb == "ps" else ("two",)))
        assert done.returncode in (0, 2) and "two" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1, done


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20, (1 << 20) + 1])
def test_memory_that_is_none_of_ours(size):
    """It is not mapped, or not used."""
    fd = os.memfd_create("nonsense")
    try:
        os.ftruncate(fd, size)
        with Impostor(msgpack.packb(GOOD), [fd]), pytest.raises(NotRunning, match="another language"):
            attach("two")
    finally:
        os.close(fd)
    assert rt.process is None
