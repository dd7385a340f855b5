"""scripts/bench works. What it measures is not asserted: the machine is noisy, and a slow run is not a wrong one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([BENCH, *args], env=env, capture_output=True, text=True, timeout=50, check=False)


def test_list_names_the_scenarios_and_the_rivals() -> None:
    """--list measures nothing and shows what there is, also what this machine has not installed."""
    done = bench("--list")
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split(":")[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert {"spsc", "mpmc", "pingpong_remote", "pingpong_local", "hot", "spawn", "startup", "cpu"} <= set(names)
    for rival in ("mp.Queue", "mp.SimpleQueue", "mp.Pipe", "ProcessPoolExecutor", "mp.Pool", "asyncio", "gevent"):
        assert rival in done.stdout


def test_a_bad_word_is_a_usage_error() -> None:
    """An unknown scenario or a filter that leaves nothing: exit status 2 and a line that names it, no traceback."""
    for args in (["nosuch"], ["--only", "nosuch"], ["--runs", "0"]):
        done = bench(*args)
        assert done.returncode == 2
        assert "error: " in done.stderr
        assert "Traceback" not in done.stderr


def test_one_quick_round_of_ours_is_right_and_leaves_nothing() -> None:
    """The subjects of mproc_go check their own results; a wrong one, or a process left behind, fails the run."""
    done = bench("spsc", "--quick", "--runs", "1", "--timeout", "20", "--only", "mproc_go", "--json")
    assert done.stdout, done.stderr
    (scenario,) = json.loads(done.stdout)["scenarios"]
    outcomes = [(s["subject"], s["status"], s["left"], s.get("error")) for s in scenario["subjects"]]
    assert [(status, left) for _, status, left, _ in outcomes] == [("ok", []), ("ok", [])], outcomes
    assert all(s["median"] > 0 for s in scenario["subjects"])
    assert done.returncode == 0
