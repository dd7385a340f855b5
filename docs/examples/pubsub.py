"""Publish and subscribe: a broker that owns its subscribers and is never held up by a slow one.

One goroutine has the table; nobody else can touch it, so there is nothing to lock. Whoever wants something sends it a
request. A subscriber is a buffered channel. If its buffer is full, the broker drops it by
closing its channel: the slow one notices, the others never do.

Source: the "monitor goroutine" of Donovan & Kernighan, "The Go Programming Language", chapter 9; Bryan Mills,
"Rethinking Classical Concurrency Patterns" (GopherCon 2018).
"""

from mproc_go import Chan, WaitGroup, WouldBlock, go, run

ROOM = 8


class Broker:
    """What clients hold. It is a channel and nothing else, so it travels."""

    def __init__(self) -> None:
        self.requests: Chan[tuple[str, str, object]] = Chan()
        go(_serve, self.requests)

    def subscribe(self, topic: str, room: int = ROOM) -> Chan[str]:
        channel: Chan[str] = Chan(room)
        self.requests.send(("subscribe", topic, channel))
        return channel

    def publish(self, topic: str, text: str) -> None:
        self.requests.send(("publish", topic, text))

    def close(self) -> None:
        """End all subscriptions, after what was published."""
        self.requests.close()


def _serve(requests: Chan[tuple[str, str, object]]) -> None:
    topics: dict[str, list[Chan[str]]] = {}
    for verb, topic, what in requests:
        subscribers = topics.setdefault(topic, [])
        if verb == "subscribe":
            assert isinstance(what, Chan)
            subscribers.append(what)
            continue
        for channel in list(subscribers):
            try:
                channel.send_nowait(str(what))
            except WouldBlock:
                channel.close()
                subscribers.remove(channel)
    for subscribers in topics.values():
        for channel in subscribers:
            channel.close()


def listen(name: str, news: Chan[str], heard: Chan[str]) -> None:
    got = list(news)
    heard.send(f"{name} heard {len(got)}: {got[0]} .. {got[-1]}")


def main() -> None:
    broker = Broker()
    heard: Chan[str] = Chan(4)
    listeners = WaitGroup()
    for name, topic in (("Ann", "weather"), ("Bob", "weather"), ("Cid", "sport")):
        listeners.go(listen, name, broker.subscribe(topic, room=100), heard)
    slow = broker.subscribe("weather", room=3)  # nobody reads it

    def report(broker: Broker, topic: str, reports: int) -> None:
        for n in range(reports):
            broker.publish(topic, f"{topic} {n}")

    reporters = WaitGroup()
    reporters.go(report, broker, "weather", 50)
    reporters.go(report, broker, "sport", 20)
    reporters.wait()
    broker.close()
    listeners.wait()
    heard.close()
    print(*sorted(heard), sep="\n")
    print(f"the slow one was dropped after {list(slow)}")


if __name__ == "__main__":
    run(main)
