"""Read-only eyes on a running or dead runtime (layer 4): stacks, figures, the trace line.

May import: shm, sched, errors.
May never: change a structure, decide anything, or be needed by what it watches. (A reply to a request for stacks is a
block of the worker that answers; who collects it frees it.)

Reading order: stacks -> stats.
"""
