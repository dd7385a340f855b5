"""The memory map: every shared word, who writes it, who reads it, and what guards it.

The segment is one array of 64-bit words ``w`` (a ``memoryview.cast("Q")``) over the same bytes ``mem``. A *base* is
the index of a record's first word; constants below are offsets from a base, in words. All words are aligned, so a
single store is never torn, and every change of a structure ends in **one** store that publishes it.

::

    0        HEADER      magic, version, sizes
    64       SCHED       Go's schedt
    128      LOCKS       2 words a lock
    .        SLOTS       one a thread that takes locks (the supervisor, workers, client threads)
    .        PS          one a P, with its run queue
    .        CODES       code table
    .        NAMES       named channels
    .        POOLS       free lists of the record and block pools
    .        EXTENTS     which part of the segment belongs to which pool
    .        dynamic     extents of records and blocks, in the order they were reserved

Rejected: a ctypes structure a record (24-28 ns a field against 17-20 ns for a word by constant index), and one lock a
record (a million channels would need a million semaphores; records are hashed over stripes instead).
"""

from __future__ import annotations

from typing import Final

WORD: Final = 8
MAGIC: Final = 0x6D70726F635F676F  # "mproc_go"
LAYOUT_VERSION: Final = 1
PAGE_WORDS: Final = 512

# ---------------------------------------------------------------- header; written once by the supervisor, before
# anybody else maps the segment; read by whoever joins.
H_MAGIC: Final = 0
H_VERSION: Final = 1
H_MAX_MS: Final = 2  # worker slots: 1 .. H_MAX_MS (slot 0 is the supervisor)
H_SLOTS: Final = 3  # slots with a note: the supervisor's, the workers', then the clients'
H_LIMIT_WORDS: Final = 4  # what the committed part of the segment may grow to
H_COMMITTED_WORDS: Final = 5  # writer: who holds L_SEGMENT; readers: stats (a stale read is only an old figure)
H_SUPERVISOR: Final = 6  # os_pid
# 0 while the program runs. Written once by whoever ends it; read by everybody at every blocking or channel call,
# without a lock: a stale 0 only means that one more operation is done before the program stops.
H_STOP: Final = 7
# The worker asks the supervisor for one more M (set by wake_p, cleared by the supervisor; both may miss: it ticks).
H_NEED_M: Final = 8
H_PREEMPT: Final = 10  # 1: goroutines that compute for long are made to yield by a signal; constant
# Words of free large blocks that kept their memory (part of the committed ones); guard: the lock of the large pools
H_KEPT_WORDS: Final = 11
H_ON_PANIC: Final = 9  # what a panic does: below; constant

H_HASH_KEY: Final = 40  # 2 words: what keys of maps are hashed with, drawn anew for each runtime; constant

ON_PANIC_END: Final = 0
ON_PANIC_LOG: Final = 1

STOP_CLOSED: Final = 1  # Runtime.close()
STOP_PANIC: Final = 2  # S_FATAL holds the panic
STOP_LOST: Final = 3  # a worker died with a goroutine nobody waited for; S_FATAL holds the text
STOP_DEADLOCK: Final = 4  # no goroutine can ever run again; S_FATAL holds the text

# ---------------------------------------------------------------- SCHED; guard: L_SCHED unless said otherwise
SCHED: Final = 64
S_FATAL: Final = SCHED + 0  # block with the panic or the text of a lost worker; first one wins
S_GOMAXPROCS: Final = SCHED + 1
S_PIDLE: Final = SCHED + 2  # bit mask of idle Ps. Read without the lock by spawners (Twin: sched/idle.py)
S_NSPINNING: Final = SCHED + 3  # Ms that search for work. Read without the lock by spawners
S_MIDLE: Final = SCHED + 4  # 4 words, bit mask of Ms asleep without a P
S_GQ: Final = SCHED + 8  # global run queue: head (truth) ...
S_GQ_TAIL: Final = SCHED + 9  # ... tail (hint while the head is 0) ...
S_GQ_SIZE: Final = SCHED + 10  # ... and length (recomputed by repair). Read without the lock: 0 means "look later"
S_GOID: Final = SCHED + 11  # next goroutine number; taken in batches
S_GOID_BATCH: Final = 64
S_PWAIT: Final = SCHED + 12  # 4 words, bit mask of Ms that have something to run and wait for a P
S_PWAIT_NEXT: Final = SCHED + 16  # slot after the one that was served last, so that none of them starves
S_DUMPER: Final = SCHED + 17  # slot that collects stacks now, 0 = nobody
# Records nobody refers to any more that the reaper found, for a worker to free: linked by R_LINK, the lowest bit set
# for a goroutine. Guard: L_SCHED.
S_ORPHANS: Final = SCHED + 19
S_HANDOFFS: Final = SCHED + 18  # Ps taken from blocked Ms, ever; writer: the supervisor
# 1: there are records that a dead process's alarm was to look at (looker 0): a worker has its own look. The reaper sets
# it after the records, again and again until somebody has them; who takes that on clears it before it looks for them.
S_ADRIFT: Final = SCHED + 20

# ---------------------------------------------------------------- locks
LOCKS: Final = 128
LOCK_WORDS: Final = 2
LOCK_GEN: Final = 0  # generation; stored only by the supervisor (doors: shm/lock.py)

# Lock numbers are also the order in which several may be taken: ascending, never down.
L_SEGMENT: Final = 0  # extents and the committed size
L_CODES: Final = 1
L_NAMES: Final = 2  # named channels
L_POOLS: Final = 3  # one a pool, the large classes share the last
N_POOL_LOCKS: Final = 16
L_SCHED: Final = L_POOLS + N_POOL_LOCKS
L_INBOX: Final = L_SCHED + 1  # inbox of M hashed over these
N_INBOX_LOCKS: Final = 16
L_PS: Final = L_INBOX + N_INBOX_LOCKS  # run queue of P
MAX_PS: Final = 64  # one bit a P in S_PIDLE
L_CONTEXT: Final = L_PS + MAX_PS  # which contexts end with which
L_OBJECTS: Final = L_CONTEXT + 1  # goroutines, channels, ... hashed over these
N_OBJECT_LOCKS: Final = 64
L_CLAIM: Final = L_OBJECTS + N_OBJECT_LOCKS  # decision word of a goroutine that waits on several queues
N_CLAIM_LOCKS: Final = 16
N_LOCKS: Final = L_CLAIM + N_CLAIM_LOCKS

# ---------------------------------------------------------------- slots: a thread that may hold locks
SLOTS: Final = LOCKS + N_LOCKS * LOCK_WORDS + 32
SLOT_WORDS: Final = 128
MAX_SLOTS: Final = 256  # one bit a process in a record's holder mask
N_HOLDER_WORDS: Final = MAX_SLOTS // 64

M_KIND: Final = 0  # 0 free, else below; guard: L_SCHED
M_OS_PID: Final = 1
M_STATE: Final = 2  # below; writer: the owner; a waker may store M_AWAKE. Read after a fence, no lock (shm/note.py)
M_P: Final = 3  # P held, plus 1; writer: whoever assigns it under L_SCHED
M_INBOX: Final = 4  # goroutines made ready for this M, last first, linked by R_LINK; guard: its inbox lock
M_TICK: Final = 5  # scheduling steps; writer: owner; read by the supervisor
M_SPAWNED: Final = 6  # goroutines made by this slot, ever; writer: owner; readers: num_goroutine, stats
M_FINISHED: Final = 7  # goroutines that ended on this slot, ever; writer: owner
M_RUNNING: Final = 8  # base of the goroutine now running, 0 in the hub; writer: owner
M_SPINNING: Final = 9  # 1 while counted in S_NSPINNING; guard: L_SCHED
M_HOST: Final = 10  # slot whose bit in holder masks stands for the process; constant while the slot is used
M_STEALS: Final = 11  # writer: owner
M_HANDOFFS: Final = 12  # Ps taken from this M while it was blocked; writer: the supervisor
M_RESIDENT: Final = 13  # goroutines that started here and have not ended; writer: owner; a stale read is fine
# Doorbell: 1 = look at what the words below, the inbox and H_STOP say. Anybody rings it, after the change it is about;
# the owner clears it and then, behind a fence, looks at everything. One read a scheduling step serves them all.
M_ATTENTION: Final = 15
M_YIELD: Final = 17  # 1: others wait for a P, give yours up; writer: the supervisor, cleared by the owner
M_RETIRE: Final = 18  # 1: end if nothing is bound to you; writer: the supervisor
M_DUMP: Final = 19  # number of the latest request for stacks; guard: S_DUMPER
M_REPLY: Final = 20  # block with the answer to it (its length in the first payload word); writer: owner
M_REPLIED: Final = 21  # number of the request M_REPLY answers; publishes it
M_DEADLINE: Final = 22  # when the owner's next timer is due, monotonic ns, 0 = never; written before it sleeps
M_EXTERNAL: Final = 23  # goroutines of this M that something outside will wake (calls, descriptors); writer: owner
# Of a host's slot: 1 while the process has a thread that the runtime does not know and that may still act; writer: its
# threads (runtime/outsiders.py); reader: the deadlock detector.
M_OUTSIDE: Final = 24
# Redo record of a change of R_REFS and of one other word: the record, where that word lies, and what it becomes. It
# means something while that R_REFS names this slot (shm/counts.py). Writer: owner.
M_REDO_OF: Final = 25
M_REDO_AT: Final = 26
M_REDO: Final = 27
# 1: an exception cut its thread off in the middle of something. What it holds is freed and completed like a dead one's,
# while it waits, touching nothing. Writer: the owner sets it, the supervisor clears it when that is done.
M_CUT: Final = 31
M_PHASE: Final = 32  # phase words, one a nesting level; writer: owner (after its death: the supervisor)
M_PHASE_LEVELS: Final = 80
M_REG_PHASE: Final = M_PHASE + M_PHASE_LEVELS - 1  # the last one: of a thread without a slot yet; guard: a local lock
# Entries of maps that goroutines of this slot read under no lock, 0 if free: | number of the stripe's lock << PIN_LOCK.
# Writer: the owner, under that lock (after its death: the supervisor, under it); readers: whoever has that lock.
M_PINS: Final = M_PHASE + M_PHASE_LEVELS
N_PINS: Final = SLOT_WORDS - M_PINS
PIN_LOCK: Final = 48

KIND_FREE: Final = 0
KIND_SUPERVISOR: Final = 1
KIND_WORKER: Final = 2
KIND_CLIENT: Final = 3
KIND_MAILBOX: Final = 4  # a client's thread that takes deliveries from its inbox, for asyncio tasks (chan/aio.py)
WITH_INBOX: Final = (KIND_WORKER, KIND_MAILBOX)

M_AWAKE: Final = 0
M_SLEEPING: Final = 1

# ---------------------------------------------------------------- Ps; guard: the P's lock unless said otherwise
P_STATUS: Final = 0  # guard: L_SCHED
P_M: Final = 1  # slot that holds it, 0 = idle; guard: L_SCHED
P_HEAD: Final = 2  # next to run. Read without the lock by its M and by searchers (stale: one look too many or too few)
P_TAIL: Final = 3  # next free place; head <= tail <= head + RUNQ
P_RUNQ: Final = 16
RUNQ: Final = 256  # as in Go
P_WORDS: Final = P_RUNQ + RUNQ

P_IDLE: Final = 0
P_RUNNING: Final = 1
P_DEAD: Final = 2  # index >= gomaxprocs

# ---------------------------------------------------------------- code table; guard: L_CODES
N_CODES: Final = 8192
CODES_COUNT: Final = 0  # number of entries; publishes an entry. Read without the lock
CODE_BY_NAME: Final = b"R"  # first byte of a blob that is no more than "module:name"
CODES_ENTRY: Final = 1  # one word an entry: base of the block with the function's blob; never changes once published

# ---------------------------------------------------------------- named channels; guard: L_NAMES
N_NAMES: Final = 512  # chains of blocks, by a hash of the name; a word here publishes a block, nothing is ever removed
NM_LINK: Final = 0  # next block of the chain; offsets are from a block's payload, all constant once published
NM_CHAN: Final = 1  # base of the channel (the name counts as one reference) ...
NM_GEN: Final = 2  # ... and its generation
NM_LENGTH: Final = 3  # bytes of the name ...
NM_NAME: Final = 4  # ... which begins here

# ---------------------------------------------------------------- pools
# 0 G, 1 objects, 2 sudogs, then blocks of 2**k words at pool index k.
POOL_G: Final = 0
POOL_OBJECT: Final = 1
POOL_SUDOG: Final = 2
MIN_BLOCK_ORDER: Final = 4  # 16 words
MAX_BLOCK_ORDER: Final = 40
LARGE_ORDER: Final = 15  # from 256 KiB up a block is an extent of its own and gives its pages back (shm/pool.py)
N_POOLS: Final = MAX_BLOCK_ORDER + 1
POOL_WORDS: Final = 4
POOL_FREE: Final = 0  # first free record, linked by R_LINK; guard: the pool's lock
POOL_HOT: Final = 2  # first free block that kept its memory, in large pools; guard: the pool's lock
POOL_CUR: Final = 1  # extent number << 32 | records carved from it; guard: the pool's lock

N_EXTENTS: Final = 16384
EXTENT_WORDS: Final = 3
EXTENTS_COUNT: Final = 0  # publishes an extent; guard: L_SEGMENT; read without it (an older count is only shorter)
EXTENTS_ENTRY: Final = 4
E_POOL: Final = 0
E_BASE: Final = 1
E_WORDS: Final = 2

# ---------------------------------------------------------------- records. Every record and block begins so:
R_HEAD: Final = 0  # state | slot << 8 (a large block: | words with memory behind them << 16); writer: below
R_LINK: Final = 1  # next in the free list, run queue or inbox it is in (a block's first payload word while it is used)
R_GEN: Final = 2  # generation, grows when freed (not in blocks); writer: who frees it

# What a record or a block is, and whose. LIVE: a shared structure names it; the slot is of who put it there. All others
# are nobody's but the slot's: named by nothing that is shared, and dealt with by the reaper once that is dead.
REC_FREE: Final = 0  # in the pool's list
REC_CACHED: Final = 1  # in the owner's cache, or in its hands: taken and not put anywhere yet, or taken out
REC_LIVE: Final = 2
REC_CARRIES: Final = 3  # a message in hand: as CACHED, and handles in it are counted (MSG_TABLE)
REC_DYING: Final = 4  # nothing refers to it; the owner destroys it, and what it holds
REC_STATE: Final = 0xFF
HEAD_SLOT: Final = 8  # shift of the slot ...
HEAD_SLOT_MASK: Final = 0xFF
HEAD_WORDS: Final = 16  # ... and of a large block's words

BLOCK_DATA: Final = 1  # payload of a block begins here
# First payload word of a message with handles: how many there are; while it is in somebody's hands also which of them
# are counted: from the first (<< MSG_FROM) to the last but so many (<< MSG_BUT). Both 0 once it is put somewhere.
MSG_TABLE: Final = BLOCK_DATA
MSG_COUNT: Final = (1 << 24) - 1
MSG_FROM: Final = 24
MSG_BUT: Final = 44
MSG_HANDLES: Final = (1 << MSG_BUT - MSG_FROM) - 1  # so many there may be

# Records that handles name (goroutines and objects); guard: the record's object lock
R_HOLDERS: Final = 3  # 4 words: a bit for each process that has a handle
# Number of those bits, plus handles that travel in messages, plus 1 for a goroutine that has not ended; 0 frees it.
# While somebody changes it together with another word: | its slot plus 1 << REFS_BY, which publishes both (M_REDO).
R_REFS: Final = 7
REFS_BY: Final = 32
REFS_MASK: Final = (1 << REFS_BY) - 1

# Goroutine. Until it starts it is only these words; from then on it belongs to one M for ever.
G_STATUS: Final = 8  # states below | wait reason << 8; writer: owner (spawner, then the M that runs it)
G_GOID: Final = 9
G_M: Final = 10  # slot that runs it, 0 before it starts; writer: that M
# Decision: 0 while it waits; one store by the winner ends the wait: outcome | case << 8 | winner's slot << 32.
# Writer: the G clears it before it enqueues; a waker sets it under the lock of the object waited for.
# Before it starts: M_SPAWNED of its maker once that counts it. Once it ended: M_FINISHED << 32 | R_REFS, then (reaper).
G_DECIDE: Final = 11
G_CODE: Final = 12  # code id << 8 | flags below
G_JOINQ: Final = 13  # who waits for its result: head, tail; guard: the object lock
G_PARENT: Final = 15  # goid of the spawner
G_MSG: Final = 16  # message with the arguments, later the result (nobody needs the sudog then) ...
G_SUDOG: Final = 16  # ... in between: the sudog for waits on a single queue
G_RETRY_RECORD: Final = 31  # block: times left, header, body; constant. Only with G_RETRY (else arguments may lie here)
G_CLIENT_COUNT: Final = 31  # of a client's thread: M_SPAWNED of its slot once that counts it; else as G_RETRY_RECORD
G_WAITS_FOR: Final = 30  # while it waits for a goroutine's result: that goroutine; writer: the G; reader: reports
G_WORDS: Final = 32

CODE_SHIFT: Final = 8
G_HAS_KWARGS: Final = 1
G_RETRY: Final = 4  # run again if its worker dies: G_RETRY_RECORD holds the message, which is kept until it ends
G_QUIET: Final = 8  # no panic if it fails and nobody holds the handle any more
G_LEFT: Final = 16  # it ended, and its worker died before it freed that record: the last handle does (reaper)
G_ONE_ARG: Final = 32  # the message is the one argument, not a tuple of them
G_COUNTED: Final = 2  # a wait group counts it until it ends; the message is that, or (that, ...) (runtime/spawn.py)

# Message: header, then up to MSG_INLINE_* of payload, or one word with the base of a block.
MSG_HDR: Final = 0
MSG_BODY: Final = 1
SLOT_MSG_WORDS: Final = 8  # in channels and sudogs
INLINE_BYTES: Final = 56
G_INLINE_BYTES: Final = 120

# Header word of a message (the codec sets the lower part; bits 55 and 57 up are transport)
HDR_LEN_MASK: Final = (1 << 48) - 1
HDR_HAS_BUFFERS: Final = 1 << 55
HDR_HAS_HANDLES: Final = 1 << 56
HDR_SPILLED: Final = 1 << 57  # the payload is in a block
HDR_EXCEPTION: Final = 1 << 58  # a goroutine's result: the exception that left it
HDR_LOST: Final = 1 << 59  # a goroutine's result: its worker died; the payload is the text, not encoded

# Sudog: a goroutine's place in one wait queue
SG_LINK: Final = 0  # next; 0 at the end. Truth of the queue
SG_PREV: Final = 1  # previous; hint, recomputed by repair
SG_G: Final = 2
SG_CASE: Final = 3  # number of the select case
# A sender: tail + 1 its message was published under, once it was moved into the buffer, else 0. A receiver that is a
# case of a select: SG_RECEIVES
SG_SEQ: Final = 4
SG_RECEIVES: Final = 1 << 62
SG_PINNED: Final = 1 << 61  # a receiver of a keyed channel: SG_MSG may name an entry, for it to take (EN_GIVEN)
# 1: the goroutine waits on several queues, claim under its claim lock; 2: taken out of this one; 3: nobody waits here,
# it is a message given back to its channel (chan/ops.py)
SG_SELECT: Final = 5
SG_MSG: Final = 6  # 8 words: what a sender brings, or what a receiver was given
SG_WORDS: Final = 14
SUDOG_WORDS: Final = 16  # as a record of its own: 2 words of record header, then the sudog
SUDOG_BODY: Final = 2

# Objects
O_KIND: Final = 8
OBJECT_WORDS: Final = 32
# channel; guard: its object lock
CH_CAP: Final = 9  # constant
CH_LIMIT: Final = 10  # CH_CAP while open, 0 once closed: one read answers both "open?" and "room?"
CH_HEAD: Final = 11  # messages taken, ever: publishes a receive
CH_TAIL: Final = 12  # messages put, ever: publishes a send; head <= tail <= head + cap
CH_CLOSED: Final = 13  # publishes close
CH_RECVQ: Final = 14  # head, tail
CH_SENDQ: Final = 16  # head, tail
CH_RING: Final = 18  # base of the first message slot, 0 if unbuffered; constant
# wait group; guard: its object lock
WG_COUNT: Final = 9  # publishes add and done
WG_WAITQ: Final = 14
# mutex; guard: its object lock
MX_LOCKED: Final = 9  # 0, or the number of the goroutine that locked it (for reports); publishes lock and unlock
MX_WOKEN: Final = 10  # goroutine woken to compete for the mutex and not there yet, else 0
MX_WAITQ: Final = 14
# RWMutex; guard: its object lock
RW_STATE: Final = 9  # readers that have it, or RW_WRITER; publishes every change
RW_WRITEQ: Final = 14
RW_READQ: Final = 16
RW_WRITER: Final = 1 << 32
# once; guard: its object lock
OC_STATE: Final = 9  # below; publishes. Read without the lock: ONCE_DONE is final, anything else is looked at again
OC_RUNNER: Final = 10  # goroutine that runs the function
OC_WAITQ: Final = 14
# condition variable; guard: its object lock
CD_KIND: Final = 9  # kind, base (0 until then) and generation of the mutex it belongs to, counted as one reference
CD_MUTEX: Final = 10
CD_MUTEX_GEN: Final = 11
CD_WAITQ: Final = 14
# semaphore; guard: its object lock
SM_SIZE: Final = 9  # constant
SM_HELD: Final = 10  # publishes acquire and release; at most SM_SIZE
SM_WAITQ: Final = 14
# atomic integer; guard of changes: its object lock. Read without it: one aligned word
AI_VALUE: Final = 9  # two's complement
# channel of a timer or ticker: a channel record, whose lock guards these too
# When it fires next (ns of the monotonic clock), 0 while stopped; publishes arm and stop. 0 in every other channel: the
# words from here to TM_TIMED hold something only where there was a timer.
TM_DEADLINE: Final = 25
TM_PERIOD: Final = 26  # ns between ticks, 0 for a timer
TM_LOOK: Final = 27  # when some process's alarm will look at this record, 0 if none will; never later than TM_DEADLINE
TM_CALL: Final = 28  # message (header, then block): the call of a timer that has one instead of a channel, else 0
# Host slot of the process whose alarm will, stored before the words it is about; 0 once that is dead (reaper)
TM_LOOKER: Final = 30
TM_TIMED: Final = 31  # 1: it has a timer, 0 in every other channel; constant
# context; guard: L_CONTEXT (links and state of all contexts)
CX_STATE: Final = 9  # below; publishes a cancellation. Read without the lock: only ever leaves 0 once
CX_ROLE: Final = 10  # below; constant
CX_PARENT: Final = 11  # context it was made from and its generation (counted as one reference), or 0; constant
CX_PARENT_GEN: Final = 12
CX_CANCELER: Final = 13  # itself or the nearest ancestor that can be cancelled, 0 if none; constant
CX_DONE: Final = 14  # channel that its end closes, and its generation (counted as one reference), or 0; constant
CX_DONE_GEN: Final = 15
CX_DEADLINE: Final = 16  # ns of the monotonic clock, its own or an ancestor's, 0 if none; constant
CX_WALL: Final = 17  # the same as a float of time.time(), its bits; constant
CX_CHILD: Final = 18  # first of the contexts to cancel with it. Truth of the list, with ...
CX_NEXT: Final = 19  # ... the links forward
CX_PREV: Final = 20  # link backward; hint, recomputed by repair
CX_OWNER: Final = 21  # whose list it is in, 0 if none; hint, recomputed by repair
CX_MSG: Final = 22  # message (header, then block or 0): value of a value, cause of what was cancelled, call of a hook
CX_KEY: Final = 24  # message: key of a value
CX_LOOK: Final = 26  # as TM_LOOK; publishes a deadline of its own, constant from then on
CX_LOOKER: Final = 27  # as TM_LOOKER; guard: its object lock once CX_LOOK is not 0
# letter: a block that was in the hands of somebody dead, on its way to whoever frees it and what it carries
LT_BLOCK: Final = 9  # 0 once it is taken out; what is in it is for LT_STATE to say
LT_STATE: Final = 10  # REC_CARRIES, or REC_CACHED where it counts no handles; constant
LT_POOL: Final = 11  # constant
# memory of its own: a large buffer of a message, a shared array; constant once O_KIND says so
MB_BLOCK: Final = 9  # block with the bytes, 0 while there is none ...
MB_BYTES: Final = 10  # ... and how many they are, from word MB_DATA of the block on
AR_BYTES: Final = 1  # word of the block of an array: bytes of its items, behind which the pickle of what they are lies
MB_DATA: Final = 8  # the first line of the block is its header's, so that the bytes lie as processors like it (64)

# map and keyed channel; all constant but KC_CLOSED
MP_N: Final = 9  # stripes: a power of two, MIN_STRIPES to MAX_STRIPES
MP_STRIPES: Final = 10  # payload of a block: base and generation of each stripe (counted as one reference each)
# Publishes the close of a keyed channel; guard: its object lock. Read without it, under the lock of a stripe.
KC_CLOSED: Final = 11
# stripe of a map: a part of its keys in one list, in the order of their hashes; guard: its object lock
ST_MAP: Final = 9  # the record it is a stripe of; constant
ST_KEYED: Final = 10  # 1 in a keyed channel; constant
ST_COUNT: Final = 11  # keys that have a value. Read without the lock by len
ST_LEVEL: Final = 12  # 2**level buckets; publishes growth
ST_DIR: Final = 13  # payload of a block: word j is where the shortcuts that level j added begin; 0 at level 0
ST_HEAD: Final = 14  # first node of the list (link and hash 0), which is never removed
ST_TAIL: Final = 16  # its last node (no link, and a hash above all others); constant
ST_ACTIVE: Final = 18  # head, tail: wait records of the stripe. Truth of the list: links from the head on
ST_PREV: Final = 20  # the node whose link changes, or changed last: it stays in the list. Redo record: ...
ST_NODE: Final = 21  # ... if this is not 0, that link becomes this, and once it has ...
ST_NEW: Final = 22  # ... ST_COUNT is this. ST_SHORTCUT: ST_NODE is a shortcut, and unused before that
ST_SHORTCUT: Final = 1 << 62
# A node of that list: an entry (a block), or a shortcut into the list (2 words in the directory, hash even).
ND_LINK: Final = 0  # next node; publishes all that happens to entries. A shortcut's is 0 until it is in the list
ND_HASH: Final = 1  # constant
# entry: offsets from its block's payload. All constant once it is linked, but the link, EN_STATE and EN_WAIT, and the
# word of a message that is a whole number; guard of these: the lock of its stripe
EN_KEYLEN: Final = 2  # bytes of the key in canonical form | bytes of its exact form, where that differs, << 32
EN_STATE: Final = 3  # number of pins, never too low (M_PINS says exactly who has some) | flags below
EN_WAIT: Final = 4  # wait record of its key, or 0
EN_AT: Final = 5  # where its message begins
EN_SIZE: Final = 6  # bytes of the block
EN_KEY: Final = 7  # the key, canonical form (of a number of 64 bits: 2 words), then exact form; then the message
EN_PINS: Final = (1 << 32) - 1
EN_VALUE: Final = 1 << 32  # it has a message: else it only stands for a key that somebody waits for, or will store
EN_KEY_HANDLES: Final = 1 << 33  # there are handles in the key, counted like those of a message
EN_RETIRED: Final = 1 << 34  # unlinked, and read by somebody still: whoever takes the last pin off frees it
EN_GIVEN: Final = 1 << 35  # there are some in the queue of its wait record who were given it and did not take it yet
# wait record, a block: who changes a key alone, and who waits for it
WT_LINK: Final = 0  # next in the stripe's list; the links of a sudog, so that waitq serves them
WT_BACK: Final = 1  # the one before; hint
WT_ENTRY: Final = 2  # the entry of the key
WT_OWNER: Final = 3  # goroutine that alone may change it, 0 if none
WT_QUEUE: Final = 4  # head, tail: in a map who wants to change it, in a keyed channel who waits (or see EN_GIVEN)
WT_BYTES: Final = 6 * WORD

MIN_STRIPES: Final = 8
MAX_STRIPES: Final = 64

ONCE_NEW: Final = 0
ONCE_RUNNING: Final = 1
ONCE_DONE: Final = 2

CX_ACTIVE: Final = 0
CX_CANCELED: Final = 1
CX_EXCEEDED: Final = 2  # deadline exceeded
CX_INHERITED: Final = 4  # flag: by way of the owner of the list it was in, which has the cause

CX_CANCEL: Final = 1  # has a done channel and children
CX_VALUE: Final = 2
CX_WITHOUT: Final = 3  # cut off from the end of its parent
CX_HOOK: Final = 4  # a call to make at the end of its owner; while it is in the list that counts as one reference

# No kind of an object is a status of a goroutine, whose word is the same: what lies there tells both apart.
KIND_GOROUTINE: Final = 1
KIND_CHAN: Final = 6
KIND_WAITGROUP: Final = 7
KIND_SEND_CHAN: Final = 8  # handles of a channel that can only send
KIND_RECV_CHAN: Final = 9  # ... or receive; the record is a KIND_CHAN
KIND_MUTEX: Final = 10
KIND_RWMUTEX: Final = 11
KIND_ONCE: Final = 12
KIND_COND: Final = 13
KIND_SEMAPHORE: Final = 14
KIND_ATOMIC: Final = 15
KIND_TIMER: Final = 16  # the record is the one of its channel
KIND_TICKER: Final = 17  # the same
KIND_CONTEXT: Final = 18
KIND_ARRAY: Final = 25
KIND_BUFFER: Final = 24  # never seen by users: their array or memoryview holds it
KIND_LETTER: Final = 26  # no handles
KIND_MAP: Final = 32
KIND_KEYED_CHAN: Final = 33
KIND_STRIPE: Final = 34  # of either

# Outcomes in a decision word
OUT_OK: Final = 1
OUT_CLOSED: Final = 2
OUT_AGAIN: Final = 3  # nothing was given: look again
OUT_MASK: Final = 0xFF


def pool_record_words(pool: int) -> int:
    """Words of one record of the pool."""
    if pool == POOL_G:
        return G_WORDS
    if pool == POOL_OBJECT:
        return OBJECT_WORDS
    if pool == POOL_SUDOG:
        return SUDOG_WORDS
    return 1 << pool


# ---------------------------------------------------------------- where the tables lie
PS: Final = (SLOTS + MAX_SLOTS * SLOT_WORDS + 63) // 64 * 64
CODES: Final = PS + MAX_PS * P_WORDS
NAMES: Final = CODES + CODES_ENTRY + N_CODES + 7
POOLS: Final = NAMES + N_NAMES
EXTENTS: Final = POOLS + N_POOLS * POOL_WORDS
DYNAMIC: Final = (EXTENTS + EXTENTS_ENTRY + N_EXTENTS * EXTENT_WORDS + PAGE_WORDS - 1) // PAGE_WORDS * PAGE_WORDS


def slot_base(slot: int) -> int:
    return SLOTS + slot * SLOT_WORDS


def p_base(p: int) -> int:
    return PS + p * P_WORDS


def object_lock(base: int) -> int:
    """Number of the lock that guards the record at `base`. Records are 32 words: neighbours get different locks."""
    return L_OBJECTS + (base >> 5) % N_OBJECT_LOCKS


def claim_lock(g: int) -> int:
    """Number of the lock under which a goroutine that waits on several queues is decided."""
    return L_CLAIM + (g >> 5) % N_CLAIM_LOCKS


def inbox_lock(slot: int) -> int:
    return L_INBOX + slot % N_INBOX_LOCKS


def pool_lock(pool: int) -> int:
    return L_POOLS + min(pool, N_POOL_LOCKS - 1)
