"""A program joins a runtime it did not start, uses it, and leaves; and what each sees of the other's end."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
import threading
import time

import psutil
import pytest

from mproc_go import (
    Chan,
    GoroutinePanic,
    Mutex,
    NotRunning,
    Runtime,
    Timer,
    WaitGroup,
    after_func,
    attach,
    context,
    go,
    num_goroutine,
    select,
    stats,
)
from mproc_go.runtime import attach as joining
from mproc_go.shm import names
from mproc_go.supervisor import control
from tests.attach.support import DEADLINE_S, ask_raw, raw, until
from tests.lifecycle.support import Program


def double(x):
    return 2 * x


def everything(name):
    """A bit of everything; returns what can be checked."""
    ch, quit_ = Chan(2, name=name), Chan()
    wg, mutex = WaitGroup(), Mutex()
    for i in range(8):
        wg.go(double, i)
    wg.wait()
    with mutex:
        ch.send((1, "two", [3.0]))
    got = select(quit_.recv, ch.recv)
    late = Timer(0.001).c.recv(DEADLINE_S)
    ctx, cancel = context.with_cancel(context.background())
    cancel()
    ctx.done().recv_ok()
    return got.value, [go(double, i).result(DEADLINE_S) for i in range(3)], late is not None, str(ctx.err())


def test_what_it_set_comes_although_it_left(standing):
    """Timers, calls and deadlines of a program that is gone."""
    standing()
    with attach("one"):
        out = Chan(4, name="fires")
        out.send(Timer(0.05).c)
        out.send(context.with_timeout(context.background(), 0.05)[0])
        after_func(0.05, out.send, "called")
        out.send("last")
    with attach("one"):
        out = Chan(4, name="fires")
        got = [out.recv(DEADLINE_S) for _ in range(4)]
        assert "called" in got and "last" in got
        timer, ctx = (v for v in got if not isinstance(v, str))
        timer.recv(DEADLINE_S)
        ctx.done().recv_ok(DEADLINE_S)
        assert isinstance(ctx.err(), context.DeadlineExceeded)


def test_everything_works_from_a_program_that_joined(standing):
    """Goroutines, named channels, select, locks, timers and contexts, for one program after the other."""
    standing()
    for _ in range(2):
        with attach("one") as here:
            assert here.name == "one" and "one" in repr(here)
            assert everything("everything") == ((1, "two", [3.0]), [0, 2, 4], True, "context canceled")
        assert "closed" in repr(here)


def test_leaving_leaves_the_runtime_and_what_runs_in_it(standing):
    """What the program started runs on; what it had is dropped: nothing piles up however many come and go."""
    one = standing()
    with attach("one"):
        out, gate = Chan(64, name="out"), Chan(name="gate")
        go(lambda: (gate.recv(), out.send("ran on")))
        until(lambda: stats()["goroutines_by_state"].get("chan receive"))
    assert one.stats()["clients"] == 0
    with attach("one"):
        Chan(name="gate").send(None)
        assert Chan(64, name="out").recv(DEADLINE_S) == "ran on"
    first = None
    for i in range(30):
        with attach("one"):
            kept = [Chan(3), Mutex(), go(double, i)]
            kept[0].send([kept[1]])
            kept[2].result(DEADLINE_S)
            first = first or stats()
    until(lambda: one.stats()["goroutines"] == 0)
    last = one.stats()
    assert last["clients"] == 0
    assert last["memory_bytes"] <= first["memory_bytes"] + (1 << 18)
    until(lambda: sum(one.stats()["objects"].values()) <= sum(first["objects"].values()))


TALK = """
import sys
from mproc_go import Chan, attach, go

def answer(requests, replies, who):
    for number in requests:
        replies.send((number, who))

with attach("one"):
    requests, replies = Chan(name="requests"), Chan(name="replies")
    args = requests, replies, sys.argv[1]
    go(answer, *args).result() if sys.argv[2] == "far" else answer(*args)
    print("closed")
"""


@pytest.mark.parametrize("where", ["here", "far"])
def test_programs_talk_over_a_named_channel(standing, tmp_path, where):
    """Two programs answer, themselves or in goroutines of the runtime, what a third one asks."""
    one = standing()
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    programs = [Program([sys.executable, script, who, where]) for who in ("a", "b")]
    with programs[0], programs[1], attach("one"):
        requests, replies = Chan(name="requests"), Chan(name="replies")
        asking = go(requests.send_many, range(200))
        got = [replies.recv(DEADLINE_S) for _ in range(200)]
        asking.result(DEADLINE_S)
        assert sorted(number for number, _ in got) == list(range(200))
        requests.close()
        for program in programs:
            out, err = program.popen.communicate(timeout=DEADLINE_S)
            assert (out, err, program.popen.returncode) == ("closed\n", "", 0)
    assert one.stats()["clients"] == 0


HELPER = "class Thing:\n    def __init__(self): self.n = {n}\ndef helped(thing): return thing.n + {n}\n"


def test_modules_that_the_runtime_has_not_travel_by_value(standing, tmp_path, monkeypatch):
    """The workers' folders are not the program's: also where they have a module of the same name with other code."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder, n in ((theirs, 100), (ours, 1)):
        folder.mkdir()
        (folder / "same_name.py").write_text(HELPER.format(n=n))
    (ours / "only_ours.py").write_text(HELPER.format(n=7))
    monkeypatch.syspath_prepend(str(theirs))
    standing()
    monkeypatch.syspath_prepend(str(ours))
    import only_ours
    import same_name

    try:
        with attach("one"):
            assert go(only_ours.helped, only_ours.Thing()).result(DEADLINE_S) == 14
            assert go(same_name.helped, same_name.Thing()).result(DEADLINE_S) == 2
            assert go(pathlib.PurePath, "a").result(DEADLINE_S) == pathlib.PurePath("a")
    finally:
        del sys.modules["only_ours"], sys.modules["same_name"]


def test_names_and_wrong_calls(standing):
    """Each mistake has its error, and says what to do."""
    for bad in ("", ".hidden", "a/b", "..", "x" * 65, "a b", "a\n", "é"):
        with pytest.raises(ValueError, match="is no name of a runtime"):
            attach(bad)
        with pytest.raises(ValueError, match="is no name of a runtime"):
            Runtime(name=bad)
    with pytest.raises(TypeError, match="not int"):
        attach(3)
    with pytest.raises(NotRunning, match=r"none does.*mproc-go start two"):
        attach("two")
    standing("one")
    with pytest.raises(NotRunning, match="no runtime named 'two' runs: running are one"):
        attach("two")
    with pytest.raises(RuntimeError, match="runs already"):
        Runtime(name="one").start()
    with attach("one"):
        with pytest.raises(RuntimeError, match="has a runtime already"):
            attach("one")
        with pytest.raises(RuntimeError, match="run inside run"):
            Runtime().start()
        with pytest.raises(RuntimeError, match="has a runtime already"):
            go(attach, "one").result(DEADLINE_S)
    with Runtime(2):
        with pytest.raises(RuntimeError, match="close that one first"):
            attach("one")


def test_of_many_that_start_one_name_one_does(standing):
    """However they race, and the others are told."""
    results = []

    def start():
        try:
            results.append(standing("one"))
        except RuntimeError as error:
            results.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(isinstance(result, str) for result in results) == [False, True, True, True]
    assert all("runs already" in result for result in results if isinstance(result, str))
    with attach("one"):
        assert go(double, 2).result(DEADLINE_S) == 4


@pytest.mark.parametrize(("what", "value"), [("layout", 10_000), ("python", "2.7")])
def test_another_version_is_told_so(standing, monkeypatch, what, value):
    """Nobody maps memory it would misread."""
    one = standing()
    with monkeypatch.context() as patch:
        patch.setattr(control, "versions", lambda ours=control.versions(): {**ours, what: value})
        with pytest.raises(RuntimeError, match=f"runtime 'one' was started by .*has .*{value}"):
            attach("one")
    assert one.stats()["clients"] == 0


def test_threads_of_a_program_that_leaves_are_told(standing):
    """They wait in a call, or come again with a handle: NotRunning; the slots they had are free."""
    one = standing()
    failed = []

    def waits(ch):
        for _ in range(2):
            try:
                ch.recv()
            except Exception as error:
                failed.append(error)

    with attach("one"):
        channels = [Chan(), Chan(name="kept")]
        threads = [threading.Thread(target=waits, args=(ch,)) for ch in channels]
        for thread in threads:
            thread.start()
        until(lambda: one.stats()["goroutines_by_state"].get("chan receive") == 2)
        Timer(1000)
        assert one.stats()["clients"] == 4
    for thread in threads:
        thread.join(DEADLINE_S)
    assert [type(error) for error in failed] == [NotRunning] * 4
    assert all("left runtime 'one'" in str(error) or "is over here" in str(error) for error in failed)
    with pytest.raises(NotRunning):
        channels[1].send(1)
    assert one.stats()["clients"] == 0
    with attach("one"):
        sending = go(Chan(name="kept").send, 1)
        assert Chan(name="kept").recv(DEADLINE_S) == 1
        sending.result(DEADLINE_S)


def test_a_thread_that_hammers_a_channel_while_the_program_leaves(standing):
    """Whatever it is doing at that moment, nothing stays locked or half done."""
    one = standing()
    for _ in range(5):
        stopped = []

        def hammer(ch, stopped=stopped):
            try:
                while True:
                    ch.send([1, "x" * 100])
                    ch.recv()
            except NotRunning as error:
                stopped.append(error)

        here = attach("one")
        threads = [threading.Thread(target=hammer, args=(Chan(4, name=f"h{i}"),)) for i in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: one.stats()["clients"] == 3)
        here.close()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert len(stopped) == 2
        with attach("one"):
            for i in range(2):
                ch = Chan(4, name=f"h{i}")
                while len(ch):
                    assert ch.recv(DEADLINE_S) == [1, "x" * 100]
                ch.send("still works")
                assert ch.recv(DEADLINE_S) == "still works"
        assert one.stats()["clients"] == 0


def test_a_runtime_that_is_stopped_says_which(standing):
    """A call that waits, and the next one."""
    one = standing()
    failed = []

    def waits(ch):
        with pytest.raises(NotRunning) as caught:
            ch.recv()
        failed.append(str(caught.value))

    with attach("one"):
        ch = Chan()
        thread = threading.Thread(target=waits, args=(ch,))
        thread.start()
        until(lambda: one.stats()["goroutines_by_state"].get("chan receive"))
        one.stop()
        thread.join(DEADLINE_S)
        assert failed == ["runtime 'one' was closed while it was used here"]
        with pytest.raises(NotRunning, match="runtime 'one'"):
            ch.send_nowait(1)
        with pytest.raises(NotRunning, match="runtime 'one'"):
            go(double, 1)
    assert not os.listdir(names.folder_path()) and not [s for s in os.listdir("/dev/shm") if s.startswith(one.prefix)]
    standing()
    with attach("one"):
        assert go(double, 2).result(DEADLINE_S) == 4


def test_a_supervisor_that_is_killed_says_which(standing):
    """Programs that are attached go on with NotRunning, and the next start finds the name free and removes the rest."""
    one = standing()
    with attach("one"):
        ch = Chan()
        workers = [psutil.Process(m["os_pid"]) for m in stats()["ms"]]
        threading.Timer(0.05, os.kill, (one.os_pid, signal.SIGKILL)).start()
        with pytest.raises(NotRunning, match="supervisor of runtime 'one' died"):
            ch.recv()
        with pytest.raises(NotRunning):
            ch.recv(1)
    one.wait()
    until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))
    with pytest.raises(NotRunning, match="none does"):
        attach("one")
    two = standing()
    assert not [s for s in os.listdir("/dev/shm") if s.startswith(one.prefix)]
    with attach("one"):
        assert everything("again")[1] == [0, 2, 4]
    assert two.stats()["clients"] == 0


OWNER = """
import sys, time
from mproc_go import Chan, Runtime, go
with Runtime(2, name="owned"):
    ch = Chan(3, name="ch")
    ch.send("from the owner")
    print("ready", flush=True)
    Chan(name="end").recv()
"""


@pytest.mark.parametrize("how", ["returns", "is killed"])
def test_a_program_lets_others_join_its_runtime(tmp_path, how):
    """Runtime(name=...): others come in as long as it runs; then they are told."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    with Program([sys.executable, script]) as owner:
        owner.until_line("ready")
        with attach("owned"):
            assert Chan(3, name="ch").recv(DEADLINE_S) == "from the owner"
            assert num_goroutine() == 2
            assert go(double, 4).result(DEADLINE_S) == 8
            time.sleep(0.1)  # no deadlock is reported meanwhile: both wait, and anybody may come
            if how == "returns":
                Chan(name="end").send(None)
            else:
                owner.popen.kill()
            with pytest.raises(NotRunning, match="runtime 'owned'"):
                Chan(name="never").recv(DEADLINE_S)
        assert owner.end().err == ""
    until(lambda: not os.listdir(names.folder_path()))  # its supervisor may need a moment longer


def fails():
    raise ValueError("nobody waits for this")


def test_a_panic_is_written_to_the_log_and_the_runtime_goes_on(standing):
    """If it was started so; nobody who is attached is the one to be told."""
    one = standing(on_panic="log")
    with names.Folder() as folder:
        log = pathlib.Path(folder.log_path("one"))
    with attach("one"):
        go(fails)
        until(lambda: "nobody waits for this" in log.read_text())
        assert go(double, 1).result(DEADLINE_S) == 2
    assert log.stat().st_mode & 0o077 == 0
    one.stop()
    assert not log.exists()


def test_a_panic_ends_a_runtime_as_in_go(standing):
    """on_panic="end": everybody who is attached is told, and the log keeps what was written."""
    one = standing(on_panic="end")
    with pytest.raises(GoroutinePanic, match="nobody waits for this"):
        with attach("one"):
            go(fails)
            Chan().recv(DEADLINE_S)
    one.wait()
    assert os.listdir(names.folder_path()) == ["one.log"]
    with names.Folder() as folder:
        assert folder.remove_left() == [folder.log_path("one")]


def test_a_fork_of_a_program_that_joined(standing):
    """The child is not attached and can't use the handles; the parent is none the wiser."""
    standing()
    with attach("one") as here:
        ch = Chan(1)
        child = os.fork()
        if not child:
            status = 1
            try:
                ch.send(1)
            except NotRunning:
                here.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        ch.send(2)
        assert ch.recv(DEADLINE_S) == 2


def test_there_is_room_for_so_many(standing):
    """More programs than slots: a clear error, and the next one comes in when one has left."""
    one = standing()
    room = one.stats()
    with raw("one") as first:
        assert ask_raw(first, do="attach", **control.versions())["client"] > 0
    # That connection is gone and did not detach, so its process keeps the slot.
    assert one.stats()["clients"] == 1 and room["clients"] == 0
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(raw("one")) for _ in range(63)]
        for sock in socks:
            assert ask_raw(sock, do="attach", **control.versions())["client"] > 0
        with pytest.raises(NotRunning, match="64 threads use runtime 'one' already"):
            attach("one")
        assert ask_raw(socks[0], do="detach") == {"ok": True}
        with attach("one"):
            assert go(double, 3).result(DEADLINE_S) == 6
        for sock in socks[1:]:
            assert ask_raw(sock, do="detach") == {"ok": True}
    with attach("one"):
        assert one.stats()["clients"] == 2


def test_joining_that_fails_halfway_keeps_no_place(standing, monkeypatch):
    """However often it is tried."""
    one = standing()

    def fails(*_):
        raise OSError("no such semaphore")

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(joining, "Doors", fails)
            with pytest.raises(NotRunning, match="is gone from /dev/shm.*RemoveIPC"):
                attach("one")
        until(lambda: one.stats()["clients"] == 0)
    with attach("one"):
        assert go(double, 3).result(DEADLINE_S) == 6


def test_somebody_else_stops_the_runtime_of_a_program(tmp_path):
    """`mproc-go stop` ends it for its owner too, who is told."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    with Program([sys.executable, script]) as owner:
        owner.until_line("ready")
        joining.ask("owned", "stop")
        outcome = owner.end()
        assert outcome.status == 1 and "NotRunning: runtime 'owned' was closed" in outcome.err
    until(lambda: not os.listdir(names.folder_path()))


def test_sigterm_ends_a_standing_runtime(standing):
    """As a service manager or `kill` ends it: nothing is left."""
    one = standing()
    with attach("one"):
        os.kill(one.os_pid, signal.SIGTERM)
        with pytest.raises(NotRunning):
            Chan().recv(DEADLINE_S)
    one.wait()
    assert not os.listdir(names.folder_path()) and not [s for s in os.listdir("/dev/shm") if s.startswith(one.prefix)]


