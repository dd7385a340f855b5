"""No store is forgotten: each line of the structures that stores a shared word was cut at least once by these tests."""

from __future__ import annotations

import ast
import inspect

from mproc_go.chan import ops, receiving, sending
from mproc_go.runtime import message
from mproc_go.sched import runq, waitq
from mproc_go.shared import keyed, striped, table
from mproc_go.shared import map as shared_map
from mproc_go.shm import pool
from tests.crash import test_chan_cuts, test_map_cuts, test_pool_cuts, test_queue_cuts
from tests.crash.machine import Words

# Not operations that a worker may die in: repair runs alone in the supervisor, and is cut by tests of its own (a second
# death). The last three die in test_burials.py, with the real reaper.
_NOT_CUT = {
    ops: {"repair", "take_given"},  # test_burials cuts the second
    waitq: {"repair", "settle_sudog"},
    runq: {"repair_global"},
    pool: {"sweep", "repair_kept"},
    message: {"stow", "own", "discard_at", "_destroy_letter"},  # test_burials cuts these
    sending: {"_send_slow"},
    receiving: {"_recv_slow"},
    table: {"repair", "forget", "_mend_queue", "tidy", "unpin_dead", "taken"},  # test_map_leaks cuts the last
    striped: {"destroy", "_destroy_stripe", "_claim"},  # test_map_leaks cuts these, and test_destroying_cut_anywhere
    keyed: {"_take"},  # test_map_leaks cuts it
}


def stores(module):
    """(function, line) of each assignment to ``w[...]`` or ``mem[...]`` in the module."""
    for function in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(function, ast.FunctionDef) or function.name in _NOT_CUT.get(module, ()):
            continue
        for node in ast.walk(function):
            targets = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AugAssign):
                targets = [node.target]
            for target in targets:
                if isinstance(target, ast.Subscript) and ast.unparse(target.value) in ("w", "mem", "t.w", "m.mem"):
                    yield function.name, node.lineno


def test_every_store_of_the_structures_was_cut(monkeypatch):
    """A new store in ring, queues, slab or heap without a test that dies there fails here."""
    monkeypatch.setattr(Words, "cut", set())
    for module in (test_chan_cuts, test_map_cuts, test_pool_cuts, test_queue_cuts):
        for name, test in vars(module).items():
            if name.startswith("test_") and "cut_anywhere" in name:
                _run_all(test)
    missing = [
        f"{module.__name__}.{function}, line {line}"
        for module in (ops, waitq, runq, pool, message, sending, receiving, table, striped, shared_map, keyed)
        for function, line in stores(module)
        if (inspect.getsourcefile(module), line) not in Words.cut
    ]
    assert not missing, "never cut: " + "; ".join(missing)


def _run_all(test):
    """Run a parametrised test with all its parameters."""
    calls = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name != "parametrize":
            continue
        names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
        values = [value if isinstance(value, tuple) and len(names) > 1 else (value,) for value in mark.args[1]]
        calls = [call | dict(zip(names, value, strict=True)) for call in calls for value in values]
    for call in calls:
        test(**call)
