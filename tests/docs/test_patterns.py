"""The small programs of docs/examples run as scripts, as a reader starts them, and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"

PRINTS = {
    "dining_philosophers": [*(f"philosopher {n} ate 20 times" for n in range(5)), "0 forks were in two hands"],
    "rate_limiter": [f"served {list(range(10))}", "0 of 7 came before their token"],
    "context_search": [
        "request 42: 'word 600' is at 600; 3 replicas stopped searching",
        "context deadline exceeded; 4 replicas stopped searching",
        "a timeout of nothing has passed already",
    ],
}


@pytest.mark.parametrize("name", PRINTS)
def test_prints_what_it_promises(name):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == PRINTS[name]
