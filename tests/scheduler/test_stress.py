"""scripts/stress and `mproc-go stress`: a little of everything; what it prints; that it would tell of a loss."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest

from mproc_go import Runtime
from mproc_go.tools import storm


def stress(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mproc_go", "stress", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_a_mix(seed):
    """Some seconds of all scenarios: the seed, a count for each, exit status 0."""
    done = stress("--seconds", "4", "--seed", str(seed))
    assert done.returncode == 0, done.stderr
    assert f"seed {seed}" in done.stderr
    assert all(name in done.stdout for name in storm.SCENARIOS)
    assert int(re.search(r"goroutines ([\d,]+)", done.stdout)[1].replace(",", "")) > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", storm.SCENARIOS)
@pytest.mark.parametrize("procs", ["1", "3"])
def test_each(name, procs, seed):
    """One scenario alone."""
    done = stress(name, "--seconds", "4", "--seed", str(seed), "--procs", procs)
    assert done.returncode == 0, done.stderr


def test_an_unknown_scenario():
    """One line, exit status 2."""
    done = stress("nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("got", "wanted"), [([1, 2], [1, 2, 3]), ([1, 2, 2], [1, 2]), ([1, 4], [1, 2])])
def test_a_loss_is_told(got, wanted):
    """Missing, doubled or foreign numbers are no conservation."""
    with pytest.raises(storm.Lost):
        storm.expect("numbers", got, wanted)


def test_a_scenario_that_loses_fails(monkeypatch):
    """A goroutine that reports nothing: the round ends with an error, not with a figure."""
    monkeypatch.setattr(storm, "report", forgetful)
    monkeypatch.setattr(storm, "spawner", lossy_spawner)
    with Runtime(2):
        with pytest.raises((storm.Lost, TimeoutError)):
            storm.spawn_storm(random.Random(1))


def forgetful(out, i):
    out.send(0)


def lossy_spawner(out, first, n):
    for _ in range(n):
        out.send(first)
