"""Kills workers at random moments, stops some for a while, sometimes all at once."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

from mproc_go import stats
from mproc_torture.traffic import Ledger


class Nemesis(threading.Thread):
    """Strikes `rate` times a second on average, until told to stop.

    Attributes:
        kills, stops: how often.
        resting: while it is set, nothing is killed.
    """

    def __init__(self, rnd: random.Random, ledger: Ledger, rate: float, stop_share: float) -> None:
        super().__init__(daemon=True)
        self.rnd, self.ledger, self.rate, self.stop_share = rnd, ledger, rate, stop_share
        self.kills = self.stops = 0
        self.over = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.over:
                time.sleep(self.rnd.expovariate(self.rate))
                self.strike()
        except BaseException as error:
            self.error = error

    def strike(self) -> None:
        workers = [m["os_pid"] for m in stats()["ms"] if m["os_pid"]]
        if not workers:
            return
        chance = self.rnd.random()
        if chance < self.stop_share:
            self._hold_up(self.rnd.choice(workers))
        elif chance < 0.97:
            self._kill(self.rnd.choice(workers))
        else:
            for os_pid in workers:
                self._kill(os_pid)

    def _kill(self, os_pid: int) -> None:
        self.ledger.killed.add(os_pid)  # before: it may be told sooner than we come back
        try:
            os.kill(os_pid, signal.SIGKILL)
            self.kills += 1
        except ProcessLookupError:
            pass

    def _hold_up(self, os_pid: int) -> None:
        try:
            os.kill(os_pid, signal.SIGSTOP)
            self.stops += 1
            time.sleep(self.rnd.random() * 0.2)
            if self.rnd.random() < 0.3:
                self._kill(os_pid)  # stopped, it dies all the same
            os.kill(os_pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
