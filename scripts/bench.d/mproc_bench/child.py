"""The measuring process: python -m mproc_bench.child SCENARIO SUBJECT N. Its last line is the result, in JSON."""

from __future__ import annotations

import json
import sys
import traceback

from mproc_bench import registry


def main() -> None:
    scenario, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    registry.load()
    measure = next(s.measure for s in registry.subjects_of(scenario) if s.name == name)
    try:
        answer: dict[str, object] = {"seconds": measure(n)}
    except Exception as e:  # whatever a subject raises is its result: FAILED, and why
        traceback.print_exc()
        answer = {"error": f"{type(e).__name__}: {e}".splitlines()[0]}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":  # spawned rivals import this module again
    main()
