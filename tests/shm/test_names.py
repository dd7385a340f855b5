"""Whose a thing is, and whether that one is dead: told by number, start time and pid namespace, or by a lock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from mproc_go.shm import names


@pytest.fixture
def shm(tmp_path, monkeypatch):
    """A folder in the place of /dev/shm, in which no other runtime of this machine tidies up."""
    monkeypatch.setattr(names, "SHM_FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with names.Folder(make=True) as opened:
        yield opened


def entry(os_pid, started, namespace, uid=None):
    uid = os.getuid() if uid is None else uid
    return f"sem.mproc-go.{uid}.{os_pid}.{started}-{namespace}.0123456789abcdef.d0.0"


def test_who_is_dead(shm):
    """A number is another process's if that one started at another time; and says nothing in another namespace."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    us, started, namespace = os.getpid(), names.start_time(os.getpid()), names.pid_namespace()
    dead = [entry(gone.pid, started, namespace), entry(us, started - 1, namespace)]
    alive = [
        entry(us, started, namespace),
        entry(gone.pid, started, namespace + 1),
        entry(us, started - 1, namespace, os.getuid() + 1),
        "sem.mproc-go.garbage",
        f"sem.mproc-go.{os.getuid()}.x.y.z.d0.0",
        f"sem.mproc-go.{os.getuid()}.{gone.pid}.0123456789abcdef.d0.0",
        "sem.other",
        *(entry(os_pid, 1, namespace) for os_pid in (-1, 0, 1 << 31, 1 << 64, 10**100)),
    ]
    for one in dead + alive:
        (shm / one).touch()
    assert names.left_semaphores() == sorted(str(shm / one) for one in dead)
    assert sorted(names.remove_left()) == sorted(str(shm / one) for one in dead)
    assert sorted(os.listdir(shm)) == sorted(alive)


def test_only_files_are_semaphores(shm):
    """A folder or a link under such a name is nobody's that we know."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    precious = shm / "precious"
    precious.touch()
    (shm / entry(gone.pid, 1, names.pid_namespace())).symlink_to(precious)
    (shm / f"{entry(gone.pid, 2, names.pid_namespace())}").mkdir()
    assert names.remove_left() == []
    assert len(os.listdir(shm)) == 3 and precious.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user's")
def test_what_another_user_put_there_under_our_name_is_not_touched(shm):
    """He may write there, and choose his names."""
    his = shm / entry(2**22, 1, names.pid_namespace())
    his.touch()
    os.chown(his, 65534, 65534)
    assert names.remove_left() == []
    assert his.exists()


def test_a_zombie_is_dead():
    """It holds nothing any more, whoever forgot to wait for it."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = names.start_time(process.pid)
    owner = names.Owner(process.pid, started, names.pid_namespace())
    assert not owner.is_dead()
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_dead()
    process.wait()
    assert owner.is_dead()


def test_a_name_is_had_once_and_free_when_its_process_is_gone(folder):
    """The lock goes with the process, however it ends; what it left is removed by the next, or by gc."""
    code = (
        "import os, sys; from mproc_go.shm import names; f = names.Folder(); fd = f.claim('x');"
        "f.open_log('x'); print('has it', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "has it\n"
    assert folder.living() == ["x"] and folder.os_pid("x") == process.pid
    with pytest.raises(names.Taken, match="runs already"):
        folder.claim("x")
    assert folder.remove_left() == []
    process.kill()
    process.communicate()
    assert folder.living() == [] and folder.names() == ["x"]
    assert sorted(folder.remove_left()) == [f"{folder.path}/x.lock", f"{folder.path}/x.log"]
    fd = folder.claim("x")
    folder.release("x", fd)
    assert os.listdir(folder.fd) == []


def test_whoever_removes_what_is_left_takes_nothing_from_who_starts(folder):
    """gc and starts at the same time: a name is claimed by one, and its file is the one that is locked."""
    stopped = threading.Event()

    def tidy():
        while not stopped.is_set():
            with names.Folder() as other:
                other.remove_left()

    thread = threading.Thread(target=tidy)
    thread.start()
    try:
        for _ in range(300):
            try:
                fd = folder.claim("x")
            except names.Taken:  # it looked at that very moment, five times
                continue
            assert os.stat("x.lock", dir_fd=folder.fd).st_ino == os.fstat(fd).st_ino
            os.close(fd)
    finally:
        stopped.set()
        thread.join()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "_x", "x" * 65, "x\0", "x\n", "\u00e9", " x"])
def test_no_names(name):
    """What would leave its folder, hide there, or confuse a shell."""
    with pytest.raises(ValueError, match="is no name of a thing"):
        names.check_name(name, "thing")


@pytest.mark.parametrize("name", ["x", "X9", "a.b", "a-b_c", "x" * 64, "9"])
def test_names(name):
    """And what is one."""
    assert names.check_name(name, "thing") == name


def test_without_a_runtime_folder_of_the_session(monkeypatch):
    """A folder in /tmp that carries the uid; also where the variable is nonsense."""
    for value in ("", "relative", "/does/not/exist"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert names.folder_path() == f"/tmp/mproc-go-{os.getuid()}"
