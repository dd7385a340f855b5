"""Medians, ratios turn by turn, and the tables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from typing import Any

from mproc_bench.registry import Scenario, Subject

__all__ = ["header", "header_line", "pip_name", "summary", "table"]

RIVALS = ("mproc_go", "faster_fifo", "janus", "gevent", "joblib", "mpire", "greenlet", "posix_ipc", "msgpack")


def pip_name(module: str) -> str:
    return module.replace("_", "-") if module != "posix_ipc" else module


def _version(module: str) -> str | None:
    try:
        return importlib.metadata.version(pip_name(module))
    except importlib.metadata.PackageNotFoundError:
        return None


def header(go_version: str | None) -> dict[str, Any]:
    """What was measured where: the first lines of the output."""
    versions = {module: _version(module) for module in RIVALS}
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "load": round(os.getloadavg()[0], 2),
        "go": go_version,
        "versions": versions,
    }


def header_line(head: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items() if version)
    go = f", {head['go']}" if head["go"] else ""
    machine = f"{head['python']}, {head['cores']} cores, {head['kernel']}, {head['date']}, load {head['load']}"
    return f"{machine}\n{versions}{go}"


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(scenario: Scenario, n: int, rows: list[tuple[Subject, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Turns into figures. A subject with one failed turn has failed. Ratios are to the first subject that has not."""
    figures: list[dict[str, Any]] = []
    good: dict[str, list[float]] = {}
    for subject, turns in rows:
        errors = [t["error"] for t in turns if "error" in t]
        status = "FAILED" if errors else "ok"
        figure: dict[str, Any] = {"subject": subject.name, "budget": subject.budget, "status": status}
        figure["left"] = [line for t in turns for line in t.get("left", ())]
        if errors:
            figure |= {"error": errors[0], "stderr": next((t["stderr"] for t in turns if "stderr" in t), "")}
        else:
            good[subject.name] = [t["seconds"] / n * scenario.scale for t in turns]
            figure |= {"rounds": good[subject.name], **_spread(good[subject.name])}
        figures.append(figure)
    first = next(iter(good), None)
    for figure in figures:
        mine = good.get(figure["subject"])
        if mine and first and scenario.ratios:
            figure["ratio"] = _spread([a / b for a, b in zip(mine, good[first], strict=True)])
        if mine and scenario.plain in good:
            figure["speedup"] = _spread([b / a for a, b in zip(mine, good[scenario.plain], strict=True)])
    about = {"scenario": scenario.name, "title": scenario.title, "unit": scenario.unit, "n": n, "reference": first}
    return about | {"subjects": figures}


def table(result: dict[str, Any]) -> str:
    """The summary as text: unit cost and ratio side by side, never one alone."""
    rounds = max((len(f.get("rounds", ())) for f in result["subjects"]), default=0)
    lines = [f"\n{result['scenario']}: {result['title']} (n = {result['n']:,}, median of {rounds} interleaved rounds)"]
    ratio = f"x {result['reference']}" if any("ratio" in f for f in result["subjects"]) else ""
    speedup = "speed-up" if any("speedup" in f for f in result["subjects"]) else ""
    budget = "budget" if any(f["budget"] for f in result["subjects"]) else ""
    lines.append(f"  {'':34} {result['unit']:>14} {'min .. max':>18} {speedup:>9}   {budget:10} {ratio}".rstrip())
    for f in result["subjects"]:
        if f["status"] != "ok":
            lines.append(f"  {f['subject']:34} {'FAILED':>14}   {f['error']}")
            continue
        cost, low, high = (_short(f[key]) for key in ("median", "min", "max"))
        times = _ratio(**f["ratio"]) if "ratio" in f else ""
        faster = f"{f['speedup']['median']:.2f}" if "speedup" in f else ""
        lines.append(
            f"  {f['subject']:34} {cost:>14} {low + ' .. ' + high:>18} {faster:>9}   {f['budget']:10} {times}".rstrip()
        )
        lines += [f"    left behind: {line}" for line in f["left"]]
    return "\n".join(lines)


def _ratio(median: float, min: float, max: float) -> str:
    digits = 2 if median >= 0.1 else 4
    return f"{median:8.{digits}f}  ({min:.{digits}f} .. {max:.{digits}f})"


def _short(figure: float) -> str:
    return f"{figure:.3f}" if figure < 10 else f"{figure:.1f}" if figure < 1000 else f"{figure:,.0f}"
