"""Five philosophers who deadlock: everybody takes the left fork first, and waits for the right one for ever.

To make sure that it happens, everybody waits, once they have their left fork, until all the others have theirs. Then
all are asleep, in whatever processes they are. The runtime sees it and ends the program with a report: each goroutine's
state, reason and stack, and the circle of who waits for whom. Under ``mproc-go run`` the exit status is 2, as in Go.

dining_philosophers.py shows the way out.

Source: E. W. Dijkstra; the report is that of Go's runtime (proc.go checkdead), with the circle added.
"""

from mproc_go import Mutex, WaitGroup, run

PHILOSOPHERS = 5


def dine(forks: list[Mutex], seat: int, all_have_one: WaitGroup) -> None:
    with forks[seat]:
        all_have_one.done()
        all_have_one.wait()
        with forks[(seat + 1) % PHILOSOPHERS]:
            print(f"philosopher {seat} eats")  # never


def main() -> None:
    forks = [Mutex() for _ in range(PHILOSOPHERS)]
    all_have_one = WaitGroup()
    all_have_one.add(PHILOSOPHERS)
    table = WaitGroup()
    for seat in range(PHILOSOPHERS):
        table.go(dine, forks, seat, all_have_one)
    table.wait()


if __name__ == "__main__":
    run(main)
