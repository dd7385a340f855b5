"""The seed of the random schedules, and how many schedules there were."""

from __future__ import annotations

import os

import pytest

from mproc_go.runtime import client, worker
from mproc_go.shm import lock
from tests.model import loom


@pytest.fixture
def seed(request):
    """MPROC_GO_SEED, else --seed; shown with a failure."""
    value = int(os.environ.get("MPROC_GO_SEED") or request.config.getoption("--seed"))
    print(f"seed {value} (again: MPROC_GO_SEED={value})")
    return value


@pytest.fixture(autouse=True)
def no_spinning(monkeypatch):
    """A spin is a retry of the same step: it only makes the same schedules longer."""
    monkeypatch.setattr(lock, "SPIN", 0)
    monkeypatch.setattr(client, "SPIN", 0)
    monkeypatch.setattr(worker, "SPIN", 1)
    monkeypatch.setattr(worker, "SPIN_INBOX", 1)


def pytest_terminal_summary(terminalreporter):
    if loom.explored:
        terminalreporter.write_line(
            "loom: " + ", ".join(f"{n:,} by {what}" for what, n in sorted(loom.explored.items()))
        )
