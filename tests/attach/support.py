"""Standing runtimes for the tests of this folder, each in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time

from mproc_go import NotRunning
from mproc_go.runtime import attach as joining
from mproc_go.runtime.boot import start_standing
from mproc_go.shm import names
from mproc_go.supervisor import control

# What takes longer hangs; a loaded machine is slow.
DEADLINE_S = 60


class Standing:
    """A runtime without an owner, of this test. It is ended, whatever the test did to it."""

    def __init__(self, name, **options):
        self.name = name
        self.os_pid = start_standing(name, {"procs": 2, **options})
        self.prefix = f"sem.mproc-go.{os.getuid()}.{self.os_pid}."

    def stats(self):
        return json.loads(joining.ask(self.name, "stats")[1])

    def semaphores(self):
        return [entry for entry in os.listdir("/dev/shm") if entry.startswith(self.prefix)]

    def kill(self):
        """All at once, without a word."""
        os.kill(self.os_pid, signal.SIGKILL)
        self.wait()

    def stop(self):
        joining.ask(self.name, "stop")
        self.wait()

    def wait(self):
        os_pid, self.os_pid = self.os_pid, 0
        if os_pid:
            os.waitpid(os_pid, 0)

    def end(self):
        if not self.os_pid:
            return
        os.kill(self.os_pid, signal.SIGCONT)
        try:
            self.stop()
        except (NotRunning, OSError):
            self.kill()
            names.remove_left()


def until(condition, seconds=DEADLINE_S):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "did not become true"
        time.sleep(0.002)


@contextlib.contextmanager
def raw(name):
    """A connection that speaks for itself."""
    with names.Folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(folder.socket_path(name))  # without a timeout: so it waits while many stand at the door
        sock.settimeout(DEADLINE_S)
        yield sock


def ask_raw(sock, **packet):
    """One request and its answer; None where the connection was closed."""
    control.send(sock, packet)
    answer, fds = control.receive(sock, 4)
    for fd in fds:
        os.close(fd)
    return answer
