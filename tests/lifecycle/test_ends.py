"""However a program ends, and whatever its goroutines do, nothing of it stays: no process, no name, no hang."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.lifecycle.support import PROGS, Program, can_mount, run, run_code, start, until

WAYS = ["run", "with", "start", "default"]
STATES = ["computing", "blocked", "sleeping", "in_c", "with_subprocess", "with_thread", "nothing"]

MORE_ENDS = ["raise", "exit", "_exit"]

STATUS = {
    "return": 0,
    "raise": 1,
    "exit": 3,
    "_exit": 4,
    "abort": -signal.SIGABRT,
    "kill": -signal.SIGKILL,
    "terminate": -signal.SIGTERM,
    "interrupt": -signal.SIGINT,
}


def kill_sleepers(program):
    """A subprocess that a goroutine started is the program's own affair, as it would be without us."""
    for process in program.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "sleep":
                process.kill()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", sorted(STATUS))
def test_every_way_to_end(way, how):
    """The exit status and the output are the plain program's, whatever way the runtime was started."""
    outcome = run("lifecycle.py", "sleeping", how, way)
    assert outcome.status == STATUS[how], outcome
    if how == "return":
        assert outcome.out == "ready\nreturned\n", outcome
        assert outcome.err == "", outcome
    elif how == "raise":
        assert outcome.err.startswith("Traceback"), outcome
        assert outcome.err.endswith("ValueError: from main\n"), outcome
        assert outcome.err.count("Traceback") == 1, outcome
    elif how == "interrupt":
        assert outcome.err.endswith("KeyboardInterrupt\n"), outcome
    elif how == "exit":
        assert outcome.err == "", outcome


@pytest.mark.parametrize("how", ["return", "exit"])
def test_started_and_not_kept(how):
    """A runtime that was started runs until it is closed, also if nobody keeps the object."""
    outcome = run("lifecycle.py", "sleeping", how, "dropped")
    assert outcome.status == STATUS[how], outcome


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("how", ["return", "kill", *(pytest.param(how, marks=pytest.mark.slow) for how in MORE_ENDS)])
def test_whatever_goroutines_do(what, how):
    """Goroutines are abandoned at the end, wherever they are."""
    with start("lifecycle.py", what, how, "run") as program:
        program.until_line("ready")
        program.popen.wait(20)
        kill_sleepers(program)
        outcome = program.end()
    assert outcome.status == STATUS[how], outcome


@pytest.mark.parametrize("way", ["run", "start", "default"])
@pytest.mark.parametrize("where", ["recv", "send", "result", "sleep", "time.sleep", "compute"])
def test_ctrl_c(way, where):
    """Ctrl-C is a KeyboardInterrupt in the main program, wherever it is, and nowhere else."""
    with start("lifecycle.py", "sleeping", where, way) as program:
        program.until_line("ready")
        time.sleep(0.1)  # not for order: whichever instruction it hits, it must end
        program.interrupt()
        outcome = program.end()
    assert outcome.status == -signal.SIGINT, outcome
    assert outcome.err.endswith("KeyboardInterrupt\n"), outcome
    assert outcome.err.count("Traceback") == 1, outcome


@pytest.mark.parametrize("what", STATES)
def test_ctrl_c_whatever_goroutines_do(what):
    """It ends the program at once, and workers print nothing."""
    how = "sleep" if what in ("blocked", "nothing") else "recv"  # nobody left who could send would be a deadlock
    with start("lifecycle.py", what, how, "run") as program:
        program.until_line("ready")
        program.interrupt()
        program.popen.wait(20)
        kill_sleepers(program)
        outcome = program.end()
    assert outcome.status == -signal.SIGINT, outcome
    assert outcome.err.count("Traceback") == 1, outcome


@pytest.mark.parametrize("after_ms", [0, 10, 30, 50, 70, 90, 110, 130, 160, 200])
def test_ctrl_c_while_it_starts(after_ms):
    """At any moment of the start, too."""
    with start("lifecycle.py", "sleeping", "recv", "run") as program:
        until(lambda: program.popen.poll() is not None or has_python(program.pid))
        time.sleep(after_ms / 1000)
        program.interrupt()
        swallowed = False
        try:
            program.popen.wait(20)
        except subprocess.TimeoutExpired:
            swallowed = True
            program.interrupt()
        outcome = program.end()
    assert outcome.status in (-signal.SIGINT, 1), outcome
    # In a weak reference's callback (importlib has some) Python itself drops the exception, and says so.
    assert not swallowed or "Exception ignored" in outcome.err, outcome


def has_python(pid):
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            return "lifecycle.py" in file.read()
    except OSError:
        return False


def test_interrupts_at_every_moment_of_the_start(tmp_path):
    """A start that is interrupted leaves nothing, wherever it was, and another start works."""
    code = """
import os, signal, sys
from mproc_go import Runtime, go
class Stop(Exception): pass
def handler(*_):
    raise Stop
signal.signal(signal.SIGALRM, handler)
fds = None
for i in range(int(sys.argv[1])):
    runtime = Runtime(1)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001 + i * 0.15 / int(sys.argv[1]))
        runtime.start()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        print("stopped")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        runtime.close()
    now = len(os.listdir("/proc/self/fd"))
    fds = fds or now
    assert now <= fds, f"{now - fds} descriptors more in round {i}"
    if os.environ.get("OWN_DEV_SHM"):
        assert not os.listdir("/dev/shm"), f"round {i}: {os.listdir('/dev/shm')[:3]}"
with Runtime(1):
    print(go(len, "abc").result())
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, script, "24"]
    env = {}
    if can_mount():  # then nobody else's names are there
        mount = 'mount -t tmpfs none /dev/shm && exec "$@"'
        command, env = ["unshare", "-m", "sh", "-c", mount, "sh", *command], {"OWN_DEV_SHM": "1"}
    with Program(command, env=env) as program:
        outcome = program.end()
    assert outcome.status == 0, outcome
    assert outcome.out.count("stopped") > 5 and outcome.out.endswith("3\n"), outcome


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("where", ["recv", "compute"])
def test_deadly_signals(signum, where):
    """What ends the main program at once ends everything."""
    with start("lifecycle.py", "computing", where, "run") as program:
        program.until_line("ready")
        os.kill(program.pid, signum)
        outcome = program.end()
    assert outcome.status == -signum, outcome


@pytest.mark.parametrize("how", ["nohup", "handled"])
def test_a_terminal_that_is_gone(tmp_path, how):
    """SIGHUP to the whole group ends nothing where the program does not end by it; what a goroutine forks does."""
    code = """
import os, signal, subprocess, sys, time
from mproc_go import run, go, Chan
def child_ends():
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), signal.SIGHUP)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def command():
    return subprocess.run([sys.executable, "-c", "import signal; print(signal.getsignal(1) == signal.SIG_IGN)"],
                          capture_output=True, text=True).stdout
def works(ch):
    for v in ch:
        v.send(os.getpid())
def main():
    ch, back = Chan(), Chan()
    go(works, ch)
    ch.send(back)
    before = back.recv()
    os.killpg(0, signal.SIGHUP)
    ch.send(back)
    assert back.recv() == before
    return go(child_ends).result(), go(command).result()
if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
    signal.signal(signal.SIGHUP, lambda *_: None)
print(run(main))
"""
    script = tmp_path / "a.py"
    script.write_text(code)
    with Program([*(["nohup"] if how == "nohup" else []), sys.executable, script]) as program:
        outcome = program.end()
    expected = "(7, 'True\\n')\n" if how == "nohup" else "(-1, 'False\\n')\n"
    assert (outcome.status, outcome.out) == (0, expected), outcome


def test_whole_group_terminated():
    """SIGTERM to the group, as a service manager or a batch system sends it."""
    with start("lifecycle.py", "computing", "recv", "run") as program:
        program.until_line("ready")
        os.killpg(program.pid, signal.SIGTERM)
        outcome = program.end()
    assert outcome.status == -signal.SIGTERM, outcome


@pytest.mark.parametrize("after_ms", [0, 20, 40, 60, 80, 100, 150])
def test_killed_while_it_starts(after_ms):
    """SIGKILL of the main program at any moment of the start."""
    with start("lifecycle.py", "sleeping", "recv", "run") as program:
        until(lambda: program.popen.poll() is not None or has_python(program.pid))
        time.sleep(after_ms / 1000)
        os.kill(program.pid, signal.SIGKILL)
        program.end()


def test_sigterm_handled_by_the_program(tmp_path):
    """A handler of the program's own runs, also while it waits for a channel, and the program may go on."""
    code = """
import os, signal
from mproc_go import run, Chan, go, sleep
def kill(pid):
    os.kill(pid, signal.SIGTERM)
def main():
    got = []
    signal.signal(signal.SIGTERM, lambda *_: got.append(1))
    ch = Chan()
    go(lambda: (os.kill(pid, signal.SIGTERM), sleep(0.05), ch.send("after")))
    v = ch.recv()
    return got, v
pid = os.getpid()
print(run(main))
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out) == (0, "([1], 'after')\n"), outcome


def test_exception_in_a_signal_handler(tmp_path):
    """An exception raised by a handler leaves a blocked call, and the runtime can still be used."""
    code = """
import os, signal
from mproc_go import run, Chan, go, sleep
class Stop(Exception): pass
def handler(*_):
    raise Stop
def main():
    signal.signal(signal.SIGALRM, handler)
    go(sleep, 1000)  # else it would be a deadlock
    ch = Chan()
    for i in range(20):
        signal.setitimer(signal.ITIMER_REAL, 0.003 * (i % 5 + 1))
        try:
            ch.recv()
        except Stop:
            pass
    assert go(lambda: 5).result() == 5
    h = go(ch.recv)
    ch.send(6)
    return h.result()
print(run(main))
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out) == (0, "6\n"), outcome


def test_ctrl_c_that_is_caught(tmp_path):
    """Who catches KeyboardInterrupt goes on: goroutines and workers were not touched by it."""
    code = """
from mproc_go import run, Chan, go, sleep
def main():
    a, b = Chan(), Chan()
    def server():
        for v in a:
            b.send(v + 1)
    go(server)
    go(sleep, 1000)  # else it would be a deadlock
    try:
        print("ready", flush=True)
        b.recv()
    except KeyboardInterrupt:
        a.send(1)
        return b.recv()
print(run(main))
"""
    script = tmp_path / "a.py"
    script.write_text(code)
    with Program([sys.executable, script]) as program:
        program.until_line("ready")
        program.interrupt()
        outcome = program.end()
    assert (outcome.status, outcome.out, outcome.err) == (0, "2\n", ""), outcome


def test_goroutines_own_subprocess_gets_ctrl_c(tmp_path):
    """A subprocess that a goroutine started is not deaf to Ctrl-C because of us."""
    code = """
import subprocess, sys
from mproc_go import run, go, Chan
def child(out):
    p = subprocess.Popen([sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT))"],
                         stdout=subprocess.PIPE, text=True)
    out.send(p.communicate()[0])
def main():
    out = Chan()
    go(child, out)
    print(out.recv())
run(main)
"""
    outcome = run_code(tmp_path, code)
    assert "default_int_handler" in outcome.out, outcome


def test_output_of_goroutines_is_not_lost(tmp_path):
    """What finished goroutines printed is there when the program ends, in whole lines."""
    code = """
from mproc_go import run, WaitGroup
def say(i):
    print(f"goroutine {i}", "x" * 200)
def main():
    wg = WaitGroup()
    for i in range(200):
        wg.go(say, i)
    wg.wait()
run(main)
"""
    outcome = run_code(tmp_path, code)
    assert outcome.status == 0
    wanted = [f"goroutine {i} {'x' * 200}" for i in range(200)]
    assert sorted(outcome.out.splitlines()) == sorted(wanted)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_of_a_goroutine_is_one_write(tmp_path, unbuffered):
    """Also under -u, as in most containers: else other processes write between the text and its newline."""
    code = """
import os, socket
from mproc_go import run, go
def say(address):
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a packet is what one write wrote
    end.connect(address)
    os.dup2(end.fileno(), 1)
    print("x" * 200)
    print("y" * 200, flush=True)
def main():
    address = "\\0lines-%d" % os.getpid()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(address)
    listening.listen()
    handle = go(say, address)
    peer, _ = listening.accept()
    handle.result()
    print([peer.recv(1000).decode() for _ in range(2)] == ["x" * 200 + "\\n", "y" * 200 + "\\n"])
run(main)
"""
    outcome = run_code(tmp_path, code, env={"PYTHONUNBUFFERED": unbuffered})
    assert (outcome.status, outcome.out, outcome.err) == (0, "True\n", ""), outcome


def test_output_of_goroutines_that_do_not_listen(tmp_path):
    """What a goroutine printed is there at once, also if its worker then computes and has to be killed at the end."""
    code = """
from mproc_go import run, go, Chan
def say(out):
    print("a line")
    out.send(1)
    while True:
        pass
def main():
    out = Chan()
    go(say, out)
    out.recv()
run(main)
"""
    outcome = run_code(tmp_path, code)
    assert (outcome.status, outcome.out, outcome.err) == (0, "a line\n", ""), outcome


@pytest.mark.parametrize("way", ["run", "default"])
def test_closed_pipe(tmp_path, way):
    """prog | head -1 ends, also if goroutines and main go on printing."""
    code = """
import sys
from mproc_go import run, go, WaitGroup
def say():
    for i in range(20000):
        print("line", i)
def main():
    hs = [go(say) for _ in range(2)]
    for h in hs:
        h.exception()
    say()
if sys.argv[1] == "run":
    run(main)
else:
    main()
"""
    script = tmp_path / "a.py"
    script.write_text(code)
    with Program(["sh", "-c", f"{sys.executable} {script} {way} 2>/dev/null | head -1"]) as program:
        outcome = program.end()
    assert outcome.out.startswith("line"), outcome


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(tmp_path, closed):
    """Who prints there, here or in a goroutine, writes nowhere: not into our memory, which had the number else."""
    script, said = tmp_path / "a.py", tmp_path / "said"
    script.write_text("""
import os, sys
from mproc_go import Chan, SharedMap, go, run
def say(ch):
    print("printed")
    for fd in (1, 2):
        os.write(fd, b"x" * 4096)
    ch.send(1)
def main():
    m, ch = SharedMap(), Chan()
    m["k"] = 1
    for _ in range(3):
        go(say, ch)
        assert ch.recv() == 1
    say(Chan(1))
    assert m == {"k": 1}
    open(sys.argv[1], "w").write("well")
run(main)
""")
    with Program(["sh", "-c", f"{sys.executable} {script} {said} {closed}"]) as program:
        outcome = program.end()
    assert outcome.status == 0 and said.read_text() == "well", outcome


def test_stderr_that_nobody_reads(tmp_path):
    """A line of ours that can't be written ends nothing: neither the worker nor the supervisor that has to say it."""
    code = """
import os, signal, sys
from mproc_go import Chan, Runtime, go, num_goroutine, sleep
def fail():
    raise ValueError
def die():
    os._exit(1)
def waits(up, ch):
    up.send(os.getpid())
    ch.recv()
reader, writer = os.pipe()
os.dup2(writer, 2)
os.close(writer)
os.close(reader)
with Runtime(2, on_panic="log"):
    for fn in (fail, die) * 3:
        go(fn)
    while num_goroutine() > 1:
        sleep(0.01)
    up, ch = Chan(), Chan()
    h = go(waits, up, ch)
    os.kill(up.recv(), 40)  # a signal without a name
    error = h.exception(30)
    assert go(sum, [1, 2]).result(30) == 3
    print(error)
"""
    outcome = run_code(tmp_path, code)
    assert outcome.status == 0 and "was killed by signal 40" in outcome.out, outcome


def test_stdin_is_the_main_programs(tmp_path):
    """Goroutines don't take the input of the program away."""
    code = """
import sys
from mproc_go import run, go
def read():
    return sys.stdin.read()
def main():
    try:
        theirs = go(read).result()
    except Exception as e:
        theirs = type(e).__name__
    return theirs, sys.stdin.read()
print(run(main))
"""
    script = tmp_path / "a.py"
    script.write_text(code)
    with open(script) as text, Program([sys.executable, script], stdin=text) as program:
        outcome = program.end()
    assert outcome.status == 0, outcome
    assert outcome.out.startswith("('', '\\nimport sys"), outcome


def test_progs_exist():
    """The programs these tests run are there (a name that is wrong would otherwise look like an ended program)."""
    assert (PROGS / "lifecycle.py").exists()


def test_a_closed_runtime_keeps_nothing_open(tmp_path):
    """At once, not only when the garbage collector comes by: its memory is freed with it."""
    code = """
import gc, os
from mproc_go import Runtime
gc.disable()
for _ in range(3):
    with Runtime(1):
        pass
    print([target for fd in os.listdir("/proc/self/fd") if os.path.lexists(path := f"/proc/self/fd/{fd}")
           and "mproc-go" in (target := os.readlink(path))])
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    with Program([sys.executable, script]) as program:
        outcome = program.end()
    assert (outcome.status, outcome.out) == (0, "[]\n[]\n[]\n"), outcome
