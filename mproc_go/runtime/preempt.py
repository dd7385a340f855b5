"""Time slices for goroutines that compute: ``Runtime(preempt=True)``, off by default.

The supervisor sends SIGURG to a worker that has run one goroutine for 10 ms. Python calls the handler between two
bytecodes of the main thread; a handler may switch greenlets, so it simply yields. It does not where that could harm:

* inside a critical section or any other code of ours (a frame of this package is on the goroutine's stack above its
  function), so what the runtime does is never interleaved;
* where a frame of the import system, ``threading``, ``logging`` or ``queue`` is on the stack: it may hold a lock that
  the next goroutine of this worker wants, and would wait for on the same thread for ever.

What it can't do: interrupt a C call (a long regular expression, ``sum(range(10**9))``, NumPy); see locks of libraries
that are taken in C or in modules it does not know. A goroutine that holds such a lock must not be preempted: leave
preemption off, or keep the lock for less than the slice.

Source: Go signal_unix.go doSigPreempt, preempt.go; wantAsyncPreempt.
"""

from __future__ import annotations

import signal
from types import FrameType

from mproc_go.runtime.worker import WorkerM

_FOREIGN = ("importlib", "threading", "logging", "queue", "multiprocessing", "concurrent")
_BODY = WorkerM._execute.__code__


def install(m: WorkerM) -> None:
    """Have SIGURG make the goroutine that runs yield. Runs: a worker, once, in its main thread."""

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if m.cur is not m.hub and not m.w[m.ph] and _may_switch(frame):
            # What runs meanwhile may call go: the handle that is about to be dropped here is still the latest then.
            latest, m.latest = m.latest, 0
            m.yield_()
            m.latest = latest

    signal.signal(signal.SIGURG, on_signal)


def _may_switch(frame: FrameType | None) -> bool:
    """Whether the stack from `frame` down to the goroutine's function is the user's alone."""
    while frame is not None:
        if frame.f_code is _BODY:
            return True
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package == "mproc_go" or package in _FOREIGN or package == "_frozen_importlib":
            return False
        frame = frame.f_back
    return False
