"""What is in use and nothing refers to: every count and every block of a runtime at rest, computed anew.

A record must be referred to by exactly as many handles, messages and other records as its count says, a block by exactly
one of them; what is in somebody's hands is nobody's while nothing runs. Maps are looked through entry by entry.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from mproc_go.chan import names as named
from mproc_go.codec.handles import entries
from mproc_go.lib import tree
from mproc_go.sched import codes, repairs, states, waitq
from mproc_go.shared import table
from mproc_go.shm import layout as L
from mproc_go.shm import pool

_MESSAGES = {L.KIND_TIMER: lambda w, base: [base + L.TM_CALL], L.KIND_CONTEXT: tree.messages}
_REFERENCES = {L.KIND_CONTEXT: (L.CX_PARENT, L.CX_DONE), L.KIND_COND: (L.CD_MUTEX,)}


class Audit:
    """One look at a runtime in which nothing happens.

    Attributes:
        faults: what is wrong, one line each.
    """

    def __init__(self, w: Any, mem: Any, hands: set[int]) -> None:
        """`hands`: blocks and records in the caches of this process."""
        self.w, self.mem = w, mem
        self.faults: list[str] = []
        self.refs: Counter[int] = Counter()
        self.blocks: Counter[int] = Counter()
        self.objects = self._live(L.POOL_OBJECT)
        self.goroutines = self._live(L.POOL_G)
        for base in self.objects:
            self._object(base)
        for g in self.goroutines:
            self._goroutine(g)
        for block in (*named.blocks(w), *codes.blocks(w)):
            self.blocks[block] += 1
        for block in named.blocks(w):
            self.refs[w[block + L.BLOCK_DATA + L.NM_CHAN]] += 1
        for slot in range(1, w[L.H_SLOTS]):
            self.blocks[w[L.slot_base(slot) + L.M_REPLY]] += 1
            for at in range(L.slot_base(slot) + L.M_PINS, L.slot_base(slot) + L.M_PINS + L.N_PINS):
                if w[at]:
                    self._retired(table.pinned(w, at))
        self._compare()

    def _live(self, which: int) -> list[int]:
        w = self.w
        return [b for b in pool.records(w, which) if w[b] & L.REC_STATE == L.REC_LIVE]

    def _message(self, at: int) -> None:
        w = self.w
        if not w[at] & L.HDR_SPILLED:
            return
        block = w[at + 1]
        self.blocks[block] += 1
        if w[at] & L.HDR_HAS_HANDLES:
            self._handles(block)

    def _handles(self, block: int) -> None:
        n = self.w[block + L.MSG_TABLE]
        start = (block + L.MSG_TABLE + 1) * L.WORD
        for _, base, _ in entries(bytes(self.mem[start : start + 24 * n])):
            self.refs[base] += 1

    def _object(self, base: int) -> None:
        w = self.w
        kind = w[base + L.O_KIND]
        for at in _MESSAGES[kind](w, base) if kind in _MESSAGES else ():
            self._message(at)
        for at in _REFERENCES.get(kind, ()):
            if w[base + at]:
                self.refs[w[base + at]] += 1
        if kind in (L.KIND_CHAN, L.KIND_TIMER):
            self._channel(base)
        elif kind == L.KIND_CONTEXT:
            child = w[base + L.CX_CHILD]
            while child:
                self.refs[child] += w[child + L.CX_ROLE] == L.CX_HOOK
                child = w[child + L.CX_NEXT]
        elif kind in (L.KIND_MAP, L.KIND_KEYED_CHAN):
            at = w[base + L.MP_STRIPES]
            self.blocks[at - L.BLOCK_DATA] += 1
            for i in range(w[base + L.MP_N]):
                self.refs[w[at + 2 * i]] += 1
        elif kind == L.KIND_STRIPE:
            self._stripe(base)
        else:
            for block in repairs.NAMES.get(kind, lambda w, base: ())(w, base) if kind not in _MESSAGES else ():
                self.blocks[block] += 1
        if kind == L.KIND_TIMER and w[base + L.TM_CALL]:
            self.refs[base] += w[base + L.TM_DEADLINE] != 0

    def _channel(self, ch: int) -> None:
        w = self.w
        ring = w[ch + L.CH_RING]
        if ring:
            self.blocks[ring - L.BLOCK_DATA] += 1
            for i in range(w[ch + L.CH_HEAD], w[ch + L.CH_TAIL]):
                self._message(ring + i % w[ch + L.CH_CAP] * L.SLOT_MSG_WORDS)
        for s in waitq.sudogs(w, ch + L.CH_SENDQ):
            if w[s + L.SG_SELECT] == 3:  # given back
                self.blocks[s - L.BLOCK_DATA] += 1
            self._message(s + L.SG_MSG)

    def _stripe(self, st: int) -> None:
        w = self.w
        node = w[st + L.ST_HEAD]
        while node:
            if w[node + L.ND_HASH] & 1:
                self._entry(node)
            node = w[node]
        for wt in table.wait_records(w, st):
            self.blocks[wt - L.BLOCK_DATA] += 1
            self._retired(w[wt + L.WT_ENTRY])
        if w[st + L.ST_LEVEL]:
            for at in (w[st + L.ST_DIR], *table.segments(w, st)):
                self.blocks[at - L.BLOCK_DATA] += 1

    def _entry(self, e: int) -> None:
        """An entry of a map."""
        w = self.w
        self.blocks[e - L.BLOCK_DATA] += 1
        at = w[e + L.EN_AT]
        self._message(at)
        if w[e + L.EN_STATE] & L.EN_KEY_HANDLES:
            self.blocks[w[at - 1]] += 1
            self._handles(w[at - 1])

    def _retired(self, e: int) -> None:
        """One that somebody reads, if it is in no list any more."""
        if self.w[e + L.EN_STATE] & L.EN_RETIRED and not self.blocks[e - L.BLOCK_DATA]:
            self._entry(e)

    def _goroutine(self, g: int) -> None:
        w = self.w
        status = w[g + L.G_STATUS] & states.STATUS_MASK
        if status < states.DONE:
            self.refs[g] += 1
        if status >= states.DONE or (status == states.RUNNABLE and not w[g + L.G_M]):
            self._message(g + L.G_MSG)
        s = g + L.G_SUDOG
        given = w[g + L.G_DECIDE] & L.OUT_MASK == L.OUT_OK and w[s + L.SG_SEQ] == L.SG_RECEIVES
        if status == states.WAITING and given:  # it has not looked yet
            self._message(s + L.SG_MSG)
        if w[g + L.G_CODE] & (L.G_RETRY | L.G_LEFT) and w[g + L.G_M] <= w[L.H_MAX_MS]:
            record = w[g + L.G_RETRY_RECORD]
            self.blocks[record] += 1
            if status >= states.DONE or w[g + L.G_M]:
                self._message(record + L.BLOCK_DATA + 1)

    def _compare(self) -> None:
        w = self.w
        known = {*self.objects, *self.goroutines}
        for base in (*self.objects, *self.goroutines):
            bits = sum(w[base + L.R_HOLDERS + i].bit_count() for i in range(L.N_HOLDER_WORDS))
            counted, found = w[base + L.R_REFS], self.refs[base] + bits
            what = f"goroutine {w[base + L.G_GOID]}" if base in self.goroutines else f"object of kind {w[base + L.O_KIND]}"
            if counted != found:
                self.faults.append(f"{what} at {base}: {counted} references counted, {bits} of processes and {self.refs[base]} others found")
            elif not counted:
                self.faults.append(f"{what} at {base}: in use, and nothing refers to it")
        for base in self.refs:
            if base not in known:
                self.faults.append(f"{base} is referred to, and not in use")
        for which in range(L.MIN_BLOCK_ORDER, L.N_POOLS):
            for block in pool.records(w, which):
                state = w[block] & L.REC_STATE
                named_by = self.blocks.pop(block, 0)
                if named_by > 1:
                    self.faults.append(f"block {block} is named {named_by} times")
                elif bool(named_by) != (state == L.REC_LIVE):
                    what = f"named, in state {state}" if named_by else "in use, and nothing names it"
                    self.faults.append(f"block {block} of {1 << which} words is {what}")
                elif state == L.REC_CARRIES:
                    self.faults.append(f"block {block} is in the hands of slot {w[block] >> L.HEAD_SLOT & L.HEAD_SLOT_MASK}")
        for which in (L.POOL_OBJECT, L.POOL_G):
            for base in pool.records(w, which):
                if w[base] & L.REC_STATE == L.REC_DYING:
                    self.faults.append(f"record {base} of kind {w[base + L.O_KIND]} is being destroyed")


def faults(w: Any, mem: Any) -> list[str]:
    """What is wrong, one line each. Nothing may happen meanwhile."""
    return Audit(w, mem, set()).faults
