"""`mproc-go stress`: load of all kinds for a while, and a count of everything."""

from __future__ import annotations

import random

import click

from mproc_go.tools.exits import complain
from mproc_go.tools.which import PROCS, Seconds, columns


@click.command(name="stress", short_help="Load a runtime for a while and count everything.")
@click.argument("scenario", required=False, metavar="[SCENARIO]")
@click.option(
    "--seconds",
    type=Seconds(min=0, max=86_400),
    default=10.0,
    show_default=True,
    metavar="S",
    help="For how long new rounds are begun.",
)
@click.option("--seed", type=int, metavar="N", help="Draw the same rounds again. Default: a new one, printed.")
@click.option("--procs", type=PROCS, metavar="N", help="Number of Ps. Default: the cores it may use.")
def command(scenario: str | None, seconds: float, seed: int | None, procs: int | None) -> int:
    """Spawn storms, ping-pong, timers, blocked calls, resizing, selects and wait groups, or one SCENARIO of these.

    Everything spawned must run exactly once and everything sent arrive exactly once; else the exit status is 1.
    """
    from mproc_go import Runtime, stats
    from mproc_go.tools import storm

    if scenario is not None and scenario not in storm.SCENARIOS:
        raise click.UsageError(f"no scenario {scenario!r}; there are {', '.join(storm.SCENARIOS)}")
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    with Runtime(procs):
        try:
            counts = storm.storm([scenario] if scenario else list(storm.SCENARIOS), seconds, seed)
        except (storm.Lost, TimeoutError) as error:
            complain(f"stress: {error} (again: --seed {seed})")
            return 1
        figures = stats()
    click.echo(columns([("scenario", "counted once"), *((name, f"{count:,}") for name, count in counts.items())]))
    click.echo(
        f"goroutines {figures['spawned']:,}, steals {figures['steals']:,}, hand-offs {figures['handoffs']:,}, "
        f"workers {len(figures['ms'])}, memory {figures['memory_bytes'] / 2**20:.1f} MiB"
    )
    return 0
