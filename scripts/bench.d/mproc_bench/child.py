"""The measuring process: python -m mproc_bench.child SCENARIO SUBJECT N. Its last line is the result, in JSON."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from mproc_bench import registry

_started: list[int] = []


def _noted(start: Callable[..., int]) -> Callable[..., int]:
    """The same call, but we remember the process: what it leaves in /dev/shm is ours (turns.py)."""

    @functools.wraps(start)
    def noting(*args: Any, **kwargs: Any) -> int:
        os_pid = start(*args, **kwargs)
        _started.append(os_pid)
        return os_pid

    return noting


def main() -> None:
    scenario, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.posix_spawn = _noted(os.posix_spawn)  # how a runtime starts its supervisor, which makes the names
    registry.load()
    measure = next(s.measure for s in registry.subjects_of(scenario) if s.name == name)
    try:
        answer: dict[str, object] = {"seconds": measure(n)}
    except Exception as e:  # whatever a subject raises is its result: FAILED, and why
        traceback.print_exc()
        answer = {"error": f"{type(e).__name__}: {e}".splitlines()[0]}
    print(json.dumps(answer | {"started": _started}), flush=True)


if __name__ == "__main__":  # spawned rivals import this module again
    main()
