"""What a dead worker leaves, or a dead program that was attached: its locks, what it was changing, its goroutines, its
handles, its caches, its P.

Steps of :meth:`Reaper.bury`, each safe to do while the living go on:

1. Locks: every lock that a slot of the dead process may hold gets a new door (shm/lock.py); what was half done under it
   is completed before the door opens. What it had just made or ended is counted.
2. Its started goroutines leave every wait queue, so that nobody hands them anything. The messages that they brought,
   and those that they were given and never saw, go to a worker, which discards them.
3. Goroutines it was moving between run queues are queued again: they bear its slot and are in no queue.
4. Goroutines it decided and did not deliver are delivered.
5. Its P, and what it counted for (searching, waiting for a P), are recomputed from the living.
6. Its started goroutines end with WorkerLost, for whoever holds the handle, else as a panic; or run again, where
   retries are left. Not before every delivery to one of them has arrived: it writes into their records. The threads of
   a program were goroutines to whom they waited for; these are nobody's loss, and their records rest for a while.
7. Its handles: its bit is cleared in every record; what then has no reference is given to a worker to free, and so is
   what it was destroying.
8. Timers and deadlines that its alarm was to look at are given to a worker.
9. What was its own goes back to the pools. Everybody is woken once, to look again.

What the dead had in its hands is free again, or goes to a worker, to be freed with what it carries: heads say whose
everything is that no structure names (shm/pool.py). Where a dead thread was just putting something into a structure, or
taking it out, the structure says which of both it came to.

Runs: the supervisor, one burial at a time.     Source: shared words and who may store them: shm/layout.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from mproc_go.errors import SharedMemoryFull, tell
from mproc_go.observe.stacks import header
from mproc_go.sched import idle, orphans, repairs, runq, states, waitq
from mproc_go.sched.deliver import deliver, in_inbox
from mproc_go.shm import counts, note, pool
from mproc_go.shm import lock as locks
from mproc_go.shm.doors import Doors
from mproc_go.shm.layout import (
    BLOCK_DATA,
    CODE_SHIFT,
    G_CLIENT_COUNT,
    G_CODE,
    G_DECIDE,
    G_GOID,
    G_JOINQ,
    G_LEFT,
    G_M,
    G_MSG,
    G_PARENT,
    G_QUIET,
    G_RETRY,
    G_RETRY_RECORD,
    G_STATUS,
    G_SUDOG,
    H_ON_PANIC,
    H_SLOTS,
    H_STOP,
    HDR_HAS_HANDLES,
    HDR_LEN_MASK,
    HDR_LOST,
    HDR_SPILLED,
    HEAD_SLOT,
    HEAD_SLOT_MASK,
    HEAD_WORDS,
    KIND_CLIENT,
    KIND_FREE,
    KIND_LETTER,
    KIND_WORKER,
    L_OBJECTS,
    L_PS,
    L_SCHED,
    LARGE_ORDER,
    LT_BLOCK,
    LT_POOL,
    LT_STATE,
    M_ATTENTION,
    M_CUT,
    M_FINISHED,
    M_HOST,
    M_INBOX,
    M_KIND,
    M_OS_PID,
    M_P,
    M_PHASE,
    M_PHASE_LEVELS,
    M_REPLY,
    M_RUNNING,
    M_SPAWNED,
    M_SPINNING,
    MAX_PS,
    MIN_BLOCK_ORDER,
    N_HOLDER_WORDS,
    N_OBJECT_LOCKS,
    N_POOLS,
    O_KIND,
    ON_PANIC_LOG,
    OUT_MASK,
    OUT_OK,
    POOL_G,
    POOL_OBJECT,
    POOL_SUDOG,
    R_HEAD,
    R_HOLDERS,
    R_LINK,
    R_REFS,
    REC_CACHED,
    REC_CARRIES,
    REC_DYING,
    REC_LIVE,
    REC_STATE,
    REFS_MASK,
    S_ADRIFT,
    S_DUMPER,
    S_FATAL,
    S_GOMAXPROCS,
    SG_CASE,
    SG_G,
    SG_MSG,
    SG_PINNED,
    SG_RECEIVES,
    SG_SELECT,
    SG_SEQ,
    STOP_LOST,
    SUDOG_BODY,
    WITH_INBOX,
    WORD,
    inbox_lock,
    object_lock,
    pool_lock,
    slot_base,
)
from mproc_go.supervisor.crashes import function_name
from mproc_go.supervisor.thread import SupervisorThread

_PAUSE_S = 20e-6
# Of the text about a lost goroutine, where there is no memory for all of it: up to its G_RETRY_RECORD.
_SHORT_BYTES = (G_RETRY_RECORD - G_MSG - 1) * WORD
# How long the record of a program's thread stays what it was, in seconds. Whoever decided its wait may not have looked
# yet whom to wake: a client goes on as soon as it sees the decision, so nothing says that it was delivered.
_REST_S = 2.0
# How often workers are asked to look at timers of the dead, in seconds, until one does.
_ASK_S = 0.5
_STARTING = states.RUNNING | states.STARTING << states.REASON_SHIFT


class Reaper:
    """Buries dead workers.

    Attributes:
        dead: slots whose process is gone and which are not buried yet.
        stacks: by slot of the dead: the last stack of what ran there, as far as it is known.
        cut: slots of living threads that an exception cut off in the middle (M_CUT), and that wait for us.
    """

    def __init__(self, t: SupervisorThread, doors: Doors, collect: Callable[[], None]) -> None:
        """`collect` notices deaths: it adds their slots to `dead`."""
        self.t = t
        self.doors = doors
        self.dead: set[int] = set()
        self.cut: set[int] = set()
        self.stacks: dict[int, str] = {}
        self._collect = collect
        self._woken: list[int] = []  # to be delivered at the end of the burial
        self._asked = 0.0  # when the workers were last told of timers that nobody looks at
        self._resting: list[tuple[float, int]] = []  # records of programs' threads: until when, oldest first
        t.while_busy = self._free_locks

    # ------------------------------------------------------------ the keeper of doors (shm/lock.py)
    def make_shut(self, number: int, gen: int) -> locks.Door:
        return self.doors.make_shut(number, gen)

    def door(self, number: int, gen: int) -> locks.Door:
        return self.doors.door(number, gen)

    def living_slots(self) -> Iterator[int]:
        self._notice()
        w = self.t.w
        for slot in range(w[H_SLOTS]):
            base = slot_base(slot)
            if w[base + M_KIND] and slot not in self.dead and slot not in self.cut:
                yield base

    def dead_slots(self) -> list[int]:
        return [slot_base(slot) for slot in self.dead | self.cut]

    def pause(self) -> None:
        time.sleep(_PAUSE_S)

    def _notice(self) -> None:
        """Learn who is dead by now: processes, and with them their helper threads, which have slots of their own."""
        self._collect()
        w = self.t.w
        used = [s for s in range(w[H_SLOTS]) if w[slot_base(s) + M_KIND]]
        self.dead |= {s for s in used if w[slot_base(s) + M_HOST] in self.dead}
        self.cut = {s for s in used if w[slot_base(s) + M_CUT]} - self.dead

    def _free_locks(self) -> None:
        """Free the locks of everybody who is dead by now."""
        self._notice()
        for slot in [*self.dead, *self.cut]:
            locks.recover(self.t.w, self, slot_base(slot), self._repair_lock, M_PHASE_LEVELS)

    def _repair_lock(self, number: int) -> None:
        """Complete what a dead thread began under that lock. Runs alone: the new door is still shut."""
        w = self.t.w
        for slot in self.dead | self.cut:
            counts.repair(w, slot)
        if number == L_SCHED:
            runq.repair_global(w)
            idle.repair(w, self._living_workers())
        elif number == pool_lock(LARGE_ORDER):
            pool.repair_kept(w)
        elif number in repairs.UNDER_LOCK:
            kind, repair = repairs.UNDER_LOCK[number]
            objects = [base for base in self._in_use(POOL_OBJECT) if w[base + O_KIND] == kind]
            for base in objects:
                self._restore(base)
            repair(w, objects)
        elif L_OBJECTS <= number < L_OBJECTS + N_OBJECT_LOCKS:
            for base in self._live(POOL_OBJECT):
                if object_lock(base) == number:
                    self._restore(base)
                    kind = w[base + O_KIND]  # read once: the living free and reuse records meanwhile
                    if kind in repairs.REPAIR:
                        self._woken += repairs.REPAIR[kind](self.t, base)
            for g in self._live(POOL_G):
                if object_lock(g) == number:
                    self._restore_goroutine(g)
                    waitq.repair(w, g + G_JOINQ)
                    if w[g + G_STATUS] & states.STATUS_MASK >= states.DONE:
                        self._woken += waitq.decide_all(w, g + G_JOINQ, OUT_OK)
                        self._complete_end(g)

    def _complete_end(self, g: int) -> None:
        """Count the end of `g`, if its worker died between its status and that. Twin: runtime/worker.py finish."""
        w = self.t.w
        slot, record = w[g + G_M], w[g + G_DECIDE]
        if slot in self.dead and record >> 32 == w[slot_base(slot) + M_FINISHED] + 1:
            w[g + R_REFS] = record & REFS_MASK
            w[slot_base(slot) + M_FINISHED] = record >> 32

    # ------------------------------------------------------------ what is whose
    def _is_own(self, base: int) -> bool:
        """Whether that is, by its head, a dead or a cut off thread's own."""
        return bool(base) and pool.is_own(self.t.w, base, self.dead | self.cut)

    def _say_live(self, bases: Iterable[int]) -> None:
        """Something shared names them: a dead thread had not said so yet, or said already that it was taking them."""
        w = self.t.w
        for base in bases:
            if self._is_own(base):
                w[base] = w[base] & ~REC_STATE | REC_LIVE

    def _restore(self, base: int) -> None:
        """Say again that what an object names is live. Runs: under what guards that, or where nobody is left to."""
        names = repairs.NAMES.get(self.t.w[base + O_KIND])
        if names is not None:
            self._say_live(names(self.t.w, base))

    def _restore_goroutine(self, g: int) -> None:
        """The same of a goroutine that has not started, or has ended."""
        w = self.t.w
        status = w[g + G_STATUS] & states.STATUS_MASK
        if (status == states.RUNNABLE and not w[g + G_M]) or status >= states.DONE:
            self._say_live(self._messages_of(g))

    def _messages_of(self, g: int) -> list[int]:
        """The blocks with its arguments, or its result, and what it would run again from."""
        w = self.t.w
        found = [w[g + G_MSG + 1]] if w[g + G_MSG] & HDR_SPILLED else []
        if w[g + G_CODE] & (G_RETRY | G_LEFT):
            record = w[g + G_RETRY_RECORD]
            found += [record, w[record + BLOCK_DATA + 2]]
        return found

    # ------------------------------------------------------------ living threads
    def mend(self) -> None:
        """Put right what exceptions cut off in the middle (runtime/process.py: M.left), as after a death.

        Such a thread waits for it. Its goroutine goes on, so nothing else of it is touched.
        """
        w = self.t.w
        if not any(w[slot_base(slot) + M_CUT] for slot in range(1, w[H_SLOTS])):
            return
        self._woken = []
        self._notice()
        self._free_locks()
        cut = sorted(self.cut)
        clients = [s for s in cut if w[slot_base(s) + M_KIND] != KIND_WORKER]
        self._requeue(clients)  # what it was starting; a worker has unstarted ones in hand that it goes on with
        for slot in cut:  # it may be in a queue, and not wait yet
            base, kind = slot_base(slot), w[slot_base(slot) + M_KIND]
            if kind == KIND_WORKER:
                running = {w[base + M_RUNNING]}
            else:
                running = {g for g in self._live(POOL_G) if w[g + G_M] == slot}
            self._purge_all(w[base + M_HOST], running.__contains__)
        self._deliver_for(cut)
        self._wake(set())
        self._set_adrift({w[slot_base(slot) + M_HOST] for slot in cut})  # it may not have told its alarm yet
        for slot in cut:
            base = slot_base(slot)
            if not any(w[base + M_PHASE + level] for level in range(M_PHASE_LEVELS)):
                w[base + M_CUT] = 0  # it goes on
        self._kick()

    # ------------------------------------------------------------ burial
    def bury(self, slot: int, os_pid: int, how: str) -> bool:
        """Clean up after the worker of `slot`, whose process is reaped. `how` it ended, for the texts.

        Returns: whether that is done; else, since a delivery to one of its goroutines is still under way, call again.
        """
        w = self.t.w
        self._woken = []
        self.dead.add(slot)
        self._notice()
        gone = sorted(self.dead & {s for s in range(w[H_SLOTS]) if w[slot_base(s) + M_HOST] == slot})
        w[slot_base(slot) + M_P], p = 0, w[slot_base(slot) + M_P]
        w[slot_base(slot) + M_SPINNING] = 0
        self._free_locks()
        for table in repairs.TABLES:
            self._say_live(table(w))
        self._count(gone)
        self._leave_queues(slot, gone)
        self._requeue(gone)
        self._deliver_for(gone)
        self._release_p(bool(p))
        theirs = {g for g in self._live(POOL_G) if w[g + G_M] in gone}
        self._wake(theirs)
        if self._delivery_under_way(theirs):
            return False
        self._post_messages(gone)
        self._end_goroutines(gone, f"worker {os_pid} (M{slot}) {how}")
        self._leave_records(gone)
        if w[S_DUMPER] in gone:  # it was collecting stacks: the next may
            w[S_DUMPER] = 0
        for kind, finish in repairs.FINISH.items():
            objects = [base for base in self._live(POOL_OBJECT) if w[base + O_KIND] == kind]
            if objects:
                self._woken += finish(self.t, objects)
        for kind, leave in repairs.LEAVE.items():
            leave(self.t, [base for base in self._live(POOL_OBJECT) if w[base + O_KIND] == kind], gone)
        self._drop_handles(slot)
        self._orphan_dying(gone)
        self._set_adrift({slot})
        self._post_what_they_carried(gone)
        for s in gone:
            reply = w[slot_base(s) + M_REPLY]
            if reply and not w[S_DUMPER]:  # else whoever collects stacks may be reading it, and frees it
                w[slot_base(s) + M_REPLY] = 0
                self._say_own(reply, s)
        self._sweep_caches(gone)
        self._wake(theirs)
        for s in gone:
            base = slot_base(s)
            w[base + M_INBOX] = 0
            w[base + M_KIND] = KIND_FREE
            self.dead.discard(s)
            self.stacks.pop(s, None)
        self._kick()
        return True

    def settle(self) -> None:
        """Free the records that have rested; ask again whether somebody looks at timers. Runs: at each tick."""
        now = time.monotonic()
        rested = False
        while self._resting and self._resting[0][0] <= now:
            orphans.put(self.t, self._resting.pop(0)[1] | orphans.GOROUTINE)
            rested = True
        # Else no worker was there, or it had no room for a thread.
        adrift = self.t.w[S_ADRIFT] and now >= self._asked + _ASK_S
        if adrift:
            self._asked = now
        if rested or adrift:
            self._kick()

    def _wake(self, theirs: set[int]) -> None:
        """Deliver what we decided, but to none of the dead: they are ended, or run again elsewhere."""
        woken, self._woken = self._woken, []
        for g in woken:
            if g not in theirs:
                deliver(self.t, g)

    def _delivery_under_way(self, theirs: set[int]) -> bool:
        """Whether somebody living decided a wait of the dead and has not delivered that yet (it may be stopped).

        The delivery writes into the record and the inbox: neither may be used for anything else before that. Nobody
        can decide another wait of theirs: they are in no queue any more.
        """
        t, w = self.t, self.t.w
        self._notice()
        for g in theirs:
            decision, home = w[g + G_DECIDE], w[g + G_M]
            if w[g + G_STATUS] & states.STATUS_MASK != states.WAITING or not decision >> 32:
                continue
            if decision >> 32 in self.dead or w[slot_base(home) + M_KIND] not in WITH_INBOX:
                continue
            lock = t.locks[inbox_lock(home)]
            t.enter(lock)
            there = in_inbox(t, g, home)
            t.leave(lock)
            if not there:
                return True
        return False

    def _count(self, gone: list[int]) -> None:
        """Count the goroutine that the dead one had just made; free the one that it had just ended and nobody holds.

        Twin: runtime/spawn.py spawn, runtime/worker.py finish, runtime/client.py leave_runtime.
        """
        w = self.t.w
        live = self._live(POOL_G)
        theirs = {w[g + G_GOID] for g in live if w[g + G_M] in gone}
        for g in live:
            status, slot, record = w[g + G_STATUS] & states.STATUS_MASK, w[g + R_HEAD] >> HEAD_SLOT, w[g + G_DECIDE]
            if status == states.RUNNABLE and not w[g + G_M] and slot in gone:
                # Made by a goroutine of the dead: else the number is another slot's count.
                if record == w[slot_base(slot) + M_SPAWNED] + 1 and w[g + G_PARENT] in theirs:
                    w[slot_base(slot) + M_SPAWNED] = record
            elif status >= states.DONE and slot in gone and slot == w[g + G_M] and not w[g + R_REFS] and record:
                # The head: else it was freed, and somebody living just took it for another. The count: else somebody
                # living is about to free it, who dropped its last handle.
                last = w[slot_base(slot) + M_FINISHED]
                if w[slot_base(slot) + M_KIND] == KIND_CLIENT and record == last + 1 << 32:  # its thread, not counted
                    last = w[slot_base(slot) + M_FINISHED] = last + 1
                if record != last << 32:
                    continue
                w[g + G_MSG] = 0  # it may have been freed already
                if w[g + G_CODE] & G_RETRY:
                    w[g + G_CODE] |= G_LEFT
                orphans.put(self.t, g | orphans.GOROUTINE)

    def _leave_queues(self, host: int, gone: list[int]) -> None:
        """Take dead goroutines out of the queues of what their process had handles of.

        These handles count until step 7; any other record may be freed, and become something else, while we look.
        """
        w = self.t.w
        self._purge_all(host, lambda g: w[g + G_M] in gone)
        word, bit = R_HOLDERS + host // 64, 1 << host % 64
        for base in self._live(POOL_OBJECT):
            kind = w[base + O_KIND]
            if w[base + word] & bit and kind in repairs.FORGET:
                lock = self.t.locks[object_lock(base)]
                self.t.enter(lock)
                self._woken += repairs.FORGET[kind](w, base, lambda g: w[g + G_M] in gone, self.t.slot)
                self.t.leave(lock)

    def _purge_all(self, host: int, theirs: Callable[[int], bool]) -> None:
        """Unlink the sudogs of those goroutines from every queue of what the process `host` has handles of."""
        w = self.t.w
        word, bit = R_HOLDERS + host // 64, 1 << host % 64
        for base in self._live(POOL_OBJECT):
            if w[base + word] & bit:
                for q in repairs.QUEUES.get(w[base + O_KIND], ()):
                    if w[base + q]:
                        self._purge(base, base + q, theirs)
        for g in self._live(POOL_G):
            if w[g + word] & bit and w[g + G_STATUS] & states.STATUS_MASK <= states.WAITING and w[g + G_JOINQ]:
                self._purge(g, g + G_JOINQ, theirs)

    def _purge(self, base: int, q: int, theirs: Callable[[int], bool]) -> None:
        """Unlink the sudogs of those goroutines from the queue at word `q` of the record at `base`."""
        t, w = self.t, self.t.w
        lock = t.locks[object_lock(base)]
        t.enter(lock)
        for s in waitq.sudogs(w, q):
            if theirs(w[s + SG_G]):
                waitq.remove(w, q, s)
        t.leave(lock)

    def _post_messages(self, gone: list[int]) -> None:
        """Have the messages discarded that their goroutines brought and nobody took, or were given and did not take.

        Sudogs say so, until their goroutine takes a message from there: nobody decides anything of theirs any more, and
        they are in no queue. Whether they know the decision already makes no difference.
        """
        w = self.t.w
        decisions = {}
        sudogs = []  # with the decisions of their goroutines
        for g in self._live(POOL_G):
            if w[g + G_M] not in gone:
                continue
            status = w[g + G_STATUS]
            if status == _STARTING:
                if not w[g + G_CODE] & G_RETRY:
                    self._post(g + G_MSG)
            elif status & states.STATUS_MASK in (states.RUNNING, states.WAITING, states.RUNNABLE):
                decisions[g] = w[g + G_DECIDE]
                sudogs.append((g + G_SUDOG, w[g + G_DECIDE]))
        for record in self._live(POOL_SUDOG):
            g = w[record + SUDOG_BODY + SG_G]
            if w[record + R_HEAD] >> HEAD_SLOT in gone and g in decisions:
                sudogs.append((record + SUDOG_BODY, decisions[g]))
        for s, decision in sudogs:
            chosen = decision & OUT_MASK == OUT_OK and (
                not w[s + SG_SELECT] or decision >> 8 & 0xFFFFFF == w[s + SG_CASE]
            )
            if w[s + SG_SEQ] != SG_PINNED and chosen == (w[s + SG_SEQ] == SG_RECEIVES):
                self._post(s + SG_MSG)

    def _post(self, at: int) -> None:
        """Give a worker the message at word `at`, of somebody dead, to discard it."""
        w = self.t.w
        if w[at] & HDR_SPILLED and w[w[at + 1]] & REC_STATE == REC_LIVE:  # else it is in hands, dead or living
            state = REC_CARRIES if w[at] & HDR_HAS_HANDLES else REC_CACHED
            self._send_letter(w[at + 1], pool.block_pool(w[at] & HDR_LEN_MASK), state)

    def _post_what_they_carried(self, gone: list[int]) -> None:
        """Have the messages with handles discarded that the dead had in their hands."""
        w = self.t.w
        for which in range(MIN_BLOCK_ORDER, N_POOLS):
            for block in pool.records(w, which):
                if w[block] & REC_STATE == REC_CARRIES and w[block] >> HEAD_SLOT & HEAD_SLOT_MASK in gone:
                    self._send_letter(block, which, REC_CARRIES)

    def _send_letter(self, block: int, which: int, state: int) -> None:
        """Give a worker a block to free, with what it carries. Twin: runtime/message.py."""
        t, w = self.t, self.t.w
        try:
            base = pool.take(t, POOL_OBJECT)
        except SharedMemoryFull:  # not even for that: it stays
            return
        w[base + R_REFS] = 0
        for i in range(N_HOLDER_WORDS):
            w[base + R_HOLDERS + i] = 0
        w[base + LT_BLOCK] = block
        w[base + LT_STATE] = state
        w[base + LT_POOL] = which
        w[base + O_KIND] = KIND_LETTER
        pool.put_block(t, block)
        orphans.put(self.t, base)

    def _say_own(self, block: int, slot: int) -> None:
        """Have what was named by something of the dead be swept with its caches."""
        w = self.t.w
        w[block] = w[block] >> HEAD_WORDS << HEAD_WORDS | pool.head_of(slot, REC_CACHED)

    def _end_goroutines(self, gone: list[int], who: str) -> None:
        t, w = self.t, self.t.w
        panicked = 0
        for g in self._live(POOL_G):
            if w[g + G_M] not in gone or w[g + G_STATUS] & states.STATUS_MASK not in (
                states.RUNNING,
                states.WAITING,
                states.RUNNABLE,
            ):
                continue
            if states.is_system(w[g + G_STATUS]):  # of ours, and counted as ended when it began
                w[g + G_MSG] = w[g + G_DECIDE] = 0
                w[g + G_STATUS] = states.DONE
                orphans.put(self.t, g | orphans.GOROUTINE)
                continue
            if w[slot_base(w[g + G_M]) + M_KIND] == KIND_CLIENT:  # also a helper thread of a worker
                w[g + G_MSG] = w[g + G_DECIDE] = w[g + R_REFS] = 0
                w[g + G_STATUS] = states.DONE
                base = slot_base(w[g + G_M])
                w[base + M_SPAWNED] = max(w[base + M_SPAWNED], w[g + G_CLIENT_COUNT])  # Twin: runtime/client.py
                w[base + M_FINISHED] += 1
                self._resting.append((time.monotonic() + _REST_S, g))
                continue
            if w[g + G_CODE] & G_RETRY and w[w[g + G_RETRY_RECORD] + BLOCK_DATA]:
                self._again(g)
                continue
            text = f"goroutine {w[g + G_GOID]} was lost: {who} while it was {_state_text(w[g + G_STATUS])}"
            place = f"  in process {w[slot_base(w[g + G_M]) + M_OS_PID]} (M{w[g + G_M]})"
            stack = self.stacks.get(w[g + G_M], "") if w[slot_base(w[g + G_M]) + M_RUNNING] == g else ""
            maker = f"created by goroutine {w[g + G_PARENT]}"
            entry = f"{header(w[g + G_GOID], w[g + G_STATUS])}\n{stack or place}\n{maker}"
            name = function_name(t, w[g + G_CODE] >> CODE_SHIFT)
            data = f"{text}{name and ', in ' + name.replace(':', '.')}\n{stack}{stack and chr(10)}{maker}".encode()
            hdr, block = len(data) | HDR_LOST | HDR_SPILLED, 0
            try:
                block = pool.take_block(t, len(data))
                pool.put_block(t, block)
                t.mem[(block + BLOCK_DATA) * WORD : (block + BLOCK_DATA) * WORD + len(data)] = data
            except SharedMemoryFull:  # in short then, where its arguments were
                data = data[:_SHORT_BYTES]
                hdr = len(data) | HDR_LOST
                t.mem[(g + G_MSG + 1) * WORD : (g + G_MSG + 1) * WORD + len(data)] = data
            lock = t.locks[object_lock(g)]
            t.enter(lock)
            held = w[g + R_REFS] > 1
            if block:
                w[g + G_MSG + 1] = block
            w[g + G_MSG] = hdr
            w[g + G_DECIDE] = 0  # or its last decision would be taken for the redo record of its end
            w[g + G_STATUS] = states.FAILED  # publishes
            self._woken += waitq.decide_all(w, g + G_JOINQ, OUT_OK)
            w[g + R_REFS] -= 1
            refs = w[g + R_REFS]
            t.leave(lock)
            w[slot_base(w[g + G_M]) + M_FINISHED] += 1
            if not held and not w[g + G_CODE] & G_QUIET:
                panicked += 1
                if w[H_ON_PANIC] == ON_PANIC_LOG:
                    tell(f"panic: WorkerLost: {text}")
                else:
                    self._panic(f"{text}\n\n{entry}".encode())  # Twin: runtime/panics.py fatal
            if not refs:
                orphans.put(self.t, g | orphans.GOROUTINE)

    def _leave_records(self, gone: list[int]) -> None:
        """Have what the dead kept to run a goroutine again, which has ended since, be freed with its last handle."""
        t, w = self.t, self.t.w
        for g in self._live(POOL_G):
            if w[g + G_M] in gone and w[g + G_CODE] & G_RETRY and w[g + G_STATUS] & states.STATUS_MASK >= states.DONE:
                lock = t.locks[object_lock(g)]
                t.enter(lock)
                if w[g + R_REFS] and w[g + G_M] in gone:  # else somebody living is about to free it
                    w[g + G_CODE] |= G_LEFT
                t.leave(lock)

    def _again(self, g: int) -> None:
        """Run a lost goroutine again, from its beginning."""
        t, w = self.t, self.t.w
        record = w[g + G_RETRY_RECORD] + BLOCK_DATA
        w[record] -= 1
        w[g + G_MSG] = w[record + 1]
        w[g + G_MSG + 1] = w[record + 2]
        w[g + G_M] = w[g + G_DECIDE] = 0
        w[g + G_STATUS] = states.RUNNABLE
        w[g + R_HEAD] = t.live
        runq.put_global(t, [g])

    def _panic(self, data: bytes) -> None:
        """End the program: a goroutine that nobody waits for is lost."""
        t, w = self.t, self.t.w
        if w[H_STOP]:
            return
        try:
            block = pool.take_block(t, len(data) + WORD)
            pool.put_block(t, block)
            w[block + BLOCK_DATA] = len(data)
            t.mem[(block + BLOCK_DATA + 1) * WORD : (block + BLOCK_DATA + 1) * WORD + len(data)] = data
        except SharedMemoryFull:
            tell(data.decode())
            block = 0
        t.enter(t.locks[L_SCHED])
        if not w[S_FATAL]:
            w[S_FATAL] = block
            w[H_STOP] = STOP_LOST
        t.leave(t.locks[L_SCHED])

    def _requeue(self, gone: list[int]) -> None:
        t, w = self.t, self.t.w
        for p in range(w[S_GOMAXPROCS], MAX_PS):  # Ps that went with a resize that died: nobody looks there any more
            while runq.length(w, p):
                runq.put_global(t, runq.grab(t, p))
        queued: set[int] = set()
        for p in range(MAX_PS):
            if runq.length(w, p):
                lock = t.locks[L_PS + p]
                t.enter(lock)
                queued.update(runq.queued(w, p))
                t.leave(lock)
        t.enter(t.locks[L_SCHED])
        queued.update(runq.queued_global(w))
        t.leave(t.locks[L_SCHED])
        # Whoever living moved one meanwhile wrote its own slot into the head first, so it is not taken for lost.
        lost = [
            g
            for g in self._live(POOL_G)
            if w[g + R_HEAD] >> HEAD_SLOT in gone
            and not w[g + G_M]
            and (w[g + G_STATUS] & states.STATUS_MASK == states.RUNNABLE or w[g + G_STATUS] == _STARTING)
            and g not in queued
        ]
        if lost:
            for g in lost:
                w[g + G_STATUS] = states.RUNNABLE
                self._restore_goroutine(g)
                w[g + R_HEAD] = t.live
            runq.put_global(t, lost)

    def _deliver_for(self, gone: list[int]) -> None:
        t, w = self.t, self.t.w
        for g in self._live(POOL_G):
            decision, home = w[g + G_DECIDE], w[g + G_M]
            # Also to other dead: their burial waits for it, and would take the next in this slot for who owes it.
            if not decision or decision >> 32 not in gone or home in gone:
                continue
            if w[g + G_STATUS] & states.STATUS_MASK != states.WAITING:
                continue
            if w[slot_base(home) + M_KIND] not in WITH_INBOX:
                note.wake(t, home)
                continue
            lock = t.locks[inbox_lock(home)]
            t.enter(lock)
            missing = (
                w[g + G_STATUS] & states.STATUS_MASK == states.WAITING
                and w[g + G_DECIDE] == decision
                and not in_inbox(t, g, home)
            )
            if missing:
                w[g + R_LINK] = w[slot_base(home) + M_INBOX]
                w[slot_base(home) + M_INBOX] = g
            t.leave(lock)
            if missing:
                w[slot_base(home) + M_ATTENTION] = 1
                note.wake(t, home)

    def _release_p(self, had_one: bool) -> None:
        t, w = self.t, self.t.w
        t.enter(t.locks[L_SCHED])
        idle.repair(w, self._living_workers())
        t.leave(t.locks[L_SCHED])
        if had_one:
            idle.wake_p(t)

    def _drop_handles(self, host: int) -> None:
        t, w = self.t, self.t.w
        word, bit = R_HOLDERS + host // 64, 1 << host % 64
        for which in (POOL_OBJECT, POOL_G):
            for base in self._live(which):
                if not w[base + word] & bit:
                    continue
                lock = t.locks[object_lock(base)]
                t.enter(lock)
                refs = 1
                if w[base + word] & bit:
                    if which == POOL_OBJECT:
                        self._restore(base)  # it was making it
                    w[base + word] &= ~bit
                    refs = w[base + R_REFS] - 1
                    w[base + R_REFS] = refs
                t.leave(lock)
                if not refs:
                    orphans.put(t, base | (which == POOL_G and orphans.GOROUTINE))

    def _orphan_dying(self, gone: list[int]) -> None:
        """Have a worker go on with what the dead were destroying."""
        t, w = self.t, self.t.w
        t.enter(t.locks[L_SCHED])
        listed = orphans.listed(w)
        t.leave(t.locks[L_SCHED])
        for which in (POOL_OBJECT, POOL_G):
            for base in pool.records(w, which):
                head = w[base + R_HEAD]
                if head & REC_STATE == REC_DYING and head >> HEAD_SLOT in gone and base not in listed:
                    if which == POOL_OBJECT:
                        self._restore(base)
                    else:
                        self._say_live(self._messages_of(base))
                    orphans.put(t, base | (which == POOL_G and orphans.GOROUTINE))

    def _set_adrift(self, hosts: set[int]) -> None:
        """Have a worker look at what the alarms of those processes were to look at (lib/alarm.py).

        Also at what was left to nobody by a worker that died before it had taken all on.
        """
        t, w = self.t, self.t.w
        found = False
        for base in self._live(POOL_OBJECT):
            words = repairs.LOOKED_AT.get(w[base + O_KIND])
            if words is None:
                continue
            due, looker = words
            if w[base + looker] not in hosts and (w[base + looker] or not w[base + due]):
                continue
            lock = t.locks[object_lock(base)]
            t.enter(lock)
            if repairs.LOOKED_AT.get(w[base + O_KIND]) == words and w[base + R_REFS]:
                if w[base + looker] in hosts:  # also if it need not be looked at: the slot will be another's
                    w[base + looker] = 0
                found = found or (w[base + due] != 0 and w[base + looker] == 0)
            t.leave(lock)
        if found:
            w[S_ADRIFT] = 1

    def _sweep_caches(self, gone: list[int]) -> None:
        t, w = self.t, self.t.w
        for which in range(N_POOLS):
            everything = set(pool.records(w, which))
            if not everything:
                continue
            lock = t.locks[pool_lock(which)]
            t.enter(lock)
            # Sudogs of the dead are in no queue any more (step 2), so those it had in use are free as well.
            reachable = set() if which == POOL_SUDOG else everything
            if which == POOL_G:  # nor does anybody know the goroutines they had not finished making
                reachable = {g for g in everything if w[g + G_STATUS] != states.UNMADE}
            for slot in gone:
                pool.sweep(w, which, slot, reachable)
            t.leave(lock)

    def _kick(self) -> None:
        """Have everybody look again: a wake-up may have died with its sender."""
        w = self.t.w
        for slot in range(1, w[H_SLOTS]):
            if w[slot_base(slot) + M_KIND]:
                w[slot_base(slot) + M_ATTENTION] = 1
                self.t.notes[slot].release()

    # ------------------------------------------------------------ eyes
    def _live(self, which: int) -> list[int]:
        w = self.t.w
        return [base for base in pool.records(w, which) if w[base + R_HEAD] & 0xFF == REC_LIVE]

    def _in_use(self, which: int) -> list[int]:
        """Those that are live, or just destroyed."""
        w = self.t.w
        return [base for base in pool.records(w, which) if w[base + R_HEAD] & REC_STATE in (REC_LIVE, REC_DYING)]

    def _living_workers(self) -> Iterable[int]:
        w = self.t.w
        return [
            slot
            for slot in range(1, w[H_SLOTS])
            if w[slot_base(slot) + M_KIND] == KIND_WORKER and slot not in self.dead
        ]


def _state_text(status: int) -> str:
    if status & states.STATUS_MASK == states.WAITING:
        return f"waiting ({states.REASON_TEXT[status >> states.REASON_SHIFT]})"
    return "running"
