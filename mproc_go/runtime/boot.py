"""Start, enter, leave and end a runtime: ``run``, ``Runtime``, the default runtime, standing ones, forks, exit.

The program that starts a runtime execs the supervisor: a clean interpreter with one thread, whatever threads the
program has. Workers are forked from it and never run the program's ``__main__``.
"""

from __future__ import annotations

import atexit
import contextlib
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn, ParamSpec, Self, TypeVar

from mproc_go.errors import EXIT_PANIC, NotRunning, SharedMemoryFull, ending_text, tell
from mproc_go.runtime import panics, preempt
from mproc_go.runtime import process as rt
from mproc_go.runtime.client import ClientM, Registrar
from mproc_go.runtime.process import M, Process
from mproc_go.runtime.spawn import CodeTable
from mproc_go.runtime.worker import Goexit, WorkerM
from mproc_go.sched import cpus
from mproc_go.shm import names
from mproc_go.shm.doors import Doors
from mproc_go.shm.layout import H_PREEMPT, MAX_PS, MAX_SLOTS, ON_PANIC_END, ON_PANIC_LOG
from mproc_go.shm.lock import Lock
from mproc_go.shm.segment import Segment, default_limit_bytes
from mproc_go.shm.sem import Semaphore
from mproc_go.supervisor import control

R = TypeVar("R")
A = ParamSpec("A")

# Worker processes a runtime may have at the most, if not said otherwise: each takes some 10 MB.
DEFAULT_MAX_MS: Final = 96
# Threads of other processes that may use a runtime at the same time.
CLIENTS: Final = 64
# How long the supervisor may take to start and to end before we give up on it.
START_S: Final = 20.0
CLOSE_S: Final = 3.0

# Options of runtimes started without saying otherwise; the command line sets them.
defaults: dict[str, Any] = {}

# Read before anything of ours can be imported; then the zygote takes over. It is imported from where this module was,
# even if that has left the path since: `python -m mproc_go run` in a checkout, with another one installed.
_BOOTSTRAP: Final = (
    "import marshal,socket,sys;s=socket.socket(fileno=3);b=s.recv(1<<20);b or sys.exit();o=marshal.loads(b);"
    "h,p=o['home'],o['path'];sys.path[:]=p if h in p else [h,*p];"
    "from mproc_go.zygote import main;sys.path[:]=p;sys.argv[:]=o['argv'];main(s,o)"
)

# The packet has its bounds; names of ten thousand files on the command line are not what goroutines look at.
_MAX_ARGV: Final = 1 << 16
_HOME: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# How the supervisor refuses to start, by the name of its exception.
_REFUSALS: Final[dict[str, type[Exception]]] = {
    "SharedMemoryFull": SharedMemoryFull,
    "Taken": RuntimeError,
    "PermissionError": PermissionError,
}
_ON_PANIC: Final = {"end": ON_PANIC_END, "log": ON_PANIC_LOG}
_OPTIONS: Final = ("procs", "name", "on_panic", "preempt", "max_ms", "memory")
starting = threading.RLock()


class Runtime:
    """A runtime: its workers, its memory, its goroutines. One a process at a time.

    Use it as a context manager, or with :meth:`start` and :meth:`close`. The thread that enters it is goroutine 1.

    Args:
        procs: GOMAXPROCS, how many goroutines run at the same time; default: the processors this process may use.
        name: other programs of this user may join it, by ``attach(name)``, as long as it runs. Then there is no
            Deadlock: somebody may come and send.
        on_panic: "end" has an exception that nobody waits for end the program, "log" writes it to stderr.
        preempt: make goroutines that compute for long yield, by a signal (runtime/preempt.py says when it can't).
        max_ms: worker processes at the most.
        memory: bytes the shared segment may grow to; default: half of the memory this process may use.

    Raises:
        TypeError: an option has the wrong type, or there is no such option.
        ValueError: an option is impossible here. Both before anything starts.
    """

    def __init__(
        self,
        procs: int | None = None,
        *,
        name: str | None = None,
        on_panic: str | None = None,
        preempt: bool | None = None,
        max_ms: int | None = None,
        memory: int | None = None,
    ) -> None:
        given = {"procs": procs, "name": name, "on_panic": on_panic, "preempt": preempt}
        given |= {"max_ms": max_ms, "memory": memory}
        self._options = check_options({k: v if v is not None else defaults.get(k) for k, v in given.items()})
        self._process: Process | None = None
        self._sock: socket.socket | None = None
        self._os_pid = 0
        self._owner = 0

    def start(self) -> Self:
        """Start the workers; the calling thread becomes goroutine 1. Blocks: some 70 ms, for the supervisor to start.

        Raises:
            RuntimeError: this process has a runtime already, or is a worker of one; or there is one of that name.
            PermissionError: the folder of standing runtimes is not this user's alone.
            SharedMemoryFull: no room for the segment or the semaphores.
            OSError: the supervisor can't be started.
        """
        with starting:
            if rt.process is not None:
                raise RuntimeError(
                    "run inside run: this process has a runtime already; call go, Chan, ... without starting another"
                )
            self._launch()
            # A program that only starts it, and lets go of it, has it to its end; a panic is then told at the end.
            atexit.register(self._at_exit)
        return self

    def close(self) -> None:
        """End the runtime: goroutines still running are abandoned, all its processes and memory go.

        A second call does nothing. Blocks: until the supervisor is gone, 3 s at the most.

        Raises:
            GoroutinePanic, WorkerLost: what ended the program and was not raised yet.
        """
        error = self._end("this runtime was closed")
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        error = self._end("this runtime was closed")
        # An exception of the block goes on, unless it only says that the program was ended by the panic we have here.
        if error is not None and (kind is None or issubclass(kind, NotRunning)):
            raise error

    def __repr__(self) -> str:
        return f"<Runtime procs={self._options['procs']} {'running' if self._process is not None else 'closed'}>"

    # ------------------------------------------------------------ the supervisor
    def _launch(self) -> None:
        occupy_standard_streams()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds: list[int] = []
        try:
            self._os_pid = _spawn_supervisor(theirs)
            theirs.close()
            fds.extend(map(os.pidfd_open, (self._os_pid,)))  # in one: an exception of a handler finds it in the list
            packet = _begin(ours, self._options, os.getpid(), fds)
            segment = Segment.join(fds[1])
            opened = Doors(packet["prefix"], packet["slots"])
            control.send(ours, {"do": "opened"})
            locks = opened.locks(segment.w)
            process = new_process(segment, locks, opened.notes, packet["client"], fds[0], self._options["name"])
        except BaseException:
            for end in (ours, theirs):
                end.close()
            # It sees its owner gone, and removes what it made; killed, it would leave names in /dev/shm.
            if not fds or not select.select([fds[0]], [], [], CLOSE_S)[0]:
                self._kill()
            self._reap()
            for fd in fds:
                os.close(fd)
            raise
        self._sock = ours
        self._owner = os.getpid()
        self._process = rt.process = process

    def _end(self, why: str) -> Exception | None:
        with starting:
            process, self._process = self._process, None
            if process is None:
                return None
            atexit.unregister(self._at_exit)
            m = getattr(process.tls, "m", None)
            if os.getpid() != self._owner:  # a fork: nothing here is ours
                return None
            error: Exception | None = None
            if process.over is None:
                process.over = why
                if m is not None and not process.told:
                    error = panics.fatal(m)
            if m is not None:
                del process.tls.m
            if rt.process is process:
                rt.process = None
            sock = self._sock
            assert sock is not None
            try:
                control.send(sock, {"do": "stop"})
            except OSError:
                pass  # it is gone already
            if not select.select([process.supervisor_fd], [], [], CLOSE_S)[0]:
                self._kill()
            self._reap()
            sock.close()
            fd, process.supervisor_fd = process.supervisor_fd, rt.ENDED  # who waits for a lock looks
            os.close(fd)
            os.close(process.segment.fd)
            return error

    def _at_exit(self) -> None:
        error = self._end("the program is ending")
        if error is not None:
            tell(ending_text(error) or str(error))
            os._exit(EXIT_PANIC)  # an atexit function can't set the exit status otherwise

    def _kill(self) -> None:
        """End the supervisor by force; its workers die with it."""
        if self._os_pid:
            try:
                os.kill(self._os_pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._reap()

    def _reap(self) -> None:
        if self._os_pid:
            status = signal.SIGKILL.value
            try:
                status = os.waitpid(self._os_pid, 0)[1]
            except ChildProcessError:
                pass  # the program waited for any child of its, and got ours
            self._os_pid = 0
            if os.WIFSIGNALED(status):
                names.remove_left()


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """No signal handler runs meanwhile: with its exception, what a call just returned would be lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(ours: socket.socket, options: dict[str, Any], owner: int, fds: list[int]) -> dict[str, Any]:
    """Give the supervisor its options; return its first packet, and add the segment to `fds`.

    Raises:
        RuntimeError, PermissionError, SharedMemoryFull, OSError: as :meth:`Runtime.start`.
    """
    options = {**options, "schedtrace": defaults.get("schedtrace", 0), "owner": owner, "clients": CLIENTS}
    options |= {"path": [os.path.abspath(p) for p in sys.path], "home": _HOME}
    argv = [str(arg) for arg in getattr(sys, "argv", ())]  # a goroutine's function may look at them
    options["argv"] = argv if sum(map(len, argv)) <= _MAX_ARGV else argv[:1]
    ours.send(marshal.dumps(options))
    if not select.select([ours], [], [], START_S)[0]:
        raise OSError(f"the supervisor of the runtime did not start within {START_S:.0f} s")
    with _unbroken():
        packet, received = control.receive(ours, 1)
        fds += received
    if packet is None:
        raise OSError("the supervisor of the runtime ended while it was starting; see its message above")
    if "error" in packet:
        raise _REFUSALS.get(packet["kind"], OSError)(packet["error"])
    return packet


def start_standing(name: str, options: dict[str, Any]) -> int:
    """Start a runtime that belongs to no program and goes on until it is stopped; return its supervisor's os_pid.

    Args:
        options: as :class:`Runtime`.

    Raises:
        TypeError, ValueError, RuntimeError, PermissionError, SharedMemoryFull, OSError: as :class:`Runtime`.

    Blocks: until it runs.
    """
    checked = check_options({**options, "name": name})
    occupy_standard_streams()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            os_pid = _spawn_supervisor(theirs)
        received: list[int] = []
        try:
            _begin(ours, checked, 0, received)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(os_pid, signal.SIGTERM)
            os.waitpid(os_pid, 0)
            raise
        finally:
            for fd in received:
                os.close(fd)
    return os_pid


def occupy_standard_streams() -> None:
    """Open /dev/null at descriptors 0 to 2 where nothing is, in this process for good.

    A program may be started with its stdout closed (``>&-``). Then the next descriptor opened would be number 1: our
    memory or a socket, into which whatever prints writes. Source: Go runtime/fds_unix.go checkfds.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one


def _spawn_supervisor(theirs: socket.socket) -> int:
    """Exec a clean interpreter with the socket as descriptor 3; return its os_pid."""
    if not sys.executable:
        raise OSError("sys.executable is empty: there is no interpreter to start the supervisor with")
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    # A number that is ours alone (the program opened a file while its stdout was closed) is none there, after the exec.
    standard = [fd for fd in (1, 2) if os.get_inheritable(fd)]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *flags, "-c", _BOOTSTRAP],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2) if fd not in standard),
        ],
        setsigmask=[],
        # Not SIGHUP: whoever started the program with nohup wants that for all of it.
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM],
    )


def check_options(given: dict[str, Any]) -> dict[str, Any]:
    """Options of a runtime, checked and completed.

    Raises:
        TypeError, ValueError: as :class:`Runtime`.
    """
    for name in given:
        if name not in _OPTIONS:
            raise TypeError(f"a runtime has no option {name!r}; it has {', '.join(_OPTIONS)}")
    procs = _integer("procs", given.get("procs"), cpus.num_cpu(), 1, MAX_PS)
    on_panic = given.get("on_panic")
    on_panic = "end" if on_panic is None else on_panic
    if not isinstance(on_panic, str) or on_panic not in _ON_PANIC:
        raise ValueError(f'on_panic is "end" or "log", not {on_panic!r}')
    preempt = given.get("preempt")
    preempt = False if preempt is None else preempt
    if not isinstance(preempt, bool):
        raise TypeError(f"preempt is True or False, not {type(preempt).__name__}")
    called = given.get("name")
    return {
        "procs": procs,
        "name": None if called is None else names.check_name(called, "runtime"),
        "preempt": preempt,
        "on_panic": _ON_PANIC[on_panic],
        "max_ms": _integer("max_ms", given.get("max_ms"), max(DEFAULT_MAX_MS, procs), procs, MAX_SLOTS - CLIENTS - 1),
        "memory": _integer("memory", given.get("memory"), default_limit_bytes(), 1, 1 << 46),
    }


def _integer(name: str, value: Any, default: int, least: int, most: int) -> int:
    if value is None:
        return default
    value = rt.integer(value, f"{name} is an integer")
    if not least <= value <= most:
        raise ValueError(f"{name} is at least {least} and at most {most}, not {value}")
    return int(value)


def run(main: Callable[..., R], *args: Any, procs: int | None = None, **options: Any) -> R:
    """Start a runtime, run ``main(*args)`` in it as goroutine 1, in this process, and end the runtime.

    Goroutines still running when `main` returns are abandoned, as in Go.

    Args:
        procs, options: as :class:`Runtime`.

    Returns: what `main` returns.

    Raises:
        GoroutinePanic: an exception left a goroutine whose handle nobody held.
        Deadlock: no goroutine can ever run again.
        RuntimeError: called in a goroutine, or while this process has a runtime.
        TypeError, ValueError, SharedMemoryFull, OSError: as :class:`Runtime`.
        Exception: what `main` raises.
    """
    if not callable(main):
        raise TypeError(f"run needs a function to call, not {type(main).__name__}")
    check_options({"procs": procs, **options})
    with Runtime(procs, **options):
        _main_thread().in_main = True
        try:
            return main(*args)
        except Goexit:
            pass
        _main_thread().outlive()


def _main_thread() -> ClientM:
    # No variable of run's: the traceback of what main raises would keep the whole runtime.
    m = rt.current()
    assert isinstance(m, ClientM)
    return m


rt.CALLS_OUT.add(run.__code__)

# ---------------------------------------------------------------- threads, forks, the default runtime, exit
class _SlotGuard:
    """Lives in a thread's local storage and gives the thread's slot back when the thread ends."""

    def __init__(self, m: ClientM) -> None:
        self.m, self.process = m, m.process

    def __del__(self) -> None:
        if self.process.over is None and rt.process is self.process:
            self.m.leave_runtime()


_registering = threading.Lock()


def new_process(
    segment: Segment, locks: Sequence[Lock], notes: Sequence[Semaphore], slot: int, supervisor_fd: int, name: str | None
) -> Process:
    """This process as a client of a runtime, the calling thread as its first M, in the host slot it was given."""
    process = Process(segment, locks, notes, slot, new_client)
    if name is not None:
        process.title = f"runtime {name!r}"
    process.watch_supervisor(supervisor_fd)
    process.codes = CodeTable(rt.current)
    process.tls.m = m = ClientM(process, slot)
    process.threads.add(m)
    return process


def new_client(process: Process) -> M:
    """Make the calling thread an M of the runtime."""
    with _registering:
        process.registering = True
        try:
            while process.mending:
                process.registering = False
                time.sleep(0.001)
                process.registering = True
            slot = Registrar(process).new_slot()
        finally:
            process.registering = False
    m = ClientM(process, slot)
    process.tls.guard = _SlotGuard(m)
    return m


def start_default() -> Process:
    """The default runtime, for a program that calls ``go`` without having started one; ended at exit."""
    with starting:
        if rt.process is None:
            if _forked:
                raise NotRunning("this process is a fork of one that has a runtime; start a runtime of its own here")
            Runtime().start()
        assert rt.process is not None
        return rt.process


_forked = False


def _detach() -> None:
    """In a fork of the program: the runtime is the parent's, and every call says so."""
    global _forked, starting, _registering
    starting = threading.RLock()
    _registering = threading.Lock()
    process = rt.process
    if process is None:
        return
    process.over = "this process is a fork of one that has a runtime; start a runtime of its own here"
    m = getattr(process.tls, "m", None)
    if m is not None:
        m.detach()
    process.tls.__dict__.clear()
    rt.process = None
    _forked = True


def worker_main(segment: Segment, opened: Doors, slot: int) -> NoReturn:
    """Main of a worker, in the process just forked."""
    for stream in (sys.stdout, sys.stderr):
        # Whole lines, whatever -u says: a print is two writes, and other processes write in between.
        stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
    process = Process(segment, opened.locks(segment.w), opened.notes, slot, new_client)
    process.codes = CodeTable(rt.current)
    process.watch_locks()
    m = WorkerM(process, slot)
    process.tls.m = m
    rt.process = process
    if segment.w[H_PREEMPT]:
        preempt.install(m)
    m.run()


os.register_at_fork(after_in_child=_detach)
