"""Which contexts end with which: the records behind ``context``, and how a cancellation spreads.

A context that can be cancelled has a done channel and a list of the contexts (and hooks) to end with it; the list does
not keep them alive, while each of them keeps its parent. One lock guards all lists and states of the runtime: trees
reach across everything, operations on them are short, and an order among thousands of locks would have to be kept else.

Ending a context, iteratively (a tree may be as deep as it likes), for each of those to end:
    1  store the cause, then the state (publishes); leave the owner's list
    2  close the done channel; a hook is called instead, in a goroutine
    3  store the state of each member of its list and take it off, with a reference so that it can't be freed; then do
       2 and 3 for those

Invariants:
    CX1  A context is in the list of its nearest ancestor that can be cancelled, or of none.
    CX2  Once an end is complete, nobody is in the list of an ended context.

Crash: a context that has its state, but an open done channel or members, was left in the middle; :func:`end` of it goes
on from there, whoever calls it, and so does :func:`finish`, in the supervisor. Hooks may not be called then.

Source: Go context/context.go propagateCancel, cancelCtx.cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mproc_go.chan import ops
from mproc_go.runtime import message, spawn
from mproc_go.runtime.process import M
from mproc_go.sched import orphans, repairs
from mproc_go.shm import counts
from mproc_go.shm.layout import (
    CX_ACTIVE,
    CX_CANCEL,
    CX_CHILD,
    CX_DONE,
    CX_DONE_GEN,
    CX_EXCEEDED,
    CX_HOOK,
    CX_INHERITED,
    CX_KEY,
    CX_LOOK,
    CX_MSG,
    CX_NEXT,
    CX_OWNER,
    CX_PARENT,
    CX_PARENT_GEN,
    CX_PREV,
    CX_ROLE,
    CX_STATE,
    HDR_SPILLED,
    KIND_CHAN,
    KIND_CONTEXT,
    L_CONTEXT,
    POOL_OBJECT,
    R_GEN,
    R_REFS,
    object_lock,
)
from mproc_go.shm.pool import give
from mproc_go.shm.thread import Thread

# ---------------------------------------------------------------- lists; lock: L_CONTEXT


def link(t: Thread, base: int, owner: int) -> bool:
    """Put a context into the list of `owner`, unless that has ended; return whether it is in.

    Of a hook the list is a reference: the link that publishes it is counted with it.
    """
    w = t.w
    if w[owner + CX_STATE]:
        return False
    first = w[owner + CX_CHILD]
    w[base + CX_NEXT] = first
    w[base + CX_PREV] = 0
    w[base + CX_OWNER] = owner
    _set_link(t, owner + CX_CHILD, base, base, 1)  # publishes
    if first:
        w[first + CX_PREV] = base
    return True


def unlink(t: Thread, base: int) -> bool:
    """Take a context out of the list it is in; return whether that was its last reference (of a hook), and it ends."""
    w = t.w
    owner = w[base + CX_OWNER]
    if not owner:
        return False
    before, following = w[base + CX_PREV], w[base + CX_NEXT]
    refs = _set_link(t, before + CX_NEXT if before else owner + CX_CHILD, following, base, -1)  # publishes
    if following:
        w[following + CX_PREV] = before
    w[base + CX_OWNER] = 0
    return not refs


def _set_link(t: Thread, at: int, value: int, base: int, by: int) -> int:
    """Store a link to `base`, or past it; of a hook it is a reference. Returns: its references, of others 1."""
    if t.w[base + CX_ROLE] == CX_HOOK:
        return counts.count(t, base, by, at, value, 1)
    t.w[at] = value
    return 1


def members(w: Any, owner: int) -> list[int]:
    """Who is in the list of `owner`, the latest first."""
    found = []
    base = w[owner + CX_CHILD]
    while base:
        found.append(base)
        base = w[base + CX_NEXT]
    return found


def repair(w: Any, contexts: Sequence[int]) -> None:
    """Recompute the hints of all lists after a dead thread. Runs alone, under the lock."""
    for base in contexts:
        w[base + CX_OWNER] = 0  # it may have left a list without the news
    for owner in contexts:
        before = 0
        for base in members(w, owner):
            w[base + CX_PREV] = before
            w[base + CX_OWNER] = owner
            before = base


def check(w: Any, owner: int) -> None:
    """Assert CX1, CX2 and the links of one list. Runs alone."""
    before = 0
    seen = set()
    for base in members(w, owner):
        assert base not in seen, f"CX1: the list of {owner} is cyclic"
        seen.add(base)
        assert w[base + CX_OWNER] == owner and w[base + CX_PREV] == before, f"CX1: {base} in the list of {owner}"
        before = base
    assert not (w[owner + CX_STATE] and seen), f"CX2: {len(seen)} in the list of an ended context"


# ---------------------------------------------------------------- ending
def end(m: M, base: int, state: int, hdr: int = 0, body: message.Body = 0) -> bool:
    """End the context, and all that end with it; return whether it had not ended before.

    The caller keeps it alive. Blocks: for locks.

    Args:
        state: CX_CANCELED or CX_EXCEEDED.
        hdr, body: message with the cause, a block, or 0; ours to free if the context had ended before.
    """
    first = _begin(m, base, state, hdr, body)
    if not first and body:
        message.discard(m, hdr, body)
    failed: Exception | None = None
    todo = [base]
    while todo:
        owner = todo.pop()
        close_done(m, owner)
        while taken := _take(m, owner):
            for member, is_hook in taken:
                if not is_hook:
                    todo.append(member)
                    continue
                try:
                    _call(m, member)
                except Exception as error:  # no room for its goroutine: the others still end
                    failed = error
                m.process.refs.drop(m, KIND_CONTEXT, member)
        if owner != base:
            m.process.refs.drop(m, KIND_CONTEXT, owner)
    if failed is not None:
        raise failed
    return first


def _begin(m: M, base: int, state: int, hdr: int, body: message.Body) -> bool:
    """Step 1; False if it had ended before."""
    w = m.w
    lock = m.locks[L_CONTEXT]
    m.enter(lock)
    first: bool = w[base + CX_STATE] == CX_ACTIVE
    if first:
        if body:
            w[base + CX_MSG] = hdr
            w[base + CX_MSG + 1] = body
        w[base + CX_STATE] = state  # publishes
        if body:
            message.let_go(m, body)
        unlink(m, base)
    m.leave(lock)
    return first


def close_done(m: M, base: int) -> None:
    """Close the done channel, if that is not done yet."""
    w = m.w
    channel = w[base + CX_DONE]
    lock = m.locks[object_lock(channel)]
    m.enter(lock)
    _, woken = ops.close(m, channel)
    m.leave(lock)
    for g in woken:
        m.ready(g)


# How many members are taken off a list under one lock.
_BATCH = 16


def _take(m: M, owner: int) -> list[tuple[int, bool]]:
    """End members and take them off the list: (base, whether it is a hook), each with a handle.

    The handles are the caller's, who does the rest: closes their channels, or calls the hooks.
    """
    w = m.w
    refs = m.process.refs
    taken: list[tuple[int, bool]] = []
    lock = m.locks[L_CONTEXT]
    m.enter(lock)
    inherited = w[owner + CX_STATE] | CX_INHERITED
    while len(taken) < _BATCH and (base := w[owner + CX_CHILD]):
        # Else nobody can see any more whether it ended.
        alive = refs.open_if(m, base, lambda base=base: w[base + R_REFS] != 0, 1)  # type: ignore[misc]
        w[base + CX_STATE] = inherited  # publishes
        is_hook = w[base + CX_ROLE] == CX_HOOK
        unlink(m, base)
        if alive:
            taken.append((base, is_hook))
    m.leave(lock)
    return taken


def finish(t: Thread, contexts: Sequence[int]) -> list[int]:
    """Go on with the ends that a dead thread left in the middle; return goroutines to make ready.

    Runs: the supervisor, alone in this. It can start no goroutine: a hook that is to be called now is not.
    """
    w = t.w
    woken: list[int] = []
    unwanted: list[int] = []
    lock = t.locks[L_CONTEXT]
    todo = list(contexts)
    while todo:
        owner = todo.pop()
        t.enter(lock)
        ended = w[owner + CX_STATE]
        while ended and (base := w[owner + CX_CHILD]):
            if w[base + CX_ROLE] != CX_HOOK:
                todo.append(base)
            w[base + CX_STATE] = ended | CX_INHERITED  # publishes
            if unlink(t, base):
                unwanted.append(base)
        t.leave(lock)
        for base in unwanted:
            orphans.put(t, base)
        unwanted.clear()
        channel = w[owner + CX_DONE]
        if ended and channel:
            guard = t.locks[object_lock(channel)]
            t.enter(guard)
            woken += ops.close(t, channel)[1]
            t.leave(guard)
    return woken


def _call(m: M, hook: int) -> None:
    """Start the call of a hook."""
    w = m.w
    fn, args, kwargs = message.copy(m, w[hook + CX_MSG], w[hook + CX_MSG + 1])
    spawn.spawn(m, fn, args, kwargs, False)


def look(m: M, base: int, gen: int, when: int) -> int:
    """End a context whose deadline has come. Runs: in an alarm; returns when to look again: never."""
    w = m.w
    refs = m.process.refs
    if refs.open_if(m, base, lambda: w[base + R_GEN] == gen and w[base + R_REFS] != 0 and w[base + CX_LOOK] == when):
        try:
            if not w[base + CX_STATE]:
                end(m, base, CX_EXCEEDED)
        finally:
            refs.drop(m, KIND_CONTEXT, base)
    return 0


def has_ended(m: M, base: int, gen: int, when: int) -> bool:
    """Whether the context has ended before its deadline."""
    return bool(m.w[base + CX_STATE])


# ---------------------------------------------------------------- the end of a record
def references(w: Any, base: int) -> list[tuple[int, int, int]]:
    """The handles the record holds: (kind, base, generation) of parent and done channel."""
    found = []
    if w[base + CX_PARENT]:
        found.append((KIND_CONTEXT, w[base + CX_PARENT], w[base + CX_PARENT_GEN]))
    if w[base + CX_DONE]:
        found.append((KIND_CHAN, w[base + CX_DONE], w[base + CX_DONE_GEN]))
    return found


def names(w: Any, base: int) -> list[int]:
    """The blocks of its messages."""
    return [w[at + 1] for at in messages(w, base) if w[at] & HDR_SPILLED]


def messages(w: Any, base: int) -> list[int]:
    """Where its messages lie. The cause is none before the end that it is of."""
    ended = w[base + CX_ROLE] != CX_CANCEL or w[base + CX_STATE]
    return [base + CX_KEY, base + CX_MSG] if ended else [base + CX_KEY]


def destroy(m: M, base: int) -> None:
    """Free a context nobody can reach any more."""
    w = m.w
    refs = m.process.refs
    lock = m.locks[L_CONTEXT]
    unwanted = []
    m.enter(lock)
    unlink(m, base)
    # Members other than hooks would have kept it alive. A hook of what can never end is never called.
    while hook := w[base + CX_CHILD]:
        if unlink(m, hook):
            unwanted.append(hook)
    m.leave(lock)
    for hook in unwanted:
        refs.destroy(m, KIND_CONTEXT, hook)
    for at in messages(w, base):
        message.discard_at(m, at)
    w[base + CX_LOOK] = 0
    refs.unrefer(m, base + CX_PARENT, KIND_CONTEXT)
    refs.unrefer(m, base + CX_DONE, KIND_CHAN)
    w[base + R_GEN] += 1
    give(m, POOL_OBJECT, base)


repairs.UNDER_LOCK[L_CONTEXT] = (KIND_CONTEXT, repair)
repairs.FINISH[KIND_CONTEXT] = finish
repairs.NAMES[KIND_CONTEXT] = names
