"""Figures of a runtime, read from its shared memory without stopping it: each is true, but not all of one moment."""

from __future__ import annotations

from typing import Any

from mproc_go.observe.stacks import state_text
from mproc_go.sched import runq, states
from mproc_go.shm import layout, pool
from mproc_go.shm.layout import (
    CODES,
    CODES_COUNT,
    G_STATUS,
    H_COMMITTED_WORDS,
    H_KEPT_WORDS,
    H_LIMIT_WORDS,
    H_SLOTS,
    KIND_CLIENT,
    KIND_WORKER,
    M_EXTERNAL,
    M_FINISHED,
    M_HANDOFFS,
    M_KIND,
    M_OS_PID,
    M_P,
    M_RESIDENT,
    M_SLEEPING,
    M_SPAWNED,
    M_SPINNING,
    M_STATE,
    M_STEALS,
    M_TICK,
    N_HOLDER_WORDS,
    O_KIND,
    P_M,
    POOL_G,
    POOL_OBJECT,
    R_HEAD,
    REC_LIVE,
    S_GOMAXPROCS,
    S_GQ_SIZE,
    S_HANDOFFS,
    S_MIDLE,
    S_NSPINNING,
    S_PIDLE,
    S_PWAIT,
    WORD,
    p_base,
    slot_base,
)

_NAMES = {
    layout.KIND_CHAN: "channels",
    layout.KIND_WAITGROUP: "wait groups",
    layout.KIND_MUTEX: "mutexes",
    layout.KIND_RWMUTEX: "rwmutexes",
    layout.KIND_ONCE: "onces",
    layout.KIND_COND: "conds",
    layout.KIND_SEMAPHORE: "semaphores",
    layout.KIND_ATOMIC: "atomics",
    layout.KIND_TIMER: "timers",
    layout.KIND_TICKER: "tickers",
    layout.KIND_CONTEXT: "contexts",
    layout.KIND_BUFFER: "large buffers",
    layout.KIND_LETTER: "messages of the dead",
    layout.KIND_MAP: "maps",
    layout.KIND_KEYED_CHAN: "keyed channels",
    layout.KIND_STRIPE: "map stripes",
    layout.KIND_ARRAY: "arrays",
}


def stats_of(w: memoryview) -> dict[str, Any]:
    """The figures as a plain dict of numbers, strings, lists and dicts."""
    procs = w[S_GOMAXPROCS]
    by_state: dict[str, int] = {}
    for g in pool.records(w, POOL_G):
        status = w[g + G_STATUS]
        if w[g + R_HEAD] & 0xFF == REC_LIVE and status & states.STATUS_MASK < states.DONE:
            text = state_text(status)
            by_state[text] = by_state.get(text, 0) + 1
    objects: dict[str, int] = {}
    for base in pool.records(w, POOL_OBJECT):
        if w[base + R_HEAD] & 0xFF == REC_LIVE:
            name = _NAMES.get(w[base + O_KIND], "other")
            objects[name] = objects.get(name, 0) + 1
    ms, clients = [], 0
    spawned = finished = steals = 0
    for slot in range(1, w[H_SLOTS]):
        base = slot_base(slot)
        spawned += w[base + M_SPAWNED]
        finished += w[base + M_FINISHED]
        steals += w[base + M_STEALS]
        if w[base + M_KIND] == KIND_CLIENT:
            clients += 1
        elif w[base + M_KIND] == KIND_WORKER:
            ms.append(
                {
                    "m": slot,
                    "os_pid": w[base + M_OS_PID],
                    "p": w[base + M_P] - 1 if w[base + M_P] else None,
                    "sleeping": w[base + M_STATE] == M_SLEEPING,
                    "spinning": bool(w[base + M_SPINNING]),
                    "ticks": w[base + M_TICK],
                    "goroutines": w[base + M_RESIDENT],
                    "outside": w[base + M_EXTERNAL],
                    "steals": w[base + M_STEALS],
                    "handoffs": w[base + M_HANDOFFS],
                }
            )
    return {
        "gomaxprocs": procs,
        "idle_ps": w[S_PIDLE].bit_count(),
        "ps": [{"p": p, "m": w[p_base(p) + P_M] or None, "runqueue": runq.length(w, p)} for p in range(procs)],
        "ms": ms,
        "idle_ms": sum(w[S_MIDLE + i].bit_count() for i in range(N_HOLDER_WORDS)),
        "ms_waiting_for_p": sum(w[S_PWAIT + i].bit_count() for i in range(N_HOLDER_WORDS)),
        "spinning_ms": w[S_NSPINNING],
        "clients": clients,
        "goroutines": spawned - finished,
        "goroutines_by_state": by_state,
        "spawned": spawned,
        "finished": finished,
        "runqueue": w[S_GQ_SIZE],
        "steals": steals,
        "handoffs": w[S_HANDOFFS],
        "objects": objects,
        "functions": w[CODES + CODES_COUNT],
        "memory_bytes": (w[H_COMMITTED_WORDS] - w[H_KEPT_WORDS]) * WORD,
        "memory_kept_bytes": w[H_KEPT_WORDS] * WORD,
        "memory_limit_bytes": w[H_LIMIT_WORDS] * WORD,
    }


def schedtrace_line(w: memoryview, ms: int) -> str:
    """One line about the scheduler, `ms` milliseconds after the start, as Go's GODEBUG=schedtrace prints it.

    Source: Go proc.go schedtrace.
    """
    procs = w[S_GOMAXPROCS]
    threads = spinning = 0
    for slot in range(1, w[H_SLOTS]):
        base = slot_base(slot)
        if w[base + M_KIND] == KIND_WORKER:
            threads += 1
            spinning += bool(w[base + M_SPINNING])
    idle_ms = sum(w[S_MIDLE + i].bit_count() for i in range(N_HOLDER_WORDS))
    queues = " ".join(str(runq.length(w, p)) for p in range(procs))
    return (
        f"SCHED {ms}ms: gomaxprocs={procs} idleprocs={w[S_PIDLE].bit_count()} threads={threads} "
        f"spinningthreads={spinning} idlethreads={idle_ms} runqueue={w[S_GQ_SIZE]} [{queues}]"
    )
