"""``SharedMap``: Go's ``sync.Map`` and Python's ``MutableMapping`` in shared memory.

The hot paths are :meth:`SharedMap.load` and :meth:`SharedMap.store` of short values; the rest is in striped.py and
table.py.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import Any, Generic, Self, TypeVar

from mproc_go.codec import wire
from mproc_go.codec.culprit import type_name
from mproc_go.codec.wire import H_INT, T_STR, TAG_SHIFT
from mproc_go.runtime import message
from mproc_go.runtime.handle import SharedHandle, register
from mproc_go.runtime.process import M, call_out, whole
from mproc_go.shared import keys, table
from mproc_go.shared.keys import HASH_BITS, NUMBER, number_key
from mproc_go.shared.striped import SMALLEST, Striped, destroy, fill, free_entry, free_pin, unpin
from mproc_go.shared.table import NOT_PLAIN
from mproc_go.shm.layout import (
    EN_AT,
    EN_KEY,
    EN_KEYLEN,
    EN_SIZE,
    EN_STATE,
    EN_VALUE,
    EN_WAIT,
    H_STOP,
    HDR_HAS_HANDLES,
    HDR_LEN_MASK,
    KIND_MAP,
    MIN_BLOCK_ORDER,
    ST_COUNT,
    ST_DIR,
    ST_HEAD,
    ST_LEVEL,
    ST_PREV,
    WT_ENTRY,
)
from mproc_go.shm.pool import flush, take

K = TypeVar("K")
V = TypeVar("V")

_MISSING: Any = object()
_NO_ITEMS: Any = ()
# Keys that are removed under one lock by clear().
_CLEARED_AT_ONCE = 32
# Bytes of a key and a value that surely fit into an entry in the smallest block: two parts are rounded up to words.
_SHORT = SMALLEST - (EN_KEY + 1 + 2) * 8
_SHORT_KEY = _SHORT - 8  # beside a number
# Where words that are read as unsigned begin to be negative numbers.
SIGN = 1 << 63


class SharedMap(Striped, MutableMapping[K, V], Generic[K, V]):
    """A hash map in shared memory, for goroutines of any process. Keys and values are copied in and out.

    Keys are None, bools, ints, floats, strings, bytes, handles, and tuples of these; equal as in a dict (every NaN is
    one key). Values are whatever can be sent. It is a :class:`collections.abc.MutableMapping` with Go's atomic
    operations beside; each method is atomic for its key. What was taken out of the map is a copy: ``m[k].append(x)``
    changes nothing in the map; ``m.compute(k, fn)`` does.

    Listing it (``range``, ``iter``, the views, ``==``) is weakly consistent: no key twice, none missed that was there
    all the time, and what comes or goes meanwhile may be listed or not. The order is none.

    Two handles of one map are equal; a map equals any other mapping with the same items. It is hashed as the
    handle that it is.

    A map that holds a handle of itself is freed only when the runtime ends.

    Args:
        items: what is in it at first, as ``dict`` takes it: a mapping or pairs, and keywords.

    Raises:
        TypeError: every method, for what can't be a key.
        EncodeError: every method that stores, for a value that can't be sent; the map is as it was.
        SharedMemoryFull: no room; the map is as it was.

    Blocks: methods that change a key wait, first come first served, while another goroutine computes its value
    (:meth:`compute`); nothing else does.     Source: Go sync.Map.
    """

    __slots__ = ("_popped",)

    KIND = KIND_MAP

    _popped: tuple[int, int]  # where popitem goes on: stripe, and hash behind which

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = _NO_ITEMS, /, **more: V) -> None:
        super().__init__()
        if items is not _NO_ITEMS or more:
            self.update(items, **more)

    def _bind(self, m: M, base: int, gen: int) -> None:
        super()._bind(m, base, gen)
        self._popped = (0, 0)

    # ------------------------------------------------------------ Go's methods
    def load(self, key: K) -> tuple[V | None, bool]:
        """The value of the key and True, or ``(None, False)`` where it is not there. Source: Go Map.Load."""
        # Cost: 1.4 us = 1 lock, 11 words; scripts/bench maps. The lines of table.find, written out. A whole number, as
        # a key and as a value, is compared and read as the word that it is
        try:
            m = self._tls.m
        except AttributeError:
            m = self._m()
        w = m.w
        if w[H_STOP]:
            m.interrupted()
        k: Any = key
        number = type(k) is int and 0 <= k < SIGN
        if number:
            h = self._number(k)
        else:
            h, kb = self._keys.of(k)
        i = h >> 1 & self._mask
        st = self._stripes[i]
        ph = m.ph
        lock = m.locks[self._numbers[i]]
        try:
            w[ph] = lock.phase
            if not lock.acquire(False):
                lock.contended()
            if w[lock.gen_word] != lock.gen:
                lock = lock.renewed(w, ph)
            prefix = h >> HASH_BITS - (level := w[st + ST_LEVEL])
            if prefix:
                n = (prefix & -prefix).bit_length()
                e = w[w[w[st + ST_DIR] + level - n + 1] + (prefix >> n << 1)]
                if not e:
                    e = w[table.start(w, st, h, level)]
            else:
                e = w[st + ST_HEAD]
            while (here := w[e + 1]) < h:
                e = w[e]
            if here != h:
                lock.release()
                w[ph] = 0
                return None, False
            if number:
                same = w[e + EN_KEY + 1] == k and w[e + EN_KEY] == NUMBER
            else:
                at = (e + EN_KEY) * 8
                same = w[e + EN_KEYLEN] & 0xFFFFFFFF == len(kb) and m.mem[at : at + len(kb)] == kb
            if same:
                at = w[e + EN_AT]
                hdr = w[at]
                if hdr == H_INT:
                    v = w[at + 1]
                    lock.release()
                    w[ph] = 0
                    return v if v < SIGN else v - SIGN - SIGN, True
                if hdr and not hdr & NOT_PLAIN:
                    at = at * 8 + 8
                    data = m.mem[at : at + (hdr & HDR_LEN_MASK)]
                    lock.release()
                    w[ph] = 0
                    return data.decode() if hdr >> TAG_SHIFT == T_STR else wire.decode(hdr, data), True
            lock.release()
            w[ph] = 0
        except BaseException as error:
            m.left(error)
            raise
        # Another key of the same hash, one that has no value, or a value that is not copied under the lock
        return self._read(m, i, h, self._keys.of(key)[1])

    def store(self, key: K, value: V) -> None:
        """Set the value of the key. Source: Go Map.Store."""
        # Cost: 1.6 us = 1 lock, 14 words where a whole number takes the place of another; else 3 us = 1 lock, 25 words,
        # 3 copies, encode; scripts/bench maps. The lines of table.find, insert, replace and free_entry, written out
        try:
            m = self._tls.m
        except AttributeError:
            m = self._m()
        w = m.w
        if w[H_STOP]:
            m.interrupted()
        k: Any = key
        number = type(k) is int and 0 <= k < SIGN
        if number:
            h = self._number(k)
        else:
            h, kb = self._keys.of(k)
        i = h >> 1 & self._mask
        st = self._stripes[i]
        try:
            cache = m.caches[MIN_BLOCK_ORDER]
            short = number or (type(k) is str and len(kb) <= _SHORT_KEY)
            v: Any = value
            if short and type(v) is int and 0 <= v < SIGN:
                e = 0  # made of this under the lock, if it is needed at all
                block = cache.pop() if cache else take(m, MIN_BLOCK_ORDER)
            else:
                hdr, data = wire.encode(v)
                if number:
                    kb = number_key(k)
                if short and type(data) is bytes and not hdr & HDR_HAS_HANDLES and len(kb) + len(data) <= _SHORT:
                    block = cache.pop() if cache else take(m, MIN_BLOCK_ORDER)
                    e = block + 1
                    at = fill(w, m.mem, e, h, kb)
                    w[at] = hdr
                    at = at * 8 + 8
                    m.mem[at : at + len(data)] = data
                else:
                    block = 0  # there may be others beside it
                    e = self._new(m, key, h, kb, message.stow(m, hdr, data))
            ph = m.ph
            lock = m.locks[self._numbers[i]]
            w[ph] = lock.phase
            if not lock.acquire(False):
                lock.contended()
            if w[lock.gen_word] != lock.gen:
                lock = lock.renewed(w, ph)
            prefix = h >> HASH_BITS - (level := w[st + ST_LEVEL])
            if prefix:
                n = (prefix & -prefix).bit_length()
                before = w[w[st + ST_DIR] + level - n + 1] + (prefix >> n << 1)
                old = w[before]
                if not old:
                    before = table.start(w, st, h, level)
                    old = w[before]
            else:
                before = st + ST_HEAD
                old = w[before]
            while (here := w[old + 1]) < h:
                before = old
                old = w[old]
            if here != h:
                old = 0
            elif not (
                w[old + EN_KEY + 1] == k and w[old + EN_KEY] == NUMBER
                if number
                else w[old + EN_KEYLEN] & 0xFFFFFFFF == len(kb)
                and m.mem[(old + EN_KEY) * 8 : (old + EN_KEY) * 8 + len(kb)] == kb
            ):  # another key of the same hash
                before, old = table.find(w, m.mem, st, h, number_key(k) if number else kb)
            if not e:
                if (
                    old
                    and w[at := w[old + EN_AT]] == H_INT
                    and not w[old + EN_WAIT]
                    and (at == old + EN_KEY + 2 or not number)  # 1.0 is the same key, and looks otherwise
                ):
                    w[at + 1] = v  # publishes
                    lock.release()
                    w[ph] = 0
                    cache.append(block)
                    return
                e = block + 1
                at = fill(w, m.mem, e, h, number_key(k) if number else kb)
                w[at] = H_INT
                w[at + 1] = v
            if not old:
                w[e] = w[before]
                w[st + ST_PREV] = before
                table.link(w, st, e, w[st + ST_COUNT] + 1)
                if block:
                    w[block] = m.live
                else:
                    table.let_go(m, e)
                lock.release()
                w[ph] = 0
                if table.wants_to_grow(w, st):
                    self._grow(m, i)
            elif not w[old + EN_WAIT]:
                w[e] = w[old]
                w[st + ST_PREV] = before
                short = w[old + EN_SIZE] <= SMALLEST and w[old + EN_STATE] == EN_VALUE
                if short and not w[w[old + EN_AT]] & NOT_PLAIN:
                    w[old - 1] = m.cached
                    ours = True
                else:
                    short = False
                    ours = table.part_with(m, st, old)
                w[before] = e  # publishes
                if block:
                    w[block] = m.live
                else:
                    table.let_go(m, e)
                lock.release()
                w[ph] = 0
                if short:
                    cache.append(old - 1)
                    if len(cache) > m.cache_sizes[MIN_BLOCK_ORDER]:
                        flush(m, MIN_BLOCK_ORDER, len(cache) // 2)
                elif ours:
                    free_entry(m, old)
            else:
                lock.release()
                w[ph] = 0
                self._swap_slow(m, key, i, h, number_key(k) if number else kb, e, False)
        except BaseException as error:
            m.left(error)
            raise

    @whole
    def swap(self, key: K, value: V) -> tuple[V | None, bool]:
        """Set the value of the key; return the old one and True, or ``(None, False)``. Source: Go Map.Swap."""
        m = self._m()
        h, kb = self._keys.of(key)
        i = self._stripe_of(h)
        st, w = self._stripes[i], m.w
        e = self._new(m, key, h, kb, self._pack(m, value))
        at = free_pin(m)
        lock = m.locks[self._numbers[i]]
        ours = False
        m.enter(lock)
        before, old = table.find(w, m.mem, st, h, kb)
        busy = bool(old and w[old + EN_WAIT])
        if not old:
            table.insert(m, st, before, e)
        elif not busy:
            ours = table.replace(m, st, before, old, e, at)
        m.leave(lock)
        if busy:
            return self._swap_slow(m, key, i, h, kb, e, True)
        if old:
            return self._consume(m, old, ours, at), True
        self._grow(m, i)
        return None, False

    def _swap_slow(self, m: M, key: object, i: int, h: int, kb: bytes, e: int, read: bool) -> tuple[Any, bool]:
        """Put an entry in the place of a key's, once nobody else is changing that."""
        try:
            wt = self._own(m, key, i, h, kb, True)
        except BaseException:
            free_entry(m, e)
            raise
        return self._put_and_read(m, i, wt, e, read)

    def _put_and_read(self, m: M, i: int, wt: int, e: int, read: bool) -> tuple[Any, bool]:
        """As `_put_owned`, and return the old value, if that is wanted and there is one."""
        old, ours, at = self._put_owned(m, i, wt, e, read)
        if read and m.w[old + EN_STATE] & EN_VALUE:
            return self._consume(m, old, ours, at), True
        if ours:
            free_entry(m, old)
        return None, False

    @whole
    def load_or_store(self, key: K, value: V) -> tuple[V, bool]:
        """The value of the key and True; where there is none, `value` is stored and returned, with False.

        Source: Go Map.LoadOrStore.
        """
        found, loaded = self.load(key)
        if loaded:
            return found, True  # type: ignore[return-value]
        m = self._m()
        h, kb = self._keys.of(key)
        i = self._stripe_of(h)
        st, w = self._stripes[i], m.w
        e = self._new(m, key, h, kb, self._pack(m, value))
        at = free_pin(m)
        number = self._numbers[i]
        lock = m.locks[number]
        m.enter(lock)
        before, old = table.find(w, m.mem, st, h, kb)
        if not old:
            table.insert(m, st, before, e)
            m.leave(lock)
            self._grow(m, i)
            return value, False
        there = w[old + EN_STATE] & EN_VALUE
        if there:
            hdr, body = message.fetch(w, m.mem, w[old + EN_AT])
            if hdr & NOT_PLAIN:
                table.pin(w, at, number, old)
        m.leave(lock)
        if there:
            free_entry(m, e)
            return self._read_pinned(m, at) if hdr & NOT_PLAIN else message.copy(m, hdr, body), True
        try:
            wt = self._own(m, key, i, h, kb, True)
        except BaseException:
            free_entry(m, e)
            raise
        old = w[wt + WT_ENTRY]
        if w[old + EN_STATE] & EN_VALUE:
            free_entry(m, e)
            return self._owned_value(m, i, wt, old), True
        self._put_and_read(m, i, wt, e, False)
        return value, False

    def _owned_value(self, m: M, i: int, wt: int, e: int) -> Any:
        """The value of a key that is ours alone; hands the key on."""
        try:
            return self._value(m, e)
        finally:
            self._release(m, i, wt)

    @whole
    def load_and_delete(self, key: K) -> tuple[V | None, bool]:
        """Remove the key; return its value and True, or ``(None, False)``. Source: Go Map.LoadAndDelete."""
        m = self._m()
        h, kb = self._keys.of(key)
        return self._delete(m, key, h, kb, True)

    @whole
    def delete(self, key: K) -> None:
        """Remove the key, if it is there. Source: Go Map.Delete."""
        m = self._m()
        h, kb = self._keys.of(key)
        self._delete(m, key, h, kb, False)

    def _delete(self, m: M, key: object, h: int, kb: bytes, read: bool) -> tuple[Any, bool]:
        """Remove a key; return its value if that is to be read, and whether it was there."""
        i = self._stripe_of(h)
        st, w = self._stripes[i], m.w
        at = free_pin(m) if read else 0
        lock = m.locks[self._numbers[i]]
        ours = False
        m.enter(lock)
        before, old = table.find(w, m.mem, st, h, kb)
        busy = bool(old and w[old + EN_WAIT])
        if old and not busy:
            ours = table.remove(m, st, before, old, at)
        m.leave(lock)
        if not old:
            return None, False
        if busy:
            wt = self._own(m, key, i, h, kb, False)
            if not wt:
                return None, False
            old = w[wt + WT_ENTRY]
            if not w[old + EN_STATE] & EN_VALUE:
                self._release(m, i, wt)
                return None, False
            try:
                blank = self._blank(m, h, kb)
            except BaseException:
                self._release(m, i, wt)
                raise
            old, ours, at = self._put_owned(m, i, wt, blank, read)
        if read:
            return self._consume(m, old, ours, at), True
        if ours:
            free_entry(m, old)
        return None, True

    def _blank(self, m: M, h: int, kb: bytes) -> int:
        """An entry without a value."""
        return self._build(m, h, kb, b"", keys.handles_of(kb), None)

    def compare_and_swap(self, key: K, old: V, new: V) -> bool:
        """Store `new` if the value of the key equals `old`; return whether it did. Source: Go Map.CompareAndSwap.

        Values are compared with ``==``, decoded, under no lock; if another goroutine stores meanwhile, again.
        """
        m = self._m()
        h, kb = self._keys.of(key)
        e = self._new(m, key, h, kb, self._pack(m, new))
        try:
            swapped = self._compare(m, key, h, kb, old, e)
        except BaseException as error:
            m.left(error)
            if isinstance(error, Exception):
                free_entry(m, e)
            raise
        if not swapped:
            free_entry(m, e)
        return swapped

    def _compare(self, m: M, key: object, h: int, kb: bytes, old: object, e: int) -> bool:
        """Put the entry `e` in the place of the key's if its value is `old`."""
        i = self._stripe_of(h)
        st, w, number = self._stripes[i], m.w, self._numbers[i]
        while True:
            at = free_pin(m)
            m.enter(m.locks[number])
            was = table.find(w, m.mem, st, h, kb)[1]
            busy = bool(was and w[was + EN_WAIT])
            there = bool(was and w[was + EN_STATE] & EN_VALUE)
            if there and not busy:
                table.pin(w, at, number, was)  # while it has our pin, no other can be at its place
                message_was = message.fetch(w, m.mem, w[was + EN_AT])
            m.leave(m.locks[number])
            if busy:
                return self._compare_owned(m, key, i, h, kb, old, e)
            if not there:
                return False
            swapped = False
            try:
                # Decoding and comparing may run the user's code.
                if not (message.copy(m, *message_was) == old):  # noqa: SIM201 - Go's ==, not !=
                    return False
                m.enter(m.locks[number])
                before, now = table.find(w, m.mem, st, h, kb)
                swapped = now == was and not w[was + EN_WAIT]
                swapped = swapped and message.fetch(w, m.mem, w[was + EN_AT]) == message_was
                if swapped:
                    table.replace(m, st, before, was, e)
                m.leave(m.locks[number])
            finally:
                unpin(m, at)
            if swapped:
                return True

    def _compare_owned(self, m: M, key: object, i: int, h: int, kb: bytes, old: object, e: int) -> bool:
        """As :meth:`_compare`, once nobody else is changing the key."""
        wt = self._own(m, key, i, h, kb, False)
        if not wt:
            return False
        w = m.w
        was = w[wt + WT_ENTRY]
        try:
            same = bool(w[was + EN_STATE] & EN_VALUE and self._value(m, was) == old)
        except BaseException:
            self._release(m, i, wt)
            raise
        if not same:
            self._release(m, i, wt)
            return False
        self._put_and_read(m, i, wt, e, False)
        return True

    def compute(self, key: K, fn: Callable[[V], V], default: V = _MISSING) -> V:
        """Set the value of the key to ``fn(value)``, atomically for that key, and return it.

        No lock is held while `fn` runs, here in this goroutine: it may block, and use this map. Others who want to
        change the key wait until it is done; who loads it gets the old value.

        Args:
            default: what `fn` is given where the key is not there.

        Raises:
            KeyError: the key is not there, and there is no default.
            RuntimeError: `fn` wants to change this very key otherwise.
            Exception: what `fn` raises; the map is as it was. It also is where the worker dies that runs `fn`.

        Blocks the goroutine.     Source: Java ConcurrentHashMap.compute.
        """
        _check_callable("compute", fn)
        m = self._m()
        h, kb = self._keys.of(key)
        i = self._stripe_of(h)
        w = m.w
        wt = self._own(m, key, i, h, kb, default is not _MISSING)
        if not wt:
            raise KeyError(key)
        try:
            e = w[wt + WT_ENTRY]
            if w[e + EN_STATE] & EN_VALUE:
                value = self._value(m, e)
            elif default is _MISSING:
                raise KeyError(key)
            else:
                value = default
            result: Any = call_out(fn, value)
            new = 0
            if type(result) is not int or not 0 <= result < SIGN or w[w[e + EN_AT]] != H_INT:
                new = self._new(m, key, h, kb, self._pack(m, result))
        except BaseException:
            self._release(m, i, wt)
            raise
        if new:
            self._put_and_read(m, i, wt, new, False)
        else:
            self._release(m, i, wt, result)
        return result  # type: ignore[no-any-return]

    def range(self, fn: Callable[[K, V], object]) -> None:
        """Call ``fn(key, value)`` for all keys, until it returns False. Weakly consistent. Source: Go Map.Range.

        Raises:
            TypeError: `fn` can't be called.
            Exception: what `fn` raises.
        """
        _check_callable("range", fn)
        for key, value in self._pairs():
            if call_out(fn, key, value) is False:
                return

    @whole
    def clear(self) -> None:
        """Remove all keys that were there when it began. Source: Go Map.Clear.

        Raises:
            RuntimeError: this goroutine is just computing the value of one (:meth:`compute`).
        """
        m = self._m()
        for st, number in zip(self._stripes, self._numbers, strict=True):
            after = 0
            while after >= 0:
                m.enter(m.locks[number])
                gone, busy, after = table.remove_some(m, st, after, _CLEARED_AT_ONCE)
                m.leave(m.locks[number])
                for e in gone:
                    free_entry(m, e)
                for h, kb in busy:
                    self._delete(m, None, h, kb, False)

    # ------------------------------------------------------------ as a mapping
    def __getitem__(self, key: K) -> V:
        value, there = self.load(key)
        if not there:
            raise KeyError(key)
        return value  # type: ignore[return-value]

    def __setitem__(self, key: K, value: V) -> None:
        self.store(key, value)

    @whole
    def __delitem__(self, key: K) -> None:
        m = self._m()
        h, kb = self._keys.of(key)
        if not self._delete(m, key, h, kb, False)[1]:
            raise KeyError(key)

    def __iter__(self) -> Iterator[K]:
        for key, _ in self._pairs(with_values=False):
            yield key

    def __bool__(self) -> bool:
        return len(self) > 0

    def get(self, key: K, default: Any = None) -> Any:
        """The value of the key, or `default` where it is not there."""
        value, there = self.load(key)
        return value if there else default

    def pop(self, key: K, default: Any = _MISSING) -> Any:
        """Remove the key and return its value.

        Raises:
            KeyError: it is not there, and there is no default.
        """
        value, there = self.load_and_delete(key)
        if there:
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    @whole
    def popitem(self) -> tuple[K, V]:
        """Remove some key and return it with its value.

        Raises:
            KeyError: there is none.
        """
        m = self._m()
        n = len(self._stripes)
        i, after = self._popped
        ends = 0
        while ends <= n:  # the first stripe twice, from the middle and from the beginning
            found, after = self._batch(m, i, after, 1)
            for h, kb, exact, hdr, _ in found:
                pair = self._pair(m, i, h, kb, False) if hdr & NOT_PLAIN else (keys.decode(exact or kb), None)
                value, there = self._delete(m, None, h, kb, True)
                if there and pair is not None:
                    self._popped = (i, max(after, 0))
                    return pair[0], value
            if after < 0:
                i, after, ends = (i + 1) % n, 0, ends + 1
        raise KeyError("popitem(): the map is empty")

    def setdefault(self, key: K, default: Any = None) -> Any:
        """The value of the key; where there is none, `default` is stored and returned."""
        return self.load_or_store(key, default)[0]

    def keys(self) -> KeysView[K]:
        """A view of the keys."""
        return KeysView(self)

    def items(self) -> ItemsView[K, V]:
        """A view of the keys with their values."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """A view of the values."""
        return _Values(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, SharedHandle) and (other._tls is not self._tls or SharedHandle.__eq__(self, other)):
            return other._tls is self._tls
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    __hash__ = SharedHandle.__hash__

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        """A dict of the items of both."""
        return dict(self.items()) | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(other) | dict(self.items()) if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]
        self.update(other)
        return self


def _check_callable(method: str, fn: object) -> None:
    if not callable(fn):
        raise TypeError(f"SharedMap.{method} needs a function to call, not {type_name(type(fn))}")


class _Items(ItemsView[K, V]):
    """Goes by the map's own listing: no lookup a key, and none that could fail since the key is gone."""

    __slots__ = ()

    _mapping: SharedMap[K, V]

    def __contains__(self, item: object) -> bool:
        return isinstance(item, tuple) and len(item) == 2 and super().__contains__(item)

    def __repr__(self) -> str:
        return f"ItemsView({self._mapping!r})"

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._pairs()


class _Values(ValuesView[V]):
    __slots__ = ()

    _mapping: SharedMap[Any, V]

    def __repr__(self) -> str:
        return f"ValuesView({self._mapping!r})"

    def __contains__(self, value: object) -> bool:
        return any(v is value or v == value for v in self)

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._pairs())


register(SharedMap, destroy)
