"""start, stop, ps, stats, stacks, gc and doctor as a shell sees them."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import psutil
import pytest

from mproc_go import Chan, attach, go
from mproc_go.shm import names
from tests.attach.guard import guarding, standing_below
from tests.attach.support import DEADLINE_S, until
from tests.lifecycle.support import can_mount

REPO = pathlib.Path(__file__).resolve().parents[2]
MPROC_GO = [sys.executable, "-m", "mproc_go"]


def mproc_go(*args, **kwargs):
    return subprocess.run([*MPROC_GO, *args], capture_output=True, text=True, timeout=90, **kwargs)


def well(*args, **kwargs):
    """A command that does what it says; its output."""
    done = mproc_go(*args, **kwargs)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def usage_error(*args, **kwargs):
    """A command that can't; the one line it says."""
    done = mproc_go(*args, **kwargs)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("mproc-go: ") and done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """No runtime outlives this process, whatever ends it."""
    with guarding(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(autouse=True)
def folder(guard, tmp_path, monkeypatch):
    base = tmp_path / "run"
    base.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    yield base / "mproc-go"
    try:
        running = names.running()
    except PermissionError:  # planted
        running = []
    for name in running:
        mproc_go("stop", name)
    names.remove_left()


def os_pid_of(name):
    with names.Folder() as opened:
        return opened.os_pid(name)


def test_a_life(tmp_path):
    """Started, listed, joined, looked at, stopped; nothing is left."""
    out = well("start", "first", "--procs", "2", cwd=tmp_path)
    os_pid = os_pid_of("first")
    assert out.startswith(f"runtime first is ready: process {os_pid}, log ")
    supervisor = psutil.Process(os_pid)
    assert os.getsid(os_pid) == os_pid and supervisor.cwd() == str(tmp_path)
    assert "runs already" in usage_error("start", "first")
    head, line = well("ps").splitlines()
    assert head.split()[:3] == ["NAME", "PROCESS", "PROCS"]
    assert line.split()[:5] == ["first", str(os_pid), "2", "2", "0"]
    with attach("first"):
        gate = Chan(name="gate")

        def waits_here(ch):
            ch.recv()

        kept = go(waits_here, gate)
        text = until(lambda: (text := well("stacks", "first")) and "in waits_here" in text and text)
        assert "[chan receive]" in text and "stacks.py" not in text
        figures = json.loads(well("stats", "--json"))
        assert figures["clients"] == 1 and figures["gomaxprocs"] == 2
        shown = well("stats", "first", env={**os.environ, "COLUMNS": "40"})
        assert "chan receive" in shown and "  handoffs\n" in shown and "\u2026" not in shown
        gate.send(None)
        kept.result(DEADLINE_S)
    assert well("stop", "first") == "runtime first has ended\n"
    until(lambda: not psutil.pid_exists(os_pid))
    assert "no runtime named 'first' runs" in usage_error("stop", "first")
    assert len(well("ps").splitlines()) == 1
    assert well("gc") == "nothing to remove\n"


def test_modules_of_the_folder_it_was_started_in(tmp_path):
    """The workers find them, as those of a program that is run there do; their prints are in the log."""
    (tmp_path / "of_the_folder.py").write_text("def f(): print('printed', flush=True); return __file__\n")
    well("start", "one", cwd=tmp_path)
    code = "from mproc_go import attach, go\nimport of_the_folder\nwith attach('one'): print(go(of_the_folder.f).result())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.stdout, done.stderr) == (f"{tmp_path}/of_the_folder.py\n", "")
    with names.Folder() as opened:
        assert pathlib.Path(opened.log_path("one")).read_text() == "printed\n"


@pytest.mark.parametrize("verb", ["start", "stop", "stats", "stacks"])
@pytest.mark.parametrize("name", ["../x", ".x", "a" * 65, "a b", "x/y", ""])
def test_names_that_try_to_leave_their_folder(verb, name):
    """Refused, and nothing is made."""
    assert "is no name of a runtime" in usage_error(verb, name)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("stop",), "missing argument"),
        (("start",), "missing argument"),
        (("start", "x", "--procs", "0"), "--procs"),
        (("start", "x", "--procs", "65"), "1<=x<=64"),
        (("start", "x", "--max-ms", "1", "--procs", "2"), "max_ms is at least 2"),
        (("start", "x", "--memory", "5"), "5 is not in the range"),
        (("start", "x", "--memory", "1" * 30), "memory is at least"),
        (("start", "x", "--on-panic", "dance"), "dance"),
        (("start", "x", "y"), "unexpected extra argument"),
        (("stop", "none"), "no runtime named 'none' runs"),
        (("stats", "none"), "no runtime named 'none' runs"),
        (("stacks", "none"), "no runtime named 'none' runs"),
        (("stats",), "no runtime runs"),
        (("stacks",), "no runtime runs"),
        (("gc", "x"), "unexpected extra argument"),
        (("doctor", "--x"), "no such option"),
        (("ps", "x"), "unexpected extra argument"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(args, word):
    """And no runtime was started by them."""
    assert word in usage_error(*args)
    assert names.running() == []


def test_of_several_one_must_be_named():
    """No guessing."""
    well("start", "a", "--procs", "1")
    well("start", "b", "--procs", "1")
    assert "which one? There are a, b" in usage_error("stats")
    assert [line.split()[0] for line in well("ps").splitlines()] == ["NAME", "a", "b"]
    assert "running are a, b" in usage_error("stop", "c")


def test_gc_removes_what_the_dead_left_and_spares_the_living(folder):
    """It tells what it removes: semaphores, socket, lock and log of a runtime that was killed whole."""
    well("start", "lives", "--procs", "1")
    well("start", "dies", "--procs", "1")
    dead, alive = os_pid_of("dies"), os_pid_of("lives")
    os.kill(dead, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(dead) or psutil.Process(dead).status() == psutil.STATUS_ZOMBIE)

    def semaphores(os_pid):
        return {entry for entry in os.listdir("/dev/shm") if entry.startswith(f"sem.mproc-go.{os.getuid()}.{os_pid}.")}

    before = semaphores(alive)
    assert len(well("ps").splitlines()) == 2
    out = well("gc")
    for ending in ("sock", "lock", "log"):
        assert f"removed {folder}/dies.{ending}\n" in out
    # Any other start on this machine removes them as well, so maybe before us.
    assert "lives" not in out and f"process {alive} " not in out
    assert not semaphores(dead) and semaphores(alive) == before
    assert sorted(os.listdir(folder)) == ["lives.lock", "lives.log", "lives.sock"]
    with attach("lives"):
        assert go(pow, 2, 5).result(DEADLINE_S) == 32
    assert well("gc") == "nothing to remove\n"
    well("start", "dies", "--procs", "1")


def planted(folder, how):
    base = os.path.dirname(folder)
    if how == "a link":
        os.mkdir(os.path.join(base, "elsewhere"), 0o700)
        os.symlink(os.path.join(base, "elsewhere"), folder)
    elif how == "a file":
        open(folder, "w").close()
    elif how == "open to all":
        os.mkdir(folder)
        os.chmod(folder, 0o777)
    elif how == "another user's":
        os.mkdir(folder, 0o700)
        os.chown(folder, 65534, 65534)


@pytest.mark.parametrize("verb", [("start", "x"), ("ps",), ("stats",), ("gc",), ("stop", "x")])
@pytest.mark.parametrize("how", ["a link", "a file", "open to all", "another user's"])
def test_a_folder_that_somebody_planted_is_refused(folder, how, verb):
    """One line that says what is wrong with it."""
    if how == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can plant a folder of another user's")
    planted(folder, how)
    line = usage_error(*verb)
    assert str(folder) in line
    assert ("link" in line) or ("open to other users" in line) or ("belongs to" in line)


@pytest.mark.parametrize("ending", ["lock", "log", "sock"])
def test_links_in_the_folder_are_not_followed(folder, tmp_path, ending):
    """Whatever lies there under a name of ours, the file behind a link stays as it is."""
    folder.mkdir(mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / f"x.{ending}").symlink_to(victim)
    done = mproc_go("start", "x", "--procs", "1")
    assert victim.read_text() == "precious"
    if ending == "lock":
        assert done.returncode != 0 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    else:
        assert done.returncode == 0
    mproc_go("stop", "x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_kept_out(folder):
    """He can't reach the socket; and if he could, the kernel tells who he is before his first byte is read."""
    well("start", "one", "--procs", "1")
    code = """
import os, socket, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.setgid(65534); os.setuid(65534)
try:
    os.stat(sys.argv[1] + "/one.sock"); print("in")
except PermissionError:
    print("out")
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "out\n", done
    knock = """
import os, socket, sys
from mproc_go.supervisor import control
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.chdir(sys.argv[1])
os.setgid(65534); os.setuid(65534)
sock.connect("one.sock")
try:
    control.send(sock, {"do": "stats"})
except BrokenPipeError:
    pass
print(control.receive(sock)[0])
"""
    os.chmod(folder, 0o755)
    os.chmod(folder / "one.sock", 0o777)
    done = subprocess.run([sys.executable, "-c", knock, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "None\n", done
    os.chmod(folder, 0o700)
    with attach("one"):
        assert go(pow, 2, 5).result(DEADLINE_S) == 32


def test_a_folder_with_a_long_path(tmp_path, monkeypatch):
    """Longer than a socket's address can be."""
    base = tmp_path / ("x" * 120) / ("y" * 120)
    base.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    well("start", "n" * 64, "--procs", "1")
    with attach("n" * 64):
        assert go(pow, 2, 5).result(DEADLINE_S) == 32
    well("stop", "n" * 64)


def test_a_supervisor_that_is_stopped_does_not_hang_the_command():
    """One line that says whom to look at."""
    well("start", "one", "--procs", "1")
    os_pid = os_pid_of("one")
    os.kill(os_pid, signal.SIGSTOP)
    try:
        assert f"process {os_pid}, stopped?" in usage_error("stats", "one")
    finally:
        os.kill(os_pid, signal.SIGCONT)
    well("stats", "one")


def test_doctor_of_this_machine():
    """Everything is tried; on a machine that runs these tests nothing is bad."""
    out = well("doctor")
    for word in ("Python", "posix_ipc", "/dev/shm", "descriptors", "vm.max_map_count", "memfd", "memory", "trial"):
        assert word in out
    assert all(line.split()[0] in ("ok", "note") for line in out.splitlines())
    assert well("gc") == "nothing to remove\n"


@pytest.mark.skipif(not can_mount(), reason="needs to mount a /dev/shm of its own")
@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("mount -t tmpfs -o size=64k tmpfs /dev/shm", ["BAD   /dev/shm:", "--shm-size"]),
        ("mount -t tmpfs -o ro tmpfs /dev/shm", ["BAD   semaphore:"]),
    ],
)
def test_doctor_of_a_machine_that_is_not_well(mount, words):
    """It says what would break, and its status says so; it does not fall over itself."""
    command = f"{mount} && exec {sys.executable} -m mproc_go doctor"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (1, ""), done
    for word in words:
        assert word in done.stdout
    assert "BAD   trial:" in done.stdout and "Traceback" not in done.stdout


def test_doctor_with_few_descriptors():
    """A limit that is too low for many workers."""
    command = f"ulimit -n 100 && exec {sys.executable} -m mproc_go doctor"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=90)
    assert done.returncode == 1 and "BAD   descriptors: 100" in done.stdout


def test_a_test_process_that_is_killed_leaves_no_runtime(tmp_path):
    """What watches over the runtimes of these tests ends them when nobody else can."""
    code = """
import os, signal, sys
from mproc_go.runtime.boot import start_standing
from tests.attach.guard import guarding
with guarding(sys.argv[1]):
    os_pid = start_standing("left", {"procs": 1})
    os.kill(os_pid, signal.SIGSTOP)
    print(os_pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    below = tmp_path / "below"
    (below / "run").mkdir(parents=True)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(below / "run"), "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code, str(below)], env=env, capture_output=True, text=True, timeout=90)
    assert done.returncode == -signal.SIGKILL, done
    until(lambda: not standing_below(below))
    prefix = f"sem.mproc-go.{os.getuid()}.{int(done.stdout)}."
    until(lambda: not [entry for entry in os.listdir("/dev/shm") if entry.startswith(prefix)])
