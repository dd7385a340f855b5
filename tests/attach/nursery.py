"""Programs that attach and die: for each line ``n operation`` on stdin a child joins runtime ``one``, does it, leaves.

The child kills itself at its n-th store to shared memory, counted from when it has joined; "nothing" counts from the
moment it has the memory. Answers "died", "survived", or what went wrong. Run as a program: it forks, so it must have one
thread.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from mproc_go import Chan, SharedMap, attach, go, select
from mproc_go.runtime import process as rt
from mproc_go.shm.segment import Segment


class KilledAt:
    """The words of a process that dies at its n-th store once it counts them."""

    def __init__(self, w, n, counts):
        self.w, self.left, self.counts = w, n, counts

    def __getitem__(self, index):
        return self.w[index]

    def __len__(self):
        return len(self.w)

    def __setitem__(self, index, value):
        if self.counts and not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= self.counts
        self.w[index] = value


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


OPERATIONS = {f.__name__: f for f in (send, send_long, receive, close, start, start_and_wait, choose, lock, count_down)}
OPERATIONS |= {f.__name__: f for f in (store, make, nothing)}


def life(n, operation):
    """A program's whole life in the runtime."""
    join = Segment.join

    def dying(fd):
        segment = join(fd)
        segment.w = KilledAt(segment.w, n, operation is nothing)
        return segment

    Segment.join = staticmethod(dying)
    with attach("one"):
        rt.process.segment.w.counts = True
        operation()


def main():
    for line in sys.stdin:
        n, operation = line.split()
        child = os.fork()
        if not child:
            status = 1
            try:
                life(int(n), OPERATIONS[operation])
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
