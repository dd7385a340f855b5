"""Google Search 1.0 to 3.0: from one after the other to replicated, in four steps, without locks or callbacks.

* 1.0 asks web, image and video one after the other;
* 2.0 asks all three at once and takes the answers as they come;
* 2.1 does not wait for servers that are too slow;
* 3.0 asks several replicas of each and takes whoever is first.

The servers here are functions that take a while; one of the image servers takes far too long. With the argument
``times`` it says how long each search took.

Source: Rob Pike, "Go Concurrency Patterns" (Google I/O 2012), slides 42 to 51.
"""

import sys
import time
from collections.abc import Callable

from mproc_go import Chan, after, go, run, select, sleep

KINDS = ("web", "image", "video")
TIMEOUT_S = 0.5
Search = Callable[[str], str]


def server(kind: str, seconds: float) -> Search:
    """A server that answers after so many seconds. A closure: it travels to its goroutine by value."""

    def search(query: str) -> str:
        sleep(seconds)
        return f"{kind} result for {query!r}"

    return search


def google_1(query: str) -> list[str]:
    return [server(kind, 0.02)(query) for kind in KINDS]


def google_2(query: str) -> list[str]:
    answers: Chan[str] = Chan()
    for kind in KINDS:
        go(lambda search: answers.send(search(query)), server(kind, 0.02))
    return [answers.recv() for _ in KINDS]


def google_2_1(query: str) -> list[str]:
    answers: Chan[str] = Chan(len(KINDS))  # room for all: an answer nobody waits for blocks nobody
    for kind in KINDS:
        go(lambda search: answers.send(search(query)), server(kind, 60 if kind == "image" else 0.02))
    timeout = after(TIMEOUT_S)  # one for all, not one for each
    found = []
    for _ in KINDS:
        chosen = select(answers.recv, timeout.recv)
        if chosen.index == 1:
            print("timed out")
            break
        found.append(chosen.value)
    return found


def first(query: str, *replicas: Search) -> str:
    """The answer of whoever is first."""
    answers: Chan[str] = Chan(len(replicas))
    for replica in replicas:
        go(lambda search: answers.send(search(query)), replica)
    return answers.recv()


def google_3(query: str) -> list[str]:
    answers: Chan[str] = Chan()
    for kind in KINDS:
        replicas = [server(kind, seconds) for seconds in (60, 0.02, 60)]
        go(lambda replicas: answers.send(first(query, *replicas)), replicas)
    return [answers.recv() for _ in KINDS]


def main() -> None:
    for name, google in (("1.0", google_1), ("2.0", google_2), ("2.1", google_2_1), ("3.0", google_3)):
        began = time.monotonic()
        answers = google("golang")
        took_ms = (time.monotonic() - began) * 1000
        print(f"{name}: {', '.join(sorted(answers))}")
        if "times" in sys.argv[1:]:
            print(f"     {took_ms:.0f} ms")


if __name__ == "__main__":
    run(main)
