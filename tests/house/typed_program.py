"""A user's program under ``mypy --strict``: it is checked with the library (pyproject.toml), and run by nobody.

``assert_type`` says what a type checker must know; a ``type: ignore`` that is not needed is an error too, so each of them
shows a mistake that is found.
"""

from typing import Any, assert_type

from mproc_go import (
    Chan,
    Goroutine,
    Group,
    KeyedChan,
    Mutex,
    Once,
    RecvChan,
    Runtime,
    RWMutex,
    Selected,
    SendChan,
    SharedArray,
    SharedMap,
    Timer,
    WaitGroup,
    after,
    blocking,
    default,
    go,
    run,
    select,
)
from mproc_go.context import Canceled, Context, DeadlineExceeded, background, with_cancel


def square(numbers: RecvChan[int], out: SendChan[int]) -> int:
    n = 0
    for value in numbers:
        out.send(value * value)
        n += 1
    return n


def add(a: int, b: int = 0) -> str:
    return str(a + b)


async def talk(ch: Chan[str]) -> None:
    await ch.asend("a")
    await ch.asend(1)  # type: ignore[arg-type]
    assert_type(await ch.arecv(), str)
    async for text in ch:
        assert_type(text, str)


def channels() -> None:
    numbers: Chan[int] = Chan(3)
    out = Chan[int](3)
    numbers.send_many(range(3))
    numbers.send("x")  # type: ignore[arg-type]
    numbers.sender.recv()  # type: ignore[attr-defined]
    numbers.receiver.send(1)  # type: ignore[attr-defined]
    assert_type(out.recv(), int)
    assert_type(out.recv_ok(), tuple[int | None, bool])
    assert_type(out.recv_many(3), list[int])
    assert_type(out.sender, SendChan[int])
    for x in numbers.receiver:
        assert_type(x, int)
    chosen = select(out.recv, (out.send, 3), None, default, timeout=1.0)
    assert_type(chosen, Selected)
    index, _, ok = chosen
    assert_type(index, int)
    assert_type(ok, bool)


def goroutines() -> None:
    numbers: Chan[int] = Chan(3)
    handle = go(square, numbers.receiver, numbers.sender)
    assert_type(handle, Goroutine[int])
    assert_type(handle.result(timeout=3), int)
    assert_type(go.options(retries=2)(add, 1).result(), str)
    assert_type(run(add, 1), str)
    assert_type(blocking(add, 1), str)
    assert_type(Once().do(add, 1), None)
    go(add, "a")  # type: ignore[arg-type]
    go(add, 1, c=2)  # type: ignore[call-arg]
    with Runtime(procs=2) as runtime:
        assert_type(runtime, Runtime)


def meeting() -> None:
    mutex, rw, group = Mutex(), RWMutex(), WaitGroup()
    with mutex, rw, rw.reader():
        group.go(add, 1)
    group.wait(timeout=1)
    with Group(limit=3) as g:
        g.go(add, 1)
        assert_type(g.context, Context)
    ctx, cancel = with_cancel(background())
    assert_type(ctx.err(), Canceled | DeadlineExceeded | None)
    assert_type(ctx.done(), Chan[Any])
    cancel()
    assert_type(after(1), Chan[float])
    assert_type(Timer(1).c, Chan[float])


def sharing() -> None:
    counts: SharedMap[str, int] = SharedMap()
    assert_type(counts.compute("a", lambda n: n + 1, default=0), int)
    assert_type(counts.load("a"), tuple[int | None, bool])
    counts["a"] = "b"  # type: ignore[assignment]
    numbers = SharedArray((2, 3), "d")
    assert_type(list(numbers.parallel(len)), list[int])
    assert_type(numbers.shape, tuple[int, ...])
    cache: KeyedChan[str, int] = KeyedChan()
    assert_type(cache.receive("a"), int)
