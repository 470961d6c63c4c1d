"""What is stored comes back, in parts, and damage is noticed."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core import records
from mambino.errors import FileFormatError
from mambino.preprocessing import store as stored
from mambino.preprocessing.store import Origin, Store

ORIGIN = Origin(
    key="k", data="d", patient="p7", shape=(9, 9), spacing=(1.0, 1.0), prepared_spacing=(1.0, 1.0), unit="mm"
)


def arrays(shape, channels=1, most=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(channels, *shape)).astype(np.float32), rng.integers(0, most + 1, shape, np.int16)


@given(
    shape=st.one_of(st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 40)] * 3)),
    channels=st.integers(1, 3),
    slices=st.booleans(),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_any_part_comes_back_as_it_was_written(tmp_path_factory, shape, channels, slices, data):
    store = Store(tmp_path_factory.mktemp("store"))
    image, labels = arrays(shape, channels)
    store.write("a", image, labels, ORIGIN, slices=slices and len(shape) == 3)
    case = store.open("a")
    start = [data.draw(st.integers(0, n)) for n in shape]
    stop = [data.draw(st.integers(a, n)) for a, n in zip(start, shape, strict=True)]
    box = tuple(map(slice, start, stop))
    image_part, labels_part = case.image_patch(start, stop), case.labels_patch(start, stop)
    assert (case.id, case.shape) == ("a", shape)
    assert (image_part.dtype, labels_part.dtype) == (np.float32, np.int16)
    np.testing.assert_array_equal(image_part, image[(slice(None), *box)])
    np.testing.assert_array_equal(labels_part, labels[box])


def test_locations_are_voxels_of_their_label(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "SAMPLE", 50)
    store = Store(tmp_path)
    image, labels = arrays((10, 11, 12))
    labels[labels == 2] = 0
    labels[0, 0, 0] = 2
    store.write("a", image, labels, ORIGIN)
    locations = store.open("a").locations
    assert {number: len(voxels) for number, voxels in locations.items()} == {1: 50, 2: 1, 3: 50}
    for number, voxels in locations.items():
        assert (labels[tuple(voxels.T)] == number).all()
        assert len(np.unique(voxels, axis=0)) == len(voxels)
    assert store.facts("a").counts == {str(n): int((labels == n).sum()) for n in (1, 2, 3)}


def test_a_case_without_labels_has_no_locations(tmp_path):
    image, labels = arrays((8, 9), most=0)
    Store(tmp_path).write("a", image, labels, ORIGIN)
    assert Store(tmp_path).open("a").locations == {}


def test_the_sample_follows_from_the_name_of_the_case(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "SAMPLE", 20)
    image, labels = arrays((20, 20), most=1)
    store = Store(tmp_path)
    for name in ("a", "b"):
        store.write(name, image, labels, ORIGIN)
    first, other = (store.open(name).locations[1] for name in ("a", "b"))
    store.write("a", image, labels, ORIGIN)
    np.testing.assert_array_equal(store.open("a").locations[1], first)
    assert not np.array_equal(first, other)


def test_equal_cases_are_equal_bytes(tmp_path):
    image, labels = arrays((30, 40, 50))
    for folder in ("one", "two"):
        Store(tmp_path / folder).write("a", image, labels, ORIGIN)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["a.image.b2nd", "a.json", "a.labels.b2nd", "a.locations.b2nd"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_label_numbers_above_127_are_kept(tmp_path):
    image, labels = arrays((9, 9), most=300)
    Store(tmp_path).write("a", image, labels, ORIGIN)
    np.testing.assert_array_equal(Store(tmp_path).open("a").labels_patch((0, 0), (9, 9)), labels)


def test_names_with_dots_are_kept_and_half_written_files_are_no_cases(tmp_path):
    image, labels = arrays((9, 9))
    store = Store(tmp_path)
    for name in ("scan.v2", "1.2.840.7"):
        store.write(name, image, labels, ORIGIN)
    (tmp_path / ".part-x-b.json").write_text("{")
    assert store.ids() == ("1.2.840.7", "scan.v2")
    assert store.patient("scan.v2") == "p7"
    assert Store(tmp_path / "nowhere").ids() == ()


def damage(path, how):
    frame = bytearray(path.read_bytes())
    match how:
        case "cut":
            path.write_bytes(frame[: len(frame) // 2])
        case "flipped":
            frame[len(frame) // 2] ^= 1
            path.write_bytes(frame)
        case "gone":
            path.unlink()


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("part", ["image.b2nd", "labels.b2nd", "locations.b2nd", "json"])
def test_damage_is_noticed(tmp_path, part, how):
    image, labels = arrays((30, 40))
    store = Store(tmp_path)
    store.write("a", image, labels, ORIGIN)
    assert store.sound("a")
    if (part, how) != ("json", "flipped"):
        damage(tmp_path / f"a.{part}", how)
        assert not store.sound("a")


def test_a_case_is_only_there_when_its_record_is(tmp_path, monkeypatch):
    image, labels = arrays((9, 9))
    store = Store(tmp_path)
    store.write("a", image, labels, ORIGIN)

    def full(*_):
        raise FileFormatError("the disk is full")

    monkeypatch.setattr(stored, "write", full)
    with pytest.raises(FileFormatError, match="the disk is full"):
        store.write("a", image, labels, ORIGIN)
    assert store.ids() == ()
    assert not store.sound("a")


def test_a_damaged_file_is_named_when_it_is_read(tmp_path):
    image, labels = arrays((30, 40))
    store = Store(tmp_path)
    store.write("a", image, labels, ORIGIN)
    damage(tmp_path / "a.image.b2nd", "cut")
    with pytest.raises(FileFormatError, match=r"a\.image\.b2nd cannot be read") as caught:
        store.open("a").image_patch((0, 0), (5, 5))
    assert "mambino preprocess" in caught.value.hint


def test_a_case_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"b\.json cannot be read"):
        Store(tmp_path).open("b")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    image, labels = arrays((9, 9))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(FileFormatError, match=r"a\.image\.b2nd cannot be written: No space left on device"):
        Store(tmp_path).write("a", image, labels, ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_what_is_known_of_a_case_is_a_record(tmp_path):
    image, labels = arrays((9, 9), channels=2)
    Store(tmp_path).write("a", image, labels, ORIGIN)
    facts = records.read(stored.StoredFacts, tmp_path / "a.json")
    assert (facts.origin, facts.channels, facts.shape) == (ORIGIN, 2, (9, 9))


READS = """
import resource, sys
from pathlib import Path
from mambino.preprocessing.store import Store

case = Store(Path(sys.argv[1])).open("large")
size = [int(n) for n in sys.argv[2].split(",")]
case.image_patch((0, 0, 0), (8, 8, 8)), case.labels_patch((0, 0, 0), (8, 8, 8))  # libraries are loaded
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stop = [90 + n for n in size]
case.image_patch((90, 90, 90), stop), case.labels_patch((90, 90, 90), stop)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_patch_is_read_without_the_case(tmp_path):
    """A case of 64 MiB; a patch of 48 voxels a side takes 0.4 MiB, and the blocks that it touches a few more."""
    shape = (256, 256, 256)
    image = np.add.outer(np.arange(256, dtype=np.float32), np.zeros(shape[1:], np.float32))[None]
    Store(tmp_path).write("large", image, np.zeros(shape, np.int16), ORIGIN)
    grown = [
        float(
            subprocess.run([sys.executable, "-c", READS, str(tmp_path), size], capture_output=True, check=True).stdout
        )
        for size in ("48,48,48", "160,160,160")
    ]
    assert grown[0] < 24
    assert grown[1] < 64  # 16 MiB and its labels are asked for
