"""stacks(): every goroutine of every process, with state, wait reason, Python stack and who made it, in Go's form."""

from __future__ import annotations

import re
import threading
import time

import pytest

from mproc_go import Chan, Runtime, go, gosched, sleep, stacks
from tests.scheduler.support import DEADLINE_S, add_one, compute, in_state, spin_until_file, until


@pytest.fixture(params=[1, 2])
def runtime(request):
    with Runtime(request.param) as started:
        started.procs = request.param
        yield started


def entries(text):
    """Goroutine number -> (state, the rest)."""
    found = {}
    for entry in text.strip().split("\n\n"):
        header, _, rest = entry.partition("\n")
        match = re.fullmatch(r"goroutine (\d+) \[([^\]]+)\]:", header)
        assert match, header
        found[int(match[1])] = match[2], rest
    return found


def outermost(ch):
    in_the_middle(ch)


def in_the_middle(ch):
    return ch.recv()


def test_a_waiting_goroutine_of_another_process(runtime):
    """Its user's frames from the outermost to the call of the library, none of ours."""
    ch = Chan()
    handle = go(outermost, ch)
    until(lambda: in_state("chan receive"))
    state, rest = entries(stacks())[handle.id]
    assert state == "chan receive"
    assert re.fullmatch(
        r'  File ".*test_stacks\.py", line \d+, in outermost\n    in_the_middle\(ch\)\n'
        r'  File ".*test_stacks\.py", line \d+, in in_the_middle\n    return ch\.recv\(\)\n'
        r"created by goroutine 1",
        rest,
    ), rest
    ch.send(1)
    handle.result(DEADLINE_S)


def parent(ch, tell):
    tell.send(go(outermost, ch).id)
    ch.recv()


def test_who_made_whom(runtime):
    """A goroutine that another one started names it."""
    ch, tell = Chan(), Chan()
    mother = go(parent, ch, tell)
    child = tell.recv(DEADLINE_S)
    until(lambda: in_state("chan receive", 2))
    found = entries(stacks())
    assert found[child][1].endswith(f"created by goroutine {mother.id}")
    assert found[mother.id][1].endswith("created by goroutine 1")
    assert "created by" not in found[1][1]
    for _ in range(2):
        ch.send(1)
    mother.result(DEADLINE_S)


def test_goroutine_1_and_threads_of_the_program(runtime):
    """The caller is running, with the stack it calls from; another thread is a goroutine too, which waits or runs."""
    ch = Chan()
    thread = threading.Thread(target=ch.recv)
    thread.start()
    until(lambda: in_state("chan receive"))
    found = entries(stacks())
    assert found[1][0] == "running"
    assert "test_goroutine_1_and_threads_of_the_program" in found[1][1]
    assert [state for number, (state, _) in found.items() if number != 1] == ["chan receive"]
    ch.send(1)
    thread.join()


def test_called_in_a_goroutine(runtime):
    """The one that asks shows its own stack as running."""
    handle = go(ask_for_stacks)
    found = entries(handle.result(DEADLINE_S))
    assert found[handle.id][0] == "running"
    assert "in ask_for_stacks" in found[handle.id][1]
    assert 1 in found


def ask_for_stacks():
    return stacks()


def test_not_started_yet(runtime, tmp_path):
    """What waits in a queue has no stack."""
    gate = str(tmp_path / "gate")
    hogs = [go(spin_until_file, gate) for _ in range(runtime.procs)]
    until(lambda: in_state("running", runtime.procs + 1))
    queued = go(add_one, 1)
    state, rest = entries(stacks())[queued.id]
    assert (state, rest) == ("runnable", "  not started yet\ncreated by goroutine 1")
    open(gate, "w").close()
    for handle in (*hogs, queued):
        handle.result(DEADLINE_S)


def test_a_worker_that_computes(runtime, tmp_path):
    """It does not come to its bell: shown as running, by process and M, within a second or so; the others with stacks."""
    gate = str(tmp_path / "gate")
    hog = go(spin_until_file, gate)
    until(lambda: in_state("running", 2))
    start = time.monotonic()
    state, rest = entries(stacks())[hog.id]
    assert time.monotonic() - start < 10
    assert state == "running"
    assert re.match(r"  in process \d+ \(M\d+\)\n", rest)
    open(gate, "w").close()
    hog.result(DEADLINE_S)
    assert hog.id not in entries(stacks())


def test_reasons_have_gos_words(runtime):
    """Each kind of wait."""
    ch, never = Chan(), Chan()
    handles = {
        "chan receive": go(ch.recv),
        "chan send": go(never.send, 1),
        "sleep": go(sleep, 1.0),
    }
    handles["goroutine result"] = go(handles["sleep"].result)
    until(lambda: all(in_state(state) for state in handles))
    found = entries(stacks())
    assert {state: found[handle.id][0] for state, handle in handles.items()} == {state: state for state in handles}
    ch.send(1)
    never.recv()
    for handle in handles.values():
        handle.result(DEADLINE_S)


def test_many_ask_at_once(runtime):
    """From goroutines and threads, while others come and go: every text is whole."""
    texts, lock = [], threading.Lock()

    def ask():
        for _ in range(5):
            text = stacks()
            with lock:
                texts.append(text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    handles = [go(ask_for_stacks) for _ in range(5)]
    work = [go(compute, 0.005) for _ in range(20)]
    for handle in (*handles, *work):
        handle.result(DEADLINE_S)
    for thread in threads:
        thread.join()
    for text in texts:
        assert entries(text)[1]


def test_thousands(runtime):
    """All of them are listed, once."""
    ch = Chan()
    handles = [go(ch.recv) for _ in range(1000)]
    until(lambda: in_state("chan receive", 1000))
    found = entries(stacks())
    assert {handle.id for handle in handles} < found.keys()
    ch.close()
    for handle in handles:
        handle.exception(DEADLINE_S)
    gosched()
