"""The supervisor's process: imports all that a worker needs, once, and then serves (layer 8, above all that it loads).

Forked from here, a worker starts in a few milliseconds, and a replacement is as clean as the first.
"""

from __future__ import annotations

import socket
from typing import Any, NoReturn

import mproc_go.chan.channel
import mproc_go.lib.clock
import mproc_go.lib.context
import mproc_go.lib.group
import mproc_go.runtime.goroutine
import mproc_go.shared.keyed
import mproc_go.shared.map
import mproc_go.sync.atomic
import mproc_go.sync.cond
import mproc_go.sync.mutex
import mproc_go.sync.once
import mproc_go.sync.rwmutex
import mproc_go.sync.semaphore
import mproc_go.sync.waitgroup  # noqa: F401 - registers the kinds of handles a worker may be sent
from mproc_go.runtime.boot import worker_main
from mproc_go.supervisor.main import serve


def main(owner: socket.socket, options: dict[str, Any]) -> NoReturn:
    """Serve the runtime of the process at the other end of `owner`."""
    serve(owner, options, worker_main)
