"""Five philosophers, five forks: nobody starves and nobody waits in a circle.

Each fork is a Mutex. Were everybody to take the left fork first, all could hold one fork and wait for the next for
ever. Here the forks have an order and everybody takes the lower one first, so the one with the highest fork never has
only that.

Source: E. W. Dijkstra.
"""

from mproc_go import AtomicInt, Mutex, WaitGroup, gosched, run

PHILOSOPHERS = 5
MEALS = 20


def dine(seat: int, forks: list[Mutex], busy: list[AtomicInt], eaten: AtomicInt, clashes: AtomicInt) -> None:
    first, second = sorted((seat, (seat + 1) % PHILOSOPHERS))
    for _ in range(MEALS):
        gosched()  # think
        with forks[first], forks[second]:
            for fork in (first, second):
                if busy[fork].add(1) != 1:
                    clashes.add(1)
            eaten.add(1)
            for fork in (first, second):
                busy[fork].add(-1)


def main() -> None:
    forks = [Mutex() for _ in range(PHILOSOPHERS)]
    busy = [AtomicInt() for _ in range(PHILOSOPHERS)]
    meals = [AtomicInt() for _ in range(PHILOSOPHERS)]
    clashes = AtomicInt()
    table = WaitGroup()
    for seat in range(PHILOSOPHERS):
        table.go(dine, seat, forks, busy, meals[seat], clashes)
    table.wait()
    for seat, eaten in enumerate(meals):
        print(f"philosopher {seat} ate {eaten.load()} times")
    print(f"{clashes.load()} forks were in two hands")


if __name__ == "__main__":
    run(main)
