"""What can be measured: the scenarios, and the subjects that the other modules register for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

__all__ = ["SCENARIOS", "Scenario", "Subject", "Wrong", "load", "matching", "subject", "subjects_of"]


class Wrong(Exception):
    """The work was done, and its result is not the one it must be."""


@dataclass(frozen=True)
class Scenario:
    """One comparison: a subject does `n` units (--quick: `quick_n`); its figure is seconds per unit times `scale`."""

    name: str
    title: str
    unit: str
    scale: float
    n: int
    quick_n: int
    plain: str | None = None  # the subject whose time is the 1.0 of the speed-up column
    ratios: bool = True  # False: the subjects are different operations, only budgets compare


@dataclass(frozen=True)
class Subject:
    """One competitor: `measure(n)` returns the seconds that n units took, or raises Wrong."""

    name: str
    measure: Callable[[int], float]
    needs: str | None  # the module without which it is left out
    budget: str  # what design.md allows it, in the scenario's unit


SCENARIOS = [
    Scenario("spsc", "one producer, one consumer, small ints", "us/message", 1e6, 50_000, 10_000),
    Scenario("spsc_msg_bytes", "one producer, one consumer, 1 KB of bytes", "us/message", 1e6, 30_000, 5_000),
    Scenario("spsc_msg_dict", "one producer, one consumer, small dicts", "us/message", 1e6, 30_000, 5_000),
    Scenario("mpmc", "two producers, two consumers, small ints", "us/message", 1e6, 50_000, 10_000),
    Scenario("pingpong_remote", "round trip between two processes", "us/round trip", 1e6, 10_000, 2_000),
    Scenario("pingpong_local", "round trip within one process", "us/round trip", 1e6, 20_000, 5_000),
    Scenario("hot", "one hot operation inside one process", "us/operation", 1e6, 200_000, 50_000, ratios=False),
    Scenario("spawn", "spawn no-ops one by one, wait for all", "us/task", 1e6, 20_000, 3_000),
    Scenario("startup", "start with two workers, run a no-op, end", "ms/start", 1e3, 5, 2),
    Scenario("kills", "a worker is killed while others use its channel", "ms/kill", 1e3, 50, 10, ratios=False),
    Scenario("balance", "P-time idle while work waited", "% of P-time", 100, 2_000, 400, ratios=False),
    Scenario("arrays_send", "64 MB of numbers from one process to another", "ms/array", 1e3, 20, 5),
    Scenario(
        "arrays_query",
        "how many of 8 million numbers lie in an interval",
        "ms/question",
        1e3,
        40,
        8,
        plain="one process, plain NumPy",
    ),
    Scenario("maps_shared", "store and load one of 1,000 keys by turns", "us/operation", 1e6, 50_000, 5_000),
    Scenario("maps_two", "the same in two processes at once", "us/operation", 1e6, 50_000, 5_000),
    Scenario("maps_growth", "store and load one of many keys by turns", "us/operation", 1e6, 100_000, 5_000),
    Scenario("maps_keyed", "keyed channel: 1,000 keys, nobody waits", "us/operation", 1e6, 50_000, 5_000, ratios=False),
    Scenario("loops_receive", "another process sends, an asyncio task receives", "us/message", 1e6, 50_000, 5_000),
    Scenario("loops_pingpong", "round trip of an asyncio task to another process", "us/round trip", 1e6, 10_000, 1_000),
    Scenario("loops_thread", "a thread sends, an asyncio task receives", "us/message", 1e6, 50_000, 5_000),
    Scenario("loops_local", "two asyncio tasks of one loop", "us/message", 1e6, 50_000, 10_000),
    Scenario("cpu", "uneven CPU-bound tasks of 0.5 ms on average", "us/task", 1e6, 2_000, 400, plain="plain loop"),
]

_subjects: dict[str, list[Subject]] = {scenario.name: [] for scenario in SCENARIOS}


def subject(
    scenario: str, name: str, *, needs: str | None = None, budget: str = ""
) -> Callable[..., Callable[..., float]]:
    """Register the decorated function as a subject of `scenario`; the table keeps the order of registering."""

    def register(measure: Callable[[int], float]) -> Callable[[int], float]:
        _subjects[scenario].append(Subject(name, measure, needs, budget))
        return measure

    return register


def load() -> None:
    """Import every module that registers subjects."""
    names = "channels mpmc pingpong hot spawn startup kills balance arrays maps loops cpu golang"
    for name in names.split():
        import_module(f"mproc_bench.{name}")


def subjects_of(scenario: str) -> list[Subject]:
    return sorted(_subjects[scenario], key=lambda s: s.needs == "go")  # Go last: it is no rival for a Python program


def matching(word: str) -> list[Scenario]:
    """The scenario of that name, else all whose name begins with it: `pingpong` means both."""
    return [s for s in SCENARIOS if s.name == word] or [s for s in SCENARIOS if s.name.startswith(word + "_")]
