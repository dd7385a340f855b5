"""A chat server over TCP: one goroutine that listens to all sockets, one that owns the room, and a clean end.

A descriptor means nothing in another process, so sockets don't travel: whatever touches one must be in the process that
opened it. A goroutine stays in the process in which it starts. Hence the cut:

* the *net* goroutine owns all sockets. It sleeps in ``wait_readable`` on a selector, however many there are, and no
  core and no thread sleeps with it. A thread beside it in its process writes: any thread may use channels.
* the *room* is a goroutine on any core that knows who is here and nothing of sockets. Both talk over channels.
* the guests are goroutines too, each with a socket of its own.

Whoever does not read what it is sent is thrown out, instead of holding up the others.

Source: Donovan & Kernighan, "The Go Programming Language", section 8.10 (chat.go).
"""

import contextlib
import itertools
import selectors
import socket
import threading

from mproc_go import Chan, Goroutine, go, run, wait_readable

Event = tuple[str, int, str]  # "enter", "say", "leave" or "close"; who; what
Post = tuple[list[int], str]  # to whom; what

# ---- the server ----


def room(events: Chan[Event], posts: Chan[Post]) -> None:
    names: dict[int, str] = {}
    for verb, who, text in events:
        if verb == "close":
            break
        if verb == "enter":
            names[who] = text
            text = f"{text} has arrived"
        elif verb == "say":
            text = f"{names[who]}: {text}"
        elif verb == "leave" and who in names:
            text = f"{names.pop(who)} has left"
        else:
            continue
        posts.send((list(names), text))
    posts.close()


def net(ready: Chan[int], events: Chan[Event], posts: Chan[Post]) -> None:
    sockets: dict[int, socket.socket] = {}
    numbers = itertools.count(1)  # of connections: a descriptor is given to somebody else as soon as it is closed
    lines: dict[int, bytes] = {}  # what came of a line that has not ended yet
    entered: set[int] = set()
    wake, woken = socket.socketpair()

    def write() -> None:  # on a thread: what it shares with this goroutine is an ordinary dict
        for to, text in posts:
            for who in to:
                connection = sockets.get(who)
                if connection is None:
                    continue  # has left; the room does not know yet
                line = text.encode() + b"\n"
                try:
                    if connection.send(line) == len(line):
                        continue
                except OSError:
                    pass
                with contextlib.suppress(OSError):  # does not read, or is leaving: the selector sees the end of it
                    connection.shutdown(socket.SHUT_RDWR)
        wake.send(b"!")

    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        threading.Thread(target=write).start()
        ready.send(listener.getsockname()[1])
        while True:
            wait_readable(selector.fileno())  # parks this goroutine, and nobody else
            for key, _ in selector.select(0):
                if key.fileobj is woken:
                    for connection in (*sockets.values(), wake, woken):
                        connection.close()
                    return
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    who = next(numbers)
                    sockets[who], lines[who] = connection, b""
                    selector.register(connection, selectors.EVENT_READ, who)
                    continue
                who = key.data
                try:
                    data = sockets[who].recv(4096)
                except OSError:
                    data = b""
                *whole, lines[who] = (lines[who] + data).split(b"\n")
                for line in whole:
                    events.send(("say" if who in entered else "enter", who, line.decode(errors="replace")))
                    entered.add(who)
                if not data:
                    events.send(("leave", who, ""))
                    entered.discard(who)
                    selector.unregister(sockets[who])
                    sockets.pop(who).close()
                    del lines[who]


# ---- the guests ----


def guest(port: int, name: str, cue: str, answer: str, last: str, seated: Chan[str]) -> list[str]:
    """Say `answer` after hearing `cue`, leave after hearing `last`. Return all that was heard."""
    heard: list[str] = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(name.encode() + b"\n")
        rest = b""
        while True:
            wait_readable(connection)
            data = connection.recv(4096)
            if not data:
                return [*heard, "(the server closed)"]
            *whole, rest = (rest + data).split(b"\n")
            for text in (line.decode() for line in whole):
                heard.append(text)
                if text == f"{name} has arrived":
                    seated.send(name)
                if text == cue:
                    connection.sendall(answer.encode() + b"\n")
                if text == last:
                    return heard


def main() -> None:
    ready: Chan[int] = Chan()
    events: Chan[Event] = Chan(64)
    posts: Chan[Post] = Chan(64)
    server = [go(net, ready, events, posts), go(room, events, posts)]
    port = ready.recv()
    seated: Chan[str] = Chan()
    guests: dict[str, Goroutine[list[str]]] = {}
    for name, cue, answer, last in (
        ("Dan", "", "", ""),  # only listens, and stays to the end
        ("Ann", "Cid has arrived", "hello, everybody", "Cid: it is late"),
        ("Bob", "Ann: hello, everybody", "hello, Ann", "Ann has left"),
        ("Cid", "Bob: hello, Ann", "it is late", "Ann has left"),
    ):
        guests[name] = go(guest, port, name, cue, answer, last, seated)
        seated.recv()
    for name in ("Ann", "Bob", "Cid"):
        print(f"{name} heard: {'; '.join(guests[name].result())}")
    events.send(("close", 0, ""))
    for each in server:
        each.result()
    print(f"Dan heard at the end: {guests['Dan'].result()[-1]}")


if __name__ == "__main__":
    run(main)
