"""What a map and a keyed channel have in common: stripes, their entries, and whose turn it is to change a key.

A record with a handle (the map's) names its stripes, each a record of its own with a lock of its own: goroutines on
different keys seldom meet. A stripe counts one reference of its map; a process in which somebody waits in it, or
changes one of its keys alone, holds it too, which is how the reaper finds what the dead did there.

Values are encoded before a lock is taken and decoded after it was given back. Short ones are copied under the lock. An
entry with a long value, or one with handles, is *pinned* while it is read, so that whoever replaces it leaves its
freeing to the reader.

Who changes a key alone is named in its wait record; others that want to change it queue there and are handed the key
in the order they came, with no lock held in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from mproc_go.codec.handles import pack_table, table_bytes
from mproc_go.errors import SharedMemoryFull
from mproc_go.runtime import message, park
from mproc_go.runtime import process as rt
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.message import Body
from mproc_go.runtime.process import M, whole
from mproc_go.sched import repairs, states, waitq
from mproc_go.shared import keys, table
from mproc_go.shared.keys import Keys
from mproc_go.shared.table import NOT_PLAIN
from mproc_go.shm.layout import (
    BLOCK_DATA,
    EN_AT,
    EN_KEY,
    EN_KEY_HANDLES,
    EN_KEYLEN,
    EN_SIZE,
    EN_STATE,
    EN_VALUE,
    EN_WAIT,
    G_SUDOG,
    H_STOP,
    HDR_SPILLED,
    KC_CLOSED,
    KIND_KEYED_CHAN,
    KIND_MAP,
    KIND_STRIPE,
    MAX_STRIPES,
    MIN_BLOCK_ORDER,
    MIN_STRIPES,
    MP_N,
    MP_STRIPES,
    ND_HASH,
    O_KIND,
    PIN_LOCK,
    POOL_OBJECT,
    R_GEN,
    R_HEAD,
    R_HOLDERS,
    R_REFS,
    REC_LIVE,
    REC_STATE,
    S_GOMAXPROCS,
    ST_ACTIVE,
    ST_COUNT,
    ST_DIR,
    ST_HEAD,
    ST_KEYED,
    ST_LEVEL,
    ST_MAP,
    ST_PREV,
    ST_TAIL,
    WORD,
    WT_BYTES,
    WT_ENTRY,
    WT_OWNER,
    WT_QUEUE,
    object_lock,
)
from mproc_go.shm.pool import give, give_block, own_block, put_block, take, take_block
from mproc_go.shm.thread import Thread
from mproc_go.sync import grants

# Stripes for each P: two goroutines that run at once want the same one once in that many times.
_STRIPES_A_P = 4
# Of a listing: what is read under one lock.
_BATCH_ENTRIES = 64
_BATCH_NODES = 256
# Bytes of the smallest block.
SMALLEST = ((1 << MIN_BLOCK_ORDER) - 1) * WORD

# A message, packed.
Message = tuple[int, Body]


class Stripe(SharedHandle):
    """A process's hold of a stripe: no user ever sees one."""

    __slots__ = ()

    KIND = KIND_STRIPE


class Striped(SharedHandle):
    """A handle of a record with stripes."""

    __slots__ = ("_held", "_keys", "_mask", "_number", "_numbers", "_stripes")

    _stripes: list[int]
    _numbers: list[int]  # of their locks
    _mask: int
    _keys: Keys
    _number: Callable[[int], int]  # of it
    _held: dict[int, Stripe]

    def __init__(self) -> None:
        m = rt.current()
        n = MIN_STRIPES
        while n < min(MAX_STRIPES, _STRIPES_A_P * m.w[S_GOMAXPROCS]):
            n *= 2
        at = _zeroed(m, 2 * n * WORD)
        try:
            base = self._make(m, POOL_OBJECT)
        except BaseException:
            give_block(m, at - BLOCK_DATA, 2 * n * WORD)
            raise
        w = m.w
        w[base + MP_N] = n
        w[base + MP_STRIPES] = at
        w[base + KC_CLOSED] = 0
        self._made(m, base, self.KIND)  # from here on, who frees it frees its stripes
        put_block(m, at - BLOCK_DATA)
        for i in range(n):
            st = take(m, POOL_OBJECT)
            for j in range(4):
                w[st + R_HOLDERS + j] = 0
            w[st + R_REFS] = 1
            table.settle(w, st, base, self._keyed)
            w[st + O_KIND] = KIND_STRIPE
            w[at + 2 * i + 1] = w[st + R_GEN]
            w[at + 2 * i] = st  # publishes
            w[st] = m.live
        self._bind(m, base, w[base + R_GEN])

    _keyed = False
    # Wait records of keys that goroutines of this process may change alone just now.
    _owned: ClassVar[set[int]] = set()

    def _bind(self, m: M, base: int, gen: int) -> None:
        super()._bind(m, base, gen)
        w = m.w
        n, at = w[base + MP_N], w[base + MP_STRIPES]
        self._stripes = [w[at + 2 * i] for i in range(n)]
        self._numbers = [object_lock(st) for st in self._stripes]
        self._mask = n - 1
        self._held = {}
        process = m.process
        if process.keys is None:
            process.keys = Keys(w)
        self._keys = process.keys
        self._number = process.keys.number

    def _stripe_of(self, h: int) -> int:
        """Number of the stripe for keys of that hash: other bits than those that order them within it."""
        return h >> 1 & self._mask

    def _hold(self, m: M, i: int) -> None:
        """Have this process hold the stripe, for as long as this handle lives."""
        if i not in self._held:
            at = m.w[self._base + MP_STRIPES] + 2 * i
            self._held[i] = Stripe._open(m.w[at], m.w[at + 1])

    def _m(self) -> M:
        m = super()._m()
        if m.w[H_STOP]:
            m.interrupted()
        return m

    def __len__(self) -> int:
        """How many keys there are: exact where nobody changes it meanwhile."""
        w = self._m().w
        return sum(w[st + ST_COUNT] for st in self._stripes)

    @whole
    def __contains__(self, key: object) -> bool:
        m = self._m()
        h, kb = self._keys.of(key)
        i = self._stripe_of(h)
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        e = table.find(m.w, m.mem, self._stripes[i], h, kb)[1]
        there = bool(e and m.w[e + EN_STATE] & EN_VALUE)
        m.leave(lock)
        return there

    # ------------------------------------------------------------ entries
    def _build(
        self, m: M, h: int, kb: bytes, exact: bytes, triples: Sequence[keys.Triple], packed: Message | None
    ) -> int:
        """An entry of its own block, ours until it is linked; the message, if there is one, goes into it."""
        hdr, body = packed or (0, b"")
        words = EN_KEY + (len(kb) + len(exact) + 7 >> 3) + bool(triples)
        size = (words + 1 + (len(body) + 7 >> 3 if isinstance(body, bytes) else 1)) * WORD
        w, mem = m.w, m.mem
        held = 0
        try:
            if triples:
                table_size = table_bytes(len(triples))
                held = take_block(m, table_size)
                start = (held + BLOCK_DATA) * WORD
                mem[start : start + table_size] = pack_table(triples)
                m.process.refs.carry(m, held, triples)
            # Most fit the smallest block: no need to ask which.
            block: int = take(m, MIN_BLOCK_ORDER) if size <= SMALLEST else take_block(m, size)
        except SharedMemoryFull:
            if held:
                m.process.refs.unload(m, held, triples)
                give_block(m, held, table_size)
            raise
        e = block + BLOCK_DATA
        w[e + ND_HASH] = h
        w[e + EN_KEYLEN] = len(kb) | len(exact) << 32
        w[e + EN_WAIT] = 0
        w[e + EN_AT] = e + words
        w[e + EN_SIZE] = size
        start = (e + EN_KEY) * WORD
        mem[start : start + len(kb) + len(exact)] = kb + exact
        state = 0
        if packed is not None:
            message.put(w, mem, e + words, hdr, body)
            state = EN_VALUE
        else:
            w[e + words] = 0  # no message
        if triples:
            state |= EN_KEY_HANDLES
            w[e + words - 1] = held
        w[e + EN_STATE] = state
        return e

    @whole
    def _new(self, m: M, key: object, h: int, kb: bytes, packed: Message | None) -> int:
        """As :meth:`_build`, for a key as the caller gave it; the message is freed where there is no room."""
        try:
            triples: Sequence[keys.Triple] = ()
            exact = b""
            if type(key) is not str and type(key) is not int:
                exact = keys.exact_form(key, kb)
                triples = keys.handles_of(kb)
            return self._build(m, h, kb, exact, triples, packed)
        except BaseException:
            if packed is not None:
                message.discard(m, *packed)
            raise

    @whole
    def _pack(self, m: M, value: object) -> Message:
        """The value as a message.

        Raises: EncodeError, SharedMemoryFull.
        """
        return message.pack(m, value)

    # ------------------------------------------------------------ reading
    @whole
    def _read(self, m: M, i: int, h: int, kb: bytes) -> tuple[Any, bool]:
        """The value of a key, and whether it is there."""
        w = m.w
        at = free_pin(m)
        number = self._numbers[i]
        lock = m.locks[number]
        m.enter(lock)
        e = table.find(w, m.mem, self._stripes[i], h, kb)[1]
        if not e or not w[e + EN_STATE] & EN_VALUE:
            m.leave(lock)
            return None, False
        hdr, body = message.fetch(w, m.mem, w[e + EN_AT])
        if not hdr & NOT_PLAIN:
            m.leave(lock)
            return message.copy(m, hdr, body), True
        table.pin(w, at, number, e)
        m.leave(lock)
        return self._read_pinned(m, at), True

    @whole
    def _read_pinned(self, m: M, at: int) -> Any:
        """The value of the entry that our pin at word `at` keeps; takes that off."""
        try:
            return self._value(m, table.pinned(m.w, at))
        finally:
            unpin(m, at)

    @whole
    def _value(self, m: M, e: int) -> Any:
        """The value of an entry that cannot go meanwhile."""
        return message.copy(m, *message.fetch(m.w, m.mem, m.w[e + EN_AT]))

    @whole
    def _consume(self, m: M, e: int, ours: bool, at: int) -> Any:
        """The value of an entry that was taken out, to be read; frees it. `ours`, `at`: of :func:`table.part_with`."""
        if not ours:
            return self._read_pinned(m, at)
        w = m.w
        hdr, body = message.fetch(w, m.mem, w[e + EN_AT])
        w[w[e + EN_AT]] = 0  # the message is taken out of it
        try:
            return message.open_message(m, hdr, body)
        finally:
            free_entry(m, e)

    # ------------------------------------------------------------ changing a key alone
    def _own(self, m: M, key: object, i: int, h: int, kb: bytes, create: bool) -> int:
        """Become the one that may change the key. Blocks the goroutine while another is.

        Returns: the wait record, or 0 where the key is not there and is not to be created.

        Raises:
            RuntimeError: it is this goroutine already.
            SharedMemoryFull: no room.
        """
        try:
            self._hold(m, i)
            wt = self._claim(m, key, i, h, kb, create)
        except BaseException as error:
            m.left(error)
            self._stay_out(m, i, h, kb)
            raise
        if wt < 0:
            raise RuntimeError(
                f"{type(self).__name__}: this goroutine is just computing the value of that key; "
                "it can't change it otherwise meanwhile"
            )
        if wt:
            self._owned.add(wt)
        return wt

    def _stay_out(self, m: M, i: int, h: int, kb: bytes) -> None:
        """Leave the queue of a key, or hand it on: an exception came (Ctrl-C), and its caller knows nothing of that."""
        w, st = m.w, self._stripes[i]
        if w[H_STOP]:
            return
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        e = table.find(w, m.mem, st, h, kb)[1]
        wt = w[e + EN_WAIT] if e else 0
        ours = False
        if wt:
            if m.g + G_SUDOG in waitq.sudogs(w, wt + WT_QUEUE):
                waitq.remove(w, wt + WT_QUEUE, m.g + G_SUDOG)
            ours = w[wt + WT_OWNER] == m.g and wt not in self._owned
        m.leave(lock)
        if ours:
            self._release(m, i, wt)

    def _claim(self, m: M, key: object, i: int, h: int, kb: bytes, create: bool) -> int:
        """As :meth:`_own`; -1 where this goroutine has it already."""
        w = m.w
        st = self._stripes[i]
        lock = m.locks[self._numbers[i]]
        new = take_block(m, WT_BYTES) + BLOCK_DATA
        blank = 0
        try:
            while True:
                q = mine = 0
                m.enter(lock)
                before, e = table.find(w, m.mem, st, h, kb)
                wt = w[e + EN_WAIT] if e else 0
                if wt:
                    mine = w[wt + WT_OWNER] == m.g
                    if not w[wt + WT_OWNER]:
                        w[wt + WT_OWNER] = m.g  # publishes
                    elif not mine:
                        q = wt + WT_QUEUE
                        grants.join(w, q, m.begin_wait(states.MAP_COMPUTE))
                elif e:
                    wt, new = new, 0
                    table.attach(m, st, wt, e, m.g)
                elif blank:
                    wt, new = new, 0
                    table.attach(m, st, wt, blank, m.g)
                    table.insert(m, st, before, blank)
                    blank = 0
                m.leave(lock)
                if mine:
                    return -1
                if q:
                    park.park(m, lock, q, None, self._undo(i, wt))
                if wt or not create:
                    return wt
                blank = self._new(m, key, h, kb, None)
        finally:
            if new:
                give_block(m, new - BLOCK_DATA, WT_BYTES)
            if blank:
                free_entry(m, blank)

    def _undo(self, i: int, wt: int) -> Callable[[M, int], None]:
        """What hands a key on that came together with an exception."""
        return lambda m, _: self._release(m, i, wt)

    def _release(self, m: M, i: int, wt: int, number: int | None = None) -> None:
        """Change nothing, or the whole number that its value is for another, and hand the key on."""
        w = m.w
        self._owned.discard(wt)
        if w[H_STOP]:  # the program is over, and a lock may never come free
            return
        e = w[wt + WT_ENTRY]
        try:
            self._hand_on(m, i, wt, e, number)
        except BaseException as error:
            m.left(error)
            self._stay_out(m, i, w[e + ND_HASH], table.key_of(w, m.mem, e))
            raise

    def _hand_on(self, m: M, i: int, wt: int, e: int, number: int | None) -> None:
        w, st = m.w, self._stripes[i]
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        if number is not None:
            w[w[e + EN_AT] + 1] = number  # publishes
        g = table.pass_on(w, wt, m.slot)
        blank = not g and table.detach(m, st, wt)
        m.leave(lock)
        if g:
            m.ready(g)
            return
        give_block(m, wt - BLOCK_DATA, WT_BYTES)
        if blank:
            free_entry(m, e)

    def _put_owned(self, m: M, i: int, wt: int, e: int, read: bool) -> tuple[int, bool, int]:
        """Put an entry in the place of the one of a key that is ours alone, and hand the key on.

        Args:
            e: without a value, the key goes; where nobody waits for it either, so does the entry.
            read: the caller wants to read the old value, if there is one.
        Returns: the old entry, which the caller consumes or frees, whether it is its alone, and where else its pin is.
        """
        w = m.w
        self._owned.discard(wt)
        old = w[wt + WT_ENTRY]
        try:
            return old, *self._put(m, i, wt, old, e, read)
        except BaseException as error:
            m.left(error)
            self._stay_out(m, i, w[old + ND_HASH], table.key_of(w, m.mem, old))
            raise

    def _put(self, m: M, i: int, wt: int, old: int, e: int, read: bool) -> tuple[bool, int]:
        w, st = m.w, self._stripes[i]
        at = free_pin(m) if read else 0
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        before = table.before_entry(w, st, old)
        waited_for = w[wt + WT_QUEUE]
        blank = not w[e + EN_STATE] & EN_VALUE
        if not waited_for:
            own_block(m, wt - BLOCK_DATA)
        if blank and not waited_for:
            ours = table.remove(m, st, before, old, at)
        else:
            w[e + EN_WAIT] = wt if waited_for else 0
            ours = table.replace(m, st, before, old, e, at)
            w[wt + WT_ENTRY] = e
        g = table.pass_on(w, wt, m.slot)
        if not g:
            waitq.remove(w, st + ST_ACTIVE, wt)
        m.leave(lock)
        if g:
            m.ready(g)
        else:
            give_block(m, wt - BLOCK_DATA, WT_BYTES)
            if blank:
                free_entry(m, e)
        self._grow(m, i)
        return ours, at

    # ------------------------------------------------------------ growing and listing
    @whole
    def _grow(self, m: M, i: int) -> None:
        """Add buckets if there are too few for the keys."""
        w, st = m.w, self._stripes[i]
        if not table.wants_to_grow(w, st):
            return
        level = w[st + ST_LEVEL]
        try:
            segment = _zeroed(m, _segment_bytes(level + 1))
        except SharedMemoryFull:
            return  # it works without, only slower
        directory = 0
        if not level:
            try:
                directory = _zeroed(m, _DIRECTORY_BYTES)
            except SharedMemoryFull:
                give_block(m, segment - BLOCK_DATA, _segment_bytes(level + 1))
                return
        lock = m.locks[self._numbers[i]]
        m.enter(lock)
        first = w[st + ST_LEVEL] == level
        if first:
            if level:
                table.add_level(m, st, segment)
            else:
                table.first_directory(m, st, directory, segment)
        m.leave(lock)
        if not first:
            give_block(m, segment - BLOCK_DATA, _segment_bytes(level + 1))
            if directory:
                give_block(m, directory - BLOCK_DATA, _DIRECTORY_BYTES)

    @whole
    def _batch(self, m: M, i: int, after: int, most: int) -> tuple[list[tuple[int, bytes, bytes, int, Body]], int]:
        """The next entries with a value behind hash `after`, `most` at the most, but all of one hash.

        Returns: for each its hash, key, exact key, header and payload (a message that is not plain is only named, and
        may be gone by then), and the hash to go on behind, or -1 at the end.
        """
        w, mem, st = m.w, m.mem, self._stripes[i]
        lock = m.locks[self._numbers[i]]
        found: list[tuple[int, bytes, bytes, int, Body]] = []
        m.enter(lock)
        node = table.start(w, st, after, w[st + ST_LEVEL]) if after > 0 else st + ST_HEAD
        looked = 0
        while (here := w[node + ND_HASH]) <= after:
            node = w[node]
        while here < table.END and (here == after or (looked < _BATCH_NODES and len(found) < most)):
            looked += 1
            after = here
            if here & 1 and w[node + EN_STATE] & EN_VALUE:
                hdr, body = message.fetch(w, mem, w[node + EN_AT])
                if w[node + EN_STATE] & EN_KEY_HANDLES:
                    hdr |= NOT_PLAIN
                found.append((here, table.key_of(w, mem, node), table.exact_key_of(w, mem, node), hdr, body))
            node = w[node]
            here = w[node + ND_HASH]
        m.leave(lock)
        return found, (-1 if here >= table.END else after)

    def _pairs(self, with_values: bool = True) -> Iterator[tuple[Any, Any]]:
        """All keys with their values (or None), weakly consistent: no key twice, none missed that was there all the
        time, one that comes or goes meanwhile may be listed or not.
        """
        for i in range(len(self._stripes)):
            after = 0
            while after >= 0:
                m = self._m()
                found, after = self._batch(m, i, after, _BATCH_ENTRIES)
                for h, kb, exact, hdr, body in found:
                    if not hdr & NOT_PLAIN:
                        yield keys.decode(exact or kb), message.copy(m, hdr, body) if with_values else None
                        continue
                    m = self._m()  # another goroutine ran in between, maybe on another thread
                    pair = self._pair(m, i, h, kb, with_values)
                    if pair is not None:
                        yield pair

    @whole
    def _pair(self, m: M, i: int, h: int, kb: bytes, with_value: bool) -> tuple[Any, Any] | None:
        """A key and its value, None where it is gone."""
        w = m.w
        at = free_pin(m)
        number = self._numbers[i]
        lock = m.locks[number]
        m.enter(lock)
        e = table.find(w, m.mem, self._stripes[i], h, kb)[1]
        if e and w[e + EN_STATE] & EN_VALUE:
            table.pin(w, at, number, e)
        else:
            e = 0
        m.leave(lock)
        if not e:
            return None
        try:
            key = keys.decode(table.exact_key_of(w, m.mem, e) or kb)
            return key, self._value(m, e) if with_value else None
        finally:
            unpin(m, at)

    def __repr__(self) -> str:
        w = self._words()
        name = type(self).__name__
        if w is None:
            return f"<{name} {self._base:#x} of a runtime that is over>"
        closed = " closed" if w[self._base + KC_CLOSED] else ""
        return f"<{name} {self._base:#x}{closed} len={sum(w[st + ST_COUNT] for st in self._stripes)}>"


def fill(w: Any, mem: Any, e: int, h: int, kb: bytes) -> int:
    """As :meth:`Striped._build`, of the smallest block, with a value that the caller puts where this returns."""
    w[e + ND_HASH] = h
    w[e + EN_KEYLEN] = len(kb)
    w[e + EN_STATE] = EN_VALUE
    w[e + EN_WAIT] = 0
    w[e + EN_SIZE] = SMALLEST
    at = (e + EN_KEY) * WORD
    mem[at : at + len(kb)] = kb
    at = e + EN_KEY + (len(kb) + 7 >> 3)
    w[e + EN_AT] = at
    return at


# ---------------------------------------------------------------- pins and freeing
def free_pin(m: M) -> int:
    """A word where the next pin of this thread can be stored. Blocks while its other goroutines have all of them."""
    while not (at := table.free_pin(m)):
        m.yield_()
    return at


def unpin(m: M, at: int) -> None:
    """Take our pin at word `at` off; the last one frees the entry, if it is in no list any more."""
    w = m.w
    e = table.pinned(w, at)
    lock = m.locks[w[at] >> PIN_LOCK]
    m.enter(lock)
    ours = table.unpin(m, at)
    m.leave(lock)
    if ours:
        free_entry(m, e)


def free_entry(m: M, e: int) -> None:
    """Free an entry that is ours, and the message and the handles in it."""
    w = m.w
    at = w[e + EN_AT]
    if w[at] & HDR_SPILLED:
        message.discard(m, w[at], w[at + 1])
    if w[e + EN_STATE] & EN_KEY_HANDLES:
        triples = keys.handles_of(table.key_of(w, m.mem, e))
        m.process.refs.unload(m, w[at - 1], triples)
        give_block(m, w[at - 1], table_bytes(len(triples)))
    size = w[e + EN_SIZE]
    if size <= SMALLEST:
        give(m, MIN_BLOCK_ORDER, e - BLOCK_DATA)
    else:
        give_block(m, e - BLOCK_DATA, size)


_DIRECTORY_BYTES = (table.MAX_LEVEL + 1) * WORD


def _segment_bytes(level: int) -> int:
    """Size of the segment of shortcuts that a level brings; the first one is for three levels."""
    return 14 * WORD if level <= table.FIRST_LEVEL else (1 << level) * WORD


def _zeroed(m: M, size: int) -> int:
    block: int = take_block(m, size) + BLOCK_DATA
    m.mem[block * WORD : block * WORD + size] = bytes(size)
    return block


def destroy(m: M, base: int) -> None:
    """Free a map or a keyed channel nobody can reach any more."""
    w = m.w
    at = w[base + MP_STRIPES]
    n = w[base + MP_N]
    if at:
        for i in range(n):  # where its maker died, or found no room, there are fewer
            m.process.refs.unrefer(m, at + 2 * i, KIND_STRIPE)
        own_block(m, at - BLOCK_DATA)
        w[base + MP_STRIPES] = 0  # publishes
        give_block(m, at - BLOCK_DATA, 2 * n * WORD)
    w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


def names(w: Any, base: int) -> list[int]:
    """The stripes of a map or a keyed channel, and the block that names them."""
    at = w[base + MP_STRIPES]
    if not at:
        return []
    return [at - BLOCK_DATA, *(w[at + 2 * i] for i in range(w[base + MP_N]) if w[at + 2 * i])]


def _destroy_stripe(m: M, st: int) -> None:
    w = m.w
    while wt := w[st + ST_ACTIVE]:  # where an exception left it
        own_block(m, wt - BLOCK_DATA)
        waitq.pop(w, st + ST_ACTIVE, wt)  # publishes
        give_block(m, wt - BLOCK_DATA, WT_BYTES)
    head = st + ST_HEAD
    w[st + ST_PREV] = head
    while (node := w[head]) != st + ST_TAIL:
        is_entry = w[node + ND_HASH] & 1
        if is_entry:
            table.own(m, node)
        w[head] = w[node]  # publishes
        if is_entry:
            free_entry(m, node)
    while level := w[st + ST_LEVEL]:
        directory, segment = w[st + ST_DIR], table.segments(w, st)[-1]
        own_block(m, segment - BLOCK_DATA)
        if level > table.FIRST_LEVEL:
            w[st + ST_LEVEL] = level - 1  # publishes
        else:
            own_block(m, directory - BLOCK_DATA)
            w[st + ST_LEVEL] = 0  # publishes
            give_block(m, directory - BLOCK_DATA, _DIRECTORY_BYTES)
        give_block(m, segment - BLOCK_DATA, _segment_bytes(level))
    w[st + R_GEN] += 1
    give(m, POOL_OBJECT, st)


def _finish(t: Thread, stripes: Sequence[int]) -> list[int]:
    """Who closed a keyed channel may be dead: go on telling those who wait. Runs in the supervisor, under no lock."""
    w = t.w
    woken: list[int] = []
    for st in stripes:
        if not w[st + ST_ACTIVE] or not w[st + ST_KEYED]:
            continue
        lock = t.locks[object_lock(st)]
        t.enter(lock)
        if _is_stripe(w, st) and w[st + ST_KEYED] and w[w[st + ST_MAP] + KC_CLOSED]:
            woken += table.dismiss(t, st)
        t.leave(lock)
    return woken


def _leave(t: Thread, stripes: Sequence[int], slots: Sequence[int]) -> None:
    """Let go what pins and goroutines of the dead kept. Runs in the supervisor, under no lock."""
    w = t.w
    for slot in slots:
        table.unpin_dead(t, slot)
    for st in stripes:
        if w[st + ST_ACTIVE]:
            lock = t.locks[object_lock(st)]
            t.enter(lock)
            if _is_stripe(w, st):
                table.tidy(t, st, slots[0])
            t.leave(lock)


def _is_stripe(w: Any, base: int) -> bool:
    """Whether it still is one, that nobody destroys. Lock: its."""
    return bool(w[base + R_HEAD] & REC_STATE == REC_LIVE and w[base + O_KIND] == KIND_STRIPE)


register(Stripe, _destroy_stripe)
repairs.REPAIR[KIND_STRIPE] = table.repair
repairs.FORGET[KIND_STRIPE] = table.forget
repairs.FINISH[KIND_STRIPE] = _finish
repairs.LEAVE[KIND_STRIPE] = _leave
repairs.NAMES[KIND_STRIPE] = table.names
repairs.NAMES[KIND_MAP] = repairs.NAMES[KIND_KEYED_CHAN] = names
