"""Channels (layer 6): the record and its invariants, the operations under its lock, and the class people use.

May import: runtime, sched, codec, shm, errors.     May never: switch a greenlet, or sleep, but through ``m.park``.

Reading order: ops -> end -> sending -> receiving -> channel -> select -> names -> aio.
"""
