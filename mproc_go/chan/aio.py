"""Channel operations of asyncio tasks: they wait without blocking their loop.

A task that must wait has a goroutine record of its own, by whose sudog it stands in the channel's queue like any other
goroutine, first come first served. Its M is the process's *mailbox*: one thread, which sleeps at its inbox as a worker
does, and tells the loops of the tasks that were decided, with one ``call_soon_threadsafe`` a loop for all that came at
once. So 10,000 tasks wait with one thread, also in several loops of several threads.

1. Try; most operations need no waiting, and then nothing here is used.
2. Take a record and make a future; under the channel's lock try again, else enqueue. Await the future.
3. A waker decides the record and delivers it to the mailbox (sched/deliver.py), or, where it is an asyncio operation of
   the same process, wakes the future itself.
4. The task reads its decision and its message, and frees the record.

A task may be cancelled at any moment. Under the channel's lock it sees whether it was decided. If not, it leaves the
queue, and nothing happened. If it was, a received message is given back (the next one again); a message that was sent
can't be taken back, so the operation returns as done and the cancellation comes at the next turn of the loop, unless
whoever cancelled (``asyncio.timeout``) has taken it back by then. So ``CancelledError`` always means: not done.

A record is freed by whoever comes second: the delivery, or the task that does not need it any more. ``_tasks`` says
which: taking the record out of it is one step.

Crash: the records are the process's, and of the mailbox's slot; the reaper takes them out of the queues with it.

Rejected: a thread for each waiting task; polling; a descriptor in each loop that wakers write to (a system call for
every message, by wakers that would need the descriptors of all processes).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from mproc_go.chan import ops
from mproc_go.chan.end import End, give_back
from mproc_go.errors import NotRunning, bug
from mproc_go.runtime.client import CHECK_S, ClientM
from mproc_go.runtime.message import Body, discard
from mproc_go.runtime.process import M, Process
from mproc_go.sched import states, waitq
from mproc_go.shm import note
from mproc_go.shm.layout import (
    CH_RECVQ,
    CH_SENDQ,
    G_DECIDE,
    G_GOID,
    G_JOINQ,
    G_M,
    G_PARENT,
    G_STATUS,
    G_SUDOG,
    H_STOP,
    KIND_MAILBOX,
    M_FINISHED,
    M_INBOX,
    M_KIND,
    OUT_MASK,
    OUT_OK,
    POOL_G,
    R_LINK,
    R_REFS,
    inbox_lock,
)
from mproc_go.shm.pool import give, take

Future = asyncio.Future[bool]

_ASYNCIO = states.ASYNCIO << states.REASON_SHIFT
# With nobody waiting the thread ends after this, in seconds, and gives its place back.
IDLE_S = 1.0


class _Waiting:
    """A task that waits.

    Attributes:
        future: its result is whether the task was decided; None once its loop is closed (so that we keep no task alive
            that nobody can run on).
    """

    __slots__ = ("future",)

    def __init__(self, future: Future) -> None:
        self.future: Future | None = future


class Mailbox:
    """The thread of one process that takes what was delivered to its asyncio tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._m: M | None = None
        self._error: BaseException | None = None
        self._tasks: dict[int, _Waiting] = {}  # that wait, or were decided and not told yet, by record
        self._records: set[int] = set()  # all that are in use
        # Coroutines that were thrown away while they waited: what to withdraw.
        self._abandoned: deque[tuple[End, int, int, Body]] = deque()

    # ------------------------------------------------------------ for the threads of loops
    def record(self, m: M, future: Future) -> int:
        """A goroutine record for a task that is about to wait. Blocks: until the thread runs, if it does not yet.

        Raises:
            SharedMemoryFull: no room for it.
            NotRunning: there is no room for one more thread.
        """
        g = take(m, POOL_G)
        try:
            with self._lock:
                if self._m is None:
                    self._start(m.process)
                assert self._m is not None
                home = self._m.slot
                self._records.add(g)
                self._tasks[g] = _Waiting(future)
        except BaseException:
            give(m, POOL_G, g)
            raise
        w = m.w
        w[g + G_JOINQ] = w[g + G_GOID] = w[g + G_PARENT] = w[g + G_DECIDE] = 0
        w[g + R_REFS] = 1
        waitq.settle_sudog(w, g)
        w[g + G_M] = home
        w[g + G_STATUS] = states.WAITING | _ASYNCIO
        w[g] = m.live  # publishes
        return g

    def free(self, m: M, g: int) -> None:
        """The task of `g` does not need it any more: free it, unless its delivery is still to come."""
        if self._tasks.pop(g, None) is None or not m.w[g + G_DECIDE]:
            self._free(m, g)

    def _free(self, m: M, g: int) -> None:
        m.w[g] = m.cached  # from here on nobody takes it for a goroutine
        m.w[g + G_STATUS] = states.DONE
        give(m, POOL_G, g)
        self._records.discard(g)

    def ready(self, m: M, g: int) -> None:
        """Deliver the decision of `g`, the short way where it is a task of this process."""
        if g in self._tasks:
            m.w[g + G_STATUS] = states.RUNNABLE | _ASYNCIO
            self._tell(m, (g,))
        else:
            m.ready(g)

    def abandon(self, end: End, g: int, hdr: int, body: Body) -> None:
        """Withdraw for a coroutine that is being thrown away. Safe in a finalizer, which must not take locks."""
        self._abandoned.append((end, g, hdr, body))
        sleeper = self._m
        if sleeper is not None:
            sleeper.note.release()

    def _start(self, process: Process) -> None:
        """`_lock` is held."""
        ready = threading.Event()
        threading.Thread(target=self._run, args=(process, ready), name="mproc-go asyncio", daemon=True).start()
        ready.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    # ------------------------------------------------------------ the thread
    def _run(self, process: Process, ready: threading.Event) -> None:
        try:
            m = process.thread()
            assert isinstance(m, ClientM)
            w = m.w
            w[m.base + M_INBOX] = 0
            w[m.base + M_KIND] = KIND_MAILBOX  # from now on deliveries go through the inbox
            w[m.g + G_STATUS] = states.RUNNING | _ASYNCIO
            w[m.base + M_FINISHED] += 1  # num_goroutine counts goroutines of the program's
            self._m = m
        except BaseException as error:
            self._error = error
            return
        finally:
            ready.set()
        try:
            while process.over is None and not w[H_STOP] and self._turn(m):
                pass
        except NotRunning:
            pass  # the supervisor died; the tasks say so
        finally:
            w[m.base + M_FINISHED] -= 1  # it is counted as ended when its slot is given back
            if self._m is m:  # the program is over
                with self._lock:
                    self._m = None
                left, self._tasks = self._tasks, {}
                _resolve(left.values(), False)

    def _turn(self, m: ClientM) -> bool:
        """Sleep until there is something to do, and do it; False if there is nobody left to do it for."""
        note.announce(m)
        arrived = self._arrived(m)
        if not arrived and not self._abandoned and not m.w[H_STOP]:
            woken = note.sleep(m, CHECK_S if self._records else IDLE_S)
            note.awake(m)
            if woken:
                return True
            if self._records:
                m.process.check_supervisor()
                self._let_go()
                return True
            with self._lock:
                if not self._records:
                    self._m = None
                return self._m is not None
        note.awake(m)
        self._tell(m, arrived)
        while self._abandoned:
            end, g, hdr, body = self._abandoned.popleft()
            withdraw(m, self, end, g, hdr, body)
        return True

    def _let_go(self) -> None:
        """Keep no task alive whose loop is closed."""
        for waiting in list(self._tasks.values()):
            future = waiting.future
            if future is not None and future.get_loop().is_closed():
                waiting.future = None

    def _arrived(self, m: M) -> list[int]:
        """Take the inbox. Twin: runtime/worker.py _attend."""
        w, inbox = m.w, m.base + M_INBOX
        if not w[inbox]:
            return []
        arrived = []
        lock = m.locks[inbox_lock(m.slot)]
        m.enter(lock)
        g = w[inbox]
        while g:
            arrived.append(g)
            # So that whoever repairs after a dead waker can tell a delivered one from one that never will be.
            w[g + G_STATUS] = states.RUNNABLE | _ASYNCIO
            g = w[g + R_LINK]
        w[inbox] = 0  # publishes: they are ours
        m.leave(lock)
        arrived.reverse()  # last in, first out made them come in reverse
        return arrived

    def _tell(self, m: M, arrived: Iterable[int]) -> None:
        """Wake the tasks of the records that were delivered, those of a loop at once."""
        told = []
        for g in arrived:
            waiting = self._tasks.pop(g, None)
            if waiting is None:  # its task is done with it
                self._free(m, g)
            else:
                told.append(waiting)
        _resolve(told, True)


def _resolve(told: Iterable[_Waiting], decided: bool) -> None:
    """Give their futures a result, each in its loop."""
    loops: dict[Any, list[Future]] = {}
    for waiting in told:
        future = waiting.future
        if future is not None:
            loops.setdefault(future.get_loop(), []).append(future)
    here = _loop_here() if loops else None
    for loop, futures in loops.items():
        if loop is here:
            _set(futures, decided)
            continue
        try:
            loop.call_soon_threadsafe(_set, futures, decided)
        except RuntimeError:
            # The loop is closed. Its coroutines give back what they were given when they are thrown away.
            pass


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _set(futures: Iterable[Future], decided: bool) -> None:
    """Runs: in the loop of all of them."""
    for future in futures:
        if not future.done():
            future.set_result(decided)


def of(m: M) -> Mailbox:
    """The mailbox of this process, for the runtime of `m`."""
    mailbox: Mailbox = m.process.mailbox or m.process.helper("mailbox", Mailbox)
    return mailbox


# ---------------------------------------------------------------- one operation
async def wait(end: End, hdr: int, body: Body) -> tuple[int, int, Body]:
    """Send the message, or receive where the header is 0, waiting for it if need be.

    Returns: ops.DONE or ops.CLOSED, and the message that was received.
    Raises:
        CancelledError: nothing was done; the message to send is freed.
        NotRunning, ...: as M.interrupted.
    """
    m = end._m()
    mailbox = of(m)
    w, ch, lock = m.w, end._base, end._lock
    future: Future = asyncio.get_running_loop().create_future()
    try:
        g = mailbox.record(m, future)
    except BaseException:
        discard(m, hdr, body)
        raise
    got_hdr = 0
    got: Body = b""
    m.enter(lock)
    if hdr:
        outcome, woken = ops.send(m, ch, hdr, body)
    else:
        outcome, got_hdr, got, woken = ops.recv(m, ch)
    waits = outcome == ops.MUST_WAIT
    if waits and hdr:
        ops.wait_to_send(m, ch, g, hdr, body)
    elif waits:
        ops.wait_to_receive(m, ch, g)
    m.leave(lock)
    if not waits:
        mailbox.free(m, g)
        if woken:
            mailbox.ready(m, woken)
        if hdr and outcome == ops.CLOSED:
            discard(m, hdr, body)
        return outcome, got_hdr, got
    try:
        decided = await future
    except GeneratorExit:
        mailbox.abandon(end, g, hdr, body)
        raise
    except BaseException as error:
        if m.process.over is not None:
            raise
        sent = withdraw(end._m(), mailbox, end, g, hdr, body)
        if sent and isinstance(error, asyncio.CancelledError):
            _cancel_later(error)
            return ops.DONE, 0, b""
        raise
    m = end._m()  # the loop may run in another thread now
    if not decided:
        m.interrupted()
        bug("a task was woken for no reason")
    decision = w[g + G_DECIDE]
    if decision & OUT_MASK == OUT_OK:
        if not hdr:
            got_hdr, got = ops.take_given(m, g + G_SUDOG)
        outcome = ops.DONE
    else:
        outcome = ops.CLOSED
        discard(m, *ops.take_given(m, g + G_SUDOG))
    mailbox.free(m, g)
    return outcome, got_hdr, got


def withdraw(m: M, mailbox: Mailbox, end: End, g: int, hdr: int, body: Body) -> bool:
    """Leave the queue, give back what was received, free the record; return whether the message was sent."""
    w, ch, lock = m.w, end._base, end._lock
    m.enter(lock)
    decision = w[g + G_DECIDE]
    if not decision:
        waitq.remove(w, ch + (CH_SENDQ if hdr else CH_RECVQ), g + G_SUDOG)
    m.leave(lock)
    done = decision & OUT_MASK == OUT_OK
    if done and not hdr:
        give_back(m, lock, ch, *ops.take_given(m, g + G_SUDOG))
    elif not done:
        discard(m, *ops.take_given(m, g + G_SUDOG))
    mailbox.free(m, g)
    return done and bool(hdr)


def _cancel_later(error: asyncio.CancelledError) -> None:
    """Cancel the task at the next turn of its loop, unless whoever asked for that has taken it back by then."""
    task = asyncio.current_task()
    if task is None:
        return
    asked = task.cancelling()

    def cancel() -> None:
        if asked and task.cancelling() >= asked and not task.done():
            task.cancel(*error.args[:1])
            task.uncancel()  # it is no new request

    asyncio.get_running_loop().call_soon(cancel)
