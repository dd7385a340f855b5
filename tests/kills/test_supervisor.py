"""The supervisor never sleeps at a door: whoever holds the lock may be dead, and only the supervisor can free it."""

from __future__ import annotations

import pytest

from mproc_go import Chan
from mproc_go.chan import ops
from mproc_go.sched import idle, runq, states
from mproc_go.sched.deliver import deliver
from mproc_go.shm import layout as L
from mproc_go.supervisor.sysmon import Sysmon
from tests.crash.burial import DEAD, LIVING, Grave


@pytest.fixture
def grave():
    made = Grave()
    yield made
    made.close()


def dies_holding(grave, number):
    """The second worker dies with that lock; the supervisor learns of it when it looks."""
    m = grave.living
    m.enter(m.locks[number])
    grave.reaper._woken = []
    grave.reaper._collect = lambda: grave.reaper.dead.add(LIVING)


def test_queueing_while_the_dead_hold_the_scheduler(grave):
    """What a burial queues again gets into the global list although another worker just died with its lock."""
    g = grave.victim
    dies_holding(grave, L.L_SCHED)
    runq.put_global(grave.supervisor, [g])
    assert runq.queued_global(grave.words) == [g]
    assert not any(grave.words[L.slot_base(0) + L.M_PHASE + level] for level in range(8))


def test_delivering_while_the_dead_hold_the_inbox(grave):
    """What a burial wakes is delivered although another worker just died with the lock of that inbox."""
    g, w = grave.victim, grave.words
    w[g + L.G_STATUS] = states.WAITING
    dies_holding(grave, L.inbox_lock(grave.dead.slot))
    deliver(grave.supervisor, g)
    assert grave.inbox(grave.dead) == [g]


def test_nested_locks_each_show_in_their_own_word(grave):
    """The supervisor shows no lock once it gave them back: else it would wait for itself when that one is retired."""
    t, w = grave.supervisor, grave.words
    outer, inner = t.locks[L.L_OBJECTS], t.locks[L.L_CLAIM]
    t.enter(outer)
    t.enter(inner, 1)
    assert w[t.ph] == outer.phase and w[t.ph + 1] == inner.phase
    t.leave(inner, 1)
    t.leave(outer)
    assert not any(w[t.ph + level] for level in range(8))


def test_a_helper_thread_dies_with_its_process(grave):
    """A lock that a helper thread of a second dead process holds is freed too, while the first one is buried."""
    w, helper = grave.words, grave.client
    w[helper.base + L.M_HOST] = LIVING
    number = L.object_lock(grave.victim)
    helper.enter(helper.locks[number])
    grave.reaper._woken = []
    grave.reaper._collect = lambda: grave.reaper.dead.add(LIVING)
    grave.supervisor.enter(grave.supervisor.locks[number])
    grave.supervisor.leave(grave.supervisor.locks[number])
    assert not w[helper.ph]


def test_a_burial_waits_for_a_delivery_under_way(grave):
    """Somebody living sent to a goroutine of the dead and was stopped before it delivered: the record stays what it is."""
    w = grave.words
    with grave.as_(grave.dead):
        ch = Chan()
    g = grave.waiting(grave.dead, ch.recv)
    theirs = grave.foreign(ch, grave.living)
    m = grave.living
    m.enter(theirs._lock)
    outcome, woken = ops.send(m, ch._base, 0, b"")
    m.leave(theirs._lock)
    assert (outcome, woken) == (ops.DONE, g)
    grave._is_dead()
    for _ in range(3):
        assert not grave.reaper.bury(DEAD, 4711, "was killed")
        assert w[g + L.G_STATUS] & states.STATUS_MASK == states.WAITING
        assert w[g + L.G_M] == DEAD
    with grave.as_(m):
        m.ready(g)
    assert grave.reaper.bury(DEAD, 4711, "was killed")
    assert w[g + L.G_STATUS] & states.STATUS_MASK == states.FAILED


def test_a_delivery_that_a_dead_one_owes_to_another_dead(grave):
    """Both died; the sender is buried first: its delivery is made, so that the receiver's burial does not wait for it."""
    w = grave.words
    with grave.as_(grave.living):
        ch = Chan()
    g = grave.waiting(grave.living, ch.recv)
    sender = grave.dead
    theirs = grave.foreign(ch, sender)
    sender.enter(theirs._lock)
    assert ops.send(sender, ch._base, 0, b"") == (ops.DONE, g)
    sender.leave(theirs._lock)
    grave._is_dead()
    grave.reaper.dead |= {DEAD, LIVING}
    assert grave.reaper.bury(DEAD, 4711, "was killed")
    w[L.slot_base(DEAD) + L.M_KIND] = L.KIND_WORKER  # the next one in that slot lives
    assert grave.reaper.bury(LIVING, 4712, "was killed")
    assert w[g + L.G_STATUS] & states.STATUS_MASK == states.FAILED


def test_no_worker_is_missing_while_a_p_changes_hands(grave):
    """Whoever hands a P to the last sleeper was stopped halfway: no P is without an M, so none is forked."""
    m, w, forked = grave.client, grave.words, []
    sysmon = Sysmon(grave.supervisor, lambda: forked.append(1))
    idle.release_p(grave.living)
    runq.put_global(m, [grave.victim])
    m.enter(m.locks[L.L_SCHED])
    idle._set_bit(w, L.S_MIDLE, LIVING, False)
    sysmon.tick()
    idle._set_bit(w, L.S_MIDLE, LIVING, True)
    m.leave(m.locks[L.L_SCHED])
    assert not forked and not w[grave.living.base + L.M_P]
    sysmon.tick()
    assert not forked and w[grave.living.base + L.M_P]
    runq.get_global(m, 1)
