"""Ask several replicas, take the first answer, and have the others stop: a context, in several processes.

The context is cancelled once an answer is there, and by itself when the time is up; whoever searches looks at it now
and then. It carries the number of the request, too.

Source: go.dev/blog/context; Rob Pike, "Go Concurrency Patterns", slide "Avoid timeouts".
"""

from mproc_go import AtomicInt, Chan, ChanClosed, Group, context, gosched, run, select

HAYSTACK = [f"word {n}" for n in range(1000)]


def search(ctx: context.Context, needle: str, start: int, found: Chan[str], stopped: AtomicInt) -> None:
    """Look for the needle from `start` on, round and round, until it is found or nobody wants it any more."""
    at = start
    while ctx.err() is None:
        if HAYSTACK[at % len(HAYSTACK)] == needle:
            answer = f"request {ctx.value('request')}: {needle!r} is at {at % len(HAYSTACK)}"
            if select(ctx.done().recv, (found.send, answer)).index == 1:
                return
            break
        at += 1
        gosched()
    stopped.add(1)


def ask(needle: str, seconds: float) -> str:
    root = context.with_value(context.background(), "request", 42)
    ctx, cancel = context.with_timeout(root, seconds)
    found: Chan[str] = Chan()
    stopped = AtomicInt()
    with Group(parent=ctx) as replicas:
        for n in range(4):
            replicas.go(search, ctx, needle, n * 250, found, stopped)
        chosen = select(found.recv, ctx.done().recv)
        answer = chosen.value if chosen.index == 0 else str(ctx.err())
        cancel()
    return f"{answer}; {stopped.load()} replicas stopped searching"


def main() -> None:
    print(ask("word 600", 30))
    print(ask("no such word", 0.1))
    done = context.with_timeout(context.background(), 0)[0].done()
    try:
        done.recv()
    except ChanClosed:
        print("a timeout of nothing has passed already")


if __name__ == "__main__":
    run(main)
