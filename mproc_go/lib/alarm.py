"""A process's alarm: one small thread that looks at records when their time has come.

A timer must fire although the worker that made it computes for seconds, so it can't be the worker's loop that fires it.
The thread is a client like any other (an M that sleeps), made with the first timer of the process, and takes the
interpreter from a computing thread within Python's switch interval (5 ms).

The heap here says only *when to look*; whether something is to happen then, and what, the record says, under its own
lock. So a timer can be stopped or set to a later time from any process without telling this one, and one set to an
earlier time is simply looked at by the alarm of whoever did it. A record has a word for when it will be looked at next;
an entry that does not agree with it is of no use any more, and entries don't keep their record alive.

The entries of a process that dies are lost with it, but each record says whose alarm is to look at it. The reaper
clears that word; a worker then takes what is armed and has nobody (:meth:`Alarm.adopt`). Should it die in the middle,
what it took names it, and the rest nobody: the next burial finds all of them again.

Limits: a thread that computes in C without ever letting the interpreter go keeps its process's alarm waiting.

Rejected: the heap in shared memory, fired by whoever is idle (nobody is, when it matters, and 100,000 timers would be
sifted under a shared lock); a timer of the supervisor's (it runs no channel operations, by design).
"""

from __future__ import annotations

import heapq
import math
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mproc_go.errors import tell
from mproc_go.runtime.process import M, Process
from mproc_go.sched import repairs, states
from mproc_go.shm import note, pool
from mproc_go.shm.layout import (
    G_STATUS,
    H_STOP,
    M_DEADLINE,
    M_FINISHED,
    O_KIND,
    POOL_OBJECT,
    R_GEN,
    R_HEAD,
    R_REFS,
    REC_LIVE,
    S_ADRIFT,
    object_lock,
)

# An entry: when (ns of the monotonic clock), base, generation, kind of look.
Entry = tuple[int, int, int, int]
# A look: (m, base, generation, when it was to be) -> when to look again, or 0. Runs under no lock.
Look = Callable[[M, int, int, int], int]

# (m, base, generation, when it was to be) -> whether the look would find nothing to do (it is not coming then).
Useless = Callable[[M, int, int, int], bool]


class Kind(NamedTuple):
    """A kind of look.

    Attributes:
        word: says when the record is looked at next.
        due: says when it must be looked at, 0 if it need not.
        looker: host slot of the process whose alarm will.
    """

    word: int
    due: int
    looker: int
    look: Look
    useless: Useless


# Kinds of look by number, and the number for each kind of record.
LOOKS: dict[int, Kind] = {}
_NUMBERS: dict[int, int] = {}


def register(number: int, records: Sequence[int], kind: Kind) -> None:
    """Have records of those kinds (O_KIND) looked at so, also when who was to look has died."""
    LOOKS[number] = kind
    for record in records:
        _NUMBERS[record] = number
        repairs.LOOKED_AT[record] = kind.due, kind.looker


# Further away than anybody waits; keeps sums within a word.
NEVER_NS = 1 << 62
_RUNNING = states.RUNNING | states.TIMERS << states.REASON_SHIFT

# With nothing to look at the thread ends after this, in seconds, and gives its place back.
IDLE_S = 0.5
# The thread looks this often, in seconds, whether the runtime it serves is over without having said so.
CHECK_S = 1.0
# Entries above which those of no use are removed, whenever there are twice as many as were left the last time.
_PURGE = 1024
# Entries that are looked through each time the thread has slept for CHECK_S; more of them accordingly less often. A
# timer that was stopped must not pass for one that may yet wake somebody.
_FEW = 4096


def deadline_ns(seconds: float) -> int:
    """The moment `seconds` from now, in ns of the monotonic clock; rounded up, so that nothing is early."""
    if seconds >= 1e9:
        return NEVER_NS
    now = time.monotonic_ns()
    return now + math.ceil(seconds * 1e9) if seconds > 0 else now


class Alarm:
    """The alarm of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[Entry] = []
        self._purge_at = _PURGE
        self._slept = 0  # times since the heap was looked through
        self._m: M | None = None
        self._adrift = False  # there may be records to adopt
        self._error: BaseException | None = None

    def look_at(self, m: M, when: int, base: int, gen: int, kind: int) -> None:
        """Look at a record at `when`. Blocks: the first time, until the thread runs.

        Raises:
            NotRunning: there is no room for one more thread.
        """
        with self._lock:
            heap = self._heap
            heapq.heappush(heap, (when, base, gen, kind))
            sleeper = self._m
            if sleeper is None:
                self._start(m.process)
                return
            if len(heap) >= self._purge_at:
                self._purge(m)
            first = bool(self._heap) and self._heap[0][0] == when
        if first:
            note.wake(m, sleeper.slot)

    def adopt(self, m: M) -> None:
        """Look, soon, at the records that a dead process's alarm was to look at. Blocks: as :meth:`look_at`.

        Raises: as :meth:`look_at`.
        """
        with self._lock:
            self._adrift = True
            sleeper = self._m
            if sleeper is None:
                self._start(m.process)
                return
        note.wake(m, sleeper.slot)

    def _start(self, process: Process) -> None:
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=(process, ready), name="mproc-go timers", daemon=True)
        thread.start()
        ready.wait()
        error, self._error = self._error, None
        if error is not None:
            self._heap.clear()
            raise error

    def _purge(self, m: M) -> None:
        """Drop the entries of no use. `_lock` is held."""
        w = m.w
        left = []
        for entry in self._heap:
            when, base, gen, kind = entry
            if (
                w[base + R_GEN] == gen
                and w[base + R_REFS]
                and w[base + LOOKS[kind].word] == when
                and not LOOKS[kind].useless(m, base, gen, when)
            ):
                left.append(entry)
        heapq.heapify(left)
        self._heap = left
        self._purge_at = max(_PURGE, 2 * len(left))
        self._slept = 0

    # ------------------------------------------------------------ the thread
    def _run(self, process: Process, ready: threading.Event) -> None:
        try:
            m = self._m = process.thread()
        except BaseException as error:
            self._error = error
            return
        finally:
            ready.set()
        w = m.w
        w[m.g + G_STATUS] = _RUNNING
        w[m.base + M_FINISHED] += 1  # num_goroutine counts goroutines of the program's
        try:
            while process.over is None and not w[H_STOP] and self._wait(m):
                if self._adrift:
                    self._take_adrift(m)
                self._look(m)
        finally:
            w[m.base + M_DEADLINE] = 0
            w[m.base + M_FINISHED] -= 1  # it is counted as ended when its slot is given back

    def _wait(self, m: M) -> bool:
        """Sleep until the first entry is due, or somebody says that another is first now; False if there is no use."""
        w = m.w
        note.announce(m)
        with self._lock:
            first = self._heap[0][0] if self._heap else 0
            adrift = self._adrift
        w[m.base + M_DEADLINE] = first
        timeout = min(CHECK_S, (first - time.monotonic_ns()) / 1e9) if first else IDLE_S
        if adrift:
            timeout = 0
        woken = True
        if timeout > 0 and not w[H_STOP]:
            reason = states.TIMERS if first else states.TIMERS_IDLE
            w[m.g + G_STATUS] = states.WAITING | reason << states.REASON_SHIFT
            woken = note.sleep(m, timeout)
            w[m.g + G_STATUS] = _RUNNING
        note.awake(m)
        if woken or timeout not in (CHECK_S, IDLE_S):
            return True
        with self._lock:
            self._slept += 1
            if len(self._heap) < _FEW * self._slept:
                self._purge(m)
            if not self._heap and not self._adrift:
                self._m = None
            return self._m is not None

    def _look(self, m: M) -> None:
        """Look at everything that is due."""
        w = m.w
        now = time.monotonic_ns()
        while True:
            with self._lock:
                if not self._heap or self._heap[0][0] > now:
                    return
                when, base, gen, kind = heapq.heappop(self._heap)
            if w[base + R_GEN] != gen or w[base + LOOKS[kind].word] != when:
                continue
            try:
                again = LOOKS[kind].look(m, base, gen, when)
            except Exception:
                if w[H_STOP]:
                    return
                tell(traceback.format_exc().rstrip())  # no room for a goroutine, say; the other timers go on
                continue
            if again:
                with self._lock:
                    heapq.heappush(self._heap, (again, base, gen, kind))

    def _take_adrift(self, m: M) -> None:
        """Take on the records that somebody must look at, and nobody will."""
        self._adrift = False
        w = m.w
        for base in pool.records(w, POOL_OBJECT):
            number = _NUMBERS.get(w[base + O_KIND])
            if number is None or w[base + R_HEAD] & 0xFF != REC_LIVE:
                continue
            kind = LOOKS[number]
            if w[base + kind.looker] or not w[base + kind.due]:
                continue
            lock = m.locks[object_lock(base)]
            m.enter(lock)
            # The same again: it may have been freed, and be something else, or somebody may have set it anew.
            ours = _NUMBERS.get(w[base + O_KIND]) == number and w[base + R_REFS] and not w[base + kind.looker]
            gen, when = w[base + R_GEN], w[base + kind.due]
            if ours and when:
                w[base + kind.looker] = m.process.host  # publishes: dead from here on, the next burial finds it
                w[base + kind.word] = when
            m.leave(lock)
            if ours and when and not kind.useless(m, base, gen, when):
                with self._lock:
                    heapq.heappush(self._heap, (when, base, gen, number))


def _adopt(m: M) -> None:
    """Runs: in the scheduler of a worker."""
    try:
        of(m).adopt(m)
    except Exception:  # no room for a thread here; the supervisor asks again
        m.w[S_ADRIFT] = 1


def of(m: M) -> Alarm:
    """The alarm of this process, for the runtime of `m`."""
    alarm: Alarm = m.process.alarm or m.process.helper("alarm", Alarm)
    return alarm


repairs.ADOPT.append(_adopt)
