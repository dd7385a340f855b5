"""What a code object takes from outside: the globals it names, and whether it assigns to what it captured."""

from __future__ import annotations

import dis
import types
import weakref
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Uses", "uses"]


class Uses(NamedTuple):
    """What a code object, with all code nested in it, does to names that are not its own.

    Attributes:
        names: globals it reads (builtins among them).
        class_names: those of `names` that the body of a nested class reads; cloudpickle does not look for them.
        assigns: it assigns to a global, or to a variable that it captured.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    assigns: bool


_GLOBAL_READS = frozenset({"LOAD_GLOBAL"})
# In the body of a class, where a name may be the class's own or a global.
_CLASS_READS = frozenset({"LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_GLOBAL_WRITES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_CELL_WRITES = frozenset({"STORE_DEREF", "DELETE_DEREF"})

# Looking takes about 100 us for a function of 20 lines. Equal code objects do the same, so that they may share.
_known: weakref.WeakKeyDictionary[types.CodeType, Uses] = weakref.WeakKeyDictionary()


def uses(code: types.CodeType) -> Uses:
    """Return what `code` takes from outside."""
    known = _known.get(code)
    if known is not None:
        return known
    # Dicts for their order: the same function must give the same bytes each time.
    names: dict[str, None] = {}
    class_names: dict[str, None] = {}
    assigns = False
    captured = frozenset(code.co_freevars)
    for inner in _with_nested(code):
        # What an inner function assigns to is made anew by each call of the outer one, unless both captured it.
        free = captured.intersection(inner.co_freevars)
        for instruction in dis.get_instructions(inner):
            operation = instruction.opname
            if operation in _GLOBAL_READS:
                names[instruction.argval] = None
            elif operation in _CLASS_READS:
                names[instruction.argval] = class_names[instruction.argval] = None
            elif operation in _GLOBAL_WRITES:
                # A write is a use too: `global n; n += 1` reads it, and cloudpickle ships it.
                names[instruction.argval] = None
                assigns = True
            elif operation in _CELL_WRITES and instruction.argval in free:
                assigns = True
    found = Uses(tuple(names), tuple(class_names), assigns)
    _known[code] = found
    return found


def _with_nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _with_nested(const)
