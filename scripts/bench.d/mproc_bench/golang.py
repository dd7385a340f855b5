"""Go itself as one more row, where `go` is on PATH: the same scenarios from bench.go, compiled once a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mproc_bench.registry import Wrong, subject

__all__ = ["GO", "compiled"]

GO = shutil.which("go")
BINARY = "MPROC_BENCH_GO"  # environment: where the turns find the compiled program


@contextmanager
def compiled() -> Iterator[str | None]:
    """Compile bench.go for the time of the block; yield Go's version, None without Go."""
    if GO is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="mproc_bench_") as folder:
        binary = Path(folder, "bench")
        environment = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOCACHE": str(Path(folder, "cache"))}
        source = Path(__file__).with_name("bench.go")
        done = subprocess.run(
            [GO, "build", "-o", str(binary), str(source)], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"scripts/bench: bench.go does not compile: {done.stderr.strip()}")
        os.environ[BINARY] = str(binary)
        yield subprocess.run([GO, "version"], capture_output=True, text=True, check=True).stdout.split()[2]


def go_row(scenario: str, n: int) -> float:
    """Go does 20 times the work where the scenario's own n would be over in a millisecond."""
    more = 1 if scenario in ("pingpong_remote", "cpu") else 20
    done = subprocess.run([os.environ[BINARY], scenario, str(n * more)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(done.stderr.strip())
    return float(done.stdout) / more


for scenario, name in (
    ("spsc", "Go chan (threads, no copy)"),
    ("mpmc", "Go chan (threads, no copy)"),
    ("pingpong_remote", "Go (two locked threads)"),
    ("pingpong_local", "Go (two goroutines, one P)"),
    ("spawn", "Go go f() + sync.WaitGroup"),
    ("cpu", "Go, compiled"),
):
    subject(scenario, name, needs="go")(partial(go_row, scenario))
