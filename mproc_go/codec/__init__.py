"""Values to bytes and back: what a message, an argument, a result or a function is while it travels.

A value is encoded outside every lock, lies in shared memory as ``(header, data)``, and is decoded by whoever takes
it. Decoding yields a copy: equal, and of equal exact type. Only handles (channels, locks, maps) travel by reference.

May import: ``mproc_go.errors``, the standard library and cloudpickle (lazily: importing it costs 25 ms).
May never: lock, schedule, touch shared memory, or know what a goroutine is.

Reading order: ``wire`` (tags, the two picklers, exceptions), ``handles`` (the by-reference path), ``byname`` (can
another process import this?), ``captured`` (what a function takes from outside), ``classes`` (classes of ``__main__``
and of functions), ``functions`` (shipping a function once and referring to it by number), ``culprit`` (the text of an
EncodeError).
"""
