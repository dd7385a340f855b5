"""Scheduler structures in shared memory (layer 3): what runs, what waits, who is idle.

May import: shm, codec, errors.
May never: touch a greenlet, run user code, sleep, or hold one of its locks across a call into another package's lock.

Reading order: states -> waitq -> deliver -> runq -> idle -> repairs, and cpus.
"""
