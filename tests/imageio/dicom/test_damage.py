"""A damaged file is read or refused: it never raises anything else, and never says what it holds."""

import random

import pytest

from mambino.errors import Error
from mambino.imageio import dicom
from tests.imageio.dicom.series import PLANTED, values, write_enhanced, write_series
from tests.places import DATA, needs_shared

SHAPE = (2, 7, 6)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few of them changed, lost or added, or the end cut off."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 20])):
        at = rng.randrange(min(len(made), rng.choice([400, 2000, len(made)])) or 1)
        match rng.randrange(8):
            case 0:
                del made[at : at + rng.randrange(1, 9)]
            case 1:
                made[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del made[at + 1 :]
            case _:
                made[at : at + 1] = bytes([rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])])
    return bytes(made)


def check(folder, data, seeds):
    folder.mkdir()
    path = folder / "file.dcm"
    for seed in seeds:
        path.write_bytes(damaged(data, random.Random(seed)))
        try:
            dicom.read(folder, headers=True)
        except Error as error:
            said = str(error) + error.hint
            assert not any(value in said for value in PLANTED.values())


@pytest.mark.parametrize("kind", ["single", "many"])
def test_files_of_ours(tmp_path, kind):
    write = {"single": write_series, "many": lambda folder, array: [write_enhanced(folder / "e.dcm", array)]}[kind]
    check(tmp_path / "damaged", write(tmp_path / "whole", values(SHAPE))[0].read_bytes(), range(150))


@needs_shared
@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "image_dfl"])
def test_real_compressed_files(tmp_path, name):
    check(tmp_path / "damaged", (DATA / f"dicom/encodings/{name}.dcm").read_bytes(), range(100))
