"""A subscription: one goroutine, one ``select``, and cases that are switched off with None.

The loop does three things at once: it fetches when it is time, sends what it has to whoever listens, and closes on
request, with the last error as the answer. What can't be done at the moment is a nil channel: no fetch while one is
running or too much is pending, no send while nothing is there.

Source: Sameer Ajmani, "Advanced Go Concurrency Patterns" (Google I/O 2013).
"""

from typing import Any

from mproc_go import Chan, RecvChan, after, go, run, select

MAX_PENDING = 3
Fetched = tuple[list[str], str]  # items, error


def fetch(domain: str, number: int, answer: Chan[Fetched]) -> None:
    """What would be a download: two items each time, of which one was there already. It breaks off at the fourth."""
    items = [f"{domain} item {number}", f"{domain} item {number + 1}"]
    answer.send((items, "connection lost" if number == 3 else ""))


def subscribe(domain: str) -> tuple[RecvChan[str], Chan[Chan[str]]]:
    updates: Chan[str] = Chan()
    closing: Chan[Chan[str]] = Chan()

    def loop() -> None:
        pending: list[str] = []
        seen: set[str] = set()
        error = ""
        number = 0
        fetching: Chan[Fetched] | None = None
        timer: Chan[float] | None = after(0)
        while True:
            first: Any = (updates.send, pending[0]) if pending else None
            room = timer if len(pending) < MAX_PENDING else None
            index, value, _ = select(closing.recv, room and room.recv, fetching and fetching.recv, first)
            if index == 0:
                value.send(error)
                updates.close()
                return
            if index == 1:
                timer, fetching = None, Chan(1)
                go(fetch, domain, number, fetching)
                number += 1
            elif index == 2:
                items, error = value
                fetching, timer = None, after(0.001)
                pending += [item for item in items if item not in seen]
                seen.update(items)
                if error:
                    timer = None  # no more of this
            else:
                del pending[0]

    go(loop)
    return updates.receiver, closing


def main() -> None:
    updates, closing = subscribe("blog.golang.org")
    for _ in range(5):
        print(updates.recv())
    answer: Chan[str] = Chan()
    closing.send(answer)
    print("closed:", answer.recv())
    print(updates.recv_ok())


if __name__ == "__main__":
    run(main)
