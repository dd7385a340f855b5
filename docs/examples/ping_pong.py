"""Two players and one table: a ball that goes back and forth over an unbuffered channel.

A player receives the ball, hits it and sends it back; with nobody else at the table it is always the other who gets it.
The referee has a channel of its own, on which the last ball arrives. Run with the argument ``dropped``, nobody serves:
both players wait for ever, and so does the referee. The runtime sees that, says who waits where, and ends the program.

Source: Sameer Ajmani, "Advanced Go Concurrency Patterns" (Google I/O 2013).
"""

import sys

from mproc_go import Chan, go, run

HITS = 1000
Ball = list[str]  # who hit it, in order


def player(name: str, table: Chan[Ball], referee: Chan[Ball]) -> None:
    for ball in table:
        ball.append(name)
        if len(ball) == HITS:
            referee.send(ball)
            table.close()
        else:
            table.send(ball)


def main(serve: bool) -> None:
    table: Chan[Ball] = Chan()
    referee: Chan[Ball] = Chan()
    players = [go(player, name, table, referee) for name in ("ping", "pong")]
    if serve:
        table.send([])
    ball = referee.recv()
    for each in players:
        each.result()
    turns = sum(ball[n] != ball[n + 1] for n in range(HITS - 1))
    print(f"{len(ball)} hits, {turns} changes of side")


if __name__ == "__main__":
    run(main, "dropped" not in sys.argv[1:])
