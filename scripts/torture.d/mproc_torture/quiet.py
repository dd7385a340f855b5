"""What must be true once nothing runs any more: every structure whole, no lock taken, nothing left that nobody refers to."""

from __future__ import annotations

import gc
import time
from typing import Any

from mproc_go import num_goroutine, stats
from mproc_go.chan import ops
from mproc_go.runtime import process as rt
from mproc_go.sched import runq, states, waitq
from mproc_go.shm import layout as L
from mproc_go.shm import pool
from mproc_torture import audit
from mproc_torture.traffic import Violation

SETTLE_S = 10.0


def check(threads: int) -> dict[str, Any]:
    """Wait until the runtime is quiet and check it; return figures of what it holds.

    Args:
        threads: client threads that are goroutines themselves, the calling one included.

    Raises:
        Violation: an invariant does not hold.
    """
    gc.collect()
    end = time.monotonic() + SETTLE_S
    while True:
        try:
            _whole()
            count = num_goroutine()
            _require(count == threads, f"{count} goroutines, not {threads}: {stats()['goroutines_by_state']}")
            faults = audit.faults(rt.current().w, rt.current().mem)
            _require(not faults, "\n".join(faults[:20]))
            break
        except (Violation, AssertionError) as error:
            if time.monotonic() > end:
                raise Violation(f"not quiet: {error}") from error
            time.sleep(0.05)
    figures = stats()
    return {"objects": figures["objects"], "memory_bytes": figures["memory_bytes"], "workers": len(figures["ms"])}


def _require(fact: Any, what: str) -> None:
    if not fact:
        raise Violation(what)


def _whole() -> None:
    w = rt.current().w
    me = rt.current().base
    for slot in range(1, w[L.H_SLOTS]):
        base = L.slot_base(slot)
        if w[base + L.M_KIND] == L.KIND_WORKER:
            _require(not w[base + L.M_INBOX], f"M{slot} has deliveries in its inbox")
            _require(not w[base + L.M_RESIDENT], f"M{slot} has {w[base + L.M_RESIDENT]} goroutines")
        if base != me:
            for level in range(L.M_PHASE_LEVELS):
                _require(not w[base + L.M_PHASE + level], f"slot {slot} shows a lock: {w[base + L.M_PHASE + level]:#x}")
    for p in range(L.MAX_PS):
        runq.check(w, p)
        _require(not runq.length(w, p), f"P{p} has {runq.length(w, p)} queued")
    runq.check_global(w)
    _require(not w[L.S_GQ], "the global queue is not empty")
    for base in pool.records(w, L.POOL_OBJECT):
        if w[base + L.R_HEAD] & 0xFF == L.REC_LIVE and w[base + L.O_KIND] == L.KIND_CHAN:
            ops.check(w, base)
    for g in pool.records(w, L.POOL_G):
        if w[g + L.R_HEAD] & 0xFF == L.REC_LIVE:
            waitq.check(w, g + L.G_JOINQ)
            state = w[g + L.G_STATUS] & states.STATUS_MASK
            _require(state >= states.DONE or w[g + L.G_M] > w[L.H_MAX_MS], f"goroutine {w[g + L.G_GOID]} is in state {state}")
    for which in range(L.N_POOLS):
        pool.free_records(w, which)
    busy = sum(1 for slot in range(1, w[L.H_SLOTS]) if w[L.slot_base(slot) + L.M_KIND] == L.KIND_WORKER and w[L.slot_base(slot) + L.M_P])
    idle = w[L.S_PIDLE].bit_count()
    _require(busy + idle == w[L.S_GOMAXPROCS], f"{busy} Ps held, {idle} idle, of {w[L.S_GOMAXPROCS]}")
    _require(not w[L.S_NSPINNING], f"{w[L.S_NSPINNING]} search")
