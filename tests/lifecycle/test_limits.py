"""Limits of the machine: each its clear error where it is met, and nothing left or lost."""

from __future__ import annotations

import re
import resource
import sys

import pytest

from mproc_go import Chan, Runtime, SharedMemoryFull, go, num_goroutine, run
from mproc_go.shm.layout import DYNAMIC, WORD
from tests.lifecycle.support import Program, can_mount, run_code, until

MIB = 1 << 20
TABLES = DYNAMIC * WORD


def echo(v):
    return v


def until_full(step):
    """Do it until memory is full; return how often it went well."""
    n = 0
    try:
        while True:
            step()
            n += 1
    except SharedMemoryFull:
        return n


# ------------------------------------------------------------ memory=
@pytest.mark.parametrize("memory", [1, 4096, TABLES - 1])
def test_less_memory_than_a_runtime_needs(memory):
    """SharedMemoryFull at the start that says how much is needed; nothing is left."""
    with pytest.raises(SharedMemoryFull, match="memory"):
        run(lambda: 1, memory=memory)
    assert run(lambda: 1, procs=1) == 1


@pytest.mark.parametrize("memory", [TABLES, TABLES + 4096, TABLES + 65536])
def test_memory_for_nothing_but_the_tables(memory):
    """Either the start or the first thing that needs memory says SharedMemoryFull."""

    def use():
        with Runtime(1, memory=memory):
            return [Chan(1) for _ in range(100_000)]

    with pytest.raises(SharedMemoryFull):
        use()


@pytest.mark.parametrize("capacity", [0, 2])
def test_message_that_does_not_fit(capacity):
    """SharedMemoryFull in the sender; the channel is as it was, and the runtime can be used, also for long messages."""
    with Runtime(1, memory=TABLES + 16 * MIB):
        ch = Chan(capacity)
        for _ in range(3):
            for call in (ch.send, ch.send_nowait, lambda v: go(ch.send, v), lambda v: go(echo, v)):
                with pytest.raises(SharedMemoryFull, match="memory="):
                    call(b"x" * (40 * MIB))
            assert len(ch) == 0
        for _ in range(20):
            h = go(ch.send, b"y" * (2 * MIB))
            assert len(ch.recv()) == 2 * MIB
            h.result()
        assert num_goroutine() == 1


def test_full_of_messages():
    """A program that sends more than there is room for: SharedMemoryFull, then room again once some were received."""
    with Runtime(1, memory=TABLES + 16 * MIB):
        ch = Chan(10_000)
        n = until_full(lambda: ch.send(b"x" * 500_000))
        assert len(ch) == n > 10
        with pytest.raises(SharedMemoryFull):
            ch.send_nowait(b"x" * 500_000)
        assert len(ch) == n
        for _ in range(3):
            assert len(ch.recv()) == 500_000
            ch.send(b"x" * 500_000)
        assert len(ch) == n
        ch.close()
        assert sum(len(v) for v in ch) == n * 500_000


@pytest.mark.parametrize("size", [10, 300, 3000])
def test_full_of_small_messages(size):
    """Short messages, too, and the memory they had can be used again."""
    with Runtime(1, memory=TABLES + 6 * MIB):
        assert go(echo, 1).result() == 1  # memory that channels had is theirs for good: this would find none later
        for _ in range(3):
            chans = []

            def fill(chans=chans):
                chans.append(Chan(4))
                for _ in range(4):
                    chans[-1].send(b"x" * size)

            until_full(fill)
            assert len(chans) > 100
            assert len(chans[0].recv()) == size
            chans.clear()
        assert go(echo, 1).result() == 1


def test_too_many_goroutines():
    """go says SharedMemoryFull where there is no room for one more; those that were started run."""
    with Runtime(1, memory=TABLES + 3 * MIB):
        assert go(echo, 1).result() == 1
        gate = Chan()
        n = until_full(lambda: go(gate.recv_ok))
        assert n > 1000
        assert num_goroutine() == n + 1
        gate.close()
        until(lambda: num_goroutine() == 1)
        assert go(echo, 1).result() == 1


def test_result_that_does_not_fit():
    """A goroutine whose result has no room: its handle raises SharedMemoryFull."""
    with Runtime(1, memory=TABLES + 16 * MIB):
        h = go(bytes, 40 * MIB)
        assert type(h.exception(30)) is SharedMemoryFull
        assert go(echo, 1).result() == 1


def test_capacity_that_does_not_fit():
    """A buffer that has no room: SharedMemoryFull, and a smaller one can be made."""
    with Runtime(1, memory=TABLES + 16 * MIB):
        for _ in range(50):
            with pytest.raises(SharedMemoryFull, match="memory="):
                Chan(10**6)
            assert Chan(10**5).capacity == 10**5


def test_panic_without_memory(tmp_path):
    """A panic ends the program also when there is no memory left to say why."""
    code = f"""
from mproc_go import *
def fail(gate):
    gate.recv()
    raise ValueError("x" * 1000)
def main():
    gate = Chan()
    for _ in range(3):
        go(fail, gate)
    held = []
    for text in ("x" * 5000, "x" * 1000, "x" * 300, "x" * 100, ""):
        try:
            while True:
                ch = Chan(1)
                ch.send(text)
                held.append(ch)
        except SharedMemoryFull:
            pass
    gate.send(1)
    sleep(30)
run(main, procs=1, memory={TABLES + 4 * MIB})
"""
    outcome = run_code(tmp_path, code)
    assert outcome.status == 1, outcome
    assert "GoroutinePanic" in outcome.err and "ValueError" in outcome.err, outcome


# ------------------------------------------------------------ /dev/shm
SIMPLE = """
from mproc_go import *
try:
    print(run(lambda: go(len, "abc").result(), procs=1))
except (SharedMemoryFull, OSError) as e:
    print(type(e).__name__, e)
"""
NAMES = """
import os
print(sorted(n for n in os.listdir("/dev/shm") if "mproc" in n))
"""

needs_unshare = pytest.mark.skipif(not can_mount(), reason="needs root and unshare(1) for a small /dev/shm")


def in_small_shm(tmp_path, mount, code=SIMPLE):
    script = tmp_path / "script.py"
    script.write_text(code + NAMES)
    command = f"{mount} && exec {sys.executable} {script}"
    with Program(["unshare", "-m", "sh", "-c", command]) as program:
        return program.end()


@needs_unshare
@pytest.mark.parametrize("size", ["16k", "64k", "256k", "512k"])
def test_full_dev_shm(tmp_path, size):
    """A /dev/shm without room for the semaphores: one clear SharedMemoryFull, and nothing is left there."""
    outcome = in_small_shm(tmp_path, f"mount -t tmpfs -o size={size} none /dev/shm")
    assert (outcome.status, outcome.err) == (0, ""), outcome
    first, second = outcome.out.splitlines()
    assert second == "[]", outcome
    assert re.match(r"SharedMemoryFull .*/dev/shm", first) or first == "3", outcome
    if size in ("16k", "64k"):
        assert first != "3", outcome


@needs_unshare
def test_dev_shm_of_docker(tmp_path):
    """64 MB, what a container has, is enough, and long messages don't need it."""
    code = SIMPLE.replace('len, "abc"', "len, b'x' * 100_000_000")
    outcome = in_small_shm(tmp_path, "mount -t tmpfs -o size=64m none /dev/shm", code)
    assert outcome.out == "100000000\n[]\n", outcome


@needs_unshare
def test_few_inodes_in_dev_shm(tmp_path):
    """No inode left is the same limit."""
    outcome = in_small_shm(tmp_path, "mount -t tmpfs -o size=64m,nr_inodes=50 none /dev/shm")
    assert outcome.status == 0, outcome
    assert outcome.out.startswith("SharedMemoryFull") and outcome.out.endswith("[]\n"), outcome


@needs_unshare
def test_read_only_dev_shm(tmp_path):
    """A /dev/shm nobody may write to: a clear error that names it."""
    outcome = in_small_shm(tmp_path, "mount -t tmpfs -o ro none /dev/shm")
    assert outcome.status == 0, outcome
    assert re.match(r"(SharedMemoryFull|\w*Error) .*", outcome.out) and outcome.err == "", outcome


# ------------------------------------------------------------ ulimit
def limited(tmp_path, limits, code=SIMPLE):
    body = "import resource\n" + "".join(
        f"resource.setrlimit(resource.{name}, ({value}, {value}))\n" for name, value in limits.items()
    )
    return run_code(tmp_path, body + code)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 32])
def test_few_descriptors(tmp_path, n):
    """With hardly any descriptors: an OSError that names the limit, or it works; no hang, nothing left."""
    # What is checked first is whether Python itself can import with so few.
    code = "from mproc_go import run, go, SharedMemoryFull, Runtime\nRuntime\n" + SIMPLE
    outcome = limited(tmp_path, {"RLIMIT_NOFILE": n}, code)
    if outcome.status == 1:
        assert "Too many open files" in outcome.err, outcome
    else:
        assert outcome.status == 0, outcome
        assert outcome.out == "3\n" or re.search(
            "descriptor|open files|files open|see its message above", outcome.out
        ), outcome


@pytest.mark.parametrize("mib", [300, 600, 1200, 2500, 5000])
def test_little_address_space(tmp_path, mib):
    """ulimit -v: it works within it, or says clearly what is missing."""
    outcome = limited(tmp_path, {"RLIMIT_AS": mib * MIB})
    assert outcome.status == 0, outcome
    assert outcome.err == "" or "Error" in outcome.err or "Full" in outcome.err, outcome
    first = outcome.out.splitlines()[0]
    assert first == "3" or "Full" in first or "Error" in first, outcome


def test_no_more_processes(tmp_path):
    """A limit on processes: an error or it works, and no hang. (root has no such limit: then it works.)"""
    outcome = limited(tmp_path, {"RLIMIT_NPROC": 1})
    assert outcome.status == 0, outcome


def test_small_files_only(tmp_path):
    """ulimit -f: the segment is a file; a clear error, no signal."""
    outcome = limited(tmp_path, {"RLIMIT_FSIZE": MIB})
    assert outcome.status == 0, outcome
    assert "Full" in outcome.out or "Error" in outcome.out or outcome.out.startswith("3\n"), outcome


def test_no_core_files_needed():
    """The limits of the test process itself are as before (children only were limited)."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 50


def test_interpreter_that_is_gone(tmp_path):
    """sys.executable empty or wrong: an OSError, nothing started."""
    for value in ("''", "None", "'/no/such/python'"):
        code = f"import sys\nsys.executable = {value}\n" + SIMPLE
        outcome = run_code(tmp_path, code)
        assert outcome.status == 0, outcome
        assert re.match(r"\w*Error|OSError", outcome.out), outcome


def test_supervisor_that_can_not_start(tmp_path):
    """Where the supervisor fails to import what it needs: an OSError in the caller, its own message on stderr."""
    code = SIMPLE.replace("try:\n", "import sys\nRuntime, sleep, queue\nsys.path[:] = ['/nowhere']\ntry:\n").replace(
        "from mproc_go import *", "import queue\nfrom mproc_go import *"
    )
    outcome = run_code(tmp_path, code)
    assert outcome.status == 0, outcome
    assert outcome.out.startswith("OSError") and "message" in outcome.out, outcome
    assert "ModuleNotFoundError" in outcome.err, outcome
