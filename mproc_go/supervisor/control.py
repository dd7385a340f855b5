"""The wire of the control socket: sequenced packets, each one msgpack map with text keys, some with descriptors.

Nothing from the socket is unpickled. The first packet of the program that starts a runtime, read before our packages
can be imported, is marshalled by the program that just started us and is read from nobody else.

What others send is judged before it is used: one packet is read whole or not at all, its size, the number of its items
and their lengths are bounded, and its fields have the types that the request wants. Nesting is bounded by msgpack.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any, TypeVar

import msgpack

from mproc_go.shm.layout import LAYOUT_VERSION

T = TypeVar("T")

MAX_PACKET = 1 << 16
_MAX_ITEMS = 4096
_UCRED = "3i"
_FD_BYTES = struct.calcsize("i")
_LIMITS = {
    "max_str_len": MAX_PACKET,
    "max_bin_len": 0,
    "max_ext_len": 0,
    "max_array_len": _MAX_ITEMS,
    "max_map_len": _MAX_ITEMS,
}


def send(sock: socket.socket, packet: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one packet, with descriptors. Raises OSError where the other side is gone."""
    data = msgpack.packb(packet)
    socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[dict[str, Any] | None, list[int]]:
    """Receive one packet and its descriptors; ``(None, [])`` where the other side is gone.

    Raises:
        ValueError: no packet of ours.
        BlockingIOError: the socket does not block, and there is none.
    """
    try:
        # Close-on-exec (socket.recv_fds forgets it): else programs that this one starts could have the memory, too.
        data, ancillary, flags, _ = sock.recvmsg(
            MAX_PACKET, socket.CMSG_LEN(max_fds * _FD_BYTES), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None, []
    fds: list[int] = []
    for level, kind, found in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += struct.unpack(f"{len(found) // _FD_BYTES}i", found[: len(found) // _FD_BYTES * _FD_BYTES])
    try:
        if not data:
            if fds:
                raise ValueError("not a control packet: it is empty")
            return None, []
        if flags & socket.MSG_TRUNC:
            raise ValueError(f"not a control packet: longer than {MAX_PACKET} bytes")
        if len(fds) > max_fds:
            raise ValueError("not a control packet: it brings descriptors")
        return parse(data), fds
    except ValueError:
        for fd in fds:
            os.close(fd)
        raise


def parse(data: bytes) -> dict[str, Any]:
    """The map in a packet.

    Raises:
        ValueError: no packet of ours.
    """
    try:
        packet = msgpack.unpackb(data, strict_map_key=True, **_LIMITS)
    except Exception as error:  # it has many kinds, and some of Python's own
        raise ValueError(f"not a control packet: {type(error).__name__}: {error}") from None
    if not isinstance(packet, dict):
        raise ValueError("not a control packet: no map")
    if not all(isinstance(key, str) for key in packet):
        raise ValueError("not a control packet: a key that is no text")
    return packet


def field(packet: dict[str, Any], name: str, kind: type[T]) -> T:
    """What the packet says under that name.

    Raises:
        ValueError: nothing, or of another type.
    """
    value = packet.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"not a control packet: {name} is {type(value).__name__}, not {kind.__name__}")
    return value


def versions() -> dict[str, Any]:
    """What both sides must agree on: the memory map, and the Python whose byte code travels."""
    return {"layout": LAYOUT_VERSION, "python": f"{sys.version_info[0]}.{sys.version_info[1]}"}


def peer(sock: socket.socket) -> tuple[int, int]:
    """os_pid and uid of the process at the other end when it connected or listened, as the kernel says."""
    size = struct.calcsize(_UCRED)
    os_pid, uid, _ = struct.unpack(_UCRED, sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return os_pid, uid
