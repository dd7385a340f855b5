"""Go's concurrency for Python, on all cores: goroutines, channels and Go's scheduler, over processes.

    from mproc_go import Chan, go, run

    def square(numbers, squares):
        for n in numbers:            # until the channel is closed
            squares.send(n * n)
        squares.close()

    def main():
        numbers, squares = Chan(10), Chan(10)
        go(square, numbers, squares) # runs on whatever core is free
        numbers.send_many(range(5))
        numbers.close()
        return list(squares)

    print(run(main))                 # [0, 1, 4, 9, 16]

Start things with ``go``; its handle has ``result()``. Talk over ``Chan``, wait for whichever is first with ``select``.
Meet with ``WaitGroup``, ``Group``, ``Mutex`` and the others; end things with ``mproc_go.context``. Every name has a
docstring; docs/guide.md shows them one by one.
"""

# Layers, each importing only from those above it in this list; tests/house/test_layers.py holds it against the code,
# docs/architecture.md says what each may never do:
#
#     errors
#     shm          bytes shared by processes: words, locks, records
#     codec        values <-> bytes
#     sched        scheduler structures in shared memory
#     observe      read-only eyes: stacks, figures, the trace line
#     runtime, supervisor     goroutines in a process; the process that outlives them
#     chan, sync   what goroutines talk and meet with
#     shared       what they share: the map, the keyed channel, the array
#     lib          timers, contexts, groups: made of those
#     context, zygote         the public facade of lib/context; the supervisor's process
#     tools        the command line
#
# The names below are loaded when they are first used: a submodule of ours can be imported without loading the rest.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "mproc_go.errors": (
        "ChanClosed",
        "Deadlock",
        "EncodeError",
        "GoroutinePanic",
        "MprocError",
        "NotRunning",
        "RemoteError",
        "SharedMemoryFull",
        "WorkerLost",
        "WouldBlock",
    ),
    "mproc_go.runtime.blocking": ("blocking",),
    "mproc_go.runtime.dump": ("stacks", "stats"),
    "mproc_go.runtime.netpoll": ("wait_readable", "wait_writable"),
    "mproc_go.runtime.attach": ("attach",),
    "mproc_go.runtime.boot": ("Runtime", "run"),
    "mproc_go.runtime.goroutine": (
        "Goroutine",
        "go",
        "goexit",
        "goid",
        "gomaxprocs",
        "gosched",
        "num_goroutine",
        "sleep",
    ),
    "mproc_go.sched.cpus": ("num_cpu",),
    "mproc_go.chan.channel": ("Chan", "RecvChan", "SendChan"),
    "mproc_go.chan.select": ("Selected", "default", "select"),
    "mproc_go.sync.waitgroup": ("WaitGroup",),
    "mproc_go.sync.atomic": ("AtomicInt",),
    "mproc_go.sync.cond": ("Cond",),
    "mproc_go.sync.mutex": ("Mutex",),
    "mproc_go.sync.once": ("Once",),
    "mproc_go.sync.rwmutex": ("RWMutex",),
    "mproc_go.sync.semaphore": ("Semaphore",),
    "mproc_go.lib.clock": ("Ticker", "Timer", "after", "after_func"),
    "mproc_go.lib.group": ("Group",),
    "mproc_go.shared.array": ("SharedArray",),
    "mproc_go.shared.keyed": ("KeyedChan",),
    "mproc_go.shared.map": ("SharedMap",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if name == "context":  # the one public module
        return importlib.import_module("mproc_go.context")
    if home is None:
        raise AttributeError(f"module 'mproc_go' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # What somebody at a prompt looks for: not what this module itself uses, nor the packages it is made of.
    return sorted({*__all__, "context", *(name for name in globals() if name.startswith("__"))})


if TYPE_CHECKING:
    from mproc_go.chan.channel import Chan as Chan
    from mproc_go.chan.channel import RecvChan as RecvChan
    from mproc_go.chan.channel import SendChan as SendChan
    from mproc_go.chan.select import Selected as Selected
    from mproc_go.chan.select import default as default
    from mproc_go.chan.select import select as select
    from mproc_go.errors import ChanClosed as ChanClosed
    from mproc_go.errors import Deadlock as Deadlock
    from mproc_go.errors import EncodeError as EncodeError
    from mproc_go.errors import GoroutinePanic as GoroutinePanic
    from mproc_go.errors import MprocError as MprocError
    from mproc_go.errors import NotRunning as NotRunning
    from mproc_go.errors import RemoteError as RemoteError
    from mproc_go.errors import SharedMemoryFull as SharedMemoryFull
    from mproc_go.errors import WorkerLost as WorkerLost
    from mproc_go.errors import WouldBlock as WouldBlock
    from mproc_go.lib.clock import Ticker as Ticker
    from mproc_go.lib.clock import Timer as Timer
    from mproc_go.lib.clock import after as after
    from mproc_go.lib.clock import after_func as after_func
    from mproc_go.lib.group import Group as Group
    from mproc_go.runtime.attach import attach as attach
    from mproc_go.runtime.blocking import blocking as blocking
    from mproc_go.runtime.boot import Runtime as Runtime
    from mproc_go.runtime.boot import run as run
    from mproc_go.runtime.dump import stacks as stacks
    from mproc_go.runtime.dump import stats as stats
    from mproc_go.runtime.goroutine import Goroutine as Goroutine
    from mproc_go.runtime.goroutine import go as go
    from mproc_go.runtime.goroutine import goexit as goexit
    from mproc_go.runtime.goroutine import goid as goid
    from mproc_go.runtime.goroutine import gomaxprocs as gomaxprocs
    from mproc_go.runtime.goroutine import gosched as gosched
    from mproc_go.runtime.goroutine import num_goroutine as num_goroutine
    from mproc_go.runtime.goroutine import sleep as sleep
    from mproc_go.runtime.netpoll import wait_readable as wait_readable
    from mproc_go.runtime.netpoll import wait_writable as wait_writable
    from mproc_go.sched.cpus import num_cpu as num_cpu
    from mproc_go.shared.array import SharedArray as SharedArray
    from mproc_go.shared.keyed import KeyedChan as KeyedChan
    from mproc_go.shared.map import SharedMap as SharedMap
    from mproc_go.sync.atomic import AtomicInt as AtomicInt
    from mproc_go.sync.cond import Cond as Cond
    from mproc_go.sync.mutex import Mutex as Mutex
    from mproc_go.sync.once import Once as Once
    from mproc_go.sync.rwmutex import RWMutex as RWMutex
    from mproc_go.sync.semaphore import Semaphore as Semaphore
    from mproc_go.sync.waitgroup import WaitGroup as WaitGroup
