"""The text of an EncodeError: which object inside a value can't travel, and where it lies.

Runs only after an encode failed, so it may be slow: it encodes the parts one by one and follows the first that fails.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from mproc_go.codec.captured import uses

__all__ = ["describe", "type_name"]

# What to do instead, by the type that can't travel.
_WAY_OUT = {
    types.CoroutineType: "a goroutine is a plain function, which calls asyncio.run",
    types.GeneratorType: "send its values over a channel, or a list of them",
}

# A value of a million good parts and one bad must not take minutes to complain about.
MAX_TRIALS = 10_000
# Steps of the way to it that are shown; of a longer one the ends.
_LONGEST_PATH = 12


def describe(value: object, can_encode: Callable[[object], bool], why: str) -> str:
    """Say which type inside `value` can't be sent, e.g. ``... '_thread.lock' (found in dict key 'x' -> list[2])``.

    `why`: what the pickler said of it.
    """
    path: list[str] = []
    seen = {id(value)}
    trials = MAX_TRIALS
    here = value
    while True:
        for label, part in _parts(here):
            trials -= 1
            if trials < 0:
                break
            # A part met before is part of a cycle that the search is already inside of.
            if id(part) not in seen and not can_encode(part):
                path.append(label)
                seen.add(id(part))
                here = part
                break
        else:
            break
        if trials < 0:
            break
    text = f"can't send a value of type '{type_name(type(here))}'"
    if len(path) > _LONGEST_PATH:
        path[_LONGEST_PATH // 2 : -_LONGEST_PATH // 2] = ["..."]
    if path:
        text += f" (found in {' -> '.join(path)})"
    way_out = _WAY_OUT.get(type(here))
    return f"{text}: {why}; {way_out}" if way_out else f"{text}: {why}"


def type_name(cls: type) -> str:
    """Return a type's name as a user would write it: with its module, unless that is builtins."""
    module = getattr(cls, "__module__", None)
    name = getattr(cls, "__qualname__", cls.__name__)
    return name if module in (None, "builtins") else f"{module}.{name}"


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield the labelled parts that pickling `value` would pickle."""
    try:
        yield from _items(value)
        yield from _attributes(value)
    except Exception:  # a user's property failed: what was found so far must do
        return


def _items(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"a key of {_short(value)}", key
            yield f"{_short(value)} key {_brief(key)}", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"{_short(value)}[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in list(value):
            yield f"an element of {_short(value)}", item
    elif isinstance(value, types.MethodType):
        yield "__self__", value.__self__
        yield "__func__", value.__func__
    elif isinstance(value, types.FunctionType):
        yield from _captured(value)
    elif isinstance(value, functools.partial):
        yield "partial.func", value.func
        yield "partial.args", value.args
        yield "partial.keywords", value.keywords
    elif isinstance(value, BaseException):
        yield f"{_short(value)}.args", value.args


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, types.ModuleType):
        return
    if isinstance(value, type):
        for name, item in list(vars(value).items()):
            if not isinstance(item, (types.GetSetDescriptorType, types.MemberDescriptorType)):
                yield f"attribute {name!r} of class {value.__name__}", item
        return
    # A class's own ideas of __getattr__ must not be asked.
    state = getattr(value, "__dict__", None)
    if type(state) is dict:
        for name, item in list(state.items()):
            yield f"attribute {name!r} of {_short(value)}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f"attribute {name!r} of {_short(value)}", getattr(value, name)


def _captured(fn: types.FunctionType) -> Iterator[tuple[str, object]]:
    name = fn.__name__
    for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            yield f"variable {variable!r} of {name}()", cell.cell_contents
        except ValueError:
            continue  # an empty cell: the variable is not bound yet
    for item in fn.__defaults__ or ():
        yield f"a default of {name}()", item
    for variable, item in (fn.__kwdefaults__ or {}).items():
        yield f"default {variable!r} of {name}()", item
    for variable in uses(fn.__code__).names:
        if variable in fn.__globals__:
            yield f"global {variable!r} of {name}()", fn.__globals__[variable]


def _short(value: Any) -> str:
    return type(value).__name__


def _brief(key: object) -> str:
    try:
        text = repr(key)
    except Exception:  # a user's __repr__
        return f"of type {type_name(type(key))}"
    return text if len(text) <= 60 else f"{text[:57]}..."
