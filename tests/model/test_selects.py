"""Selects, batches, closes and messages given back under every interleaving, or as many as a few preemptions make."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mproc_go.chan import aio, ops, select
from mproc_go.errors import ChanClosed
from mproc_go.runtime import client
from mproc_go.sched import waitq
from mproc_go.shm import layout as L
from tests.model.actors import Client, Receiver, Sender, channel, handle, whenever_free
from tests.model.loom import every, explore, pct, sample


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    """Cases are tried in the order they are given (a schedule must be the same when it is run again); nobody polls."""
    monkeypatch.setattr(select, "_shuffle", lambda cases: None)
    monkeypatch.setattr(client, "CHECK_S", None)


def receiving(t, index, ch):
    return select._Case(index, handle(t, Receiver, ch), L.CH_RECVQ)


def sending(t, index, ch, value):
    case = select._Case(index, handle(t, Sender, ch), L.CH_SENDQ)
    case.hdr, case.body = select.stow(t, *select.wire.encode(value))
    return case


def impatient(t):
    """Its deadline may pass whenever it is its turn: it waits without a note."""
    t.park = super(Client, t).park
    return t


def left(peek, ch):
    """Messages in the buffer, and given back."""
    given_back = sum(peek[s + L.SG_SELECT] == ops.GIVEN_BACK for s in waitq.sudogs(peek, ch + L.CH_SENDQ))
    return peek[ch + L.CH_TAIL] - peek[ch + L.CH_HEAD] + given_back


def nobody_waits(peek, ch):
    ops.check(peek, ch)
    assert not peek[ch + L.CH_RECVQ] and not ops.first(peek, ch + L.CH_SENDQ), "somebody left a sudog behind"


def world_of(world, *capacities):
    """Channels whose invariants hold whenever their lock is free."""
    peek = world.memory_view
    chs = [channel(world, capacity, number) for number, capacity in enumerate(capacities)]
    for ch in chs:
        whenever_free(world, ch, lambda ch=ch: ops.check(peek, ch))
    return peek, chs


# ---------------------------------------------------------------- select and close
def select_beside_close(world):
    """One selects among two until both are done with: one of them is closed, on the other a message comes."""
    peek, chs = world_of(world, 0, 0)
    got = []

    def choose(t):
        for _ in range(2):
            cases = [receiving(t, i, ch) for i, ch in enumerate(chs) if (i, None, False) not in got]
            got.append(tuple(select._select(t, cases, -1, None)))

    world.spawn("select", lambda t=Client(world, 1): choose(t))
    world.spawn("close", lambda t=Client(world, 2): handle(t, Sender, chs[0]).close())
    world.spawn("send", lambda t=Client(world, 3): handle(t, Sender, chs[1]).send(7))

    def check():
        assert sorted(got) == [(0, None, False), (1, 7, True)], got
        for ch in chs:
            nobody_waits(peek, ch)

    return check


def select_sends_beside_close(capacity):
    """One selects a send, on a channel that is closed meanwhile; its message is there exactly if it says so."""

    def build(world):
        peek, (ch, other) = world_of(world, capacity, 0)
        outcome = []

        def choose(t):
            try:
                outcome.append(select._select(t, [sending(t, 0, ch, 5), receiving(t, 1, other)], -1, None).index)
            except ChanClosed:
                outcome.append("closed")

        def receive(t):
            value, ok = handle(t, Receiver, ch).recv_ok()
            outcome.append(("received", value) if ok else ("nothing", None))

        world.spawn("select", lambda t=Client(world, 1): choose(t))
        world.spawn("close", lambda t=Client(world, 2): handle(t, Sender, ch).close())
        world.spawn("recv", lambda t=Client(world, 3): receive(t))

        def check():
            sent = 0 in outcome
            assert len(outcome) == 2 and sent == ("closed" not in outcome)
            assert (("received", 5) in outcome) + left(peek, ch) == sent, outcome
            for each in (ch, other):
                nobody_waits(peek, each)

        return check

    return build


def test_select_beside_close(seed):
    """A close is one more thing that is ready, once; nothing is left in any queue."""
    explore(select_beside_close, 1)
    sample(select_beside_close, seed, 200)
    pct(select_beside_close, seed, 150)


@pytest.mark.parametrize("capacity", [0, 1])
def test_select_sends_beside_close(capacity, seed):
    """Sent or closed, never both, and never neither."""
    explore(select_sends_beside_close(capacity), 1)
    sample(select_sends_beside_close(capacity), seed, 200)
    pct(select_sends_beside_close(capacity), seed, 150)


# ---------------------------------------------------------------- select and time
def deadlines(senders_wait):
    """A select over two channels and a sender on each; the time of all of them may run out at any moment."""

    def build(world):
        peek, chs = world_of(world, 0, 0)
        story = {"got": None, "sent": set()}

        def choose(t):
            try:
                story["got"] = select._select(t, [receiving(t, i, ch) for i, ch in enumerate(chs)], -1, 100.0)[:2]
            except TimeoutError:
                pass

        def send(t, i):
            try:
                handle(t, Sender, chs[i]).send(i, 100.0 if senders_wait else 0)
                story["sent"].add((i, i))
            except TimeoutError:
                pass

        world.spawn("select", lambda t=impatient(Client(world, 1)): choose(t))
        for i in range(2):
            world.spawn(f"send{i}", lambda t=impatient(Client(world, 2 + i)), i=i: send(t, i))

        def check():
            assert story["sent"] == ({story["got"]} if story["got"] else set()), story
            for ch in chs:
                nobody_waits(peek, ch)

        return check

    return build


@pytest.mark.parametrize("senders_wait", [True, False])
def test_select_in_the_last_moment(senders_wait, seed):
    """It got exactly what was sent, also where its time ran out as it came; who gave up left every queue."""
    explore(deadlines(senders_wait), 1)
    sample(deadlines(senders_wait), seed, 300)
    pct(deadlines(senders_wait), seed, 150)


# ---------------------------------------------------------------- both sides of one channel
def both_sides(capacity, players):
    """Each selects a send and a receive on the same channel."""

    def build(world):
        peek, (ch,) = world_of(world, capacity)
        chosen = {}

        def play(t, me):
            chosen[me] = select._select(t, [sending(t, 0, ch, me), receiving(t, 1, ch)], -1, None)

        for me in range(players):
            world.spawn(f"select{me}", lambda t=Client(world, 1 + me), me=me: play(t, me))

        def check():
            sent = {me for me, c in chosen.items() if c.index == 0}
            got = [c.value for c in chosen.values() if c.index == 1]
            assert len(chosen) == players and len(set(got)) == len(got) and set(got) <= sent, chosen
            assert len(sent) - len(got) == left(peek, ch), chosen
            nobody_waits(peek, ch)

        return check

    return build


@pytest.mark.parametrize(("capacity", "players"), [(0, 2), (0, 4), (1, 2), (1, 3), (2, 3)])
def test_both_sides_of_one_channel(capacity, players, seed):
    """Nobody meets itself; each that receives has the message of one that sent."""
    if players == 2:
        explore(both_sides(capacity, players), 1)
    sample(both_sides(capacity, players), seed, 200)
    pct(both_sides(capacity, players), seed, 150)


def test_both_sides_in_every_schedule():
    """Two of them, without a bound on preemptions."""
    assert every(both_sides(0, 2)) > 100


# ---------------------------------------------------------------- batches
def batches(capacity, close):
    """One puts many at once, one takes many at once, a third takes one; it may be closed in the middle."""
    values = [1, 2, 3]

    def build(world):
        peek, (ch,) = world_of(world, capacity)
        got, story = [], {"cut": False}

        def put(t):
            end = handle(t, Sender, ch)
            try:
                end.send_many(values)
                if not close:
                    end.close()
            except ChanClosed:
                story["cut"] = True

        def take_many(t):
            end = handle(t, Receiver, ch)
            while batch := end.recv_many(2):
                assert len(batch) <= 2 and batch == sorted(batch)
                got.extend(batch)

        def take_one(t):
            value, ok = handle(t, Receiver, ch).recv_ok()
            if ok:
                got.append(value)

        world.spawn("put", lambda t=Client(world, 1): put(t))
        world.spawn("take many", lambda t=Client(world, 2): take_many(t))
        world.spawn("take one", lambda t=Client(world, 3): take_one(t))
        if close:
            world.spawn("close", lambda t=Client(world, 4): handle(t, Sender, ch).close())

        def check():
            assert sorted(got) == values[: len(got)], got
            assert len(got) == 3 or story["cut"], "something is missing"
            assert not left(peek, ch)
            nobody_waits(peek, ch)

        return check

    return build


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_batches(capacity, close, seed):
    """In order, none lost, none twice; what a close cuts off was not sent."""
    explore(batches(capacity, close), 0)
    sample(batches(capacity, close), seed, 200)
    pct(batches(capacity, close), seed, 150)


# ---------------------------------------------------------------- give back
def changing_their_minds(capacity, fickle, sends=2):
    """Some begin to receive as an asyncio task does, and withdraw at any moment; one receives all there is."""

    def build(world):
        peek, (ch,) = world_of(world, capacity)
        got = []
        mailbox = SimpleNamespace(free=lambda m, g: None)

        def send(t):
            end = handle(t, Sender, ch)
            for i in range(sends):
                end.send(i)

        def give_up(t):
            end = handle(t, Receiver, ch)
            t.enter(end._lock)
            outcome, hdr, body, g = ops.recv(t, ch)
            t.w[t.g + L.G_DECIDE] = 0
            if outcome == ops.MUST_WAIT:
                waitq.join(t.w, ch + L.CH_RECVQ, t.g)
            t.leave(end._lock)
            if g:
                t.ready(g)
            if outcome == ops.MUST_WAIT:
                aio.withdraw(t, mailbox, end, t.g, 0, b"")
            else:
                aio.give_back(t, end._lock, ch, hdr, body)

        def receive(t):
            end = handle(t, Receiver, ch)
            for _ in range(sends):
                got.append(end.recv())

        world.spawn("send", lambda t=Client(world, 1): send(t))
        world.spawn("recv", lambda t=Client(world, 2): receive(t))
        for i in range(fickle):
            world.spawn(f"fickle{i}", lambda t=Client(world, 3 + i): give_up(t))

        def check():
            assert sorted(got) == list(range(sends)), got
            assert not left(peek, ch)
            nobody_waits(peek, ch)

        return check

    return build


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_giving_back(capacity, seed):
    """What is given back is received, once, by whoever is next."""
    explore(changing_their_minds(capacity, 1, 1), 1)
    sample(changing_their_minds(capacity, 2, 3), seed, 200)
    pct(changing_their_minds(capacity, 2, 3), seed, 150)


def test_a_message_that_is_not_given_back_is_missed(monkeypatch):
    """Mutant: who withdraws drops what it was handed."""
    monkeypatch.setattr(aio, "give_back", lambda *args: None)
    with pytest.raises(AssertionError):
        explore(changing_their_minds(0, 1, 1), 1)
