"""The MD5 sums of all files of a folder, on all cores, with bounded memory, errors, and an early end.

Three stages: a walker sends paths, a bounded number of digesters read files, main collects. Two things make it one that
can be trusted:

* whoever sends also listens to ``done``: if main gives up (a file can't be read), it closes ``done``, and every stage
  ends, wherever it waits;
* errors travel as values. The first one is raised in main.

Run it on a folder of your own: python pipeline_md5.py FOLDER. Without one it makes a few files, and a broken link that
it then finds.

Source: Sameer Ajmani, "Go Concurrency Patterns: Pipelines and cancellation" (go.dev/blog/pipelines), bounded.go.
"""

import hashlib
import os
import sys
import tempfile
from typing import NamedTuple

from mproc_go import Chan, Goroutine, RecvChan, WaitGroup, go, gomaxprocs, run, select


class Sum(NamedTuple):
    path: str
    digest: str = ""
    error: OSError | None = None


def walk(folder: str, paths: Chan[str], done: RecvChan[None]) -> str:
    """Send the paths of all files. Return how it ended."""
    try:
        for parent, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                if select((paths.send, os.path.join(parent, name)), done.recv).index == 1:
                    return "walk canceled"
        return "walk complete"
    finally:
        paths.close()


def digest(paths: RecvChan[str], sums: Chan[Sum], done: RecvChan[None]) -> None:
    for path in paths:
        try:
            with open(path, "rb") as file:
                result = Sum(path, hashlib.file_digest(file, "md5").hexdigest())
        except OSError as error:
            result = Sum(path, error=error)
        if select((sums.send, result), done.recv).index == 1:
            return


def close_after(senders: WaitGroup, sums: Chan[Sum]) -> None:
    senders.wait()
    sums.close()


def md5_all(folder: str) -> dict[str, str]:
    """Digests by path. Raises the first error; then nothing goes on behind the caller's back."""
    done: Chan[None] = Chan()
    paths: Chan[str] = Chan()
    sums: Chan[Sum] = Chan()
    walker: Goroutine[str] = go(walk, folder, paths, done.receiver)
    digesters = WaitGroup()
    for _ in range(2 * gomaxprocs()):
        digesters.go(digest, paths.receiver, sums, done.receiver)
    go(close_after, digesters, sums)
    try:
        found = {}
        for path, hexdigest, error in sums:
            if error is not None:
                raise error
            found[path] = hexdigest
        return found
    finally:
        done.close()  # tells everybody; after a complete walk nobody is left to hear it
        print(walker.result())
        digesters.wait()


def main(folder: str) -> None:
    for path, hexdigest in sorted(md5_all(folder).items()):
        print(hexdigest, os.path.relpath(path, folder))


def demo() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for n in range(4):
            with open(os.path.join(folder, f"{n}.txt"), "w") as file:
                file.write(f"number {n}\n" * 1000)
        main(folder)
        os.symlink("nowhere", os.path.join(folder, "0.broken"))
        for n in range(4, 1000):
            os.symlink("0.txt", os.path.join(folder, f"{n}.txt"))
        try:
            main(folder)
        except FileNotFoundError as error:
            print("no such file:", os.path.basename(error.filename))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(main, sys.argv[1])
    else:
        run(demo)
