"""NIfTI-1, NIfTI-2 and MGH volumes, gzip through isal.

A file is taken to memory whole and its header is read strictly: what the header announces must be
there. Voxels lie fastest axis first in these files, so the reversed shape, read in C order, is
already slowest first. A mask copies the geometry fields of its image's header bit by bit.
"""

import itertools
import logging
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip, isal_zlib
from isal.igzip_lib import IsalError
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.core.image import Image
from mambino.core.records import replacing
from mambino.core.scratch import Room, copied, in_memory, slabs
from mambino.errors import DataError, FileFormatError, MambinoWarning
from mambino.imageio.limits import check_room

Header = Any
"""A header of nibabel, which has no types: Nifti1Header, Nifti2Header or MGHHeader."""

_KINDS: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}

_DAMAGED: Any = IsalError
_LOGGER = logging.getLogger(__name__)
_GZIP = b"\x1f\x8b"
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micron
_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_ROUNDING = 0.01  # (voxels) of disagreement between qform and sform that float32 headers are allowed
_SURPLUS = 2**26  # bytes after the last voxel that are passed over
_PIECE = 2**20
_TIGHTEST = 1040  # times that deflate packs at most
_LEVEL = 3  # isal's best; measured faster and smaller than its levels 0 and 1 on CT


def read(path: Path, *, declared: bool = False, room: Room | None = None) -> Image:
    """Read all channels of a volume or slice.

    A fourth axis and colour become channels, which is said unless the number of channels is `declared`. With `room`,
    voxels are unpacked to it piece by piece, or stay in the file where it is not packed, and are for reading only.

    Raises:
        FileFormatError: not such a file, damaged, or shorter than its header announces.
        DataError: voxels or axes that no image of ours can hold.
    """
    header = _header(_start(path), path)
    shape = _shape(header, path)
    array = _voxels(header, path, room)
    space = shape[: min(3, len(shape))]
    colours = bool(header.get_data_dtype().names)
    array = np.moveaxis(array, -1, 0).copy() if colours else array
    array = array.reshape((-1, *space[::-1]))
    if len(array) > 1 and not declared:
        what = "the colours become" if colours else "the fourth axis becomes"
        warnings.warn(f"{path}: {what} {len(array)} channels", MambinoWarning, stacklevel=3)
    return Image(array, _grid(header, space, path))


def write(path: Path, array: NDArray[Any], grid: Grid, like: Path | None = None, *, slope: float | None = None) -> None:
    """Write [*s] voxels, or [k, *s] channels along a fourth axis, on `grid` or exactly as `like` lies.

    With a slope, what is stored are the nearest whole multiples of it, 0 to 65535.

    Raises:
        DataError: `like` has another shape.
        FileFormatError: the file cannot be written; nothing is left behind then.
    """
    header = _geometry(grid, like)
    space = array.shape[array.ndim - grid.dim :]
    dims = [*space[::-1]]
    if array.ndim > grid.dim:
        dims += [1] * (3 - len(dims)) + [array.shape[0]]
    header["dim"] = [len(dims), *dims, *[1] * (7 - len(dims))]
    header.set_data_dtype(array.dtype if slope is None else np.uint16)
    header["scl_slope"], header["scl_inter"] = slope or 1, 0
    header["magic"] = header.single_magic
    header.set_data_offset(header.single_vox_offset)
    packed = isal_zlib.compressobj(_LEVEL, wbits=31) if path.name.lower().endswith(".gz") else None
    voxels = array.reshape(-1, *array.shape[-2:])
    with replacing(path) as part, part.open("wb") as file:
        for piece in (header.binaryblock + b"\0\0\0\0", *(rows for rows in slabs(voxels.shape))):
            data = piece if isinstance(piece, bytes) else _stored(voxels[piece], slope)
            file.write(packed.compress(data) if packed else data)
        file.write(packed.flush() if packed else b"")


def _stored(voxels: NDArray[Any], slope: float | None) -> bytes:
    """Return the bytes of some voxels."""
    if slope is not None:
        voxels = np.rint(voxels / np.float64(slope)).astype(np.uint16)
    return np.ascontiguousarray(voxels).tobytes()


def shape_of(path: Path) -> tuple[int, ...]:
    """Return the voxels along each space axis, slowest first, from the header alone."""
    return _shape(_header(_start(path), path), path)[2::-1]


def stored(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the axes of a file, and the type that its voxels are stored in, from the header alone."""
    header = _header(_start(path), path)
    return _shape(header, path), header.get_data_dtype()


def _contents(path: Path, expected: int) -> tuple[bytes, bool]:
    """Return the first `expected` bytes, unpacked, and whether a packed stream came to its proper end.

    What comes after them is checked for damage and passed over, so that no file takes more memory than it announces.
    """
    data = path.read_bytes()
    if not data.startswith(_GZIP):
        return data, True
    parts, left, whole = [], expected, True
    while data.startswith(_GZIP) and whole:
        stream = isal_zlib.decompressobj(wbits=31)
        try:
            if left:
                parts.append(stream.decompress(data, left))
                left, data = left - len(parts[-1]), stream.unconsumed_tail
            surplus = _pass_over(stream, data)
        except _DAMAGED as error:
            raise FileFormatError(f"{path} is damaged: its gzip stream does not unpack ({error})", _AGAIN) from None
        _check_surplus(path, expected, surplus)
        whole, data = stream.eof, stream.unused_data
    return b"".join(parts), whole


def _mapped(path: Path, expected: int, room: Room) -> tuple[NDArray[np.uint8], bool]:
    """Return what `_contents` does: of a packed file in room, of others as they lie on the disk."""
    if not _start_of(path, len(_GZIP)).startswith(_GZIP):
        return np.memmap(path, np.uint8, "r"), True
    data: NDArray[np.uint8] = room((expected,), np.uint8)
    done, surplus, rest = 0, 0, bytearray(_PIECE)
    try:
        with igzip.IGzipFile(path) as file:  # type: ignore[no-untyped-call]
            while count := file.readinto(data[done : done + _PIECE].data):
                done += count
            while surplus <= _SURPLUS and (count := file.readinto(rest)):
                surplus += count
    except EOFError:
        return data[:done], False
    except (_DAMAGED, OSError) as error:
        raise FileFormatError(f"{path} is damaged: its gzip stream does not unpack ({error})", _AGAIN) from None
    _check_surplus(path, expected, surplus)
    return data[:done], True


def _check_surplus(path: Path, expected: int, surplus: int) -> None:
    if surplus > _SURPLUS:
        raise FileFormatError(
            f"{path} is damaged: it holds {expected} bytes by its header, and more than {_SURPLUS} after them", _AGAIN
        )


def _pass_over(stream: Any, rest: bytes) -> int:
    """Unpack what is left of a stream and drop it; return its size, or a number above `_SURPLUS`."""
    surplus = 0
    while rest and not stream.eof and surplus <= _SURPLUS:
        surplus += len(stream.decompress(rest, _PIECE))
        rest = stream.unconsumed_tail
    return surplus


def _start_of(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _start(path: Path) -> bytes:
    data = _start_of(path, 1 << 16)
    if not data.startswith(_GZIP):
        return data
    parts, left = [], int(Nifti2Header.sizeof_hdr)
    try:
        while data.startswith(_GZIP) and left:
            stream = isal_zlib.decompressobj(wbits=31)
            parts.append(stream.decompress(data, left))
            left, data = left - len(parts[-1]), stream.unused_data
        return b"".join(parts)
    except _DAMAGED as error:
        raise FileFormatError(f"{path} is damaged: its gzip stream does not unpack ({error})", _AGAIN) from None


def _header(data: bytes, path: Path) -> Header:
    size = data[:4]
    mgh = path.name.lower().endswith((".mgz", ".mgh"))
    kind: Any = next((k for n, k in _KINDS.items() if size in {struct.pack("<i", n), struct.pack(">i", n)}), None)
    kind = MGHHeader if mgh else kind
    needed = MGHHeader.template_dtype.itemsize if mgh else kind.sizeof_hdr if kind else 348
    if len(data) < needed:
        raise FileFormatError(
            f"{path} is truncated: its header needs {needed} bytes, the file holds {len(data)}", _AGAIN
        )
    if kind is None:
        raise FileFormatError(f"{path} is not a NIfTI file: it starts with {size!r}", "check what the file holds")
    try:
        header: Header = kind(data[:needed], check=False)
        header.check_fix(logger=_LOGGER, error_level=40)
        header.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError) as error:
        raise FileFormatError(f"{path} has a header that is not valid: {error}", _AGAIN) from None
    if not mgh and header["magic"].item().rstrip(b"\0") in {b"ni1", b"ni2"}:
        raise FileFormatError(
            f"{path} is the header of a pair; its voxels are in an .img file", "convert it to .nii.gz"
        )
    return header


def _shape(header: Header, path: Path) -> tuple[int, ...]:
    """Return (x, y), (x, y, z) or (x, y, z, channels)."""
    try:
        shape = tuple(int(n) for n in header.get_data_shape())
    except (HeaderDataError, ValueError) as error:
        raise FileFormatError(f"{path} has a header that is not valid: {error}", _AGAIN) from None
    if not shape or min(shape) < 1:
        raise FileFormatError(f"{path} has a header that is not valid: its shape is {shape}", _AGAIN)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # how vectors are stored
        shape = (*shape[:3], shape[4])
    if len(shape) not in {2, 3, 4}:
        raise DataError(f"{path} has {len(shape)} axes {shape}; images have 2 or 3, and one for channels")
    return shape


def _voxels(header: Header, path: Path, room: Room | None) -> NDArray[np.generic]:
    """Return the scaled voxels, slowest axis first; colours on a last axis."""
    kind = header.get_data_dtype()
    if kind.kind == "c":
        raise DataError(f"{path} holds complex voxels ({kind.name})", "store the magnitude, or two real channels")
    shape = tuple(int(n) for n in header.get_data_shape())
    offset = int(header.get_data_offset())
    expected = offset + math.prod(shape) * kind.itemsize
    size = path.stat().st_size
    if expected > _TIGHTEST * size:
        raise FileFormatError(f"{path} is truncated: {expected} bytes expected, more than {size} can hold", _AGAIN)
    data: Any
    if room is None:
        check_room(path, 2 * expected)
        data, whole = _contents(path, expected)
    else:
        data, whole = _mapped(path, expected, room)
    if len(data) < expected:
        raise FileFormatError(f"{path} is truncated: {expected} bytes expected, {len(data)} found", _AGAIN)
    if not whole:
        raise FileFormatError(
            f"{path} is truncated: {expected} bytes expected and found, but the end of its gzip stream is missing",
            _AGAIN,
        )
    stored = np.frombuffer(data, kind, math.prod(shape), offset).reshape(shape[::-1])
    if kind.names:
        return _colours(stored.view(np.uint8).reshape(*stored.shape, -1), path)
    return _scaled(stored, header, path, room or in_memory, mapped=room is not None)


def _colours(array: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    if array.shape[-1] == 4 and np.ptp(array[..., 3]) == 0:
        warnings.warn(
            f"{path}: alpha is {array[..., 3].flat[0]} everywhere and is dropped", MambinoWarning, stacklevel=5
        )
        return array[..., :3]
    return array


def _scaled(
    stored: NDArray[np.generic], header: Header, path: Path, room: Room, *, mapped: bool
) -> NDArray[np.generic]:
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise FileFormatError(f"{path} has a header that is not valid: {error}", _AGAIN) from None
    native = stored.dtype.newbyteorder("=")
    if native.kind == "f" and native.itemsize > 8:
        native = np.dtype(np.float64)
    if slope is None or (slope, inter) == (1, 0):
        if mapped:
            return stored if stored.dtype == native else copied(stored[None], native, room)[0]
        return stored.astype(native)
    wide = np.float64 if native.itemsize == 8 and native.kind == "f" else np.float32
    array = room(stored.shape, wide)
    for rows in slabs(stored.shape):
        np.multiply(stored[rows], np.float64(slope), out=array[rows], dtype=np.float64, casting="same_kind")
        array[rows] += wide(inter or 0)
    return array


def _grid(header: Header, space: tuple[int, ...], path: Path) -> Grid:
    affine, unit = _affine(header, space, path)
    dim = len(space)
    if dim == 2 and np.abs(affine[2, :2]).max() > 1e-6 * np.abs(affine[:2, :2]).max():
        affine = np.diag([*np.linalg.norm(affine[:3, :2], axis=0), 1.0, 1.0])  # a slice that stands in the body
    keep = [*range(dim), 3]
    try:
        return Grid(space[::-1], affine[np.ix_(keep, [*range(dim)[::-1], 3])], "pixel" if unit == "pixel" else "mm")
    except DataError as error:
        raise DataError(f"{path}: {error}", "write the file again with a valid geometry") from None


def _affine(header: Header, space: tuple[int, ...], path: Path) -> tuple[NDArray[np.float64], str]:
    """Return the matrix from voxel (fastest first) to RAS mm: sform, else qform, else spacing alone."""
    if isinstance(header, MGHHeader):
        return _mgh_affine(header), "mm"
    scale = np.diag([_MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)] * 3 + [1.0])
    sform = header.get_sform(coded=True)[0]
    qform = _qform(header, path, needed=sform is None)
    if sform is not None and qform is not None:
        _warn_if_apart(qform, sform, space, path)
    affine = sform if sform is not None else qform
    if affine is not None:
        return scale @ affine.astype(np.float64), "mm"
    spacing = [float(n) for n in header["pixdim"][1:4]]
    if int(header["xyzt_units"]) & 7 == 0 and spacing[: len(space)] == [1.0] * len(space):
        return np.eye(4), "pixel"
    spacing = [n or 1.0 for n in spacing]
    warnings.warn(
        f"{path}: neither qform nor sform is set, so the orientation is unknown; axes are taken as R, A, S "
        f"and only the spacing {tuple(round(n, 5) for n in spacing[: len(space)])} is used",
        MambinoWarning,
        stacklevel=5,
    )
    return scale @ np.diag([*spacing, 1.0]), "mm"


def _mgh_affine(header: Header) -> NDArray[np.float64]:
    return np.asarray(header.get_affine(), np.float64)


def _qform(header: Header, path: Path, *, needed: bool) -> NDArray[np.float64] | None:
    try:
        found: NDArray[np.float64] | None = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError) as error:
        if needed:
            raise FileFormatError(f"{path} has a header that is not valid: its qform is broken ({error})") from None
        return None
    return found


def _warn_if_apart(qform: NDArray[np.float64], sform: NDArray[np.float64], space: tuple[int, ...], path: Path) -> None:
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in (*space, 1)[:3]], (1,)))).T
    apart = np.linalg.norm(((qform - sform) @ corners)[:3], axis=0)
    worst = corners[:, apart.argmax()]
    if apart.max() > _ROUNDING * np.linalg.norm(sform[:3, : len(space)], axis=0).min():
        warnings.warn(
            f"{path}: qform and sform disagree by up to {apart.max():.3g} mm: voxel {worst[:3].tolist()} lies at "
            f"{_place(qform @ worst)} by the qform and at {_place(sform @ worst)} by the sform; the sform is used",
            MambinoWarning,
            stacklevel=6,
        )


def _place(point: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{n:.2f}" for n in point[:3]) + ")"


def _geometry(grid: Grid, like: Path | None) -> Header:
    source = _header(_start(like), like) if like else None
    if source is None or isinstance(source, MGHHeader):
        return _placed(grid)
    header = type(source)()
    for field in _GEOMETRY:
        header[field] = source[field]
    return header


def _placed(grid: Grid) -> Header:
    """Return a header that lies as `grid`: sform, and qform where there is no shear."""
    header = _KINDS[540 if max(grid.shape) > 32767 else 348]()
    header["pixdim"][1 : grid.dim + 1] = grid.spacing[::-1]
    if grid.unit == "pixel":
        return header
    affine = np.eye(4)
    keep = [*range(grid.dim), 3]
    affine[np.ix_(keep, keep)] = grid.affine[:, [*range(grid.dim)[::-1], grid.dim]]
    header.set_xyzt_units("mm")
    header.set_sform(affine, 1)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):
        header.set_qform(affine, 1)
    return header


_AGAIN = "copy or export the file again"
