"""Whether what a message names is there: a live record, of that kind and generation.

A message names records by numbers, and its bytes can be forged, damaged or old: a pickle that somebody kept, a
``__reduce__`` that makes a handle up. Whoever opens such a handle would write into whatever lies there, and whoever
discards the message would take a reference off it. So nothing of a record is touched before it was looked at here.

The look takes no lock, and reads only words that every record has: where it lies says that it is one, its head whether
it is in use, and its generation whether it is still the one that was meant. A record that the message does not really
count can be freed right after the look; so who counts it looks at the generation once more, under its lock (refs.py).

What can't be told: a table that names a record which is there, and which its message never counted.
"""

from __future__ import annotations

from typing import Any

from mproc_go.codec.handles import HOMES
from mproc_go.codec.wire import DecodeError
from mproc_go.sched import states
from mproc_go.shm.layout import (
    E_BASE,
    E_POOL,
    E_WORDS,
    EXTENT_WORDS,
    EXTENTS,
    EXTENTS_COUNT,
    EXTENTS_ENTRY,
    G_M,
    G_STATUS,
    H_MAX_MS,
    KIND_ARRAY,
    KIND_BUFFER,
    KIND_CHAN,
    KIND_GOROUTINE,
    KIND_KEYED_CHAN,
    KIND_MAP,
    KIND_RECV_CHAN,
    KIND_SEND_CHAN,
    KIND_TICKER,
    KIND_TIMER,
    MB_BLOCK,
    MP_N,
    MP_STRIPES,
    O_KIND,
    OBJECT_WORDS,
    PAGE_WORDS,
    POOL_G,
    POOL_OBJECT,
    R_GEN,
    REC_LIVE,
    TM_TIMED,
)

_STATE = 0xFF
# Records of both pools begin at multiples of 32 words, and their extents at pages.
_INSIDE = OBJECT_WORDS - 1
_PAGE = PAGE_WORDS.bit_length() - 1
# Kinds of handles whose record says that it is a channel.
_VIEWS = (KIND_SEND_CHAN, KIND_RECV_CHAN)
_CLOCKS = (KIND_TIMER, KIND_TICKER)
_WITH_MEMORY = (KIND_ARRAY, KIND_BUFFER)
_STRIPED = (KIND_MAP, KIND_KEYED_CHAN)


class Records:
    """Where the records of goroutines and objects lie, as far as this process has looked."""

    def __init__(self) -> None:
        self._pages: set[int] = set()

    def has(self, w: Any, kind: int, base: int, gen: int) -> bool:
        """Whether there is such a record. It stays if the message counts it."""
        # Cost: 0.3 us = 3 words
        if base >> _PAGE not in self._pages and not self._look(w, base):
            return False
        if base & _INSIDE or w[base] & _STATE != REC_LIVE or w[base + R_GEN] != gen:
            return False
        says = w[base + O_KIND]
        if kind == KIND_GOROUTINE:
            # Not one in the making, nor the record by which a thread waits: that has no handles.
            return states.UNMADE < says & states.STATUS_MASK <= states.FAILED and bool(w[base + G_M] <= w[H_MAX_MS])
        if says != kind:
            return bool(says == KIND_CHAN and (kind in _VIEWS or (kind in _CLOCKS and w[base + TM_TIMED])))
        if kind in _WITH_MEMORY:  # these say what they are before they are all there
            return bool(w[base + MB_BLOCK])
        if kind in _STRIPED:
            return bool(w[w[base + MP_STRIPES] + 2 * w[base + MP_N] - 2])
        return kind in HOMES

    def check(self, w: Any, kind: int, base: int, gen: int) -> None:
        """Raises:
        DecodeError: there is no such record.
        """
        if not self.has(w, kind, base, gen):
            raise missing(kind, base, gen)

    def _look(self, w: Any, base: int) -> bool:
        """Whether a word is in an extent of records."""
        first = EXTENTS + EXTENTS_ENTRY
        for at in range(first, first + w[EXTENTS + EXTENTS_COUNT] * EXTENT_WORDS, EXTENT_WORDS):
            if 0 <= base - w[at + E_BASE] < w[at + E_WORDS]:
                if w[at + E_POOL] not in (POOL_G, POOL_OBJECT):
                    return False
                self._pages.add(base >> _PAGE)
                return True
        return False


def missing(kind: int, base: int, gen: int) -> DecodeError:
    """What whoever opens a handle of nothing is told."""
    home = HOMES.get(kind)
    what = f"kind {kind}" + (f" ({home.rpartition('.')[2]})" if home else "")
    return DecodeError(f"forged, damaged or too old: it names record {base:#x}.{gen} of {what}, which is not there")


assert O_KIND == G_STATUS and min(HOMES.keys() - {KIND_GOROUTINE}, default=KIND_CHAN) > states.FAILED
