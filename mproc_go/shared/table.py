"""The list of a stripe: entries in the order of their hashes, and shortcuts into it. Words only, under its lock.

A split-ordered list: one linked list that is never moved, and *buckets*, which are only shortcuts to where the hashes
with some leading bits begin. Twice as many buckets is one more segment of shortcuts and one store (ST_LEVEL); each is
set when it is first needed, from the one before it. So growth moves no entry, copies nothing and stops nobody, and a
listing can go on at the hash where it left off, whatever grew meanwhile.

(Shalev and Shavit reverse the bits of the hash, since their buckets are its low bits. Here they are its high bits, and
what is reversed is where the shortcut of a bucket lies: those of level j are the prefixes of j bits that end in 1.)

An entry never changes: a value is replaced by linking another entry in its place. (But for a whole number in the place
of another: that is one word, stored where it lies. Who compares a value under no lock looks at it again.) Each change
of the list is one store of a link. Where the number of keys changes with it, a redo record of three words says so
beforehand.

A key that somebody waits for, or changes alone (``SharedMap.compute``), has a *wait record*, named by its entry and in
a list of the stripe. A key that is not there then has an entry without a value.

Invariants:
    HT1  From the head to the tail the hashes ascend, and each key is there once.
    HT2  ST_COUNT is the number of entries with a value.
    HT3  A shortcut that has a link is in the list, where its prefix begins.
    HT4  Wait records and the entries that name them name each other; an entry without a value names one.
    HT5  Nobody waits for what a keyed channel has, or on a closed one.

    operation                         publishes                     after it
    insert, replace, remove           the link before it            ST_COUNT; leaving of the wait record
    a number for a number             the word that it is           hand the key on, if it was changed alone
    set a shortcut                    the link before it            -
    grow                              ST_LEVEL                      -
    begin to change alone             EN_WAIT, or the link          -
    hand a key on                     the waiter's decision word    WT_OWNER, unlink the waiter
    give to who waits for a key       their decision words          unlink them

Source: Shalev and Shavit, Split-Ordered Lists: Lock-Free Extensible Hash Tables, J. ACM 53 (2006).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mproc_go.runtime.message import fetch, put
from mproc_go.sched import waitq
from mproc_go.shared.keys import HASH_BITS
from mproc_go.shm.layout import (
    BLOCK_DATA,
    EN_AT,
    EN_KEY,
    EN_KEYLEN,
    EN_PINS,
    EN_RETIRED,
    EN_SIZE,
    EN_STATE,
    EN_VALUE,
    EN_WAIT,
    G_DECIDE,
    HDR_HAS_HANDLES,
    HDR_SPILLED,
    KC_CLOSED,
    ND_HASH,
    OUT_CLOSED,
    OUT_OK,
    SG_G,
    SG_MSG,
    ST_ACTIVE,
    ST_COUNT,
    ST_DIR,
    ST_HEAD,
    ST_KEYED,
    ST_LEVEL,
    ST_MAP,
    ST_NEW,
    ST_NODE,
    ST_PREV,
    ST_SHORTCUT,
    ST_TAIL,
    WORD,
    WT_BACK,
    WT_BYTES,
    WT_ENTRY,
    WT_LINK,
    WT_OWNER,
    WT_QUEUE,
)
from mproc_go.shm.pool import block_pool, give_locked

# Keys a bucket before there are twice as many buckets. With 2, a load among a million keys takes 5 % longer: each entry
# that is passed is out of the processor's caches.
LOAD = 1
# The first directory brings three levels at once: their shortcuts fill the smallest block.
FIRST_LEVEL = 3
MAX_LEVEL = 30
# Above all hashes: the tail's.
END = 1 << HASH_BITS

# A message that can't be read by copying the few bytes behind its header.
NOT_PLAIN = HDR_SPILLED | HDR_HAS_HANDLES


def settle(w: Any, st: int, owner: int, keyed: bool) -> None:
    """Prepare the words of a new stripe."""
    w[st + ST_MAP] = owner
    w[st + ST_KEYED] = int(keyed)
    w[st + ST_COUNT] = w[st + ST_LEVEL] = w[st + ST_DIR] = 0
    w[st + ST_HEAD] = st + ST_TAIL
    w[st + ST_HEAD + ND_HASH] = 0
    w[st + ST_TAIL] = 0
    w[st + ST_TAIL + ND_HASH] = END
    w[st + ST_ACTIVE] = w[st + ST_ACTIVE + 1] = 0
    w[st + ST_PREV] = w[st + ST_NODE] = w[st + ST_NEW] = 0


# ---------------------------------------------------------------- finding
def start(w: Any, st: int, h: int, level: int) -> int:
    """The node from which to walk to hash `h`: the shortcut of its bucket, which is set if it was not. Lock: its."""
    prefix = h >> HASH_BITS - level
    if not prefix:
        return st + ST_HEAD
    n = (prefix & -prefix).bit_length()
    shortcut: int = w[w[st + ST_DIR] + level - n + 1] + (prefix >> n << 1)
    if not w[shortcut]:
        _set_shortcut(w, st, shortcut, prefix >> n - 1, level - n + 1)
    return shortcut


def _set_shortcut(w: Any, st: int, shortcut: int, prefix: int, level: int) -> None:
    """Put the shortcut of an odd prefix of `level` bits into the list. Lock: the stripe's."""
    h = prefix << HASH_BITS - level
    before = start(w, st, h - 1, level)
    following = w[before]
    while w[following + ND_HASH] < h:
        before = following
        following = w[before]
    w[st + ST_NEW] = ST_SHORTCUT
    w[st + ST_NODE] = shortcut
    w[st + ST_PREV] = before
    w[shortcut + ND_HASH] = h
    w[shortcut] = following
    w[before] = shortcut  # publishes
    w[st + ST_PREV] = 0


def find(w: Any, mem: Any, st: int, h: int, key: bytes) -> tuple[int, int]:
    """Look for a key.

    Returns: the node before its entry (or before the place for it), and its entry or 0.     Lock: the stripe's.
    """
    # Cost: 0.8 us = 6 words, 1 comparison
    prefix = h >> HASH_BITS - w[st + ST_LEVEL]
    if prefix:
        n = (prefix & -prefix).bit_length()
        before = w[w[st + ST_DIR] + w[st + ST_LEVEL] - n + 1] + (prefix >> n << 1)
        node = w[before]
        if not node:
            before = start(w, st, h, w[st + ST_LEVEL])
            node = w[before]
    else:
        before = st + ST_HEAD
        node = w[before]
    here = w[node + 1]
    while here < h:
        before = node
        node = w[node]
        here = w[node + 1]
    while here == h:
        if w[node + EN_KEYLEN] & 0xFFFFFFFF == len(key):
            at = (node + EN_KEY) * 8
            if mem[at : at + len(key)] == key:
                return before, node
        before = node
        node = w[node]
        here = w[node + 1]
    return before, 0


def before_entry(w: Any, st: int, e: int) -> int:
    """The node before an entry that is in the list, or 0 if it is not. Lock: the stripe's."""
    h = w[e + ND_HASH]
    before = start(w, st, h, w[st + ST_LEVEL])
    while (node := w[before]) != e:
        if w[node + ND_HASH] > h:
            return 0
        before = node
    return before


def key_of(w: Any, mem: Any, e: int) -> bytes:
    """The canonical key of an entry."""
    at = (e + EN_KEY) * WORD
    data: bytes = mem[at : at + (w[e + EN_KEYLEN] & 0xFFFFFFFF)]
    return data


def exact_key_of(w: Any, mem: Any, e: int) -> bytes:
    """The key of an entry as it was stored, ``b""`` where that is the canonical form."""
    at = (e + EN_KEY) * WORD + (w[e + EN_KEYLEN] & 0xFFFFFFFF)
    data: bytes = mem[at : at + (w[e + EN_KEYLEN] >> 32)]
    return data


# ---------------------------------------------------------------- changing the list
def link(w: Any, st: int, before: int, node: int, count: int) -> None:
    """Have `node` follow `before`, with which the stripe has `count` keys. Lock: the stripe's."""
    if count == w[st + ST_COUNT]:
        w[before] = node  # publishes
        return
    w[st + ST_NEW] = count
    w[st + ST_NODE] = node
    w[st + ST_PREV] = before
    w[before] = node  # publishes
    w[st + ST_COUNT] = count
    w[st + ST_PREV] = 0


def insert(w: Any, st: int, before: int, e: int) -> None:
    """Link a new entry with a value behind `before`. Lock: the stripe's."""
    w[e] = w[before]
    link(w, st, before, e, w[st + ST_COUNT] + 1)


def replace(w: Any, st: int, before: int, old: int, e: int) -> None:
    """Link an entry in the place of another of the same key. Lock: the stripe's."""
    w[e] = w[old]
    more = bool(w[e + EN_STATE] & EN_VALUE) - bool(w[old + EN_STATE] & EN_VALUE)
    link(w, st, before, e, w[st + ST_COUNT] + more)


def remove(w: Any, st: int, before: int, e: int) -> None:
    """Unlink an entry. Lock: the stripe's."""
    link(w, st, before, w[e], w[st + ST_COUNT] - bool(w[e + EN_STATE] & EN_VALUE))


def remove_some(w: Any, mem: Any, st: int, after: int, most: int) -> tuple[list[int], list[tuple[int, bytes]], int]:
    """Unlink the next entries behind hash `after`, `most` or so. Lock: the stripe's.

    Returns: those the caller is to free, hash and key of those that somebody changes alone just now (they stay), and
    the hash to go on behind, or -1 at the end.
    """
    gone: list[int] = []
    busy = []
    before = start(w, st, after, w[st + ST_LEVEL])
    node = w[before]
    while w[node + ND_HASH] <= after:
        before = node
        node = w[node]
    looked = 0
    while (here := w[node + ND_HASH]) < END and (here == after or looked < most):
        looked += 1
        after = here
        following = w[node]
        if not here & 1:
            before = node
        elif w[node + EN_WAIT]:
            busy.append((here, key_of(w, mem, node)))
            before = node
        else:
            remove(w, st, before, node)
            if retire(w, node, False):
                gone.append(node)
        node = following
    return gone, busy, -1 if here >= END else after


def retire(w: Any, e: int, read: bool) -> bool:
    """What becomes of an entry that was unlinked. Lock: the stripe's.

    Args:
        read: the caller wants to read it yet.
    Returns: whether it is the caller's to free; else it has a pin of the caller, if that wants to read it.
    """
    state = w[e + EN_STATE]
    if not state & EN_PINS:
        return True
    w[e + EN_STATE] = (state + read) | EN_RETIRED
    return False


def wants_to_grow(w: Any, st: int) -> bool:
    """Whether there are too few buckets for the keys."""
    return bool(w[st + ST_COUNT] > LOAD << max(w[st + ST_LEVEL], FIRST_LEVEL - 1) and w[st + ST_LEVEL] < MAX_LEVEL)


def first_directory(w: Any, st: int, directory: int, segment: int) -> None:
    """Begin with shortcuts: three levels of them at `segment`, 7 times 2 words, zeroed. Lock: the stripe's."""
    at = segment
    for level in range(1, FIRST_LEVEL + 1):
        w[directory + level] = at
        at += 1 << level
    w[st + ST_DIR] = directory
    w[st + ST_LEVEL] = FIRST_LEVEL  # publishes


def add_level(w: Any, st: int, segment: int) -> None:
    """Double the buckets: their shortcuts lie at `segment`, zeroed. Lock: the stripe's."""
    level = w[st + ST_LEVEL] + 1
    w[w[st + ST_DIR] + level] = segment
    w[st + ST_LEVEL] = level  # publishes


# ---------------------------------------------------------------- wait records
def attach(w: Any, st: int, wt: int, e: int, owner: int) -> None:
    """Give the key of `e` a wait record. Lock: the stripe's. `e` is in the list, or is linked next."""
    w[wt + WT_ENTRY] = e
    w[wt + WT_OWNER] = owner
    w[wt + WT_QUEUE] = w[wt + WT_QUEUE + 1] = 0
    waitq.enqueue(w, st + ST_ACTIVE, wt)
    w[e + EN_WAIT] = wt  # publishes, where `e` is in the list


def detach(w: Any, st: int, wt: int) -> None:
    """Take a wait record from its key; an entry without a value goes with it. Lock: the stripe's."""
    e = w[wt + WT_ENTRY]
    if w[e + EN_STATE] & EN_VALUE:
        w[e + EN_WAIT] = 0  # publishes
    else:
        remove(w, st, before_entry(w, st, e), e)
    waitq.remove(w, st + ST_ACTIVE, wt)


def pass_on(w: Any, wt: int, slot: int) -> int:
    """Have the first who waits be the one that may change the key; return that goroutine or 0. Lock: the stripe's."""
    s = w[wt + WT_QUEUE]
    if not s:
        return 0
    g: int = w[s + SG_G]
    w[g + G_DECIDE] = OUT_OK | slot << 32  # publishes
    w[wt + WT_OWNER] = g
    waitq.pop(w, wt + WT_QUEUE, s)
    return g


def give_all(w: Any, mem: Any, st: int, wt: int, slot: int) -> list[int]:
    """Give everybody who waits for a key the value that its entry has now; return them. Lock: the stripe's."""
    e = w[wt + WT_ENTRY]
    hdr, body = fetch(w, mem, w[e + EN_AT])
    woken = []
    while s := w[wt + WT_QUEUE]:
        if hdr & NOT_PLAIN:
            w[s + SG_MSG] = hdr
            w[s + SG_MSG + 1] = e
            w[e + EN_STATE] += 1  # a kill before the next store leaves a pin too many: it is never freed
        else:
            put(w, mem, s + SG_MSG, hdr, body)
        g = w[s + SG_G]
        w[g + G_DECIDE] = OUT_OK | slot << 32  # publishes
        waitq.pop(w, wt + WT_QUEUE, s)
        woken.append(g)
    w[e + EN_WAIT] = 0
    waitq.remove(w, st + ST_ACTIVE, wt)
    return woken


def dismiss_all(w: Any, st: int, slot: int) -> tuple[list[int], list[int]]:
    """Tell everybody that the channel is closed. Lock: the stripe's.

    Returns: the goroutines to make ready, and the wait records to free, with entries without a value.
    """
    woken: list[int] = []
    over = []
    while wt := w[st + ST_ACTIVE]:
        woken += waitq.decide_all(w, wt + WT_QUEUE, OUT_CLOSED | slot << 32)
        detach(w, st, wt)
        over.append(wt)
    return woken, over


def wait_records(w: Any, st: int) -> list[int]:
    """The wait records of the stripe."""
    found = []
    wt = w[st + ST_ACTIVE]
    while wt:
        found.append(wt)
        wt = w[wt + WT_LINK]
    return found


# ---------------------------------------------------------------- repair and invariants
def repair(t: Any, st: int) -> list[int]:
    """Complete what a dead thread began in this stripe; return goroutines to make ready. Runs alone, under the lock.

    Who changes a key alone, and died, still does: :func:`forget` is for that.
    """
    w, mem = t.w, t.mem
    before = w[st + ST_PREV]
    if before:
        done = w[before] == w[st + ST_NODE]
        if w[st + ST_NEW] == ST_SHORTCUT:
            if not done:
                w[w[st + ST_NODE]] = 0
        elif done:
            w[st + ST_COUNT] = w[st + ST_NEW]
        w[st + ST_PREV] = 0
    woken: list[int] = []
    previous = 0
    for wt in wait_records(w, st):
        w[wt + WT_BACK] = previous
        w[st + ST_ACTIVE + 1] = wt
        named = w[wt + WT_ENTRY]
        e = find(w, mem, st, w[named + ND_HASH], key_of(w, mem, named))[1]
        if not e or w[e + EN_WAIT] != wt:
            waitq.remove(w, st + ST_ACTIVE, wt)
            give_locked(t, block_pool(WT_BYTES), wt - BLOCK_DATA)
            continue
        previous = wt
        w[wt + WT_ENTRY] = e
        s = w[wt + WT_QUEUE]
        if s and w[w[s + SG_G] + G_DECIDE] and not w[st + ST_KEYED]:
            w[wt + WT_OWNER] = w[s + SG_G]
        waitq.repair(w, wt + WT_QUEUE)
        if w[st + ST_KEYED] and w[e + EN_STATE] & EN_VALUE:
            woken += give_all(w, mem, st, wt, t.slot)
            give_locked(t, block_pool(WT_BYTES), wt - BLOCK_DATA)
    if w[st + ST_KEYED] and w[w[st + ST_MAP] + KC_CLOSED]:
        woken += dismiss(t, st)
    return woken


def dismiss(t: Any, st: int) -> list[int]:
    """As :func:`dismiss_all`, and free the records. Lock: the stripe's."""
    w = t.w
    woken, over = dismiss_all(w, st, t.slot)
    for wt in over:
        e = w[wt + WT_ENTRY]
        if not w[e + EN_STATE] & EN_VALUE:
            give_locked(t, block_pool(w[e + EN_SIZE]), e - BLOCK_DATA)
        give_locked(t, block_pool(WT_BYTES), wt - BLOCK_DATA)
    return woken


def forget(w: Any, st: int, gone: Callable[[int], bool], slot: int) -> list[int]:
    """Goroutines are dead: nobody waits for one of them to be done with a key, and none of them waits. Lock: its.

    A wait record that nobody needs any more stays, until somebody comes to that key.
    """
    woken = []
    for wt in wait_records(w, st):
        q = wt + WT_QUEUE
        for s in waitq.sudogs(w, q):
            if gone(w[s + SG_G]):
                waitq.remove(w, q, s)
        if w[wt + WT_OWNER] and gone(w[wt + WT_OWNER]):
            w[wt + WT_OWNER] = 0
            woken.append(pass_on(w, wt, slot))
    return [g for g in woken if g]


def check(w: Any, mem: Any, st: int) -> None:
    """Assert HT1 to HT5 and the invariants of the queues. Runs alone."""
    assert not w[st + ST_PREV], "a redo record is left"
    seen: set[tuple[int, bytes]] = set()
    nodes = set()
    values, here, node = 0, -1, st + ST_HEAD
    without = set()
    while node:
        h = w[node + ND_HASH]
        assert h >= here, f"HT1: hash {h:#x} behind {here:#x}"
        nodes.add(node)
        here = h
        if h & 1:
            key = key_of(w, mem, node)
            assert (h, key) not in seen, f"HT1: {key!r} is there twice"
            seen.add((h, key))
            assert not w[node + EN_STATE] & EN_RETIRED, "a retired entry is in the list"
            values += bool(w[node + EN_STATE] & EN_VALUE)
            if wt := w[node + EN_WAIT]:
                without.add(wt)
                assert w[wt + WT_ENTRY] == node, "HT4: a wait record names another entry"
            else:
                assert w[node + EN_STATE] & EN_VALUE, "HT4: an entry has neither value nor wait record"
        assert len(nodes) < 1 << 24, "HT1: the list is cyclic"
        node = w[node]
    assert here == END, "HT1: the list does not end at its tail"
    assert values == w[st + ST_COUNT], f"HT2: {values} keys, counted as {w[st + ST_COUNT]}"
    for level in range(1, w[st + ST_LEVEL] + 1):
        segment = w[w[st + ST_DIR] + level]
        for i in range(1 << level - 1):
            shortcut = segment + 2 * i
            if w[shortcut]:
                assert shortcut in nodes, "HT3: a shortcut is not in the list"
                assert w[shortcut + ND_HASH] == (2 * i + 1) << HASH_BITS - level, "HT3: a shortcut elsewhere"
    active = wait_records(w, st)
    assert set(active) == without and len(active) == len(without), "HT4: wait records without an entry"
    previous = 0
    for wt in active:
        assert w[wt + WT_BACK] == previous, "the backward link of a wait record"
        previous = wt
        waitq.check(w, wt + WT_QUEUE)
        if w[st + ST_KEYED]:
            assert not w[w[wt + WT_ENTRY] + EN_STATE] & EN_VALUE, "HT5: somebody waits for what is there"
            assert not w[w[st + ST_MAP] + KC_CLOSED], "HT5: somebody waits on a closed channel"
        elif w[wt + WT_QUEUE]:
            assert w[wt + WT_OWNER], "somebody waits for nobody"
    assert not active or w[st + ST_ACTIVE + 1] == previous, "the tail of the wait records"
