"""All asleep? Exact over all processes: what counts as dead, and everything that vetoes."""

from __future__ import annotations

import concurrent.futures
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from mproc_go import (
    Chan,
    Deadlock,
    Mutex,
    Runtime,
    WaitGroup,
    after,
    blocking,
    go,
    run,
    select,
    sleep,
    wait_readable,
)
from tests.scheduler.support import DEADLINE_S, in_state, until

HEAD = "all goroutines are asleep - deadlock!\n\ngoroutine 1 ["


def dead(main, **options):
    with pytest.raises(Deadlock) as caught:
        run(main, **options)
    text = str(caught.value)
    assert text.startswith(HEAD)
    return text


def lock_twice():
    mutex = Mutex()
    mutex.lock()
    mutex.lock()


def wait_for_nobody():
    wg = WaitGroup()
    wg.add(1)
    wg.wait()


def send_to_nobody():
    Chan().send(1)


def fill():
    ch = Chan(2)
    for i in range(3):
        ch.send(i)


def select_nothing():
    select()


def select_never():
    select(Chan().recv, (Chan().send, 1), None)


WAYS = {
    "sync.Mutex.Lock": lock_twice,
    "sync.WaitGroup.Wait": wait_for_nobody,
    "chan send": send_to_nobody,
    "chan send ": fill,
    "select (no cases)": select_nothing,
    "select": select_never,
}


@pytest.mark.parametrize("reason", WAYS)
def test_each_wait_of_main(reason):
    """The reason of goroutine 1, and where it waits."""
    text = dead(WAYS[reason])
    assert text.startswith(f"{HEAD}{reason.strip()}]:\n")
    assert f"in {WAYS[reason].__name__}" in text


def receive(ch):
    return ch.recv()


@pytest.mark.parametrize("procs", [1, 2, 4])
def test_everybody_in_every_process(procs):
    """Goroutines in several workers, all of them waiting: each is listed once, with reason and stack."""

    def main():
        ch = Chan()
        for _ in range(6):
            go(receive, ch)
        until_asleep = Chan()
        until_asleep.recv()

    text = dead(main, procs=procs)
    assert len(re.findall(r"^goroutine \d+ \[chan receive\]:$", text, re.MULTILINE)) == 7
    assert text.count("in receive\n") == 6
    assert text.count("created by goroutine 1") == 6


def wait_for(ch):
    return ch.recv().result()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_circle_is_named(n):
    """Whoever waits for whom, all the way round, and nobody else."""

    def main():
        channels = [Chan() for _ in range(n)]
        handles = [go(wait_for, ch) for ch in channels]
        for i, ch in enumerate(channels):
            ch.send(handles[(i + 1) % n])
        go(receive, Chan())
        handles[0].result()

    text = dead(main)
    found = re.search(r"who waits for whom: goroutine (.*)$", text)
    circle = found[1].split(" -> ")
    assert circle[0] == circle[-1]
    assert len(set(circle)) == len(circle) - 1 == n


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_circle_of_mutexes_is_named(n):
    """Everybody has one and wants the next; with one alone it is a goroutine that locks twice."""

    def both(mutexes, i, all_have_one):
        mutexes[i].lock()
        all_have_one.done()
        all_have_one.wait()
        mutexes[(i + 1) % n].lock()

    def main():
        mutexes = [Mutex() for _ in range(n)]
        all_have_one = WaitGroup()
        all_have_one.add(n)
        handles = [go(both, mutexes, i, all_have_one) for i in range(n)]
        handles[0].result()

    circle = re.search(r"who waits for whom: goroutine (.*)$", dead(main))[1].split(" -> ")
    assert circle[0] == circle[-1]
    assert len(set(circle)) == len(circle) - 1 == n


def test_whom_a_mutex_was_handed_to_has_it():
    """Unlocked in favour of who has waited for long, it never came free: the circle names that one all the same."""

    def first_waits(first, second, has_it):
        with first:
            has_it.send(None)
            second.lock()

    def main():
        first, second, has_it = Mutex(), Mutex(), Chan(1)
        first.lock()
        other = go(first_waits, first, second, has_it)
        until(lambda: in_state("sync.Mutex.Lock"))
        sleep(0.01)  # longer than a waiter may lose against newcomers
        second.lock()
        first.unlock()
        has_it.recv()
        numbers.append(str(other.id))
        first.lock()

    numbers = ["1"]
    circle = re.search(r"who waits for whom: goroutine (.*)$", dead(main))[1].split(" -> ")
    assert set(circle) == set(numbers)


def test_no_circle_is_claimed_where_there_is_none():
    """A chain of results that ends at a channel."""

    def main():
        first = go(receive, Chan())
        go(first.result).result()

    assert "\n\nwho waits" not in dead(main)


# ---------------------------------------------------------------- what vetoes
def in_a_sleep(ch):
    sleep(0.5)
    ch.send("alive")


def in_an_undeclared_call(ch):
    time.sleep(0.5)
    ch.send("alive")


def in_a_declared_call(ch):
    blocking(time.sleep, 0.5)
    ch.send("alive")


def in_a_computation(ch):
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    ch.send("alive")


def in_a_timer(ch):
    after(0.5).recv()
    ch.send("alive")


def in_a_timeout(ch):
    try:
        Chan().recv(0.5)
    except TimeoutError:
        ch.send("alive")


def in_the_poller(ch):
    r, w = os.pipe()
    threading.Timer(0.5, os.write, (w, b"x")).start()
    wait_readable(r)
    os.close(r)
    os.close(w)
    ch.send("alive")


def in_a_select_with_a_timeout(ch):
    try:
        select(Chan().recv, timeout=0.5)
    except TimeoutError:
        ch.send("alive")


@pytest.mark.parametrize(
    "busy",
    [
        in_a_sleep,
        in_an_undeclared_call,
        in_a_declared_call,
        in_a_computation,
        in_a_timer,
        in_a_timeout,
        in_the_poller,
        in_a_select_with_a_timeout,
    ],
)
def test_something_can_still_happen(busy):
    """Everybody waits for one goroutine, and that one will go on: no deadlock, for longer than the detector looks."""

    def main():
        ch = Chan()
        go(busy, ch)
        return ch.recv()

    assert run(main, procs=1) == "alive"


def test_another_thread_of_the_program_may_act():
    """Main waits in a channel; a thread of the program that is outside of the runtime now sends later."""

    def main():
        ch, known = Chan(), Chan(1)

        def later():
            known.send(1)  # it is a client from here on
            time.sleep(0.5)
            ch.send("from a thread")

        thread = threading.Thread(target=later)
        thread.start()
        known.recv()
        value = ch.recv()
        thread.join()
        return value

    assert run(main) == "from a thread"


def start_thread(fn, *args, **options):
    thread = threading.Thread(target=fn, args=args, **options)
    thread.start()
    return thread


def later(ch, seconds=0.5):
    time.sleep(seconds)
    ch.send("from a thread")


@pytest.mark.parametrize("daemon", [False, True])
def test_a_thread_that_never_called_the_library_may_act(daemon):
    """Main waits in a channel; a thread of the program calls for the first time when it sends."""

    def main():
        ch = Chan()
        thread = start_thread(later, ch, daemon=daemon)
        value = ch.recv()
        thread.join()
        return value

    assert run(main) == "from a thread"


def receive_from_own_thread():
    ch = Chan()
    thread = start_thread(later, ch)
    value = ch.recv()
    thread.join()
    return value


def test_such_a_thread_of_a_worker_may_act():
    """The same in a goroutine: its worker has the thread."""
    assert run(lambda: go(receive_from_own_thread).result()) == "from a thread"


def start_later(ch, started):
    started.send(1)
    start_thread(later, ch)


def start_from_a_thread(ch):
    started = Chan()
    thread = start_thread(start_later, ch, started)
    started.recv()
    thread.join()
    started.close()


@pytest.mark.parametrize("where", ["client", "worker"])
def test_a_thread_whose_starter_is_gone_may_act(where):
    """Main waits already; a thread of the runtime starts another, which is no client, and ends."""

    def start_when_told(ch, told):
        told.recv()
        sleep(0.2)  # the others wait by then, and have looked around for the last time
        start_thread(later, ch)

    def main():
        ch, told = Chan(), Chan()
        if where == "client":
            start_thread(start_when_told, ch, told)
            told.send(1)
        else:
            go(start_from_a_thread, ch)
        return ch.recv()

    assert run(main) == "from a thread"


def test_stacks_of_threads_of_the_program():
    """Goroutine 1 and every thread that uses the runtime: reason and stack."""
    seen = []

    def waits_too(ch):
        try:
            ch.recv()
        except Deadlock as error:
            seen.append(str(error))

    def main():
        threads = [start_thread(waits_too, Chan()) for _ in range(2)]
        wg = WaitGroup()
        wg.add(1)
        try:
            wg.wait()
        finally:
            for thread in threads:
                thread.join()

    text = dead(main)
    assert re.match(r"goroutine 1 \[sync\.WaitGroup\.Wait\]:\n.*in main\n    wg\.wait\(\)\n\n", text[len(HEAD) - 13 :], re.S)
    assert text.count("in waits_too\n    ch.recv()") == 2
    assert "in process" not in text
    assert seen == [text, text]


def test_a_thread_that_ended_without_acting():
    """As long as it runs it might; then everybody is asleep. In a worker as well."""

    def main():
        start_thread(time.sleep, 0.5)
        go(start_a_thread_and_receive, Chan())
        Chan().recv()

    dead(main)


def start_a_thread_and_receive(ch):
    start_thread(time.sleep, 0.5)
    ch.recv()


def test_threads_of_a_pool():
    """One that has work may act, one that waits for work may not."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def busy_pool():
            ch = Chan()
            pool.submit(later, ch)
            return ch.recv()

        assert run(busy_pool) == "from a thread"

    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def idle_pool():
            pool.submit(time.sleep, 0.3)
            Chan().recv()

        dead(idle_pool)


def test_daemon_threads_from_before():
    """A notebook's or a debugger's thread does not hide a deadlock; one started since the runtime runs may act."""
    stop = threading.Event()
    thread = start_thread(stop.wait, daemon=True)
    try:
        dead(lambda: Chan().recv())
    finally:
        stop.set()
        thread.join()


def test_main_outside_of_the_runtime():
    """Goroutines that all wait are no deadlock while main computes, or sleeps where we can't see it."""
    with Runtime(2):
        ch = Chan()
        handles = [go(receive, ch) for _ in range(3)]
        until(lambda: in_state("chan receive", 3))
        time.sleep(0.3)
        for i in range(3):
            ch.send(i)
        assert sorted(handle.result(DEADLINE_S) for handle in handles) == [0, 1, 2]


def test_after_a_worker_was_replaced():
    """Found in a runtime that lost a worker as well; what waited there is gone, the rest is listed."""

    def main():
        lost = go(os.kill, 0, 0) if False else go(kill_own_worker)
        lost.exception(DEADLINE_S)
        go(receive, Chan())
        Chan().recv()

    text = dead(main)
    assert len(re.findall(r"^goroutine \d+ \[chan receive\]:$", text, re.MULTILINE)) == 2


def kill_own_worker():
    os.kill(os.getpid(), 9)


# ---------------------------------------------------------------- under the command line
def script(tmp_path, body):
    path = tmp_path / "script.py"
    path.write_text(body)
    return subprocess.run(
        [sys.executable, "-m", "mproc_go", "run", path], capture_output=True, text=True, timeout=60, check=False
    )


def test_exit_status_and_text(tmp_path):
    """Exit status 2, `fatal error:`, goroutines of workers too, no Python traceback of ours."""
    done = script(
        tmp_path,
        "from mproc_go import *\n"
        "def worker(ch):\n    ch.send('never')\n"
        "def main():\n    go(worker, Chan())\n    Chan().recv()\n"
        "run(main)\n",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\n")
    assert re.search(r"^goroutine \d+ \[chan send\]:\n.*in worker\n    ch\.send\('never'\)\n", done.stderr, re.M | re.S)
    assert "Traceback" not in done.stderr
    # nothing of what ran the script, of the call of main, of a wait group's member
    assert re.findall(r'File "([^"]*)"', done.stderr) == [str(tmp_path / "script.py")] * 3


def test_a_lost_worker_ends_as_a_panic(tmp_path):
    """Nobody holds the handle of what was lost with its worker: Go's text, exit status 2, no Python traceback."""
    done = script(
        tmp_path,
        "import os, signal\n"
        "from mproc_go import *\n"
        "def die():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def main():\n    go(die)\n    Chan().recv()\n"
        "run(main)\n",
    )
    assert done.returncode == 2
    lost = r"panic: WorkerLost: goroutine (\d+) was lost: worker (\d+) \(M(\d+)\) was killed by SIGKILL while it was running"
    entry = r"goroutine \1 \[running\]:\n  in process \2 \(M\3\)\ncreated by goroutine 1\n"
    assert re.fullmatch(f"{lost}\n\n{entry}", done.stderr), done.stderr


def test_goexit_of_the_last_one(tmp_path):
    """A goroutine that exits leaves main waiting for it for ever: dead, and its finally blocks ran."""
    done = script(
        tmp_path,
        "from mproc_go import *\n"
        "def leaves(ch):\n"
        "    try:\n        goexit()\n        ch.send('never')\n"
        "    finally:\n        print('finally', flush=True)\n"
        "def main():\n    ch = Chan()\n    go(leaves, ch)\n    ch.recv()\n"
        "run(main)\n",
    )
    assert (done.returncode, done.stdout) == (2, "finally\n")
    assert "goroutine 1 [chan receive]" in done.stderr
    assert "in leaves" not in done.stderr
