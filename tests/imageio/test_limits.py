"""No file takes more memory than there is, whatever it says of itself."""

import struct
import sys
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from isal import igzip

from mambino.errors import DataError, FileFormatError
from mambino.imageio import limits, nifti, raster, read_image
from tests.imageio import files


@pytest.fixture
def volume(tmp_path):
    return files.nifti(tmp_path / "x.nii.gz", np.zeros((4, 5, 6), np.int16))


def packed(path, data):
    path.write_bytes(igzip.compress(data, 3, mtime=0))


def changed(path, dims):
    """Return the unpacked file with other sizes in its header."""
    data = bytearray(igzip.decompress(path.read_bytes()))
    data[42:48] = struct.pack("<3h", *dims)
    return bytes(data)


def test_voxels_that_no_file_of_this_size_can_hold_are_refused_before_they_are_unpacked(volume, monkeypatch):
    packed(volume, changed(volume, (32767, 32767, 32767)))
    monkeypatch.setattr(nifti, "_contents", lambda *_: pytest.fail("unpacked"))
    words = rf"is truncated: \d{{14}} bytes expected, more than {volume.stat().st_size} can hold"
    with pytest.raises(FileFormatError, match=words):
        read_image(volume)


def test_what_follows_the_voxels_is_passed_over_up_to_a_limit(volume, monkeypatch):
    data = igzip.decompress(volume.read_bytes())
    packed(volume, data + bytes(2**21))
    assert read_image(volume).grid.shape == (6, 5, 4)
    monkeypatch.setattr(nifti, "_SURPLUS", 2**20)
    with pytest.raises(FileFormatError, match=rf"holds {len(data)} bytes by its header, and more than 1048576 after"):
        read_image(volume)


def test_damage_behind_the_voxels_is_noticed(volume):
    data = igzip.decompress(volume.read_bytes())
    packed(volume, data + bytes(2**21))
    volume.write_bytes(volume.read_bytes()[:-6] + b"\1\2\3\4\5\6")
    with pytest.raises(FileFormatError, match="its gzip stream does not unpack"):
        read_image(volume)


def test_volumes_larger_than_the_memory_are_refused(volume, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 1e-7)
    with pytest.raises(DataError, match=r"x\.nii\.gz needs 0\.0 GiB, this machine has 0\.0 GiB to spare") as caught:
        read_image(volume)
    assert "more memory" in caught.value.hint


def test_a_tiff_that_announces_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((9, 9), np.uint8))
    monkeypatch.setattr(limits, "memory", lambda: 1e-9)
    with pytest.raises(DataError, match=r"x\.tif needs 0\.0 GiB"):
        read_image(tmp_path / "x.tif")


def test_memory_that_runs_out_all_the_same_is_an_error_of_ours(tmp_path, monkeypatch):
    files.png(tmp_path / "x.png", files.grey())

    def full(_):
        raise MemoryError

    monkeypatch.setattr(raster, "_picture", full)
    with pytest.raises(DataError, match=r"x\.png needs more memory than is left"):
        read_image(tmp_path / "x.png")


def test_a_png_of_more_pixels_than_are_safe_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 2**16, 2**16, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    )
    with pytest.raises(FileFormatError, match=r"x\.png is damaged or truncated \(Image size"):
        read_image(path)


def test_an_mgh_file_of_an_unknown_type_is_refused(tmp_path):
    nibabel.save(nibabel.MGHImage(np.zeros((3, 3, 3), np.float32), np.eye(4)), tmp_path / "x.mgz")
    data = bytearray(igzip.decompress((tmp_path / "x.mgz").read_bytes()))
    data[20:24] = (77).to_bytes(4, "big")
    packed(tmp_path / "x.mgz", bytes(data))
    with pytest.raises(FileFormatError, match=r"x\.mgz has a header that is not valid: 77"):
        read_image(tmp_path / "x.mgz")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of addresses are those of Linux")
def test_a_limit_of_addresses_counts_as_memory():
    import subprocess

    code = (
        "import resource; from mambino.core.machine import memory; before = memory();"
        "resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28)); assert 0 <= memory() < 0.25 < before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
