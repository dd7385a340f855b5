"""One runtime for each test module here, with 1 and with 2 Ps."""

from __future__ import annotations

import pytest

from mproc_go import Runtime
from mproc_go.lib import alarm


@pytest.fixture(scope="module", params=[1, 2], ids=lambda procs: f"procs{procs}")
def rt(request, module_leaves_nothing):
    with pytest.MonkeyPatch.context() as patch:
        # Each test looks for threads left behind: the one that fires timers goes sooner than it would.
        patch.setattr(alarm, "IDLE_S", 0.02)
        patch.setattr(alarm, "CHECK_S", 0.03)
        with Runtime(request.param) as runtime:
            yield runtime
