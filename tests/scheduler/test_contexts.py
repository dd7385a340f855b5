"""Context variables and decimal contexts are a goroutine's own, also on a greenlet that another used before."""

from __future__ import annotations

import contextvars
import decimal
import gc

import pytest

from mproc_go import Chan, Runtime, blocking, go, gosched
from tests.scheduler.support import DEADLINE_S

VARIABLE: contextvars.ContextVar[object] = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.fixture
def one_p():
    with Runtime(1) as runtime:
        yield runtime


def set_and_yield(value):
    seen = VARIABLE.get()
    VARIABLE.set(value)
    decimal.getcontext().prec = 5 + value
    gosched()
    return seen, VARIABLE.get(), decimal.getcontext().prec


def look():
    return VARIABLE.get(), decimal.getcontext().prec


def test_each_goroutine_has_its_own(one_p):
    """What it sets is there after a switch, and nobody else sees it, before, beside or after it."""
    precision = decimal.Context().prec
    for _ in range(3):
        handles = [go(set_and_yield, i) for i in range(20)]
        assert [handle.result(DEADLINE_S) for handle in handles] == [("unset", i, 5 + i) for i in range(20)]
        assert go(look).result(DEADLINE_S) == ("unset", precision)


def test_the_caller_s_are_not_inherited(one_p):
    """A goroutine starts with none set; what is to be known there is an argument."""
    VARIABLE.set("main's")
    assert go(look).result(DEADLINE_S)[0] == "unset"


def set_in_a_call():
    VARIABLE.set("goroutine's")
    seen = blocking(look)[0]
    blocking(VARIABLE.set, "call's")
    return seen, VARIABLE.get(), blocking(look)[0]


def test_a_blocking_call_has_a_copy(one_p):
    """As asyncio.to_thread: it sees the goroutine's, and what it sets is gone with it."""
    assert go(set_in_a_call).result(DEADLINE_S) == ("goroutine's", "goroutine's", "goroutine's")
    assert go(blocking, look).result(DEADLINE_S)[0] == "unset"


def hold(ch):
    VARIABLE.set(ch)


def channels():
    gc.collect()
    return sum(isinstance(thing, Chan) for thing in gc.get_objects())


def test_what_it_held_ends_with_the_goroutine(one_p):
    """A handle in a context variable does not wait for the next goroutine on that greenlet."""
    before = go(channels).result(DEADLINE_S)
    assert go(hold, Chan()).result(DEADLINE_S) is None
    assert go(channels).result(DEADLINE_S) == before
