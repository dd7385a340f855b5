"""What Go's package sync has (layer 6), on wait queues in shared memory.

May import: runtime, sched, codec, shm, errors.     May never: switch a greenlet, or sleep, but through ``park``.

Reading order: grants -> waitgroup -> mutex -> cond -> semaphore -> rwmutex -> once -> atomic.
"""
