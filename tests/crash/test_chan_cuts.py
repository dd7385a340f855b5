"""A channel operation cut at every store: the channel is whole again after repair, and no message is lost or doubled."""

from __future__ import annotations

import pytest

from mproc_go.chan import ops
from mproc_go.chan.receiving import Receiving
from mproc_go.chan.sending import Sending
from mproc_go.codec import wire
from mproc_go.runtime.message import fetch, open_message, put
from mproc_go.sched import waitq
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from tests.crash.machine import Cut, cuts


class State:
    """A channel, and who waits on it with what."""

    def __init__(self, machine, cap, buffered, senders, receivers, selects=False, start=0):
        t = machine.threads[1]
        w = machine.words
        self.ch = ch = pool.take(t, L.POOL_OBJECT)
        self.ring = pool.take_block(t, cap * 64) + L.BLOCK_DATA if cap else 0
        w[ch + L.O_KIND] = L.KIND_CHAN
        w[ch + L.CH_CAP] = w[ch + L.CH_LIMIT] = cap
        w[ch + L.CH_RING] = self.ring
        w[ch + L.CH_HEAD] = w[ch + L.CH_TAIL] = start
        w[ch + L.CH_CLOSED] = w[ch + L.CH_RECVQ] = w[ch + L.CH_SENDQ] = 0
        w[ch] = t.live
        if cap:
            pool.put_block(t, self.ring - L.BLOCK_DATA)
        for value in range(buffered):
            hdr, data = wire.encode(value)
            assert ops.send(t, ch, hdr, data)[0] == ops.DONE
        self.senders = []
        for i in range(senders):
            g = machine.new_goroutine(t)
            self.senders.append((g, buffered + i))
            self._wait(machine, t, g, L.CH_SENDQ, buffered + i, selects)
        self.receivers = []
        for _ in range(receivers):
            g = machine.new_goroutine(t)
            self.receivers.append(g)
            self._wait(machine, t, g, L.CH_RECVQ, None, selects)
        self.sudog_of = {}

    def _wait(self, machine, t, g, q, value, selects):
        w = machine.words
        hdr, data = (0, b"") if value is None else wire.encode(value)
        if not selects:
            if value is None:
                ops.wait_to_receive(t, self.ch, g)
            else:
                ops.wait_to_send(t, self.ch, g, hdr, data)
            return
        s = pool.take(t, L.POOL_SUDOG) + L.SUDOG_BODY
        w[s + L.SG_G] = g
        w[s + L.SG_CASE] = 7
        w[s + L.SG_SEQ] = L.SG_RECEIVES if value is None else 0
        w[s + L.SG_SELECT] = 1
        put(w, machine.segment.mem, s + L.SG_MSG, hdr, data)
        w[s - L.SUDOG_BODY] = t.live
        waitq.enqueue(w, self.ch + q, s)

    def sudog(self, machine, g):
        """The sudog that a goroutine was decided by: its own one, or the select's."""
        w = machine.words
        for base in pool.records(w, L.POOL_SUDOG):
            if w[base] & 0xFF == L.REC_LIVE and w[base + L.SUDOG_BODY + L.SG_G] == g:
                return base + L.SUDOG_BODY
        return g + L.G_SUDOG


def value_at(machine, at):
    hdr, body = fetch(machine.words, machine.segment.mem, at)
    return wire.decode(hdr, body)


def outcome(machine, g):
    return machine.words[g + L.G_DECIDE] & L.OUT_MASK


def drain(machine, state):
    """Everything that is in the channel, or brought by a sender that still waits, in the order it comes out."""
    t = machine.threads[2]
    found = []
    while True:
        result, hdr, body, _ = ops.recv(t, state.ch)
        if result != ops.DONE:
            return found
        found.append(wire.decode(hdr, body))


def received(machine, state):
    """What the waiting receivers were given, first one first."""
    return [
        value_at(machine, state.sudog(machine, g) + L.SG_MSG)
        for g in state.receivers
        if outcome(machine, g) == L.OUT_OK
    ]


STATES = [
    (cap, buffered, senders, receivers)
    for cap in (0, 1, 3)
    for buffered in range(cap + 1)
    for senders, receivers in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2))
    if (not senders or buffered == cap) and (not receivers or not buffered)
]


@pytest.mark.parametrize("selects", [False, True], ids=["plain", "select"])
@pytest.mark.parametrize(("cap", "buffered", "senders", "receivers"), STATES)
def test_send_cut_anywhere(cap, buffered, senders, receivers, selects):
    """The message is there exactly once or not at all; everybody else's is untouched and in order."""

    def build(machine):
        return State(machine, cap, buffered, senders, receivers, selects, start=5)

    def operate(machine, state):
        hdr, data = wire.encode(99)
        return ops.send(machine.threads[0], state.ch, hdr, data)

    others = list(range(buffered + senders))
    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = received(machine, state) + drain(machine, state)
        assert [v for v in got if v != 99] == others, f"cut at store {n}: {got}"
        assert got.count(99) <= 1, f"cut at store {n}: {got}"
        if not died and not (senders or (buffered == cap and not receivers)):
            assert got.count(99) == 1


@pytest.mark.parametrize("selects", [False, True], ids=["plain", "select"])
@pytest.mark.parametrize(("cap", "buffered", "senders", "receivers"), STATES)
def test_recv_cut_anywhere(cap, buffered, senders, receivers, selects):
    """At most the message that the dead took is gone, and it is the first; a sender is told it sent only if it did."""

    def build(machine):
        return State(machine, cap, buffered, senders, receivers, selects, start=2)

    def operate(machine, state):
        return ops.recv(machine.threads[0], state.ch)

    everything = list(range(buffered + senders))
    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        waiting = [value for g, value in state.senders if not outcome(machine, g)]
        got = drain(machine, state)
        assert got in (everything, everything[1:]), f"cut at store {n}: {got} of {everything}"
        assert all(value in got for value in waiting), f"cut at store {n}: a sender waits whose message was taken"
        if not died and everything:
            assert got == everything[1:]


@pytest.mark.parametrize(("cap", "buffered"), [(1, 0), (3, 0), (3, 1), (3, 2)])
def test_putting_many_cut_anywhere(cap, buffered):
    """All of the batch that fits is there, or nothing of it."""

    def build(machine):
        return State(machine, cap, buffered, 0, 0, start=5)

    def operate(machine, state):
        batch = [wire.encode(90 + i) for i in range(3)]
        return ops.put_many(machine.threads[0], state.ch, batch)

    fits = list(range(90, 90 + min(3, cap - buffered)))
    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = drain(machine, state)
        assert got[:buffered] == list(range(buffered))
        assert got[buffered:] in (([], fits) if died else (fits,)), f"cut at store {n}: {got}"


@pytest.mark.parametrize(("cap", "buffered"), [(1, 1), (3, 2), (3, 3)])
def test_taking_many_cut_anywhere(cap, buffered):
    """What the dead took is gone, from the front; or nothing is."""

    def build(machine):
        return State(machine, cap, buffered, 0, 0, start=2)

    def operate(machine, state):
        return ops.take_many(machine.threads[0], state.ch, 2)

    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        taken = list(range(min(2, buffered), buffered))
        got = drain(machine, state)
        assert got in ((list(range(buffered)), taken) if died else (taken,)), f"cut at store {n}: {got}"


@pytest.mark.parametrize("selects", [False, True], ids=["plain", "select"])
@pytest.mark.parametrize(("cap", "buffered", "senders", "receivers"), STATES)
def test_giving_back_cut_anywhere(cap, buffered, senders, receivers, selects):
    """The message given back comes before all others, once, or not at all; everybody else's is untouched."""

    def build(machine):
        return State(machine, cap, buffered, senders, receivers, selects, start=2)

    def operate(machine, state):
        block = pool.take_block(machine.threads[0], ops.GIVEN_BACK_BYTES)
        return ops.give_back(machine.threads[0], state.ch, block, *wire.encode(99))

    others = list(range(buffered + senders))
    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = received(machine, state) + drain(machine, state)
        assert got in (([99, *others], others) if died else ([99, *others],)), f"cut at store {n}: {got}"


@pytest.mark.parametrize("selects", [False, True], ids=["plain", "select"])
@pytest.mark.parametrize(("cap", "buffered", "senders"), [(0, 0, 0), (0, 0, 1), (1, 1, 1), (3, 2, 0)])
def test_taking_what_was_given_back_cut_anywhere(cap, buffered, senders, selects):
    """It goes with the one who took it, and nothing else; a second one that was given back is untouched."""

    def build(machine):
        state = State(machine, cap, buffered, senders, 0, selects, start=2)
        t = machine.threads[1]
        for value in (98, 99):
            block = pool.take_block(t, ops.GIVEN_BACK_BYTES)
            ops.give_back(t, state.ch, block, *wire.encode(value))
        return state

    def operate(machine, state):
        return ops.recv(machine.threads[0], state.ch)

    others = [98, *range(buffered + senders)]
    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = drain(machine, state)
        assert got in (([99, *others], others) if died else (others,)), f"cut at store {n}: {got}"


@pytest.mark.parametrize("selects", [False, True], ids=["plain", "select"])
@pytest.mark.parametrize(("cap", "buffered", "senders", "receivers"), STATES)
def test_close_cut_anywhere(cap, buffered, senders, receivers, selects):
    """It is closed and everybody is told so, or it is open and everybody still waits; what is buffered stays."""

    def build(machine):
        return State(machine, cap, buffered, senders, receivers, selects)

    def operate(machine, state):
        return ops.close(machine.threads[0], state.ch)

    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        closed = machine.words[state.ch + L.CH_CLOSED]
        told = {outcome(machine, g) for g in [g for g, _ in state.senders] + state.receivers}
        assert told <= ({L.OUT_CLOSED} if closed else {0}), f"cut at store {n}: {told}, closed {closed}"
        assert closed or died
        if closed:
            assert drain(machine, state) == list(range(buffered))


@pytest.mark.parametrize(("cap", "buffered", "senders"), [(0, 0, 0), (0, 0, 1), (1, 1, 2), (3, 3, 0)])
def test_waiting_to_send_cut_anywhere(cap, buffered, senders):
    """A sender that waits is the last of the queue, with its whole message, or it is not there."""

    def build(machine):
        state = State(machine, cap, buffered, senders, 0)
        state.g = machine.new_goroutine(machine.threads[0])
        machine.words[state.g + L.G_SUDOG + L.SG_LINK] = 77  # what an earlier wait left there
        return state

    def operate(machine, state):
        hdr, data = wire.encode(99)
        ops.wait_to_send(machine.threads[0], state.ch, state.g, hdr, data)

    others = list(range(buffered + senders))
    for machine, state, n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = drain(machine, state)
        assert got in (others, [*others, 99]), f"cut at store {n}: {got}"
        assert died or got[-1] == 99


@pytest.mark.parametrize(("cap", "receivers"), [(0, 0), (0, 1), (2, 2)])
def test_waiting_to_receive_cut_anywhere(cap, receivers):
    """A receiver that waits is the last of the queue, and was given nothing, or it is not there."""

    def build(machine):
        state = State(machine, cap, 0, 0, receivers)
        state.g = machine.new_goroutine(machine.threads[0])
        machine.words[state.g + L.G_SUDOG + L.SG_MSG] = 77  # what an earlier wait left there
        return state

    for machine, state, n, died in cuts(
        build, lambda machine, state: ops.wait_to_receive(machine.threads[0], state.ch, state.g)
    ):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        queued = waitq.sudogs(machine.words, state.ch + L.CH_RECVQ)
        assert len(queued) in ((receivers, receivers + 1) if died else (receivers + 1,)), f"cut at store {n}"
        assert not any(machine.words[s + L.SG_MSG] for s in queued)


TWICE = {
    "send": (
        lambda machine, state: ops.send(machine.threads[0], state.ch, *wire.encode(99)),
        (0, 0, 0, 2),
        (1, 1, 2, 0),
    ),
    "recv": (lambda machine, state: ops.recv(machine.threads[0], state.ch), (0, 0, 2, 0), (1, 1, 2, 0), (3, 3, 2, 0)),
    "close": (lambda machine, state: ops.close(machine.threads[0], state.ch), (0, 0, 2, 0), (3, 0, 0, 2), (1, 1, 2, 0)),
}


@pytest.mark.parametrize("selects", [False, True], ids=["plain", "select"])
@pytest.mark.parametrize(("name", "where"), [(name, i) for name, (_, *w) in TWICE.items() for i in range(len(w))])
def test_two_deaths_cut_anywhere(name, where, selects):
    """A second cut, in the repair, changes nothing: done again, it ends as if it had never been cut."""
    operate, *states = TWICE[name]
    cap, buffered, senders, receivers = states[where]
    for first in range(200):
        done = []

        def build(machine, first=first, done=done):
            state = State(machine, cap, buffered, senders, receivers, selects, start=2)
            machine.words.stores, machine.words.cut_at = 0, first
            try:
                operate(machine, state)
                done.append(True)
            except Cut:
                pass
            machine.words.cut_at = None
            machine.free_all_locks()
            return state

        outcomes = set()
        for machine, state, n, _died in cuts(build, lambda machine, state: ops.repair(machine.supervisor, state.ch)):
            ops.repair(machine.supervisor, state.ch)
            ops.check(machine.words, state.ch)
            told = tuple(outcome(machine, g) for g in [g for g, _ in state.senders] + state.receivers)
            outcomes.add((told, tuple(received(machine, state)), tuple(drain(machine, state))))
            assert len(outcomes) == 1, f"cut at store {first}, the repair at {n}: {outcomes}"
        if done:
            return
    raise AssertionError("the operation does not end")


@pytest.mark.parametrize(("cap", "buffered", "senders"), [(0, 0, 2), (1, 1, 2), (3, 3, 1)])
def test_repair_cut_anywhere(cap, buffered, senders):
    """Repair can itself be cut and done again: it is idempotent."""
    for first in range(40):

        def build(machine, first=first):
            state = State(machine, cap, buffered, senders, 0)
            machine.words.stores = 0
            machine.words.cut_at = first
            try:
                ops.recv(machine.threads[0], state.ch)
                state.done = True
            except BaseException:
                state.done = False
            machine.words.cut_at = None
            machine.free_all_locks()
            return state

        for machine, state, _n, _died in cuts(build, lambda machine, state: ops.repair(machine.supervisor, state.ch)):
            ops.repair(machine.supervisor, state.ch)
            ops.check(machine.words, state.ch)
            everything = list(range(buffered + senders))
            assert drain(machine, state) in (everything, everything[1:])
        if state.done:
            break


def handle(machine, state, t, cls):
    """A real handle of the channel in the hands of thread `t`, for the hot paths of Chan itself."""
    ch = cls.__new__(cls)
    ch._base, ch._gen = state.ch, 0
    ch._tls = t.process.tls
    ch._lock = machine.locks[L.object_lock(state.ch)]
    ch._cap = machine.words[state.ch + L.CH_CAP]
    ch._ring = state.ring
    return ch


class _Sender(Sending):
    __slots__ = ()

    def __del__(self):
        pass


class _Receiver(Receiving):
    __slots__ = ()

    def __del__(self):
        pass


@pytest.mark.parametrize(("cap", "buffered"), [(1, 0), (3, 1), (3, 2)])
def test_hot_send_cut_anywhere(cap, buffered):
    """Chan.send's own fast path, written out beside ops.send, has the same one publishing store."""

    def operate(machine, state):
        handle(machine, state, machine.threads[0], _Sender).send(99)

    for machine, state, n, died in cuts(lambda machine: State(machine, cap, buffered, 0, 0, start=2), operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = drain(machine, state)
        assert got in (list(range(buffered)), [*range(buffered), 99]), f"cut at store {n}: {got}"
        assert died or got[-1] == 99


@pytest.mark.parametrize(("cap", "buffered"), [(1, 1), (3, 1), (3, 3)])
def test_hot_recv_cut_anywhere(cap, buffered):
    """Chan.recv's own fast path takes the first message or leaves everything."""

    def operate(machine, state):
        state.value = handle(machine, state, machine.threads[0], _Receiver).recv()

    everything = list(range(buffered))
    for machine, state, n, died in cuts(lambda machine: State(machine, cap, buffered, 0, 0, start=2), operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = drain(machine, state)
        assert got in (everything, everything[1:]), f"cut at store {n}: {got}"
        assert died or (state.value == 0 and got == everything[1:])


LONG = "x" * 200


def test_sending_a_long_message_cut_anywhere():
    """A message in a block is in the channel or it is not; its block is the dead thread's until it is."""

    def operate(machine, state):
        handle(machine, state, machine.threads[0], _Sender).send(LONG)

    for machine, state, _n, died in cuts(lambda machine: State(machine, 2, 1, 0, 0), operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        got = drain_long(machine, state)
        assert got in ([0], [0, LONG])
        assert died or got == [0, LONG]


def test_receiving_a_long_message_cut_anywhere():
    """Whoever dies receiving it may take it along; the next one comes out whole."""

    def build(machine):
        state = State(machine, 2, 0, 0, 0)
        for text in (LONG, LONG + "2"):
            handle(machine, state, machine.threads[1], _Sender).send(text)
        return state

    def operate(machine, state):
        state.value = handle(machine, state, machine.threads[0], _Receiver).recv()

    for machine, state, _n, died in cuts(build, operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        assert drain_long(machine, state) in ([LONG, LONG + "2"], [LONG + "2"])
        assert died or state.value == LONG


def test_handing_a_long_message_cut_anywhere():
    """A waiting receiver has the whole message, or it still waits."""

    def operate(machine, state):
        handle(machine, state, machine.threads[0], _Sender).send(LONG)

    for machine, state, _n, died in cuts(lambda machine: State(machine, 0, 0, 0, 1), operate):
        ops.repair(machine.supervisor, state.ch)
        ops.check(machine.words, state.ch)
        g = state.receivers[0]
        given = outcome(machine, g) == L.OUT_OK
        assert given or died
        if given:
            hdr, body = fetch(machine.words, machine.segment.mem, g + L.G_SUDOG + L.SG_MSG)
            assert open_message(machine.threads[2], hdr, body) == LONG


def drain_long(machine, state):
    t = machine.threads[2]
    found = []
    while True:
        result, hdr, body, _ = ops.recv(t, state.ch)
        if result != ops.DONE:
            return found
        found.append(open_message(t, hdr, body))
