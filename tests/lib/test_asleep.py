"""Timers and the deadlock detector: one that is pending may yet wake somebody, the thread that fires them may not."""

from __future__ import annotations

import pytest

from mproc_go import Chan, Deadlock, Mutex, Timer, after, context, run, select

# Several times as long as the detector looks before it is sure.
PENDING_S = 0.3


def test_a_pending_timer_vetoes():
    def main():
        after(PENDING_S).recv()
        ctx, _ = context.with_timeout(context.background(), PENDING_S)
        return select(ctx.done().recv, Chan().recv).index

    assert run(main, procs=1) == 0


@pytest.mark.parametrize("how", ["fired", "stopped"])
def test_without_one_it_is_a_deadlock_and_no_thread_of_ours_is_in_the_report(how):
    def main():
        timer = Timer(0.01 if how == "fired" else 1000)
        _, cancel = context.with_timeout(context.background(), 1000)
        cancel()
        if how == "fired":
            timer.c.recv()
        else:
            timer.stop()
        mutex = Mutex()
        mutex.lock()
        mutex.lock()

    with pytest.raises(Deadlock, match="all goroutines are asleep") as caught:
        run(main, procs=1)
    assert "goroutine 1 [sync.Mutex.Lock]:" in str(caught.value)
    assert "timer" not in str(caught.value)
