"""The prime sieve: a growing chain of goroutines, each of which lets through what its prime does not divide.

The first number that comes out of the chain is the next prime; a filter for it becomes the new end. When the source
closes its channel, the close runs down the chain and every filter ends.

Source: Doug McIlroy; test/chan/sieve1.go of the Go distribution.
"""

from mproc_go import Chan, RecvChan, go, run

LIMIT = 100


def generate(out: Chan[int]) -> None:
    for n in range(2, LIMIT):
        out.send(n)
    out.close()


def filter_(numbers: RecvChan[int], out: Chan[int], prime: int) -> None:
    for n in numbers:
        if n % prime:
            out.send(n)
    out.close()


def main() -> None:
    ch: Chan[int] = Chan()
    go(generate, ch)
    primes = []
    while True:
        prime, _ = ch.recv_ok()
        if prime is None:  # the close has come through
            break
        primes.append(prime)
        rest: Chan[int] = Chan()
        go(filter_, ch.receiver, rest, prime)
        ch = rest
    print(*primes)
    print(f"{len(primes)} goroutines in a row")


if __name__ == "__main__":
    run(main)
