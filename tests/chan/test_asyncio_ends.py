"""What asyncio tasks that wait in channels hear of the end of their runtime. Each test starts one of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from mproc_go import Chan, GoroutinePanic, NotRunning, Runtime, go
from mproc_go.runtime import process
from mproc_go.shm.layout import H_SUPERVISOR
from tests.chan.support import DEADLINE_S, run_loop, until_tasks_wait, until_waiting


def boom():
    raise ValueError("boom")


def test_a_loop_that_is_alive_vetoes():
    """A task that waits is no deadlock: something else may happen in its loop."""
    with Runtime(1):

        async def main():
            ch = Chan()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await ch.arecv()
            return "alive"

        assert run_loop(main()) == "alive"


def test_a_panic_surfaces_in_the_tasks():
    """What ends the program is raised where tasks wait, as it is where threads do."""

    async def main():
        ch = Chan()
        tasks = [asyncio.create_task(ch.arecv()) for _ in range(3)]
        await until_tasks_wait(ch, receivers=3)
        go(boom)
        return await asyncio.gather(*tasks, return_exceptions=True)

    with Runtime(1):
        outcomes = run_loop(main())
    assert [type(e) for e in outcomes] == [GoroutinePanic] * 3
    assert "boom" in str(outcomes[0])


def test_the_runtime_ends_under_a_loop():
    """A loop of another thread hears that the runtime was closed."""
    outcomes = []
    runtime = Runtime(1).start()
    ch = Chan()

    async def main():
        tasks = [asyncio.create_task(ch.arecv()) for _ in range(3)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: outcomes.extend(run_loop(main())))
    thread.start()
    until_waiting(ch, receivers=3)
    runtime.close()
    thread.join(DEADLINE_S)
    assert [type(e) for e in outcomes] == [NotRunning] * 3

    async def late():
        await ch.arecv()

    with pytest.raises(NotRunning):
        run_loop(late())


def test_the_supervisor_dies_under_a_loop():
    """Nobody will wake the tasks any more: NotRunning."""
    runtime = Runtime(1).start()

    async def main():
        ch = Chan()
        task = asyncio.create_task(ch.arecv())
        await until_tasks_wait(ch, receivers=1)
        os.kill(process.process.segment.w[H_SUPERVISOR], signal.SIGKILL)
        await task

    try:
        with pytest.raises(NotRunning):
            run_loop(main())
    finally:
        runtime.close()
