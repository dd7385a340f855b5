"""The runtimes of these tests, with 1, 2 and 4 Ps, and the places a test's body runs in."""

from __future__ import annotations

import pytest

from mproc_go import Runtime, num_goroutine
from mproc_go.runtime import process
from mproc_go.shm.layout import H_STOP
from tests.contract.support import WHO, until


class _Keeper:
    """One runtime for a module; another one where a failed test ended it."""

    def __init__(self, procs):
        self.procs = procs
        self.runtime = None

    def ensure(self):
        running = process.process
        if self.runtime is not None and (running is None or running.over or running.segment.w[H_STOP]):
            self.close()
        if self.runtime is None:
            self.runtime = Runtime(self.procs).start()
        return self.runtime

    def check(self):
        """Fail if something ended the runtime."""
        if process.process is None or process.process.segment.w[H_STOP]:
            runtime, self.runtime = self.runtime, None
            runtime.close()  # raises what ended it
            pytest.fail("something ended the runtime")

    def close(self):
        runtime, self.runtime = self.runtime, None
        if runtime is not None:
            try:
                runtime.close()
            except Exception as error:
                print(f"an earlier test ended the runtime: {error}")


@pytest.fixture(scope="module", params=[1, 2, 4], ids=lambda procs: f"procs{procs}")
def keeper(request, module_leaves_nothing):
    keeper = _Keeper(request.param)
    yield keeper
    keeper.close()


@pytest.fixture
def rt(keeper):
    """A running runtime; the test must give back every goroutine it made."""
    runtime = keeper.ensure()
    before = num_goroutine()
    yield runtime
    now = before
    keeper.check()
    try:
        until(lambda: num_goroutine() <= before, 5, "no error")
        now = num_goroutine()
    finally:
        if now != before:
            keeper.close()  # later tests get a fresh one
    assert now == before, f"{now - before} goroutines left behind"


@pytest.fixture(params=sorted(WHO))
def who(request, rt):
    """Runs a test's body as the main program, as another thread of it, or as a goroutine."""
    return WHO[request.param]
