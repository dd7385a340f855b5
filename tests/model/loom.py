"""A small loom: the real code over words that switch tasks at every access, explored schedule by schedule.

Every read and store of a shared word, and every semaphore operation, is a point at which another task may go on (or the
task may die). :func:`explore` runs all schedules with at most a number of preemptions, depth first; :func:`sample` draws
random ones. A failure prints the schedule, which :func:`replay` runs again. It explores interleavings, not weak memory
order: the memory here is sequentially consistent.

Source: CHESS (Musuvathi and others, 2008) for the preemption bound; loom and shuttle for Rust for the form.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from greenlet import getcurrent, greenlet

from mproc_go.shm import layout as L
from mproc_go.shm.lock import Lock
from mproc_go.shm.thread import Thread


class Stuck(AssertionError):
    """Nobody can go on, and not everybody is done."""


class Killed(BaseException):
    """Thrown into a task that dies, so that its greenlet ends; it stores nothing any more."""


class World:
    """One run: memory, semaphores, tasks.

    Attributes:
        dead: tasks that were killed.
    """

    def __init__(self) -> None:
        self.hub = getcurrent()
        self.memory: dict[int, int] = {}
        self.words = Words(self)
        self.bytes = Bytes(self)
        self.tasks: list[Task] = []
        self.dead: set[Task] = set()
        self.doors: dict[tuple[int, int], Door] = {}
        self.locks = [Lock(number, self.door) for number in range(L.N_LOCKS)]
        self.notes = [Door(self, 0) for _ in range(16)]
        for number in range(L.N_LOCKS):
            self.doors[number, 0] = Door(self, 1)

    def door(self, number: int, gen: int) -> Door:
        return self.doors[number, gen]

    def thread(self, slot: int) -> LoomThread:
        """A thread with locks of its own, as a process of its own has them."""
        locks = [Lock(number, self.door) for number in range(L.N_LOCKS)]
        for lock in locks:
            lock.refresh(self.memory_view)
        return LoomThread(self, locks, slot)

    @property
    def memory_view(self) -> Peek:
        """The words without switch points, for set-up and checks."""
        return Peek(self)

    def spawn(self, name: str, body: Callable[[], None]) -> Task:
        task = Task(self, name, body)
        self.tasks.append(task)
        return task

    def point(self, ready: Callable[[], bool] | None = None) -> None:
        """A point at which others may go on; with `ready`, the task goes on only once that holds."""
        task = getcurrent()
        if isinstance(task, Task):
            task.ready = ready
            self.hub.switch()
            task.ready = None


class Task(greenlet):
    """A process, or a thread of one."""

    def __init__(self, world: World, name: str, body: Callable[[], None]) -> None:
        super().__init__(self._main, world.hub)
        self.world, self.name, self.body = world, name, body
        self.ready: Callable[[], bool] | None = None
        self.over = False

    def _main(self) -> None:
        try:
            self.body()
        except Killed:
            pass
        self.over = True

    def can_run(self) -> bool:
        return not self.over and (self.ready is None or self.ready())


class Peek:
    def __init__(self, world: World) -> None:
        self.memory = world.memory

    def __getitem__(self, index: int) -> int:
        return self.memory.get(index, 0)

    def __setitem__(self, index: int, value: int) -> None:
        self.memory[index] = value


class Words:
    """Shared words; each access is a switch point."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getitem__(self, index: int) -> int:
        self.world.point()
        return self.world.memory.get(index, 0)

    def __setitem__(self, index: int, value: int) -> None:
        self.world.point()
        self.world.memory[index] = value


class Bytes:
    """The same memory as bytes; a copy is one access (it happens under a lock)."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getitem__(self, where: slice) -> bytes:
        first, last = where.start // 8, -(-where.stop // 8)
        data = b"".join(self.world.memory.get(i, 0).to_bytes(8, "little") for i in range(first, last))
        return data[where.start - first * 8 : where.stop - first * 8]

    def __setitem__(self, where: slice, data: bytes) -> None:
        self.world.point()
        for i in range(0, len(data), 8):
            self.world.memory[where.start // 8 + i // 8] = int.from_bytes(data[i : i + 8], "little")


class Door:
    """A semaphore."""

    def __init__(self, world: World, tokens: int) -> None:
        self.world, self.tokens = world, tokens

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        self.world.point((lambda: self.tokens > 0) if block else None)
        if not self.tokens:
            return False
        self.tokens -= 1
        return True

    def release(self) -> None:
        self.world.point()
        self.tokens += 1


class _Segment:
    def __init__(self, world: World) -> None:
        self.w, self.mem = world.words, world.bytes


class LoomThread(Thread):
    """A thread whose words, bytes and locks are the world's."""

    def __init__(self, world: World, locks: list[Lock], slot: int) -> None:
        super().__init__(_Segment(world), locks, world.notes, slot)
        self.world = world
        self.g = 0

    def park(self, reason: int, deadline: float | None = None) -> int:
        """Wait to be decided, as a thread without a hub does."""
        decide = self.g + L.G_DECIDE
        self.world.point(lambda: bool(self.world.memory.get(decide, 0)))
        return self.world.memory[decide]

    def ready(self, g: int) -> None:
        self.world.point()

    def begin_wait(self) -> int:
        self.w[self.g + L.G_DECIDE] = 0
        return self.g


# ---------------------------------------------------------------- exploring
Build = Callable[[World], Callable[[], None]]


def run(build: Build, choose: Callable[[int, bool], int], kills: dict[int, int] | None = None) -> None:
    """Run one schedule: `build(world)` spawns tasks and returns the final check.

    Args:
        choose: ``choose(n, preempts)`` picks one of `n` tasks that can run, 0 the one that ran last (if `preempts`).
        kills: step -> index of the task to kill there.
    """
    world = World()
    check = build(world)
    current: Task | None = None
    step = 0
    while True:
        if kills and step in kills:
            victim = world.tasks[kills[step]]
            if not victim.over:
                world.dead.add(victim)
                victim.over = True
        runnable = [task for task in world.tasks if task.can_run()]
        if not runnable:
            break
        stays = current in runnable
        if stays:
            runnable.remove(current)
            runnable.insert(0, current)
        current = runnable[choose(len(runnable), stays)]
        current.switch()
        step += 1
        assert step < 20_000, "the run does not end"
    for task in world.tasks:
        if task in world.dead:
            continue
        if not task.over:
            raise Stuck(f"{[t.name for t in world.tasks if not t.over and t not in world.dead]} wait for ever")
    check()


def explore(build: Build, preemptions: int = 2, most: int = 200_000) -> int:
    """Run every schedule with at most that many preemptions; return how many there were.

    Raises:
        AssertionError: one failed; the note says which.
    """
    plan: list[int] = []
    count = 0
    while True:
        taken: list[tuple[int, int, int]] = []  # (choice, alternatives, preemptions so far)
        used = 0

        def choose(n: int, stays: bool, plan=plan, taken=taken) -> int:
            nonlocal used
            at = len(taken)
            choice = plan[at] if at < len(plan) else 0
            taken.append((choice, n if not stays or used < preemptions else 1, used))
            if stays and choice:
                used += 1
            return choice

        try:
            run(build, choose)
        except BaseException as error:
            error.add_note(f"schedule {count}: {[choice for choice, _, _ in taken]}")
            raise
        count += 1
        assert count < most, f"more than {most} schedules"
        while taken and taken[-1][0] + 1 >= taken[-1][1]:
            taken.pop()
        if not taken:
            return count
        plan = [choice for choice, _, _ in taken[:-1]] + [taken[-1][0] + 1]


def sample(build: Build, seed: int, runs: int, kills: Iterable[int] = (), steps: int = 400, stay: float = 0.7) -> int:
    """Run random schedules; with `kills`, one of those tasks dies at a random step of each. Return the number of runs."""
    for i in range(runs):
        rnd = random.Random(seed * 1_000_003 + i)
        killed = {rnd.randrange(steps): victim for victim in kills}

        def choose(n: int, stays: bool, rnd=rnd) -> int:
            return 0 if stays and rnd.random() < stay else rnd.randrange(n)

        try:
            run(build, choose, killed)
        except BaseException as error:
            error.add_note(f"seed {seed}, run {i}, kills {killed}")
            raise
    return runs
