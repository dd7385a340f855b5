"""Contexts: cancellation, deadlines and values that reach across goroutines, in every process.

The one public module besides ``mproc_go`` itself; what it offers is made in lib/context.py.

Source: Go package context.
"""

from mproc_go.errors import Canceled as Canceled
from mproc_go.errors import DeadlineExceeded as DeadlineExceeded
from mproc_go.lib.context import Context as Context
from mproc_go.lib.context import after_func as after_func
from mproc_go.lib.context import background as background
from mproc_go.lib.context import cause as cause
from mproc_go.lib.context import todo as todo
from mproc_go.lib.context import with_cancel as with_cancel
from mproc_go.lib.context import with_cancel_cause as with_cancel_cause
from mproc_go.lib.context import with_deadline as with_deadline
from mproc_go.lib.context import with_timeout as with_timeout
from mproc_go.lib.context import with_value as with_value
from mproc_go.lib.context import without_cancel as without_cancel

__all__ = [
    "Canceled",
    "Context",
    "DeadlineExceeded",
    "after_func",
    "background",
    "cause",
    "todo",
    "with_cancel",
    "with_cancel_cause",
    "with_deadline",
    "with_timeout",
    "with_value",
    "without_cancel",
]
