"""Standing runtimes for the tests of this folder, each in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from mproc_go import NotRunning
from mproc_go.runtime import attach as joining
from mproc_go.runtime.boot import start_standing
from mproc_go.shm import names
from mproc_go.supervisor import control

NURSERY = pathlib.Path(__file__).with_name("nursery.py")
REPO = str(pathlib.Path(__file__).resolve().parents[2])
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
def nursery():
    """What makes programs that attach to runtime ``one`` and die (nursery.py): ``ask(n, operation)`` has one do it."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([REPO, os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    with subprocess.Popen([sys.executable, NURSERY], **pipes) as process:
        yield Nursery(process)
        process.stdin.close()


class Nursery:
    def __init__(self, process):
        self.process = process

    def begin(self, n, operation, act="die"):
        """Have a program do that, and be killed, or stop, before its n-th step."""
        print(n, operation, act, file=self.process.stdin, flush=True)

    def died(self):
        """Wait for its end: whether it was killed."""
        answer = self.process.stdout.readline().strip()
        assert answer in ("died", "survived"), answer
        return answer == "died"


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
