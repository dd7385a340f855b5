"""How many processors this process may really use: affinity, and the CPU quota of its cgroup and all above it.

Source: Go 1.25 runtime/cgroup_linux.go (the quota rounded up, 2 at least).
"""

from __future__ import annotations

import math
import os

_ROOT = "/sys/fs/cgroup"
_MIN_FROM_QUOTA = 2


def num_cpu(root: str = _ROOT, own: str = "/proc/self/cgroup") -> int:
    """How many processors this process may use, 1 at least. Source: Go runtime.NumCPU, and its default GOMAXPROCS."""
    n = len(os.sched_getaffinity(0))
    quota = cgroup_quota(root, own)
    if quota is not None:
        n = min(n, max(_MIN_FROM_QUOTA, math.ceil(quota)))
    return max(1, n)


def cgroup_quota(root: str = _ROOT, own: str = "/proc/self/cgroup") -> float | None:
    """The smallest CPU quota, in processors, of our cgroup and its ancestors; None without one."""
    quotas = []
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases, read = [root], _quota_v2
        elif "cpu" in controllers.split(","):
            bases, read = [f"{root}/{controllers}", f"{root}/cpu"], _quota_v1
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for base in bases:
            for depth in range(len(parts) + 1):
                quota = read("/".join([base, *parts[:depth]]))
                if quota is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(folder: str) -> float | None:
    fields = _read(f"{folder}/cpu.max").split()
    if len(fields) != 2 or fields[0] == "max":
        return None
    return int(fields[0]) / int(fields[1])


def _quota_v1(folder: str) -> float | None:
    quota, period = _read(f"{folder}/cpu.cfs_quota_us").strip(), _read(f"{folder}/cpu.cfs_period_us").strip()
    if not quota or not period or int(quota) <= 0:
        return None
    return int(quota) / int(period)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
