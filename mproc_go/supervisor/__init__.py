"""The process that outlives workers: it makes the segment and the semaphores, forks the workers and is their parent.

May import: shm, sched, observe, errors.
May never: import runtime, codec or greenlet, run or unpickle what users sent (the zygote gives it the workers' main
function, so that a fork is all a new worker takes).

Reading order: thread -> control -> main -> sysmon -> deadlock -> reaper -> reception.
"""
