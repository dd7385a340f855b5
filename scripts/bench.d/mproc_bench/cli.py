"""The command line of scripts/bench: which scenarios, how many rounds, and the order of the turns."""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
from typing import Any

from mproc_bench import golang, registry, report
from mproc_bench.turns import take_turn


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[registry.Scenario]]:
    p = argparse.ArgumentParser(
        prog="scripts/bench",
        description="mproc_go beside its rivals, in the same run.",
        epilog="A subject that FAILED: its traceback is in --json. "
        "Exit status 1: a subject of mproc_go failed or left something behind.",
    )
    p.add_argument("scenario", nargs="*", help="names from --list, or how they begin (pingpong); default: all")
    p.add_argument("--list", action="store_true", help="print the scenarios and their subjects, measure nothing")
    p.add_argument("--quick", action="store_true", help="less work and two rounds: under a minute in all")
    p.add_argument("--runs", type=int, metavar="N", help="rounds (default 5, quick 2)")
    p.add_argument("--only", metavar="WORD", default="", help="only subjects whose name contains WORD")
    p.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds one turn may take (default 60)")
    p.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    args = p.parse_args(argv)
    args.runs = (2 if args.quick else 5) if args.runs is None else args.runs
    if args.runs < 1 or args.timeout <= 0:
        p.error("--runs and --timeout must be above 0")
    chosen = []
    for word in args.scenario or [s.name for s in registry.SCENARIOS]:
        found = registry.matching(word)
        if not found:
            p.error(f"no scenario {word!r}; --list prints them")
        chosen += [s for s in found if s not in chosen]
    chosen = [c for c in chosen if any(args.only in s.name for s in registry.subjects_of(c.name))]
    if not chosen:
        p.error(f"no subject of these scenarios has {args.only!r} in its name; --list prints them")
    return args, chosen


def measure(scenario: registry.Scenario, args: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one scenario: every subject has its turn before the first has its next."""
    n = scenario.quick_n if args.quick else scenario.n
    rows: list[tuple[registry.Subject, list[dict[str, Any]]]] = [(s, []) for s in present(scenario, args.only)]
    for turn in range(args.runs):
        for subject, turns in rows:
            if any("error" in t for t in turns):
                continue  # failed once: its other turns would only cost time
            progress(f"{scenario.name}  round {turn + 1}/{args.runs}  {subject.name}")
            turns.append(take_turn(scenario.name, subject.name, n, args.timeout))
    progress("")
    return report.summary(scenario, n, rows)


def present(scenario: registry.Scenario, only: str) -> list[registry.Subject]:
    return [s for s in registry.subjects_of(scenario.name) if only in s.name and is_here(s.needs)]


def is_here(needs: str | None) -> bool:
    return needs is None or bool(golang.GO if needs == "go" else importlib.util.find_spec(needs))


def missing(chosen: list[registry.Scenario], only: str) -> list[str]:
    """A line for each rival that these scenarios know and this machine lacks."""
    subjects = [s for c in chosen for s in registry.subjects_of(c.name) if only in s.name]
    absent = dict.fromkeys(s.needs for s in subjects if s.needs and not is_here(s.needs))
    how = {name: f"pip install {report.pip_name(name)}" for name in absent} | {"go": "no `go` on PATH"}
    return [f"{report.pip_name(name)}: not installed ({how[name]})" for name in absent]


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the finally that ends the turn
    registry.load()
    args, chosen = parse(argv)
    if args.list:
        for scenario in chosen:
            names = ", ".join(s.name for s in registry.subjects_of(scenario.name))
            print(f"{scenario.name}: {scenario.title}, {scenario.unit}\n    {names}")
        return 0
    with golang.compiled() as go_version:
        head = report.header(go_version)
        if not args.json:
            print(report.header_line(head), *missing(chosen, args.only), sep="\n", flush=True)
        results = []
        try:
            for scenario in chosen:
                results.append(measure(scenario, args))
                if not args.json:
                    print(report.table(results[-1]), flush=True)
        except KeyboardInterrupt:
            progress("")
            return 130
    if args.json:
        print(json.dumps({**head, "missing": missing(chosen, args.only), "scenarios": results}, indent=1))
    subjects = [f for r in results for f in r["subjects"]]
    return 1 if any("mproc_go" in f["subject"] and (f["status"] != "ok" or f["left"]) for f in subjects) else 0
