"""The small programs of docs/examples run as scripts, as a reader starts them, and print what they promise."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mproc_go.errors import EXIT_PANIC

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"

# name: the lines it prints; a compiled one need only match
PRINTS = {
    "bounded_parallelism": [
        "semaphore: 30 pieces, never more than 3 at a time: True",
        "tokens: 30 pieces, never more than 3 at a time: True",
        "group: piece 4 is broken; never more than 3 at a time: True",
        "weighted: 30 pieces of 1 to 10, never more than 10 in all: True",
    ],
    "chat_server": [
        "Ann heard: Ann has arrived; Bob has arrived; Cid has arrived; Ann: hello, everybody; Bob: hello, Ann; "
        "Cid: it is late",
        "Bob heard: Bob has arrived; Cid has arrived; Ann: hello, everybody; Bob: hello, Ann; Cid: it is late; "
        "Ann has left",
        "Cid heard: Cid has arrived; Ann: hello, everybody; Bob: hello, Ann; Cid: it is late; Ann has left",
        "Dan heard at the end: (the server closed)",
    ],
    "context_search": [
        "request 42: 'word 600' is at 600; 3 replicas stopped searching",
        "context deadline exceeded; 4 replicas stopped searching",
        "a timeout of nothing has passed already",
    ],
    "daisy_chain": ["10001 goroutines", "the first one hears 10001"],
    "dining_philosophers": [*(f"philosopher {n} ate 20 times" for n in range(5)), "0 forks were in two hands"],
    "fan_in": [
        "Ann 0; Ann 1; Ann 2; Ann 3; Ann 4",
        "Bob 0; Bob 1; Bob 2; Bob 3; Bob 4",
        "Ann 0 and Bob 0",
        "Ann 1 and Bob 1",
        "Ann 2 and Bob 2",
        "boring 2",
        "see you, I said 3 things",
    ],
    "feed_reader": [
        *(f"blog.golang.org item {n}" for n in range(5)),
        "closed: connection lost",
        "(None, False)",
    ],
    "google_search": [
        "1.0: image result for 'golang', video result for 'golang', web result for 'golang'",
        "2.0: image result for 'golang', video result for 'golang', web result for 'golang'",
        "timed out",
        # on a machine that is busy enough the others are too slow as well
        re.compile("2.1: ((video|web) result for 'golang'(, )?)*$"),
        "3.0: image result for 'golang', video result for 'golang', web result for 'golang'",
    ],
    "heartbeat": ["[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 50]", "restarted", "nothing is left to do"],
    "load_balancer": ["200 requests served", f"sum of squares: {sum(n * n for n in range(200))}"],
    "or_done": ["['0+0', '1+1', '2+2', '3+3', '4+4', '5+5', '6+6', '7+7']", "all have ended"],
    "ping_pong": ["1000 hits, 999 changes of side"],
    "pipeline_md5": [
        "walk complete",
        "b2ceaaf9e8e069f625fe50a54ba2d733 0.txt",
        "0aa4e235e149566764dac2a0f9906b30 1.txt",
        "2a6cc50fef0890c26c01fe6a4a4d45e7 2.txt",
        "81108843b70f40a059cf5f9c5c96f15d 3.txt",
        "walk canceled",
        "no such file: 0.broken",
    ],
    "prime_sieve": [
        "2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59 61 67 71 73 79 83 89 97",
        "25 goroutines in a row",
    ],
    "pubsub": [
        "Ann heard 50: weather 0 .. weather 49",
        "Bob heard 50: weather 0 .. weather 49",
        "Cid heard 20: sport 0 .. sport 19",
        "the slow one was dropped after ['weather 0', 'weather 1', 'weather 2']",
    ],
    "rate_limiter": [f"served {list(range(10))}", "0 of 7 came before their token"],
    "single_flight": [
        "[0, 1, 4, 9] for 40 who asked; 4 fetched",
        "10 were told: no luck with -3",
        "the next one got 9 after 2 fetches",
    ],
    "word_count": ["all the same: True", "the most frequent: ban"],
    "worker_pool": [
        "job 0: no way down from 0",
        "2000 jobs; the longest way down is from 1161, in 181 steps",
    ],
}
# Run by the two tests below, and by test_examples.py.
OTHERS = {"analyse", "dining_deadlock", "mandelbrot", "number_queries"}


def mproc_go_run(name, *args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mproc_go", "run", EXAMPLES / f"{name}.py", *args],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("name", PRINTS)
def test_prints_what_it_promises(name):
    done = mproc_go_run(name)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line, promised in zip(lines, PRINTS[name], strict=True):
        assert promised.match(line) if isinstance(promised, re.Pattern) else promised == line


def test_philosophers_who_deadlock_are_told_so():
    """Every goroutine's state, reason and stack, and the circle of five; exit status 2, and nobody ate."""
    done = mproc_go_run("dining_deadlock")
    assert (done.returncode, done.stdout) == (EXIT_PANIC, "")
    assert done.stderr.startswith(
        "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [sync.WaitGroup.Wait]:\n"
    )
    assert len(re.findall(r"^goroutine \d+ \[sync.Mutex.Lock\]:$", done.stderr, re.MULTILINE)) == 5
    assert done.stderr.count("in dine\n    with forks[(seat + 1) % PHILOSOPHERS]:\n") == 5
    circle = re.search(r"^who waits for whom: goroutine (.*)$", done.stderr, re.MULTILINE)[1].split(" -> ")
    assert circle[0] == circle[-1]
    assert len(set(circle)) == 5


def test_a_ball_nobody_serves_is_a_deadlock():
    done = mproc_go_run("ping_pong", "dropped")
    assert (done.returncode, done.stdout) == (EXIT_PANIC, "")
    assert len(re.findall(r"^goroutine \d+ \[chan receive\]:$", done.stderr, re.MULTILINE)) == 3


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_says_what_it_shows(example):
    """It is run by a test, and its first words are for the reader: what it shows, and where it is from."""
    assert example.stem in PRINTS.keys() | OTHERS
    said = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8")))
    assert said and len(said.splitlines()[0]) <= 120
    assert "Source: " in said or example.stem == "analyse"
