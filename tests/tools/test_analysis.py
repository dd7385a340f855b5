"""What one file is measured to be, which files are found, and that the example of the docs says the same."""

import importlib.util
import os
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from mproc_go.tools.analysis import Report, analyse_file, find_files

ROOT = Path(__file__).resolve().parents[2]

SOURCE = '''\
"""Module.

Of three lines, one blank."""

import os, sys
import os.path
from collections.abc import Iterable
from . import sibling

# a comment
TEXT = """
# not a comment

"""


class C:
    """Doc."""

    def method(self, a, b):
        if a and b or self:
            return [x for x in a if x]
        elif a:
            for _ in b:
                pass

        def inner():
            while True:
                try:
                    pass
                except OSError:
                    return 1 if a else 2
        return inner


async def f(x):
    async for y in x:
        match y:
            case 1:
                pass
            case _ if y:
                pass
            case _:
                pass
'''


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def found(*folders):
    problems = []
    paths = list(find_files([str(f) for f in folders], lambda folder, reason: problems.append((folder, reason))))
    return paths, problems


# ---- one file ----


def test_measures_of_a_file(tmp_path):
    path = write(tmp_path, "a.py", SOURCE)
    measures = analyse_file(path)
    lines = SOURCE.count("\n")
    assert measures["path"] == path
    assert measures["error"] is None
    assert sum(measures["lines"].values()) == lines
    assert measures["lines"]["documentation"] == 4
    assert measures["lines"]["comment"] == 1
    assert measures["lines"]["blank"] == 8
    assert (measures["functions"], measures["classes"]) == (3, 1)
    assert measures["imports"] == ["collections", "os", "sys"]
    # method: if, `and`, `or`, comprehension, its if, elif, for. inner: while, except, conditional expression.
    # f: async for, case 1, case with a guard.
    assert measures["worst"] == [(8, "C.method", 20), (4, "C.method.inner", 27), (4, "f", 36)]
    assert measures["complexity"] == 16


def test_top_limits_what_is_sent_and_not_what_is_counted(tmp_path):
    measures = analyse_file(write(tmp_path, "a.py", SOURCE), top=1)
    assert measures["worst"] == [(8, "C.method", 20)]
    assert measures["functions"] == 3


@pytest.mark.parametrize(
    ("content", "code", "blank"),
    [
        (b"", 0, 0),
        (b"x = 1", 1, 0),
        (b"x = 1\r\n\r\ny = 2\r\n", 2, 1),
        (b"\xef\xbb\xbfx = 1\n", 1, 0),
        (b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", 1, 0),
        (b"x = 1\n\x0c\ny = 2\n", 2, 1),  # a form feed ends no line
        (b"x = f'''\n\n{1}'''\n", 3, 0),
    ],
)
def test_lines_are_those_of_the_compiler(tmp_path, content, code, blank):
    lines = analyse_file(write(tmp_path, "a.py", content))["lines"]
    assert (lines["code"], lines["blank"]) == (code, blank)


def test_invalid_escape_is_no_warning_and_no_failure(tmp_path):
    assert analyse_file(write(tmp_path, "a.py", "x = '\\d'\n"))["error"] is None  # filterwarnings is error


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def f(:\n", "SyntaxError: "),
        (b"x = 1\0\n", "null bytes"),
        (b"x = '\xff\xfe'\n", "SyntaxError: "),
        (b"# -*- coding: latin-1 -*-\nx = (\n", "(line 2)"),
        (b"# -*- coding: no-such -*-\n", "SyntaxError: unknown encoding: no-such"),
        (b"# -*- coding: hex -*-\n", "LookupError: "),
        (b"# -*- coding: utf-16 -*-\nx = 1\n", "Error: "),
        (b"(" * 100_000, "Error"),
        (b"-" * 200_000 + b"1", "Error"),
        (b"x = " + b"9" * 10_000, "SyntaxError: "),
    ],
    ids=["syntax", "null", "bytes", "open", "encoding", "codec", "utf16", "brackets", "deep", "digits"],
)
def test_what_does_not_parse_has_a_reason_in_one_line(tmp_path, content, reason):
    measures = analyse_file(write(tmp_path, "a.py", content))
    assert set(measures) == {"path", "error"}
    assert reason in measures["error"]
    assert "\n" not in measures["error"]


def test_deep_code_that_parses_is_measured(tmp_path):
    """The parser's limit decides, not the recursion limit of who walks the tree."""
    deep = "x = " + "a." * 900 + "b\n"
    assert analyse_file(write(tmp_path, "a.py", deep))["error"] is None


def test_what_cannot_be_read_has_a_reason(tmp_path):
    missing = str(tmp_path / "missing.py")
    assert analyse_file(missing) == {"path": missing, "error": "No such file or directory"}
    fifo = str(tmp_path / "fifo.py")
    os.mkfifo(fifo)
    assert analyse_file(fifo)["error"] == "not a regular file"


@pytest.fixture
def nobody_folder():
    """A folder that the test sees as a user who is not root, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        try:
            yield Path(folder), lambda: os.seteuid(65534) if os.geteuid() == 0 else None
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            os.chmod(folder, 0o755)
            for entry in Path(folder).iterdir():
                entry.chmod(0o755)


def test_no_permission_is_a_reason(nobody_folder):
    folder, become_nobody = nobody_folder
    path = write(folder, "a.py", SOURCE)
    write(folder, "locked/b.py", SOURCE)
    os.chmod(path, 0)
    os.chmod(folder / "locked", 0)
    become_nobody()
    assert analyse_file(path) == {"path": path, "error": "Permission denied"}
    assert found(folder) == ([path], [(str(folder / "locked"), "Permission denied")])


# ---- which files ----


def test_files_are_found_in_order_and_once(tmp_path):
    for name in ("b.py", "a.py", "z/c.py", "z/y/d.py", "n.txt", "z/py"):
        write(tmp_path, name, "")
    names = ["a.py", "b.py", "z/c.py", "z/y/d.py"]
    paths, problems = found(tmp_path, tmp_path / "z", tmp_path)
    assert [os.path.relpath(p, tmp_path) for p in paths] == names
    assert problems == []


def test_installed_hidden_and_generated_folders_are_passed_over_unless_named(tmp_path):
    for name in ("__pycache__/a.py", "site-packages/a.py", ".git/a.py", "node_modules/a.py", "ok/a.py"):
        write(tmp_path, name, "")
    assert found(tmp_path)[0] == [str(tmp_path / "ok/a.py")]
    assert found(tmp_path / "site-packages")[0] == [str(tmp_path / "site-packages/a.py")]


def test_links_that_lead_nowhere_or_round_in_circles(tmp_path):
    real = write(tmp_path, "real/a.py", SOURCE)
    (tmp_path / "real/up").symlink_to(tmp_path)
    (tmp_path / "self.py").symlink_to(tmp_path / "self.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    paths, problems = found(tmp_path)
    assert paths == [str(tmp_path / "gone.py"), str(tmp_path / "self.py"), real]
    assert problems == []
    assert analyse_file(paths[0])["error"] == "No such file or directory"
    assert "symbolic links" in analyse_file(paths[1])["error"]
    assert found(tmp_path / "loop")[1] != []


def test_a_folder_called_py_is_a_folder(tmp_path):
    inner = write(tmp_path, "x.py/a.py", "")
    assert found(tmp_path) == ([inner], [])


# ---- the report ----


def test_report_does_not_depend_on_the_order(tmp_path):
    for n in range(6):
        write(tmp_path, f"pkg{n % 2}/m{n}.py", SOURCE * 1 + f"\nimport m{n}\n")
    write(tmp_path, "single.py", "def f(): pass\n")
    write(tmp_path, "bad.py", "(")
    measures = [analyse_file(p, 3) for p in found(tmp_path)[0]]
    one, other = Report([str(tmp_path)], 3), Report([str(tmp_path)], 3)
    for m in measures:
        one.add(m)
    for m in reversed(measures):
        other.add(m)
    report = one.as_dict()
    assert report == other.as_dict()
    assert report["files"] == 7
    assert [p["name"] for p in report["packages"]] == ["pkg0", "pkg1", "single"]
    assert [f["file"] for f in report["complex_functions"]] == ["pkg0/m0.py", "pkg0/m2.py", "pkg0/m4.py"]
    assert report["imports"][0] == {"module": "collections", "files": 6}
    assert [u["path"] for u in report["unparsable"]] == [str(tmp_path / "bad.py")]


def test_a_path_is_named_in_the_innermost_folder_given(tmp_path):
    report = Report([str(tmp_path), str(tmp_path / "src"), "/"])
    assert report.name(str(tmp_path / "src/a.py")) == "a.py"
    assert report.name(str(tmp_path / "other/a.py")) == "other/a.py"
    assert report.name("/etc/a.py") == "etc/a.py"


# ---- the example in docs/ ----


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("analyse", ROOT / "docs/examples/analyse.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example_measures_the_same(example, tmp_path):
    """On one package of the standard library, and on a file with everything."""
    package = os.path.join(sysconfig.get_path("stdlib"), "asyncio")
    write(tmp_path, "a.py", SOURCE)
    write(tmp_path, "form_feed.py", "x = 1\n\x0c\n")
    write(tmp_path, "empty.py", "")
    for path in found(package, tmp_path)[0]:
        ours, theirs = analyse_file(path), example.analyse(path)
        assert theirs["lines"] == {kind: n for kind, n in ours["lines"].items() if n}, path
        for name in ("functions", "complexity", "classes", "imports"):
            assert theirs[name] == ours[name], path
        assert [w[0] for w in theirs["worst"]] == [w[0] for w in ours["worst"]]


def test_example_reports_what_we_report(example, tmp_path):
    for name, content in (("bad.py", b"("), ("null.py", b"\0"), ("ff.py", b"'\xff'"), ("codec.py", b"# coding: hex\n")):
        path = write(tmp_path, name, content)
        assert analyse_file(path)["error"]
        assert example.analyse(path)["error"]
    os.mkfifo(tmp_path / "fifo.py")
    assert "not a regular file" in example.analyse(str(tmp_path / "fifo.py"))["error"]


def test_example_merges_as_we_merge(example, tmp_path):
    paths = [write(tmp_path, f"m{n}.py", SOURCE) for n in range(3)] + [write(tmp_path, "bad.py", "(")]
    report = {"totals": Counter(), "lines": Counter(), "imports": Counter(), "worst": [], "failed": []}
    ours = Report([str(tmp_path)])
    for path in paths:
        example.merge(report, example.analyse(path))
        ours.add(analyse_file(path))
    assert +report["lines"] == +ours.lines
    assert report["imports"] == ours.imports
    assert report["totals"] == {"functions": ours.functions, "classes": ours.classes, "complexity": ours.complexity}
    assert [w[0] for w in report["worst"]] == [w[0] for w in ours.worst]
    assert [path for path, _ in report["failed"]] == [path for path, _ in ours.unparsable]
