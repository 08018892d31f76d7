"""Scratch space: what is written comes back, whole or not at all, and damage is noticed and mended by the next run."""

from __future__ import annotations

import collections
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skymill.chunking import errors, objects
from skymill.engine.cluster_scratch import ClusterScratch, Holder
from skymill.engine.connect import connect
from skymill.engine.scratch import ALL, FolderScratch, done_key

DOUBLE = np.dtype(float)
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def client():
    with connect() as made:
        yield made


@pytest.fixture(params=["folder", "object store", "cluster"])
def scratch(request, tmp_path):
    if request.param == "cluster":
        return ClusterScratch.of(request.getfixturevalue("client"))
    return FolderScratch(str(tmp_path) if request.param == "folder" else f"memory:///run{next(NUMBERS)}")


parts = st.lists(
    st.sampled_from([np.float32, np.complex64, np.complex128, np.int16]).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(parts, st.booleans())
def test_what_is_written_comes_back(tmp_path_factory, written, turned):
    scratch = FolderScratch(str(tmp_path_factory.getbasetemp() / "scratch"))
    given_parts = [part.T if turned else part for part in written]  # not in one piece, as pieces of rings are
    scratch.write("stage/field/7", iter(given_parts))
    for number, part in enumerate(given_parts):
        back = scratch.read("stage/field/7", number, len(written), part.dtype)
        assert back.dtype == part.dtype
        assert back.tobytes() == np.ascontiguousarray(part).tobytes()


def test_each_kind_keeps_objects_and_notes(scratch):
    values = np.arange(12.0).reshape(3, 4)
    scratch.write("a/x/0", [values[:, 1:3], np.empty(0), values[0]])
    scratch.write("a/x/1", [values])
    scratch.write("a/x/0", [values[:, 2:4], np.empty(0), values[1]])  # again, in its place
    assert scratch.read("a/x/0", 0, 3, DOUBLE).tolist() == [2, 3, 6, 7, 10, 11]
    assert scratch.read("a/x/0", 1, 3, DOUBLE).size == 0
    assert scratch.read("a/x/0", 2, 3, DOUBLE).tolist() == [4, 5, 6, 7]
    assert scratch.read("a/x/1", 0, 1, DOUBLE).reshape(3, 4).tolist() == values.tolist()
    assert scratch.noted(done_key("a", 3)) is None
    scratch.note(done_key("a", 3), {"sums": [[1.5, 2]], "missing": {"x": 3}})
    scratch.note(done_key("a", ALL), {"facts": []})
    assert scratch.noted(done_key("a", 3)) == {"sums": [[1.5, 2]], "missing": {"x": 3}}
    scratch.write("ab/x/0", [values])
    scratch.remove("a/")
    assert scratch.noted(done_key("a", 3)) is not None  # what was done stays known
    assert scratch.read("ab/x/0", 0, 1, DOUBLE).size == 12
    with pytest.raises(errors.FormatError):
        scratch.read("a/x/0", 0, 3, DOUBLE)
    scratch.remove()
    assert scratch.noted(done_key("a", ALL)) is None
    scratch.remove()  # nothing there is no fault
    with pytest.raises(errors.FormatError, match=r"ab/x/0 in the .* Run the same command again"):
        scratch.read("ab/x/0", 0, 1, DOUBLE)


def test_what_is_read_cannot_be_changed(scratch):
    scratch.write("a/x/0", [np.zeros(3)])
    with pytest.raises(ValueError, match="read-only"):
        scratch.read("a/x/0", 0, 1, DOUBLE)[0] = 1.0


def test_what_is_written_is_not_what_the_writer_goes_on_with(scratch):
    values = np.zeros(3)
    scratch.write("a/x/0", [values])
    values[:] = 1.0
    assert scratch.read("a/x/0", 0, 1, DOUBLE).tolist() == [0, 0, 0]


def test_an_object_that_could_not_be_finished_is_not_there(scratch):
    def some():
        yield np.zeros(5_000_000)  # more than a message of the cluster
        yield np.zeros(1)
        raise KeyError("lost on the way")

    with pytest.raises(KeyError):
        scratch.write("a/x/0", some())
    with pytest.raises(errors.FormatError):
        scratch.read("a/x/0", 0, 2, DOUBLE)
    scratch.write("a/x/0", [np.ones(2)])
    assert scratch.read("a/x/0", 0, 1, DOUBLE).tolist() == [1, 1]


def test_a_killed_writer_leaves_no_part_that_counts(tmp_path):
    scratch = FolderScratch(str(tmp_path))
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "a" / "x" / "0.0123abcd.partial").write_bytes(bytes(1000))
    with pytest.raises(errors.FormatError, match="is lost"):
        scratch.read("a/x/0", 0, 1, DOUBLE)


def test_two_writers_of_one_object_do_not_mix():
    holder = Holder()
    one, other = ([(np.full(3, number, np.uint8), 0)] for number in (1, 2))
    holder.add("a/x/0", "first", one, False)
    holder.add("a/x/0", "second", other, False)
    holder.add("a/x/0", "second", other, True)
    found = [holder.part("a/x/0", number, 2) for number in (0, 1)]
    assert [part[0].tolist() for part in found if part is not None] == [[2, 2, 2], [2, 2, 2]]
    assert holder.part("a/x/0", 0, 1) is None
    assert holder.held_bytes() == 6


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(bytes(content))


def cut(path, place):
    path.write_bytes(path.read_bytes()[:place])


@pytest.mark.parametrize("place", [*range(0, 24, 5), *range(-1, -57, -3)])
@pytest.mark.parametrize("damage", [flip, cut])
def test_damage_anywhere_is_noticed_and_mended(tmp_path, damage, place):
    """Each part of the index too: a start or a size that is wrong must not be believed."""
    scratch = FolderScratch(str(tmp_path))
    scratch.write("a/x/4", [np.arange(3.0), np.arange(2.0)])
    for number in (3, 4, ALL):
        scratch.note(done_key("a", number), {})
    damage(Path(tmp_path, "a/x/4"), place)
    said = []
    for part in (0, 1):
        try:
            scratch.read("a/x/4", part, 2, DOUBLE)
        except errors.FormatError as error:
            said.append(str(error))
    assert said
    assert all("Run the same command again" in words for words in said)
    # Step and stage count as not done, the other steps do.
    assert scratch.noted(done_key("a", 4)) is None
    assert scratch.noted(done_key("a", ALL)) is None
    assert scratch.noted(done_key("a", 3)) == {}


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_a_lost_object_lets_all_begin_anew(tmp_path, kind):
    """What it was made from may be gone as well, where it was not needed any more."""
    scratch = FolderScratch(str(tmp_path) if kind == "folder" else f"memory:///run{next(NUMBERS)}")
    for stage in ("a", "b"):
        for number in (3, 4, ALL):
            scratch.note(done_key(stage, number), {})
    with pytest.raises(errors.FormatError, match="is lost"):
        scratch.read("a/x/4", 0, 1, DOUBLE)
    assert [scratch.noted(done_key(stage, number)) for stage in "ab" for number in (3, 4, ALL)] == [None] * 6


def test_damage_in_an_object_store_is_noticed_and_mended():
    where = f"memory:///run{next(NUMBERS)}"
    scratch = FolderScratch(where)
    scratch.write("a/x/4", [np.arange(3.0)])
    for number in (3, 4, ALL):
        scratch.note(done_key("a", number), {})
    content = objects.get(where, "a/x/4")
    assert content is not None
    objects.put(where, "a/x/4", b"x" + content[1:])
    with pytest.raises(errors.FormatError, match="does not hold part 0"):
        scratch.read("a/x/4", 0, 1, DOUBLE)
    assert [scratch.noted(done_key("a", number)) for number in (3, 4, ALL)] == [{}, None, None]


def test_a_cluster_that_is_gone_is_told_as_such():
    """Its scheduler and workers closed: words, at once, for the notes that the client asks for."""
    with connect() as client:
        scratch = ClusterScratch.of(client)
        scratch.note("a/b/1", {})
        client.cluster.close()
        with pytest.raises(errors.RunError, match=r"is lost .* Run the same command again: it begins anew"):
            scratch.noted("a/b/1")
        scratch.remove()


def test_what_a_cluster_held_goes_with_its_scratch_space(client):
    scratch = ClusterScratch.of(client)
    scratch.write("a/x/0", [np.zeros(1000)])
    scratch.write("a/x/1", [np.zeros(500), np.zeros(500)])
    assert sum(scratch.held_bytes()) == 16000
    scratch.write("a/x/1", [np.zeros(1)])
    assert sum(scratch.held_bytes()) == 8008
    scratch.remove("a/")
    assert sum(scratch.held_bytes()) == 0


def test_scratch_space_is_small_when_it_is_sent(client):
    assert len(pickle.dumps(ClusterScratch.of(client))) < 300
    assert len(pickle.dumps(FolderScratch("/some/where"))) < 300


def test_objects_of_a_stage_are_spread_evenly():
    scratch = ClusterScratch([(f"tcp://{number}", "key") for number in range(5)])
    for stage in ("rings0/map0", "orders/a"):
        places = collections.Counter(scratch._place(f"{stage}/{number}") for number in range(50))
        assert list(places.values()) == [10] * 5
    assert scratch._place("rings0/map0/7") == ClusterScratch(scratch.holders)._place("rings0/map0/7")


def test_the_folder_beside_a_store_goes_with_its_last_run(tmp_path):
    beside = tmp_path / "sky.zarr.scratch"
    one, other = (FolderScratch(str(beside / name)) for name in ("one", "other"))
    for scratch in (one, other):
        scratch.write("a/x/0", [np.zeros(3)])
    one.remove()
    assert other.read("a/x/0", 0, 1, DOUBLE).size == 3
    other.remove()
    assert not beside.exists()
    elsewhere = FolderScratch(str(tmp_path / "precious" / "run"))
    elsewhere.write("a/x/0", [np.zeros(3)])
    elsewhere.remove()
    assert (tmp_path / "precious").is_dir()  # the user's own folder stays
