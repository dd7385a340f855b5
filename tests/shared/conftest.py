"""One runtime for each test module here, with 1 and with 2 Ps."""

from __future__ import annotations

import pytest

from mproc_go import Runtime
from tests.shared.support import stripes_whole


@pytest.fixture(scope="module", params=[1, 2], ids=lambda procs: f"procs{procs}")
def rt(request, module_leaves_nothing):
    with Runtime(request.param) as runtime:
        yield runtime


@pytest.fixture
def whole(rt):
    """Asserts the invariants of maps and keyed channels; those given to it are looked at once more in the end."""
    seen = []

    def check(table):
        seen.append(table)
        stripes_whole(table)
        return table

    yield check
    for table in seen:
        stripes_whole(table)
    seen.clear()
