"""The segment and the semaphores, for real: limits, seals, pages given back, names unlinked."""

from __future__ import annotations

import hashlib
import os

import pytest

from mproc_go.errors import SharedMemoryFull
from mproc_go.sched import cpus
from mproc_go.shm import layout, lock, names, pool, sem
from mproc_go.shm.segment import Segment, default_limit_bytes
from mproc_go.shm.thread import Thread


class _OneThread:
    """Locks for a test that has one thread."""

    gen_word = layout.LOCKS  # never moves on
    gen = 0
    phase = 1

    def __init__(self, number):
        self.number = number

    def acquire(self, block=True):
        return True

    def release(self):
        pass


@pytest.fixture
def segment():
    made = Segment.create(layout.DYNAMIC * 8 + (4 << 20), 4)
    yield made
    made.close()


@pytest.fixture
def thread(segment):
    locks = [_OneThread(number) for number in range(layout.N_LOCKS)]
    return Thread(segment, locks, [None] * 8, 1)


def test_a_limit_too_small_for_the_tables():
    """memory= below what a runtime needs at all is refused, with both figures."""
    with pytest.raises(SharedMemoryFull, match="tables of a runtime alone take"):
        Segment.create(1000, 4)


def test_another_layout_is_refused(segment):
    """A segment of another version is not read as if it were ours."""
    segment.w[layout.H_VERSION] += 1
    with pytest.raises(ValueError, match="layout"):
        Segment.join(segment.fd)


def test_nobody_can_shrink_it(segment):
    """Pages can't be taken away from under the others: never a SIGBUS."""
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, 4096)


def test_full_is_an_error_and_the_rest_stays_usable(thread):
    """At the limit the caller gets SharedMemoryFull; what was given back can be had again."""
    blocks = []
    with pytest.raises(SharedMemoryFull, match="memory="):
        while True:
            blocks.append(pool.take_block(thread, 100_000))
    assert len(blocks) > 10
    for block in blocks:
        pool.give_block(thread, block, 100_000)
    for _ in range(len(blocks)):
        pool.take_block(thread, 100_000)


def test_one_piece_larger_than_the_limit(thread):
    """A message that never could fit says so at once."""
    with pytest.raises(SharedMemoryFull, match="in one piece"):
        pool.take_block(thread, 1 << 40)


def test_large_blocks_give_their_pages_back(segment, thread):
    """Memory of a freed large block goes back to the machine, and is there again for the next."""
    n_bytes = 2 << 20
    empty = os.fstat(segment.fd).st_blocks
    block = pool.take_block(thread, n_bytes)
    assert os.fstat(segment.fd).st_blocks >= empty + n_bytes // 512
    pool.give_block(thread, block, n_bytes)
    assert os.fstat(segment.fd).st_blocks < empty + n_bytes // 512 // 4
    committed = segment.w[layout.H_COMMITTED_WORDS]
    for _ in range(20):
        again = pool.take_block(thread, n_bytes)
        segment.mem[(again + 1) * 8 : (again + 1) * 8 + 4] = b"data"
        pool.give_block(thread, again, n_bytes)
    assert segment.w[layout.H_COMMITTED_WORDS] == committed


def test_semaphores_have_a_token_each_and_no_name_afterwards():
    """A semaphore opened by name goes on working once the name is gone."""
    name = names.new_prefix() + ".test"
    sem.create(name, 1)
    try:
        one, two = sem.Semaphore(name), sem.Semaphore(name)
    finally:
        sem.unlink(name)
    sem.unlink(name)  # a second time is fine
    assert one.acquire(False)
    assert not two.acquire(False)
    one.release()
    assert two.acquire(True, 1)
    assert not [n for n in os.listdir("/dev/shm") if n == "sem." + name[1:]]


def test_prefixes_can_not_be_guessed():
    """Whoever could plant a semaphore of our name could hold our locks."""
    assert names.new_prefix() != names.new_prefix()


def test_phase_words_say_which_door():
    """Number and generation come back out of a phase word, which is never 0."""
    for number in (0, 5, layout.N_LOCKS - 1):
        for gen in (0, 1, 1_000_000):
            word = lock.phase_word(number, gen)
            assert word
            assert lock.phase_lock(word) == (number, gen)


# Moves when a word of the memory map moves. Then raise LAYOUT_VERSION, so that processes of two versions refuse each
# other, and put the new digest here.
GOLDEN = (1, "69395d85752b2429")


def test_the_memory_map_is_what_its_version_says():
    """Offsets change only together with LAYOUT_VERSION."""
    constants = sorted(
        (name, value) for name, value in vars(layout).items() if name.isupper() and isinstance(value, int)
    )
    digest = hashlib.sha256(repr([c for c in constants if c[0] != "LAYOUT_VERSION"]).encode()).hexdigest()[:16]
    assert (layout.LAYOUT_VERSION, digest) == GOLDEN


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_quota_of_cgroup_v2_and_its_ancestors(tmp_path):
    """The smallest quota on the way up counts."""
    write(tmp_path, {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "400000 100000"})
    own = tmp_path / "self"
    own.write_text("0::/a/b\n")
    assert cpus.cgroup_quota(str(tmp_path), str(own)) == 1.5


def test_quota_of_cgroup_v1(tmp_path):
    """-1 is no quota."""
    write(tmp_path, {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"})
    write(tmp_path, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"})
    own = tmp_path / "self"
    own.write_text("4:memory:/y\n3:cpu,cpuacct:/x\n")
    assert cpus.cgroup_quota(str(tmp_path), str(own)) == 2.5


def test_no_quota(tmp_path):
    """Without a cgroup, affinity alone counts."""
    own = tmp_path / "self"
    own.write_text("")
    assert cpus.cgroup_quota(str(tmp_path), str(own)) is None
    assert cpus.num_cpu(str(tmp_path), str(own)) == len(os.sched_getaffinity(0))


def test_the_default_limit_is_part_of_the_machine():
    """Half of what there is, at the most."""
    assert 0 < default_limit_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
