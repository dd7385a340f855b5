"""Python's own habits: what a prompt completes, what help() says, what a handle shows of itself and refuses."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys

import pytest

import mproc_go
from mproc_go import context

ADDRESS = re.compile(r"object at 0x")


def handles():
    """One of each kind that a user gets in hand, by the class in its repr."""
    ctx, cancel = context.with_cancel(context.background())
    cancel()
    chan = mproc_go.Chan(2)
    return {
        "Chan": chan,
        "SendChan": chan.sender,
        "RecvChan": chan.receiver,
        "Goroutine": mproc_go.go(sum, [1, 2]),
        "WaitGroup": mproc_go.WaitGroup(),
        "Mutex": mproc_go.Mutex(),
        "RWMutex": mproc_go.RWMutex(),
        "Once": mproc_go.Once(),
        "Cond": mproc_go.Cond(mproc_go.Mutex()),
        "Semaphore": mproc_go.Semaphore(3),
        "AtomicInt": mproc_go.AtomicInt(4),
        "Timer": mproc_go.Timer(60),
        "Ticker": mproc_go.Ticker(60),
        "SharedMap": mproc_go.SharedMap(),
        "KeyedChan": mproc_go.KeyedChan(),
        "SharedArray": mproc_go.SharedArray(3, "d"),
        "context.Background.WithCancel": ctx,
    }


def test_a_prompt_completes_the_public_names_and_nothing_else():
    shown = {name for name in dir(mproc_go) if not name.startswith("__")}
    assert shown == {*mproc_go.__all__, "context"}


def test_the_public_module_is_there_without_an_import_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", "import mproc_go; print(mproc_go.context.background())"], capture_output=True, text=True
    )
    assert done.stdout == "context.Background\n", done.stderr


def test_help_begins_with_a_program_and_every_name_has_its_own():
    assert "print(run(main))" in inspect.getdoc(mproc_go)
    missing = []
    for name in mproc_go.__all__:
        thing = getattr(mproc_go, name)
        if not inspect.getdoc(thing):
            missing.append(name)
        if inspect.isclass(thing):
            members = [m for m in vars(thing) if not m.startswith("_")]
            missing += [f"{name}.{m}" for m in members if not inspect.getdoc(getattr(thing, m))]
    assert not missing


def test_every_handle_shows_what_it_is():
    """Its class and state, also after the end of its runtime; never Python's own `object at 0x...`."""
    with mproc_go.Runtime(procs=1):
        all_ = {**handles(), "go": mproc_go.go, "go.options(retries=1)": mproc_go.go.options(retries=1)}
        all_["<RWMutex"] = mproc_go.RWMutex().reader()
        all_["<Group"] = mproc_go.Group()
        for name, handle in all_.items():
            assert repr(handle).lstrip("<").startswith(name.lstrip("<")), repr(handle)
            assert not ADDRESS.search(repr(handle)), repr(handle)
    for handle in all_.values():
        assert not ADDRESS.search(repr(handle)), repr(handle)


def test_outside_of_messages_handles_say_that_they_do_not_pickle():
    """Nobody could count them. A copy is the same handle, since it is one already."""
    with mproc_go.Runtime(procs=1):
        for name, handle in handles().items():
            with pytest.raises(TypeError, match="handles travel in arguments and messages of goroutines") as caught:
                pickle.dumps(handle)
            assert name in str(caught.value)
            assert copy.copy(handle) is handle
            assert copy.deepcopy([handle])[0] is handle


def test_another_system_is_told_so_in_one_line():
    """Not by whatever attribute of os or select happens to be missing first."""
    code = "import sys; sys.platform = 'darwin'; from mproc_go import go"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: mproc_go needs Linux, and this is darwin: ")
