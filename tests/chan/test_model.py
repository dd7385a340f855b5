"""Random programs of channel operations, against a simple sequential model; hypothesis draws them.

Four goroutines in two processes, and three asyncio tasks in this one, do what they are told, one operation at a time
each, on three channels. The model says of every operation whether it is done at once or waits, whom it wakes, and what
each of them gets. After each operation everybody who should be done has answered, the queues are as long as they should
be, and ``len`` is exact. Tasks are also cancelled, while they wait and in the moment they get what they wait for.
"""

from __future__ import annotations

import asyncio
import threading

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mproc_go import Chan, ChanClosed, WouldBlock, default, go, select
from mproc_go.chan import ops
from mproc_go.chan.end import give_back
from tests.chan.support import DEADLINE_S, until, waiters

AGENTS = 4
TASKS = 3
CHANNELS = 3
# Short enough to wait for, and long enough for nothing: whatever it meets, it waits in vain.
SHORT_S = 0.002

NOT_READY, CLOSED = "not ready", "closed"


# ---------------------------------------------------------------- what goroutines do
def do_select(chans, cases, timeout):
    made = []
    for what, k, value in cases:
        if what == "nil":
            made.append(None)
        elif what == "default":
            made.append(default)
        else:
            made.append(chans[k].recv if what == "recv" else (chans[k].send, value))
    return tuple(select(*made, timeout=timeout))


OPERATIONS = {
    "send": lambda chans, k, v, timeout: chans[k].send(v, timeout),
    "send_nowait": lambda chans, k, v, timeout: chans[k].send_nowait(v),
    "recv": lambda chans, k, timeout: chans[k].recv(timeout),
    "recv_ok": lambda chans, k, timeout: chans[k].recv_ok(timeout),
    "recv_nowait": lambda chans, k, timeout: chans[k].recv_nowait(),
    "send_many": lambda chans, k, values: chans[k].send_many(values),
    "recv_many": lambda chans, k, n: chans[k].recv_many(n),
    "close": lambda chans, k: chans[k].close(),
    "select": do_select,
}


def agent(chans, commands, answers):
    for name, args in commands:
        try:
            answer = OPERATIONS[name](chans, *args)
        except ChanClosed:
            answer = CLOSED
        except (WouldBlock, TimeoutError):
            answer = NOT_READY
        answers.send(answer)


async def receive_ok(ch):
    try:
        return await anext(ch), True
    except StopAsyncIteration:
        return None, False


TASK_OPERATIONS = {
    "send": lambda chans, k, v: chans[k].asend(v),
    "recv": lambda chans, k: chans[k].arecv(),
    "recv_ok": lambda chans, k: receive_ok(chans[k]),
}


class Loop:
    """An event loop in a thread, and the tasks in it."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.tasks, self.answers = {}, {}

    def tell(self, who, chans, name, args, timeout):
        self.answers[who] = asyncio.run_coroutine_threadsafe(self._do(who, chans, name, args, timeout), self.loop)

    async def _do(self, who, chans, name, args, timeout):
        self.tasks[who] = asyncio.current_task()
        try:
            async with asyncio.timeout(timeout):
                return await TASK_OPERATIONS[name](chans, *args)
        except ChanClosed:
            return CLOSED
        except (TimeoutError, asyncio.CancelledError):
            return NOT_READY

    def cancel(self, who, first=lambda: None):
        """Cancel what the task does, in one turn of the loop with `first`, whose result is returned."""

        async def both():
            result = first()
            self.tasks[who].cancel()
            return result

        return asyncio.run_coroutine_threadsafe(both(), self.loop).result(DEADLINE_S)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


# ---------------------------------------------------------------- what the model says of it
class ModelChan:
    def __init__(self, capacity):
        self.capacity = capacity
        self.buffer, self.given_back = [], []
        self.closed = False
        self.recvq, self.sendq = [], []  # (agent, value or None), first come first

    def can_recv(self):
        return bool(self.given_back or self.buffer or self.sendq or self.closed)

    def can_send(self):
        return bool(self.recvq or self.closed or len(self.buffer) < self.capacity)


class Model:
    """Channels, who waits in them, and what is to be answered: for each agent a list of answers that are right."""

    def __init__(self, capacities):
        self.chans = [ModelChan(capacity) for capacity in capacities]
        self.waits = {}  # agent -> (operation, arguments)
        self.answers = {}
        self.resuming = []  # (agent, channel, values): batches that go on once the operation of others is done

    def finish(self, who, k, side, value, ok):
        """The wait of the agent ends on that side of channel `k`."""
        name, args = self.waits[who]
        self.leave(who)
        if name == "select":
            right = [
                (i, value, ok) if side == "recv" else (i, None, True)
                for i, (what, where, _) in enumerate(args[0])
                if (what, where) == (side, k)
            ]
            self.answers[who] = [CLOSED] if side == "send" and not ok else right
        elif name == "recv_ok":
            self.answers[who] = [(value, ok)]
        elif name == "recv_many":
            self.answers[who] = [[value] if ok else []]
        elif not ok:
            self.answers[who] = [CLOSED]
        elif name == "send_many":
            del self.answers[who]
            self.resuming.append((who, k, args[1]))
        else:
            self.answers[who] = [value if side == "recv" else None]

    def leave(self, who):
        """The wait of the agent ends, and nothing was done."""
        del self.waits[who]
        for ch in self.chans:
            ch.recvq = [place for place in ch.recvq if place[0] != who]
            ch.sendq = [place for place in ch.sendq if place[0] != who]
        self.answers[who] = [NOT_READY]

    def give_back(self, k, value):
        """The value is the next one again, as if it had not been received."""
        ch = self.chans[k]
        if ch.recvq:
            self.finish(ch.recvq[0][0], k, "recv", value, True)
        else:
            ch.given_back.insert(0, value)

    def send(self, k, value):
        """Whether it is done at once: None if it waits."""
        ch = self.chans[k]
        if ch.recvq:
            self.finish(ch.recvq[0][0], k, "recv", value, True)
            return True
        if ch.closed:
            return False
        if len(ch.buffer) < ch.capacity:
            ch.buffer.append(value)
            return True
        return None

    def recv(self, k):
        """(value, ok), or None if it waits."""
        ch = self.chans[k]
        if ch.given_back:
            return ch.given_back.pop(0), True
        if ch.buffer:
            value = ch.buffer.pop(0)
            if ch.sendq:
                who, waiting = ch.sendq[0]
                ch.buffer.append(waiting)
                self.finish(who, k, "send", None, True)
            return value, True
        if ch.sendq:
            who, value = ch.sendq[0]
            self.finish(who, k, "send", None, True)
            return value, True
        return (None, False) if ch.closed else None

    def recv_many(self, k, n):
        got = []
        while len(got) < n and (one := self.recv(k)) is not None and one[1]:
            got.append(one[0])
        return got if got or self.chans[k].closed else None

    def close(self, k):
        ch = self.chans[k]
        if ch.closed:
            return CLOSED
        ch.closed = True
        while ch.recvq:
            self.finish(ch.recvq[0][0], k, "recv", None, False)
        while ch.sendq:
            self.finish(ch.sendq[0][0], k, "send", None, False)
        return None

    def send_many(self, who, k, values):
        for i, value in enumerate(values):
            sent = self.send(k, value)
            if sent is False:
                self.answers[who] = [CLOSED]
                return
            if sent is None:
                self.waits[who] = ("send_many", (k, values[i + 1 :]))
                self.chans[k].sendq.append((who, value))
                return
        self.answers[who] = [None]

    def resume(self):
        while self.resuming:
            self.send_many(*self.resuming.pop(0))


WHO = st.integers(0, AGENTS + TASKS - 1)
CHANNEL = st.integers(0, CHANNELS - 1)
TIMEOUT = st.sampled_from([None, None, None, 0, SHORT_S])
CASE = st.tuples(st.sampled_from(["recv", "send", "recv", "send", "nil"]), CHANNEL)


class Programs(RuleBasedStateMachine):
    """The real thing and the model, side by side. Agents from AGENTS on are tasks."""

    loop: Loop

    @initialize(capacities=st.tuples(*[st.integers(0, 2)] * CHANNELS))
    def start(self, capacities):
        self.chans = [Chan(capacity) for capacity in capacities]
        self.commands = [Chan(1) for _ in range(AGENTS)]
        self.replies = [Chan(1) for _ in range(AGENTS)]
        self.handles = [go(agent, self.chans, self.commands[i], self.replies[i]) for i in range(AGENTS)]
        self.model = Model(capacities)
        self.count = 0

    # -------------------------------------------------------- both sides of a step
    def idle(self, agents=AGENTS):
        return [i for i in range(agents) if i not in self.model.waits]

    def one_of(self, pick):
        """An idle agent or task, or None."""
        idle = self.idle(AGENTS + TASKS)
        return idle[pick % len(idle)] if idle else None

    def value(self):
        self.count += 1
        return self.count

    def tell(self, name, *args):
        """Have an idle agent do it; which one."""
        who = self.idle()[0]
        self.commands[who].send((name, args))
        return who

    def tell_one(self, who, name, k, *args, timeout):
        """Have that agent or task send or receive."""
        if who < AGENTS:
            self.commands[who].send((name, (k, *args, timeout)))
        else:
            self.loop.tell(who, self.chans, name.removesuffix("_nowait"), (k, *args), timeout)

    def answer(self, who):
        if who >= AGENTS:
            return self.loop.answers.pop(who).result(DEADLINE_S)
        return self.replies[who].recv(DEADLINE_S)

    def settle(self):
        """Whoever is done has said so, with a right answer; whoever waits stands in its queues."""
        model = self.model
        model.resume()
        for who, right in model.answers.items():
            assert self.answer(who) in right
        model.answers.clear()
        for ch, expected in zip(self.chans, model.chans, strict=True):
            places = len(expected.recvq), len(expected.sendq) + len(expected.given_back)
            until(lambda ch=ch, places=places: waiters(ch) == places, f"{places} wait")
            assert len(ch) == len(expected.buffer)
            assert ch.closed == expected.closed

    def wait(self, who, name, args, timeout, *places):
        """The agent waits in those queues, or its time runs out."""
        if timeout is not None:
            self.model.answers[who] = [NOT_READY]
            return
        self.model.waits[who] = (name, args)
        for queue, value in places:
            queue.append((who, value))

    # -------------------------------------------------------- the operations
    # No preconditions: a select chooses at random, and what hypothesis draws must not depend on that.
    @rule(k=CHANNEL, timeout=TIMEOUT, nowait=st.booleans(), pick=WHO)
    def send(self, k, timeout, nowait, pick):
        who = self.one_of(pick)
        if who is None:
            return
        timeout, name = (0, "send_nowait") if nowait and timeout == 0 else (timeout, "send")
        value = self.value()
        self.tell_one(who, name, k, value, timeout=timeout)
        sent = self.model.send(k, value)
        if sent is None:
            self.wait(who, name, (k,), timeout, (self.model.chans[k].sendq, value))
        else:
            self.model.answers[who] = [None if sent else CLOSED]
        self.settle()

    @rule(k=CHANNEL, timeout=TIMEOUT, name=st.sampled_from(["recv", "recv_ok", "recv_nowait"]), pick=WHO)
    def recv(self, k, timeout, name, pick):
        who = self.one_of(pick)
        if who is None:
            return
        if name == "recv_nowait":
            timeout = 0
        self.tell_one(who, name, k, timeout=timeout)
        got = self.model.recv(k)
        if got is None:
            self.wait(who, name, (k,), timeout, (self.model.chans[k].recvq, None))
        elif name == "recv_ok":
            self.model.answers[who] = [got]
        else:
            self.model.answers[who] = [got[0] if got[1] else CLOSED]
        self.settle()

    @rule(k=CHANNEL, n=st.integers(0, 4))
    def send_many(self, k, n):
        # A batch goes on by itself after others were woken: two at once would race, and so would who takes many.
        if not self.idle() or {"send_many", "recv_many"} & {w[0] for w in self.model.waits.values()}:
            return
        values = [self.value() for _ in range(n)]
        self.model.send_many(self.tell("send_many", k, values), k, values)
        self.settle()

    @rule(k=CHANNEL, n=st.integers(1, 4))
    def recv_many(self, k, n):
        if not self.idle():
            return
        who = self.tell("recv_many", k, n)
        got = self.model.recv_many(k, n)
        if got is None:
            self.wait(who, "recv_many", (k, n), None, (self.model.chans[k].recvq, None))
        else:
            self.model.answers[who] = [got]
        self.settle()

    @rule(k=CHANNEL, draw=st.integers(0, 3))
    def close(self, k, draw):
        if not self.idle():
            return
        if draw and not self.model.chans[k].closed:
            return  # else all are closed before much has happened
        who = self.tell("close", k)
        self.model.answers[who] = [self.model.close(k)]
        self.settle()

    @rule(cases=st.lists(CASE, max_size=5), with_default=st.booleans(), timeout=TIMEOUT)
    def select(self, cases, with_default, timeout):
        if not self.idle():
            return
        value = self.value()
        cases = [(what, k, value) for what, k in cases]
        if with_default:
            cases.insert(len(cases) // 2, ("default", 0, None))
        chans = self.model.chans
        real = [(i, what, k) for i, (what, k, _) in enumerate(cases) if what in ("recv", "send")]
        ready = [(i, what, k) for i, what, k in real if getattr(chans[k], f"can_{what}")()]
        if not real and not with_default and timeout is None:
            return  # it would wait for ever
        who = self.tell("select", cases, timeout)
        if ready:
            self.chosen(who, self.answer(who), ready, value)
        elif with_default:
            self.model.answers[who] = [(len(cases) // 2 if len(cases) % 2 else (len(cases) - 1) // 2, None, False)]
        else:
            queues = [(getattr(chans[k], f"{what}q"), value if what == "send" else None) for _, what, k in real]
            self.wait(who, "select", (cases,), timeout, *queues)
        self.settle()

    def chosen(self, who, answer, ready, value):
        """One of the ready was done: which one, the answer says."""
        if answer == CLOSED:
            assert any(what == "send" and self.model.chans[k].closed for _, what, k in ready), (answer, ready)
            return
        index, got, ok = answer
        what, k = {i: (what, k) for i, what, k in ready}[index]
        if what == "send":
            assert (got, ok) == (None, True) and self.model.send(k, value)
        else:
            assert self.model.recv(k) == (got, ok)

    @rule(k=CHANNEL, receive=st.booleans())
    def main_polls(self, k, receive):
        """The main program does what needs no waiting; there is always something to do for it."""
        if receive:
            got = self.model.recv(k)
            assert select(self.chans[k].recv, default) == ((1, None, False) if got is None else (0, *got))
        else:
            value = self.value()
            sent = self.model.send(k, value)
            try:
                self.chans[k].send_nowait(value)
                assert sent
            except ChanClosed:
                assert sent is False
            except WouldBlock:
                assert sent is None
        self.settle()

    @rule(pick=WHO)
    def cancel(self, pick):
        """A task that waits is cancelled: it has done nothing, and is in no queue."""
        waiting = [who for who in self.model.waits if who >= AGENTS]
        if not waiting:
            return
        who = waiting[pick % len(waiting)]
        self.loop.cancel(who)
        self.model.leave(who)
        self.settle()

    @rule(k=CHANNEL, pick=WHO, receivers=st.booleans())
    def cancel_when_served(self, k, pick, receivers):
        """A task is cancelled in the moment its wait is over: what it received is given back, what it sent is sent."""
        queue = self.model.chans[k].recvq if receivers else self.model.chans[k].sendq
        waiting = [who for who, _ in queue if who >= AGENTS]
        if not waiting:
            return
        who, ch = waiting[pick % len(waiting)], self.chans[k]
        if receivers:
            value = self.value()
            self.loop.cancel(who, lambda: ch.send_nowait(value))
            assert self.model.send(k, value)
        else:
            assert self.loop.cancel(who, ch.recv_ok) == self.model.recv(k)
        if who in self.model.waits:  # somebody else was first
            self.model.leave(who)
        elif receivers:
            self.model.answers[who] = [NOT_READY]
            self.model.give_back(k, value)
        self.settle()

    @rule(k=CHANNEL)
    def give_back(self, k):
        """Receive, and give it back, as an asyncio task does that is cancelled in that moment."""
        expected = self.model.chans[k]
        if not (expected.given_back or expected.buffer or expected.sendq):
            return
        ch = self.chans[k]
        m = ch._m()
        m.enter(ch._lock)
        outcome, hdr, body, g = ops.recv(m, ch._base)
        m.leave(ch._lock)
        if g:
            m.ready(g)
        assert outcome == ops.DONE
        give_back(m, ch._lock, ch._base, hdr, body)
        # In between nobody but a batch that goes on can have been there, and it finds no receiver.
        value, _ = self.model.recv(k)
        self.model.give_back(k, value)
        self.settle()

    @invariant()
    def counted(self):
        """Nothing is in two places."""
        if hasattr(self, "model"):
            there = [v for ch in self.model.chans for v in (*ch.buffer, *ch.given_back)]
            assert len(there) == len(set(there))

    def teardown(self):
        if not hasattr(self, "model"):
            return
        for k in range(CHANNELS):
            if not self.chans[k].closed:
                self.chans[k].close()
                self.model.close(k)
        self.settle()
        for i in range(AGENTS):
            self.commands[i].close()
            self.handles[i].result(DEADLINE_S)
        for ch, expected in zip(self.chans, self.model.chans, strict=True):
            assert list(ch) == expected.given_back + expected.buffer


def test_random_programs(rt, seed):
    """What fails is printed as a program of the rules above."""
    machine = hypothesis.seed(seed)(Programs)
    machine.loop = Loop()
    try:
        check_programs(machine)
    finally:
        machine.loop.close()


def check_programs(machine):
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            # Not made smaller: what waits in vain takes a minute each time, and a select chooses anew.
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
