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
7. Its handles: its bit is cleared in every record; what then has no reference is given to a worker to free.
8. Timers and deadlines that its alarm was to look at are given to a worker.
9. Records in its caches go back to their pools. Everybody is woken once, to look again.

What the dead had in hand and no structure names yet stays allocated until the runtime ends, but for messages that its
slot names (runtime/message.py: hold).

Runs: the supervisor, one burial at a time.     Source: shared words and who may store them: shm/layout.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from mproc_go.errors import SharedMemoryFull, tell
from mproc_go.observe.stacks import header
from mproc_go.sched import idle, repairs, runq, states, waitq
from mproc_go.sched.deliver import deliver, in_inbox
from mproc_go.shm import lock as locks
from mproc_go.shm import note, pool
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
    HAND_WORDS,
    HDR_HAS_HANDLES,
    HDR_LOST,
    HDR_SPILLED,
    KIND_ARRAY,
    KIND_BUFFER,
    KIND_CLIENT,
    KIND_FREE,
    KIND_LETTER,
    KIND_WORKER,
    L_OBJECTS,
    L_PS,
    L_SCHED,
    LARGE_ORDER,
    LT_MSG,
    M_ATTENTION,
    M_CUT,
    M_FINISHED,
    M_HAND,
    M_HOST,
    M_INBOX,
    M_KIND,
    M_OS_PID,
    M_P,
    M_PHASE,
    M_PHASE_LEVELS,
    M_RUNNING,
    M_SPAWNED,
    M_SPINNING,
    MAX_PS,
    MB_BLOCK,
    N_HOLDER_WORDS,
    N_OBJECT_LOCKS,
    N_POOLS,
    O_KIND,
    ON_PANIC_LOG,
    OUT_CLOSED,
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
    REC_LIVE,
    S_ADRIFT,
    S_DUMPER,
    S_FATAL,
    S_GOMAXPROCS,
    S_ORPHANS,
    SG_CASE,
    SG_G,
    SG_MSG,
    SG_RECEIVES,
    SG_SELECT,
    SG_SEQ,
    SLOT_MSG_WORDS,
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
# How long the record of a program's thread stays what it was, in seconds. Whoever decided its wait may not have looked
# yet whom to wake: a client goes on as soon as it sees the decision, so nothing says that it was delivered.
_REST_S = 2.0
# How often workers are asked to look at timers of the dead, in seconds, until one does.
_ASK_S = 0.5
_REFS_MASK = (1 << 32) - 1


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
        if number == L_SCHED:
            runq.repair_global(w)
            idle.repair(w, self._living_workers())
        elif number == pool_lock(LARGE_ORDER):
            pool.repair_kept(w)
        elif number in repairs.UNDER_LOCK:
            kind, repair = repairs.UNDER_LOCK[number]
            repair(w, [base for base in self._live(POOL_OBJECT) if w[base + O_KIND] == kind])
        elif L_OBJECTS <= number < L_OBJECTS + N_OBJECT_LOCKS:
            for base in self._live(POOL_OBJECT):
                kind = w[base + O_KIND]  # read once: the living free and reuse records meanwhile
                if object_lock(base) == number and kind in repairs.REPAIR:
                    self._woken += repairs.REPAIR[kind](self.t, base)
            for g in self._live(POOL_G):
                if object_lock(g) == number:
                    waitq.repair(w, g + G_JOINQ)
                    if w[g + G_STATUS] & states.STATUS_MASK >= states.DONE:
                        self._woken += waitq.decide_all(w, g + G_JOINQ, OUT_OK)
                        self._complete_end(g)

    def _complete_end(self, g: int) -> None:
        """Count the end of `g`, if its worker died between its status and that. Twin: runtime/worker.py finish."""
        w = self.t.w
        slot, record = w[g + G_M], w[g + G_DECIDE]
        if slot in self.dead and record >> 32 == w[slot_base(slot) + M_FINISHED] + 1:
            w[g + R_REFS] = record & _REFS_MASK
            w[slot_base(slot) + M_FINISHED] = record >> 32

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
        self._count(gone)
        self._leave_queues(slot, gone)
        self._requeue(gone)
        self._deliver_for(gone)
        self._release_p(bool(p))
        theirs = {g for g in self._live(POOL_G) if w[g + G_M] in gone}
        self._wake(theirs)
        if self._delivery_under_way(theirs):
            return False
        self._post_what_they_had(gone)
        self._end_goroutines(gone, f"worker {os_pid} (M{slot}) {how}")
        self._leave_records(gone)
        if w[S_DUMPER] in gone:  # it was collecting stacks: the next may
            w[S_DUMPER] = 0
        for kind, finish in repairs.FINISH.items():
            objects = [base for base in self._live(POOL_OBJECT) if w[base + O_KIND] == kind]
            if objects:
                self._woken += finish(self.t, objects)
        self._drop_handles(slot, gone)
        self._set_adrift({slot})
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
        while self._resting and self._resting[0][0] <= now:
            self._orphan(self._resting.pop(0)[1] | 1)
        if self.t.w[S_ADRIFT] and now >= self._asked + _ASK_S:  # no worker was there, or it had no room for a thread
            self._asked = now
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
            status, slot, record = w[g + G_STATUS] & states.STATUS_MASK, w[g + R_HEAD] >> 8, w[g + G_DECIDE]
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
                self._orphan(g | 1)

    def _leave_queues(self, host: int, gone: list[int]) -> None:
        """Take dead goroutines out of the queues of what their process had handles of.

        These handles count until step 7; any other record may be freed, and become something else, while we look.
        """
        w = self.t.w
        self._purge_all(host, lambda g: w[g + G_M] in gone, True)
        word, bit = R_HOLDERS + host // 64, 1 << host % 64
        for base in self._live(POOL_OBJECT):
            kind = w[base + O_KIND]
            if w[base + word] & bit and kind in repairs.FORGET:
                lock = self.t.locks[object_lock(base)]
                self.t.enter(lock)
                self._woken += repairs.FORGET[kind](w, base, lambda g: w[g + G_M] in gone, self.t.slot)
                self.t.leave(lock)

    def _purge_all(self, host: int, theirs: Callable[[int], bool], dead: bool = False) -> None:
        """Unlink the sudogs of those goroutines from every queue of what the process `host` has handles of.

        `dead`: the messages that they brought are nobody's now.
        """
        w = self.t.w
        word, bit = R_HOLDERS + host // 64, 1 << host % 64
        for base in self._live(POOL_OBJECT):
            if w[base + word] & bit:
                kind = w[base + O_KIND]
                for q in repairs.QUEUES.get(kind, ()):
                    if w[base + q]:
                        self._purge(base, base + q, theirs, dead and q == repairs.BRINGS.get(kind))
        for g in self._live(POOL_G):
            if w[g + word] & bit and w[g + G_STATUS] & states.STATUS_MASK <= states.WAITING and w[g + G_JOINQ]:
                self._purge(g, g + G_JOINQ, theirs)

    def _purge(self, base: int, q: int, theirs: Callable[[int], bool], brings: bool = False) -> None:
        """Unlink the sudogs of those goroutines from the queue at word `q` of the record at `base`."""
        t, w = self.t, self.t.w
        left = []
        lock = t.locks[object_lock(base)]
        t.enter(lock)
        for s in waitq.sudogs(w, q):
            g = w[s + SG_G]
            if theirs(g):
                waitq.remove(w, q, s)
                if brings and not w[s + SG_SELECT] and not w[g + G_DECIDE]:
                    left.append(s)
        t.leave(lock)
        for s in left:
            self._post(s + SG_MSG)

    def _post_what_they_had(self, gone: list[int]) -> None:
        """Have the messages discarded that the dead had in hand, or that their goroutines brought, or never saw.

        Not those that they took with them out of a queue (_purge). A status other than RUNNING says what they waited
        for, and that they have not looked at the decision: nobody decides anything of theirs any more.
        """
        w = self.t.w
        for slot in gone:
            hand = slot_base(slot) + M_HAND
            if w[hand]:
                self._post(hand, HAND_WORDS)
                w[hand] = 0
        outcomes = {}
        for g in self._live(POOL_G):
            status, decision = w[g + G_STATUS], w[g + G_DECIDE]
            if w[g + G_M] not in gone or status & states.STATUS_MASK not in (states.WAITING, states.RUNNABLE):
                continue
            reason, outcome = status >> states.REASON_SHIFT, decision & OUT_MASK
            if reason == states.SELECT:
                outcomes[g] = decision
            elif (reason == states.CHAN_SEND and outcome == OUT_CLOSED) or (
                reason == states.CHAN_RECEIVE and outcome == OUT_OK
            ):
                self._post(g + G_SUDOG + SG_MSG)
        if not outcomes:
            return
        for record in self._live(POOL_SUDOG):
            s = record + SUDOG_BODY
            decided = outcomes.get(w[s + SG_G])
            if w[record + R_HEAD] >> 8 not in gone or decided is None:
                continue
            chosen = decided & OUT_MASK == OUT_OK and decided >> 8 & 0xFFFFFF == w[s + SG_CASE]
            if chosen == (w[s + SG_SEQ] == SG_RECEIVES):  # given by another; or its own, and not sent
                self._post(s + SG_MSG)

    def _post(self, at: int, words: int = SLOT_MSG_WORDS) -> None:
        """Give a worker the message that lies in those words, to discard it. Twin: runtime/message.py."""
        t, w = self.t, self.t.w
        if not w[at] & (HDR_SPILLED | HDR_HAS_HANDLES):
            return
        try:
            base = pool.take(t, POOL_OBJECT)
        except SharedMemoryFull:  # not even for that: what it holds stays
            return
        w[base + O_KIND] = w[base + R_REFS] = 0
        for i in range(N_HOLDER_WORDS):
            w[base + R_HOLDERS + i] = 0
        for i in range(words):
            w[base + LT_MSG + i] = w[at + i]
        w[base + O_KIND] = KIND_LETTER
        self._orphan(base)

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
                self._orphan(g | 1)
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
            block = pool.take_block(t, len(data))
            t.mem[(block + BLOCK_DATA) * WORD : (block + BLOCK_DATA) * WORD + len(data)] = data
            lock = t.locks[object_lock(g)]
            t.enter(lock)
            held = w[g + R_REFS] > 1
            w[g + G_MSG] = len(data) | HDR_LOST | HDR_SPILLED
            w[g + G_MSG + 1] = block
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
                self._orphan(g | 1)

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
        block = pool.take_block(t, len(data) + WORD)
        w[block + BLOCK_DATA] = len(data)
        t.mem[(block + BLOCK_DATA + 1) * WORD : (block + BLOCK_DATA + 1) * WORD + len(data)] = data
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
            if w[g + R_HEAD] >> 8 in gone
            and not w[g + G_M]
            and w[g + G_STATUS] & states.STATUS_MASK == states.RUNNABLE
            and g not in queued
        ]
        if lost:
            for g in lost:
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

    def _keep_block(self, block: int, gone: list[int]) -> None:
        """A record names it: it goes with that one, and not with the cache it came from.

        The record bears the bit of the dead, so nobody is freeing it. Twin: runtime/buffers.py new_memory.
        """
        w = self.t.w
        if block and w[block] & 0xFF == REC_CACHED and w[block] >> 8 in gone:
            w[block] = pool.live_head(w[block] >> 8)

    def _drop_handles(self, host: int, gone: list[int]) -> None:
        t, w = self.t, self.t.w
        word, bit = R_HOLDERS + host // 64, 1 << host % 64
        for which in (POOL_OBJECT, POOL_G):
            for base in self._live(which):
                if not w[base + word] & bit:
                    continue
                if which == POOL_OBJECT and w[base + O_KIND] in (KIND_BUFFER, KIND_ARRAY):
                    self._keep_block(w[base + MB_BLOCK], gone)
                lock = t.locks[object_lock(base)]
                t.enter(lock)
                refs = 1
                if w[base + word] & bit:
                    w[base + word] &= ~bit
                    refs = w[base + R_REFS] - 1
                    w[base + R_REFS] = refs
                t.leave(lock)
                if not refs:
                    self._orphan(base | (which == POOL_G))

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

    def _orphan(self, tagged: int) -> None:
        """Give a record without references to whichever worker looks first, to free it and what it holds."""
        t, w = self.t, self.t.w
        t.enter(t.locks[L_SCHED])
        w[(tagged & ~1) + R_LINK] = w[S_ORPHANS]
        w[S_ORPHANS] = tagged
        t.leave(t.locks[L_SCHED])

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
