"""Channels in asyncio code: nobody blocks a loop, and who is cancelled loses nothing and doubles nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter

import pytest

from mproc_go import (
    Chan,
    ChanClosed,
    EncodeError,
    WouldBlock,
    blocking,
    go,
    num_goroutine,
    sleep,
)
from tests.chan.support import (
    DEADLINE_S,
    forward,
    live_records,
    mailbox_threads,
    run_loop,
    send_all,
    take,
    take_all,
    until,
    until_given_back,
    until_tasks_wait,
    until_waiting,
    waiters,
)


async def cancelled(task):
    """Cancel the task, and see that it was."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ---------------------------------------------------------------- the operations
def test_what_is_ready_is_done_at_once(rt):
    """Buffered operations suspend nobody, and start no thread."""

    async def main():
        ch = Chan(2)
        others = []
        asyncio.get_running_loop().call_soon(others.append, 1)
        await ch.asend("a")
        await ch.sender.asend("b")
        assert len(ch) == 2
        assert [await ch.arecv(), await ch.receiver.arecv()] == ["a", "b"]
        assert not others, "gave way to others"

    run_loop(main())
    assert not mailbox_threads()


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_to_and_from_a_goroutine(rt, capacity):
    """A task and a goroutine of another process, both ways; order stays."""

    async def main():
        there, back = Chan(capacity), Chan(capacity)
        handle = go(forward, there, back)
        got = []

        async def receive():
            async for v in back:
                got.append(v)

        task = asyncio.create_task(receive())
        for i in range(200):
            await there.asend(i)
        there.close()
        await task
        assert got == list(range(200))
        handle.result(DEADLINE_S)

    run_loop(main())


@pytest.mark.parametrize("capacity", [0, 2])
def test_between_tasks_of_one_loop(rt, capacity):
    """Two tasks of one loop talk to each other."""

    async def main():
        ch = Chan(capacity)

        async def send():
            for i in range(100):
                await ch.asend(i)
            ch.close()

        task = asyncio.create_task(send())
        assert [v async for v in ch] == list(range(100))
        await task

    run_loop(main())


def test_several_loops_in_several_threads(rt):
    """Loops of four threads in a ring: one message goes around, each thread adds its own."""
    chans = [Chan() for _ in range(4)]
    rounds = 50
    failures = []

    async def pass_on(i):
        for _ in range(rounds):
            await chans[(i + 1) % 4].asend(await chans[i].arecv() + [i])

    def thread(i):
        try:
            run_loop(pass_on(i))
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=thread, args=(i,)) for i in range(1, 4)]
    for t in threads:
        t.start()

    async def first():
        for _ in range(rounds):
            await chans[1].asend([0])
            assert await chans[0].arecv() == [0, 1, 2, 3]

    run_loop(first())
    for t in threads:
        t.join(DEADLINE_S)
    assert not failures, failures[0]


async def double(source, target):
    async for v in source:
        await target.asend(2 * v)
    target.close()


def serve(source, target):
    asyncio.run(double(source, target))
    return "asyncio" in sys.modules


def serve_aside(source, target):
    return blocking(serve, source, target)


@pytest.mark.parametrize("body", [serve, serve_aside])
def test_a_loop_inside_a_goroutine(rt, body):
    """asyncio.run in a goroutine, or in a call it makes aside; its process may stand, the others go on."""
    source, target = Chan(), Chan()
    handle = go(body, source, target)
    sending = go(send_all, source, range(50), True)
    assert take_all(target) == [2 * i for i in range(50)]
    sending.result(DEADLINE_S)
    assert handle.result(DEADLINE_S)


def test_workers_have_no_asyncio(rt):
    """Who does not use it does not pay for importing it."""
    code = (
        "import sys\nfrom mproc_go import Chan, go, run\n"
        "def loaded(): return 'asyncio' in sys.modules\n"
        "def main():\n"
        "    ch = Chan(); go(ch.send, 1); ch.recv()\n"
        "    print(loaded(), go(loaded).result())\n"
        "run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_first_come_first_served(rt):
    """Tasks and goroutines wait in one queue."""

    async def main():
        ch, order = Chan(), []

        async def receive(name):
            order.append((name, await ch.arecv()))

        tasks, handles = [], []
        for i in range(6):
            if i % 2:
                handles.append(go(take, ch, 1))
            else:
                tasks.append(asyncio.create_task(receive(i)))
            await until_tasks_wait(ch, receivers=i + 1)
        for i in range(6):
            await ch.asend(i)
        await asyncio.gather(*tasks)
        assert order == [(i, i) for i in (0, 2, 4)]
        assert [h.result(DEADLINE_S) for h in handles] == [[1], [3], [5]]

    run_loop(main())


def test_close_wakes_everybody(rt):
    """Receivers and senders that wait when the channel closes; and who comes later."""

    async def main():
        ch = Chan()
        tasks = [asyncio.create_task(ch.arecv()) for _ in range(20)]
        await until_tasks_wait(ch, receivers=20)
        ch.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(e, ChanClosed) for e in outcomes)
        full = Chan(1)
        await full.asend("there")
        tasks = [asyncio.create_task(full.asend(i)) for i in range(20)]
        await until_tasks_wait(full, senders=20)
        full.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(e, ChanClosed) for e in outcomes)
        assert [v async for v in full] == ["there"]
        with pytest.raises(ChanClosed):
            await full.arecv()
        with pytest.raises(ChanClosed, match="send on closed channel"):
            await full.asend(1)

    run_loop(main())


def test_views(rt):
    """Each view has the side it has."""
    ch = Chan(1)
    assert not hasattr(ch.sender, "arecv") and not hasattr(ch.sender, "__aiter__")
    assert not hasattr(ch.receiver, "asend")

    async def main():
        task = asyncio.create_task(ch.receiver.arecv())
        await until_tasks_wait(ch, receivers=1)
        await ch.sender.asend("v")
        assert await task == "v"
        ch.close()
        assert [v async for v in ch.receiver] == []

    run_loop(main())


def test_what_travels(rt):
    """Long messages, handles, and what can't travel."""

    async def main():
        ch, long = Chan(), b"x" * 1_000_000
        for value in (None, long, ch, [Chan(3), {"a": long}]):
            task = asyncio.create_task(ch.arecv())
            await until_tasks_wait(ch, receivers=1)
            await ch.asend(value)
            got = await task
            if isinstance(value, list):
                assert got[0].capacity == 3 and got[1:] == value[1:]
            else:
                assert got == value
        with pytest.raises(EncodeError):
            await ch.asend(threading.Lock())
        assert waiters(ch) == (0, 0)

    run_loop(main())


def test_ten_thousand_tasks(rt):
    """They all wait at the same time, and one thread serves them."""
    n = 10_000
    before, goroutines = live_records(), num_goroutine()

    async def main():
        ch, loop = Chan(), asyncio.get_running_loop()
        tasks = [asyncio.create_task(ch.arecv()) for _ in range(n)]
        await asyncio.sleep(0)
        assert waiters(ch) == (n, 0)
        assert len(mailbox_threads()) == 1
        assert num_goroutine() == goroutines
        handle = go(send_all, ch, range(n))
        assert sorted(await asyncio.gather(*tasks)) == list(range(n))
        await loop.run_in_executor(None, handle.result)

    run_loop(main())
    until_given_back(before)


# ---------------------------------------------------------------- cancellation and timeouts
def test_timeouts_leave_no_trace(rt):
    """asyncio.timeout and wait_for, on both sides: nothing sent, nothing taken, nobody in a queue."""
    before = live_records()

    async def main():
        ch = Chan()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await ch.arecv()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ch.arecv(), 0.005)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await ch.asend("lost" * 1000)
            assert waiters(ch) == (0, 0)
        with pytest.raises(WouldBlock):
            ch.recv_nowait()

    run_loop(main())
    until_given_back(before)


def test_a_receiver_cancelled_as_its_message_comes(rt):
    """The message is given back, and is the next one again, before what is buffered and by whomever it is received."""
    before = live_records()

    async def main():
        ch = Chan(2)
        task = asyncio.create_task(ch.arecv())
        await until_tasks_wait(ch, receivers=1)
        ch.send("handed")  # it is the task's now, but the loop has not run since
        ch.send("buffered")
        assert waiters(ch) == (0, 0)
        await cancelled(task)
        assert len(ch) == 1
        assert await ch.arecv() == "handed"
        assert await ch.arecv() == "buffered"
        task, other = asyncio.create_task(ch.arecv()), asyncio.create_task(ch.arecv())
        await until_tasks_wait(ch, receivers=2)
        ch.send("handed")
        await cancelled(task)
        assert await other == "handed"  # who waits gets it at once

    run_loop(main())
    until_given_back(before)


def test_a_sender_cancelled_as_its_message_is_taken(rt):
    """It was sent, so asend returns; the cancellation comes at the next wait."""

    async def main():
        ch, log = Chan(), []

        async def send():
            await ch.asend("sent")
            log.append("after")
            await asyncio.sleep(DEADLINE_S)
            log.append("never")

        task = asyncio.create_task(send())
        await until_tasks_wait(ch, senders=1)
        assert ch.recv() == "sent"
        await cancelled(task)
        assert log == ["after"]
        task = asyncio.create_task(send())
        await until_tasks_wait(ch, senders=1)
        await cancelled(task)  # nobody took it
        assert log == ["after"] and waiters(ch) == (0, 0)

    run_loop(main())


def test_a_sender_whose_time_runs_out_as_its_message_is_taken(rt):
    """asyncio.timeout takes its cancellation back when the block ends in time; nothing of it comes later."""

    async def main():
        ch = Chan()

        async def send():
            loop = asyncio.get_running_loop()
            async with asyncio.timeout_at(loop.time() + DEADLINE_S) as limit:
                loop.call_soon(meet, limit)
                await ch.asend("sent")
            for _ in range(3):
                await asyncio.sleep(0)
            assert asyncio.current_task().cancelling() == 0
            return "in time"

        def meet(limit):
            assert ch.recv() == "sent"
            limit.reschedule(0)  # and the time is up, before the task runs on

        assert await asyncio.create_task(send()) == "in time"

    run_loop(main())


def test_a_timeout_that_meets_a_send_ends_the_block_at_the_next_wait(rt):
    """The block goes on to a second wait: there the timeout comes, as TimeoutError."""

    async def main():
        ch, log = Chan(), []

        async def send():
            loop = asyncio.get_running_loop()
            async with asyncio.timeout_at(loop.time() + DEADLINE_S) as limit:
                loop.call_soon(meet, limit)
                await ch.asend("sent")
                log.append("sent")
                await ch.asend("not sent")

        def meet(limit):
            assert ch.recv() == "sent"
            limit.reschedule(0)

        with pytest.raises(TimeoutError):
            await asyncio.create_task(send())
        assert log == ["sent"] and waiters(ch) == (0, 0)

    run_loop(main())


def test_a_task_group_that_fails(rt):
    """The others are cancelled wherever they are."""

    async def main():
        ch = Chan()

        async def fail():
            await until_tasks_wait(ch, receivers=30)
            raise ValueError("first")

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                for _ in range(30):
                    group.create_task(ch.arecv())
                group.create_task(fail())
        assert [str(e) for e in caught.value.exceptions] == ["first"]
        assert waiters(ch) == (0, 0)

    run_loop(main())


def storm_sender(ch, start, n, rounds_done):
    for i in range(start, start + n):
        ch.send(i)
    rounds_done.send(start)


def storm_receiver(ch, results):
    results.send(list(ch))


@pytest.mark.parametrize("capacity", [0, 1, 4])
@pytest.mark.parametrize("remote", [False, True], ids=["one loop", "with goroutines"])
def test_cancellation_storm(rt, capacity, remote, seed):
    """Senders and receivers are cancelled at random moments: what was sent, and only that, arrives exactly once."""
    before = live_records()
    rng = random.Random(seed + capacity)

    async def main():
        ch, done, results = Chan(capacity), Chan(4), Chan(4)
        sent, received = Counter(), Counter()
        number = iter(range(10**9))

        async def send():
            for _ in range(rng.randrange(1, 4)):
                v = next(number)
                await ch.asend(v)
                sent[v] += 1

        async def receive():
            for _ in range(rng.randrange(1, 4)):
                received[await ch.arecv()] += 1

        handles = []
        if remote:
            handles = [go(storm_sender, ch, 10**9 * (i + 1), 300, done) for i in range(2)]
            receiver = go(storm_receiver, ch, results)
        for _ in range(60):
            tasks = [asyncio.create_task(rng.choice((send, receive))()) for _ in range(30)]
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            for task in rng.sample(tasks, 20):
                task.cancel()
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        if remote:
            for _ in handles:
                start = await done.arecv()
                sent.update(range(start, start + 300))
        else:
            assert waiters(ch)[0] == 0
        ch.close()
        if remote:
            received.update(await results.arecv())
            for handle in (*handles, receiver):
                handle.result(DEADLINE_S)
        else:
            received.update([v async for v in ch])
        assert received == sent
        assert set(sent.values()) <= {1}
        assert waiters(ch) == (0, 0)

    run_loop(main())
    until_given_back(before)


def test_a_loop_that_ends_with_tasks_waiting(rt):
    """Its tasks are thrown away: they leave the queues, and give back what they were given."""
    before = live_records()
    ch = Chan()
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(ch.arecv()) for _ in range(3)]
    loop.run_until_complete(until_tasks_wait(ch, receivers=3))
    go(ch.send, "handed").result(DEADLINE_S)
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False
    del tasks, task
    gc.collect()
    until(lambda: waiters(ch) == (0, 1), "they left the queue, and gave back")
    assert ch.recv(DEADLINE_S) == "handed"
    until_given_back(before)


# ---------------------------------------------------------------- deaths
def wait_in_loop(ch, pids):
    async def main():
        pids.send(os.getpid())
        await asyncio.gather(*(ch.arecv() for _ in range(5)))

    asyncio.run(main())


def test_a_worker_is_killed_with_tasks_waiting(rt):
    """They leave the queue: what is sent from then on goes to the living."""
    before = live_records()
    ch, pids = Chan(), Chan(1)
    handle = go(wait_in_loop, ch, pids)
    os_pid = pids.recv(DEADLINE_S)
    until_waiting(ch, receivers=5)
    os.kill(os_pid, signal.SIGKILL)
    assert "was killed" in str(handle.exception(DEADLINE_S))
    assert waiters(ch) == (0, 0)
    receiving = go(take, ch, 3)
    send_all(ch, range(3))
    assert receiving.result(DEADLINE_S) == [0, 1, 2]
    del handle, receiving
    until_given_back(before)


def test_sleepers_beside_a_loop(rt):
    """Goroutines of the loop's worker run on while the loop waits, if it runs aside."""
    source, target = Chan(), Chan()
    handle = go(serve_aside, source, target)

    def nap():
        sleep(0.01)
        return 1

    assert sum(h.result(DEADLINE_S) for h in [go(nap) for _ in range(20)]) == 20
    source.close()
    handle.result(DEADLINE_S)
    assert take_all(target) == []
