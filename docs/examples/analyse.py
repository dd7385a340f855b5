"""Analyse Python source on all cores: python analyse.py [FOLDER]

A walker sends paths on a channel; a pool of goroutines, spread over all cores, parses the files; main merges what
they find. Nothing below knows about processes, locks or pickling, and `analyse` is an ordinary function.
"""

import ast
import os
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter

from mproc_go import Chan, WaitGroup, go, gomaxprocs, run

SKIPPED = {"__pycache__", "site-packages", "dist-packages", "node_modules"}
TOP = 10


# ---- the goroutines ----


def main(folder):
    paths, results = Chan(1024), Chan(1024)
    senders = WaitGroup()  # those who send on `results`
    senders.go(walk, folder, paths, results, senders)
    go(close_when_done, senders, results)

    report = {"totals": Counter(), "lines": Counter(), "imports": Counter(), "worst": [], "failed": []}
    for result in results:  # until it is closed and drained
        merge(report, result)
    return report


def walk(folder, paths, results, senders):
    pool = 2 * gomaxprocs()

    def failed(error):
        results.send({"path": error.filename, "error": str(error)})

    for parent, folders, files in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and name[0] != ".")
        for name in sorted(files):
            if name.endswith(".py"):
                paths.send(os.path.join(parent, name))
                if pool > 0:  # now that there is something to do: a worker stays on the core where it starts
                    senders.go(worker, paths, results)
                    pool -= 1
    paths.close()  # ends the `for path in paths` of every worker


def worker(paths, results):
    for path in paths:
        results.send(analyse(path))


def close_when_done(senders, results):
    senders.wait()
    results.close()


def merge(report, result):
    if "error" in result:
        report["failed"].append((result["path"], result["error"]))
        return
    for name in ("functions", "complexity", "classes"):
        report["totals"][name] += result[name]
    report["lines"].update(result["lines"])
    report["imports"].update(result["imports"])
    found = [(complexity, result["path"], name) for complexity, name in result["worst"]]
    report["worst"] = sorted(report["worst"] + found, reverse=True)[:TOP]


# ---- one file ----


def analyse(path):
    try:
        if not os.path.isfile(path):  # a FIFO would block for ever
            raise OSError("not a regular file")
        with tokenize.open(path) as file:  # decodes as Python does
            text = file.readlines()
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse("".join(text))
    except (OSError, SyntaxError, ValueError, LookupError, RecursionError, MemoryError) as error:
        return {"path": path, "error": f"{type(error).__name__}: {error}"}

    functions, classes, imports, docs, strings, scopes = [], 0, set(), set(), set(), [("", tree)]
    while scopes:
        prefix, scope = scopes.pop()
        complexity, nodes = 1, list(ast.iter_child_nodes(scope))
        while nodes:
            node = nodes.pop()
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                scopes.append((f"{prefix}{node.name}.", node))
                continue
            complexity += decisions(node)
            if isinstance(node, ast.Import):
                imports |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imports.add(node.module.partition(".")[0])
            elif isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno > node.lineno:
                strings |= set(range(node.lineno, node.end_lineno + 1))
            nodes += ast.iter_child_nodes(node)
        if isinstance(scope, ast.ClassDef):
            classes += 1
        elif scope is not tree:
            functions.append((complexity, prefix[:-1]))
        first = scope.body[0] if scope.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            docs |= set(range(first.lineno, first.end_lineno + 1))

    return {
        "path": path,
        "lines": dict(Counter(kind_of_line(n, line, docs, strings) for n, line in enumerate(text, 1))),
        "functions": len(functions),
        "complexity": sum(complexity for complexity, _ in functions),
        "worst": sorted(functions, reverse=True)[:TOP],
        "classes": classes,
        "imports": sorted(imports),
    }


def decisions(node):
    """How many ways `node` adds to those through its function (McCabe)."""
    match node:
        case ast.If() | ast.IfExp() | ast.For() | ast.AsyncFor() | ast.While() | ast.ExceptHandler():
            return 1
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.match_case(pattern=pattern, guard=guard):  # a bare `case _` is an else
            return 0 if isinstance(pattern, ast.MatchAs) and not pattern.pattern and not guard else 1
    return 0


def kind_of_line(number, line, docs, strings):
    text = line.strip()
    if number in docs or number in strings:
        return "documentation" if number in docs else "code"
    return "blank" if not text else "comment" if text.startswith("#") else "code"


if __name__ == "__main__":
    report = run(main, sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib"))
    for kind, count in report["lines"].most_common():
        print(f"{count:10,} {kind} lines")
    print(f"{report['totals']['functions']:10,} functions, complexity {report['totals']['complexity']:,}")
    print(f"{report['totals']['classes']:10,} classes")
    print(*(f"{complexity:10,} ways through {name} in {path}" for complexity, path, name in report["worst"]), sep="\n")
    print(*(f"{files:10,} files import {name}" for name, files in report["imports"].most_common(TOP)), sep="\n")
    print(*(f"    failed {path}: {reason}\n" for path, reason in report["failed"]), sep="", end="")
