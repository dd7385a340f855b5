"""What the demo finds out about Python source: pure functions over one file, and the report they add up to.

No goroutine, no channel: the plain process that the demo compares itself with runs exactly these functions.
What is measured:

* code, comment, documentation and blank lines (every line is one of them; a docstring's lines are documentation, the
  lines inside any other string are code);
* functions and classes; the cyclomatic complexity of each function after McCabe: 1, and 1 more for each ``if``,
  ``elif``, loop, ``except``, conditional expression, comprehension and ``if`` in it, further operand of ``and`` and
  ``or``, and ``case`` other than a bare ``_``. A function inside a function counts for itself alone;
* how many files import a top-level module.

Twin: docs/examples/analyse.py, the same in the form to learn from; tests/tools/test_analysis.py holds them together.
"""

from __future__ import annotations

import ast
import io
import os
import stat
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Not the code of the folder that was named: installed or generated. A folder that *is* named is always read.
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})

# A function as it travels in a message: complexity, qualified name, line.
Function = tuple[int, str, int]
# The message about one file: see `analyse_file`. Plain, so that it stays small and cheap to encode.
Measures = dict[str, Any]

_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# What `_note` has something to say about; the first line are plain decisions.
_NOTED = frozenset(
    {ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler}
    | {ast.BoolOp, ast.comprehension, ast.match_case}
    | {ast.Import, ast.ImportFrom, ast.Constant, ast.JoinedStr}
)


def find_files(folders: Iterable[str], on_error: Callable[[str, str], None]) -> Iterator[str]:
    """Yield the path of each ``*.py`` below `folders`, each file once.

    ``on_error(path, reason)`` is called for a folder that can't be read.
    Hidden folders, ``SKIPPED_FOLDERS`` and links to folders are passed over, as os.walk does with links.
    """
    seen: set[tuple[int, int]] = set()
    todo = list(reversed(list(folders)))
    while todo:
        folder = todo.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:  # one folder given twice, or one inside another
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            on_error(folder, _reason(error))
            continue
        for entry in found:
            if entry.name.endswith(".py") and not entry.is_dir(follow_symlinks=False):
                yield entry.path
        todo.extend(
            entry.path
            for entry in reversed(found)
            if entry.is_dir(follow_symlinks=False)
            and not entry.name.startswith(".")
            and entry.name not in SKIPPED_FOLDERS
        )


def read_source(path: str) -> bytes:
    """Return the bytes of a regular file (a FIFO called ``x.py`` would block for ever).

    Raises:
        OSError: it can't be read, or is no regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")
    with open(path, "rb") as file:
        return file.read()


def analyse_file(path: str, top: int = 10) -> Measures:
    """Measure one file; never raises for what a file may hold.

    Returns a dict with ``path`` and ``error`` (a reason, or None), and without an error ``lines`` (code, comment,
    documentation, blank), ``functions`` and ``classes`` (how many), ``complexity`` (of all functions together),
    ``worst`` (the `top` most complex functions) and ``imports`` (names of top-level modules).
    """
    try:
        source = _decode(read_source(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is not what we were asked about
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, LookupError, RecursionError, MemoryError) as error:
        return {"path": path, "error": _reason(error)}
    facts = _walk(tree)
    return {
        "path": path,
        "error": None,
        "lines": _count_lines(source, facts),
        "functions": len(facts.functions),
        "classes": facts.classes,
        "complexity": sum(f[0] for f in facts.functions),
        "worst": sorted(facts.functions, key=by_complexity)[:top],
        "imports": sorted(facts.imports),
    }


def by_complexity(function: Function) -> tuple[int, str, int]:
    """Sort key: the most complex first, and always the same order."""
    return (-function[0], function[1], function[2])


def _decode(data: bytes) -> str:
    """Decode as the compiler does: byte order mark, coding cookie (PEP 263), else UTF-8; newlines become ``\\n``."""
    buffer = io.BytesIO(data)
    encoding, _ = tokenize.detect_encoding(buffer.readline)
    buffer.seek(0)
    with io.TextIOWrapper(buffer, encoding, newline=None) as text:
        return text.read()


def _reason(error: BaseException) -> str:
    """Say in one line, without the path, why a file or folder is not in the report."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(slots=True)
class _Facts:
    """What one walk over a syntax tree finds; spans are first and last line, both included."""

    functions: list[Function] = field(default_factory=list)
    classes: int = 0
    imports: set[str] = field(default_factory=set)
    docstrings: list[tuple[int, int]] = field(default_factory=list)
    long_strings: list[tuple[int, int]] = field(default_factory=list)


def _walk(tree: ast.Module) -> _Facts:
    """Walk scope by scope, by lists of our own: the recursion limit must not decide which file can be measured."""
    facts = _Facts()
    scopes: list[tuple[_Scope, str]] = [(tree, "")]
    while scopes:
        scope, prefix = scopes.pop()
        complexity = 1
        nodes = _children(scope)
        while nodes:
            node = nodes.pop()
            if isinstance(node, _DEFINITIONS):
                scopes.append((node, f"{prefix}{node.name}."))
                continue
            if type(node) in _NOTED:
                complexity += _note(node, facts)
            nodes += _children(node)
        if isinstance(scope, ast.ClassDef):
            facts.classes += 1
        elif not isinstance(scope, ast.Module):
            facts.functions.append((complexity, prefix[:-1], scope.lineno))
        first = scope.body[0] if scope.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            facts.docstrings.append((first.lineno, first.end_lineno or first.lineno))
    return facts


def _children(node: ast.AST) -> list[ast.AST]:
    """Return the nodes right below `node`; ast.iter_child_nodes would take longer than the parser."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if type(value) is list:
            found += [child for child in value if isinstance(child, ast.AST)]
        elif isinstance(value, ast.AST) and type(value) is not ast.Load:
            found.append(value)
    return found


def _note(node: ast.AST, facts: _Facts) -> int:
    """Enter one node in `facts`; return how many decisions it is."""
    match node:
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.match_case():
            return 0 if _is_wildcard(node) else 1
        case ast.Import():
            facts.imports.update(alias.name.partition(".")[0] for alias in node.names)
            return 0
        case ast.ImportFrom():
            if node.module and not node.level:
                facts.imports.add(node.module.partition(".")[0])
            return 0
        case ast.Constant() | ast.JoinedStr():
            if node.end_lineno and node.end_lineno > node.lineno:
                facts.long_strings.append((node.lineno, node.end_lineno))
            return 0
        case _:
            return 1  # an `if`, a loop, ...


def _is_wildcard(case: ast.match_case) -> bool:
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def _count_lines(source: str, facts: _Facts) -> dict[str, int]:
    lines = source.split("\n")
    if not lines[-1]:
        lines.pop()
    documentation = {n for first, last in facts.docstrings for n in range(first, last + 1)}
    in_string = {n for first, last in facts.long_strings for n in range(first, last + 1)}
    code = comment = blank = 0
    for number, line in enumerate(lines, 1):
        if number in documentation:
            continue
        text = line.strip()
        if number in in_string:
            code += 1
        elif not text:
            blank += 1
        elif text[0] == "#":
            comment += 1
        else:
            code += 1
    return {"code": code, "comment": comment, "documentation": len(documentation), "blank": blank}


class Report:
    """The measures of many files, merged.

    Attributes:
        files: how many were measured.
        unparsable: path and reason of those that were not.
    """

    def __init__(self, folders: Iterable[str], top: int = 10) -> None:
        self._folders = sorted(folders, key=len, reverse=True)  # of two that hold a path, the inner one names it
        self._top = top
        self.files = 0
        self.lines: Counter[str] = Counter()
        self.functions = 0
        self.classes = 0
        self.complexity = 0
        self.worst: list[tuple[int, str, int, str]] = []
        self.imports: Counter[str] = Counter()
        self.packages: dict[str, Counter[str]] = {}
        self.unparsable: list[tuple[str, str]] = []

    def add(self, measures: Measures) -> None:
        """Merge one message of `analyse_file`; the order in which files come makes no difference."""
        path = measures["path"]
        if measures["error"] is not None:
            self.unparsable.append((path, measures["error"]))
            return
        self.files += 1
        self.lines.update(measures["lines"])
        self.functions += measures["functions"]
        self.classes += measures["classes"]
        self.complexity += measures["complexity"]
        self.imports.update(measures["imports"])
        name = self.name(path)
        package = self.packages.setdefault(name.partition(os.sep)[0].removesuffix(".py"), Counter())
        package["files"] += 1
        package["code"] += measures["lines"]["code"]
        package["functions"] += measures["functions"]
        package["complexity"] += measures["complexity"]
        worst = [*self.worst, *((c, function, line, name) for c, function, line in measures["worst"])]
        self.worst = sorted(worst, key=lambda f: (-f[0], f[3], f[2]))[: self._top]

    def name(self, path: str) -> str:
        """Return `path` as it is called inside the folder that holds it."""
        for folder in self._folders:
            prefix = folder.rstrip(os.sep) + os.sep
            if path.startswith(prefix):
                return path[len(prefix) :]
        return path

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, equal for equal sets of files."""
        packages = sorted(self.packages.items(), key=lambda item: (-item[1]["code"], item[0]))
        imports = sorted(self.imports.items(), key=lambda item: (-item[1], item[0]))
        return {
            "files": self.files,
            "lines": {kind: self.lines[kind] for kind in ("code", "comment", "documentation", "blank")},
            "functions": self.functions,
            "classes": self.classes,
            "complexity": self.complexity,
            "packages": [{"name": name, **counts} for name, counts in packages],
            "complex_functions": [
                {"function": function, "file": name, "line": line, "complexity": complexity}
                for complexity, function, line, name in self.worst
            ],
            "imports": [{"module": module, "files": files} for module, files in imports[: self._top]],
            "unparsable": [{"path": path, "reason": reason} for path, reason in sorted(self.unparsable)],
        }
