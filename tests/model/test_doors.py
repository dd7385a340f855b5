"""The lock that survives its holder: killed at every step, in every schedule; and what each line of it is for."""

from __future__ import annotations

import inspect
import random
import textwrap

import pytest

from mproc_go.shm import layout as L
from mproc_go.shm import lock as lock_module
from tests.model.loom import Door, run, sample

NUMBER = L.L_SCHED
VALUE, COPY = 1_000_000, 1_000_001


class Keeper:
    """The supervisor of a world."""

    def __init__(self, world, tasks):
        self.world, self.tasks = world, tasks
        self.buried = set()

    def make_shut(self, number, gen):
        self.world.doors[number, gen] = Door(self.world, 0)
        return self.world.doors[number, gen]

    def door(self, number, gen):
        return self.world.doors[number, gen]

    def living_slots(self):
        return [L.slot_base(slot) for slot, task in self.tasks.items() if task not in self.world.dead]

    def dead_slots(self):
        return [L.slot_base(slot) for slot, task in self.tasks.items() if task in self.world.dead]

    def pause(self):
        self.world.point()


def scene(world, workers, loops, lock_class, recover):
    """Workers that change two words under one lock, some of whom die, and the supervisor that repairs."""
    w = world.words
    inside = []
    tasks = {}

    def body(t):
        lock = t.locks[NUMBER]
        for _ in range(loops):
            lock.enter(w, t.ph)
            holders = [name for name in inside if name not in world.dead]
            assert not holders, "two are inside"
            inside.append(tasks[t.slot])
            assert w[VALUE] == w[COPY], "a half-done change is seen"
            w[VALUE] = w[VALUE] + 1
            w[COPY] = w[COPY] + 1
            inside.remove(tasks[t.slot])
            lock.leave(w, t.ph)

    for slot in range(1, workers + 1):
        t = world.thread(slot)
        mine = lock_class(NUMBER, world.door)
        mine.refresh(world.memory_view)
        t.locks[NUMBER] = mine
        tasks[slot] = world.spawn(f"w{slot}", lambda t=t: body(t))
    keeper = Keeper(world, tasks)

    def repair(number):
        world.memory[COPY] = world.memory.get(VALUE, 0)

    def supervise():
        while True:
            for slot, task in tasks.items():
                if task in world.dead and world.memory.get(L.slot_base(slot) + L.M_PHASE, 0):
                    recover(w, keeper, L.slot_base(slot), repair)
            if all(task.over for task in tasks.values()):
                left = [s for s, task in tasks.items() if world.memory.get(L.slot_base(s) + L.M_PHASE, 0)]
                if not left:
                    return
            world.point(lambda: any(task.over for task in tasks.values()))

    world.spawn("supervisor", supervise)
    return lambda: None


@pytest.fixture(autouse=True)
def no_spinning(monkeypatch):
    monkeypatch.setattr(lock_module, "SPIN", 0)


def normal(world, workers=3):
    return scene(world, workers, 2, lock_module.Lock, lock_module.recover)


@pytest.mark.parametrize("victims", [(0,), (0, 1)], ids=["one dies", "two die"])
def test_a_killed_holder_leaves_the_lock_usable(victims, seed):
    """Killed anywhere, also while waiting, retreating or during a repair: never two inside, never stuck, data whole."""
    sample(normal, seed, 1500, kills=victims, steps=80)


def test_killed_at_every_step(seed):
    """Each step of a worker in turn, in a few schedules each."""
    for step in range(90):
        for variant in range(4):
            rnd = random.Random(seed + variant)
            run(
                lambda world: normal(world, 2),
                lambda n, stays, rnd=rnd: 0 if stays and rnd.random() < 0.6 else rnd.randrange(n),
                {step: 0},
            )


def altered(function, old, new):
    """The function with one of its lines changed."""
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source, f"{function.__name__} has no {old!r} any more"
    namespace = dict(vars(lock_module))
    exec(source.replace(old, new), namespace)
    return namespace[function.__name__]


MUTANTS = {
    "recovery does not wait for the living": ("recover", "if not any(", "if True or not any("),
    "the old door is never posted to": ("recover", "old.release()", "pass"),
    "the new door opens before the repair": ("recover", "w[gen_word] = gen + 1", "w[gen_word] = gen + 1; new.release()"),
    "the generation is not looked at": ("enter", "if w[self.gen_word] != self.gen:", "if False:"),
    "the phase is cleared before the token is back": (
        "leave",
        "self.release()\n    w[ph] = 0",
        "w[ph] = 0\n    self.release()",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_line_of_the_protocol_is_needed(name):
    """A protocol without it is caught by the same schedules that the real one survives."""
    function, old, new = MUTANTS[name]
    lock_class, recover = lock_module.Lock, lock_module.recover
    if function == "recover":
        recover = altered(lock_module.recover, old, new)
    else:
        method = altered(getattr(lock_module.Lock, function), old, new)
        lock_class = type("Mutant", (lock_module.Lock,), {"__slots__": (), function: method})
    with pytest.raises(AssertionError):
        sample(lambda world: scene(world, 3, 2, lock_class, recover), 1, 6000, kills=(0, 1), steps=80, stay=0.5)
