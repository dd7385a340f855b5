"""Panics, lost workers and a lost supervisor: the program ends, says why, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import pytest

from tests.lifecycle.support import Program, run_code, start, until

PANIC = """
import sys, time
from mproc_go import run, Runtime, go, Chan, WaitGroup, GoroutinePanic, sleep
def inner():
    raise ValueError("boom")
def fail():
    inner()
def others():
    for _ in range(4):
        go(sleep, 1000)
def at_recv():
    others()
    go(fail)
    Chan().recv()
def at_send():
    others()
    go(fail)
    Chan().send(1)
def at_result():
    others()
    go(fail)
    go(sleep, 1000).result()
def at_wait():
    others()
    wg = WaitGroup()
    wg.add(1)
    go(fail)
    wg.wait()
def at_counted():
    others()
    wg = WaitGroup()
    wg.go(fail)
    wg.wait()
    print("not reached")
def at_sleep():
    others()
    go(fail)
    sleep(1000)
def at_next_send():
    others()
    go(fail)
    ch = Chan(1)
    while True:
        ch.send(1)
        ch.recv()
def at_next_go():
    others()
    go(fail)
    while True:
        go(len, "abc")
        time.sleep(0.001)
def at_gosched():
    from mproc_go import gosched
    go(fail)
    while True:
        gosched()
def at_next(look):
    go(fail)
    while True:
        look()
        time.sleep(0.001)
def at_next_num_goroutine():
    from mproc_go import num_goroutine
    at_next(num_goroutine)
def at_next_goid():
    from mproc_go import goid
    at_next(goid)
def at_next_len():
    at_next(Chan(1).__len__)
def at_next_closed():
    ch = Chan(1)
    at_next(lambda: ch.closed)
def at_end():
    ch = Chan(1)
    def f():
        ch.send(1)
        fail()
    go(f)
    ch.recv()
    time.sleep(0.5)  # main computes
    return "main returned"
def nested():
    go(lambda: go(fail) and None)
    Chan().recv(20)
def in_thread_of_main():
    import threading
    go(sleep, 1000)
    caught = []
    def target():
        try:
            Chan().recv()
        except BaseException as e:
            caught.append(e)
    t = threading.Thread(target=target)
    t.start()
    go(fail)
    t.join()
    assert isinstance(caught[0], GoroutinePanic), caught
    Chan().recv()
"""

PLACES = [
    "at_recv", "at_send", "at_result", "at_wait", "at_counted", "at_sleep", "at_next_send", "at_next_go", "at_gosched",
    "at_next_num_goroutine", "at_next_goid", "at_next_len", "at_next_closed", "at_end", "nested", "in_thread_of_main",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_panic_is_raised_in_main(tmp_path, place):
    """At the call main is blocked in, at its next call, or at the end: GoroutinePanic with the cause and traceback."""
    code = PANIC + (
        f"""
try:
    run({place}, procs=2)
except GoroutinePanic as error:
    assert type(error.__cause__) is ValueError and str(error.__cause__) == "boom", repr(error.__cause__)
    text = str(error)
    assert text.startswith("panic: ValueError: boom"), text
    assert "in inner" in text and 'raise ValueError("boom")' in text and "in fail" in text, text
    assert f"goroutine {{error.goid}} [running]:" in text
    assert "mproc_go" not in text.replace("mproc_go.errors", ""), text  # the user's frames alone
    print("panicked")
"""
    )
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out) == (0, "panicked\n"), outcome


@pytest.mark.parametrize("place", ["at_recv", "at_end"])
@pytest.mark.parametrize("way", ["run", "with", "close"])
def test_uncaught_panic(tmp_path, place, way):
    """In a plain script it is an uncaught exception: status 1, and the goroutine's traceback on stderr."""
    ways = {
        "run": f"run({place}, procs=2)",
        "with": f"with Runtime(2):\n    {place}()",
        "close": f"r = Runtime(2).start()\ntry:\n    {place}()\nfinally:\n    r.close()",
    }
    outcome = run_code(tmp_path, PANIC + ways[way])
    assert outcome.status == 1, outcome
    assert "ValueError: boom" in outcome.err, outcome
    assert "GoroutinePanic: panic: ValueError: boom" in outcome.err, outcome
    assert "[running]:" in outcome.err and "in inner" in outcome.err, outcome
    assert outcome.out == "", outcome


@pytest.mark.parametrize("place", ["at_end", "at_recv"])
def test_panic_in_the_default_runtime(tmp_path, place):
    """Status 2 where it is only known at the end, an uncaught exception where a call raises it; output is not lost."""
    code = PANIC + f'print("printed before")\n{place}()\nprint("printed after")\n'
    outcome = run_code(tmp_path, code)
    assert outcome.status in ((2,) if place == "at_end" else (1, 2)), outcome
    assert outcome.out == "printed before\n" + ("printed after\n" if place == "at_end" else ""), outcome
    assert "panic: ValueError: boom" in outcome.err and "in inner" in outcome.err, outcome
    assert outcome.err.count("[running]:") == 1, outcome


def test_first_panic_wins(tmp_path):
    """Many panics at once are one."""
    code = PANIC + (
        """
def many():
    for i in range(100):
        go(fail)
    Chan().recv()
try:
    run(many)
except GoroutinePanic as error:
    print(type(error.__cause__).__name__)
"""
    )
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "ValueError\n", ""), outcome


def test_held_handle_is_no_panic(tmp_path):
    """With a held handle the exception is the handle's, also if nobody asks, also if it is dropped later."""
    code = PANIC + (
        """
def held():
    h = go(fail)
    while not h.done():
        sleep(0.001)
    del h
    handles = [go(fail) for _ in range(20)]
    ch = Chan(1)
    ch.send(go(fail))
    sleep(0.2)
    assert type(ch.recv().exception()) is ValueError
    return [type(h.exception()).__name__ for h in handles].count("ValueError")
print(run(held))
"""
    )
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "20\n", ""), outcome


HELD = """
from mproc_go import run, go, num_goroutine
def fail():
    raise ValueError("boom")
def late_go(fn):  # the handle comes back when the goroutine has failed already
    before = num_goroutine()
    h = go(fn)
    while num_goroutine() > before:
        pass
    return h
def bound():
    h = late_go(fail)
    del h
def bound_again():
    h = late_go(fail)
    h = None
def end_of_a_function():
    h = late_go(fail)
def in_a_list():
    handles = [late_go(fail)]
    handles.clear()
def attribute():
    class Thing: pass
    thing = Thing()
    thing.handle = late_go(fail)
    del thing.handle
def statement():
    late_go(fail)
def keyword():
    late_go(fn=fail)
def starred():
    late_go(*[fail])
def of_a_lambda():
    (lambda: late_go(fail))()
def body(way):
    way()
    return "held"
def main(where, *names):
    for name in names:
        way = globals()[name]
        print(body(way) if where == "main" else go(body, way).result())
import sys
run(main, *sys.argv[1:], procs=2)
"""


@pytest.mark.parametrize("where", ["main", "goroutine"])
def test_a_handle_that_had_a_name_was_held(tmp_path, where):
    """The goroutine has failed before the handle is dropped, unasked: the exception was the handle's."""
    ways = ["bound", "bound_again", "end_of_a_function", "in_a_list", "attribute"]
    outcome = run_code(tmp_path, HELD, where, *ways)
    assert (outcome.status, outcome.out, outcome.err) == (0, "held\n" * len(ways), ""), outcome


@pytest.mark.parametrize("where", ["main", "goroutine"])
@pytest.mark.parametrize("way", ["statement", "keyword", "starred", "of_a_lambda"])
def test_a_statement_holds_no_handle(tmp_path, way, where):
    """The goroutine has failed before the statement is over: a panic all the same."""
    outcome = run_code(tmp_path, HELD, where, way)
    assert outcome.status == 1, outcome
    assert "GoroutinePanic: panic: ValueError: boom" in outcome.err, outcome


def test_on_panic_log(tmp_path):
    """on_panic="log": the panic is written to stderr, and the program goes on."""
    code = PANIC + (
        """
def logged():
    go(fail)
    wg = WaitGroup()
    for _ in range(3):
        wg.go(fail)
    wg.wait()
    while num_goroutine() > 1:
        sleep(0.001)
    return "went on"
from mproc_go import num_goroutine
print(run(logged, on_panic="log"))
"""
    )
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out) == (0, "went on\n"), outcome
    assert outcome.err.count("panic: ValueError: boom") == 4, outcome
    assert outcome.err.count("in inner") == 4, outcome


@pytest.mark.parametrize("error", ["SystemExit(5)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_panic_of_other_kinds(tmp_path, error):
    """sys.exit and the like in a goroutine are panics as well: no worker ends silently, nobody waits for ever."""
    code = f"""
from mproc_go import run, go, Chan, GoroutinePanic
def fail():
    raise {error}
def main():
    go(fail)
    Chan().recv()
try:
    run(main)
except GoroutinePanic as e:
    print(type(e.__cause__).__name__)
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out) == (0, error.partition("(")[0] + "\n"), outcome


def test_exception_of_main_comes_first(tmp_path):
    """What main raises itself is not hidden by a panic of a goroutine."""
    code = PANIC + (
        """
def both():
    ch = Chan(1)
    def f():
        ch.send(1)
        fail()
    go(f)
    ch.recv()
    raise KeyError("of main")
run(both)
"""
    )
    outcome = run_code(tmp_path, code)
    assert outcome.status == 1, outcome
    assert outcome.err.endswith("KeyError: 'of main'\n"), outcome


def test_panic_after_catching_it(tmp_path):
    """Who catches the panic can't go on in that runtime: the next call says so; another runtime can be started."""
    code = PANIC + (
        """
def main():
    go(fail)
    for _ in range(3):
        try:
            Chan().recv()
        except GoroutinePanic:
            print("panic")
try:
    run(main)
except GoroutinePanic:
    print("at the end")
print(run(lambda: go(len, "abc").result()))
"""
    )
    outcome = run_code(tmp_path, code)
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines()[0] == "panic", outcome
    assert outcome.out.splitlines()[-1] == "3", outcome


# ------------------------------------------------------------ lost processes
@pytest.mark.parametrize("where", ["recv", "send", "result", "sleep"])
def test_supervisor_killed(where):
    """Without its supervisor the program can't go on: main's blocked call raises NotRunning, workers are gone."""
    with start("lifecycle.py", "sleeping", where, "run") as program:
        program.until_line("ready")
        os.kill(program.supervisor().pid, signal.SIGKILL)
        outcome = program.end()
    assert outcome.status == 1, outcome
    assert "NotRunning" in outcome.err.splitlines()[-1], outcome
    assert "supervisor" in outcome.err, outcome


def test_supervisor_killed_while_main_computes(tmp_path):
    """Its next call says so."""
    code = """
import os, time
from mproc_go import run, go, NotRunning, Chan
def main():
    print("ready", flush=True)
    time.sleep(1)
    ch = Chan(1)
    h = go(len, "abc")
    return h.result()
try:
    print(run(main))
except NotRunning as e:
    print("NotRunning", e)
print(run(lambda: go(len, "abc").result()))
"""
    script = tmp_path / "a.py"
    script.write_text(code)
    with Program([sys.executable, script]) as program:
        program.until_line("ready")
        os.kill(program.supervisor().pid, signal.SIGKILL)
        outcome = program.end()
    assert outcome.status == 0, outcome
    assert outcome.out.startswith("NotRunning"), outcome
    assert outcome.out.endswith("3\n"), outcome


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize("what", ["computing", "sleeping", "in_c"])
def test_worker_killed(what, stop):
    """A worker that dies takes goroutines nobody holds with it: WorkerLost in main, nobody hangs, nothing is left."""
    with start("lifecycle.py", what, "recv", "run") as program:
        program.until_line("ready")
        for process in until(program.workers):
            with contextlib.suppress(ProcessLookupError):  # it ended with the first
                os.kill(process.pid, stop)
        outcome = program.end()
    assert outcome.status == 1, outcome
    assert "WorkerLost" in outcome.err, outcome


@pytest.mark.parametrize("death", ["os._exit(0)", "os._exit(9)", "os.abort()", "os.kill(os.getpid(), 9)", "crash()"])
def test_goroutine_that_ends_its_worker(tmp_path, death):
    """A crash in a goroutine, or os._exit, is WorkerLost for whoever holds its handle or for main."""
    code = f"""
import ctypes, os, sys
from mproc_go import run, go, Chan, WorkerLost
def crash():
    ctypes.string_at(0)
def die():
    {death}
def main():
    if sys.argv[1] == "held":
        go(die).result()
    else:
        go(die)
        Chan().recv()
try:
    run(main, procs=2)
except WorkerLost as e:
    print("WorkerLost")
"""
    for way in ("held", "dropped"):
        outcome = run_code(tmp_path, code, way)
        assert (outcome.status, outcome.out) == (0, "WorkerLost\n"), f"{way}: {outcome}"


def test_stopped_worker_does_not_stop_the_end():
    """A worker that does not run at all (SIGSTOP, a debugger) can't keep the program from ending."""
    with start("lifecycle.py", "sleeping", "sleep", "run") as program:
        program.until_line("ready")
        for process in until(program.workers):
            os.kill(process.pid, signal.SIGSTOP)
        program.interrupt()
        outcome = program.end()
    assert outcome.status == -signal.SIGINT, outcome


def test_stopped_and_continued(tmp_path):
    """The whole program stopped (Ctrl-Z) and continued goes on where it was."""
    code = """
from mproc_go import run, go, Chan
def main():
    a, b = Chan(), Chan()
    def server():
        for v in a:
            b.send(v + 1)
    go(server)
    print("ready", flush=True)
    v = 0
    for _ in range(20000):
        a.send(v)
        v = b.recv()
    return v
print(run(main))
"""
    script = tmp_path / "a.py"
    script.write_text(code)
    with Program([sys.executable, script]) as program:
        program.until_line("ready")
        for _ in range(3):
            for process in program.family():
                os.kill(process.pid, signal.SIGSTOP)
            for process in program.family():
                os.kill(process.pid, signal.SIGCONT)
        outcome = program.end()
    assert (outcome.status, outcome.out) == (0, "20000\n"), outcome
