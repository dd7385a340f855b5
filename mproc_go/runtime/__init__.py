"""Goroutines in this process (layer 5): their start, their waits, their end; and the processes around them.

May import: shm, codec, sched, errors, greenlet (runtime/worker.py alone).
May never: know what a channel or a wait group is (they register what the last handle of theirs frees), or be imported
by the supervisor's loop (the supervisor is given the workers' main function when it is started).

Reading order: process -> park -> worker -> client -> spawn -> message -> buffers -> refs -> handle -> goroutine
-> panics -> blocking -> netpoll -> preempt -> dump -> outsiders -> boot -> attach.
"""

import sys

if sys.platform != "linux":
    # Here, and not in whatever first misses something of os or select; `mproc-go doctor` still tells the rest.
    raise ImportError(f"mproc_go needs Linux, and this is {sys.platform}: it stands on memfd, pidfd, epoll and /proc")
