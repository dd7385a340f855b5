"""How many processors there are: affinity, and the CPU quota of our cgroup and all above it (made-up folders)."""

from __future__ import annotations

import os

import pytest

from mproc_go.sched import cpus


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """``cgroup(own, files)``: the quota that these files give a process that is in `own`, and num_cpu of 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))

    def look(own, files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "self").write_text(own)
        where = str(tmp_path), str(tmp_path / "self")
        return cpus.cgroup_quota(*where), cpus.num_cpu(*where)

    return look


@pytest.mark.parametrize(
    ("quota", "expected"), [("50000 100000", 2), ("250000 100000", 3), ("300000 100000", 3), ("9900000 100000", 64)]
)
def test_a_quota_is_rounded_up_to_two_at_least(cgroup, quota, expected):
    """As Go: half a processor still runs two Ps, two and a half run three; more than there are counts for nothing."""
    assert cgroup("0::/\n", {"cpu.max": quota})[1] == expected


def test_both_hierarchies_count(cgroup):
    """On a machine with both kinds of cgroup the smaller quota holds."""
    files = {
        "a/cpu.max": "800000 100000",
        "cpu/b/cpu.cfs_quota_us": "400000",
        "cpu/b/cpu.cfs_period_us": "100000",
    }
    assert cgroup("5:cpu:/b\n0::/a\n", files) == (4.0, 4)


@pytest.mark.parametrize("text", ["", "max 100000", "max", "garbage"])
def test_no_quota_or_none_that_can_be_read(cgroup, text):
    """Affinity alone counts then."""
    assert cgroup("0::/a\n", {"a/cpu.max": text}) == (None, 64)


def test_a_path_out_of_our_root_is_not_followed(cgroup):
    """A container sees its cgroup as ``/../..``: only what lies under the root is read."""
    assert cgroup("0::/../../a\n", {"a/cpu.max": "300000 100000"}) == (3.0, 3)
