"""Every test has a folder of standing runtimes of its own."""

from __future__ import annotations

import pytest

from mproc_go.shm import names
from tests.attach.guard import guarding
from tests.attach.support import Standing


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    """No runtime outlives this process, whatever ends it."""
    with guarding(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(autouse=True)
def folder(guard, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return names.folder_path()


@pytest.fixture
def standing(folder):
    """Starts runtimes, and ends them."""
    made = []

    def start(name="one", **options):
        made.append(Standing(name, **options))
        return made[-1]

    yield start
    for one in made:
        one.end()
