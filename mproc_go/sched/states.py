"""States of goroutines and the reasons they wait, in Go's words.

Who owns a goroutine in each state, and may store its status:

    RUNNABLE  whoever holds the run queue it is in (or has just taken it out)
    RUNNING   the M that runs it
    WAITING   the M that runs it, from before anybody can find it in a queue until it took the delivery of what was
              decided, or left the queue; the decision word says whether it is decided. RUNNABLE: delivered, not taken
    DONE, FAILED  nobody: the record waits for its last handle
"""

from __future__ import annotations

from typing import Final

UNMADE: Final = 0  # taken and not filled yet: nobody refers to it, so a death of its maker frees it
RUNNABLE: Final = 1
RUNNING: Final = 2
WAITING: Final = 3
DONE: Final = 4
FAILED: Final = 5

STATUS_MASK: Final = 0xFF
REASON_SHIFT: Final = 8

CHAN_SEND: Final = 1
CHAN_RECEIVE: Final = 2
SELECT: Final = 3
SLEEP: Final = 4
WAITGROUP_WAIT: Final = 5
GOROUTINE_RESULT: Final = 6
SYSCALL: Final = 7
IO_WAIT: Final = 8
SELECT_NO_CASES: Final = 9
MUTEX_LOCK: Final = 20
RWMUTEX_RLOCK: Final = 21
RWMUTEX_LOCK: Final = 22
COND_WAIT: Final = 23
SEMACQUIRE: Final = 24
ONCE_DO: Final = 25
MAP_COMPUTE: Final = 40  # another goroutine computes the value of the key that this one wants to change
KEYED_RECEIVE: Final = 41
# The thread that fires a process's timers: with nothing to fire it keeps nobody alive, else it may yet wake somebody.
TIMERS_IDLE: Final = 26
TIMERS: Final = 27
# An asyncio task in a channel operation, and the thread that wakes such tasks (chan/aio.py).
ASYNCIO: Final = 28
# The thread of a main function that ended by goexit: it is there only to be told how the program ends.
GOEXIT: Final = 29

# Of RUNNING: its arguments lie in its record yet.
STARTING: Final = 10

# Go's system goroutines, and what is none any more: in no report, and no panic where they are lost.
SYSTEM: Final = (TIMERS_IDLE, TIMERS, ASYNCIO, GOEXIT)

# Text of each wait reason, as Go prints it.
REASON_TEXT: Final = {
    CHAN_SEND: "chan send",
    CHAN_RECEIVE: "chan receive",
    SELECT: "select",
    SLEEP: "sleep",
    WAITGROUP_WAIT: "sync.WaitGroup.Wait",
    GOROUTINE_RESULT: "goroutine result",
    SYSCALL: "syscall",
    IO_WAIT: "IO wait",
    SELECT_NO_CASES: "select (no cases)",
    MUTEX_LOCK: "sync.Mutex.Lock",
    RWMUTEX_RLOCK: "sync.RWMutex.RLock",
    RWMUTEX_LOCK: "sync.RWMutex.Lock",
    COND_WAIT: "sync.Cond.Wait",
    SEMACQUIRE: "semacquire",
    ONCE_DO: "sync.Once.Do",
    MAP_COMPUTE: "sync.Map.compute",
    KEYED_RECEIVE: "keyed receive",
    TIMERS_IDLE: "timer goroutine (idle)",
    TIMERS: "timer goroutine",
    ASYNCIO: "asyncio",
    GOEXIT: "goexit",
}


def is_system(status: int) -> bool:
    """Whether this is the status of a thread of ours, which bears one of these reasons whatever it does."""
    return status >> REASON_SHIFT in SYSTEM
