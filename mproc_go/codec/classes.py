"""Classes that travel by value (of ``__main__``, a notebook, a function) and stay one class in each process.

cloudpickle alone rebuilds such a class at every load and sets all its attributes again. That is wrong three ways for
messages that come and go: ``__init_subclass__`` runs per message, a class attribute that changed here is reset by an
old reply, and the methods of the *defining* process end up with a copy of ``__main__`` as their globals. So here:

1. A class has an id, made where it was first encoded. Who knows the id uses the class it has.
2. Its state has a version, counted up where it was defined when an attribute was assigned since the last encode. It
   is applied only where it is newer, and never in the process that defined the class.
3. A message does not pickle it anew: it carries the bytes of the last time, as long as the class, and every other one
   in those bytes, has the same version, and who has loaded them skips them. That is 6 times (encode) and 20 times
   (decode) as fast as cloudpickle each time, for a small dataclass (tests/codec/bench_codec.py, "class by value").
"""

from __future__ import annotations

import os
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["reduce_class", "reduce_packed"]

# A class whose bytes are more than this, or hold handles, is pickled for each message.
MAX_PACKED_BYTES = 1 << 16

_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})

_ids: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_by_id: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_versions: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()
# Of classes defined in this process only: what the attributes were at the last encode.
_snapshots: weakref.WeakKeyDictionary[type, dict[str, object]] = weakref.WeakKeyDictionary()
# Its bytes, and the version that each class in them has there, itself first.
_Packed = tuple[bytes, list[tuple["weakref.ref[type]", int]]]
_packed: weakref.WeakKeyDictionary[type, _Packed] = weakref.WeakKeyDictionary()
# The sum of the versions in the newest bytes that were made or loaded here; versions only grow.
_stamps: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()


def reduce_class(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turn cloudpickle's way to rebuild `cls` into one that rebuilds it once.

    Shape: reduced  (make, args, state, None, None, set_state), as ``reducer_override`` returns it
    """
    make, args, state, _, _, set_state = reduced
    slots = vars(cls).get("__slots__")
    if slots:
        args = _with_slots(args, slots)
        for name, value in list(state[0].items()):
            if type(value) is types.MemberDescriptorType:  # of a private slot, which cloudpickle does not know by name
                del state[0][name]
    version = _version(cls)
    return _make, (_ids[cls], make, args), (version, set_state, state), None, None, _set_state


def _with_slots(args: tuple[Any, ...], slots: Any) -> tuple[Any, ...]:
    """Have the class made with its slots: cloudpickle's has a ``__dict__`` instead, and its instances, sent back, would
    not fit the class where it was defined.
    """
    slots = slots if isinstance(slots, str | dict) else tuple(slots)
    # Of a class: its keywords; an enum has none.
    return tuple({**arg, "__slots__": slots} if i == 3 and "__module__" in arg else arg for i, arg in enumerate(args))


def reduce_packed(cls: type, pack: Callable[[type], tuple[bytes, list[type]] | None]) -> tuple[Any, ...] | None:
    """The way to rebuild `cls` from bytes made once; None where it has to be pickled each time.

    Shape: pack  returns the bytes of a class and all classes in them, made by :func:`reduce_class`; None if they can't
                 be kept
    """
    packed = _packed.get(cls)
    if packed is None or any((part := ref()) is None or _version(part) != version for ref, version in packed[1]):
        made = pack(cls)
        if made is None or len(made[0]) > MAX_PACKED_BYTES or cls not in made[1]:
            return None
        packed = _packed[cls] = made[0], [(weakref.ref(part), _versions[part]) for part in made[1]]
    stamp = sum([version for _, version in packed[1]])
    _stamps[cls] = max(stamp, _stamps.get(cls, 0))
    return _load, (_ids[cls], stamp, packed[0])


def _load(class_id: str, stamp: int, packed: bytes) -> type:
    cls = _by_id.get(class_id)
    if cls is None or stamp > _stamps.get(cls, 0):
        cls = pickle.loads(packed)
        _stamps[cls] = stamp
    return cls


def _version(cls: type) -> int:
    """Version of its state now; gives it an id the first time."""
    if cls not in _ids:
        class_id = _ids[cls] = os.urandom(16).hex()
        _by_id[class_id] = cls
        _snapshots[cls] = _snapshot(cls)
        _versions[cls] = 1
    elif cls in _snapshots:
        now = _snapshot(cls)
        if now != _snapshots[cls]:
            _snapshots[cls] = now
            _versions[cls] += 1
    return _versions[cls]


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
