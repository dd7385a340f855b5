"""The M of a worker process: a hub and its fibers run goroutines on greenlets.

A goroutine is bytes in shared memory until a worker starts it; from then on it is a *fiber*, a greenlet of that worker,
and never leaves it. Fibers are pooled: starting a greenlet costs 8 to 17 us, switching to a pooled one 0.4 us. A fiber
that finishes a goroutine takes the next one itself, without any switch.

How the next to run is picked (:meth:`WorkerM._pick`), fair among its sources:

1. what other Ms made ready (the inbox) and timers that are due join the local ready list;
2. every 8th time, and whenever nothing is ready, a goroutine that has not started: from the P's run queue, else from
   the global one; every 61st time from the global one first, as in Go;
3. else the ready list, first come first served.

Who parks picks the next and switches straight to it. Only with nothing to do does a worker enter its hub
(:meth:`WorkerM.find`), which steals, spins a little, gives its P up and sleeps.

A goroutine that waits is resumed exactly once, by its delivery (the inbox or the local ready list), or by its timer
while it is undecided; whoever decided it may still be about to deliver, so deciding alone never resumes. Otherwise a
late delivery could hit a record that was reused.

Source: Go proc.go schedule, findRunnable, goexit0.
"""

from __future__ import annotations

import heapq
import os
import random
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any, NoReturn

from greenlet import getcurrent, greenlet

from mproc_go.codec import wire
from mproc_go.errors import EncodeError, bug, tell
from mproc_go.runtime import dump, message, panics
from mproc_go.runtime.outsiders import LOOK_S
from mproc_go.runtime.process import CALLS_OUT, M, Process
from mproc_go.runtime.spawn import RETRY_INLINE_BYTES, args_of, free_retry_record, is_quiet, take_retry_record
from mproc_go.sched import idle, repairs, runq, states, waitq
from mproc_go.shm import note
from mproc_go.shm.layout import (
    G_CODE,
    G_DECIDE,
    G_INLINE_BYTES,
    G_JOINQ,
    G_M,
    G_MSG,
    G_RETRY,
    G_RETRY_RECORD,
    G_STATUS,
    H_MAX_MS,
    H_SLOTS,
    H_STOP,
    HDR_EXCEPTION,
    HDR_SPILLED,
    KIND_FREE,
    M_ATTENTION,
    M_DEADLINE,
    M_DUMP,
    M_EXTERNAL,
    M_FINISHED,
    M_HOST,
    M_INBOX,
    M_KIND,
    M_P,
    M_REPLIED,
    M_RESIDENT,
    M_RETIRE,
    M_RUNNING,
    M_SPINNING,
    M_STEALS,
    M_TICK,
    M_YIELD,
    OUT_OK,
    POOL_G,
    R_GEN,
    R_LINK,
    R_REFS,
    REFS_MASK,
    RUNQ,
    S_ADRIFT,
    S_GOMAXPROCS,
    S_GQ,
    S_ORPHANS,
    S_PIDLE,
    inbox_lock,
    object_lock,
    slot_base,
)
from mproc_go.shm.pool import flush_all, give

# Idle greenlets kept for the next goroutines. More than are ever runnable at once is waste (6 KB each).
MAX_IDLE_FIBERS = 512
# Looks at inbox and queues before a worker sleeps: about 30 us, the price of sleeping and being woken.
# scripts/bench pingpong_remote shows what it buys.
SPIN = 300
# Looks at its inbox alone before that: about 10 us, a few times what the other side of a ping-pong takes to answer.
SPIN_INBOX = 150
# A worker that queued for a P queues again after this, in seconds.
MAX_P_WAIT_S = 0.05
# How often the global queue comes before the local one. Source: Go proc.go schedule.
GLOBAL_EVERY = 61

_RUNNABLE = states.RUNNABLE
_RUNNING = states.RUNNING
_STARTING = states.RUNNING | states.STARTING << states.REASON_SHIFT


class Goexit(BaseException):
    """Raised by goexit(): unwinds the goroutine, running its finally blocks, without being an error."""


class Fiber(greenlet):
    """A greenlet that runs goroutines, one after the other.

    Attributes:
        g: base of its goroutine.
        timed_out: it was made ready by its timer, not by a delivery.
    """

    def __init__(self, m: WorkerM) -> None:
        super().__init__(m.run_fiber, m.hub)
        self.g = 0
        self.timed_out = False


class WorkerM(M):
    """The main thread of a worker."""

    def __init__(self, process: Process, slot: int) -> None:
        super().__init__(process, slot)
        process.outsiders.known[threading.get_ident()] = slot
        self.hub = getcurrent()
        self.cur: Any = self.hub
        self.runnable: deque[Fiber] = deque()
        self.fibers: dict[int, Fiber] = {}  # started goroutines of this worker, by base
        self.pool: list[Fiber] = []
        self.timers: list[list[Any]] = []  # heap of [deadline, sequence, fiber or None once it is of no use]
        self.dead_timers = 0
        self.timer_seq = 0
        self.tick = 0
        self.waited = False  # nothing came in the moment that we waited before going to sleep
        self.to_start = 0  # a goroutine the hub is to start at once
        self.inbox = self.base + M_INBOX
        self.tick_word = self.base + M_TICK
        self.attention = self.base + M_ATTENTION
        self.running = self.base + M_RUNNING
        # Goroutines that helper threads of this process woke (blocking calls, descriptors).
        self.returned: deque[int] = deque()

    # ------------------------------------------------------------ waiting
    def park(self, deadline: float | None = None) -> int:
        # Cost: 0.6 us + a switch = pick, 2 words; scripts/bench hot, pingpong_local, pingpong_remote
        w = self.w
        fiber = self.cur
        g = fiber.g
        timer = None
        if deadline is not None:
            self.timer_seq += 1
            timer = [deadline, self.timer_seq, fiber]
            heapq.heappush(self.timers, timer)
        try:
            # What _pick does where there is nothing but goroutines to switch to, written out.
            tick = self.tick + 1
            if self.runnable and tick & 7 and not self.timers and not w[self.attention]:
                self.tick = w[self.tick_word] = tick
                following = self.runnable.popleft()
            else:
                picked = self._pick()
                if picked is None and not self.waited and w[self.base + M_P]:
                    picked = self._wait_a_moment()
                following = self._fiber_for(picked)
        except BaseException:
            self._pick = self._ruined  # type: ignore[method-assign]
            w[self.attention] = 1  # the short way does not ask _pick
            raise
        try:
            if following is not fiber:
                self.cur = following
                following.switch()
                self.cur = fiber
            self.g = w[self.running] = g
            if fiber.timed_out:  # its wait goes on, until it has left the queue
                fiber.timed_out = False
                return 0
            w[g + G_STATUS] = _RUNNING
            if timer is not None:
                timer[2] = None
                self.dead_timers += 1
                if self.dead_timers > 64 and self.dead_timers > len(self.timers) // 2:
                    self._drop_dead_timers()
        except BaseException:
            if timer is not None:
                timer[2] = None
            self._resumed(fiber)
            raise
        decision: int = w[g + G_DECIDE]
        if not decision:
            bug(f"goroutine {g:#x} was resumed undecided")
        return decision

    def pause(self, deadline: float) -> None:
        self.begin_wait(states.SLEEP)
        self.park(deadline)
        self.end_wait()

    def yield_(self) -> None:
        w = self.w
        fiber = self.cur
        g = fiber.g
        if w[g + G_STATUS] != _RUNNING:
            return  # a finalizer or signal handler in the middle of a wait
        w[g + G_STATUS] = _RUNNABLE
        self.runnable.append(fiber)
        try:
            tick = self.tick + 1  # as in park
            if tick & 7 and not self.timers and not w[self.attention]:
                self.tick = w[self.tick_word] = tick
                following = self.runnable.popleft()
            else:
                following = self._fiber_for(self._pick())
        except BaseException:
            self._pick = self._ruined  # type: ignore[method-assign]
            w[self.attention] = 1  # the short way does not ask _pick
            raise
        try:
            if following is not fiber:
                self.cur = following
                following.switch()
                self.cur = fiber
            self.g = w[self.running] = g
            w[g + G_STATUS] = _RUNNING
        except BaseException:
            self._resumed(fiber)
            raise

    def _resumed(self, fiber: Fiber) -> None:
        """A signal handler raised just when that fiber was switched to, which goes on with that, as who it is."""
        self.cur = fiber
        self.g = self.w[self.running] = g = fiber.g
        if fiber.timed_out:  # as in park
            fiber.timed_out = False
        else:
            self.w[g + G_STATUS] = _RUNNING

    def waits(self) -> bool:
        return self.cur is not self.hub and super().waits()

    def take_delivery(self) -> None:
        if self.waits():
            self.park()

    def ready(self, g: int) -> None:
        if self.w[g + G_M] == self.slot:
            self.runnable.append(self.fibers[g])
        else:
            super().ready(g)

    def interrupted(self) -> NoReturn:
        self.halt()

    # ------------------------------------------------------------ picking
    def _wait_a_moment(self) -> Any:
        """What to run next, if that comes at once: a reply is often on its way. None if it does not; `waited` is set.

        Who parks does it before it goes to the hub: where it is itself the next, no switch is needed at all.
        """
        w = self.w
        attention = self.attention
        for _ in range(SPIN_INBOX):
            if w[attention] or w[S_GQ]:
                return self._pick()
        self.waited = True
        return None

    def _fiber_for(self, picked: Any) -> Any:
        """Where to switch to, to run what was picked: a fiber, or the hub. Runs: in any fiber."""
        if type(picked) is int:
            if self.pool:
                fiber = self.pool.pop()
                fiber.g = picked
                return fiber
            # A greenlet starts with the recursion depth, and on top of the C stack, of whoever starts it: only the
            # hub, where both are small, starts fibers. Else the 1000th in a row would overflow.
            self.to_start = picked
            return self.hub
        # Not "picked or": a greenlet that has not started is false.
        return self.hub if picked is None else picked

    def _fresh(self, g: int) -> Fiber:
        """A fiber that will start `g`. Runs: in the hub."""
        fiber = self.pool.pop() if self.pool else Fiber(self)
        fiber.g = g
        return fiber

    def _pick(self) -> Any:
        """What to run next: a started goroutine's fiber, the base of one that has not started, or None."""
        w = self.w
        self.tick = tick = self.tick + 1
        w[self.tick_word] = tick
        if w[self.attention] and self._attend():
            return None
        if self.timers:
            self._fire_timers()
        runnable = self.runnable
        if runnable and tick & 7:
            return runnable.popleft()
        g = self._unstarted(tick)
        if g:
            return g
        if runnable:
            return runnable.popleft()
        return None

    def _ruined(self) -> NoReturn:
        """In the place of :meth:`_pick`, once an exception cut that off in the middle (no stack was left, or a signal
        handler raised): nobody knows any more what is to run here. Dying lets the supervisor put it right.
        """
        tell("mproc_go: an exception cut the scheduler of this worker off in the middle; it ends")
        os._exit(70)

    def _unstarted(self, tick: int) -> int:
        """A goroutine that has not started, from our P or the global queue; 0 if there is none."""
        w = self.w
        p = w[self.base + M_P] - 1
        if p < 0:
            return 0
        resident = len(self.fibers)
        if resident and w[S_PIDLE] and idle.better_placed(w, resident) and idle.any_work(w):
            idle.pass_on(self)
            return 0
        if tick % GLOBAL_EVERY or not w[S_GQ]:
            g = runq.get(self, p)
            if g or not w[S_GQ]:
                return g
            taken = runq.get_global(self, RUNQ // 2, w[S_GOMAXPROCS])
        else:
            taken = runq.get_global(self, 1)
        if not taken:
            return 0
        if len(taken) > 1:
            self._keep(p, taken[1:])
        return taken[0]

    def _keep(self, p: int, gs: list[int]) -> None:
        """Queue goroutines at our P, and what does not fit globally."""
        rest = runq.put_many(self, p, gs)
        if rest:
            runq.put_global(self, rest)

    def _attend(self) -> bool:
        """Answer the doorbell: look at everything others may want of us; True if there is no P to run anything with."""
        w = self.w
        w[self.attention] = 0
        lock = self.locks[inbox_lock(self.slot)]
        self.enter(lock)  # also the fence between clearing the bell and looking
        g = w[self.inbox]
        arrived = []
        while g:
            arrived.append(self.fibers[g])
            # So that whoever repairs after a dead waker can tell a delivered goroutine from one that never will be.
            # What it waited for stays: who buries it goes by that.
            w[g + G_STATUS] = w[g + G_STATUS] & ~states.STATUS_MASK | states.RUNNABLE
            g = w[g + R_LINK]
        w[self.inbox] = 0  # publishes: they are ours
        self.leave(lock)
        arrived.reverse()  # last in, first out made them come in reverse
        self.runnable.extend(arrived)
        returned = self.returned
        while returned:
            g = returned.popleft()
            w[g + G_DECIDE] = OUT_OK | self.slot << 32
            self.runnable.append(self.fibers[g])
        if w[H_STOP]:
            self.halt()
        if w[self.base + M_YIELD]:
            w[self.base + M_YIELD] = 0
            idle.yield_p(self)
        if w[self.base + M_DUMP] != w[self.base + M_REPLIED]:
            dump.answer(self)
        if w[S_ORPHANS]:
            self.process.refs.adopt_orphans(self)
        if w[S_ADRIFT]:
            w[S_ADRIFT] = 0
            for adopt in repairs.ADOPT:
                adopt(self)
        if w[self.base + M_RETIRE]:
            w[self.base + M_RETIRE] = 0
            self._retire()
        return not w[self.base + M_P]

    def deliver_local(self, g: int) -> None:
        """Resume a goroutine of this worker. Runs: in any thread of the process, holding the interpreter lock.

        No fence is needed: the hub does not give up the interpreter lock between its last look and its sleep.
        """
        self.returned.append(g)
        self.w[self.attention] = 1
        note.wake(self, self.slot)

    def wait_outside(self, deadline: float | None = None) -> int:
        """Park until :meth:`deliver_local`; the decision word was cleared before that could be called."""
        external = self.base + M_EXTERNAL
        self.w[external] += 1
        try:
            return self.park(deadline)
        finally:
            self.w[external] -= 1

    def _fire_timers(self) -> None:
        timers = self.timers
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            fiber = heapq.heappop(timers)[2]
            if fiber is None:
                self.dead_timers -= 1
            elif not self.w[fiber.g + G_DECIDE]:  # else its delivery is on the way
                fiber.timed_out = True
                self.runnable.append(fiber)

    def _drop_dead_timers(self) -> None:
        self.timers = [timer for timer in self.timers if timer[2] is not None]
        heapq.heapify(self.timers)
        self.dead_timers = 0

    # ------------------------------------------------------------ the hub
    def run(self) -> NoReturn:
        """Schedule for ever. Runs: in the main greenlet of the worker."""
        idle.acquire_p(self)
        self.w[self.tick_word] = 1  # we are here, with a P or asleep: no longer one that is just starting (sysmon.py)
        while True:
            fiber = self.find()
            self.cur = fiber
            fiber.switch()
            self.cur = self.hub

    def find(self) -> Fiber:
        """The next fiber to run; sleeps until there is one. Twin: sched/idle.py (announce, then look)."""
        w = self.w
        outsiders = self.process.outsiders
        self.g = w[self.running] = 0
        if self.to_start:
            g, self.to_start = self.to_start, 0
            return self._fresh(g)
        while True:
            if w[self.base + M_P]:
                picked = self._pick()
                fiber: Fiber | None = self._fresh(picked) if type(picked) is int else picked
                if fiber is None and not self.waited:
                    picked = self._wait_a_moment()  # before others are told that we search
                    fiber = self._fresh(picked) if type(picked) is int else picked
                    if fiber is None and not self.waited:
                        continue
                self.waited = False
                if fiber is None:
                    if w[self.base + M_P] and idle.start_spinning(self):
                        fiber = self._steal()
                    if fiber is None:
                        self.process.refs.settle(self)
                        if self._spin():
                            continue
                        outsiders.look()
                        if idle.release_p(self):
                            self._sleep()
                        continue
                if w[self.base + M_SPINNING]:
                    idle.found_work(self)
                return fiber
            outsiders.look()
            note.announce(self)  # our P was taken: get one before anything runs
            self._sleep()

    def _steal(self) -> Fiber | None:
        """Take half of what another P has queued. Source: Go proc.go stealWork."""
        w = self.w
        mine = w[self.base + M_P] - 1
        if mine < 0:  # taken since we became a searcher: nowhere to put what is stolen
            return None
        procs = w[S_GOMAXPROCS]
        start = random.randrange(procs)
        for i in range(procs):
            p = (start + i) % procs
            if p == mine or not runq.length(w, p):
                continue
            taken = runq.grab(self, p)
            if taken:
                w[self.base + M_STEALS] += 1
                if len(taken) > 1:
                    self._keep(mine, taken[1:])
                return self._fresh(taken[0])
        return None

    def _spin(self) -> bool:
        """Look around a little before sleeping; True if there seems to be something to do."""
        w = self.w
        attention = self.attention
        for i in range(SPIN):
            if w[attention] or w[S_GQ]:
                return True
            if not i & 15 and (idle.any_work(w) or (self.timers and self.timers[0][0] <= time.monotonic())):
                return True
        return False

    def _sleep(self) -> None:
        """Sleep until we have a P and something to do. We have announced it and hold no P."""
        w = self.w
        outsiders = self.process.outsiders
        deadline = self.base + M_DEADLINE
        while not w[self.base + M_P]:
            if w[self.attention]:
                self._attend()
            timeout = None
            if self.timers:
                timeout = max(0.0, self.timers[0][0] - time.monotonic())
            wanted = bool(self.runnable) or timeout == 0
            if idle.acquire_p(self, wanted, wanted or idle.any_work(w)):
                break
            if wanted:
                timeout = MAX_P_WAIT_S  # queued for a P; a repair may forget that we are
            w[deadline] = 0 if timeout is None else int((time.monotonic() + timeout) * 1e9)
            if outsiders.look():
                timeout = LOOK_S if timeout is None else min(timeout, LOOK_S)
            note.sleep(self, timeout)
            note.announce(self)
        w[deadline] = 0
        note.awake(self)

    def _retire(self) -> None:
        """End this worker, a spare that was of no use for long, unless something is bound to it."""
        refs = self.process.refs
        refs.settle(self)
        if self.fibers or self.runnable or refs.holds or self.w[self.base + M_P] or self._has_helpers():
            return
        if idle.leave(self):
            flush_all(self)
            self.halt()

    def _has_helpers(self) -> bool:
        """Whether other threads of this process have slots: an alarm with timers that nobody else would look at."""
        w = self.w
        slots = map(slot_base, range(w[H_MAX_MS] + 1, w[H_SLOTS]))
        return any(w[base + M_KIND] and w[base + M_HOST] == self.slot for base in slots)

    def halt(self) -> NoReturn:
        """The program is over: leave at once. Goroutines still running are abandoned, as in Go."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # a closed pipe, at the very end: nobody is left to tell
                continue
        self.w[self.base + M_KIND] = KIND_FREE  # not a death: Twin: supervisor/main.py collect
        os._exit(0)

    # ------------------------------------------------------------ running goroutines
    def run_fiber(self) -> Any:
        """Body of every fiber: run its goroutine, then the next one, until there are too many idle fibers."""
        fiber: Any = getcurrent()
        try:
            while True:
                self._execute(fiber, fiber.g)
                picked = self._pick()
                if type(picked) is int:
                    fiber.g = picked  # start the next one here: no switch at all
                    continue
                if len(self.pool) >= MAX_IDLE_FIBERS:
                    if picked is not None:
                        self.runnable.appendleft(picked)
                    return None  # to the hub, which is the parent
                self.pool.append(fiber)
                self.cur = following = self._fiber_for(picked)
                following.switch()
        except BaseException:
            # Nothing of the user's gets here: the goroutine's exceptions are caught where it runs.
            tell(traceback.format_exc().rstrip())
            os._exit(70)

    def _execute(self, fiber: Fiber, g: int) -> None:
        w = self.w
        self.cur = fiber
        self.g = w[self.running] = g
        w[g + G_STATUS] = _STARTING  # publishes: from here on it is ours
        w[g + G_M] = self.slot
        w[g + G_DECIDE] = 0
        self.fibers[g] = fiber
        w[self.base + M_RESIDENT] = len(self.fibers)
        fn: Any
        args: Any
        kwargs: Any
        fn = args = kwargs = None
        status, result = states.DONE, None
        try:
            fn, args, kwargs = args_of(self, g)
            result = fn(*args, **kwargs)
        except Goexit:
            pass
        except BaseException as exc:
            status, result = states.FAILED, exc
        del fn, args, kwargs  # what they hold is given up before the goroutine is seen to be over, and so is ...
        fiber.gr_context = None  # ... what it put into context variables, decimal's among them: the next finds none
        self.finish(g, status, result)
        result = None  # an exception's traceback refers to this frame: no cycle, so its handles go now

    def detach(self) -> None:
        """In a fork of the worker: its goroutine's function goes on here, and nothing else of the runtime does."""
        self.finish = self._end_of_fork  # type: ignore[method-assign]
        self._pick = self._end_of_fork  # type: ignore[method-assign]

    def _end_of_fork(self, g: int = 0, status: int = states.DONE, result: Any = None) -> NoReturn:
        """The function that forked has returned here too: the goroutine is the parent's, so this process ends."""
        code = 0
        if isinstance(result, SystemExit):
            code = result.code if isinstance(result.code, int) else int(result.code is not None)
        elif status == states.FAILED:
            tell(panics.traceback_text(result).rstrip())
            code = 1
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # closed: nobody is left to tell
                continue
        os._exit(code & 0xFF)

    def finish(self, g: int, status: int, result: Any) -> None:
        """End a goroutine: store its result for whoever holds its handle, wake them, free it if nobody does.

        Crash: the result is written before the status, which publishes it; waiters are decided after it, and the
        reaper completes the counts (_complete_end).
        """
        w = self.w
        if w[self.ph]:
            # An exception left a critical section: the lock has no holder any more. Dying frees it, and repairs.
            tell(panics.traceback_text(result).rstrip() if status == states.FAILED else "a lock was left taken")
            os.abort()
        # Cost: 1.2 us where nobody holds a handle = 1 lock, 12 words
        held = w[g + R_REFS] & REFS_MASK > 1  # nobody can make a handle of it anew once there is none
        kept = w[g + G_RETRY_RECORD] if w[g + G_CODE] & G_RETRY else 0
        quiet = is_quiet(w, g)
        # Its address lies behind a short result: dead before the status, it is what the goroutine runs again from.
        inline_bytes = RETRY_INLINE_BYTES if kept else G_INLINE_BYTES
        hdr, text = 0, ""
        body: message.Body = b""
        exc: Any = None
        if status == states.FAILED:
            exc = result
            text = panics.traceback_text(exc)
        if held:
            if exc is None:
                try:
                    hdr, body = message.pack(self, result, inline_bytes)
                except BaseException as error:
                    exc, status = error, states.FAILED
                    if isinstance(error, EncodeError):
                        text = f"{error}\n(the result of a goroutine whose handle is held must be able to travel)\n"
                    else:
                        text = panics.traceback_text(error)
            if exc is not None:
                hdr, body = message.stow(self, *wire.encode_exception(exc, text), inline_bytes)
                hdr |= HDR_EXCEPTION
        result = None
        del self.fibers[g]
        w[self.base + M_RESIDENT] = len(self.fibers)
        ph = self.ph
        lock = self.locks[object_lock(g)]
        w[ph] = lock.phase
        if not lock.acquire(False):
            lock.contended()
        if w[lock.gen_word] != lock.gen:
            lock = lock.renewed(w, ph)
        if hdr:
            message.put(w, self.mem, g + G_MSG, hdr, body)
        else:
            w[g + G_MSG] = 0
        refs = w[g + R_REFS] - 1
        finished = w[self.base + M_FINISHED] + 1
        w[g + G_DECIDE] = finished << 32 | refs  # it never waits again: redo record of the two stores below
        w[g + G_STATUS] = status  # publishes
        if hdr & HDR_SPILLED:
            message.let_go(self, body)
        woken = waitq.decide_all(w, g + G_JOINQ, self.decides) if w[g + G_JOINQ] else ()
        w[g + R_REFS] = refs
        w[self.base + M_FINISHED] = finished
        if kept:  # before, the reaper would have it freed with the last handle
            take_retry_record(self, g, G_RETRY)
        lock.release()
        w[ph] = 0
        if kept:
            free_retry_record(self, kept)
        for waiter in woken:
            self.ready(waiter)
        # Nobody held it, or whoever did let go while we were storing the result.
        if exc is not None and (not held or not refs) and not quiet:
            panics.panic(self, g, exc, text)
        if not refs:
            if hdr:
                message.discard_at(self, g + G_MSG)
            w[g + R_GEN] += 1
            give(self, POOL_G, g)


CALLS_OUT.update(code.__code__ for code in (WorkerM.run_fiber, WorkerM._execute))
