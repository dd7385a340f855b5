"""The command line of scripts/torture."""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import tempfile
import threading
import time
import traceback

from mproc_go import Runtime, sleep, stacks, stats
from mproc_go.runtime import process as rt
from mproc_go.shm import layout as L
from mproc_torture import quiet
from mproc_torture.nemesis import Nemesis
from mproc_torture.traffic import KINDS, Ledger, Violation


class _Driver(threading.Thread):
    """Runs rounds of all kinds, one after the other, until told to stop."""

    def __init__(self, seed: str, kinds: list[str], ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self.rnd = random.Random(seed)
        self.kinds, self.ledger = kinds, ledger
        self.over = False
        self.error: str | None = None
        self.at = ""

    def run(self) -> None:
        try:
            while not self.over:
                self.at = self.rnd.choice(self.kinds)
                KINDS[self.at](random.Random(self.rnd.random()), self.ledger)
                self.at = ""
        except BaseException:
            self.error = f"in {self.at}:\n{traceback.format_exc()}"


def main() -> int:
    """Torture a runtime; exit status 1 if anything was lost, doubled, damaged or left."""
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long (default 60)")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="go on until so many were killed")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same traffic again (not the same moments)")
    parser.add_argument("--procs", type=int, default=2, metavar="N", help="number of Ps (default 2)")
    parser.add_argument("--rate", type=float, default=40.0, metavar="R", help="kills a second (default 40)")
    parser.add_argument("--drivers", type=int, default=4, metavar="N", help="rounds at the same time (default 4)")
    parser.add_argument("--round", type=float, default=10.0, metavar="S", help="rest and check all after (default 10)")
    parser.add_argument("--only", action="append", choices=sorted(KINDS), help="only this kind of traffic")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    faulthandler.enable()
    with tempfile.TemporaryDirectory(prefix="mproc-torture-") as folder, Runtime(
        options.procs, name=f"torture-{os.getpid()}"
    ) as _:
        ledger = Ledger(folder, f"torture-{os.getpid()}")
        kills = stops = rounds = 0
        began = time.monotonic()
        while time.monotonic() - began < options.seconds or kills < options.kills:
            nemesis = Nemesis(random.Random(f"{seed} {rounds}"), ledger, options.rate, 0.05)
            drivers = [
                _Driver(f"{seed} {rounds} {i}", options.only or sorted(KINDS), ledger) for i in range(options.drivers)
            ]
            for thread in (*drivers, nemesis):
                thread.start()
            end = time.monotonic() + options.round
            while time.monotonic() < end and not any(driver.error for driver in drivers):
                sleep(0.05)
            for driver in drivers:
                driver.over = True
            failed = _join(drivers)
            nemesis.over = True
            nemesis.join()
            kills += nemesis.kills
            stops += nemesis.stops
            rounds += 1
            try:
                if nemesis.error is not None:
                    raise nemesis.error
                if failed:
                    raise Violation(failed)
                left = quiet.check(1)
            except Exception as error:
                print(f"VIOLATION after {kills} kills (seed {seed}, round {rounds}): {error}\n{_state()}", flush=True)
                return 1
            print(
                f"{time.monotonic() - began:6.0f} s  {kills} kills, {stops} stops, {left['workers']} workers, "
                f"{left['memory_bytes'] / 2**20:.1f} MiB, there (with names): {left['objects'] or 'nothing'}  {dict(ledger.counts)}",
                flush=True,
            )
    print(f"no violation: {kills} kills, {stops} stops in {time.monotonic() - began:.0f} s (seed {seed})")
    return 0


def _join(drivers: list[_Driver]) -> str:
    """Wait for the rounds that are under way; return what went wrong."""
    for driver in drivers:
        while driver.is_alive() and not any(d.error for d in drivers):
            driver.join(0.1)
    return "\n".join(driver.error for driver in drivers if driver.error)


def _state() -> str:
    """Everything that may tell why."""
    w = rt.current().w
    phases = {
        slot: [hex(w[L.slot_base(slot) + L.M_PHASE + level]) for level in range(3)]
        for slot in range(w[L.H_SLOTS])
        if w[L.slot_base(slot) + L.M_KIND] and any(w[L.slot_base(slot) + L.M_PHASE + level] for level in range(3))
    }
    figures = stats()
    return f"{figures}\nphases {phases}\nidle {w[L.S_PIDLE]:b} spinning {w[L.S_NSPINNING]}\n{stacks()}"


if __name__ == "__main__":
    sys.exit(main())
