"""What goroutines share instead of sending it (layer 7): the hash map, the keyed channel, the array.

May import: sync, chan, runtime, sched, codec, shm, errors.     May never: hold a lock while it decodes, encodes, takes
memory or calls a user's function; switch a greenlet, or sleep, but through ``park``; import NumPy before it is asked
for.

Reading order: keys (equal keys, equal hashes), table (the list of a stripe, words only), striped (its records, who owns
them, and whose turn it is to change a key), map, keyed; dtype (what an item is, without NumPy), array.
"""
