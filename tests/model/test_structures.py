"""The structures under every interleaving, or as many as a few preemptions make, and under random ones."""

from __future__ import annotations

import inspect

import pytest

from mproc_go.chan import ops, select
from mproc_go.errors import ChanClosed
from mproc_go.runtime import client
from mproc_go.sched import idle, runq
from mproc_go.shm import layout as L
from mproc_go.shm import note, pool
from mproc_go.sync import waitgroup
from tests.model import actors
from tests.model.actors import Client, Group, Receiver, Sender, channel, handle, whenever_free
from tests.model.loom import Stuck, every, explore, pct, sample


@pytest.fixture(autouse=True)
def no_polling(monkeypatch):
    """A client that looks ten times a second would cover a lost wake-up."""
    monkeypatch.setattr(client, "CHECK_S", None)


# ---------------------------------------------------------------- locks
def counting(workers, loops, fair=True):
    """Workers that add to a word under a lock (or, as a mutant, without it)."""

    def build(world):
        w = world.words
        inside = []

        def body(t):
            lock = t.locks[L.L_SCHED]
            for _ in range(loops):
                if fair:
                    t.enter(lock)
                inside.append(t)
                assert inside == [t], "two are inside"
                w[1_000_000] = w[1_000_000] + 1
                inside.pop()
                if fair:
                    t.leave(lock)

        for slot in range(1, workers + 1):
            world.spawn(f"w{slot}", lambda t=world.thread(slot): body(t))

        def check():
            assert world.memory[1_000_000] == workers * loops

        return check

    return build


@pytest.mark.parametrize("tso", [False, True], ids=["sc", "tso"])
def test_one_at_a_time_holds_a_lock(tso, seed):
    """Every schedule of two workers, random ones of three; also with the store buffers of x86."""
    assert every(counting(2, 2), tso=tso) > 100
    sample(counting(3, 3), seed, 200, tso=tso)


def test_without_a_lock_two_are_inside():
    """Mutant."""
    with pytest.raises(AssertionError, match="two are inside"):
        explore(counting(2, 1, fair=False), 1)


# ---------------------------------------------------------------- run queues
GS = [actors.goroutine(100 + i) for i in range(8)]


def all_found(peek, taken, gs):
    """Each goroutine was taken once, or is in one queue."""
    for p in range(2):
        runq.check(peek, p)
    runq.check_global(peek)
    left = runq.queued(peek, 0) + runq.queued(peek, 1) + runq.queued_global(peek)
    found = sorted([g for g in taken if g] + left)
    assert found == sorted(gs), f"{len(found)} of {len(gs)}"


def ring_at(peek, head, queued=()):
    """The ring of P0, `head` goroutines having gone through it."""
    base = L.p_base(0)
    peek[base + L.P_HEAD] = head
    peek[base + L.P_TAIL] = head + len(queued)
    for i, g in enumerate(queued):
        peek[base + L.P_RUNQ + (head + i) % L.RUNQ] = g


def stealing(wrap, get=runq.get):
    """The owner of P0 puts two, gets two; a thief grabs half; a third takes from the global list."""

    def build(world):
        peek = world.memory_view
        idle.start(peek, 2)
        ring_at(peek, wrap, GS[:2])
        taken = []

        def owner(t):
            for g in GS[2:4]:
                assert runq.put(t, 0, g)
            taken.append(get(t, 0))
            taken.append(get(t, 0))

        def thief(t):
            got = runq.grab(t, 0)
            taken.extend(got[:1])
            rest = runq.put_many(t, 1, got[1:])
            assert not rest

        def other(t):
            runq.put_global(t, GS[4:6])
            taken.extend(runq.get_global(t, 2))

        for slot, body in enumerate((owner, thief, other), 1):
            world.spawn(body.__name__, lambda t=world.thread(slot), body=body: body(t))
        return lambda: all_found(peek, taken, GS[:6])

    return build


def test_every_goroutine_is_taken_exactly_once(seed):
    """Put, get, steal and the global list, together, where the ring wraps: nothing twice, nothing lost."""
    explore(stealing(L.RUNQ - 3), 1)
    sample(stealing(L.RUNQ - 3), seed, 300)
    pct(stealing(0), seed, 200)


def test_taking_without_the_lock_takes_twice():
    """Mutant: a get that looks at head and moves it without the P's lock."""

    def get(t, p):
        w, base = t.w, L.p_base(p)
        head = w[base + L.P_HEAD]
        if head == w[base + L.P_TAIL]:
            return 0
        g = w[base + L.P_RUNQ + head % L.RUNQ]
        w[base + L.P_HEAD] = head + 1
        return g

    with pytest.raises(AssertionError):
        explore(stealing(0, get), 1)


def overflowing(world):
    """A ring with one free place: the owner puts three, half of the ring goes to the global list; a thief steals."""
    peek = world.memory_view
    idle.start(peek, 2)
    full = [actors.goroutine(200 + i) for i in range(L.RUNQ - 1)]
    ring_at(peek, L.RUNQ - 5, full)
    taken = []

    def owner(t):
        for g in GS[:3]:
            if not runq.put(t, 0, g):  # as spawn() does
                runq.put_global(t, [*runq.grab(t, 0), g])

    def thief(t):
        taken.append(runq.get(t, 0))
        taken.extend(runq.get_global(t, 3))

    world.spawn("owner", lambda t=world.thread(1): owner(t))
    world.spawn("thief", lambda t=world.thread(2): thief(t))
    return lambda: all_found(peek, taken, full + GS[:3])


def test_a_full_ring_overflows_into_the_global_list(seed):
    """Also while somebody takes from both."""
    sample(overflowing, seed, 30)


def resizing(world):
    """One M puts at P1 while another takes P1 away."""
    peek = world.memory_view
    idle.start(peek, 2)
    idle._assign(peek, 1, 1)

    def owner(t):
        for g in GS[:2]:
            p = t.w[t.base + L.M_P] - 1
            if p < 0 or not runq.put(t, p, g):
                runq.put_global(t, [g] if p < 0 else [*runq.grab(t, p), g])

    def other(t):
        _, orphans = idle.resize(t, 1)
        if orphans:
            runq.put_global(t, orphans)

    world.spawn("owner", lambda t=world.thread(1): owner(t))
    world.spawn("other", lambda t=world.thread(2): other(t))

    def check():
        assert not runq.length(peek, 1), "a goroutine is queued where nobody looks"
        all_found(peek, [], GS[:2])

    return check


def test_nothing_is_queued_at_a_p_that_goes(seed):
    """gomaxprocs(1) while P1's M spawns: what it queues is found by the others."""
    explore(resizing, 2)
    sample(resizing, seed, 200)


def test_a_ring_that_looks_empty_is_looked_into_all_the_same(monkeypatch):
    """Mutant: a resize that takes the lock of a ring only if there is something in it overlooks a put under way."""
    source = inspect.getsource(idle.resize)
    old = "while taken := runq.grab(t, p):"
    assert source.count(old) == 1
    namespace = dict(vars(idle))
    exec(source.replace(old, "while runq.length(w, p) and (taken := runq.grab(t, p)):"), namespace)
    monkeypatch.setattr(idle, "resize", namespace["resize"])
    with pytest.raises(AssertionError, match="where nobody looks"):
        explore(resizing, 1)


# ---------------------------------------------------------------- pools
def pooling(world):
    """Two threads take three records each and free them, with caches of two: each take refills, each give flushes."""
    peek = world.memory_view
    peek[L.H_LIMIT_WORDS] = 1 << 30
    which = L.POOL_OBJECT
    held = {}
    threads = []

    def body(t):
        mine = [pool.take(t, which) for _ in range(2)]
        for base in mine:
            assert held.setdefault(base, t) is t, "two have the same record"
        del held[mine[0]]
        pool.give(t, which, mine[0])
        mine.append(pool.take(t, which))
        assert held.setdefault(mine[-1], t) is t, "two have the same record"
        for base in mine[1:]:
            del held[base]
            pool.give(t, which, base)

    for slot in (1, 2):
        t = world.thread(slot)
        t.cache_sizes = [2] * L.N_POOLS
        threads.append(t)
        world.spawn(f"w{slot}", lambda t=t: body(t))

    def check():
        pool.check_pool(peek, which, {t.slot: t.caches[which] for t in threads}, set())

    return check


def test_a_record_is_in_one_place(seed):
    """Take, refill, grow, give, flush: whatever the order, no record is with two, and none is lost."""
    explore(pooling, 1)
    sample(pooling, seed, 200)
    pct(pooling, seed, 100)


# ---------------------------------------------------------------- channels
def messages(capacity, senders, receivers, each, start=0):
    """Senders send `each` messages of their own, receivers take all of them."""

    def build(world):
        peek = world.memory_view
        ch = channel(world, capacity, start=start)
        whenever_free(world, ch, lambda: ops.check(peek, ch))
        got = [[] for _ in range(receivers)]

        def send(t, who):
            end = handle(t, Sender, ch)
            for i in range(each):
                end.send(who * 100 + i)
                world.forget("sent", i)

        def receive(t, mine):
            end = handle(t, Receiver, ch)
            for _ in range(senders * each // receivers):
                mine.append(end.recv())
                world.forget("received", *mine)

        for i in range(senders):
            world.spawn(f"send{i}", lambda t=Client(world, 1 + i), i=i: send(t, i))
        for i in range(receivers):
            world.spawn(f"recv{i}", lambda t=Client(world, 1 + senders + i), i=i: receive(t, got[i]))

        def check():
            ops.check(peek, ch)
            everything = sorted(sum(got, []))
            assert everything == sorted(who * 100 + i for who in range(senders) for i in range(each)), got
            for mine in got:
                for who in range(senders):
                    own = [v for v in mine if v // 100 == who]
                    assert own == sorted(own), "a sender's messages overtook each other"

        return check

    return build


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_a_channel_loses_and_doubles_nothing(capacity, seed):
    """One sender and one receiver in every schedule, two of each at random. FIFO for each sender; CH1 to CH4 always.

    Among the schedules is the waker of one wait who posts late, in the next: the sleeper then announces itself again.
    """
    every(messages(capacity, 1, 1, 2, start=5))
    sample(messages(capacity, 2, 2, 3), seed, 150)
    pct(messages(capacity, 2, 2, 3), seed, 100)


@pytest.mark.parametrize("capacity", [0, 1])
def test_a_channel_on_a_machine_that_holds_stores_back(capacity, seed):
    """The sleeping and waking of its two ends has its fences."""
    explored = every(messages(capacity, 1, 1, 1), tso=True)
    assert explored > 100
    sample(messages(capacity, 2, 2, 2), seed, 150, tso=True)


def test_waiting_without_the_fence_loses_a_wake_up(monkeypatch):
    """Mutant: a sleeper that says so in a store that is still in its buffer while it looks once more."""

    def announce(t):
        t.w[t.base + L.M_STATE] = L.M_SLEEPING

    monkeypatch.setattr(note, "announce", announce)
    every(messages(0, 1, 1, 1))  # without store buffers nothing is wrong with it
    with pytest.raises(Stuck):
        every(messages(0, 1, 1, 1), tso=True)


def test_waiting_without_announcing_loses_a_wake_up(monkeypatch):
    """Mutant: a sleeper that does not say so."""
    monkeypatch.setattr(note, "announce", lambda t: None)
    with pytest.raises(Stuck):
        every(messages(0, 1, 1, 1))


def closing(capacity, senders, receivers):
    """A channel is closed while senders and receivers wait on it, or are about to."""

    def build(world):
        peek = world.memory_view
        ch = channel(world, capacity)
        whenever_free(world, ch, lambda: ops.check(peek, ch))
        got, sent = [], []

        def send(t, i):
            try:
                handle(t, Sender, ch).send(i)
            except ChanClosed:
                return
            sent.append(i)

        def receive(t):
            end = handle(t, Receiver, ch)
            while True:
                value, ok = end.recv_ok()
                if not ok:
                    return
                got.append(value)

        def close(t):
            handle(t, Sender, ch).close()

        for i in range(senders):
            world.spawn(f"send{i}", lambda t=Client(world, 1 + i), i=i: send(t, i))
        for i in range(receivers):
            world.spawn(f"recv{i}", lambda t=Client(world, 1 + senders + i): receive(t))
        world.spawn("close", lambda t=Client(world, 1 + senders + receivers): close(t))

        def check():
            ops.check(peek, ch)
            n = peek[ch + L.CH_TAIL] - peek[ch + L.CH_HEAD]
            assert len(got) + n == len(sent), f"{sent} were sent, {got} received, {n} are left"
            assert set(got) <= set(sent)

        return check

    return build


@pytest.mark.parametrize(("capacity", "senders", "receivers"), [(0, 1, 1), (1, 1, 1), (0, 0, 2), (0, 2, 0), (1, 2, 0)])
def test_close_wakes_everybody(capacity, senders, receivers, seed):
    """Whoever waits is told; what was sent before is still received; nobody waits for ever."""
    explore(closing(capacity, senders, receivers), 1)
    sample(closing(capacity, senders, receivers), seed, 150)
    pct(closing(capacity, senders, receivers), seed, 100)


def deadline(world):
    """A send and a receive that meet, or give up: whatever happens, both tell the same story."""
    peek = world.memory_view
    ch = channel(world, 0)
    whenever_free(world, ch, lambda: ops.check(peek, ch))
    story = {}

    def send(t):
        try:
            handle(t, Sender, ch).send(7, 100.0)
            story["sent"] = True
        except TimeoutError:
            story["sent"] = False

    def receive(t):
        try:
            story["received"] = handle(t, Receiver, ch).recv(100.0) == 7
        except TimeoutError:
            story["received"] = False

    # These wait without a note: a deadline that passes is just another moment at which they can go on.
    for slot, body in ((1, send), (2, receive)):
        t = Client(world, slot)
        t.park = super(Client, t).park
        world.spawn(body.__name__, lambda t=t, body=body: body(t))

    def check():
        assert story["sent"] == story["received"], story
        assert not peek[ch + L.CH_SENDQ] and not peek[ch + L.CH_RECVQ], "somebody left a sudog behind"

    return check


def test_a_deadline_in_the_last_moment(monkeypatch):
    """Every schedule of two ends whose time may run out at any moment: sent exactly if it was received."""
    # A second park is without a deadline: it returns once decided, which it is.
    every(deadline)


# ---------------------------------------------------------------- select
def selecting(capacity, seen):
    """One selects twice among two channels, on each of which another sends once."""

    def build(world):
        peek = world.memory_view
        chs = [channel(world, capacity, number) for number in range(2)]
        got = []

        def choose(t):
            for _ in range(2):
                cases = [select._Case(i, handle(t, Receiver, ch), L.CH_RECVQ) for i, ch in enumerate(chs)]
                chosen = select._select(t, cases, -1, None)
                assert chosen.ok
                got.append((chosen.index, chosen.value))

        def send(t, i):
            handle(t, Sender, chs[i]).send(i)

        world.spawn("select", lambda t=Client(world, 1): choose(t))
        for i in range(2):
            world.spawn(f"send{i}", lambda t=Client(world, 2 + i), i=i: send(t, i))

        def check():
            assert sorted(got) == [(0, 0), (1, 1)], got
            for ch in chs:
                ops.check(peek, ch)
                assert not peek[ch + L.CH_RECVQ] and not peek[ch + L.CH_SENDQ]
            seen.add(tuple(i for i, _ in got))

        return check

    return build


def crossing(world):
    """Two select a send on one channel and a receive from the other, crosswise: exactly one pair meets."""
    peek = world.memory_view
    chs = [channel(world, 0, number) for number in range(2)]
    chosen = {}

    def choose(t, me):
        send = select._Case(0, handle(t, Sender, chs[me]), L.CH_SENDQ)
        send.hdr, send.body = select.stow(t, *select.wire.encode(me))
        cases = [send, select._Case(1, handle(t, Receiver, chs[1 - me]), L.CH_RECVQ)]
        chosen[me] = select._select(t, cases, -1, None)

    for me in range(2):
        world.spawn(f"select{me}", lambda t=Client(world, 1 + me), me=me: choose(t, me))

    def check():
        a, b = chosen[0], chosen[1]
        assert {a.index, b.index} == {0, 1}, chosen
        received, sender = (a, 1) if a.index == 1 else (b, 0)
        assert received.value == sender
        for ch in chs:
            assert not peek[ch + L.CH_RECVQ] and not peek[ch + L.CH_SENDQ]

    return check


@pytest.fixture
def in_order(monkeypatch):
    """Cases are tried in the order they are given: a schedule must be the same when it is run again."""
    monkeypatch.setattr(select, "_shuffle", lambda cases: None)


@pytest.mark.parametrize("capacity", [0, 1])
def test_select_takes_one_message_at_a_time(capacity, in_order, seed):
    """Two senders race for a goroutine that waits on both: each message arrives, once, by its own case."""
    seen = set()
    explore(selecting(capacity, seen), 1)
    sample(selecting(capacity, seen), seed, 150)
    pct(selecting(capacity, seen), seed, 150)
    assert seen == {(0, 1), (1, 0)}


def test_two_selects_crosswise(in_order, seed):
    """They meet on one of the channels, and both say on the same one."""
    explore(crossing, 1)
    sample(crossing, seed, 200)


def test_a_select_that_is_not_claimed_is_decided_twice(in_order, monkeypatch):
    """Mutant: whoever decides a waiting select does not look whether somebody was faster."""

    def decide(t, s, outcome, level):
        w = t.w
        g = w[s + L.SG_G]
        w[g + L.G_DECIDE] = outcome | w[s + L.SG_CASE] << 8 | t.slot << 32
        return True

    monkeypatch.setattr(ops, "decide", decide)
    with pytest.raises(AssertionError):
        explore(selecting(0, set()), 2)


# ---------------------------------------------------------------- wait groups
def waiting(world):
    """Two that end, two that wait for them."""
    peek = world.memory_view
    base = actors.CHANNELS
    peek[base + L.WG_COUNT] = 2
    whenever_free(world, base, lambda: waitgroup.check(peek, base))
    ended = []

    def end(t):
        ended.append(t.slot)
        handle(t, Group, base).done()

    def wait(t):
        handle(t, Group, base).wait()
        assert len(ended) == 2, "a waiter went on too early"

    for slot, body in ((1, end), (2, end), (3, wait), (4, wait)):
        world.spawn(f"{body.__name__}{slot}", lambda t=Client(world, slot), body=body: body(t))

    def check():
        waitgroup.check(peek, base)
        assert not peek[base + L.WG_COUNT]

    return check


def test_waiting_ends_when_all_have_ended(seed):
    """Not earlier, and for everybody; also where stores are held back."""
    explore(waiting, 0)
    sample(waiting, seed, 250)
    sample(waiting, seed, 150, tso=True)
    pct(waiting, seed, 100)
