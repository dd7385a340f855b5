"""What is built on channels and locks: timers, contexts, groups (layer 7).

May import: chan, sync and everything below.     May never: touch the words of a channel or a lock but through ops and
what their modules offer. (A timer's record is a channel with words of its own behind it; a context has a kind of its
own.)
Reading order: alarm (when), clock (timers), tree and context, group.
"""
