"""What the tests of this folder share with their goroutines: no pytest in here, workers import it."""

from __future__ import annotations

from mproc_go import ChanClosed

DEADLINE_S = 20.0


def wait_done(ctx):
    """Wait for the end of a context; return its error."""
    try:
        ctx.done().recv(DEADLINE_S)
    except ChanClosed:
        return ctx.err()
    raise AssertionError("something was sent on a done channel")


def end_of(ctx):
    wait_done(ctx)


def fail(error):
    raise error


def fail_when_done(ctx, error):
    wait_done(ctx)
    raise error
