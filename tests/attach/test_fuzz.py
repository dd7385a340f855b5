"""What comes by the control socket is judged before it is used: nonsense closes its own connection and nothing else."""

from __future__ import annotations

import contextlib
import os
import socket

import msgpack
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mproc_go import Chan, NotRunning, attach, go
from mproc_go.runtime.attach import ask
from mproc_go.supervisor import control, reception
from tests.attach.support import DEADLINE_S, ask_raw, raw, until

WORDS = st.sampled_from(["do", "attach", "detach", "stats", "layout", "python", "", "x" * 100])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | WORDS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WORDS | st.integers(0, 9), inner, max_size=5),
    max_leaves=20,
)
VALID = {"do": "attach", "layout": 1, "python": "3.11", "more": [1, {"a": "b"}, None, 2.5]}


@st.composite
def damaged(draw):
    """A good packet, cut short or with bytes of it changed."""
    data = bytearray(msgpack.packb(VALID))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


PACKETS = st.binary(max_size=300) | VALUES.map(msgpack.packb) | damaged()


@settings(max_examples=500, deadline=None)
@given(PACKETS)
def test_a_packet_is_a_map_with_text_keys_or_an_error(data):
    """One kind of error, whatever it is that came."""
    try:
        packet = control.parse(data)
    except ValueError as error:
        assert str(error).startswith("not a control packet")
    else:
        assert isinstance(packet, dict) and all(isinstance(key, str) for key in packet)
        for kind in (str, int):
            with contextlib.suppress(ValueError):
                assert type(control.field(packet, "do", kind)) is kind


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 60_000 + b"\xc0",  # lists in lists in lists
        b"\x81\xa2do" * 10_000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff",  # a map of 4 billion
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa2do\xdb\xff\xff\xff\xff",  # a text of 4 GiB
        b"\x81\xa2do\xc6\xff\xff\xff\xff",
        b"\x81\xa2do\xc9\xff\xff\xff\xff\x01",
        b"\x81\xa2do\xa2\xff\xfe",  # no UTF-8
        b"\x81\xa2do\xc7\x08\xff" + b"\xff" * 8,  # a time that is none
        b"\x82\xa2do\xa1x",
        b"\xc1",
        b"\x80\x80",
        b"\xdc\x27\x10" + b"\x00" * 10_000,  # no map
        b"\x80cos\nsystem\n.",  # a pickle is nothing here
    ],
)
def test_lengths_and_depths_that_are_lies(standing, data):
    """An error at once, without the memory they speak of; the supervisor answers the next one."""
    with pytest.raises(ValueError, match="not a control packet"):
        control.parse(data)
    one = standing()
    with raw("one") as sock:
        sock.send(data)
        answer, _ = control.receive(sock)
        assert answer["error"].startswith("not a control packet")
        assert control.receive(sock) == (None, [])
    assert one.stats()["clients"] == 0


def test_nonsense_closes_its_own_connection_only(standing):
    """Hundreds of packets, before and after attaching: who is attached notices nothing, and nobody has a slot more."""
    one = standing()
    before = len(psutil.Process(one.os_pid).open_files()), psutil.Process(one.os_pid).num_fds()

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(PACKETS.filter(bool), min_size=1, max_size=3))
    def knock(packets):
        with raw("one") as sock:
            for data in packets:
                try:
                    sock.send(data)
                except BrokenPipeError:
                    return
                answer, fds = control.receive(sock, 2)
                for fd in fds:
                    os.close(fd)
                if answer is None:
                    return
                assert "error" in answer or "version" in answer

    with attach("one"):
        ch = Chan(2, name="ch")
        knock()
        ch.send(1)
        assert ch.recv(DEADLINE_S) == 1 and go(pow, 2, 5).result(DEADLINE_S) == 32
        assert one.stats()["clients"] == 1
    until(lambda: (len(psutil.Process(one.os_pid).open_files()), psutil.Process(one.os_pid).num_fds()) <= before)


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        ({}, "do is NoneType, not str"),
        ({"do": 1}, "do is int, not str"),
        ({"do": "dance"}, "no request 'dance'"),
        ({"do": "detach"}, "not attached"),
        ({"do": "attach"}, "layout is NoneType, not int"),
        ({"do": "attach", "layout": True, "python": "3"}, "layout is bool, not int"),
        ({"do": "attach", "layout": control.versions()["layout"]}, "python is NoneType, not str"),
        ({"do": "x" * 60_000}, "no request"),
    ],
)
def test_requests_that_are_none(standing, packet, text):
    """The answer says what is wrong with it; then the connection is closed."""
    standing()
    with raw("one") as sock:
        answer = ask_raw(sock, **packet)
        assert text in answer["error"] and len(answer["error"]) < 200
        with pytest.raises(OSError, match="Broken pipe"):
            while True:
                assert ask_raw(sock, do="stats") is None


def test_attaching_twice_and_leaving_twice(standing):
    """By one connection: an error, and the slot it has is its own until its process ends."""
    one = standing()
    with raw("one") as sock:
        assert ask_raw(sock, do="attach", **control.versions())["client"]
        assert "attached already" in ask_raw(sock, do="attach", **control.versions())["error"]
    assert one.stats()["clients"] == 1
    with raw("one") as sock:
        assert ask_raw(sock, do="attach", **control.versions())["client"]
        assert ask_raw(sock, do="detach") == {"ok": True}
        assert control.receive(sock) == (None, [])
    assert one.stats()["clients"] == 1


def test_a_packet_that_is_too_long_or_brings_descriptors(standing):
    """Cut packets are not guessed at, and what comes along is closed."""
    one = standing()
    with raw("one") as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.send(msgpack.packb({"do": "stats", "more": "x" * control.MAX_PACKET}))
        assert "longer than" in control.receive(sock)[0]["error"]
    before = psutil.Process(one.os_pid).num_fds()
    for _ in range(20):
        with raw("one") as sock:
            socket.send_fds(sock, [msgpack.packb({"do": "nothing"})], [0, 1, 2])
            assert "no request" in control.receive(sock)[0]["error"]
    until(lambda: psutil.Process(one.os_pid).num_fds() <= before)


def test_who_says_nothing_is_sent_away(standing):
    """As many as may connect, and all silent: the next is told; then they have to go, and there is room again."""
    one = standing()
    with attach("one"), contextlib.ExitStack() as stack:
        # One place less than there are: we are attached.
        silent = [stack.enter_context(raw("one")) for _ in range(reception.MAX_GUESTS - 1)]
        until(lambda: _refused("one"))
        assert go(pow, 2, 5).result(DEADLINE_S) == 32
        for sock in silent:
            assert control.receive(sock) == (None, [])
        assert one.stats()["clients"] == 1
        assert go(pow, 2, 5).result(DEADLINE_S) == 32


def _refused(name):
    try:
        ask(name, "stats")
    except NotRunning as error:
        return "programs are connected" in str(error) or "ended meanwhile" in str(error)
    return False


def test_who_does_not_read_its_answers_is_sent_away(standing):
    """The supervisor never waits for a reader."""
    one = standing()
    with raw("one") as sock:
        sock.setblocking(False)
        with pytest.raises((BrokenPipeError, ConnectionResetError, BlockingIOError)):
            for _ in range(100_000):
                control.send(sock, {"do": "stats"})
        for _ in range(5):
            assert one.stats()["clients"] == 0
    with attach("one"):
        assert go(pow, 2, 5).result(DEADLINE_S) == 32


def test_a_supervisor_without_descriptors(standing):
    """Who comes is sent away, not left at the door; who is in works on; later there is room again."""
    one = standing()
    process = psutil.Process(one.os_pid)
    with attach("one"):
        limits = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), limits[1]))
        try:
            for _ in range(3):
                with pytest.raises(NotRunning):
                    ask("one", "stats")
            assert go(pow, 2, 5).result(DEADLINE_S) == 32
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, limits)
        assert one.stats()["clients"] == 1
