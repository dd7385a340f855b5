"""The wire between the supervisor and the program that started it: a pair of Unix sockets, one msgpack map a packet.

Nothing from the socket is unpickled. The first packet, read before our packages can be imported, is marshalled by the
program that just started us and is read from nobody else.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import msgpack

MAX_PACKET = 1 << 16


def send(sock: socket.socket, packet: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one packet, with descriptors. Raises OSError where the other side is gone."""
    data = msgpack.packb(packet)
    socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[dict[str, Any] | None, list[int]]:
    """Receive one packet and its descriptors; ``(None, [])`` where the other side is gone.

    Raises:
        ValueError: no packet of ours.
    """
    try:
        data, fds, _, _ = socket.recv_fds(sock, MAX_PACKET, max_fds)
    except ConnectionResetError:
        return None, []
    if not data:
        return None, []
    try:
        packet = msgpack.unpackb(data)
    except Exception as error:
        for fd in fds:
            os.close(fd)
        raise ValueError(f"not a control packet: {error}") from error
    if not isinstance(packet, dict):
        raise ValueError("not a control packet: no map")
    return packet, fds
