"""What a compressed frame says of its own size, before a decoder believes it.

Decoders take memory for the size that the compressed data state, which a damaged or hostile file may set to anything.
"""

import struct

_JPEG = b"\xff\xd8"
_JPEG_2000 = b"\xff\x4f\xff\x51"
_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG and JPEG-LS that state a size: a start of frame."""

_BOXES = 256  # bytes of boxes that may stand before a JPEG 2000 codestream


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Return rows and columns of a JPEG, JPEG-LS or JPEG 2000 frame; None where it states none."""
    try:
        return _jpeg(data) if data[:2] == _JPEG else _jpeg_2000(data)
    except struct.error:  # cut short
        return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while data[at : at + 1] == b"\xff":
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker in _SIZES:
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            return rows, columns
        at += 1 if marker == 0xFF else 2 + length  # markers may be padded
    return None


def _jpeg_2000(data: bytes) -> tuple[int, int] | None:
    at = data.find(_JPEG_2000, 0, _BOXES)
    if at < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    return bottom - top, right - left
