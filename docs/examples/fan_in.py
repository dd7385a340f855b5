"""Generators, fan-in, sequencing, and a polite end: the patterns around Rob Pike's "boring" speaker.

1. A *generator* is a function that starts a goroutine and returns its channel.
2. *Fan-in* by ``select``: whoever has something to say is heard, nobody waits for the other.
3. *Sequencing*: a message carries a channel on which its sender waits, so that the listener decides who goes on.
4. *Quit, and a last word*: one channel in both directions; the speaker cleans up before it says goodbye.

Source: Rob Pike, "Go Concurrency Patterns" (Google I/O 2012).
"""

from typing import NamedTuple

from mproc_go import Chan, RecvChan, go, run, select


class Message(NamedTuple):
    text: str
    wait: Chan[bool]  # the speaker goes on when it hears something here


def boring(name: str) -> RecvChan[str]:
    said: Chan[str] = Chan()

    def speak() -> None:
        for n in range(5):
            said.send(f"{name} {n}")
        said.close()

    go(speak)
    return said.receiver  # the caller can only listen


def fan_in(first: RecvChan[str], second: RecvChan[str]) -> RecvChan[str]:
    both: Chan[str] = Chan()

    def listen() -> None:
        sources: list[RecvChan[str] | None] = [first, second]
        while any(sources):
            index, text, ok = select(*(source and source.recv for source in sources))
            if ok:
                both.send(text)
            else:
                sources[index] = None  # a nil channel: that case is never ready again
        both.close()

    go(listen)
    return both.receiver


def in_step(name: str, out: Chan[Message]) -> None:
    wait: Chan[bool] = Chan()
    for n in range(3):
        out.send(Message(f"{name} {n}", wait))
        wait.recv()


def until_told(said: Chan[str], quit: Chan[str]) -> None:
    n = 0
    while select((said.send, f"boring {n}"), quit.recv).index == 0:
        n += 1
    quit.send(f"see you, I said {n} things")


def main() -> None:
    heard = list(fan_in(boring("Ann"), boring("Bob")))
    for name in ("Ann", "Bob"):
        print("; ".join(text for text in heard if text.startswith(name)))

    talk: Chan[Message] = Chan()
    for name in ("Ann", "Bob"):
        go(in_step, name, talk)
    for _ in range(3):
        a, b = talk.recv(), talk.recv()
        print(" and ".join(sorted((a.text, b.text))))
        a.wait.send(True)
        b.wait.send(True)

    said: Chan[str] = Chan()
    quit: Chan[str] = Chan()
    go(until_told, said, quit)
    print([said.recv() for _ in range(3)][-1])
    quit.send("that will do")
    print(quit.recv())


if __name__ == "__main__":
    run(main)
