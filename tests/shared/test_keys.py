"""Keys: equal as in a dict, alike in every process, hashed with a secret."""

from __future__ import annotations

import enum
import math
from collections import namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproc_go import Chan, SharedMap, go
from mproc_go.shared import keys
from mproc_go.shared.keys import HASH_BITS, Keys
from mproc_go.shm import layout as L
from tests.shared.support import collect, hash_of

SECRET = {L.H_HASH_KEY: 1, L.H_HASH_KEY + 1: 2}

plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**70, math.inf, -math.inf])
    | st.text(max_size=4)
    | st.binary(max_size=4)
)
all_keys = st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


@settings(max_examples=500, deadline=None)
@given(all_keys, all_keys)
def test_equal_keys_have_equal_bytes_and_others_have_others(a, b):
    """As in a dict; and so have their hashes."""
    of = Keys(SECRET).of
    assert (of(a) == of(b)) == (a == b)
    assert of(a) == of(a) == Keys(SECRET).of(a)


@settings(max_examples=500, deadline=None)
@given(all_keys)
def test_keys_come_back_as_they_went(key):
    """Equal, and of the same types all the way down."""
    canonical = keys.encode(key)
    back = keys.decode(keys.exact_form(key, canonical) or canonical)
    assert repr(back) == repr(key)


def test_numbers_that_are_equal_are_one_key(rt):
    """1, 1.0 and True; also deep in tuples, and where the numbers are huge."""
    m = SharedMap()
    m[1] = "one"
    m[(2.0**80, (True,))] = "deep"
    assert [m[k] for k in (1, 1.0, True)] == ["one"] * 3
    assert m[(2**80, (1.0,))] == "deep"
    m[0.0] = "zero"
    assert m[-0.0] == m[0] == m[False] == "zero"
    assert len(m) == 3
    assert 10**400 not in m and "1" not in m and b"1" not in m


def test_a_string_is_not_its_bytes(rt):
    """Nor a tuple of one its item."""
    m = SharedMap()
    m["a"], m[b"a"], m[("a",)], m[()], m[None], m[""] = range(6)
    assert len(m) == 6
    assert (m["a"], m[b"a"], m[("a",)], m[()], m[None], m[""]) == tuple(range(6))


def test_every_nan_is_one_key(rt):
    """Identity can't cross processes."""
    m = SharedMap()
    m[math.nan] = 1
    m[-float("nan")] = 2
    assert len(m) == 1 and m[float("nan")] == 2 and math.isnan(next(iter(m)))


class Colour(enum.IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


def test_subclasses_are_what_they_derive_from(rt):
    """As in a dict, where they are equal to it."""
    m = SharedMap()
    m[Colour.RED] = "red"
    m[Point(1, 2)] = "point"
    assert m[1] == "red" and m[(1, 2)] == "point"
    assert {type(k) for k in m} == {int, tuple}


@pytest.mark.parametrize("key", [[1], {}, {1}, object(), bytearray(b"a"), 1j, frozenset({1}), (1, [2]), len, Chan])
def test_anything_else_is_a_type_error_that_names_it(rt, key):
    """And says what a key may be; nothing is changed."""
    m = SharedMap()
    name = type(key[1] if isinstance(key, tuple) else key).__name__
    for call in (m.load, m.__getitem__, m.delete, m.__contains__, m.get, m.pop, m.load_and_delete):
        with pytest.raises(TypeError, match=rf"str, bytes, a handle.* not {name}"):
            call(key)
    for call in (m.store, m.swap, m.load_or_store, m.setdefault, m.__setitem__):
        with pytest.raises(TypeError, match=f"not {name}"):
            call(key, 1)
    with pytest.raises(TypeError, match=f"not {name}"):
        m.compute(key, lambda v: v, 0)
    with pytest.raises(TypeError, match=f"not {name}"):
        m.compare_and_swap(key, 0, 1)
    assert not m


def test_numbers_of_numpy(rt):
    """Those that are Python's are keys; of the others the error says what to do."""
    np = pytest.importorskip("numpy")
    m = SharedMap({np.float64(2.0): 1, np.str_("a"): 2})
    assert m == {2: 1, "a": 2}
    with pytest.raises(TypeError, match=r"not numpy\.int64; key\.item\(\) gives Python's"):
        m[np.int64(2)]
    assert m[np.int64(2).item()] == 1


def test_handles_are_keys_and_are_kept_alive(rt):
    """A key holds what it names, until it goes; every process finds it."""
    m = SharedMap()
    ch = Chan(1)
    m[ch] = "channel"
    m[(ch, 1)] = "in a tuple"
    m[m] = "itself"
    ch.send("still here")
    assert m[ch] == "channel" and m[(ch, True)] == "in a tuple" and m[m] == "itself"
    assert ch.sender not in m
    assert go(m.get, ch).result() == "channel"
    del ch
    [found] = [k for k in m if isinstance(k, Chan)]
    assert found.recv() == "still here"
    del m[m]


def test_hash_seeds_differ_and_keys_do_not(rt):
    """The workers' Python hashes otherwise than ours."""
    assert go(hash_of, "some text").result() != hash("some text")
    m = SharedMap()
    expected = {f"key {i}": i for i in range(100)} | {i: -i for i in range(100)} | {(i, str(i)): i for i in range(100)}
    m.update(expected)
    assert go(collect, m).result() == expected == collect(m)


def test_hostile_keys_spread():
    """Keys made to collide, in Python's hash and in simple ones, are as any others here; another secret, other order."""
    many = [i * (2**61 - 1) for i in range(4000)]  # all have Python's hash 0
    many += [f"{'A' * 64}{i:08}" for i in range(4000)]
    hashes = [Keys(SECRET).of(key)[0] for key in many]
    other = [Keys({L.H_HASH_KEY: 1, L.H_HASH_KEY + 1: 3}).of(key)[0] for key in many]
    assert len(set(hashes)) == len(many) and hashes != other
    for shift in (1, HASH_BITS - 6):  # the bits that choose stripes, and those that choose buckets
        buckets = [0] * 64
        for h in hashes:
            buckets[h >> shift & 63] += 1
        assert max(buckets) < 2 * len(many) / 64
