"""Programs that do what they should not in a goroutine: the runtime goes on, or says clearly why it does not."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from mproc_go import (
    Chan,
    GoroutinePanic,
    Mutex,
    NotRunning,
    Runtime,
    SharedMemoryFull,
    WorkerLost,
    WouldBlock,
    go,
    gosched,
    num_goroutine,
    sleep,
    stats,
)
from tests.lifecycle.support import run_code
from tests.scheduler.support import DEADLINE_S, add_one, in_state, pid, until

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def runtime():
    """A runtime that must be as good as new afterwards."""
    with Runtime(2) as started:
        yield started
        assert [go(add_one, i).result(DEADLINE_S) for i in range(50)] == list(range(1, 51))
        ch = Chan()
        handle = go(ch.recv)
        ch.send("still there", DEADLINE_S)
        assert handle.result(DEADLINE_S) == "still there"
        until(lambda: num_goroutine() == 1, "all goroutines over")


# ---------------------------------------------------------------- forks
def fork(fn, *args):
    """Status of a child that calls the function, and returns from the goroutine."""
    child = os.fork()
    if not child:
        fn(*args)
        return None
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tell(path, call):
    """Write down what a call of the library says in the child."""
    try:
        call()
        text = "it worked"
    except NotRunning as error:
        text = str(error)
    with open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")


def test_a_fork_that_returns(runtime):
    """The goroutine ends once, in the parent; the child ends with status 0."""
    assert [go(fork, len, "").result(DEADLINE_S) for _ in range(20)] == [0] * 20


def test_a_fork_that_fails_or_exits(runtime):
    """Its status is its own."""
    assert go(fork, sys.exit, 7).result(DEADLINE_S) == 7
    assert go(fork, int, "x").result(DEADLINE_S) == 1


def test_calls_in_a_fork(runtime, tmp_path):
    """Every one says that this is a fork."""
    path, ch = str(tmp_path / "said"), Chan(4)
    calls = [lambda: ch.send(1), ch.recv, lambda: go(len, ""), lambda: sleep(1), Chan, num_goroutine]
    for call in calls:
        assert go(fork, tell, path, call).result(DEADLINE_S) == 0
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert len(lines) == len(calls) and all("fork" in line or "over here" in line for line in lines), lines
    assert len(ch) == 0


def double(x):
    return 2 * x


def pools(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(double, range(20)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_in_a_goroutine(runtime, method):
    """The standard library's processes work."""
    assert go(pools, method).result(60) == [2 * x for x in range(20)]


def test_subprocess_in_a_goroutine(runtime):
    """So do subprocesses."""
    command = [sys.executable, "-c", "print(6 * 7)"]
    assert go(subprocess.check_output, command).result(DEADLINE_S) == b"42\n"


def test_a_fork_of_the_program():
    """It is told so too, and its end ends nothing."""
    with Runtime(2):
        ch = Chan(1)
        child = os.fork()
        if not child:
            status = 1
            try:
                ch.send(1)
            except NotRunning as error:
                status = 0 if "over here" in str(error) or "fork" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert go(add_one, 1).result(DEADLINE_S) == 2 and len(ch) == 0


# ---------------------------------------------------------------- ends
def exits(how, value):
    if how == "os._exit":
        os._exit(value)
    if how == "SystemExit":
        raise SystemExit(value)
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["SystemExit", "KeyboardInterrupt"])
def test_ends_of_programs_are_exceptions(runtime, how):
    """They end the goroutine, not the worker, and come out of its handle."""
    before = go(pid).result(DEADLINE_S)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        go(exits, how, 3).result(DEADLINE_S)
    assert caught.typename == how
    assert before in {m["os_pid"] for m in stats()["ms"]}


@pytest.mark.parametrize("status", [0, 1, 77])
def test_exits_its_worker(runtime, status):
    """It is a death of the worker, whatever the status."""
    with pytest.raises(WorkerLost, match=f"exited with status {status}"):
        go(exits, "os._exit", status).result(DEADLINE_S)


# ---------------------------------------------------------------- finalizers, recursion
class Bad:
    """Its end is none."""

    def __init__(self, ch):
        self.ch = ch

    def __del__(self):
        self.ch.send_nowait("from a finalizer")
        raise ValueError("in __del__")


def leaves_bad_objects(ch, n):
    for _ in range(n):
        bad = Bad(ch)
        bad.me = bad
    return n


def leaves_and_collects(ch, n):
    """In the worker whose garbage it is: another goroutine may be in any."""
    left = leaves_bad_objects(ch, n)
    gc.collect()
    return left


def test_finalizers_that_send_and_raise(runtime):
    """They are told on stderr by Python, and that is all."""
    ch = Chan(1000)
    assert go(leaves_and_collects, ch, 300).result(DEADLINE_S) == 300
    assert len(ch) == 300, "all finalizers ran"


class Busy:
    """Its end uses whatever there is; what would have to wait says so."""

    def __init__(self, log, mutex, n):
        self.log, self.mutex, self.n, self.me = log, mutex, n, self

    def __del__(self):
        try:
            if self.n % 3 == 0:
                self.log.send(self.n, 0.001)
            else:
                self.log.send_nowait(self.n)
            if self.n % 5 == 0 and self.mutex.try_lock():
                self.mutex.unlock()
            if self.n % 7 == 0:
                gosched()
        except (WouldBlock, TimeoutError, RuntimeError):
            pass


def collected_all_the_time(log, mutex, ch, out, first):
    """The collector runs wherever it can, and with it finalizers: in the middle of calls, too."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for i in range(first, first + 60):
            Busy(log, mutex, i)
            ch.send(i)
            out.send(ch.recv())
            gosched()
    finally:
        gc.set_threshold(*before)


def test_finalizers_in_the_middle_of_calls():
    """What they do is done once or not at all; nobody else's message or lock is lost, and nobody hangs."""
    with Runtime(2):
        log, mutex, ch, out = Chan(8), Mutex(), Chan(4), Chan(1)
        collected = []
        reader = threading.Thread(target=lambda: collected.extend(out))
        reader.start()
        logged = go(list, log)
        handles = [go(collected_all_the_time, log, mutex, ch, out, 1000 * k) for k in range(3)]
        collected_all_the_time(log, mutex, ch, out, 3000)
        for handle in handles:
            handle.result(DEADLINE_S)
        assert not len(ch)
        out.close()
        log.close()
        reader.join(DEADLINE_S)
        assert sorted(collected) == [1000 * k + i for k in range(4) for i in range(60)]
        seen = logged.result(DEADLINE_S)
        assert len(set(seen)) == len(seen) and set(seen) <= set(collected)
        mutex.lock(DEADLINE_S)
        mutex.unlock()


def endless():
    return endless()


def test_recursion_to_the_limit(runtime):
    """A RecursionError of the goroutine."""
    for _ in range(5):
        with pytest.raises(RecursionError):
            go(endless).result(DEADLINE_S)


def nested(n):
    value = []
    for _ in range(n):
        value = [value]
    return value


def test_a_result_too_deep_to_travel(runtime):
    """An error of that goroutine."""
    with pytest.raises(Exception, match=r"recursion|depth|EncodeError|result"):
        go(nested, 100_000).result(DEADLINE_S)


# ---------------------------------------------------------------- memory
def test_all_memory_of_the_segment():
    """SharedMemoryFull in who asks for too much; once it is given back everything works."""
    with Runtime(2, memory=48 << 20):
        ch = Chan(10_000)
        with pytest.raises(SharedMemoryFull):
            go(fill, ch).result(60)
        assert len(ch)
        while len(ch):
            ch.recv()
        assert go(add_one, 1).result(DEADLINE_S) == 2
        ch.send(bytes(1 << 20))
        assert len(ch.recv()) == 1 << 20


def fill(ch):
    while True:
        ch.send(bytes(1 << 20))


def test_others_while_one_has_all_the_memory():
    """Who needs none goes on; who needs some gets it, or SharedMemoryFull, and nothing is lost."""
    with Runtime(2, memory=48 << 20):
        hoard, there, back, stop, told = Chan(1000), Chan(), Chan(), Chan(), Chan(1)
        hoarder = go(fill_and_keep, hoard, stop, told)
        echo = go(echoes, there, back)
        full = 0
        told.recv(DEADLINE_S)
        for i in range(600):
            there.send(i, DEADLINE_S)
            assert back.recv(DEADLINE_S) == i
            try:
                there.send(bytes(300_000), DEADLINE_S)
            except SharedMemoryFull:
                full += 1
            else:
                assert back.recv(DEADLINE_S) == 300_000
            if i % 3 == 2:  # room, for whoever comes first
                assert len(hoard.recv(DEADLINE_S)) == 1 << 18
        assert full, "it was full"
        stop.close()
        hoarder.result(DEADLINE_S)
        while len(hoard):
            hoard.recv()
        there.close()
        assert echo.result(DEADLINE_S) == 1200 - full
        assert go(len, bytes(1 << 20)).result(DEADLINE_S) == 1 << 20


def fill_and_keep(hoard, stop, told):
    """Takes what there is, again and again."""
    while not stop.closed:
        try:
            hoard.send(bytes(1 << 18))
        except SharedMemoryFull:
            if not len(told):
                told.send("full")
            gosched()


def echoes(there, back):
    n = 0
    for value in there:
        n += 1
        back.send(value if isinstance(value, int) else len(value))
    return n


# ---------------------------------------------------------------- process-wide state
def misbehave(what, folder):
    """Change what belongs to the whole worker."""
    if what == "directory":
        os.chdir(folder)
    elif what == "environment":
        os.environ.clear()
    elif what == "umask":
        os.umask(0o777)
    elif what == "descriptors":
        os.closerange(3, 1024)
    elif what == "trace":
        sys.settrace(lambda *_: None)
        sys.setprofile(lambda *_: None)
    elif what == "recursion":
        sys.setrecursionlimit(200)
    elif what == "limits":
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    elif what == "threads":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    elif what == "signals":
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGURG, signal.SIGALRM, signal.SIGUSR1):
            signal.signal(signum, signal.SIG_IGN)
    elif what == "streams":
        sys.stdout.close()
        sys.stderr.close()
    elif what == "standard descriptors":
        os.closerange(0, 3)
        with contextlib.suppress(OSError):
            print("to whoever has that descriptor now")
            sys.stdout.flush()
    elif what == "signal masks":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    elif what == "interval timers":
        signal.signal(signal.SIGPROF, lambda *_: None)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    elif what == "hooks":
        sys.excepthook = sys.unraisablehook = threading.excepthook = sys.displayhook = None
    elif what == "imports":
        for found in (sys.meta_path, sys.path, sys.path_hooks):
            found.clear()
    elif what == "another user":
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
    elif what == "modules":
        for name in [name for name in sys.modules if name.startswith("mproc_go.sync")]:
            del sys.modules[name]
    return what


WHAT = [
    *("directory", "environment", "umask", "descriptors", "standard descriptors", "trace", "recursion", "limits"),
    *("threads", "signals", "signal masks", "interval timers", "streams", "hooks", "imports", "modules", "another user"),
]


@pytest.mark.parametrize("what", WHAT)
def test_changes_what_is_the_workers(runtime, tmp_path, what):
    """The goroutines after it run on, in the same worker and in new ones; a death there is buried as ever."""
    handles = [go(misbehave, what, str(tmp_path)) for _ in range(4)]
    assert {handle.result(DEADLINE_S) for handle in handles} == {what}
    ch = Chan(4)
    relays = [go(send_all, ch, 200) for _ in range(4)]
    assert sum(ch.recv(DEADLINE_S) for _ in range(800)) == 4 * sum(range(200))
    for handle in relays:
        handle.result(DEADLINE_S)
    blocks = [go(time.sleep, 0.05) for _ in range(4)]  # hand-offs, and forks of more workers
    for handle in blocks:
        handle.result(DEADLINE_S)
    with pytest.raises(WorkerLost):
        go(os._exit, 3).result(DEADLINE_S)


def send_all(ch, n):
    for i in range(n):
        ch.send(i)


def alarm():
    """An alarm of its own, which ends it if the handler is not there in time."""
    got = []
    signal.signal(signal.SIGALRM, lambda *_: got.append(1))
    signal.alarm(1)
    while not got:
        time.sleep(0.05)
    return "alarm"


def test_alarm(runtime):
    """It comes to the worker that asked for it."""
    assert go(alarm).result(DEADLINE_S) == "alarm"


# ---------------------------------------------------------------- catching everything
def catches_everything(ch):
    """Can't be ended by an exception."""
    while True:
        try:
            ch.recv()
        except BaseException:
            continue


def test_catches_everything_in_a_loop():
    """The runtime ends all the same."""
    start = time.monotonic()
    with Runtime(2):
        ch = Chan()
        for _ in range(4):
            go(catches_everything, ch)
        until(lambda: in_state("chan receive", 4))
        ch.close()  # from now on they spin
    assert time.monotonic() - start < 60


def test_a_panic_beside_who_catches_everything():
    """It ends the program."""
    with pytest.raises(GoroutinePanic, match="ZeroDivisionError"), Runtime(2):
        ch = Chan()
        for _ in range(3):
            go(catches_everything, ch)
        go(divide)
        ch.recv()


def divide():
    return 1 / 0


# ---------------------------------------------------------------- output
def test_lines_stay_whole(tmp_path):
    """Goroutines that print, their threads, finalizers, signal handlers: no line is torn, none is lost."""
    code = """
import gc, os, signal, threading
from mproc_go import run, WaitGroup, Chan
def say(who):
    print(f"<{who}:" + "x" * 60 + ">")
class Last:
    def __init__(self, i): self.i = i; self.me = self
    def __del__(self): say(f"finalizer {self.i}")
def threaded(i):
    for j in range(50): say(f"thread {i}:{j}")
def talk(i):
    signal.signal(signal.SIGUSR1, lambda *_: say("signal"))
    thread = threading.Thread(target=threaded, args=(i,)); thread.start()
    for j in range(50):
        Last(j)
        say(f"{i}:{j}")
    os.kill(os.getpid(), signal.SIGUSR1)
    thread.join()
    gc.collect()
def main():
    wg = WaitGroup()
    for i in range(20):
        wg.go(talk, i)
    talk(99)
    wg.wait()
run(main, procs=4)
"""
    outcome = run_code(tmp_path, code)
    lines = outcome.out.splitlines()
    assert outcome.status == 0 and len(lines) == 21 * 151, outcome.err
    assert all(line.startswith("<") and line.endswith("x" * 60 + ">") and line.count("<") == 1 for line in lines)
