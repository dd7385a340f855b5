"""select: uniform among the ready, over one to a thousand cases; losers leave; many at once in any order."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mproc_go import Chan, ChanClosed, EncodeError, default, go, gosched, select
from tests.chan.support import DEADLINE_S, live_records, until_given_back, until_waiting, waiters

# A count that is further from its mean than so many standard deviations: with a hundred of them once in 10**9 runs,
# though a binomial has a longer tail than the normal.
SIGMAS = 8.0


def check_uniform(counts, cases, trials):
    """Each case was chosen as often as chance allows."""
    p = 1 / cases
    allowed = SIGMAS * (trials * p * (1 - p)) ** 0.5 + 1
    assert all(abs(counts[i] - trials * p) <= allowed for i in range(cases)), counts


@pytest.mark.parametrize("cases", [2, 3, 10, 100])
def test_uniform_among_the_ready(rt, cases):
    """Receives, sends and closed channels, all ready: each is as likely."""
    trials = 100 * cases if cases > 20 else 4000
    chans = []
    for i in range(cases):
        ch = Chan(trials)
        if i % 3 == 0:
            ch.send_many([i] * trials)
        elif i % 3 == 1:
            ch.close()
        chans.append(ch)
    operations = [(ch.send, 0) if i % 3 == 2 else ch.recv for i, ch in enumerate(chans)]
    check_uniform(Counter(select(*operations).index for _ in range(trials)), cases, trials)


def test_uniform_where_it_waits(rt):
    """Four cases of one channel, which becomes ready while the select waits."""
    trials = 400
    ch, ack = Chan(), Chan()

    def receive():
        return Counter(select(ch.recv, None, ch.recv, ch.recv, ch.recv, ack.recv).index for _ in range(trials))

    handle = go(receive)
    for i in range(trials):
        until_waiting(ch, receivers=4)
        ch.send(i)
    counts = handle.result(DEADLINE_S)
    check_uniform({i: counts[j] for i, j in enumerate((0, 2, 3, 4))}, 4, trials)


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_any_number_of_cases(rt, n, seed):
    """None ready; one ready; one that becomes ready; all of them leave all queues."""
    rng = random.Random(seed)
    before = live_records()
    chans = [Chan(1) for _ in range(n)]
    with pytest.raises(TimeoutError):
        select(*(ch.recv for ch in chans), timeout=0.001)
    assert select(*(ch.recv for ch in chans), default).index == n
    lucky = rng.randrange(n)
    chans[lucky].send("there")
    assert select(*(ch.recv for ch in chans), timeout=DEADLINE_S) == (lucky, "there", True)
    handle = go(lambda: select(*(ch.recv for ch in chans)))
    until_waiting(chans[-1], receivers=1)
    chans[lucky].send("later")
    assert handle.result(DEADLINE_S) == (lucky, "later", True)
    assert all(waiters(ch) == (0, 0) for ch in chans)
    del handle, chans
    until_given_back(before)


def test_queues_stay_short(rt):
    """However often a select loses on a channel, it stands there once, and with every case at the most."""
    ch, busy = Chan(), Chan()
    n = 500

    def lose():
        for _ in range(n):
            index = select(ch.recv, ch.recv, (ch.send, "x" * 500), busy.recv).index
            assert index == 3

    handle = go(lose)
    for i in range(n):
        busy.send(i)
        receivers, senders = waiters(ch)
        assert receivers <= 2 and senders <= 1
    handle.result(DEADLINE_S)
    assert waiters(ch) == (0, 0)


def play(chans, seed, rounds):
    """As many selects as rounds; those whose time runs out did nothing."""
    rng = random.Random(seed)
    sent, received = [], []
    for i in range(rounds):
        order = rng.sample(range(len(chans)), len(chans))
        cases = [(chans[k].send, (seed, i)) if rng.random() < 0.5 else chans[k].recv for k in order]
        if rng.random() < 0.2:
            cases.append(default)
        try:
            chosen = select(*cases, timeout=rng.choice([0.0, 0.001, 0.01]))
        except TimeoutError:
            continue
        if chosen.index < len(order) and isinstance(cases[chosen.index], tuple):
            sent.append((seed, i))
        elif chosen.index < len(order):
            received.append(chosen.value)
    return sent, received


def test_many_selects_in_any_order(rt, seed):
    """Eight goroutines on the same six channels, both sides, in different orders: no deadlock, nothing lost or doubled."""
    chans = [Chan(i % 3) for i in range(6)]
    handles = [go(play, chans, seed + i, 150) for i in range(8)]
    sent, received = Counter(), Counter()
    for handle in handles:
        s, r = handle.result(DEADLINE_S)
        sent.update(s)
        received.update(r)
    for ch in chans:
        ch.close()
        received.update(list(ch))
        assert waiters(ch) == (0, 0)
    assert received == sent
    assert set(sent.values()) <= {1} and len(sent) > 50


def test_a_send_that_can_not_travel(rt):
    """EncodeError before anything is done, and what the other cases would have sent is freed."""
    ch, other = Chan(1), Chan(1)
    before = live_records()
    with pytest.raises(EncodeError):
        select((other.send, [Chan()]), (ch.send, (x for x in ())))
    assert len(other) == len(ch) == 0 and waiters(ch) == (0, 0)
    until_given_back(before)


def test_what_is_no_case(rt):
    """It says what a case is."""
    ch = Chan(1)
    for wrong in (1, ch, ch.close, (ch.recv, 1), (ch.send,), (ch.send, 1, 2), [ch.send, 1], ch.send):
        with pytest.raises(TypeError, match=r"case 1 is .*; a case is ch.recv, \(ch.send, value\), default or None"):
            select(default, wrong)
    with pytest.raises(TypeError, match="second default"):
        select(default, default)


def test_closed_on_either_side(rt):
    """A waiting select is told of a close: a receive gives nothing, a send raises."""
    ch, other = Chan(), Chan()
    receiving = go(lambda: select(other.recv, ch.recv))
    until_waiting(ch, receivers=1)
    ch.close()
    assert receiving.result(DEADLINE_S) == (1, None, False)
    ch = Chan()
    sending = go(lambda: select(other.recv, (ch.send, 1)))
    until_waiting(ch, senders=1)
    ch.close()
    assert type(sending.exception(DEADLINE_S)) is ChanClosed
    assert waiters(other) == (0, 0)


def test_both_sides_of_one_channel(rt):
    """Two that select both sides meet each other; one alone never meets itself."""
    ch = Chan()
    with pytest.raises(TimeoutError):
        select((ch.send, 1), ch.recv, timeout=0.01)
    handle = go(lambda: select((ch.send, "theirs"), ch.recv))
    until_waiting(ch, receivers=1, senders=1)
    ours = select((ch.send, "ours"), ch.recv)
    theirs = handle.result(DEADLINE_S)
    assert {ours.index, theirs.index} == {0, 1}
    assert (ours.value, theirs.value) in [(None, "ours"), ("theirs", None)]
    gosched()
    assert waiters(ch) == (0, 0)
