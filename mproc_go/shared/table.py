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
    give to who waits for a key       their decision words          unlink them, where they have a copy
    take what was given               the link past the sudog       give up the wait record
    read an entry under no lock       the pin                       -
    stop reading it                   the pin                       its number in EN_STATE

What is in the list is live, as are the blocks that it names, and what was not linked yet, or was taken out, is its
thread's own (shm/pool.py). Heads say so behind the link, and ahead of it; where a death came between the two, the entry
that ST_PREV links to, and the wait records, are all that may be said wrongly (:func:`names`). An entry that somebody
reads is still live when it is taken out, and RETIRED: it is the last one's that reads it. Who reads it is said by pins,
words of their slots, so that no death leaves one that nobody takes off; and by the queue of its wait record, in which
those are who were given it by a keyed channel, until they have pins.

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
    EN_GIVEN,
    EN_KEY,
    EN_KEY_HANDLES,
    EN_KEYLEN,
    EN_PINS,
    EN_RETIRED,
    EN_STATE,
    EN_VALUE,
    EN_WAIT,
    G_DECIDE,
    H_SLOTS,
    HDR_HAS_HANDLES,
    HDR_SPILLED,
    HEAD_WORDS,
    KC_CLOSED,
    M_KIND,
    M_PINS,
    N_PINS,
    ND_HASH,
    OUT_CLOSED,
    OUT_OK,
    PIN_LOCK,
    REC_CACHED,
    REC_CARRIES,
    SG_G,
    SG_LINK,
    SG_MSG,
    SG_PREV,
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
    object_lock,
    slot_base,
)
from mproc_go.shm.pool import block_pool, give_locked, head_of, own_block, put_block
from mproc_go.shm.thread import Thread

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
    w[st + ST_PREV] = st + ST_HEAD
    w[st + ST_NODE] = w[st + ST_NEW] = 0


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
    w[st + ST_PREV] = before
    w[st + ST_NODE] = shortcut
    w[shortcut + ND_HASH] = h
    w[shortcut] = following
    w[before] = shortcut  # publishes
    w[st + ST_NODE] = 0


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


# ---------------------------------------------------------------- whose an entry is
def _say(w: Any, e: int, plain: int, carrying: int) -> None:
    """Say in the heads of an entry, and of the blocks of its message and its key's handles, whose they are."""
    at = w[e + EN_AT]
    hdr = w[at]
    if hdr & HDR_SPILLED:
        block = w[at + 1]
        w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | (carrying if hdr & HDR_HAS_HANDLES else plain)
    if w[e + EN_STATE] & EN_KEY_HANDLES:
        block = w[at - 1]
        w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | carrying
    block = e - BLOCK_DATA
    w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | plain


def let_go(t: Thread, e: int) -> None:
    """Say that an entry is where others find it. Beside the store that links it. Lock: the stripe's."""
    _say(t.w, e, t.live, t.live)


def own(t: Thread, e: int) -> None:
    """Say that an entry is ours. Before the store that takes it out of where it was. Lock: the stripe's."""
    _say(t.w, e, t.cached, t.carries)


def free_pin(t: Thread) -> int:
    """A word of our slot where a pin can be stored; 0 if goroutines of ours read as many entries as there are."""
    w = t.w
    first: int = t.base + M_PINS
    for at in range(first, first + N_PINS):
        if not w[at]:
            return at
    return 0


def pin(w: Any, at: int, number: int, e: int) -> None:
    """Keep an entry: whoever unlinks it leaves it to us. Lock: the stripe's, which has that number."""
    w[e + EN_STATE] += 1
    w[at] = e | number << PIN_LOCK  # publishes


def pinned(w: Any, at: int) -> int:
    """The entry that the pin at word `at` keeps."""
    e: int = w[at] & (1 << PIN_LOCK) - 1
    return e


def unpin(t: Thread, at: int) -> bool:
    """Take a pin of ours off; whether the entry is ours to free now. Lock: the stripe's."""
    w = t.w
    e = pinned(w, at)
    state = w[e + EN_STATE]
    ours = bool(state & EN_RETIRED) and not _is_read(w, state, w[at], at)
    if ours:
        own(t, e)
    w[at] = 0  # publishes
    w[e + EN_STATE] = state - 1
    return ours


def _is_read(w: Any, state: int, word: int, but: int = 0) -> bool:
    """Whether somebody reads the entry of that EN_STATE and of pins like `word`, not counting the pin at `but`."""
    if state & EN_GIVEN:
        return True
    if not state & EN_PINS:
        return False
    for slot in range(1, w[H_SLOTS]):
        base = slot_base(slot)
        if w[base + M_KIND]:
            for at in range(base + M_PINS, base + M_PINS + N_PINS):
                if w[at] == word and at != but:
                    return True
    return False


def part_with(t: Thread, st: int, e: int, at: int = 0) -> bool:
    """Prepare for an entry to be unlinked, whose place ST_PREV names. Lock: the stripe's.

    Args:
        at: a word for a pin, where the caller wants to read the entry yet.
    Returns: whether it is the caller's alone; else its last reader's, and the caller has a pin if it wants to read it.
    """
    w = t.w
    state = w[e + EN_STATE]
    number = object_lock(st)
    if not _is_read(w, state, e | number << PIN_LOCK):
        own(t, e)
        return True
    w[e + EN_STATE] = state | EN_RETIRED
    if at:
        pin(w, at, number, e)
    return False


# ---------------------------------------------------------------- changing the list
def link(w: Any, st: int, node: int, count: int) -> None:
    """Have `node` follow the one that ST_PREV names, with which the stripe has `count` keys. Lock: the stripe's."""
    before = w[st + ST_PREV]
    if count == w[st + ST_COUNT]:
        w[before] = node  # publishes
        return
    w[st + ST_NEW] = count
    w[st + ST_NODE] = node
    w[before] = node  # publishes
    w[st + ST_COUNT] = count
    w[st + ST_NODE] = 0


def insert(t: Thread, st: int, before: int, e: int) -> None:
    """Link a new entry behind `before`. Lock: the stripe's."""
    w = t.w
    w[e] = w[before]
    w[st + ST_PREV] = before
    link(w, st, e, w[st + ST_COUNT] + bool(w[e + EN_STATE] & EN_VALUE))
    let_go(t, e)


def replace(t: Thread, st: int, before: int, old: int, e: int, at: int = 0) -> bool:
    """Link an entry in the place of another of its key. Lock: the stripe's. Returns, `at`: as :func:`part_with`."""
    w = t.w
    w[e] = w[old]
    w[st + ST_PREV] = before
    ours = part_with(t, st, old, at)
    more = bool(w[e + EN_STATE] & EN_VALUE) - bool(w[old + EN_STATE] & EN_VALUE)
    link(w, st, e, w[st + ST_COUNT] + more)
    let_go(t, e)
    return ours


def remove(t: Thread, st: int, before: int, e: int, at: int = 0) -> bool:
    """Unlink an entry. Lock: the stripe's. Returns, `at`: as :func:`part_with`."""
    w = t.w
    w[st + ST_PREV] = before
    ours = part_with(t, st, e, at)
    link(w, st, w[e], w[st + ST_COUNT] - bool(w[e + EN_STATE] & EN_VALUE))
    return ours


def remove_some(t: Thread, st: int, after: int, most: int) -> tuple[list[int], list[tuple[int, bytes]], int]:
    """Unlink the next entries behind hash `after`, `most` or so. Lock: the stripe's.

    Returns: those the caller is to free, hash and key of those that somebody changes alone just now (they stay), and
    the hash to go on behind, or -1 at the end.
    """
    w = t.w
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
            busy.append((here, key_of(w, t.mem, node)))
            before = node
        elif remove(t, st, before, node):
            gone.append(node)
        node = following
    return gone, busy, -1 if here >= END else after


def wants_to_grow(w: Any, st: int) -> bool:
    """Whether there are too few buckets for the keys."""
    return bool(w[st + ST_COUNT] > LOAD << max(w[st + ST_LEVEL], FIRST_LEVEL - 1) and w[st + ST_LEVEL] < MAX_LEVEL)


def first_directory(t: Thread, st: int, directory: int, segment: int) -> None:
    """Begin with shortcuts: three levels of them at `segment`, 7 times 2 words, zeroed. Lock: the stripe's."""
    w = t.w
    at = segment
    for level in range(1, FIRST_LEVEL + 1):
        w[directory + level] = at
        at += 1 << level
    w[st + ST_DIR] = directory
    w[st + ST_LEVEL] = FIRST_LEVEL  # publishes
    put_block(t, directory - BLOCK_DATA)
    put_block(t, segment - BLOCK_DATA)


def add_level(t: Thread, st: int, segment: int) -> None:
    """Double the buckets: their shortcuts lie at `segment`, zeroed. Lock: the stripe's."""
    w = t.w
    level = w[st + ST_LEVEL] + 1
    w[w[st + ST_DIR] + level] = segment
    w[st + ST_LEVEL] = level  # publishes
    put_block(t, segment - BLOCK_DATA)


def segments(w: Any, st: int) -> list[int]:
    """Where the shortcuts begin that each growth brought: the first for three levels."""
    directory = w[st + ST_DIR]
    return [w[directory + level] for level in range(1, w[st + ST_LEVEL] + 1) if not 1 < level <= FIRST_LEVEL]


# ---------------------------------------------------------------- wait records
def attach(t: Thread, st: int, wt: int, e: int, owner: int) -> None:
    """Give the key of `e` a wait record. Lock: the stripe's. `e` is in the list, or is linked next."""
    w = t.w
    w[wt + WT_ENTRY] = e
    w[wt + WT_OWNER] = owner
    w[wt + WT_QUEUE] = w[wt + WT_QUEUE + 1] = 0
    waitq.enqueue(w, st + ST_ACTIVE, wt)
    w[e + EN_WAIT] = wt  # publishes, where `e` is in the list
    put_block(t, wt - BLOCK_DATA)


def detach(t: Thread, st: int, wt: int) -> bool:
    """Take a wait record from its key; it is ours then. Lock: the stripe's.

    Returns: whether its entry, which has no value, went with it, and is ours as well.
    """
    w = t.w
    e = w[wt + WT_ENTRY]
    blank = not w[e + EN_STATE] & EN_VALUE
    own_block(t, wt - BLOCK_DATA)
    if blank:
        remove(t, st, before_entry(w, st, e), e)
    else:
        w[e + EN_WAIT] = 0  # publishes
    waitq.remove(w, st + ST_ACTIVE, wt)
    return blank


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


def give_all(t: Thread, st: int, wt: int) -> tuple[list[int], bool]:
    """Give everybody who waits for a key the value that its entry has now. Lock: the stripe's.

    Short values are copied. Of others (EN_GIVEN) they come for the entry, and stay in the queue until then.
    Returns: them, and whether the wait record is over, and ours.
    """
    w = t.w
    e = w[wt + WT_ENTRY]
    hdr, body = fetch(w, t.mem, w[e + EN_AT])
    given = w[e + EN_STATE] & EN_GIVEN
    woken = []
    for s in waitq.sudogs(w, wt + WT_QUEUE):
        g = w[s + SG_G]
        if w[g + G_DECIDE]:
            continue
        if given:
            w[s + SG_MSG + 1] = e
            w[s + SG_MSG] = hdr
        else:
            put(w, t.mem, s + SG_MSG, hdr, body)
        w[g + G_DECIDE] = OUT_OK | t.slot << 32  # publishes
        if not given:
            waitq.pop(w, wt + WT_QUEUE, s)
        woken.append(g)
    if given:
        return woken, False
    detach(t, st, wt)
    return woken, True


def taken(t: Thread, st: int, wt: int) -> bool:
    """The last one has left the queue of those who were given the entry of a wait record, which is ours then.

    Returns: whether the entry is ours too.     Lock: the stripe's.
    """
    w = t.w
    e = w[wt + WT_ENTRY]
    own_block(t, wt - BLOCK_DATA)
    state = w[e + EN_STATE] & ~EN_GIVEN
    ours = bool(state & EN_RETIRED) and not _is_read(w, state, e | object_lock(st) << PIN_LOCK)
    if ours:
        own(t, e)
    w[e + EN_STATE] = state  # publishes
    w[e + EN_WAIT] = 0
    waitq.remove(w, st + ST_ACTIVE, wt)
    return ours


def dismiss_all(t: Thread, st: int) -> tuple[list[int], list[int]]:
    """Tell everybody that the channel is closed. Lock: the stripe's.

    Returns: the goroutines to make ready, and the wait records to free, with their entries: ours.
    """
    over = [wt for wt in wait_records(t.w, st) if not t.w[t.w[wt + WT_ENTRY] + EN_STATE] & EN_GIVEN]
    woken = dismiss(t, st)
    for wt in over:
        detach(t, st, wt)
    return woken, over


def dismiss(t: Thread, st: int) -> list[int]:
    """As :func:`dismiss_all`, but the wait records stay. Lock: the stripe's."""
    w = t.w
    woken: list[int] = []
    for wt in wait_records(w, st):
        if not w[w[wt + WT_ENTRY] + EN_STATE] & EN_GIVEN:
            woken += waitq.decide_all(w, wt + WT_QUEUE, OUT_CLOSED | t.slot << 32)
    return woken


def wait_records(w: Any, st: int) -> list[int]:
    """The wait records of the stripe."""
    found = []
    wt = w[st + ST_ACTIVE]
    while wt:
        found.append(wt)
        wt = w[wt + WT_LINK]
    return found


# ---------------------------------------------------------------- repair and invariants
def names(w: Any, st: int) -> list[int]:
    """The blocks that a dead thread may have been linking or unlinking, those that still, or already, are in the list;
    and all others of the stripe but entries. Lock: the stripe's, or nobody else runs.
    """
    found = [wt - BLOCK_DATA for wt in wait_records(w, st) if w[w[wt + WT_ENTRY] + EN_WAIT] == wt]
    e = w[w[st + ST_PREV]]
    if w[e + ND_HASH] & 1:
        found.append(e - BLOCK_DATA)
        at = w[e + EN_AT]
        if w[at] & HDR_SPILLED:
            found.append(w[at + 1])
        if w[e + EN_STATE] & EN_KEY_HANDLES:
            found.append(w[at - 1])
    if w[st + ST_LEVEL]:
        found += [at - BLOCK_DATA for at in (w[st + ST_DIR], *segments(w, st))]
    return found


def repair(t: Thread, st: int) -> list[int]:
    """Complete what a dead thread began in this stripe; return goroutines to make ready. Runs alone, under the lock.

    Who changes a key alone, and died, still does: :func:`forget` is for that.
    """
    w, mem = t.w, t.mem
    before, node = w[st + ST_PREV], w[st + ST_NODE]
    if node:
        done = w[before] == node
        if w[st + ST_NEW] == ST_SHORTCUT:
            if not done:
                w[node] = 0
        elif done:
            w[st + ST_COUNT] = w[st + ST_NEW]
        w[st + ST_NODE] = 0
    e = w[before]
    if w[e + ND_HASH] & 1 and w[e + EN_STATE] & EN_RETIRED:  # it was about to be unlinked
        w[e + EN_STATE] &= ~EN_RETIRED
    woken: list[int] = []
    previous = 0
    for wt in wait_records(w, st):
        w[wt + WT_BACK] = previous
        w[st + ST_ACTIVE + 1] = wt
        e = w[wt + WT_ENTRY]
        if not w[e + EN_STATE] & EN_RETIRED or not w[e + EN_STATE] & EN_GIVEN:
            e = find(w, mem, st, w[e + ND_HASH], key_of(w, mem, e))[1]
        if not e or w[e + EN_WAIT] != wt:
            waitq.remove(w, st + ST_ACTIVE, wt)
            give_locked(t, block_pool(WT_BYTES), wt - BLOCK_DATA)
            continue
        previous = wt
        w[wt + WT_ENTRY] = e
        if w[e + EN_STATE] & EN_GIVEN:
            _mend_queue(w, wt + WT_QUEUE)
            woken += give_all(t, st, wt)[0]
            continue
        s = w[wt + WT_QUEUE]
        if s and w[w[s + SG_G] + G_DECIDE] and not w[st + ST_KEYED]:
            w[wt + WT_OWNER] = w[s + SG_G]
        waitq.repair(w, wt + WT_QUEUE)
        if w[st + ST_KEYED] and w[e + EN_STATE] & EN_VALUE:
            previous = w[wt + WT_BACK]
            woken += give_all(t, st, wt)[0]
            give_locked(t, block_pool(WT_BYTES), wt - BLOCK_DATA)
    if w[st + ST_KEYED] and w[w[st + ST_MAP] + KC_CLOSED]:
        woken += dismiss(t, st)
    return woken


def _mend_queue(w: Any, q: int) -> None:
    """Recompute the hints of a queue in which the decided stay."""
    previous = 0
    s = w[q]
    while s:
        w[s + SG_PREV] = previous
        previous = s
        s = w[s + SG_LINK]
    w[q + 1] = previous


def tidy(t: Thread, st: int, slot: int) -> None:
    """After a death, once the dead are in no queue: wait records that nobody needs go, with what they stand for.

    Lock: the stripe's.     It all becomes the own of the dead `slot`.
    """
    w = t.w
    cached, carries = head_of(slot, REC_CACHED), head_of(slot, REC_CARRIES)
    for wt in wait_records(w, st):
        if w[wt + WT_OWNER] or w[wt + WT_QUEUE]:
            continue
        e = w[wt + WT_ENTRY]
        state = w[e + EN_STATE] & ~EN_GIVEN
        w[e + EN_STATE] = state
        w[e + EN_WAIT] = 0
        if not state & EN_VALUE:
            w[st + ST_PREV] = before_entry(w, st, e)
            link(w, st, w[e], w[st + ST_COUNT])
            _say(w, e, cached, carries)
        elif state & EN_RETIRED and not _is_read(w, state, e | object_lock(st) << PIN_LOCK):
            _say(w, e, cached, carries)
        waitq.remove(w, st + ST_ACTIVE, wt)
        w[wt - BLOCK_DATA] = cached


def unpin_dead(t: Thread, slot: int) -> None:
    """Take off the pins of a dead slot; entries that nobody else reads, and no list has, become its own."""
    w = t.w
    first = slot_base(slot) + M_PINS
    for at in range(first, first + N_PINS):
        if not w[at]:
            continue
        lock = t.locks[w[at] >> PIN_LOCK]
        t.enter(lock)
        e = pinned(w, at)
        state = w[e + EN_STATE]
        if state & EN_RETIRED and not _is_read(w, state, w[at], at):
            _say(w, e, head_of(slot, REC_CACHED), head_of(slot, REC_CARRIES))
        w[at] = 0
        w[e + EN_STATE] = state - 1
        t.leave(lock)


def forget(w: Any, st: int, gone: Callable[[int], bool], slot: int) -> list[int]:
    """Goroutines are dead: nobody waits for one of them to be done with a key, and none of them waits. Lock: its.

    Wait records that nobody needs any more are for :func:`tidy`.
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
    assert not w[st + ST_NODE], "a redo record is left"
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
    assert w[st + ST_PREV] in nodes, "the node that was changed last is not in the list"
    assert values == w[st + ST_COUNT], f"HT2: {values} keys, counted as {w[st + ST_COUNT]}"
    for level in range(1, w[st + ST_LEVEL] + 1):
        segment = w[w[st + ST_DIR] + level]
        for i in range(1 << level - 1):
            shortcut = segment + 2 * i
            if w[shortcut]:
                assert shortcut in nodes, "HT3: a shortcut is not in the list"
                assert w[shortcut + ND_HASH] == (2 * i + 1) << HASH_BITS - level, "HT3: a shortcut elsewhere"
    active = wait_records(w, st)
    for wt in active:
        e = w[wt + WT_ENTRY]
        if w[e + EN_STATE] & EN_RETIRED:
            assert w[e + EN_STATE] & EN_GIVEN and w[e + EN_WAIT] == wt, "HT4: a wait record of an entry that is gone"
            without.add(wt)
    assert set(active) == without and len(active) == len(without), "HT4: wait records without an entry"
    previous = 0
    for wt in active:
        assert w[wt + WT_BACK] == previous, "the backward link of a wait record"
        previous = wt
        waitq.check(w, wt + WT_QUEUE)
        waiting = [s for s in waitq.sudogs(w, wt + WT_QUEUE) if not w[w[s + SG_G] + G_DECIDE]]
        if w[w[wt + WT_ENTRY] + EN_STATE] & EN_GIVEN:
            assert w[wt + WT_QUEUE], "a wait record of what everybody took"
            assert not waiting, "HT5: somebody waits for what is there"
        elif w[st + ST_KEYED]:
            assert not w[w[wt + WT_ENTRY] + EN_STATE] & EN_VALUE, "HT5: somebody waits for what is there"
            assert not waiting or not w[w[st + ST_MAP] + KC_CLOSED], "HT5: somebody waits on a closed channel"
        elif w[wt + WT_QUEUE]:
            assert w[wt + WT_OWNER], "somebody waits for nobody"
    assert not active or w[st + ST_ACTIVE + 1] == previous, "the tail of the wait records"
