"""The supervisor's loop: start workers, watch them and their owner, end everything.

It waits on descriptors only (the owner's socket and pidfd, a pidfd for each worker, the socket of a standing runtime
and who came in by it) and looks around every :data:`TICK_MS`. It ends the runtime, and itself, when the owner says so
or is gone; workers die with it (parent-death signal), so nothing is orphaned whoever is killed.

A runtime without an owner (``mproc-go start``) ends when it is asked to, by its socket or by SIGTERM, or when a panic
ended the program.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from mproc_go.errors import SharedMemoryFull, tell
from mproc_go.observe.stats import schedtrace_line
from mproc_go.sched import idle
from mproc_go.shm import doors, names, sem
from mproc_go.shm.doors import Doors
from mproc_go.shm.layout import (
    H_ON_PANIC,
    H_PREEMPT,
    H_SLOTS,
    H_STOP,
    H_SUPERVISOR,
    KIND_CLIENT,
    KIND_FREE,
    KIND_SUPERVISOR,
    KIND_WORKER,
    M_ATTENTION,
    M_HOST,
    M_KIND,
    M_OS_PID,
    S_GOID,
    S_GOMAXPROCS,
    S_PIDLE,
    STOP_CLOSED,
    slot_base,
)
from mproc_go.shm.segment import Segment, set_death_signal, set_process_name
from mproc_go.shm.thread import clear_slot
from mproc_go.supervisor import control, wreck
from mproc_go.supervisor.crashes import Crashes
from mproc_go.supervisor.deadlock import Detector
from mproc_go.supervisor.reaper import Reaper
from mproc_go.supervisor.reception import Reception
from mproc_go.supervisor.sysmon import Sysmon
from mproc_go.supervisor.thread import SupervisorThread

# How often the supervisor looks for what nobody tells it (a blocked M, a worker that is needed): while something runs,
# and while nothing does. Source: Go sysmon, 20 us to 10 ms.
TICK_MS = 5
IDLE_TICK_MS = 20
# A worker told to stop that is in the middle of a computation does not listen; it is killed after this.
STOP_GRACE_S = 0.1

# main of a worker: (segment, doors, slot) -> never
WorkerMain = Callable[[Segment, Doors, int], NoReturn]


def serve(owner: socket.socket, options: dict[str, Any], worker_main: WorkerMain) -> NoReturn:
    """Run a runtime for the process at the other end of `owner`; never returns.

    Args:
        options: procs, max_ms, clients, memory (bytes), on_panic (0 end, 1 log), preempt, schedtrace (ms, 0 never),
            name (None: nobody can attach), owner (os_pid; 0: it only starts us) and path (the workers' sys.path).
    """
    set_process_name("mproc-go sched")
    # Both are the user's program's: whether it ends by them is its affair, and we see that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    names.remove_left()
    prefix = names.new_prefix()
    slots = doors.all_slots(options["max_ms"], options["clients"])
    owner_fd, reception = -1, None
    try:
        if options["owner"]:
            owner_fd = os.pidfd_open(options["owner"])
    except OSError:  # it is gone already
        os._exit(1)
    try:
        if options["name"]:
            reception = Reception(options["name"])
            if not options["owner"]:
                _stand_alone(reception.folder, options["name"])
    except (names.Taken, OSError) as error:
        _refuse(owner, error, reception)
    try:
        segment = Segment.create(options["memory"], options["max_ms"])
        doors.create_all(prefix, slots)
    except (SharedMemoryFull, OSError) as error:
        _refuse(owner, error, reception)
    opened = supervisor = None
    try:
        try:
            opened = Doors(prefix, slots)
            supervisor = Supervisor(segment, opened, options, worker_main, reception)
            supervisor.hung_up = hang_up == signal.SIG_IGN
            if reception is not None:
                reception.open(supervisor, options["path"])
            for _ in range(options["procs"]):
                supervisor.fork_worker()
        except OSError as error:  # too few descriptors or processes allowed; those that started die with us
            doors.unlink_all(prefix, slots)
            _refuse(owner, error, reception)
        if owner_fd < 0:  # before anybody knows that it runs: from then on SIGTERM ends it in order
            terminated = supervisor.terminated
            signal.signal(signal.SIGTERM, lambda signum, frame: terminated.append(signum))
        control.send(owner, {"prefix": prefix, "slots": slots, "client": options["max_ms"] + 1}, (segment.fd,))
        # Who attaches later opens the semaphores by name: then the names stay until the end.
        supervisor.loop(owner, owner_fd, lambda: doors.unlink_all(prefix, slots) if reception is None else None)
    except (BrokenPipeError, ConnectionResetError):  # the owner gave up while we were starting
        pass
    except BaseException:
        tell(traceback.format_exc().rstrip())
    finally:
        doors.unlink_all(prefix, slots)
        for number, gen in opened.made if opened is not None else ():
            sem.unlink(doors.door_name(prefix, number, gen))
        if reception is not None:  # its log says why it ended, where nobody asked it to
            reception.close(keep_log=supervisor is not None and supervisor.failed)
        os._exit(0)


def _refuse(owner: socket.socket, error: Exception, reception: Reception | None) -> NoReturn:
    """Tell the owner why there is no runtime, and end."""
    if reception is not None:
        reception.close()
    with contextlib.suppress(OSError):  # it gave up already
        control.send(owner, {"error": str(error), "kind": type(error).__name__})
    os._exit(1)


def _left_to_the_program(signum: int, frame: object) -> None:
    """What a worker does at a signal that goes to the whole group: it ends with its program, or not at all."""


def _hang_up() -> None:
    """In a fork of a worker, which is no part of us: the end of the terminal is its end again."""
    if signal.getsignal(signal.SIGHUP) is _left_to_the_program:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"


def _stand_alone(folder: names.Folder, name: str) -> None:
    """Leave the session of whoever starts us; from now on what we and the workers print goes to the log."""
    os.setsid()
    log = folder.open_log(name)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)


class _Over(BaseException):
    """Nobody is left to work for, or SIGTERM came, in the middle of what we do: it may wait for the program's lock."""


class Supervisor:
    """The state of the loop; nothing of it is shared.

    Attributes:
        workers: pidfd -> (os_pid, slot) of each worker not yet reaped.
        owner_fd: pidfd of the program, -1 where there is none, or it is seen to already.
        began: time.time of the start.
        failed: a panic or the like ended the program, and nobody was there to be told.
        hung_up: the program was started with SIGHUP ignored (nohup); so it is in the workers and their children.
        terminated: SIGTERMs that came, where it stands alone.
    """

    def __init__(
        self,
        segment: Segment,
        opened: Doors,
        options: dict[str, Any],
        worker_main: WorkerMain,
        reception: Reception | None = None,
    ) -> None:
        self.segment = segment
        w: Any = segment.w
        self.w = w
        self.doors = opened
        self.max_ms: int = options["max_ms"]
        self.worker_main = worker_main
        self.workers: dict[int, tuple[int, int]] = {}
        self.wrecks = wreck.Wrecks()
        self.poll = select.poll()
        self.free_slots = list(range(self.max_ms, 0, -1))
        self.unburied: list[tuple[int, int, str]] = []
        self.trace_ms: int = options["schedtrace"]
        self.reception = reception
        self.began = time.time()
        self.failed = self.hung_up = False
        self.owner_fd = -1
        self.terminated: list[int] = []
        self.started = time.monotonic()
        self.trace_at = self.started + self.trace_ms / 1000
        w[H_SUPERVISOR] = os.getpid()
        w[H_SLOTS] = len(opened.notes)
        w[H_ON_PANIC] = options["on_panic"]
        w[H_PREEMPT] = int(options["preempt"])
        w[S_GOID] = 1
        base = slot_base(0)
        w[base + M_OS_PID] = os.getpid()
        w[base + M_KIND] = KIND_SUPERVISOR
        if options["owner"]:
            base = slot_base(self.max_ms + 1)  # the owner's main thread
            w[base + M_OS_PID] = options["owner"]
            w[base + M_HOST] = self.max_ms + 1
            w[base + M_KIND] = KIND_CLIENT
        idle.start(w, options["procs"])
        self.thread = SupervisorThread(segment, opened.locks(w), opened.notes, 0)
        self.reaper = Reaper(self.thread, opened, self.collect)
        self.detector = Detector(self.thread)
        self.crashes = Crashes(self.thread)
        self.sysmon = Sysmon(self.thread, self.fork_worker)
        gc.collect()
        gc.freeze()  # what the workers share with us stays shared

    def fork_worker(self) -> bool:
        """Start one more M, or leave it for a moment (crashes.py); False if there are max_ms."""
        if not self.free_slots or self.w[H_STOP]:
            return False
        if not self.crashes.may_start():
            return True
        slot = self.free_slots.pop()
        base = slot_base(slot)
        w = self.w
        clear_slot(w, slot)
        while self.doors.notes[slot].acquire(False):
            pass
        w[base + M_HOST] = slot
        w[base + M_ATTENTION] = 1  # it looks for what a worker left that was the only one
        w[base + M_KIND] = KIND_WORKER
        parent = os.getpid()
        wreck_fd = self.wrecks.make(slot)
        os_pid = os.fork()
        if not os_pid:
            try:
                # Not SIG_IGN: the user's subprocesses would inherit it. Ctrl-C belongs to the user's program.
                signal.signal(signal.SIGINT, _left_to_the_program)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if not self.hung_up:
                    signal.signal(signal.SIGHUP, _left_to_the_program)
                    os.register_at_fork(after_in_child=_hang_up)
                set_death_signal(signal.SIGKILL, parent)
                set_process_name(f"mproc-go m{slot}")
                w[base + M_OS_PID] = os.getpid()
                first, second = sorted((self.segment.fd, wreck_fd))
                os.closerange(3, first)
                os.closerange(first + 1, second)
                os.closerange(second + 1, 1024)
                wreck.leave_in(wreck_fd)
                self.worker_main(self.segment, self.doors, slot)
            except BaseException:
                tell(traceback.format_exc().rstrip())
            finally:
                os._exit(70)
        try:
            fd = os.pidfd_open(os_pid)
            self.sysmon.add(slot, os_pid)
        except OSError:
            os.kill(os_pid, signal.SIGKILL)  # nobody could watch it
            os.waitpid(os_pid, 0)
            raise
        self.workers[fd] = (os_pid, slot)
        self.poll.register(fd, select.POLLIN)
        return True

    def loop(self, owner: socket.socket, owner_fd: int, opened: Callable[[], None]) -> None:
        """Watch until the owner ends the runtime or is gone. `opened` is called once it has all semaphores open.

        Args:
            owner_fd: its pidfd; -1 where there is no owner, only one who started us.
        """
        self.owner_fd = owner_fd
        try:
            self._serve(owner, opened)
        except _Over:
            self.stop(STOP_CLOSED)

    def _serve(self, owner: socket.socket, opened: Callable[[], None]) -> None:
        w, reception, owner_fd = self.w, self.reception, self.owner_fd
        if owner_fd >= 0:
            self.poll.register(owner.fileno(), select.POLLIN)
            self.poll.register(owner_fd, select.POLLIN)
        else:
            owner.close()
        while True:
            if self.terminated or (reception is not None and reception.stop_asked):
                return self.stop(STOP_CLOSED)
            if w[H_STOP] and owner_fd < 0:
                self.failed = True
                return self.stop(STOP_CLOSED)
            busy = w[S_PIDLE].bit_count() < w[S_GOMAXPROCS]
            tick_ms = TICK_MS if busy else IDLE_TICK_MS
            if self.trace_ms:
                tick_ms = min(tick_ms, max(0, int((self.trace_at - time.monotonic()) * 1000)))
            for fd, _ in self.poll.poll(tick_ms):
                if fd == owner_fd:
                    return self.stop(STOP_CLOSED)
                if reception is not None and reception.handle(fd):
                    continue
                if owner_fd >= 0 and fd == owner.fileno():
                    packet, _ = control.receive(owner)
                    if packet is None or packet.get("do") == "stop":
                        return self.stop(STOP_CLOSED)
                    if packet.get("do") == "opened":
                        opened()
            if self.trace_ms and time.monotonic() >= self.trace_at:
                self.trace()
            self.collect()
            dead, self.unburied = self.unburied, []
            for slot, os_pid, how in dead:
                self.bury(slot, os_pid, how)
            if reception is not None:
                reception.tick()
            self.reaper.settle()
            if not w[H_STOP]:
                self.reaper.mend()
                self.sysmon.tick()
                # Where somebody may attach and send, nobody waits for ever.
                if not busy and not self.unburied and reception is None and self.detector.look():
                    self.detector.report()
                    self.wake_everybody()

    def trace(self) -> None:
        """Write the scheduler's line to stderr, every `schedtrace` milliseconds."""
        now = time.monotonic()
        line = schedtrace_line(self.w, int((now - self.started) * 1000))
        tell(line)
        self.trace_at = max(now, self.trace_at + self.trace_ms / 1000)

    def collect(self) -> None:
        """Reap workers that ended, notice programs that died; what they leave is cleaned up later, in the loop.

        Raises:
            _Over: the owner is gone, or we are told to end. Whoever waits for a lock comes by here, and a lock that
                the owner had, or one who was stopped, would never be given back.
        """
        if self.terminated or (self.owner_fd >= 0 and select.select([self.owner_fd], [], [], 0)[0]):
            raise _Over
        for slot, os_pid, how in self.reception.collect() if self.reception is not None else ():
            self.reaper.dead.add(slot)
            self.unburied.append((slot, os_pid, how))
        for fd in list(self.workers):
            os_pid, slot = self.workers[fd]
            ended, status = os.waitpid(os_pid, os.WNOHANG)
            if not ended:
                continue
            del self.workers[fd]
            self.poll.unregister(fd)
            os.close(fd)
            self.sysmon.forget(slot)
            code = os.waitstatus_to_exitcode(status)
            if self.w[slot_base(slot) + M_KIND] == KIND_FREE:  # it left by itself, and nothing was bound to it
                self.free_slots.append(slot)
                continue
            self.reaper.dead.add(slot)
            self.reaper.stacks[slot] = self.wrecks.stack(slot)
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
            self.crashes.lost(slot, code, how)
            self.unburied.append((slot, os_pid, how))

    def bury(self, slot: int, os_pid: int, how: str) -> None:
        """Clean up after a worker that died, and replace it; or after a program that was attached."""
        if not self.w[H_STOP] and not self.reaper.bury(slot, os_pid, how):
            self.unburied.append((slot, os_pid, how))
            return
        if slot > self.max_ms:
            if self.reception is not None:
                self.reception.buried(slot)
            return
        self.free_slots.append(slot)
        if not self.w[H_STOP] and len(self.workers) < self.w[S_GOMAXPROCS]:
            self.fork_worker()

    def depart(self, slot: int, os_pid: int) -> None:
        """A program detaches: from now on its slots are the reaper's, as if it had died."""
        self.reaper.dead.add(slot)
        self.unburied.append((slot, os_pid, "detached"))

    def wake_everybody(self) -> None:
        """Have every thread look at H_STOP."""
        for slot, note in enumerate(self.doors.notes):
            self.w[slot_base(slot) + M_ATTENTION] = 1
            note.release()

    def stop(self, why: int) -> None:
        """End all workers: those who listen at once, the others by SIGKILL after a short grace."""
        self.owner_fd = -1
        self.terminated = []
        if not self.w[H_STOP]:
            self.w[H_STOP] = why
        self.wake_everybody()
        deadline = time.monotonic() + STOP_GRACE_S
        killed = False
        while self.workers:
            left = deadline - time.monotonic()
            if left <= 0 and not killed:
                killed = True
                for os_pid, _ in self.workers.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(os_pid, signal.SIGKILL)
            select.select(list(self.workers), [], [], max(0.001, left) if not killed else 1.0)
            self.collect()
