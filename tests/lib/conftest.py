"""One runtime for each test module here, with 1 and with 2 Ps."""

from __future__ import annotations

import pytest

from mproc_go import Runtime


@pytest.fixture(scope="module", params=[1, 2], ids=lambda procs: f"procs{procs}")
def rt(request, module_leaves_nothing):
    with Runtime(request.param) as runtime:
        yield runtime
