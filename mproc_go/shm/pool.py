"""Pools of fixed-size records and blocks: goroutines, objects, sudogs, and a heap of powers of two.

The approach: memory of a pool comes in *extents*, published one by one in a table; records are carved from the latest
extent and never unmapped, so that a stale reference reads a record of the right type. A freed record goes to a private
cache of the thread that freed it, and from there in batches to the pool's list; the lock is paid once a batch.

Who has a record is written in its head: FREE, CACHED (a slot's own, in its cache or in its hands), or LIVE (something
shared names it). Whoever puts it where others find it says LIVE beside the store that publishes it, under the same
lock; whoever takes it out says that it is its own. So what a dead slot had, wherever it was, is found by walking the
extents (the reaper's slow way), and the fast way needs no record of what is under way. Where the two stores came apart,
the structure that was locked tells (sched/repairs.py: NAMES).

A large block is an extent of its own, as long as a power of two, with memory behind as many pages as it needs. Getting
pages from the machine, and giving them back, takes several times as long as copying a message into them; so a bounded
part of the freed blocks keep theirs (*hot*: a second list, used first). When memory runs out they give them back before
anybody is told so: the limit is exact.

Invariants:
    PL1  Every carved record is in exactly one place: the free list, one slot's cache or hands, or live.
    PL2  The free list is acyclic and holds carved records of this pool only.
    PL3  Extents don't overlap, and only the last one of a pool is partly carved.

Crash: each change ends in one store (POOL_FREE, POOL_HOT, POOL_CUR or EXTENTS_COUNT). Killed before it: nothing
happened, and records whose head says CACHED are still in the list (a list member counts as free whatever its head
says). Killed after it: the records bear the dead slot in their head.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from mproc_go.errors import SharedMemoryFull
from mproc_go.shm.layout import (
    BLOCK_DATA,
    DYNAMIC,
    E_BASE,
    E_POOL,
    E_WORDS,
    EXTENT_WORDS,
    EXTENTS,
    EXTENTS_COUNT,
    EXTENTS_ENTRY,
    H_COMMITTED_WORDS,
    H_KEPT_WORDS,
    H_LIMIT_WORDS,
    HEAD_SLOT,
    HEAD_SLOT_MASK,
    HEAD_WORDS,
    L_SEGMENT,
    LARGE_ORDER,
    MAX_BLOCK_ORDER,
    MIN_BLOCK_ORDER,
    N_EXTENTS,
    PAGE_WORDS,
    POOL_CUR,
    POOL_FREE,
    POOL_HOT,
    POOL_WORDS,
    POOLS,
    R_GEN,
    R_HEAD,
    R_LINK,
    REC_CACHED,
    REC_CARRIES,
    REC_FREE,
    REC_LIVE,
    REC_STATE,
    WORD,
    pool_lock,
    pool_record_words,
)

if TYPE_CHECKING:
    from mproc_go.shm.thread import Thread

_CACHE_BYTES = 64 * 1024  # what a thread keeps of a pool ...
_CACHE_MAX = 64  # ... and how many records at the most; a batch is half of it
_FIRST_EXTENT_WORDS = 8 * 1024  # 64 KiB; doubles with each extent of the pool
_MAX_EXTENT_WORDS = 512 * 1024  # 4 MiB
# Free large blocks keep that much memory, or less where the limit is low.
_KEEP_WORDS = 32 * 1024 * 1024  # 256 MiB
_KEEP_PART = 8


def cache_size(pool: int) -> int:
    """Records of the pool that a thread keeps for itself."""
    return max(2, min(_CACHE_MAX, _CACHE_BYTES // (pool_record_words(pool) * WORD)))


# ---------------------------------------------------------------- records
def take(t: Thread, pool: int) -> int:
    """A record of the pool, this slot's own until it is put somewhere; its words hold what they held before.

    Returns: its base.     Blocks: for the pool's lock, when the cache is empty.
    Raises:
        SharedMemoryFull: the segment can't grow.
    """
    # Cost: 0.1 us from the cache; list.pop is atomic for a finalizer that frees a record in the middle of this.
    cache = t.caches[pool]
    return cache.pop() if cache else _refill(t, pool)


def give(t: Thread, pool: int, base: int) -> None:
    """Free a record. Nobody may refer to it any more. Blocks: for the pool's lock, when the cache is full."""
    cache = t.caches[pool]
    t.w[base] = t.cached
    cache.append(base)
    if len(cache) > t.cache_sizes[pool]:
        flush(t, pool, len(cache) // 2)


def give_locked(t: Thread, pool: int, base: int) -> None:
    """As :func:`give`, but under a lock, where the cache may only grow. Blocks: never."""
    t.w[base] = t.cached
    t.caches[pool].append(base)


def _refill(t: Thread, pool: int) -> int:
    w = t.w
    lock = t.locks[pool_lock(pool)]
    p = POOLS + pool * POOL_WORDS
    words = pool_record_words(pool)
    want = t.cache_sizes[pool] // 2
    while True:
        got: list[int] = []
        t.enter(lock)
        base = w[p + POOL_FREE]
        if base:
            while base and len(got) < want:
                w[base] = t.cached
                got.append(base)
                base = w[base + R_LINK]
            w[p + POOL_FREE] = base  # publishes: they are ours
        else:
            current = w[p + POOL_CUR]
            extent, carved = current >> 32, current & 0xFFFFFFFF
            if not extent or carved >= w[_entry(extent) + E_WORDS] // words:
                extent, carved = _next_extent(w, pool, extent), 0
            if extent:
                first = w[_entry(extent) + E_BASE]
                n = min(want, w[_entry(extent) + E_WORDS] // words - carved)
                for i in range(carved, carved + n):
                    w[first + i * words] = t.cached
                    got.append(first + i * words)
                w[p + POOL_CUR] = extent << 32 | carved + n  # publishes: they are ours
        t.leave(lock)
        if got:
            last = got.pop()
            t.caches[pool].extend(got)
            return last
        _grow(t, pool)


def flush(t: Thread, pool: int, n: int) -> None:
    """Give `n` records of the private cache back to the pool."""
    w = t.w
    cache = t.caches[pool]
    lock = t.locks[pool_lock(pool)]
    p = POOLS + pool * POOL_WORDS
    batch = [cache.pop() for _ in range(min(n, len(cache)))]
    if not batch:
        return
    t.enter(lock)
    head = w[p + POOL_FREE]
    for base in batch:
        w[base + R_LINK] = head  # its head goes on saying who cached it: that counts for nothing once it is in the list
        head = base
    w[p + POOL_FREE] = head  # publishes: they are everybody's
    t.leave(lock)


def flush_all(t: Thread) -> None:
    """Give the whole private cache back: the thread ends."""
    for pool, cache in enumerate(t.caches):
        flush(t, pool, len(cache))


# ---------------------------------------------------------------- blocks
def block_pool(n_bytes: int) -> int:
    """Pool of the blocks that have room for `n_bytes` of payload."""
    return max(MIN_BLOCK_ORDER, ((n_bytes + WORD - 1) // WORD).bit_length())


def take_block(t: Thread, n_bytes: int) -> int:
    """A block with room for `n_bytes` of payload from word ``base + BLOCK_DATA`` on, our own until it is put somewhere.

    Free it with the same size.

    Raises:
        SharedMemoryFull: the segment can't grow, or never could to that size.
    """
    return acquire(t, n_bytes)[0]


def acquire(t: Thread, n_bytes: int) -> tuple[int, bool]:
    """As :func:`take_block`; returns its base, and whether nobody used it before, so that its payload is zero."""
    pool = block_pool(n_bytes)
    if pool < LARGE_ORDER:
        cache = t.caches[pool]
        return cache.pop() if cache else _refill(t, pool), False
    if pool > MAX_BLOCK_ORDER or n_bytes // WORD > t.w[H_LIMIT_WORDS]:
        raise SharedMemoryFull(
            f"{n_bytes} bytes in one piece: the segment may grow to {t.w[H_LIMIT_WORDS] * WORD} bytes (memory=)"
        )
    return _take_large(t, pool, n_bytes)


def put_block(t: Thread, block: int) -> None:
    """Say that something shared names the block. Beside the store that publishes it, and before others can take it."""
    w = t.w
    w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | t.live


def own_block(t: Thread, block: int) -> None:
    """Say that the block is ours alone. Before the store that takes it out of where it was."""
    w = t.w
    w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | t.cached


def give_block(t: Thread, base: int, n_bytes: int) -> None:
    """Free a block of :func:`take_block`."""
    pool = block_pool(n_bytes)
    if pool < LARGE_ORDER:
        give(t, pool, base)
        return
    give_large(t, pool, base)


def give_large(t: Thread, pool: int, base: int) -> None:
    """Free a large block."""
    own_block(t, base)
    w = t.w
    words = w[base] >> HEAD_WORDS
    most = min(_KEEP_WORDS, w[H_LIMIT_WORDS] // _KEEP_PART)
    if words <= most:
        # What was used last is what will be used next: others make room for it.
        while w[H_KEPT_WORDS] + words > most and _let_go(t, pool):
            pass
        if w[H_KEPT_WORDS] + words <= most:
            _push(t, pool, POOL_HOT, base, words)
            return
    _cool(t, pool, base)


def _large_words(n_bytes: int) -> int:
    """Words that a large block of that payload really commits: whole pages, not the power of two."""
    return -(-((n_bytes + WORD - 1) // WORD + BLOCK_DATA) // PAGE_WORDS) * PAGE_WORDS


def _take_large(t: Thread, pool: int, n_bytes: int) -> tuple[int, bool]:
    """A large block, as :func:`acquire`."""
    w = t.w
    words = _large_words(n_bytes)
    base = _pop(t, pool, POOL_HOT) or _pop(t, pool, POOL_FREE)
    if not base:
        return _extend(t, pool, 1 << pool, words), True
    have: int = w[base] >> HEAD_WORDS
    try:
        if have < words:
            _account(t, words - have)
            try:
                t.segment.commit(base + have, words - have)
            except BaseException:
                _account(t, have - words)
                raise
            w[base] = t.cached | words << HEAD_WORDS
        elif have > words:
            w[base] = t.cached | words << HEAD_WORDS
            _account(t, words - have)
            t.segment.give_back(base + words, have - words)
    except BaseException:
        _push(t, pool, POOL_HOT if have > PAGE_WORDS else POOL_FREE, base, have)
        raise
    return base, False


def _pop(t: Thread, pool: int, which: int) -> int:
    """Take the first block of a list of the large pool, 0 if there is none. Blocks: for the pool's lock."""
    w = t.w
    head = POOLS + pool * POOL_WORDS + which
    if not w[head]:  # a stale look only finds one too few
        return 0
    lock = t.locks[pool_lock(pool)]
    t.enter(lock)
    base: int = w[head]
    if base:
        own_block(t, base)
        w[head] = w[base + R_LINK]  # publishes: it is ours
        if which == POOL_HOT:
            w[H_KEPT_WORDS] -= w[base] >> HEAD_WORDS
    t.leave(lock)
    return base


def _push(t: Thread, pool: int, which: int, base: int, words: int) -> None:
    """Put a block with memory behind `words` into a list of the large pool. Blocks: for the pool's lock."""
    w = t.w
    head = POOLS + pool * POOL_WORDS + which
    lock = t.locks[pool_lock(pool)]
    t.enter(lock)
    w[base + R_LINK] = w[head]
    w[head] = base  # publishes: it is everybody's
    if which == POOL_HOT:
        w[H_KEPT_WORDS] += words
    t.leave(lock)


def _cool(t: Thread, pool: int, base: int) -> None:
    """Give the memory of a free block that is ours back to the machine, but for its first page; put it in its list.

    Crash: counted first, so that at most pages stay, until the block is used again.
    """
    w = t.w
    words = w[base] >> HEAD_WORDS
    lock = t.locks[L_SEGMENT]
    t.enter(lock)
    w[base] = t.cached | PAGE_WORDS << HEAD_WORDS
    w[H_COMMITTED_WORDS] -= words - PAGE_WORDS  # dead before it: too high by that, never too low
    t.leave(lock)
    t.segment.give_back(base + PAGE_WORDS, words - PAGE_WORDS)
    _push(t, pool, POOL_FREE, base, PAGE_WORDS)


def _let_go(t: Thread, spared: int = 0) -> bool:
    """Have one hot block give its memory back, not one of the pool `spared`; False if there is none."""
    for pool in range(MAX_BLOCK_ORDER, LARGE_ORDER - 1, -1):
        if pool != spared:
            base = _pop(t, pool, POOL_HOT)
            if base:
                _cool(t, pool, base)
                return True
    return False


def repair_kept(w: memoryview) -> None:
    """Count again how much the hot blocks keep: who changed their lists died. Runs alone, under the lock of all."""
    kept = 0
    for pool in range(LARGE_ORDER, MAX_BLOCK_ORDER + 1):
        base = w[POOLS + pool * POOL_WORDS + POOL_HOT]
        while base:
            kept += w[base] >> HEAD_WORDS
            base = w[base + R_LINK]
    w[H_KEPT_WORDS] = kept


# ---------------------------------------------------------------- extents
def _entry(extent: int) -> int:
    """Index of the table entry of an extent; extents are counted from 1."""
    return EXTENTS + EXTENTS_ENTRY + (extent - 1) * EXTENT_WORDS


def _next_extent(w: memoryview, pool: int, after: int) -> int:
    """Number of the next extent of the pool behind `after`, 0 if there is none."""
    for extent in range(after + 1, w[EXTENTS + EXTENTS_COUNT] + 1):
        if w[_entry(extent) + E_POOL] == pool:
            return extent
    return 0


def _grow(t: Thread, pool: int) -> None:
    """Add an extent to the pool; each is twice as large as the one before, up to a bound."""
    words = pool_record_words(pool)
    w = t.w
    mine = sum(1 for e in range(1, w[EXTENTS + EXTENTS_COUNT] + 1) if w[_entry(e) + E_POOL] == pool)
    size = min(_FIRST_EXTENT_WORDS << min(mine, 10), _MAX_EXTENT_WORDS)
    size = max(size // words, 1) * words
    size = -(-size // PAGE_WORDS) * PAGE_WORDS
    try:
        _extend(t, pool, size, size)
    except SharedMemoryFull:
        # A limit is exact only if the last small piece can still be used.
        _extend(t, pool, -(-words // PAGE_WORDS) * PAGE_WORDS, -(-words // PAGE_WORDS) * PAGE_WORDS)


def _extend(t: Thread, pool: int, words: int, commit_words: int) -> int:
    """Add an extent, with the memory of hot blocks if need be; return its base."""
    while True:
        try:
            return _add_extent(t, pool, words, commit_words)
        except SharedMemoryFull:
            if not _let_go(t):
                raise


def _account(t: Thread, words: int) -> None:
    """Count `words` more as committed; hot blocks give theirs back if need be.

    Raises:
        SharedMemoryFull: that is over the limit.
    """
    w = t.w
    lock = t.locks[L_SEGMENT]
    while True:
        t.enter(lock)
        committed = w[H_COMMITTED_WORDS] + words
        fits = words <= 0 or committed <= w[H_LIMIT_WORDS]
        if fits:
            w[H_COMMITTED_WORDS] = committed
        t.leave(lock)
        if fits:
            return
        if not _let_go(t):
            raise _full(w, words)


def _add_extent(t: Thread, pool: int, words: int, commit_words: int) -> int:
    """Reserve `words` of the segment for the pool, with memory behind the first `commit_words`; return the base."""
    w = t.w
    lock = t.locks[L_SEGMENT]
    t.enter(lock)
    error: SharedMemoryFull | None = None
    base = 0
    try:
        # Rare and long (0.25 ms a MiB): memory is committed under the lock, since the next extent begins behind it.
        n = w[EXTENTS + EXTENTS_COUNT]
        base = w[_entry(n) + E_BASE] + w[_entry(n) + E_WORDS] if n else DYNAMIC
        if w[H_COMMITTED_WORDS] + commit_words > w[H_LIMIT_WORDS] or base + words > len(w):
            error = _full(w, commit_words)
        elif n >= N_EXTENTS:
            error = SharedMemoryFull(f"the segment is cut into {n} extents already, there is no room for one more")
        else:
            t.segment.commit(base, commit_words)
            entry = _entry(n + 1)
            w[entry + E_POOL] = pool
            w[entry + E_BASE] = base
            w[entry + E_WORDS] = words
            if pool >= LARGE_ORDER:  # the extent is one block, and from the start in our cache
                w[base] = t.cached | commit_words << HEAD_WORDS
            w[H_COMMITTED_WORDS] += commit_words  # dead before the next store: too high by that, never too low
            w[EXTENTS + EXTENTS_COUNT] = n + 1  # publishes
    except SharedMemoryFull as full:
        error = full
    t.leave(lock)
    if error is not None:
        raise error
    return base


def _full(w: memoryview, words: int) -> SharedMemoryFull:
    mib = 1024 * 1024 // WORD
    return SharedMemoryFull(
        f"{words * WORD} bytes more don't fit: {w[H_COMMITTED_WORDS] / mib:.1f} MiB of "
        f"{w[H_LIMIT_WORDS] / mib:.1f} MiB are in use; give the runtime more with memory=, or hold less at a time"
    )


# ---------------------------------------------------------------- eyes and invariants
def records(w: memoryview, pool: int) -> list[int]:
    """Bases of all carved records of the pool (blocks of large pools: all extents)."""
    words = pool_record_words(pool)
    current = w[POOLS + pool * POOL_WORDS + POOL_CUR]
    last, carved = current >> 32, current & 0xFFFFFFFF
    found: list[int] = []
    for extent in range(1, w[EXTENTS + EXTENTS_COUNT] + 1):
        entry = _entry(extent)
        if w[entry + E_POOL] != pool:
            continue
        if pool >= LARGE_ORDER:
            found.append(w[entry + E_BASE])
        elif extent <= last:
            n = carved if extent == last else w[entry + E_WORDS] // words
            found.extend(w[entry + E_BASE] + i * words for i in range(n))
    return found


def free_records(w: memoryview, pool: int) -> list[int]:
    """Bases in the free list of the pool, first one first; of a large pool also the hot ones.

    Raises:
        AssertionError: the list is cyclic or leaves the pool (PL2).
    """
    known = set(records(w, pool))
    found: list[int] = []
    for which in (POOL_FREE, POOL_HOT) if pool >= LARGE_ORDER else (POOL_FREE,):
        base = w[POOLS + pool * POOL_WORDS + which]
        while base:
            assert base in known, f"PL2: {base} is no carved record of pool {pool}"
            known.discard(base)
            found.append(base)
            base = w[base + R_LINK]
    return found


def check_pool(w: memoryview, pool: int, caches: dict[int, list[int]], live: set[int]) -> None:
    """Assert PL1 to PL3. `caches`: private caches by slot; `live`: bases that are in use. Runs alone."""
    free = free_records(w, pool)
    everything = records(w, pool)
    assert len(set(everything)) == len(everything), "PL3: extents overlap"
    places = list(free)
    for cache in caches.values():
        places += cache
    places += live
    assert sorted(places) == sorted(everything), f"PL1: pool {pool}: {len(places)} placed of {len(everything)}"


def sweep(w: memoryview, pool: int, slot: int, reachable: set[int]) -> list[int]:
    """Return to the free list what was the dead `slot`'s own, but for messages with handles, and what it destroyed.

    Runs: the supervisor alone, under the pool's lock.     Returns: the bases freed.
    `reachable`: of what it says is live, what something refers to (that stays).
    """
    free = set(free_records(w, pool))
    p = POOLS + pool * POOL_WORDS
    swept = []
    for base in records(w, pool):
        head = w[base + R_HEAD]
        state = head & REC_STATE
        if head >> HEAD_SLOT & HEAD_SLOT_MASK != slot or base in free or state not in (REC_CACHED, REC_LIVE):
            continue
        if state == REC_CACHED or base not in reachable:
            if pool < MIN_BLOCK_ORDER:
                w[base + R_GEN] += 1
            # A large block has all of its memory until that is counted as given back.
            words = head >> HEAD_WORDS
            which = p + (POOL_HOT if words > PAGE_WORDS else POOL_FREE)
            w[base + R_LINK] = w[which]
            w[base + R_HEAD] = REC_FREE | words << HEAD_WORDS
            w[which] = base
            if words > PAGE_WORDS:
                w[H_KEPT_WORDS] += words
            swept.append(base)
    return swept


def head_of(slot: int, state: int) -> int:
    """The head of a record that is `state`, by this slot."""
    return state | slot << HEAD_SLOT


def is_own(w: memoryview, base: int, slots: Collection[int]) -> bool:
    """Whether the record or block is one of these slots' own."""
    head = w[base + R_HEAD]
    return head & REC_STATE in (REC_CACHED, REC_CARRIES) and head >> HEAD_SLOT & HEAD_SLOT_MASK in slots
