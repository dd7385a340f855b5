"""Ends in the way its arguments say: WHAT goroutines do meanwhile, HOW the main program ends.

Prints "ready" once everything is in that state.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from mproc_go import Chan, Runtime, go, run, sleep


def computing(ready):
    ready.send(1)
    x = 0
    while True:
        x += 1


def blocked(ready):
    ready.send(1)
    Chan().recv()


def sleeping(ready):
    ready.send(1)
    sleep(1000)


def in_c(ready):
    ready.send(1)
    time.sleep(1000)


def with_subprocess(ready):
    child = subprocess.Popen(["sleep", "1000"])
    ready.send(child.pid)
    child.wait()


def with_thread(ready):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    ready.send(1)


def nothing(ready):
    ready.send(1)


def goroutines(what):
    ready = Chan()
    for _ in range(4):
        go(globals()[what], ready)
    # Those that don't give up their P keep the others from starting.
    return [ready.recv() for _ in range(2 if what in ("computing",) else 4)]


def block(how):
    if how == "recv":
        Chan().recv()
    elif how == "send":
        Chan().send(1)
    elif how == "result":
        go(sleep, 1000).result()
    elif how == "sleep":
        sleep(1000)
    elif how == "time.sleep":
        time.sleep(1000)
    elif how == "compute":
        x = 0
        while True:
            x += 1


def end(how):
    if how == "return":
        return "returned"
    if how == "raise":
        raise ValueError("from main")
    if how == "exit":
        sys.exit(3)
    if how == "_exit":
        os._exit(4)
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1000)
    if how == "interrupt":
        raise KeyboardInterrupt
    block(how)
    return None


def main(what, how):
    goroutines(what)
    print("ready", flush=True)
    return end(how)


if __name__ == "__main__":
    what, how, way = sys.argv[1:]
    if way == "run":
        print(run(main, what, how, procs=2))
    elif way == "with":
        with Runtime(2):
            print(main(what, how))
    elif way == "start":
        runtime = Runtime(2).start()  # and never closed
        print(main(what, how))
    elif way == "dropped":
        Runtime(2).start()  # nobody keeps it
        print(main(what, how))
    else:
        print(main(what, how))  # the default runtime
