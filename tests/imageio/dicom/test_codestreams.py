"""The size that compressed frames state is found without a decoder."""

import io
import struct

import numpy as np
import PIL.Image
import pytest

from mambino.imageio.dicom.codestreams import stated_size


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_the_size_is_that_of_the_picture(kind):
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((37, 91), np.uint8)).save(file, kind)
    assert stated_size(file.getvalue()) == (37, 91)


def test_an_offset_counts_in_jpeg_2000():
    assert stated_size(b"\xff\x4f\xff\x51" + struct.pack(">HH4I", 41, 0, 100, 60, 10, 20)) == (40, 90)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\0\x11", b"nothing", b"\xff\xd8\xff\xda\0\4\0\0"])
def test_what_states_no_size_has_none(data):
    assert stated_size(data) is None
