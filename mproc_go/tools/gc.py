"""``mproc-go gc``: remove what runtimes left that were killed with all their processes, and nothing else.

Whose a thing is, and whether that one is dead, shm/names.py says: semaphores carry their supervisor's number, start
time and pid namespace; entries of the folder are locked by the living.
"""

from __future__ import annotations

import os

import click

from mproc_go.shm import names
from mproc_go.tools.which import usage_errors


@click.command(name="gc", short_help="Remove what dead runtimes left.")
def command() -> None:
    """Remove what killed runtimes of this user left: semaphores in /dev/shm, and their sockets, locks and logs.

    The living keep all of theirs, and other users' things are not touched.
    """
    removed: list[str] = []
    with usage_errors():
        try:
            with names.Folder() as folder:
                removed += folder.remove_left()
        except FileNotFoundError:
            pass  # then nothing is in it
    by_owner: dict[str, int] = {}
    for path in names.remove_left():
        owner = os.path.basename(path).split(".")[3]
        by_owner[owner] = by_owner.get(owner, 0) + 1
    for path in removed:
        click.echo(f"removed {path}")
    for owner, count in by_owner.items():
        click.echo(f"removed {count} semaphores of process {owner} in {names.SHM_FOLDER}")
    if not removed and not by_owner:
        click.echo("nothing to remove")
