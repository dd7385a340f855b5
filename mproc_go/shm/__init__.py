"""Bytes shared by processes: the segment, its words, locks, notes, records and blocks (layer 1).

May import: :mod:`mproc_go.errors`, the standard library, posix_ipc.
May never: know what a goroutine does, encode a value, choose what runs, or call user code.

Reading order: layout (the memory map) -> segment -> names -> sem -> lock -> doors -> thread -> pool -> note.
"""
