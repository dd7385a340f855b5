"""The order of the layers, held against the imports; and a few house rules a reader relies on."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import mproc_go

ROOT = pathlib.Path(mproc_go.__file__).parent
REPO = ROOT.parent

# Package -> layer. Imports go to smaller numbers, or stay inside the package; packages of one layer are strangers.
LAYERS = {
    "errors": 0,
    "shm": 1,
    "codec": 2,
    "sched": 3,
    "observe": 4,
    "runtime": 5,
    "supervisor": 5,
    "chan": 6,
    "sync": 6,
    "lib": 7,
    "shared": 7,
    "context": 8,
    "zygote": 8,
    "tools": 9,
    "__main__": 10,
}
# The one thing that starts the other from outside the order: a program's end of the control socket, and its wire.
ALLOWED = {("runtime", "supervisor.control")}
# What a package may never import, whatever its layer, and why.
NEVER = {
    "supervisor": (
        {"greenlet", "cloudpickle", "pickle", "mproc_go.codec", "mproc_go.runtime"},
        "the supervisor never runs or unpickles what users sent, and has no goroutine of its own",
    ),
    "shm": ({"greenlet", "msgpack", "cloudpickle"}, "shared memory knows bytes and words only"),
    "sched": ({"greenlet", "cloudpickle"}, "scheduler structures never touch a greenlet or user code"),
    "codec": ({"greenlet", "posix_ipc"}, "values to bytes and back: no lock, no scheduling"),
}
TOOLS_ONLY = {"click", "rich"}


def modules():
    return sorted(path for path in ROOT.rglob("*.py"))


def package_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py") if len(relative.parts) == 1 else relative.parts[0]


def imports(path):
    """Modules a file imports at run time, wherever in it (``if TYPE_CHECKING`` does not count)."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "mproc_go" or (node.module.count(".") == 1 and node.module.startswith("mproc_go.")):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"
            else:
                yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    """A module imports from smaller layers only, and nothing its package may never import."""
    package = package_of(path)
    if package == "__init__":
        return  # the lazy facade: loads by name what is asked for
    assert package in LAYERS, f"{package} has no layer: add it to LAYERS, beside what it may import"
    forbidden, why = NEVER.get(package, (set(), ""))
    for name in imports(path):
        top = name.split(".")[0]
        for banned in forbidden:
            assert name != banned and not name.startswith(banned + "."), f"{path.name} imports {name}: {why}"
        assert top not in TOOLS_ONLY or package == "tools", (
            f"{path.name} imports {top}: only tools may, workers never do"
        )
        if top != "mproc_go" or name.count(".") < 1:
            continue
        target = name.split(".")[1]
        if target == package or target not in LAYERS:
            continue
        if any(package == ours and name.startswith(f"mproc_go.{theirs}") for ours, theirs in ALLOWED):
            continue
        assert LAYERS[target] < LAYERS[package], (
            f"{path.relative_to(ROOT)} (layer {LAYERS[package]}) imports {name} (layer {LAYERS[target]}): "
            "layers import only downwards"
        )


def test_every_module_says_what_it_is():
    """The first thing in a file is what it answers."""
    without = [str(path.relative_to(ROOT)) for path in modules() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not without


def test_every_public_name_is_there_and_documented():
    """`__all__` is the contract: each name resolves, and says what it does."""
    for name in mproc_go.__all__:
        value = getattr(mproc_go, name)
        assert getattr(value, "__doc__", None), f"mproc_go.{name} has no docstring"
    assert set(mproc_go.__all__) <= set(dir(mproc_go))


def test_workers_load_no_tools():
    """What a worker process imports has none of the command line's packages."""
    code = "import sys, mproc_go.zygote; print(*sorted({m.split('.')[0] for m in sys.modules} & {'click', 'rich'}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert out.stdout.strip() == ""


def test_the_supervisor_loads_nothing_of_the_users():
    """It outlives what users do because it has none of it: no greenlet, no codec, no runtime, no pickle of theirs."""
    code = (
        "import sys, mproc_go.supervisor.main; "
        "print(*sorted(m for m in sys.modules if m.startswith(('mproc_go.codec', 'mproc_go.runtime', 'mproc_go.chan',"
        " 'mproc_go.sync', 'mproc_go.lib')) or m.split('.')[0] in ('greenlet', 'cloudpickle', 'pickle')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert out.stdout.strip() == ""


def test_names_are_typed_as_they_are_loaded():
    """What type checkers see of mproc_go is what ``__all__`` promises, from the same homes."""
    typed = {}
    for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for line in node.body:
                assert isinstance(line, ast.ImportFrom), ast.unparse(line)
                typed.update({alias.asname: line.module for alias in line.names})
    assert typed == mproc_go._HOME


@pytest.mark.parametrize("package", sorted(path.parent.name for path in ROOT.glob("*/__init__.py")))
def test_every_package_says_what_it_may_import(package):
    """And what it may never do: the rules this file holds the imports against are written where one works."""
    text = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert "May import" in text and "May never" in text


def test_no_file_speaks_of_a_machine():
    """No path of somebody's machine in what is shipped."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=REPO)
    if listed.returncode:
        pytest.skip("not a git checkout")
    path = re.compile(r"/(?:home|work|root)/\w|/tmp/v\d")
    named = [
        name
        for name in listed.stdout.split()
        if (REPO / name).is_file()
        and path.search((REPO / name).read_text(errors="ignore"))
        and "test_layers" not in name
    ]
    assert not named


def test_layout_constants_fit_together():
    """The fixed tables of the memory map do not overlap."""
    layout = importlib.import_module("mproc_go.shm.layout")
    assert layout.SCHED + 64 <= layout.LOCKS
    assert layout.LOCKS + layout.N_LOCKS * layout.LOCK_WORDS <= layout.SLOTS
    assert layout.SLOTS + layout.MAX_SLOTS * layout.SLOT_WORDS <= layout.PS
    assert layout.PS + layout.MAX_PS * layout.P_WORDS <= layout.CODES
    assert layout.CODES + layout.CODES_ENTRY + layout.N_CODES <= layout.NAMES
    assert layout.NAMES + layout.N_NAMES <= layout.POOLS
    assert layout.POOLS + layout.N_POOLS * layout.POOL_WORDS <= layout.EXTENTS
    assert layout.EXTENTS + layout.EXTENTS_ENTRY + layout.N_EXTENTS * layout.EXTENT_WORDS <= layout.DYNAMIC
    assert layout.G_SUDOG + layout.SG_WORDS <= layout.G_WAITS_FOR
    assert layout.M_REG_PHASE < layout.SLOT_WORDS
    assert layout.MAX_SLOTS <= layout.HEAD_SLOT_MASK + 1
    fields = [v for n, v in vars(layout).items() if n.startswith("M_") and n not in ("M_AWAKE", "M_SLEEPING")]
    slot = [v for v in fields if v < layout.M_PHASE]
    assert len(slot) == len(set(slot)), "two fields of a slot are one word"
    scheds = [v for n, v in vars(layout).items() if n.startswith("S_") and n != "S_GOID_BATCH"]
    assert len(scheds) == len(set(scheds)), "two words of SCHED are one"
