"""Records and blocks: each in one place, whatever is taken and given; room for what was asked; a limit that is exact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproc_go.errors import SharedMemoryFull
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from tests.crash.machine import Machine

POOLS = [L.POOL_G, L.POOL_OBJECT, L.POOL_SUDOG, L.MIN_BLOCK_ORDER, L.MIN_BLOCK_ORDER + 3]
TAKE, GIVE, FLUSH = range(3)


def check(machine, which, held):
    caches = {t.slot: t.caches[which] for t in machine.threads}
    pool.check_pool(machine.words, which, caches, {base for base, _ in held})
    for base, slot in held:
        assert machine.words[base + L.R_HEAD] == pool.head_of(slot, L.REC_LIVE)


@settings(max_examples=60, deadline=None)
@given(
    which=st.sampled_from(POOLS),
    steps=st.lists(
        st.tuples(st.sampled_from([TAKE, TAKE, GIVE, FLUSH]), st.integers(0, 1), st.integers(0, 200)), max_size=40
    ),
)
def test_a_record_is_in_exactly_one_place(which, steps):
    """After every take, give (also by another than who took it) and flush, of any number: PL1 to PL3."""
    machine = Machine()
    held = []
    for what, who, n in steps:
        t = machine.threads[who]
        if what == TAKE:
            for base in [pool.take(t, which) for _ in range(n)]:
                pool.put_block(t, base)
                held.append((base, t.slot))
        elif what == GIVE:
            for base, _ in held[:n]:
                pool.give(t, which, base)
            del held[:n]
        else:
            pool.flush(t, which, n)
        check(machine, which, held)
    for t in machine.threads:
        pool.flush_all(t)
    assert len(pool.free_records(machine.words, which)) + len(held) == len(pool.records(machine.words, which))


def test_what_was_freed_is_used_again():
    """A program that takes and gives for ever stays flat."""
    machine = Machine()
    t = machine.threads[0]
    for _ in range(50):
        bases = [pool.take(t, L.POOL_G) for _ in range(100)]
        for base in bases:
            pool.give(t, L.POOL_G, base)
    assert len(pool.records(machine.words, L.POOL_G)) <= 100 + pool.cache_size(L.POOL_G)


@given(st.integers(0, 1 << 22))
def test_a_block_has_room_for_what_was_asked(n_bytes):
    """And is at most twice as large, but for the smallest."""
    which = pool.block_pool(n_bytes)
    room = ((1 << which) - L.BLOCK_DATA) * L.WORD
    assert n_bytes <= room
    assert which == L.MIN_BLOCK_ORDER or 1 << which <= 2 * ((n_bytes + 7) // 8 or 1)


@pytest.mark.parametrize("n_bytes", [0, 1, 120, 121, 4088, 100_000, 262_136, 262_144, 300_000])
def test_blocks_of_all_sizes_keep_their_bytes(n_bytes):
    """Two blocks never share a byte, on both sides of where a block becomes an extent of its own."""
    machine = Machine()
    t = machine.threads[0]
    blocks = [pool.take_block(t, n_bytes) for _ in range(3)]
    mem = machine.segment.mem
    for i, block in enumerate(blocks):
        start = (block + L.BLOCK_DATA) * L.WORD
        mem[start : start + n_bytes] = bytes([i + 1]) * n_bytes
    for i, block in enumerate(blocks):
        start = (block + L.BLOCK_DATA) * L.WORD
        assert mem[start : start + n_bytes] == bytes([i + 1]) * n_bytes
        pool.give_block(t, block, n_bytes)
    assert len({pool.take_block(t, n_bytes) for _ in range(3)} & set(blocks)) == 3


def test_large_blocks_are_accounted_by_the_page():
    """What they really commit counts against the limit, and nothing once they are freed but their first page."""
    machine = Machine()
    t, w = machine.threads[0], machine.words
    before = w[L.H_COMMITTED_WORDS]
    n_bytes = 300_000
    block = pool.take_block(t, n_bytes)
    pages = -(-(n_bytes // 8 + 1 + L.BLOCK_DATA) // L.PAGE_WORDS)
    assert w[L.H_COMMITTED_WORDS] - before in range((pages - 1) * L.PAGE_WORDS, (pages + 1) * L.PAGE_WORDS)
    pool.give_block(t, block, n_bytes)
    assert w[L.H_COMMITTED_WORDS] - w[L.H_KEPT_WORDS] == before  # it is hot
    assert pool._let_go(t) and not pool._let_go(t)
    assert w[L.H_COMMITTED_WORDS] == before + L.PAGE_WORDS
    assert not w[L.H_KEPT_WORDS]


def hot(w):
    """What the hot blocks keep, counted in their lists."""
    before = w[L.H_KEPT_WORDS]
    pool.repair_kept(w)
    assert w[L.H_KEPT_WORDS] == before
    return before


def test_hot_blocks_are_used_again_as_they_are():
    """The same size again costs the machine nothing; a larger or smaller one only the difference."""
    machine = Machine()
    t, w = machine.threads[0], machine.words
    w[L.H_LIMIT_WORDS] *= 2
    block = pool.take_block(t, 300_000)
    calls = []
    machine.segment.commit = lambda *args: calls.append(args)
    machine.segment.give_back = lambda *args: calls.append(args)
    committed = w[L.H_COMMITTED_WORDS]
    for _ in range(3):
        pool.give_block(t, block, 300_000)
        assert hot(w)
        assert pool.take_block(t, 300_000) == block
        assert not hot(w)
    assert not calls and w[L.H_COMMITTED_WORDS] == committed
    pool.give_block(t, block, 300_000)
    assert pool.take_block(t, 400_000) == block
    ((base, words),) = calls
    assert base == block + pool._large_words(300_000) and words == w[L.H_COMMITTED_WORDS] - committed
    pool.give_block(t, block, 400_000)
    assert pool.take_block(t, 300_000) == block
    assert calls[1] == calls[0]
    assert w[L.H_COMMITTED_WORDS] == committed


def test_hot_blocks_are_bounded_and_the_latest_size_stays():
    """They keep a part of the limit at the most; a new size makes room for itself among the others."""
    machine = Machine()
    t, w = machine.threads[0], machine.words
    w[L.H_LIMIT_WORDS] *= 2
    most = w[L.H_LIMIT_WORDS] // 8
    assert 2 * pool._large_words(400_000) > most > pool._large_words(600_000)
    blocks = [(pool.take_block(t, n), n) for n in (400_000, 400_000, 600_000)]
    for block, n in blocks:
        pool.give_block(t, block, n)
        assert 0 < hot(w) <= most
    assert hot(w) == pool._large_words(600_000)


def test_hot_blocks_give_way_before_it_is_full():
    """The limit is exact: what is kept is had again, whatever it is asked for."""
    for ask, n in ((pool.take_block, 700_000), (lambda t, n: pool._grow(t, L.POOL_G), 0), (pool.take_block, 30_000)):
        machine = Machine()
        t, w = machine.threads[0], machine.words
        block = pool.take_block(t, 300_000)
        cold = pool.take_block(t, 700_000)
        pool.give_block(t, block, 300_000)
        pool.give_block(t, cold, 700_000)
        while pool._let_go(t):
            pass
        assert pool.take_block(t, 300_000) == block
        pool.give_block(t, block, 300_000)
        need = pool._large_words(700_000) if n == 700_000 else 64 * 1024 // 8
        w[L.H_LIMIT_WORDS] = w[L.H_COMMITTED_WORDS] - hot(w) + need
        ask(t, n)
        assert w[L.H_COMMITTED_WORDS] <= w[L.H_LIMIT_WORDS]


def test_fresh_blocks_are_zero():
    """Whether a block is new is said truly: whoever wants zeros need not write them then."""
    machine = Machine()
    t, w = machine.threads[0], machine.words
    for n, expected in ((300_000, True), (300_000, False), (400_000, False), (600_000, True), (1000, False)):
        block, fresh = pool.acquire(t, n)
        assert fresh == expected
        assert pool.is_own(w, block, {t.slot})
        if fresh:
            assert not any(machine.segment.window((block + L.BLOCK_DATA) * 8, n))
        pool.put_block(t, block)
        machine.segment.fill((block + L.BLOCK_DATA) * 8, b"x" * n)
        pool.give_block(t, block, n)


def test_the_last_small_piece_is_used_before_it_is_full():
    """A pool grows by ever larger extents; where only a page is left, it grows by a page."""
    machine = Machine()
    t, w = machine.threads[0], machine.words
    w[L.H_LIMIT_WORDS] = L.DYNAMIC + 3 * L.PAGE_WORDS
    taken = []
    with pytest.raises(SharedMemoryFull, match="memory="):
        while True:
            taken.append(pool.take(t, L.POOL_G))
    assert len(taken) == 3 * L.PAGE_WORDS // L.G_WORDS
    assert w[L.H_COMMITTED_WORDS] == w[L.H_LIMIT_WORDS]
    pool.give(t, L.POOL_G, taken.pop())
    pool.take(t, L.POOL_G)


def test_a_cyclic_free_list_is_noticed():
    """PL2: the walk ends, whatever a broken process wrote."""
    machine = Machine()
    t, w = machine.threads[0], machine.words
    bases = [pool.take(t, L.POOL_G) for _ in range(3)]
    for base in bases:
        pool.give(t, L.POOL_G, base)
    pool.flush_all(t)
    first = w[L.POOLS + L.POOL_G * L.POOL_WORDS + L.POOL_FREE]
    w[w[first + L.R_LINK] + L.R_LINK] = first
    with pytest.raises(AssertionError, match="PL2"):
        pool.free_records(w, L.POOL_G)
