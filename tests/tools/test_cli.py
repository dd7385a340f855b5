"""The command line as a shell sees it: stdout, stderr and exit status of real processes."""

import json
import os
import pty
import signal
import subprocess
import sys
import zipfile

import pytest

from mproc_go.tools.cli import VERBS
from mproc_go.tools.exits import one_line, printable

MPROC_GO = [sys.executable, "-m", "mproc_go"]


def mproc_go(*args, cwd=None, env=None, text=True):
    environ = {**os.environ, **(env or {})}
    return subprocess.run([*MPROC_GO, *args], capture_output=True, text=text, cwd=cwd, env=environ, timeout=50)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def assert_usage_error(done, *words):
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mproc-go: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    for word in words:
        assert word in done.stderr


# ---- the group ----


def test_version():
    done = mproc_go("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mproc-go ")


@pytest.mark.parametrize("module", ["rich", "greenlet", "posix_ipc", "mproc_go.tools.demo", "mproc_go.runtime"])
def test_version_loads_nothing_it_does_not_need(module):
    code = f"""
import sys
from mproc_go.tools.cli import main
try:
    main(["--version"])
except SystemExit:
    sys.exit({module!r} in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=50).returncode == 0


@pytest.mark.parametrize("args", [(), ("-h",), ("--help",)])
def test_help_lists_the_verbs_there_are(args):
    done = mproc_go(*args)
    assert (done.returncode, done.stderr) == (0, "")
    commands = done.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == list(VERBS)


@pytest.mark.parametrize("verb", ["run", "demo", "stress"])
def test_help_of_a_verb(verb):
    done = mproc_go(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: mproc-go {verb} ")
    assert "--procs N" in done.stdout


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("frobnicate",), "unknown command 'frobnicate'"),
        (("--frobnicate",), "--frobnicate"),
        (("demo", "--frobnicate"), "--frobnicate"),
        (("demo", "--procs", "0"), "--procs"),
        (("demo", "--procs", "-1"), "--procs"),
        (("demo", "--procs", "99999"), "--procs"),
        (("stress", "--procs", "99999"), "--procs"),
        (("stress", "--seconds", "nan"), "'nan' is no number"),
        (("stress", "--seconds", "-nan"), "no number"),
        (("stress", "--seconds", "inf"), "--seconds"),
        (("stress", "--seconds", "-1"), "--seconds"),
        (("run", "--procs", "99999", __file__), "--procs"),
        (("demo", "--procs", "two"), "'two'"),
        (("demo", "--procs"), "--procs"),
        (("demo", "--top", "0"), "--top"),
        (("demo", "no/such"), "no such folder: "),
        (("demo", __file__), "not a folder: "),
        (("run",), "SCRIPT"),
        (("run", "--procs", "0", __file__), "--procs"),
        (("run", "--procs"), "--procs"),
        (("run", "--frobnicate", __file__), "--frobnicate"),
        (("run", "no_such.py"), "no such file: no_such.py"),
        (("run", os.path.dirname(__file__)), "without __main__.py"),
        (("run", "-m"), "-m"),
        (("run", "-m", "no_such_module"), "'no_such_module'"),
        (("run", "-m", "json.no_such"), "'json.no_such'"),
        (("run", "-m", "no_such.module"), "'no_such.module'"),
        (("run", "-m", "json"), "'json'"),  # a package without __main__
        (("run", "-m", ".x"), "'.x'"),
        (("run", "evil\n\x1b[2J.py"), "\\x1b[2J.py"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(args, word):
    assert_usage_error(mproc_go(*args), word)


def test_printable_text_steers_no_terminal():
    assert printable("a\tb\x1b[2J\x07\x9b\udce9\n") == "a\tb\\x1b[2J\\x07\\x9b\\udce9\n"
    assert one_line(" a\n  b\r\nc ") == "a b c"


@pytest.mark.parametrize("args", ["--version", "--help", "ps", "gc"])
def test_output_that_nobody_takes(args, tmp_path):
    """A closed stdout is as /dev/null; a full disk is one line and status 1."""
    command = f"{sys.executable} -m mproc_go {args}"
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    for closed in (">&-", ">&- 2>&-", "2>&-"):
        done = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, env=environ, timeout=50)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (closed == "2>&-")
    done = subprocess.run(["sh", "-c", f"{command} >/dev/full"], stderr=subprocess.PIPE, text=True, env=environ, timeout=50)
    assert (done.returncode, done.stderr) == (1, "mproc-go: [Errno 28] No space left on device\n")


# ---- run: a script as Python would run it ----

SHOW = "import sys; print(__name__, sys.argv, sys.path[0])\n"


def test_script_sees_what_python_shows_it(tmp_path):
    script = write(tmp_path, "dir/show.py", SHOW)
    link = tmp_path / "link.py"
    link.symlink_to(script)
    for path in (script, link):
        done = mproc_go("run", str(path), "--procs", "x", "-h", "--", "-m")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"__main__ {[str(path), '--procs', 'x', '-h', '--', '-m']} {tmp_path / 'dir'}\n"


def test_relative_script_and_module_beside_it(tmp_path):
    write(tmp_path, "sub/beside.py", "x = 5\n")
    write(tmp_path, "sub/a.py", "import beside, sys; print(beside.x, sys.argv)\n")
    assert mproc_go("run", "--", "sub/a.py", "1", cwd=tmp_path).stdout == "5 ['sub/a.py', '1']\n"


def test_module_sees_what_python_shows_it(tmp_path):
    path = write(tmp_path, "pkg/show.py", SHOW)
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/__main__.py", "print('main of', __package__)\n")
    done = mproc_go("run", "-m", "pkg.show", "--procs", "x", "-h", "-m", "y", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"__main__ {[str(path), '--procs', 'x', '-h', '-m', 'y']} {tmp_path}\n"
    assert mproc_go("run", "-mpkg", cwd=tmp_path).stdout == "main of pkg\n"


def test_folder_and_zip_with_a_main(tmp_path):
    main = write(tmp_path, "app/__main__.py", "import sys, part; print(part.x, sys.path[0])\n")
    part = write(tmp_path, "app/part.py", "x = 7\n")
    assert mproc_go("run", str(tmp_path / "app")).stdout == f"7 {tmp_path / 'app'}\n"
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.write(main, "__main__.py")
        archive.write(part, "part.py")
    assert mproc_go("run", str(tmp_path / "app.pyz")).stdout == f"7 {tmp_path / 'app.pyz'}\n"


@pytest.mark.parametrize(
    ("code", "status", "stderr"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('gone')", 1, "gone\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_exit_status_is_the_scripts(tmp_path, code, status, stderr):
    done = mproc_go("run", str(write(tmp_path, "a.py", code)))
    assert (done.returncode, done.stdout, done.stderr) == (status, "", stderr)


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    1 / 0\n\nf()\n",
        "import json\njson.loads('{')\n",
        "def f(:\n",
        "import no_such_module\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('two') from e\n",
        "import click\nraise click.UsageError('of the script')\n",
        "import asyncio\nraise asyncio.CancelledError\n",
        "raise BrokenPipeError\n",
    ],
)
def test_traceback_is_the_one_python_shows(tmp_path, code):
    script = write(tmp_path, "a.py", code)
    done = mproc_go("run", str(script))
    plain = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert done.returncode == plain.returncode == 1
    assert done.stderr == plain.stderr


def test_traceback_of_a_module_and_of_its_package(tmp_path):
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/a.py", "1 / 0\n")
    write(tmp_path, "broken/__init__.py", "import no_such_module\n")
    done = mproc_go("run", "-m", "pkg.a", cwd=tmp_path)
    assert done.returncode == 1
    assert [x.split(",")[0] for x in done.stderr.splitlines() if "File" in x] == [f'  File "{tmp_path}/pkg/a.py"']
    done = mproc_go("run", "-m", "broken.a", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'no_such_module'\n")
    assert "mproc_go" not in done.stderr


def test_safe_path_of_python_is_kept(tmp_path):
    script = write(tmp_path, "a.py", "import sys; print(sys.path)\n")
    done = mproc_go("run", str(script), env={"PYTHONSAFEPATH": "1"})
    plain = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, timeout=50)
    assert done.stdout == plain.stdout


def test_excepthook_of_the_script_is_used(tmp_path):
    script = write(tmp_path, "a.py", "import sys\nsys.excepthook = lambda t, e, tb: print(t.__name__)\n1 / 0\n")
    done = mproc_go("run", str(script))
    assert (done.returncode, done.stdout, done.stderr) == (1, "ZeroDivisionError\n", "")


# ---- run: Go's ends of a program ----


def test_panic_error_ends_with_its_text_and_status_2(tmp_path):
    text = "Traceback (most recent call last):\n  File ...\nValueError: no"
    code = f"""
from mproc_go.errors import GoroutinePanic
print("before")
raise GoroutinePanic("ValueError: no", 7, {text!r})
"""
    done = mproc_go("run", str(write(tmp_path, "a.py", code)))
    assert (done.returncode, done.stdout) == (2, "before\n")
    assert done.stderr == f"panic: ValueError: no\n\ngoroutine 7 [running]:\n{text}\n"


def test_deadlock_error_is_a_fatal_error_and_status_2(tmp_path):
    code = """
from mproc_go.errors import Deadlock
raise Deadlock("all goroutines are asleep - deadlock!\\n\\ngoroutine 1 [chan receive]:")
"""
    done = mproc_go("run", str(write(tmp_path, "a.py", code)))
    assert done.returncode == 2
    assert done.stderr == "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\n"


def test_other_errors_of_ours_have_the_scripts_traceback(tmp_path):
    script = write(tmp_path, "a.py", "from mproc_go.errors import ChanClosed\nraise ChanClosed('x')\n")
    done = mproc_go("run", str(script))
    assert done.returncode == 1
    assert done.stderr.startswith(f'Traceback (most recent call last):\n  File "{script}", line 2, in <module>\n')
    assert done.stderr.endswith("mproc_go.errors.ChanClosed: x\n")


def test_uncaught_exception_of_a_goroutine_is_a_panic(tmp_path):
    code = """
from mproc_go import Chan, go, run

def fail():
    raise ValueError("no")

def main():
    ch = Chan()
    go(fail)
    ch.recv()

run(main)
"""
    script = write(tmp_path, "a.py", code)
    done = mproc_go("run", str(script))
    assert (done.returncode, done.stdout) == (2, "")
    head, _, rest = done.stderr.partition("\n\n")
    assert head == "panic: ValueError: no"
    assert rest.startswith("goroutine ")
    assert "[running]:\nTraceback (most recent call last):\n" in rest
    assert f'File "{script}", line 5, in fail' in rest
    assert rest.endswith("ValueError: no\n")


@pytest.mark.parametrize(
    "body", ["print(run(gomaxprocs))", "with Runtime(): print(gomaxprocs())", "print(go(gomaxprocs).result())"]
)
def test_procs_is_the_default_of_every_runtime(tmp_path, body):
    script = write(tmp_path, "a.py", f"from mproc_go import Runtime, go, gomaxprocs, run\n{body}\n")
    assert mproc_go("run", "--procs", "3", str(script)).stdout == "3\n"


def test_procs_of_the_script_goes_before_the_option(tmp_path):
    script = write(tmp_path, "a.py", "from mproc_go import gomaxprocs, run\nprint(run(gomaxprocs, procs=1))\n")
    assert mproc_go("run", "--procs", "3", str(script)).stdout == "1\n"


# ---- demo ----


@pytest.fixture
def tree(tmp_path):
    """Two packages, and everything that can be wrong with a file."""
    root = tmp_path / "tree"
    for n in range(12):
        write(root, f"pkg{n % 2}/m{n}.py", "import os\n\n# c\ndef f(x):\n    return 1 if x else 2\n")
    write(root, "bad.py", "def f(:\n")
    write(root, "null.py", b"x = 1\0\n")
    write(root, "latin.py", b"x = '\xe9'\n")
    os.mkfifo(root / "fifo.py")
    (root / "gone.py").symlink_to(root / "nowhere")
    (root / "pkg0/up").symlink_to(root)
    return root


BAD = ["bad.py", "fifo.py", "gone.py", "latin.py", "null.py"]


def test_demo_json_is_one_object_and_nothing_else(tree):
    done = mproc_go("demo", "--json", "--procs", "2", str(tree))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["folders"] == [str(tree)]
    assert found["procs"] == 2
    assert found["files"] == 12
    assert found["lines"] == {"code": 36, "comment": 12, "documentation": 0, "blank": 12}
    assert (found["functions"], found["classes"], found["complexity"]) == (12, 0, 24)
    assert found["packages"][0] == {"name": "pkg0", "files": 6, "code": 18, "functions": 6, "complexity": 12}
    assert len(found["complex_functions"]) == 10
    assert found["imports"] == [{"module": "os", "files": 12}]
    assert [u["path"] for u in found["unparsable"]] == [str(tree / name) for name in BAD]
    assert found["seconds"] > 0
    assert found["plain_seconds"] > 0
    assert found["speedup"] == pytest.approx(found["plain_seconds"] / found["seconds"], rel=0.05, abs=0.02)


def test_demo_tables_say_the_same(tree):
    done = mproc_go("demo", "--top", "1", str(tree))
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("Totals", "pkg0", "pkg0/m0.py:4", "os", "Not measured: 5", "No such file", "speed-up"):
        assert words in done.stdout, words
    assert "pkg1" not in done.stdout


def test_demo_without_comparison(tree):
    found = json.loads(mproc_go("demo", "--json", "--no-compare", str(tree)).stdout)
    assert (found["files"], found["plain_seconds"], found["speedup"]) == (12, None, None)
    assert "speed-up" not in mproc_go("demo", "--no-compare", str(tree)).stdout


def test_demo_of_relative_and_overlapping_folders(tree):
    done = mproc_go("demo", "--json", "pkg0", ".", "pkg1", cwd=tree)
    found = json.loads(done.stdout)
    assert (done.returncode, found["files"]) == (0, 12)
    assert found["folders"] == [str(tree / "pkg0"), str(tree), str(tree / "pkg1")]


def test_demo_of_names_that_are_no_text_or_steer_terminals(tmp_path):
    for name in (b"caf\xe9.py", b"\x1b[2J[red].py"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"(")
    done = mproc_go("demo", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "\\x1b[2J[red].py" in done.stdout
    assert "caf\\udce9.py" in done.stdout
    found = json.loads(mproc_go("demo", "--json", str(tmp_path)).stdout)
    assert os.fsencode(found["unparsable"][1]["path"]).endswith(b"caf\xe9.py")


def test_demo_of_an_empty_folder(tmp_path):
    assert_usage_error(mproc_go("demo", str(tmp_path)), f"no .py file in {tmp_path}")


def test_demo_shows_a_bar_on_a_terminal(tree):
    master, slave = pty.openpty()
    try:
        child = subprocess.Popen([*MPROC_GO, "demo", "--json", str(tree)], stdout=subprocess.PIPE, stderr=slave)
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
        out, _ = child.communicate(timeout=50)
    finally:
        os.close(master)
    assert child.returncode == 0
    assert json.loads(out)["files"] == 12
    assert b"goroutines" in shown
    assert b"17/17" in shown


def _read(fd):
    try:
        return os.read(fd, 65536)
    except OSError:  # EIO: the other side is closed
        return b""


def test_demo_interrupted_ends_with_130_and_no_traceback(tmp_path):
    """The reader of the bar sends the signal while files are analysed: order by what is shown, not by time."""
    for n in range(400):
        write(tmp_path, f"m{n}.py", "def f(x):\n    return x\n\n" * 400)
    master, slave = pty.openpty()
    try:
        child = subprocess.Popen(
            [*MPROC_GO, "demo", str(tmp_path)], stdout=subprocess.PIPE, stderr=slave, start_new_session=True
        )
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
            if b"goroutines" in shown and child.returncode is None:
                child.send_signal(signal.SIGINT)
                break
        while chunk := _read(master):
            shown += chunk
        out, _ = child.communicate(timeout=50)
    finally:
        os.close(master)
    assert (child.returncode, out) == (130, b"")
    assert b"Traceback" not in shown


def test_reader_that_leaves_is_no_traceback(tree):
    child = subprocess.Popen(
        [*MPROC_GO, "demo", "--json", str(tree)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(timeout=50) == 1
    child.stderr.close()
