"""Can another process get this function, class or module by importing it?

A worker never runs the user's ``__main__``, and what was made at run time exists in one process only. So a name is
good only if the import system, asked again, would find the same module, and the module holds this very object there.
A wrong "no" costs time (the object travels by value), a wrong "yes" an error in the worker: in doubt the answer is no.
"""

from __future__ import annotations

import os
import sys
import types
from importlib.machinery import PathFinder
from typing import Any

__all__ = ["is_by_name", "look_in", "module_is_importable", "name_of", "resolve"]

#: Modules that every process has its own of.
MAIN_MODULES = frozenset({"__main__", "__mp_main__"})

#: Whoever decodes has this package, however it came by it; and its own functions rebuild the rest.
OURS = __name__.partition(".")[0] + "."

# Py_TPFLAGS_HEAPTYPE: a class without it is C data of its module and can't travel by value at all.
_HEAP_TYPE = 1 << 9

# By id, with the object itself, which therefore keeps its id. No user's __hash__ or __eq__ runs. Only what was found
# in an importable module gets in, and that lives as long as its module.
_found: dict[int, tuple[object, tuple[str, str]]] = {}
# By name, with the module: one of the same name may replace it.
_modules: dict[str, tuple[types.ModuleType, bool]] = {}
# Where the workers look for modules, if they were not started by this process and may look elsewhere.
_workers_path: list[str] | None = None
_same_environment = True
# Folders of installed packages: the same package in another environment of this Python version is the same package.
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def look_in(path: list[str] | None, same_environment: bool = True) -> None:
    """From now on, ask whether workers that search `path` find a module; None: workers that search as we do.

    Args:
        same_environment: they have the finders of our environment (of editable installations, say).
    """
    global _same_environment, _workers_path
    _workers_path, _same_environment = path, same_environment
    _found.clear()
    _modules.clear()


def is_by_name(obj: Any) -> bool:
    """Tell whether `obj` (a function, a class, a class's method) can be imported elsewhere."""
    return id(obj) in _found or name_of(obj) is not None


def name_of(obj: Any) -> tuple[str, str] | None:
    """Return ``(module, qualified name)`` under which any process can import `obj`, or None."""
    known = _found.get(id(obj))
    if known is not None:
        return known[1]
    try:
        module_name, qualname = _claimed_name(obj)
    except AttributeError:
        return None
    if not isinstance(module_name, str) or not isinstance(qualname, str):
        return None
    if module_name in MAIN_MODULES or "<" in qualname:
        return None
    module = sys.modules.get(module_name)
    if module is None:
        return None
    try:
        same = _is_same(resolve(module, qualname), obj)
    except AttributeError:
        return None
    if not same or not (_has_no_value(obj) or module_is_importable(module)):
        return None
    if not isinstance(obj, types.MethodType):
        # A bound method is made anew at each access: kept here it would only ever grow the table.
        _found[id(obj)] = obj, (module_name, qualname)
    return module_name, qualname


def resolve(module: types.ModuleType, qualname: str) -> Any:
    """Follow a dotted name from `module`; AttributeError where it ends."""
    obj: Any = module
    for part in qualname.split("."):
        obj = getattr(obj, part)
    return obj


def module_is_importable(module: types.ModuleType) -> bool:
    """Tell whether importing that module's name elsewhere would find the same file.

    Asks the finders and not ``importlib.util.find_spec``: that looks in ``sys.modules`` first, so it always says yes.
    """
    name = module.__name__
    if name.startswith(OURS):
        return True
    known = _modules.get(name)
    if known is not None and known[0] is module:
        return known[1]
    answer = sys.modules.get(name) is module and name not in MAIN_MODULES and _finders_find(module)
    _modules[name] = module, answer
    return answer


def _claimed_name(obj: Any) -> tuple[Any, Any]:
    if isinstance(obj, types.MethodType):
        # A class method: its own __qualname__ names the class that defines it, which may be a base of this one.
        owner = obj.__self__
        if not isinstance(owner, type):
            return None, None
        return owner.__module__, f"{owner.__qualname__}.{obj.__name__}"
    return obj.__module__, obj.__qualname__


def _is_same(found: Any, obj: Any) -> bool:
    if isinstance(obj, types.MethodType):
        return isinstance(found, types.MethodType) and (
            found.__func__ is obj.__func__ and found.__self__ is obj.__self__
        )
    return found is obj


def _has_no_value(obj: Any) -> bool:
    """C functions and C classes: their name is all that can travel, whatever their module looks like."""
    if isinstance(obj, type):
        return not obj.__flags__ & _HEAP_TYPE
    return isinstance(obj, types.BuiltinFunctionType)


def _finders_find(module: types.ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    parent, _, _ = spec.name.rpartition(".")
    path = None
    if parent:
        package = sys.modules.get(parent)
        if package is None or not module_is_importable(package):
            return False
        path = getattr(package, "__path__", None)
        if path is None:
            return False
    if _workers_path is not None and not parent:
        if spec.name in sys.stdlib_module_names:
            return True
        found = PathFinder.find_spec(spec.name, _workers_path)
        if found is not None:
            return _same_origin(found.origin, spec.origin) or _both_installed(found.origin, spec.origin)
        if not _same_environment:
            return False
    for finder in sys.meta_path:
        if finder is PathFinder and _workers_path is not None and not parent:
            continue
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is None:
            continue
        try:
            found = find_spec(spec.name, path)
        except Exception:  # a finder of somebody else's; what fails here would fail there
            continue
        if found is not None:
            return _same_origin(found.origin, spec.origin)
    return False


def _both_installed(found: str | None, known: str | None) -> bool:
    return all(origin is not None and any(part in origin for part in _INSTALLED) for origin in (found, known))


def _same_origin(found: str | None, known: str | None) -> bool:
    if found == known:
        return True
    return found is not None and known is not None and os.path.realpath(found) == os.path.realpath(known)
