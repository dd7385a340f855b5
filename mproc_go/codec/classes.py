"""Classes that travel by value (of ``__main__``, a notebook, a function) and stay one class in each process.

cloudpickle alone rebuilds such a class at every load and sets all its attributes again. That is wrong three ways for
messages that come and go: ``__init_subclass__`` runs per message, a class attribute that changed here is reset by an
old reply, and the methods of the *defining* process end up with a copy of ``__main__`` as their globals. So here:

1. A class has an id, made where it was first encoded. Who knows the id uses the class it has.
2. Its state has a version, counted up where it was defined when an attribute was assigned since the last encode. It
   is applied only where it is newer, and never in the process that defined the class.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["reduce_class"]

_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})

_ids: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_by_id: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_versions: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()
# Of classes defined in this process only: what the attributes were at the last encode.
_snapshots: weakref.WeakKeyDictionary[type, dict[str, object]] = weakref.WeakKeyDictionary()


def reduce_class(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turn cloudpickle's way to rebuild `cls` into one that rebuilds it once.

    Shape: reduced  (make, args, state, None, None, set_state), as ``reducer_override`` returns it
    """
    make, args, state, _, _, set_state = reduced
    class_id = _ids.get(cls)
    if class_id is None:
        class_id = _ids[cls] = os.urandom(16).hex()
        _by_id[class_id] = cls
        _snapshots[cls] = _snapshot(cls)
        _versions[cls] = 1
    elif cls in _snapshots:
        now = _snapshot(cls)
        if now != _snapshots[cls]:
            _snapshots[cls] = now
            _versions[cls] += 1
    return _make, (class_id, make, args), (_versions[cls], set_state, state), None, None, _set_state


def _snapshot(cls: type) -> dict[str, object]:
    # Plain values are kept and all else is only numbered: a method refers to its class, and what is kept here would
    # keep the class. The type is part of it because 1 == True == 1.0.
    return {
        name: (type(value), value) if type(value) in _PLAIN else id(value) for name, value in list(vars(cls).items())
    }


def _make(class_id: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    cls = _by_id.get(class_id)
    if cls is None:
        cls = make(*args)
        # Two threads may load it at once: all use what came first. Version 0: it has no state yet.
        cls = _by_id.setdefault(class_id, cls)
        _ids[cls] = class_id
        _versions.setdefault(cls, 0)
    return cls


def _set_state(cls: type, state: tuple[int, Callable[[type, Any], object], Any]) -> None:
    version, set_state, attributes = state
    # Never so for a class defined here: its version is made here.
    if version > _versions[cls]:
        set_state(cls, attributes)
        _versions[cls] = version
