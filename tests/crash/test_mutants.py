"""What each order of stores is for: the structures with two stores exchanged, or one left out, fail the same walks."""

from __future__ import annotations

import inspect
import types

import pytest

from mproc_go.chan import ops
from mproc_go.sched import runq, waitq
from mproc_go.shm import pool
from tests.crash import test_chan_cuts as chans
from tests.crash import test_pool_cuts as pools
from tests.crash import test_queue_cuts as queues


def altered(module, function, *changes):
    """The module with lines of one of its functions changed."""
    source = inspect.getsource(getattr(module, function))
    wrong = source
    for old, new in changes:
        assert wrong.count(old) == 1, f"{function} has {wrong.count(old)} times {old!r}"
        wrong = wrong.replace(old, new)
    mutant = types.ModuleType(module.__name__)
    vars(mutant).update(vars(module))
    text = inspect.getsource(module).replace(source, wrong)
    exec(compile(text, module.__file__, "exec"), vars(mutant))
    return mutant


def swapped(first, second):
    """Two parts exchange their places."""
    return (first, "<1>"), (second, first), ("<1>", second)


RING_PUT = "put(w, t.mem, w[ch + CH_RING] + tail % cap * SLOT_MSG_WORDS, hdr, body)"

# what is wrong: (module, function, changes, test module, its walk, parameters)
MUTANTS = {
    "a message is published before it is there": (
        ops,
        "send",
        swapped(RING_PUT, "w[ch + CH_TAIL] = tail + 1"),
        chans,
        "test_send_cut_anywhere",
        (3, 1, 0, 0, False),
    ),
    "a receiver is decided before it has the message": (
        ops,
        "send",
        [
            ("put(w, t.mem, s + SG_MSG, hdr, body)", "pass"),
            ("g = w[s + SG_G]", "put(w, t.mem, s + SG_MSG, hdr, body); g = w[s + SG_G]"),
        ],
        chans,
        "test_send_cut_anywhere",
        (0, 0, 0, 1, False),
    ),
    "an admitted sender does not say where its message went": (
        ops,
        "admit",
        [("w[s + SG_SEQ] = tail + 1", "pass")],
        chans,
        "test_recv_cut_anywhere",
        (1, 1, 2, 0, False),
    ),
    "the same in a select": (
        ops,
        "admit",
        [("w[s + SG_SEQ] = tail + 1", "pass")],
        chans,
        "test_recv_cut_anywhere",
        (1, 1, 2, 0, True),
    ),
    "an admitted sender is counted before it is decided": (
        ops,
        "admit",
        [("        w[s + SG_SEQ] = tail + 1", "        w[s + SG_SEQ] = tail + 1; w[ch + CH_TAIL] = tail + 1")],
        chans,
        "test_recv_cut_anywhere",
        (3, 3, 2, 0, False),
    ),
    "repair does not count the admitted": (
        ops,
        "repair",
        [("w[ch + CH_TAIL] = w[s + SG_SEQ]", "pass")],
        chans,
        "test_recv_cut_anywhere",
        (1, 1, 2, 0, False),
    ),
    "repair does not fill the free place": (
        ops,
        "repair",
        [("woken.append(admit(t, ch))", "break")],
        chans,
        "test_recv_cut_anywhere",
        (1, 1, 2, 0, False),
    ),
    "repair does not shut a closed channel": (
        ops,
        "repair",
        [("w[ch + CH_LIMIT] = 0", "pass")],
        chans,
        "test_close_cut_anywhere",
        (3, 0, 0, 0, False),
    ),
    "repair does not tell who waits on a closed channel": (
        ops,
        "repair",
        [("woken += dismiss", "0 and dismiss")],
        chans,
        "test_close_cut_anywhere",
        (0, 0, 0, 2, False),
    ),
    "who waits is told before the channel is closed": (
        ops,
        "close",
        [
            (
                "    w[ch + CH_CLOSED] = 1",
                "    gone = dismiss(t, ch + CH_RECVQ) + dismiss(t, ch + CH_SENDQ)\n    w[ch + CH_CLOSED] = 1",
            )
        ],
        chans,
        "test_close_cut_anywhere",
        (0, 0, 0, 2, False),
    ),
    "a sudog is in the queue before it has a message": (
        ops,
        "wait_to_send",
        [
            ("put(w, t.mem, g + G_SUDOG + SG_MSG, hdr, body)", "pass"),
            (
                "waitq.join(w, ch + CH_SENDQ, g)",
                "waitq.join(w, ch + CH_SENDQ, g); put(w, t.mem, g + G_SUDOG + SG_MSG, hdr, body)",
            ),
        ],
        chans,
        "test_waiting_to_send_cut_anywhere",
        (0, 0, 1),
    ),
    "a sudog is in the queue before its link ends it": (
        waitq,
        "enqueue",
        [
            ("    w[s + SG_LINK] = 0\n", ""),
            ("        w[q + 1] = s\n    else", "        w[q + 1] = s\n        w[s + SG_LINK] = 0\n    else"),
        ],
        queues,
        "test_joining_a_wait_queue_cut_anywhere",
        (2,),
    ),
    "a goroutine is queued before its place has it": (
        runq,
        "put",
        swapped("w[base + P_RUNQ + tail % RUNQ] = g", "w[base + P_TAIL] = tail + 1"),
        queues,
        "test_run_queues_cut_anywhere",
        ("put", 1, 1),
    ),
    "a goroutine is taken before it bears the slot": (
        runq,
        "get",
        swapped("w[g + R_HEAD] = t.live", "w[base + P_HEAD] = head + 1"),
        queues,
        "test_run_queues_cut_anywhere",
        ("get", 4, 0),
    ),
    "goroutines are stolen without the slot of the thief": (
        runq,
        "grab",
        [("w[g + R_HEAD] = t.live", "pass")],
        queues,
        "test_run_queues_cut_anywhere",
        ("grab", 4, 0),
    ),
    "goroutines are taken from the global list without": (
        runq,
        "get_global",
        [("w[g + R_HEAD] = t.live", "pass")],
        queues,
        "test_run_queues_cut_anywhere",
        ("get_global", 0, 4),
    ),
    "the global list is not ended before it is published": (
        runq,
        "put_global",
        [
            ("    w[last + R_LINK] = 0\n", ""),
            ("    w[S_GQ_SIZE] += len(gs)", "    w[S_GQ_SIZE] += len(gs)\n    w[last + R_LINK] = 0"),
        ],
        queues,
        "test_run_queues_cut_anywhere",
        ("put_global", 0, 4),
    ),
    "repair does not recompute the length": (
        runq,
        "repair_global",
        [("w[S_GQ_SIZE] = len(gs)", "pass")],
        queues,
        "test_run_queues_cut_anywhere",
        ("get_global", 0, 4),
    ),
    "records are ours before they say so": (
        pool,
        "_refill",
        [("                w[base] = t.cached\n", "")],
        pools,
        "test_refill_from_the_free_list_cut_anywhere",
        (4,),
    ),
    "records are carved before they say whose they are": (
        pool,
        "_refill",
        [
            ("                    w[first + i * words] = t.cached\n", ""),
            (
                "# publishes: they are ours\n        t.leave",
                "\n                for base in got: w[base] = t.cached\n        t.leave",
            ),
        ],
        pools,
        "test_take_cut_anywhere",
        (0,),
    ),
    "the free list is published before its links": (
        pool,
        "flush",
        [("    head = w[p + POOL_FREE]\n", "    head = w[p + POOL_FREE]\n    w[p + POOL_FREE] = batch[-1]\n")],
        pools,
        "test_flush_cut_anywhere",
        (4,),
    ),
    "an extent is counted before it is described": (
        pool,
        "_add_extent",
        [
            (
                "            w[entry + E_POOL] = pool\n",
                "            w[EXTENTS + EXTENTS_COUNT] = n + 1\n            w[entry + E_POOL] = pool\n",
            )
        ],
        pools,
        "test_growth_cut_anywhere",
        (),
    ),
    "a freed record is in a list and says it is the freer's": (
        pool,
        "sweep",
        [("base in free or", "")],
        pools,
        "test_flush_cut_anywhere",
        (4,),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_order_is_needed(name, monkeypatch):
    """The walk that the real code passes fails."""
    module, function, changes, tests, walk, args = MUTANTS[name]
    mutant = altered(module, function, *changes)
    short = module.__name__.rpartition(".")[2]
    for user in (tests, ops):
        if hasattr(user, short):
            monkeypatch.setattr(user, short, mutant)
    getattr(tests, walk)  # it is there
    with pytest.raises(Exception):  # noqa: B017  # whatever notices first
        getattr(tests, walk)(*args)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_real_one_passes(name):
    """The same walk with the code as it is."""
    _module, _function, _changes, tests, walk, args = MUTANTS[name]
    getattr(tests, walk)(*args)
