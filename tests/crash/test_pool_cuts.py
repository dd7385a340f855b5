"""Pools and blocks cut at every store: every record is free, cached by the dead, or in use, and can be got back."""

from __future__ import annotations

import pytest

from mproc_go.errors import SharedMemoryFull
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from tests.crash.machine import cuts

SMALL = L.MIN_BLOCK_ORDER


def account(machine, pools, live):
    """Sweep what the dead thread (slot 1) had, and check that every carved record has exactly one place."""
    w = machine.words
    caches = {t.slot: t.caches for t in machine.threads}
    for which in pools:
        pool.sweep(w, which, 1, live)
        living = {slot: [*cache[which]] for slot, cache in caches.items() if slot != 1}
        pool.check_pool(w, which, living, {base for base in pool.records(w, which) if base in live})


@pytest.mark.parametrize("which", [L.POOL_G, L.POOL_OBJECT, SMALL, SMALL + 6])
def test_take_cut_anywhere(which):
    """A first take grows the pool, carves a batch and takes one: cut anywhere, nothing is lost."""
    for machine, _state, _n, died in cuts(
        lambda machine: None, lambda machine, _: pool.take(machine.threads[0], which)
    ):
        account(machine, [which], set() if died else set(live_of(machine, which)) - of_dead(machine, which))


def live_of(machine, which):
    return [b for b in pool.records(machine.words, which) if machine.words[b] & 0xFF == L.REC_LIVE]


def of_dead(machine, which):
    return {b for b in live_of(machine, which) if machine.words[b] >> 8 == 1}


@pytest.mark.parametrize("which", [L.POOL_G, SMALL])
def test_refill_from_the_free_list_cut_anywhere(which):
    """A refill takes a batch off the free list by one store."""

    def build(machine):
        other = machine.threads[1]
        taken = [pool.take(other, which) for _ in range(80)]
        for base in taken:
            pool.give(other, which, base)
        pool.flush_all(other)

    for machine, _state, n, _died in cuts(build, lambda machine, _: pool.take(machine.threads[0], which)):
        account(machine, [which], set())
        assert len(pool.free_records(machine.words, which)) == len(pool.records(machine.words, which)), n


@pytest.mark.parametrize("which", [L.POOL_OBJECT, SMALL])
def test_flush_cut_anywhere(which):
    """Giving a batch back is one store; before it the records are the dead thread's, after it everybody's."""

    def build(machine):
        t = machine.threads[0]
        for base in [pool.take(t, which) for _ in range(30)]:
            machine.words[base + L.R_LINK] = 77  # what a payload left there
            pool.give(t, which, base)

    for machine, _state, n, _died in cuts(build, lambda machine, _: pool.flush(machine.threads[0], which, 20)):
        account(machine, [which], set())
        assert len(pool.free_records(machine.words, which)) == len(pool.records(machine.words, which)), n


def test_growth_cut_anywhere():
    """An extent is there or it is not, and two never overlap."""

    def operate(machine, _):
        for _ in range(300):  # more than the first extent of 64 KiB holds
            pool.take(machine.threads[0], L.POOL_G)

    steps = 0
    for machine, _state, n, died in cuts(
        lambda machine: None, lambda machine, s: pool._grow(machine.threads[0], L.POOL_G)
    ):
        w = machine.words
        count = w[L.EXTENTS + L.EXTENTS_COUNT]
        assert count in (0, 1)
        # What is counted as committed is never less than what is there: giving it back would go below zero.
        assert w[L.H_COMMITTED_WORDS] >= L.DYNAMIC + sum(e[1] for e in extents(w))
        operate(machine, None)
        end = L.DYNAMIC
        for base, words in extents(w):
            assert base == end, "PL3: extents overlap"
            end += words
        assert len(set(pool.records(w, L.POOL_G))) >= 300
        steps = n
    assert steps >= 5


def extents(w):
    """(base, words) of each extent."""
    found = []
    for extent in range(1, w[L.EXTENTS + L.EXTENTS_COUNT] + 1):
        entry = L.EXTENTS + L.EXTENTS_ENTRY + (extent - 1) * L.EXTENT_WORDS
        found.append((w[entry + L.E_BASE], w[entry + L.E_WORDS]))
    return found


def account_large(machine, which):
    """Sweep what the dead one had of large blocks; return how much more is counted than there may be.

    A live block of the dead is one it took and had not published: it stays.
    """
    w = machine.words
    pool.sweep(w, which, 1, set(pool.records(w, which)))
    pool.repair_kept(w)
    free = pool.free_records(w, which)
    live = [base for base in pool.records(w, which) if base not in free]
    assert all(w[base] & 0xFF == L.REC_LIVE for base in live), "a block is lost"
    have = sum((w[base] >> L.HEAD_WORDS) for base in free)
    assert w[L.H_KEPT_WORDS] == sum((w[base] >> L.HEAD_WORDS) for base in free if (w[base] >> L.HEAD_WORDS) > L.PAGE_WORDS)
    counted = w[L.H_COMMITTED_WORDS] - L.DYNAMIC
    assert counted >= have, "counted for less than there is"
    return counted - have


N_BYTES = 300 * 1024
WHICH = pool.block_pool(N_BYTES)
assert pool.block_pool(2 * N_BYTES // 3 + 70_000) == WHICH


def taken(t, n_bytes=N_BYTES):
    """A block that something shared names."""
    base = pool.take_block(t, n_bytes)
    pool.put_block(t, base)
    return base


def one_block(machine, n_bytes=N_BYTES, cold=False):
    """A block that was used and freed."""
    t = machine.threads[1]
    base = pool.take_block(t, n_bytes)
    pool.give_block(t, base, n_bytes)
    if cold:
        assert pool._let_go(t)
    return base


@pytest.mark.parametrize("full", ["account", "commit"])
@pytest.mark.parametrize("before", [0, N_BYTES - 40_000])
def test_a_large_block_that_does_not_fit_cut_anywhere(full, before):
    """It is back in its list and nothing is counted for it; dead in between, at most it is counted and lost."""

    def build(machine):
        w = machine.words
        base = one_block(machine, before or N_BYTES, cold=not before)
        machine.before = w[L.H_COMMITTED_WORDS]
        if full == "account":
            w[L.H_LIMIT_WORDS] = machine.before
        else:

            def commit(base, words):
                raise SharedMemoryFull("the machine has none")

            machine.segment.commit = commit
        return base

    def operate(machine, _):
        with pytest.raises(SharedMemoryFull):
            pool.take_block(machine.threads[0], N_BYTES)

    for machine, base, _n, died in cuts(build, operate):
        w = machine.words
        extra = account_large(machine, WHICH)
        assert pool.free_records(w, WHICH) == [base]
        assert not extra or died
        if not died:
            assert w[L.H_COMMITTED_WORDS] == machine.before
            assert bool(w[L.H_KEPT_WORDS]) == bool(before)


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("before", [N_BYTES, N_BYTES - 40_000, N_BYTES + 40_000])
def test_taking_a_large_block_cut_anywhere(cold, before):
    """A large block leaves its list by one store; until it is said to be live it goes back there."""
    for machine, base, _n, died in cuts(
        lambda machine: one_block(machine, before, cold),
        lambda machine, _: taken(machine.threads[0]),
    ):
        w = machine.words
        account_large(machine, WHICH)
        free = pool.free_records(w, WHICH)
        assert free == ([base] if died else [])


def test_adding_a_large_block_cut_anywhere():
    """It is an extent of its own, or not there at all."""
    for machine, _, n, died in cuts(
        lambda machine: None, lambda machine, _: taken(machine.threads[0])
    ):
        w = machine.words
        known = pool.records(w, WHICH)
        extra = account_large(machine, WHICH)
        assert len(known) <= 1 and pool.free_records(w, WHICH) == (known if died else []), n
        assert bool(extra) == (not died or (not known and w[L.H_COMMITTED_WORDS] > L.DYNAMIC))


@pytest.mark.parametrize("keep", [True, False])
def test_freeing_a_large_block_cut_anywhere(keep):
    """From its first mark on it ends in its list, with or without its memory; what is counted is never too little."""

    def build(machine):
        base = taken(machine.threads[0])
        if not keep:
            machine.words[L.H_LIMIT_WORDS] = machine.words[L.H_COMMITTED_WORDS]  # a part of that is too little for it
        return base

    most = {}
    for machine, base, n, died in cuts(build, lambda machine, b: pool.give_block(machine.threads[0], b, N_BYTES)):
        w = machine.words
        extra = account_large(machine, WHICH)
        most[n] = extra
        if w[base] & 0xFF == L.REC_LIVE:
            assert died and n < 2
        else:
            assert pool.free_records(w, WHICH) == [base]
            if not died:
                assert not extra and bool(w[L.H_KEPT_WORDS]) == keep
    assert sum(bool(extra) for n, extra in most.items() if n >= 2) <= 1  # between two stores side by side


def test_making_room_for_another_size_cut_anywhere():
    """Hot blocks of another size give their memory back, one after the other."""

    def build(machine):
        w, t = machine.words, machine.threads[0]
        bases = [taken(t), taken(t, 2 * N_BYTES)]
        w[L.H_LIMIT_WORDS] = 8 * (pool._large_words(2 * N_BYTES) + L.PAGE_WORDS)
        pool.give_block(machine.threads[1], bases[0], N_BYTES)
        assert w[L.H_KEPT_WORDS]
        return bases

    for machine, bases, _n, died in cuts(
        build, lambda machine, bases: pool.give_block(machine.threads[0], bases[1], 2 * N_BYTES)
    ):
        w = machine.words
        for which in (WHICH, WHICH + 1):
            pool.sweep(w, which, 1, set(pool.records(w, which)))
        pool.repair_kept(w)
        for which, base in ((WHICH, bases[0]), (WHICH + 1, bases[1])):
            free = pool.free_records(w, which)
            assert free == [base] or (died and which == WHICH + 1 and w[base] & 0xFF == L.REC_LIVE)
        have = sum((w[base] >> L.HEAD_WORDS) for base in bases if w[base] & 0xFF != L.REC_LIVE)
        assert w[L.H_COMMITTED_WORDS] - L.DYNAMIC >= have
        if not died:
            assert w[L.H_KEPT_WORDS] == (w[bases[1]] >> L.HEAD_WORDS) > L.PAGE_WORDS


def test_a_list_published_before_its_links_is_noticed():
    """Mutant: the head of the free list stored before the link of the new first record."""

    def mutant(machine, _):
        t, w = machine.threads[0], machine.words
        p = L.POOLS + SMALL * L.POOL_WORDS
        for base in t.caches[SMALL]:
            first = w[p + L.POOL_FREE]
            w[p + L.POOL_FREE] = base
            w[base + L.R_LINK] = first
            w[base] = L.REC_FREE

    def build(machine):
        t = machine.threads[0]
        for base in [pool.take(t, SMALL) for _ in range(6)]:
            w = machine.words
            pool.give(t, SMALL, base)
            w[base + L.R_LINK] = 77  # what a payload left there

    with pytest.raises(AssertionError, match="PL"):
        for machine, _state, _n, _died in cuts(build, mutant):
            account(machine, [SMALL], set())
