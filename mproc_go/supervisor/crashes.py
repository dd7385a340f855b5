"""When one function kills its worker again and again: say so, and start new workers slower.

A crash in C, or ``os._exit``, takes its worker along, and a new one costs a fork and the burial of the old. A program
that starts such a goroutine in a loop, or again by ``retries``, would do nothing but fork. So once five were lost
within two seconds while they ran the same function, there is a line on stderr, and new workers come one by one, with
a pause, until that is over. Goroutines only wait longer; nothing is lost by it.

Workers that were killed from outside (SIGKILL, SIGTERM) don't count: that says nothing about what they ran.
"""

from __future__ import annotations

import signal
import time
from collections import deque

from mproc_go.errors import tell
from mproc_go.sched import codes
from mproc_go.shm.layout import (
    CODE_BY_NAME,
    CODE_SHIFT,
    CODES,
    CODES_COUNT,
    G_CODE,
    M_RUNNING,
    M_TICK,
    slot_base,
)
from mproc_go.shm.thread import Thread
from mproc_go.supervisor.thread import SupervisorThread

# So many deaths of the same function within so many seconds are no accident.
DEATHS = 5
WITHIN_S = 2.0
# Then a new worker is started this long after the one before, in seconds ...
PAUSE_S = 0.2
# ... until there was none for so long.
OVER_S = 2.0
# Said again only after this.
SILENT_S = 30.0

_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


class Crashes:
    """The deaths of one runtime's workers, as far as they may be their own doing."""

    def __init__(self, t: SupervisorThread) -> None:
        self.t = t
        self._deaths: dict[int, deque[float]] = {}  # by number of the function
        self._slow_until = 0.0
        self._next_start = 0.0
        self._silent_until = 0.0

    def lost(self, slot: int, code: int, how: str) -> None:
        """The worker of `slot`, not buried yet, ended with that code (negative: by a signal)."""
        w = self.t.w
        base = slot_base(slot)
        g = w[base + M_RUNNING]
        if code in _FROM_OUTSIDE or (not g and w[base + M_TICK]):
            return
        number = w[g + G_CODE] >> CODE_SHIFT if g else 0  # 0: it could not even start
        now = time.monotonic()
        deaths = self._deaths.setdefault(number, deque(maxlen=DEATHS))
        deaths.append(now)
        if len(deaths) < DEATHS or now - deaths[0] > WITHIN_S:
            if now < self._slow_until:  # slower by now, because of us
                self._slow_until = now + OVER_S
            return
        self._slow_until = now + OVER_S
        if now >= self._silent_until:
            self._silent_until = now + SILENT_S
            doing = f"ran {function_name(self.t, number) or 'the same function'}" if number else "started"
            tell(
                f"mproc_go: {DEATHS} workers were lost within {WITHIN_S:.0f} s while they {doing}; "
                f"the last one {how}. Until that is over new workers are started slower."
            )

    def may_start(self) -> bool:
        """Whether a new worker may be started now."""
        now = time.monotonic()
        if now < self._slow_until:
            if now < self._next_start:
                return False
            self._next_start = now + PAUSE_S
        return True


def function_name(t: Thread, number: int) -> str:
    """The function of that number in the code table, "" if it has no name that can be imported."""
    if not 0 < number <= t.w[CODES + CODES_COUNT]:
        return ""
    blob = codes.blob(t, number)
    return blob[1:].decode(errors="replace") if blob[:1] == CODE_BY_NAME else ""
