"""What is built on channels and locks: timers, contexts, groups (layer 7).

May import: chan, sync and everything below.     May never: touch the words of a channel or a lock but through ops.
Reading order: alarm (when), clock (timers), tree and context, group.
"""
