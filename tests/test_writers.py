"""Every file is written beside its place and renamed: where that fails, the old one is whole and nothing is left."""

import ast
import errno
import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mambino.core.grid import Grid, pixel_grid
from mambino.core.image import Image, Segmentation
from mambino.core.options import TrainOptions
from mambino.core.provenance import Maker
from mambino.core.records import replacing, write, write_text, write_texts
from mambino.errors import Error, FileFormatError
from mambino.imageio import dicom, write_labels, write_scores
from mambino.imageio.dicom.concepts import read_codes
from mambino.imageio.dicom.rtstruct import write_rtstruct
from mambino.imageio.dicom.seg import write_seg
from mambino.imageio.images import write_image
from mambino.preprocessing.store import Origin, Store
from mambino.training.state import before, save_state
from mambino.weights import bundle
from tests.imageio.dicom.series import values, write_series
from tests.imageio.files import TWO
from tests.places import ROOT
from tests.test_house import SOURCES
from tests.tiny import know, tiny_bundle
from tests.training import toys

GRID = Grid((3, 8, 9), np.diag([2.0, 1.0, 1.0, 1.0]))
VOXELS = np.random.default_rng(0).integers(0, 3, GRID.shape).astype(np.uint8)


def volume_mask(path):
    write_labels(path, Segmentation(VOXELS, GRID, TWO))


def picture_mask(path):
    write_labels(path, Segmentation(VOXELS[0], pixel_grid(VOXELS.shape[1:]), TWO))


def image(path):
    write_image(path, Image(VOXELS[:1].astype(np.uint16), pixel_grid(VOXELS.shape[1:])))


def scores(path):
    write_scores(path, np.random.default_rng(0).random((2, *GRID.shape)).astype(np.float32), GRID)


def of_dicom(path, writer):
    volume = dicom.read(path.parent.parent / "scan", headers=True)
    made = Segmentation(VOXELS, volume.image.grid, TWO)
    maker = Maker(version="0", bundles=(("model", "0" * 64),), networks=("unet",))
    writer(path, made, volume, read_codes(None, tuple(TWO.names)), maker)


WRITERS = {
    "options.json": partial(write, TrainOptions()),
    "page.html": partial(write_text, "x" * 500),
    "model.safetensors": lambda path: bundle.save(tiny_bundle(), path),
    "state.pt": lambda path: save_state(toys.fresh(toys.config().recipe), path),
    **dict.fromkeys(("mask.nii.gz", "mask.nii", "mask.tif", "mask.nrrd", "mask.mha"), volume_mask),
    **dict.fromkeys(("mask.png", "mask.bmp"), picture_mask),
    **dict.fromkeys(("image.nii.gz", "image.png", "image.tif", "image.mha"), image),
    **dict.fromkeys(("scores.nii.gz", "scores.npz"), scores),
    "mask.seg.dcm": partial(of_dicom, writer=write_seg),
    "mask.rtstruct.dcm": partial(of_dicom, writer=write_rtstruct),
}


@contextmanager
def disk_full():
    """Let no file grow beyond a few bytes: writing goes on up to there, in C and C++ too."""
    resource = pytest.importorskip("resource")  # not on Windows
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_rename():
    """Let no file be renamed, as on a disk that has just become full or read-only."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        yield


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are those of Unix")
@pytest.mark.parametrize("fault", [disk_full, no_rename])
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name, fault):
    know(monkeypatch)
    write_series(tmp_path / "scan", values(GRID.shape))
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / name
    path.write_bytes(b"old")
    with fault(), pytest.raises(Error, match=f"{name} cannot be written"):
        WRITERS[name](path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {name: b"old"}
    WRITERS[name](path)
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("fault", [disk_full, no_rename])
def test_texts_that_belong_together_are_written_together_or_not_at_all(tmp_path, fault):
    texts = {tmp_path / "a.json": "x" * 100, tmp_path / "b.json": "y" * 100}
    for path in texts:
        path.write_text("old")
    with fault(), pytest.raises(FileFormatError, match="cannot be written"):
        write_texts(texts)
    assert {file.read_text() for file in tmp_path.iterdir()} == {"old"}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("fault", [disk_full, no_rename])
def test_a_prepared_case_that_cannot_be_finished_is_not_there(tmp_path, fault):
    origin = Origin(key="0", data="0", shape=(8, 9), spacing=(1.0, 1.0), prepared_spacing=(1.0, 1.0), unit="mm")
    store = Store(tmp_path)
    case = ("a", VOXELS[:1].astype(np.float32), VOXELS[0], origin)
    store.write(*case)
    with fault(), pytest.raises(FileFormatError, match="cannot be written"):
        store.write(*case)
    assert list(tmp_path.iterdir()) == []
    store.write(*case)
    assert store.sound("a")


def test_a_file_that_is_kept_has_its_name_at_every_moment(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    path.write_text("first")
    replace, there = Path.replace, []

    def watched(source, target):
        there.append(path.exists())
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    for text in ("second", "third"):
        with replacing(path, older=before(path)) as part:
            part.write_text(text)
    assert there == [True] * 4
    assert (path.read_text(), before(path).read_text()) == ("third", "second")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch, name):
    """A power cut finds the old file or the new one, and no name of something that was in memory alone."""
    know(monkeypatch)
    write_series(tmp_path / "scan", values(GRID.shape))
    fsync, rename, safe = os.fsync, Path.replace, {}

    def sync(handle):
        found = os.fstat(handle)
        safe[found.st_ino] = found.st_size
        fsync(handle)

    def renamed(source, target):
        there = source.stat()
        assert safe.get(there.st_ino) == there.st_size > 0
        return rename(source, target)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", renamed)
    WRITERS[name](tmp_path / "out" / name)
    assert safe


def test_where_there_are_no_links_the_older_file_is_renamed(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    path.write_text("first")

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with replacing(path, older=before(path)) as part:
        part.write_text("second")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "state.pt": "second",
        "state-before.pt": "first",
    }


WRITING = {
    "write_text",
    "write_bytes",
    "imwrite",
    "savez",
    "savez_compressed",
    "save_as",
    "WriteImage",
    "copyfile",
}
APART = {
    "core/archives.py": "unpacks into a scratch folder",
    "imageio/dicom/pixels.py": "writes a frame into a scratch folder",
    "training/runs.py:log": "adds a line to the log; one that is cut short is dropped by whoever goes on",
    "training/pretraining/__init__.py:_log": "the same",
    "models/measuring.py": "resets a counter of the kernel",
    "cli/console.py": "opens the null device",
}
"""What is written without being renamed, and why that does no harm."""


def writes(node: ast.Call) -> bool:
    """Tell whether a call writes a file: by its name, or as it opens one to write."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name == "open":
        given = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
    return name in WRITING and isinstance(node.func, ast.Attribute)


def unguarded(path: Path) -> list[str]:
    """Return where a file is written outside a block of `replacing`, by file and function."""
    found = []

    def walk(node: ast.AST, function: str, inside: bool) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.With):
            blocks = [ast.dump(item.context_expr) for item in node.items]
            inside = inside or any("replacing" in block or "ExitStack" in block for block in blocks)
        if isinstance(node, ast.Call) and writes(node) and not inside:
            found.append(f"{path.relative_to(ROOT / 'src' / 'mambino').as_posix()}:{function}")
        for child in ast.iter_child_nodes(node):
            walk(child, function, inside)

    walk(ast.parse(path.read_text()), "", False)
    return found


def test_nothing_is_written_in_place():
    places = {place for path in SOURCES for place in unguarded(path)}
    bare = {place for place in places if place not in APART and place.partition(":")[0] not in APART}
    assert bare == set()
    assert {name for name in APART if not any(place.startswith(name) for place in places)} == set()
