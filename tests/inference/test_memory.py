"""A limit of memory changes nothing but where arrays lie and in which parts scores are made."""

import math
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from mambino.core import scratch
from mambino.core.grid import Grid
from mambino.core.image import Image
from mambino.core.options import PredictOptions
from mambino.core.plan import Normalise
from mambino.core.scratch import in_memory, on_disk
from mambino.errors import DataError, FileFormatError, OptionError
from mambino.imageio import read_image
from mambino.inference import memory, predict
from mambino.inference.memory import Allowance, parts_of, size_of
from mambino.preprocessing.case import prepare
from mambino.preprocessing.intensity import normalise
from mambino.weights.bundle import save
from tests.tiny import know, tiny_bundle, tiny_config

MIB = 2**20


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 2**32), ("1.5 GiB", 1.5 * 2**30), ("800m", 800 * MIB), ("2kB", 2048), ("12345", 12345)]
)
def test_sizes_are_read(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "four", "-1G", "0", "4X", "G"])
def test_what_is_no_size_is_refused(tmp_path, text):
    save(tiny_bundle(tiny_config(3)), tmp_path / "model.safetensors")
    with pytest.raises(OptionError, match=r"--memory .* is no size"):
        predict(tmp_path / "model.safetensors", tmp_path, tmp_path / "o", PredictOptions(memory=text))


def volume(path, shape=(40, 64, 48), kind=np.int16, slope=None):
    voxels = np.random.default_rng(3).normal(0, 100, shape).astype(kind)
    image = nibabel.Nifti1Image(voxels, np.diag([1.0, 1.5, 2.0, 1.0]))
    if slope:
        image.header.set_slope_inter(slope, -64.0)
    image.to_filename(path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("kind", "slope"), [(np.int16, None), (np.float32, None), (np.uint8, 0.5), (">i2", None)])
def test_a_limit_changes_no_voxel(tmp_path, monkeypatch, name, kind, slope):
    config = replace(tiny_config(3, mirror=(0, 1)), spacing=(1.2, 1.2, 1.2))
    save(tiny_bundle(config), tmp_path / "model.safetensors")
    image = volume(tmp_path / name, kind=kind, slope=slope)
    free = predict(tmp_path / "model.safetensors", image, tmp_path / "free")
    made = []
    monkeypatch.setattr(memory, "FIXED", 0)
    monkeypatch.setattr(memory, "BRICK", 0)
    monkeypatch.setattr(memory, "_pass", lambda *_: 0)
    monkeypatch.setattr("mambino.inference.case.allowance", lambda *_: Allowance(0.1 * MIB, "1G"))
    monkeypatch.setattr("mambino.inference.case.parts_of", lambda *given: made.append(parts_of(*given)) or made[0])
    monkeypatch.setattr(scratch, "SLAB", 2000)
    tight = predict(tmp_path / "model.safetensors", image, tmp_path / "tight", PredictOptions(memory="1G"))
    assert len(made[0]) > 3
    one, two = (nibabel.load(found.entries[0].file) for found in (free, tight))
    assert np.array_equal(one.dataobj, two.dataobj)
    assert np.array_equal(one.affine, two.affine)
    assert len(np.unique(one.dataobj)) > 1
    assert not list((tmp_path / "tight").glob(".scratch-*"))


def test_a_limit_that_is_too_small_says_what_would_do(tmp_path):
    save(tiny_bundle(tiny_config(3)), tmp_path / "model.safetensors")
    made = predict(
        tmp_path / "model.safetensors", volume(tmp_path / "a.nii.gz"), tmp_path / "o", PredictOptions(memory="20M")
    )
    assert made.failed == ("a",)
    assert "--memory 20M is too little for windows of" in made.entries[0].message
    assert "the least that would do is about" in made.entries[0].message


def test_parts_cover_the_image_and_get_smaller_with_less(monkeypatch):
    monkeypatch.setattr(memory, "BRICK", 0)
    monkeypatch.setattr(memory, "_pass", lambda *_: 0)
    config = tiny_config(3)
    bundle = tiny_bundle(config)
    image = np.random.default_rng(0).normal(size=(1, 20, 90, 70)).astype(np.float32)
    prepared = prepare(Image(image, Grid(image.shape[1:], np.eye(4))), config)
    counts = []
    for room in (4 * MIB, 0.4 * MIB, 0.2 * MIB):
        parts = parts_of(prepared, [bundle], Allowance(memory.FIXED + room), 0.5)
        covered = np.zeros(prepared.cropped.shape[1:], int)
        for part in parts:
            covered[tuple(slice(*span) for span in part)] += 1
        assert (covered == 1).all()
        counts.append(len(parts))
    assert counts[0] == 1
    assert counts[0] < counts[1] <= counts[2]


def test_room_on_disk_is_an_array_and_leaves_nothing(tmp_path):
    with on_disk(tmp_path) as room:
        array = room((3, 5), np.float32)
        array[...] = 7
        assert array.sum() == 105
        assert room((0, 5), np.uint8).shape == (0, 5)
        assert isinstance(array, np.memmap)
    assert list(tmp_path.iterdir()) == []
    assert in_memory((2,), np.uint8).shape == (2,)


def test_a_full_disk_is_said_before_it_is_written_to(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch, "_take", full)
    with on_disk(tmp_path) as room, pytest.raises(FileFormatError, match="cannot be written: No space left on device"):
        room((10,), np.float32)


@pytest.mark.parametrize("damage", ["cut", "flipped", "short"])
def test_a_damaged_file_is_found_where_it_is_unpacked_to_disk(tmp_path, damage):
    path = volume(tmp_path / "a.nii.gz", shape=(40, 40, 40))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-4]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    else:
        data = data[: len(data) // 2]
    path.write_bytes(data)
    with on_disk(tmp_path) as room, pytest.raises((FileFormatError, DataError), match=r"truncated|damaged"):
        read_image(path, channels=1, room=room)


def test_normalising_slab_by_slab_gives_mean_and_deviation(monkeypatch):
    voxels = np.random.default_rng(1).normal(5, 3, (50, 9, 7)).astype(np.float32)
    whole = normalise(voxels, Normalise(scheme="zscore"))
    assert math.isclose(whole.mean(), 0, abs_tol=1e-5)
    assert math.isclose(whole.std(), 1, rel_tol=1e-5)
    monkeypatch.setattr("mambino.core.scratch.SLAB", 100)
    np.testing.assert_allclose(normalise(voxels, Normalise(scheme="zscore")), whole, atol=1e-6)
    assert torch.from_numpy(whole).isfinite().all()
