"""Read-only eyes on a running or dead runtime (layer 4): stacks, figures, the trace line.

May import: shm, sched, errors.
May never: change a structure, decide anything, or be needed by what it watches.
"""
