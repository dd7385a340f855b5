"""Threads of this process that may still act although the runtime does not know them: they veto a deadlock.

A thread that called the library has a slot, whose words say whether it waits. One that has not called yet may do so at
any moment, and wake everybody. So each process says in one word (M_OUTSIDE of its host slot) whether it has such a
thread. It is looked at again where that can change while somebody waits:

* before a thread of the runtime goes to sleep, and every 0.1 s while the word is set;
* before one ends: whoever it started is then nobody's concern any more.

Only a thread that runs can start another, so between these moments the word never says too little. Look and store are
under one lock, so that an older look does not overwrite a newer one.

Not counted, since they would hide every deadlock for ever: threads that no Python function runs on (of BLAS, say);
the threads of a ``ThreadPoolExecutor`` that wait for work, which only some other thread can give them; and daemon
threads that were there before the runtime (a debugger's, a notebook's), as they don't keep a program alive either.
Whoever of them calls the library is known from then on.

Rejected: to ask every thread to call the library first (nobody knows he must); to count no daemon threads (a reader of
stdin is one); to hook ``threading.Thread.start`` (other people's code).
"""

from __future__ import annotations

import _thread
import sys
import threading
import weakref
from types import FrameType
from typing import Any

from mproc_go.shm.layout import M_OUTSIDE, slot_base

# A thread that sleeps while the word is set looks again after this, in seconds.
LOOK_S = 0.1


class Outsiders:
    """What one process knows about its threads.

    Attributes:
        known: ident -> slot of each thread that has one; 0 for our own helpers.
    """

    def __init__(self, w: Any, host: int) -> None:
        self.known: dict[int, int] = {}
        self._w = w
        self._word = slot_base(host) + M_OUTSIDE
        self._before = weakref.WeakSet(thread for thread in threading.enumerate() if thread.daemon)
        self._resting: set[tuple[int, int]] = set()  # threads of pools that waited for work at the last look, and where
        self._lock = threading.RLock()  # a signal handler may call the library while we look
        w[self._word] = 0

    def look(self) -> bool:
        """Look around and say in shared memory whether there are outsiders; return that."""
        # Cost: 0.2 us without other threads, else some 2 us; only who is about to sleep pays it
        with self._lock:
            found = _thread._count() > 0 and self._found()
            self._w[self._word] = found
        return found

    def _found(self) -> bool:
        frames = sys._current_frames()
        resting = set()
        found = False
        try:
            for ident, frame in frames.items():
                if ident in self.known or threading._active.get(ident) in self._before:  # type: ignore[attr-defined]
                    continue
                if _waits_for_work(frame):
                    # Between taking a piece of work and showing it there is a moment: believe it the second time.
                    resting.add((ident, frame.f_lasti))
                    if (ident, frame.f_lasti) in self._resting:
                        continue
                found = True
        finally:
            frames.clear()  # ours is among them: no cycle
        self._resting = resting
        return found


def _waits_for_work(frame: FrameType) -> bool:
    """Whether the frame, a thread's innermost, is that of a pool's thread that has nothing to do."""
    pools = sys.modules.get("concurrent.futures.thread")
    if pools is None or frame.f_code is not pools._worker.__code__:
        return False
    seen = frame.f_locals
    queue = seen.get("work_queue")
    return seen.get("work_item") is None and queue is not None and queue.empty()
