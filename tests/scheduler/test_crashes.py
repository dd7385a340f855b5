"""One function that kills its worker again and again: no fork storm, and a line that names it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PROGRAM = """
import os, sys, time
from mproc_go import Runtime, WorkerLost, go
from tests.scheduler.support import add_one, end_worker
kill = go if sys.argv[1] == "loop" else go.options(retries=2)
with Runtime(2):
    while not os.fstat(2).st_size:
        assert type(kill(end_worker).exception(60)) is WorkerLost
    begun = time.monotonic()
    for handle in [kill(end_worker) for _ in range(8)]:
        assert type(handle.exception(60)) is WorkerLost
    print("slower" if time.monotonic() - begun > 0.5 else "fast")
    print([go(add_one, i).result(60) for i in range(20)] == list(range(1, 21)))
"""


@pytest.mark.parametrize("way", ["loop", "retries"])
def test_a_function_that_ends_its_workers(way, tmp_path):
    """Each is lost as it should be, later ones slower; it is named once; the others run, then and afterwards."""
    with open(tmp_path / "stderr", "w+") as stderr:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, way],
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=120,
            check=False,
        )
        stderr.seek(0)
        said = stderr.read()
    assert (done.returncode, done.stdout) == (0, "slower\nTrue\n"), (done, said)
    assert said.count("\n") == 1, said
    assert "5 workers were lost within 2 s while they ran tests.scheduler.support:end_worker" in said
    assert "exited with status 3" in said
