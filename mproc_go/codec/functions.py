"""Shipping a function once: a goroutine carries a small number, and the code lies in the runtime's code table.

A blob of that table is ``b"R" + b"module:qualname"`` (by reference) or ``b"V" + pickle`` (by value). A worker loads
each blob once and keeps the function, so a number may only stand for what is the same for every goroutine:

1. A function with an importable name: always; its number is one dict hit (``FunctionCache.ids``).
2. A function of ``__main__``, a lambda, a closure: "evaluated at once" means the captured values of *this* call. It
   gets a number only if all it can reach is fixed (scalars, modules, importable functions, functions fixed the same
   way) and it assigns to none of it. A *plan* remembers those values; each call compares them by identity (about
   1 us for 5 names) and a plan that does not hold any more is made anew.
3. All else (a captured list, ``nonlocal``, handles, callable objects) gets 0 and travels with the arguments.

Rejected: giving a number to a function that captured a list as long as its pickle stays the same. The worker keeps
the loaded function, so the goroutines it runs would share, and see each other change, what has to be a copy for each.

A number costs a place in a table of fixed size, and most lambdas run once. So a by-value function gets one only when
it comes a second time: the same function object, or the same code with the same captured values (a lambda in a loop).
"""

from __future__ import annotations

import enum
import importlib
import pickle
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from mproc_go.codec import byname, wire
from mproc_go.codec.captured import uses

__all__ = ["FunctionCache", "load"]

BY_REFERENCE = b"R"
BY_VALUE = b"V"

# Plans kept, per function object and per code object. A plan holds what its function captured.
MAX_PLANS = 512
# Numbers that the closures made by one piece of code may take: a program that makes a million of them must not fill
# the table for everybody else.
MAX_IDS_PER_CODE = 32
# A captured constant larger than this stays out of plans and of the code table, which both would keep it for good.
MAX_CONSTANT_BYTES = 1 << 16
# How deep tuples in tuples and functions behind functions are followed.
MAX_DEPTH = 16

_SCALARS = frozenset({int, float, complex, bool, type(None), type(Ellipsis)})
_ABSENT: Any = object()
_ITSELF: Any = object()


class FunctionCache:
    """Numbers for functions, of one runtime in one process.

    Attributes:
        ids: numbers of the functions with an importable name. ``ids.get(fn)`` is the hot path of a spawn; it raises
            TypeError for an unhashable callable, which :meth:`code` handles.
    """

    def __init__(self, register: Callable[[bytes], int]) -> None:
        """Shape: register  stores a blob in the code table, returns its number > 0, or 0 where the table is full."""
        self.ids: dict[Callable[..., Any], int] = {}
        self._register = register
        self._full = False
        # By id of the function: the plan dies with it, unless it can reach itself, and then by age.
        self._by_function: OrderedDict[int, _Plan] = OrderedDict()
        # By id of the code, which the plan keeps: the latest function that this code made.
        self._by_code: OrderedDict[int, _Plan] = OrderedDict()
        self._ids_of_code: weakref.WeakKeyDictionary[types.CodeType, int] = weakref.WeakKeyDictionary()

    def code(self, fn: Callable[..., Any]) -> int:
        """Return the number of `fn`, or 0: ship it with the arguments.

        Raises:
            EncodeError: the function can't travel at all.
        """
        try:
            code_id = self.ids.get(fn)
        except TypeError:
            return 0  # an unhashable callable object
        if code_id:
            return code_id
        if type(fn) is types.FunctionType:
            plan = self._by_function.get(id(fn))
            if plan is not None and plan.function() is fn:
                if plan.holds():
                    return plan.code_id or self._number(fn, plan)
                self._by_function.pop(id(fn), None)  # another thread may have been faster
            return self._new_function(fn)
        return self._by_name(fn)

    def _by_name(self, fn: Callable[..., Any]) -> int:
        name = byname.name_of(fn)
        if name is None or self._full:
            return 0
        code_id = self._store(BY_REFERENCE + f"{name[0]}:{name[1]}".encode())
        if code_id:
            self.ids[fn] = code_id
        return code_id

    def _new_function(self, fn: types.FunctionType) -> int:
        if byname.is_by_name(fn):
            return self._by_name(fn)
        if self._full:
            return 0
        key = id(fn)
        plans = self._by_function

        def forget(dead: weakref.ref[types.FunctionType]) -> None:
            # The id may be another function's by now: only the dead one's plan goes.
            known = plans.get(key)
            if known is not None and known.function is dead:
                plans.pop(key, None)

        plan = _Plan(fn, forget)
        if not plan.fixed:
            return 0
        code = fn.__code__
        same_code = self._by_code.get(id(code))
        if same_code is not None and same_code.captured_same(plan):
            # The second function object of that code with those values: same number, made now if there is none yet.
            plan.code_id = same_code.code_id or self._number(fn, same_code)
            plan.has_handles = same_code.has_handles
        _keep(plans, key, plan)
        _keep(self._by_code, id(code), plan)
        return plan.code_id

    def _number(self, fn: types.FunctionType, plan: _Plan) -> int:
        """Give a by-value function that comes again its number; 0 if it can't have one."""
        used = self._ids_of_code.get(fn.__code__, 0)
        if self._full or plan.has_handles or used >= MAX_IDS_PER_CODE:
            return 0
        payload, handles = wire.dump(fn)
        if handles:
            plan.has_handles = True  # behind a class, say: counted per message, so it must be in the message
            return 0
        plan.code_id = self._store(BY_VALUE + payload)
        if plan.code_id:
            self._ids_of_code[fn.__code__] = used + 1
        return plan.code_id

    def _store(self, blob: bytes) -> int:
        code_id = self._register(blob)
        if not code_id:
            self._full = True  # its places are never given back
        return code_id


def load(blob: bytes) -> Callable[..., Any]:
    """Return the function of a blob, in the worker.

    Raises:
        ImportError: its module, or the name in it, is not there in this process.
        wire.DecodeError: the blob is none, or what it captured can't be made here.
    """
    kind, rest = blob[:1], blob[1:]
    if kind == BY_REFERENCE:
        return _import(rest.decode())
    if kind != BY_VALUE:
        raise wire.DecodeError(f"not the code of a function: it begins with {kind!r}")
    try:
        fn = pickle.loads(rest)
    except Exception as error:
        raise wire.DecodeError(
            f"goroutine function can't be rebuilt in the worker: {type(error).__name__}: {error}"
        ) from error
    if not callable(fn):
        raise wire.DecodeError(f"not the code of a function: a {type(fn).__name__} came out")
    return fn  # type: ignore[no-any-return]


def _import(name: str) -> Callable[..., Any]:
    module_name, _, qualname = name.partition(":")
    try:
        return byname.resolve(importlib.import_module(module_name), qualname)  # type: ignore[no-any-return]
    except Exception as error:
        raise ImportError(
            f"goroutine function {name!r} can't be imported in the worker: {type(error).__name__}: {error}",
            name=module_name,
        ) from error


# -------------------------------------------------------------------------------------------------- freshness of values


class _Plan:
    """What a by-value function captured, and whether that is still so.

    Attributes:
        function: weak reference to the function it was made for.
        fixed: everything it reaches is immutable, and it assigns to nothing of it.
        names: (namespace, name, value): the globals, keyword defaults and attributes of all functions it reaches.
        cells: (cell, value) of the variables that these functions captured.
        functions: (function, code, defaults, keyword defaults, number of attributes), itself first.
        code_id: its number, or 0.
    """

    __slots__ = (
        "cells",
        "code",
        "code_id",
        "fixed",
        "function",
        "functions",
        "has_handles",
        "names",
        "own_defaults",
        "own_globals",
    )

    def __init__(
        self, fn: types.FunctionType, forget: Callable[[weakref.ref[types.FunctionType]], None] | None = None
    ) -> None:
        self.function = weakref.ref(fn, forget)
        self.code = fn.__code__
        self.code_id = 0
        self.has_handles = False
        self.names: list[tuple[dict[str, Any], str, Any]] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self.functions: list[tuple[Any, types.CodeType, Any, Any, int]] = []
        self.fixed = _Walk(self, fn).run()
        # What a fresh function object of the same code is compared by.
        self.own_globals = fn.__globals__
        self.own_defaults = fn.__defaults__

    def holds(self) -> bool:
        """Tell whether all is as it was when the plan was made."""
        # Cost: 0.9 us for a function of 5 globals (tests/codec/bench_codec.py)
        fn = self.function()
        for namespace, name, value in self.names:
            now = namespace.get(name, _ABSENT)
            if now is not value and not (value is _ITSELF and now is fn):
                return False
        try:
            for cell, value in self.cells:
                now = cell.cell_contents
                if now is not value and not (value is _ITSELF and now is fn):
                    return False
        except ValueError:
            return False  # a cell that was emptied
        for one, code, defaults, kwdefaults, attributes in self.functions:
            if one is _ITSELF:
                if fn is None:
                    return False
                one = fn
            if (
                one.__code__ is not code
                or one.__defaults__ is not defaults
                or one.__kwdefaults__ is not kwdefaults
                or len(one.__dict__) != attributes
                or (kwdefaults is not None and len(kwdefaults) != _count(self.names, kwdefaults))
            ):
                return False
        return True

    def captured_same(self, other: _Plan) -> bool:
        """Tell whether `other`, of a fresh function of the same code, would be pickled to the same bytes."""
        return (
            self.code is other.code
            and self.own_globals is other.own_globals
            and _same_values(self.own_defaults or (), other.own_defaults or ())
            and self._same_reach(other)
        )

    def _same_reach(self, other: _Plan) -> bool:
        """Compare what lies behind the function itself; its own keyword defaults too (a dict of each object's own)."""
        if (len(self.names), len(self.cells), len(self.functions)) != (
            len(other.names),
            len(other.cells),
            len(other.functions),
        ):
            return False
        for mine, theirs in zip(self.functions, other.functions, strict=True):
            if mine[0] is not theirs[0] or mine[1] is not theirs[1] or mine[4] != theirs[4]:
                return False
            if mine[0] is not _ITSELF and (mine[2] is not theirs[2] or mine[3] is not theirs[3]):
                return False
        for (_, name, value), (_, other_name, other_value) in zip(self.names, other.names, strict=True):
            if name != other_name or not _is_same_value(value, other_value):
                return False
        return all(_is_same_value(mine[1], theirs[1]) for mine, theirs in zip(self.cells, other.cells, strict=True))


class _Walk:
    """Fills a plan: everything that pickling the function would reach."""

    def __init__(self, plan: _Plan, root: types.FunctionType) -> None:
        self.plan = plan
        self.root = root
        self.seen: set[int] = set()

    def run(self) -> bool:
        return self.function(self.root, 0)

    def function(self, fn: types.FunctionType, depth: int) -> bool:
        """Note all that `fn` captures; False if some of it may change."""
        if id(fn) in self.seen:
            return True
        self.seen.add(id(fn))
        plan, code = self.plan, fn.__code__
        names, _, assigns = uses(code)
        if assigns or depth > MAX_DEPTH:
            return False
        kept = _ITSELF if fn is self.root else fn
        plan.functions.append((kept, code, fn.__defaults__, fn.__kwdefaults__, len(fn.__dict__)))
        for value in fn.__defaults__ or ():
            if not self.value(value, depth):
                return False
        for namespace, keys in ((fn.__globals__, names), (fn.__kwdefaults__ or {}, None), (fn.__dict__, None)):
            for name in list(namespace) if keys is None else keys:
                value = namespace.get(name, _ABSENT)
                plan.names.append((namespace, name, self.kept(value)))
                # Absent: a builtin, or not defined yet. Either way a later definition is seen.
                if value is not _ABSENT and not self.value(value, depth):
                    return False
        for cell, value in zip(fn.__closure__ or (), _cell_values(fn), strict=True):
            if value is _ABSENT or not self.value(value, depth):
                return False
            plan.cells.append((cell, self.kept(value)))
        return True

    def kept(self, value: Any) -> Any:
        # A plan that held its own function would keep it alive.
        return _ITSELF if value is self.root else value

    def value(self, value: Any, depth: int) -> bool:
        """Tell whether a captured value is fixed."""
        t = type(value)
        if t in _SCALARS:
            return t is not int or value.bit_length() <= 8 * MAX_CONSTANT_BYTES
        if t is str or t is bytes:
            return len(value) <= MAX_CONSTANT_BYTES
        if t is tuple or t is frozenset:
            return (
                depth < MAX_DEPTH
                and len(value) <= MAX_CONSTANT_BYTES // 16
                and all(self.value(item, depth + 1) for item in value)
            )
        if t is types.FunctionType:
            return byname.is_by_name(value) or self.function(value, depth + 1)
        if t is types.ModuleType:
            return byname.module_is_importable(value)
        if t is types.BuiltinFunctionType:
            return byname.is_by_name(value)
        # A class counts as fixed also where it travels by value (its attributes: codec/classes.py); enum members are
        # theirs.
        return issubclass(t, (type, enum.Enum))


def _cell_values(fn: types.FunctionType) -> list[Any]:
    values = []
    for cell in fn.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            values.append(_ABSENT)
    return values


def _is_same_value(a: Any, b: Any) -> bool:
    """Identical, or equal where equality can't hide a difference (not 1 == True, not 0.0 == -0.0)."""
    return a is b or (type(a) is type(b) and type(a) in (str, bytes, int) and a == b)


def _same_values(these: tuple[Any, ...], those: tuple[Any, ...]) -> bool:
    return len(these) == len(those) and all(map(_is_same_value, these, those))


def _count(names: list[tuple[dict[str, Any], str, Any]], namespace: dict[str, Any]) -> int:
    return sum(1 for entry in names if entry[0] is namespace)


def _keep(plans: OrderedDict[int, _Plan], key: int, plan: _Plan) -> None:
    plans[key] = plan
    plans.move_to_end(key)
    if len(plans) > MAX_PLANS:
        plans.popitem(last=False)
