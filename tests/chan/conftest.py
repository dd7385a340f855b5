"""One runtime for each test module here, with 2 Ps; threads of ours that are idle go sooner than they would."""

from __future__ import annotations

import pytest

from mproc_go import Runtime
from mproc_go.chan import aio
from mproc_go.lib import alarm


@pytest.fixture(autouse=True, scope="module")
def impatient():
    """Each test looks for threads left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aio, "IDLE_S", 0.05)
        patch.setattr(alarm, "IDLE_S", 0.02)
        patch.setattr(alarm, "CHECK_S", 0.03)
        yield


@pytest.fixture(scope="module")
def rt(impatient, module_leaves_nothing):
    with Runtime(2) as runtime:
        yield runtime
