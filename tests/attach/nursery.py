"""Programs that attach and die: for each line ``n operation act`` a child joins runtime ``one``, does that, and leaves.

Before the n-th of its steps (tests/kills/steps.py) the child dies, or stops. They are counted from when it has joined;
"nothing" counts from the moment it has the memory, "behind" from when the lock is taken that it needs. Answers "died",
"survived", or what went wrong. Run as a program: it forks, so it must have one thread.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

from mproc_go import Chan, SharedMap, attach, go, select
from mproc_go.runtime import process as rt
from mproc_go.shm.segment import Segment
from tests.kills import supervised
from tests.kills.steps import Steps, die


def send():
    Chan(4, name="ch").send("mine")


def send_long():
    Chan(4, name="ch").send("mine" * 1000)


def receive():
    Chan(4, name="ch").recv()


def close():
    Chan(1, name="things").recv().close()


def start():
    go(Chan(4, name="ch").send, "mine")


def start_and_wait():
    assert go(pow, 2, 5).result(60) == 32


def choose():
    select((Chan(4, name="ch").send, "mine"), Chan(1, name="other").recv)


def lock():
    mutex = Chan(1, name="things").recv()
    with mutex:
        pass


def count_down():
    Chan(1, name="things").recv().done()


def store():
    things: SharedMap = Chan(1, name="things").recv()
    things.store("mine", [1, 2, 3])
    things.delete("other")


def make():
    kept = [Chan(), Chan(3)]
    kept[1].send(kept[0])


def nothing():
    pass


def behind():
    """What somebody sends, once somebody else has the lock that it needs (tests/kills/test_one_lock.py)."""
    operation, args = Chan(1, name="things").recv()
    plan = supervised.Plan(os.environ[supervised.PLAN])
    plan.behind = os.getpid()
    supervised.until(lambda: plan.held, "somebody has the lock")
    yield
    operation(*args)


def hold():
    """Take the lock of that number, and keep it."""
    plan = supervised.Plan(os.environ[supervised.PLAN])
    m = rt.current()
    m.enter(m.locks[Chan(1, name="things").recv()])
    plan.held = os.getpid()
    signal.pause()


def stop():
    supervised.Plan(os.environ[supervised.PLAN]).stop()


OPERATIONS = {f.__name__: f for f in (send, send_long, receive, close, start, start_and_wait, choose, lock, count_down)}
OPERATIONS |= {f.__name__: f for f in (store, make, nothing, behind, hold)}


def life(n, operation, act):
    """A program's whole life in the runtime."""
    join = Segment.join
    steps = Steps(n, act, operation is nothing)

    def counted(fd):
        segment = join(fd)
        segment.w = steps.words(segment.w)
        return segment

    Segment.join = staticmethod(counted)
    with attach("one"):
        watched = steps.semaphores(rt.process)
        watched.__enter__()  # for good: how it leaves counts, too
        if operation is behind:
            waiting = behind()
            next(waiting)
            steps.counts = True
            next(waiting, None)
            steps.counts = False
        else:
            steps.counts = True
            operation()


def main():
    for line in sys.stdin:
        n, operation, act = line.split()
        if operation == "behind":
            importlib.import_module("tests.kills.test_one_lock")  # what is sent is from there
        child = os.fork()
        if not child:
            status = 1
            try:
                life(int(n), OPERATIONS[operation], {"die": die, "stop": stop}[act])
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print({0: "survived", -signal.SIGKILL: "died"}.get(code, f"failed {code}"), flush=True)


if __name__ == "__main__":
    main()
