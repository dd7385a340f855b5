"""A little torture: random kills under each kind of traffic, then the exact ledger and all invariants."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
KINDS = ("hand_on", "produced", "closed", "results", "trees", "without_retries", "wait_groups", "mutexes", "maps", "keyed", "arrays", "programs")


def torture(seed, seconds, *options):
    done = subprocess.run(
        [str(REPO / "scripts/torture"), "--seed", str(seed), "--seconds", str(seconds), "--round", "3", *options],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=seconds + 200,
        check=False,
    )
    print(done.stdout[-20_000:], done.stderr[-20_000:])
    assert done.returncode == 0
    assert f"seed {seed}" in done.stdout
    found = re.search(r"no violation: (\d+) kills", done.stdout)
    assert found, "it says so"
    return int(found[1])


def test_all_kinds(seed):
    """Some seconds of everything at once."""
    assert torture(seed, 3) > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_kind(seed, kind):
    """Each kind of traffic alone, with a resize now and then."""
    assert torture(seed, 6, "--only", kind, "--only", "resize") > 10


@pytest.mark.slow
def test_longer(seed):
    """Two minutes of everything."""
    assert torture(seed, 120, "--rate", "60") > 500


def test_a_violation_is_told():
    """A ledger that does not add up ends it with exit status 1: here, traffic that claims what nobody sent."""
    code = """
import sys
sys.argv = ["torture", "--seconds", "1", "--seed", "1", "--only", "results"]
from mproc_torture import cli, traffic
traffic.check = lambda fact, what: (_ for _ in ()).throw(traffic.Violation("on purpose"))
sys.exit(cli.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{REPO}/scripts/torture.d:{REPO}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "VIOLATION" in done.stdout and "on purpose" in done.stdout and "seed 1" in done.stdout
