"""A small loom: the real code over words that switch tasks at every access, explored schedule by schedule.

Every read and store of a shared word, and every semaphore operation, is a point at which another task may go on (or the
task may die). What is private to a process costs no point. There are four ways through the schedules:

* :func:`every`: all of them, without a bound; states that were seen already are not gone into again. What a task will do
  is a function of what it has read, so a state is the memory, the semaphores and a hash of what each task has read.
* :func:`explore`: all with at most a number of preemptions, for what is too large for that.
* :func:`sample`: random ones; :func:`pct`: random ones by priorities with a few changes, which finds bugs that need few
  ordered events (Source: Burckhardt and others, 2010).

A failure carries its schedule as a note; :func:`replay` runs it again.

Memory is sequentially consistent, or with ``tso=True`` as on x86: each task's stores wait in a buffer that it alone
sees, until they come out in order at a moment of the scheduler's choice, or at a semaphore operation (Source: Owens,
Sarkar, Sewell, "A better x86 memory model", 2009).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from mproc_go.shm import layout as L
from mproc_go.shm.lock import Lock
from mproc_go.shm.thread import Thread

# Steps after which a schedule counts as one that never ends.
MOST_STEPS = 20_000

# Steps after which also pct lets another go on: one who spins waits for the others.
FAIR = 500

# Schedules run and states seen, by test; printed at the end of the run (conftest.py).
explored: Counter[str] = Counter()


class Stuck(AssertionError):
    """Nobody can go on, and not everybody is done."""


class World:
    """One run: memory, semaphores, tasks.

    Attributes:
        tasks: all of them.
        dead: those that were killed.
        steps: accesses so far.
        invariant: called after each step, where given.
        closed: the run is over; what still unwinds changes nothing.
    """

    def __init__(self, tso: bool = False) -> None:
        self.hub = getcurrent()
        self.memory: dict[int, int] = {}
        self.memory_hash = 0
        self.words = Words(self)
        self.bytes = Bytes(self)
        self.memory_view = Peek(self)
        self.tasks: list[Task] = []
        self.running: Task | None = None
        self.dead: set[Task] = set()
        self.doors: dict[tuple[int, int], Door] = _Made(lambda key: Door(self, 1 if key[1] == 0 else 0))
        self.notes: dict[int, Door] = _Made(lambda slot: Door(self, 0))
        self.semaphores: list[Door] = []
        self.segment = SimpleNamespace(w=self.words, mem=self.bytes, commit=_nothing, give_back=_nothing)
        self.tso = tso
        self.steps = 0
        self.invariant: Callable[[], None] | None = None
        self.closed = False

    def door(self, number: int, gen: int) -> Door:
        return self.doors[number, gen]

    def locks(self) -> Any:
        """The locks as a process of its own has them."""

        def make(number: int) -> Lock:
            lock = Lock(number, self.door)
            lock.refresh(self.memory_view)  # type: ignore[arg-type]
            return lock

        return _Made(make)

    def thread(self, slot: int) -> LoomThread:
        """A thread of a process of its own."""
        return LoomThread(self, slot)

    def spawn(self, name: str, body: Callable[[], None], daemon: bool = False, mortal: bool = True) -> Task:
        """Add a task. A daemon may wait for ever; one that is not mortal is never killed."""
        task = Task(self, name, body, daemon, mortal)
        self.tasks.append(task)
        return task

    def point(self, ready: Callable[[], bool] | None = None) -> None:
        """A point at which others may go on; with `ready`, the task goes on only once that holds."""
        if self.closed:
            raise GreenletExit  # a task that is being ended does nothing more
        task = self.running
        if task is None:
            return
        task.ready = ready
        task.at = getcurrent()  # a fiber of the task, if it has some
        self.hub.switch()
        task.ready = None
        task.seen = hash((task.seen, None))
        task.steps += 1
        self.steps += 1

    def note(self, value: Any = None) -> None:
        """Remember what the running task has read: what it does from now on depends on it."""
        task = self.running
        if task is not None:
            task.seen = hash((task.seen, value))

    def forget(self, *label: Any) -> None:
        """Say that what the running task does from here on depends on `label` alone, not on what it read before."""
        if self.running is not None:
            self.running.seen = hash((self.running.name, label))

    def store(self, index: int, value: int) -> None:
        """A store that comes out of the buffer, or goes past it."""
        old = self.memory.get(index, 0)
        if old != value:
            if old:
                self.memory_hash ^= hash((index, old))
            if value:
                self.memory_hash ^= hash((index, value))
            self.memory[index] = value

    def flush(self, task: Task) -> None:
        for index, value in task.buffer:
            self.store(index, value)
        task.buffer.clear()

    def close(self) -> None:
        """End all tasks that have not ended."""
        self.closed = True
        self.running = None
        for task in self.tasks:
            for end in (task.at, task):
                if end is not None and not end.dead:
                    end.throw(GreenletExit)


class Task(greenlet):
    """A process, or a thread of one.

    Attributes:
        at: the greenlet to switch to: the task's own, or a fiber of it.
        seen: hash of what it has read so far.
        steps: accesses so far.
        buffer: stores that others don't see yet (tso).
    """

    def __init__(self, world: World, name: str, body: Callable[[], None], daemon: bool, mortal: bool) -> None:
        super().__init__(self._main, world.hub)
        self.world, self.name, self.body, self.daemon, self.mortal = world, name, body, daemon, mortal
        self.ready: Callable[[], bool] | None = None
        self.at: Any = self
        self.over = False
        self.seen = len(world.tasks)
        self.steps = 0
        self.buffer: list[tuple[int, int]] = []

    def _main(self) -> None:
        self.seen = hash((self.seen, "started"))
        self.body()
        self.over = True

    def can_run(self) -> bool:
        return not self.over and (self.ready is None or self.ready())

    def __repr__(self) -> str:
        return self.name


class _Made(dict):  # type: ignore[type-arg]
    """What is made when it is first asked for: a world has hundreds of locks, a schedule uses three."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: Any) -> Any:
        value = self[key] = self.make(key)
        return value


def _nothing(*args: Any) -> None:
    pass


class Peek:
    """The words without switch points, for set-up and checks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.memory = world.memory

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> int:
        return self.memory.get(index, 0)

    def __setitem__(self, index: int, value: int) -> None:
        self.world.store(index, value)


class Words:
    """Shared words; each access is a switch point."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> int:
        world = self.world
        world.point()
        value = world.memory.get(index, 0)
        task = world.running
        if task is not None:
            for at, stored in task.buffer:
                if at == index:
                    value = stored
            task.seen = hash((task.seen, value))
        return value

    def __setitem__(self, index: int, value: int) -> None:
        assert 0 <= value < 1 << 64, f"{value} is no word"
        world = self.world
        world.point()
        if world.tso and world.running is not None:
            world.running.buffer.append((index, value))
        else:
            world.store(index, value)
        world.note()


class Bytes:
    """The same memory as bytes; a copy is one access (it happens under a lock)."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getitem__(self, where: slice) -> bytes:
        first, last = where.start // 8, -(-where.stop // 8)
        data = b"".join(self.world.memory.get(i, 0).to_bytes(8, "little") for i in range(first, last))
        data = data[where.start - first * 8 : where.stop - first * 8]
        self.world.note(data)
        return data

    def __setitem__(self, where: slice, data: bytes) -> None:
        world = self.world
        assert where.start % 8 == 0
        world.point()
        for i in range(0, len(data), 8):
            world.store(where.start // 8 + i // 8, int.from_bytes(data[i : i + 8], "little"))
        world.note()


class Door:
    """A semaphore; every operation is a full fence."""

    def __init__(self, world: World, tokens: int) -> None:
        self.world, self.tokens = world, tokens
        world.semaphores.append(self)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """With a timeout, being scheduled without a token is the timeout."""
        world = self.world
        world.point(self._has_one if block and timeout is None else None)
        if world.running is not None:
            world.flush(world.running)
        got = self.tokens > 0
        if got:
            self.tokens -= 1
        world.note(got)
        return got

    def _has_one(self) -> bool:
        return self.tokens > 0

    def release(self) -> None:
        world = self.world
        world.point()
        if world.running is not None:
            world.flush(world.running)
        self.tokens += 1
        world.note()


class LoomThread(Thread):
    """A thread whose words, bytes and locks are the world's; it waits for its own decision word to be stored.

    Attributes:
        readied: goroutines it made ready.
    """

    def __init__(self, world: World, slot: int) -> None:
        super().__init__(world.segment, world.locks(), world.notes, slot)  # type: ignore[arg-type]
        self.world = world
        self.g = 0
        self.readied: list[int] = []

    def park(self, deadline: float | None = None) -> int:
        """Wait to be decided; with a deadline, being scheduled undecided is the timeout."""
        world = self.world
        decide = self.g + L.G_DECIDE
        world.point(None if deadline is not None else lambda: bool(world.memory.get(decide, 0)))
        decision = world.memory.get(decide, 0)
        world.note(decision)
        return decision

    def ready(self, g: int) -> None:
        self.readied.append(g)

    def begin_wait(self, reason: int) -> int:
        self.w[self.g + L.G_DECIDE] = 0
        return self.g

    def waits(self) -> bool:
        """Nobody calls from a finalizer."""
        return False

    def end_wait(self) -> None:
        """No worker dies in this world, so nobody asks."""

    def take_delivery(self) -> None:
        """Decided is delivered, here."""

    def interrupted(self) -> None:
        raise AssertionError("nobody stops this world")


# ---------------------------------------------------------------- one schedule
Build = Callable[[World], "Callable[[], None] | None"]

_RUN, _FLUSH, _KILL = "run", "flush", "kill"
Option = tuple[str, "Task"]


class Run:
    """One schedule under way. `build(world)` spawns the tasks and returns the final check."""

    def __init__(self, build: Build, kills: int = 0, tso: bool = False) -> None:
        self.world = World(tso)
        self.check = build(self.world)
        self.kills = kills
        self.current: Task | None = None
        self.choices: list[int] = []
        self.preemptions = 0

    def options(self) -> list[Option]:
        """What can happen next: first that the same task goes on; last the deaths."""
        world, current = self.world, self.current
        found = [(_RUN, task) for task in world.tasks if task is not current and task.can_run()]
        if current is not None and current.can_run():
            found.insert(0, (_RUN, current))
        if world.tso:
            found += [(_FLUSH, task) for task in world.tasks if task.buffer]
        if found and self.kills:
            found += [(_KILL, task) for task in world.tasks if not task.over and task.mortal]
        return found

    def do(self, options: list[Option], choice: int) -> None:
        what, task = options[choice]
        self.choices.append(choice)
        if what == _RUN:
            if task is not self.current and self.current is not None and options[0] == (_RUN, self.current):
                self.preemptions += 1
            self.current = self.world.running = task
            task.at.switch()
            self.world.running = None
            assert self.world.steps < MOST_STEPS, "the run does not end"
        elif what == _FLUSH:
            self.world.store(*task.buffer.pop(0))
        else:
            self.kill(task)

    def kill(self, task: Task) -> None:
        """The task dies where it is; what it stored is seen, as it is once a process was reaped."""
        self.kills -= 1
        self.world.flush(task)
        task.over = True
        self.world.dead.add(task)

    def state(self) -> int:
        """Equal for two runs that can only go on in the same ways."""
        world = self.world
        tasks = tuple((t.seen, t.can_run(), t in world.dead, tuple(t.buffer)) for t in world.tasks)
        cap = len(world.tasks)  # more tokens than tasks make no difference
        doors = tuple(min(door.tokens, cap) for door in world.semaphores)
        return hash((world.memory_hash, tasks, doors, self.kills))

    def finish(self) -> None:
        """Nothing can happen any more: everybody is done, and the check holds."""
        waiting = [task for task in self.world.tasks if not task.over and not task.daemon]
        if waiting:
            raise Stuck(f"{waiting} wait for ever")
        if self.check is not None:
            self.check()


def _go(run: Run, choose: Callable[[list[Option]], int | None]) -> bool:
    """Run to the end, `choose` picking what happens; False if it chose to give up."""
    try:
        while True:
            options = run.options()
            if not options:
                run.finish()
                return True
            choice = choose(options)
            if choice is None:
                return False
            run.do(options, choice)
            if run.world.invariant is not None:
                run.world.invariant()
    except BaseException as error:
        error.add_note(f"replay({run.choices})")
        raise
    finally:
        run.world.close()


def _runs(options: list[Option]) -> int:
    """How many of the options are somebody's going on: these come first."""
    return sum(1 for what, _ in options if what == _RUN)


def replay(build: Build, choices: Sequence[int], kills: int = 0, tso: bool = False) -> None:
    """Run the schedule of a note again, the same `kills` and `tso` given; from its end on, whoever comes first."""
    left = list(choices)
    _go(Run(build, kills, tso), lambda options: left.pop(0) if left else 0)


# ---------------------------------------------------------------- many schedules
def every(build: Build, kills: int = 0, tso: bool = False, most: int = 400_000, report: str = "") -> int:
    """Run all schedules; return how many states there are.

    Args:
        kills: how many tasks die, each at every point.
        most: states after which it is an error, since the test would take for ever.
    """
    seen: set[int] = set()
    plans: list[list[int]] = [[]]
    runs = 0
    while plans:
        plan = plans.pop()
        run = Run(build, kills, tso)

        def choose(options: list[Option], run: Run = run, plan: list[int] = plan) -> int | None:
            at = len(run.choices)
            if at < len(plan):
                return plan[at]
            state = run.state()
            if state in seen:
                return None
            seen.add(state)
            if len(seen) >= most:
                raise RuntimeError(f"more than {most} states")
            plans.extend([*run.choices, other] for other in range(len(options) - 1, 0, -1))
            return 0

        _go(run, choose)
        runs += 1
    explored[report or "every: states"] += len(seen)
    return len(seen)


def explore(build: Build, preemptions: int = 2, kills: int = 0, most: int = 200_000) -> int:
    """Run every schedule with at most that many preemptions (and deaths); return how many there were."""
    plan: list[int] = []
    count = 0
    while True:
        taken: list[tuple[int, int]] = []  # (choice, alternatives)
        run = Run(build, kills)

        def choose(options: list[Option], run: Run = run, plan: list[int] = plan, taken: list[Any] = taken) -> int:
            at = len(taken)
            choice = plan[at] if at < len(plan) else 0
            forced = run.current is not None and options[0] == (_RUN, run.current) and run.preemptions >= preemptions
            taken.append((choice, 1 if forced else len(options)))
            return choice

        _go(run, choose)
        count += 1
        if count >= most:
            raise RuntimeError(f"more than {most} schedules")
        while taken and taken[-1][0] + 1 >= taken[-1][1]:
            taken.pop()
        if not taken:
            explored["explore: schedules"] += count
            return count
        plan = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


def sample(
    build: Build,
    seed: int,
    runs: int,
    kills: Iterable[int] = (),
    steps: int = 400,
    stay: float = 0.7,
    tso: bool = False,
) -> int:
    """Run random schedules; of `kills` (indices of tasks) each dies at a random step. Return the number of runs."""
    kills = tuple(kills)
    for i in range(runs):
        rnd = random.Random(seed * 1_000_003 + i)
        deaths = {rnd.randrange(steps): victim for victim in kills}
        run = Run(build, len(kills), tso)

        def choose(options: list[Option], rnd: random.Random = rnd, run: Run = run, deaths: Any = deaths) -> int:
            victim = deaths.get(len(run.choices))
            death = (_KILL, run.world.tasks[victim]) if victim is not None else None
            if death in options:
                return options.index(death)
            n = _runs(options)
            if n and options[0] == (_RUN, run.current) and rnd.random() < stay:
                return 0
            return rnd.randrange(sum(1 for what, _ in options if what != _KILL))

        try:
            _go(run, choose)
        except BaseException as error:
            error.add_note(f"seed {seed}, run {i}, kills={len(kills)}, tso={tso}")
            raise
    explored["sample: schedules"] += runs
    return runs


def pct(build: Build, seed: int, runs: int, changes: int = 3, steps: int = 400) -> int:
    """Run the task of the highest priority; at a few random steps the one that runs drops to the lowest."""
    for i in range(runs):
        rnd = random.Random(seed * 1_000_003 + i)
        drops = {rnd.randrange(steps) for _ in range(changes)}
        rank: dict[Task, float] = {}
        run = Run(build)

        def choose(options: list[Option], rnd: Any = rnd, run: Run = run, drops: Any = drops, rank: Any = rank) -> int:
            at = len(run.choices)
            if run.current is not None and (at in drops or at % FAIR == FAIR - 1):
                rank[run.current] = -at - 1.0
            return max(range(_runs(options)), key=lambda k: rank.setdefault(options[k][1], rnd.random()))

        try:
            _go(run, choose)
        except BaseException as error:
            error.add_note(f"seed {seed}, run {i} (pct)")
            raise
    explored["pct: schedules"] += runs
    return runs
