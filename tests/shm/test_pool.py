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
        assert machine.words[base + L.R_HEAD] == pool.live_head(slot)


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
            held += [(pool.take(t, which), t.slot) for _ in range(n)]
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
    assert w[L.H_COMMITTED_WORDS] == before + L.PAGE_WORDS


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
