"""Starting, entering and leaving runtimes; options; forks; what happens after the end."""

from __future__ import annotations

import os
import sys
import threading

import pytest

import mproc_go
from mproc_go import Chan, NotRunning, Runtime, WaitGroup, go, gomaxprocs, num_goroutine, run, sleep
from tests.lifecycle.support import Program, run_code


def three():
    return 3


# ------------------------------------------------------------ run
def test_run_returns_what_main_returns():
    """run passes arguments on and returns the value, by identity: main runs in this process."""
    thing = object()

    def main(*args):
        assert go(three).result() == 3
        return args, os.getpid(), threading.current_thread()

    args, pid, thread = run(main, thing, 2)
    assert args[0] is thing and args[1] == 2
    assert (pid, thread) == (os.getpid(), threading.current_thread())


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_run_raises_what_main_raises(error):
    """The very exception."""

    def main():
        go(sleep, 100)
        raise error

    with pytest.raises(type(error)) as caught:
        run(main)
    assert caught.value is error


def test_workers_load_this_library_from_where_the_program_did(tmp_path):
    """Also if that folder has left the path since, and another mproc_go is found there now."""
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    (here / "mproc_go").symlink_to(os.path.dirname(mproc_go.__file__))
    (other / "mproc_go").mkdir(parents=True)
    (other / "mproc_go/__init__.py").write_text("raise ImportError('the wrong one')")
    code = f"""
import sys
sys.path.insert(0, {str(here)!r})
import mproc_go.runtime.boot
sys.path[0] = {str(other)!r}

def where():
    import mproc_go.runtime.spawn
    return mproc_go.__file__, mproc_go.runtime.spawn.__file__, sys.path[0]

print(*mproc_go.run(lambda: mproc_go.go(where).result()), sep="\\n")
"""
    done = run_code(tmp_path, code)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        str(here / "mproc_go/__init__.py"),
        str(here / "mproc_go/runtime/spawn.py"),
        str(other),
    ]


def test_a_goroutine_sees_the_arguments_of_the_program(tmp_path):
    """As a function that is called directly; so many that they would not fit are left out, but for the first."""
    code = "import sys\nfrom mproc_go import go\nprint(go(lambda: sys.argv[1:] == ['a', '-b'] or len(sys.argv)).result())\n"
    assert run_code(tmp_path, code, "a", "-b").out == "True\n"
    assert run_code(tmp_path, code, *["x" * 1000] * 1000).out == "1\n"


def test_many_runs_one_after_the_other():
    """A runtime may be entered after another ended, again and again."""
    for i in range(12):
        assert run(lambda n: go(three).result() * n, i, procs=1 + i % 3) == 3 * i


def test_run_ends_with_goroutines_everywhere():
    """Goroutines that wait, sleep and were never started are abandoned without noise."""

    def main():
        ch = Chan()
        for _ in range(50):
            go(ch.recv)
            go(sleep, 100)
        for _ in range(500):
            go(three)
        return num_goroutine() > 50

    assert run(main, procs=1)


@pytest.mark.parametrize("main", [None, 5, "print"])
def test_run_of_no_function(main):
    """TypeError, before anything starts."""
    with pytest.raises(TypeError):
        run(main)


def test_run_inside_run():
    """RuntimeError, and the outer one goes on."""

    def main():
        for call in (lambda: run(three), lambda: Runtime().start(), lambda: Runtime().__enter__()):
            with pytest.raises(RuntimeError, match="run inside run"):
                call()
        return go(three).result()

    assert run(main) == 3


def test_run_in_a_goroutine():
    """RuntimeError of the goroutine."""

    def inner():
        return run(three)

    def main():
        with pytest.raises(RuntimeError, match="run"):
            go(inner).result()
        return go(three).result()

    assert run(main) == 3


def test_run_in_another_thread():
    """The thread that enters is goroutine 1, whichever it is."""
    got = []

    def target():
        got.append(run(lambda: go(three).result()))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert got == [3]


# ------------------------------------------------------------ options
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"procs": 0}, ValueError),
        ({"procs": -1}, ValueError),
        ({"procs": 10**9}, ValueError),
        ({"procs": 2**70}, ValueError),
        ({"procs": "2"}, TypeError),
        ({"procs": True}, TypeError),
        ({"procs": 2.0}, TypeError),
        ({"max_ms": 0}, ValueError),
        ({"procs": 3, "max_ms": 2}, ValueError),
        ({"max_ms": "9"}, TypeError),
        ({"max_ms": 10**9}, ValueError),
        ({"memory": 0}, ValueError),
        ({"memory": -1}, ValueError),
        ({"memory": "1G"}, TypeError),
        ({"memory": 2**100}, ValueError),
        ({"on_panic": "explode"}, ValueError),
        ({"on_panic": 5}, (TypeError, ValueError)),
        ({"color": "red"}, TypeError),
    ],
)
def test_impossible_options(options, error):
    """TypeError or ValueError that names the option, before anything starts, from run and from Runtime."""
    called = []
    name = "max_ms" if "max_ms" in options else next(iter(options))
    with pytest.raises(error, match=name):
        run(lambda: called.append(1), **options)
    with pytest.raises(error, match=name):
        Runtime(**options)
    assert called == []


@pytest.mark.parametrize("procs", [1, 3, 8])
def test_procs(procs):
    """procs is the number of Ps."""
    assert run(gomaxprocs, procs=procs) == procs


def test_least_workers():
    """max_ms may be as small as procs."""
    assert run(lambda: go(three).result(), procs=2, max_ms=2) == 3


# ------------------------------------------------------------ Runtime
def test_with():
    """The with block is goroutine 1; the object says what it is."""
    runtime = Runtime(1)
    assert "closed" in repr(runtime)
    with runtime as entered:
        assert entered is runtime
        assert "running" in repr(runtime)
        assert go(three).result() == 3
    assert "closed" in repr(runtime)


def test_start_and_close():
    """start returns the runtime, closing twice is fine, and it may be started again."""
    runtime = Runtime(1)
    runtime.close()
    for _ in range(3):
        assert runtime.start() is runtime
        assert go(three).result() == 3
        with pytest.raises(RuntimeError):
            runtime.start()
        runtime.close()
        runtime.close()


def test_exception_leaves_the_with_block():
    """As it is."""

    def use():
        with Runtime(1):
            go(sleep, 100)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        use()


def test_close_in_another_thread():
    """Whoever waits in the runtime that is closed gets NotRunning."""
    runtime = Runtime(1).start()
    ch, got = Chan(), []
    entered = threading.Event()

    def target():
        try:
            entered.set()
            ch.recv()
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    entered.wait()
    runtime.close()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(got[0], NotRunning)


def everything(ch, wg, handle):
    """Every call of every handle."""
    return [
        lambda: ch.send(1), lambda: ch.send("x" * 1000), lambda: ch.send(ch), lambda: ch.send_nowait(1), ch.recv,
        ch.recv_ok, ch.recv_nowait, lambda: list(ch), ch.close, lambda: ch.closed, lambda: len(ch), lambda: ch.recv(0),
        lambda: wg.add(1), wg.done, wg.wait, lambda: wg.wait(0), lambda: wg.go(three),
        handle.result, handle.exception, handle.done, lambda: handle.result(0),
    ]  # fmt: skip


def check_handles_are_over(ch, wg, handle):
    for call in everything(ch, wg, handle):
        with pytest.raises(NotRunning):
            call()
    for thing in (ch, wg, handle):
        assert bool(thing)
        assert thing == thing and hash(thing) == hash(thing)
        assert "over" in repr(thing)


def test_handles_of_a_runtime_that_is_over():
    """Every call says NotRunning, after the end and in the next runtime alike; repr, ==, hash and bool still work."""
    with Runtime(1):
        ch, wg, handle = Chan(5), WaitGroup(), go(three)
        ch.send(1)
        handle.result()
    check_handles_are_over(ch, wg, handle)
    with Runtime(1):
        check_handles_are_over(ch, wg, handle)
        mine = Chan(1)
        with pytest.raises(NotRunning):
            mine.send([ch])
        with pytest.raises(NotRunning):
            go(ch.recv)
        with pytest.raises(NotRunning):
            go(lambda: wg.wait())
        assert ch != mine and mine not in {ch, wg, handle}
        mine.send("still works")
        assert mine.recv() == "still works"
    with Runtime(1):
        assert go(three).result() == 3


# ------------------------------------------------------------ the default runtime
def test_default_runtime_without_a_main_guard(tmp_path):
    """A plain script that just calls go works, and starts itself only once."""
    code = """
import os
print("script", flush=True)
from mproc_go import go, Chan, WaitGroup
def work(x):
    return x * x, os.getpid() != main
main = os.getpid()
print([go(work, i).result() for i in range(5)])
ch = Chan()
go(ch.send, 5)
print(ch.recv())
"""
    outcome = run_code(tmp_path, code)
    expected = "script\n[(0, True), (1, True), (4, True), (9, True), (16, True)]\n5\n"
    assert (outcome.status, outcome.out, outcome.err) == (0, expected, ""), outcome


@pytest.mark.parametrize(
    "first",
    ["Chan()", "WaitGroup()", "num_goroutine()", "gosched()", "sleep(0.001)", "goid()", "gomaxprocs()"],
)
def test_default_runtime_starts_by_itself(tmp_path, first):
    """Whatever of the library is called first."""
    code = f"from mproc_go import *\n{first}\nprint(go(len, 'abc').result())\n"
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "3\n", ""), outcome


def test_run_beside_the_default_runtime(tmp_path):
    """Once the default runtime runs, run is run inside run."""
    code = """
from mproc_go import go, run
go(len, "abc").result()
try:
    run(len, "abc")
except RuntimeError as e:
    print(e)
"""
    outcome = run_code(tmp_path, code)
    assert outcome.out.startswith("run inside run"), outcome


def test_default_runtime_after_run(tmp_path):
    """After run ended, a plain go starts a default runtime; it ends with the program."""
    code = """
from mproc_go import go, run, sleep
print(run(lambda: go(len, "abc").result()))
go(sleep, 1000)
print(go(len, "abcd").result())
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "3\n4\n", ""), outcome


def test_calls_in_atexit_functions(tmp_path):
    """Functions registered before the runtime started run after it: their calls work or say NotRunning, none hangs."""
    code = """
import atexit
def last():
    try:
        print(go(len, "abc").result(5))
    except NotRunning as e:
        print("NotRunning")
atexit.register(last)
from mproc_go import go, NotRunning
go(len, "abc").result()
"""
    outcome = run_code(tmp_path, code)
    assert outcome.status == 0, outcome
    assert outcome.out in ("3\n", "NotRunning\n"), outcome


def test_two_threads_start_the_default_runtime_at_once(tmp_path):
    """There is one."""
    code = """
import threading
from mproc_go import go, Chan
got = []
barrier = threading.Barrier(8)
def target():
    barrier.wait()
    got.append(go(len, "abc").result())
threads = [threading.Thread(target=target) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(got)
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, f"{[3] * 8}\n", ""), outcome


# ------------------------------------------------------------ __main__, notebooks
MAIN_CLASSES = """
import ctypes, dataclasses, enum, collections
from mproc_go import run, go, Chan
class Cls:
    def __init__(self, v): self.v = v
    def method(self, x): return self.v + x
    @classmethod
    def make(cls, v): return cls(v)
    @staticmethod
    def stat(x): return x * 2
    def __eq__(self, o): return type(o) is Cls and o.v == self.v
class Sub(Cls):
    def method(self, x): return super().method(x) + 100
@dataclasses.dataclass(frozen=True)
class Data:
    a: int
    b: list
@dataclasses.dataclass(slots=True)
class SlotData:
    a: int
class Slots:
    __slots__ = ("a", "__b", "__weakref__")
    def __init__(self, a): self.a = self.__b = a
    def __eq__(self, o): return type(o) is Slots and (o.a, o.__b) == (self.a, self.__b)
class OneSlot(Slots):
    __slots__ = "c"
class Color(enum.Enum):
    RED = 1
NT = collections.namedtuple("NT", "x y")
class Err(Exception):
    pass
FACTOR = 3
def f(x): return g(x) * FACTOR
def g(x): return x + 1
def back(v): return v
def kinds(v): return type(v).__name__, isinstance(v, Cls), type(v) is Sub
def fail(): raise Err("own", 5)
def same(a, b): return type(a) is type(b)
def main():
    global FACTOR
    assert go(f, 1).result() == 6
    FACTOR = 5
    assert go(f, 1).result() == 10
    for v, cls in ((Cls(1), Cls), (Sub(1), Sub), (Data(1, [2]), Data), (Color.RED, Color), (NT(1, 2), NT),
                   (SlotData(1), SlotData), (Slots(1), Slots)):
        got = go(back, v).result()
        assert type(got) is cls, (type(got), cls)
        assert got == v or cls is Sub
        assert go(same, v, v).result()
        ch = Chan(2)
        ch.send([v]); ch.send(cls)
        assert type(ch.recv()[0]) is cls
        assert ch.recv() is cls
        def make():
            return v
        assert type(go(make).result()) is cls
    assert go(back, Color.RED).result() is Color.RED
    for v in (Slots(1), SlotData(1), OneSlot(1)):
        assert not go(hasattr, v, "__dict__").result()
    assert list(go(back, (ctypes.c_int * 3)(1, 2, 3)).result()) == [1, 2, 3]
    assert type(go(back, ctypes.create_string_buffer(b"abc")).result()) is ctypes.c_char * 4
    assert go(kinds, Sub(1)).result() == ("Sub", True, True)
    assert go(Cls(1).method, 2).result() == 3
    assert go(Sub(1).method, 2).result() == 103
    assert type(go(Cls.make, 2).result()) is Cls
    assert type(go(Sub.make, 2).result()) is Sub
    assert go(Cls.stat, 2).result() == 4
    assert type(go(Cls, 4).result()) is Cls
    try:
        go(fail).result()
    except Err as e:
        assert type(e) is Err and e.args == ("own", 5)
    else:
        assert False
    print("fine")
"""


def test_classes_and_functions_of_main(tmp_path):
    """What a script defines travels both ways and keeps its type."""
    outcome = run_code(tmp_path, MAIN_CLASSES + "\nrun(main, procs=2)\n")
    assert (outcome.status, outcome.out, outcome.err) == (0, "fine\n", ""), outcome


def test_classes_and_functions_of_main_in_the_default_runtime(tmp_path):
    """Without run, at the top level of the script."""
    outcome = run_code(tmp_path, MAIN_CLASSES + "\nmain()\n")
    assert (outcome.status, outcome.out, outcome.err) == (0, "fine\n", ""), outcome


def test_notebook_cells(tmp_path):
    """Code run cell by cell with exec in the namespace of __main__, as IPython does; cells are defined anew."""
    code = f"""
import __main__, linecache, types
from mproc_go import Runtime
source = {MAIN_CLASSES!r}
user = types.ModuleType("__main__")
import sys
sys.modules["__main__"] = user
ns = user.__dict__
def cell(n, text):
    name = f"<ipython-input-{{n}}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), ns)
with Runtime(2):
    cell(1, source)
    cell(2, "main()")
    cell(3, "def twice(x): return 2 * x\\nprint(go(twice, 4).result(), [go(lambda: x * x).result() for x in range(3)])")
    cell(4, "def twice(x): return 20 * x\\nprint(go(twice, 4).result())")
    cell(5, "class Cls:\\n    new = True\\nprint(type(go(back, Cls()).result()) is Cls, go(back, Cls()).result().new)")
    cell(6, "h = go(lambda: 1 / 0)")
    cell(7, "print(type(h.exception()).__name__, 'lambda' in h.exception().__notes__[0])")
"""
    outcome = run_code(tmp_path, code)
    expected = "fine\n8 [0, 1, 4]\n80\nTrue True\nZeroDivisionError True\n"
    assert (outcome.status, outcome.out, outcome.err) == (0, expected, ""), outcome


@pytest.mark.parametrize("how", ["-c", "-", "-m"])
def test_other_ways_to_run_python(tmp_path, how):
    """python -c, python - and python -m."""
    code = "from mproc_go import *\nclass C: pass\ndef f(x): return x, C()\n"
    code += "def main():\n    a, b = go(f, 3).result()\n    print(a, type(b) is C)\nrun(main)\n"
    (tmp_path / "amodule.py").write_text(code)
    args = {"-c": ["-c", code], "-": ["-"], "-m": ["-m", "amodule"]}[how]
    with (
        open(tmp_path / "amodule.py") as text,
        Program([sys.executable, *args], cwd=tmp_path, stdin=text) as program,
    ):
        outcome = program.end()
    assert (outcome.status, outcome.out, outcome.err) == (0, "3 True\n", ""), outcome


def test_interpreter_flags_and_path(tmp_path):
    """Workers import what the program can import, also what it added to sys.path before the start."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "only_here.py").write_text("def f(x): return x + 1\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "lib")!r})
import only_here
from mproc_go import run, go
print(run(lambda: go(only_here.f, 1).result()))
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "2\n", ""), outcome


def test_module_beside_the_script(tmp_path):
    """Modules beside the script, also after a chdir."""
    (tmp_path / "beside.py").write_text("class C: pass\ndef f(x): return C(), x\n")
    code = """
import os
os.chdir("/")
import beside
from mproc_go import run, go
print(run(lambda: type(go(beside.f, 1).result()[0]) is beside.C))
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "True\n", ""), outcome


# ------------------------------------------------------------ threads of the program
def test_threads_of_main():
    """Eight threads of main use channels at once; each is a goroutine of its own."""
    with Runtime(2):
        ch, out = Chan(3), []
        lock = threading.Lock()

        def producer(i):
            for k in range(100):
                ch.send(i * 100 + k)

        def consumer():
            for v in ch:
                with lock:
                    out.append(v)

        producers = [threading.Thread(target=producer, args=(i,)) for i in range(4)]
        consumers = [threading.Thread(target=consumer) for _ in range(4)]
        for thread in [*producers, *consumers]:
            thread.start()
        for thread in producers:
            thread.join()
        ch.close()
        for thread in consumers:
            thread.join()
        assert sorted(out) == list(range(400))
        del producer, consumer


def test_short_threads_one_after_the_other():
    """A thread that ends gives its slot back: 300 of them, more than there are slots."""
    with Runtime(1):
        got = []
        for i in range(300):
            thread = threading.Thread(target=lambda i=i: got.append(go(abs, -i).result()))
            thread.start()
            thread.join()
        assert got == list(range(300))
        assert num_goroutine() == 1


def test_too_many_threads():
    """More threads at once than a runtime has room for: a clear error for those that are too many, and no harm."""
    with Runtime(1):
        gate, results = threading.Event(), []
        ready = threading.Semaphore(0)

        def target():
            try:
                results.append(go(abs, -1).result())
            except NotRunning as error:
                results.append(str(error))
            ready.release()
            gate.wait()

        threads = [threading.Thread(target=target) for _ in range(80)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert ready.acquire(timeout=30)
        gate.set()
        for thread in threads:
            thread.join()
        refused = [r for r in results if r != 1]
        assert len(results) == 80
        assert all("threads" in r for r in refused)
        assert len(refused) < 40
        assert go(three).result() == 3


# ------------------------------------------------------------ forks and subprocesses
def test_fork_of_main(tmp_path):
    """In a fork every call says NotRunning, old handles too; the parent is unharmed; the fork ends in peace."""
    code = """
import os, sys
from mproc_go import run, go, Chan, NotRunning, WaitGroup, Runtime
def check(call):
    try:
        call()
    except NotRunning as e:
        assert "fork" in str(e) or "over" in str(e), e
        return
    print("no error")
def main():
    ch, wg, h = Chan(2), WaitGroup(), go(len, "abc")
    ch.send(1)
    pid = os.fork()
    if not pid:
        for call in (lambda: go(len, "a"), lambda: Chan(), lambda: ch.send(2), ch.recv, wg.wait, h.result, h.done):
            check(call)
        del ch, wg, h
        sys.stdout.flush()
        if len(sys.argv) > 1:
            os._exit(0)
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert ch.recv() == 1 and h.result() == 3
    wg.go(len, "a")
    wg.wait()
    return go(len, "abcd").result()
print(run(main))
"""
    for args in ((), ("_exit",)):
        outcome = run_code(tmp_path, code, *args)
        assert (outcome.status, outcome.out, outcome.err) == (0, "4\n", ""), outcome


def test_runtime_of_its_own_in_a_fork(tmp_path):
    """A fork may start a runtime of its own."""
    code = """
import os
from mproc_go import run, go, Runtime
def main():
    pid = os.fork()
    if not pid:
        with Runtime(1):
            ok = go(len, "abc").result() == 3
        os._exit(0 if ok else 1)
    status = os.waitpid(pid, 0)[1]
    return status, go(len, "abcd").result()
print(run(main))
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "(0, 4)\n", ""), outcome


def test_fork_before_the_runtime(tmp_path):
    """Parent and child each have their own."""
    code = """
import os
from mproc_go import run, go, Runtime
pid = os.fork()
n = run(lambda: go(len, "abc").result())
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    print(n)
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "3\n", ""), outcome


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("where", ["main", "goroutine"])
def test_multiprocessing_beside_us(tmp_path, method, where):
    """multiprocessing.Process works in main and in a goroutine."""
    code = """
import multiprocessing, sys
from mproc_go import run, go, Chan
def child(q):
    q.put("from the child")
def use(method):
    context = multiprocessing.get_context(method)
    q = context.SimpleQueue()
    p = context.Process(target=child, args=(q,))
    p.start()
    got = q.get()
    p.join()
    return got, p.exitcode
def main(method, where):
    got = use(method) if where == "main" else go(use, method).result()
    return got, go(len, "abc").result()
if __name__ == "__main__":
    print(run(main, *sys.argv[1:]))
"""
    outcome = run_code(tmp_path, code, method, where)
    if where == "goroutine" and outcome.status != 0:
        assert "Traceback" in outcome.err, outcome  # clearly, then
    else:
        assert (outcome.status, outcome.out) == (0, "(('from the child', 0), 3)\n"), outcome


def test_subprocess_in_a_goroutine(tmp_path):
    """subprocess.run works in goroutines, on several Ps at once."""
    code = """
import subprocess
from mproc_go import run, go
def sub(i):
    return subprocess.run(["echo", str(i)], capture_output=True, text=True, check=True).stdout
def main():
    return [h.result() for h in [go(sub, i) for i in range(6)]]
print(run(main, procs=2))
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.err) == (0, ""), outcome
    assert outcome.out == f"{[f'{i}' + chr(10) for i in range(6)]}\n", outcome


def test_program_that_waits_for_any_child(tmp_path):
    """os.wait() of the program's may get the supervisor: the end is clean all the same."""
    code = """
import os, signal
from mproc_go import run, go
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(run(lambda: go(len, "abc").result()))
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "3\n", ""), outcome
