"""Ten thousand goroutines in a row, each of which adds one to what it hears from the right, and says it to the left.

It shows what a goroutine costs: some 5 us to start, a few hundred bytes while it waits, and no thread.

Source: Rob Pike, "Go Concurrency Patterns" (Google I/O 2012), "Daisy-chain"; test/chan/goroutines.go.
"""

import sys

from mproc_go import Chan, go, num_goroutine, run


def whisper(left: Chan[int], right: Chan[int]) -> None:
    left.send(1 + right.recv())


def main(gophers: int) -> None:
    leftmost: Chan[int] = Chan()
    left = leftmost
    for _ in range(gophers):
        right: Chan[int] = Chan()
        go(whisper, left, right)
        left = right
    print(num_goroutine(), "goroutines")
    go(left.send, 1)
    print("the first one hears", leftmost.recv())


if __name__ == "__main__":
    run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
