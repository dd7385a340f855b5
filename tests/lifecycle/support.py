"""Run programs as a shell would, and see what they leave."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import uuid

import psutil

PROGS = pathlib.Path(__file__).resolve().parents[1] / "progs"
MARK = "MPROC_GO_TEST_MARK"
# A program that takes longer hangs.
END_S = 40.0
# What may need a moment to be gone.
GONE_S = 10.0


@dataclasses.dataclass
class Outcome:
    status: int
    out: str
    err: str

    def __str__(self):
        return f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Program:
    """A program that runs; its descendants are known by a mark in their environment.

    As a context manager it is killed, with all that belongs to it, whatever the test does.
    """

    def __init__(self, command, *, env=None, **popen):
        self.mark = uuid.uuid4().hex
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        popen.setdefault("stdin", subprocess.DEVNULL)
        self.popen = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, "PYTHONUNBUFFERED": "", **(env or {}), MARK: self.mark},
            text=True,
            process_group=0,
            **popen,
        )
        self.pid = self.popen.pid
        self.before = semaphores()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()

    def family(self):
        """Every living process that has our mark."""
        found = []
        wanted = f"{MARK}={self.mark}".encode()
        for os_pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            with contextlib.suppress(OSError, psutil.Error):
                # Of a process that has ended it is empty.
                if wanted in pathlib.Path(f"/proc/{os_pid}/environ").read_bytes().split(b"\0"):
                    found.append(psutil.Process(os_pid))
        return found

    def workers(self):
        """The workers, oldest first."""
        return [p for p in self.family() if _name(p).startswith("mproc-go m")]

    def supervisor(self):
        return until(lambda: next((p for p in self.family() if _name(p) == "mproc-go sched"), None))

    def until_line(self, text):
        """Read stdout up to a line with that text."""
        seen = []
        for line in self.popen.stdout:
            seen.append(line)
            if text in line:
                return "".join(seen)
        raise AssertionError(f"stdout ended without {text!r}: {''.join(seen)}\n{self.popen.stderr.read()}")

    def end(self, seconds=END_S):
        """Wait for the end, and check that nothing is left."""
        try:
            out, err = self.popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            state = [(p.pid, _name(p)) for p in self.family()]
            for process in self.family():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            out, err = self.popen.communicate()
            raise AssertionError(f"the program hangs; {state}\n--- stdout\n{out}\n--- stderr\n{err}") from None
        outcome = Outcome(self.popen.returncode, out or "", err or "")
        self.check_nothing_left(outcome)
        return outcome

    def check_nothing_left(self, outcome=""):
        """Nothing of the program may stay: no process, no name in /dev/shm."""

        def left():
            return [(p.pid, _name(p)) for p in self.family()] + sorted(semaphores() - self.before)

        deadline = time.monotonic() + GONE_S
        while (found := left()) and time.monotonic() < deadline:  # looked at once: others may leave something meanwhile
            time.sleep(0.02)
        assert not found, f"left behind: {found}\n{outcome}"

    def interrupt(self):
        """Ctrl-C: the terminal sends it to the whole foreground group."""
        os.killpg(self.pid, signal.SIGINT)


def _name(process):
    try:
        return pathlib.Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:
        return ""


def semaphores():
    """Names of dead runtimes in /dev/shm (living ones may be others')."""
    names = [name for name in os.listdir("/dev/shm") if name.startswith("sem.mproc-go.")]
    return {name for name in names if not psutil.pid_exists(int(name.split(".")[3]))}


def can_mount():
    """Whether we may give a program a /dev/shm of its own."""
    command = ["unshare", "-m", "true"]
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    )


def start(prog, *args, **kwargs):
    """Start a program of tests/progs."""
    return Program([sys.executable, PROGS / prog, *args], **kwargs)


def run(prog, *args, **kwargs):
    """Run a program of tests/progs to its end."""
    with start(prog, *args, **kwargs) as program:
        return program.end()


def run_code(tmp_path, code, *args, **kwargs):
    """Run a program given as text."""
    script = tmp_path / "script.py"
    script.write_text(code)
    with Program([sys.executable, script, *args], **kwargs) as program:
        return program.end()


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "did not become true"
        time.sleep(0.01)
