"""The stacks of this process's goroutines, for whoever collects them (observe/stacks.py)."""

from __future__ import annotations

import os
import sys
import traceback
from types import FrameType
from typing import Any

from mproc_go.errors import SharedMemoryFull
from mproc_go.observe import stacks as eyes
from mproc_go.observe import stats as figures
from mproc_go.observe.stacks import PACKAGE
from mproc_go.runtime import process as rt
from mproc_go.runtime.client import ClientM
from mproc_go.runtime.process import M
from mproc_go.shm.layout import (
    BLOCK_DATA,
    G_GOID,
    H_SLOTS,
    H_STOP,
    KIND_WORKER,
    L_SCHED,
    M_DUMP,
    M_KIND,
    M_REPLIED,
    M_REPLY,
    S_DUMPER,
    WORD,
    slot_base,
)
from mproc_go.shm.pool import put_block, take_block

_MACHINERY = tuple(PACKAGE + layer + os.sep for layer in rt.LAYERS)
_RUN = os.path.join(PACKAGE, "tools", "run.py")
# A reply longer than this is cut: a hundred thousand goroutines that all wait at one line say no more than a thousand.
MAX_REPLY_BYTES = 8 << 20


def frames_text(frame: FrameType | None) -> str:
    """The user's part of a stack: without how it was started, and what is ours in between."""
    summary = traceback.extract_stack(frame)
    first = 0
    for i, entry in enumerate(summary):
        if entry.filename == _RUN or (entry.name == "_execute" and entry.filename.startswith(_MACHINERY)):
            first = i + 1
    while first < len(summary) and "runpy" in summary[first].filename:
        first += 1
    entries = summary[first:]
    users = [e for e in entries if not e.filename.startswith(_MACHINERY)]
    # A goroutine that runs a method of ours, as ``go(ch.recv)`` does, has nothing else to show.
    return "".join(traceback.format_list(users or [e for e in entries if not e.name.startswith("_")][:1]))


def worker_text(m: Any) -> str:
    """Entries of all goroutines of a worker: number, newline, stack, separated by NUL."""
    entries = []
    size = 0
    for g, fiber in list(m.fibers.items()):
        frame = sys._getframe() if fiber is m.cur else fiber.gr_frame
        entry = f"{m.w[g + G_GOID]}\n{frames_text(frame)}"
        size += len(entry)
        if size > MAX_REPLY_BYTES:
            break
        entries.append(entry)
    return "\0".join(entries)


def answer(m: Any) -> None:
    """Answer the latest request for stacks. Runs: a worker, at its bell. Twin: observe/stacks.py collect."""
    w = m.w
    number = w[m.base + M_DUMP]
    if w[m.base + M_REPLIED] == number:
        return
    data = worker_text(m).encode(errors="replace")
    block = 0
    try:
        block = take_block(m, len(data) + WORD)
    except SharedMemoryFull:
        data = b""  # the states in shared memory are all there is then
    if block:
        w[block + BLOCK_DATA] = len(data)
        start = (block + BLOCK_DATA + 1) * WORD
        m.mem[start : start + len(data)] = data
    eyes.take_reply(m, m.slot)  # nobody waited for it that long
    w[m.base + M_REPLY] = block
    if block:
        put_block(m, block)
    w[m.base + M_REPLIED] = number  # publishes


def stacks_text(m: M) -> str:
    """Every goroutine of the runtime: state, wait reason, stack."""
    w = m.w
    lock = m.locks[L_SCHED]
    # One collector at a time: a reply is read, and freed, by whoever asked last.
    while True:
        m.enter(lock)
        mine = not w[S_DUMPER]
        if mine:
            w[S_DUMPER] = m.slot
        m.leave(lock)
        if mine:
            break
        m.yield_()
    try:
        workers = [s for s in range(1, w[H_SLOTS]) if w[slot_base(s) + M_KIND] == KIND_WORKER and s != m.slot]
        number = max((w[slot_base(s) + M_DUMP] for s in range(1, w[H_SLOTS])), default=0) + 1
        found = eyes.collect(m, number, workers)
    finally:
        w[S_DUMPER] = 0
    if isinstance(m, ClientM):
        found[w[m.g + G_GOID]] = frames_text(sys._getframe())
    else:
        for entry in worker_text(m).split("\0"):
            goid, _, text = entry.partition("\n")
            if goid:
                found[int(goid)] = text
    return eyes.report(m, found)


def stacks() -> str:
    """Text: every goroutine's state, wait reason and Python stack, in all processes.

    Blocks: briefly, for the workers to answer; one that is busy in a C call is shown without its stacks.
    Source: Go runtime.Stack(all).
    """
    m = rt.current()
    if m.w[H_STOP]:
        m.surface()
    return stacks_text(m) + "\n"


def stats() -> dict[str, Any]:
    """Figures of the runtime: Ps, Ms, goroutines by state, run queues, steals, hand-offs, objects, memory.

    Returns: a plain dict; memory in bytes. Each figure is true, but not all are of one moment.     Blocks: never.
    """
    m = rt.current()
    if m.w[H_STOP]:
        m.surface()
    return figures.stats_of(m.w)
