"""Headers of NRRD and MetaImage that contradict themselves, or name files elsewhere, never reach ITK."""

import numpy as np
import pytest

from mambino.errors import FileFormatError
from mambino.imageio import itk, read_image

pytest.importorskip("SimpleITK")

VOXELS = np.arange(60, dtype="<i2").reshape(3, 4, 5)
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "Offset": "1 2 3",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "ElementSpacing": "0.5 0.5 2",
    "DimSize": "5 4 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
NRRD = {"type": "short", "dimension": "3", "sizes": "5 4 3", "endian": "little", "encoding": "raw"}


def meta(path, **changes):
    entries = {name: value for name, value in {**META, **changes}.items() if value is not None}
    last = entries.pop("ElementDataFile", None)  # is where the header ends
    lines = [
        f"{name} = {value}\n" for name, value in {**entries, **({"ElementDataFile": last} if last else {})}.items()
    ]
    path.write_bytes("".join(lines).encode() + (VOXELS.tobytes() if last == "LOCAL" else b""))
    return path


def nrrd(path, **changes):
    entries = {name: value for name, value in {**NRRD, **changes}.items() if value is not None}
    text = "NRRD0004\n# a comment\n" + "".join(
        f"{name.replace('_', ' ')}: {value}\n" for name, value in entries.items()
    )
    path.write_bytes(text.encode() + b"\n" + (b"" if "data_file" in changes else VOXELS.tobytes()))
    return path


@pytest.fixture(autouse=True)
def _no_itk_where_refused(monkeypatch, request):
    """Fail where a header that is refused was given to ITK all the same."""
    if "refused" in request.node.name:
        monkeypatch.setattr(itk, "check_room", lambda *_: pytest.fail("ITK has read the header"))


@pytest.mark.parametrize("write", [meta, nrrd])
def test_what_is_sound_is_read(tmp_path, write):
    np.testing.assert_array_equal(
        read_image(write(tmp_path / ("x.mha" if write is meta else "x.nrrd"))).array[0], VOXELS
    )


@pytest.mark.parametrize("write", [meta, nrrd])
def test_voxels_in_a_file_beside_are_read(tmp_path, write):
    (tmp_path / "x.raw").write_bytes(VOXELS.tobytes())
    key = "ElementDataFile" if write is meta else "data_file"
    path = write(tmp_path / ("x.mhd" if write is meta else "x.nhdr"), **{key: "x.raw"})
    np.testing.assert_array_equal(read_image(path).array[0], VOXELS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"NDims": "2147483648"}, "NDims is 2147483648, it must be 1 to 5"),
        ({"NDims": None}, "NDims is missing"),
        ({"NDims": "2"}, "ElementSpacing has 3 numbers for 2 axes|DimSize has 3 numbers|Offset has 3 numbers"),
        ({"DimSize": "5 4"}, "DimSize has 2 numbers for 3 axes"),
        ({"DimSize": "5 -4 3"}, "DimSize is 5 -4 3"),
        ({"DimSize": "5 4 many"}, "DimSize is '5 4 many'"),
        ({"TransformMatrix": "1 0 0"}, "TransformMatrix has 3 numbers for 3 axes"),
        ({"ElementNumberOfChannels": "99999999"}, "ElementNumberOfChannels is 99999999"),
        ({"CompressedData": "True", "CompressedDataSize": "99999999999"}, "CompressedDataSize is 99999999999"),
        ({"Comment": "x" * 5000}, "it has the line 'Comment = xxxx"),
        ({"NDims : 4\nA": "1"}, "it has the line 'NDims : 4'"),
        ({"ElementDataFile": None}, "it names no ElementDataFile"),
    ],
)
def test_a_header_of_metaimage_that_contradicts_itself_is_refused(tmp_path, changes, words):
    with pytest.raises(FileFormatError, match=rf"x\.mha has a header that is not valid: .*({words})"):
        read_image(meta(tmp_path / "x.mha", **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dimension": "17"}, "dimension is 17, it must be 1 to 5"),
        ({"sizes": "5 4"}, "its sizes are 5 4 for 3 axes"),
        ({"sizes": None}, "its sizes are missing for 3 axes"),
        ({"encoding": "raw\nnonsense"}, "it has the line 'nonsense'"),
    ],
)
def test_a_header_of_nrrd_that_contradicts_itself_is_refused(tmp_path, changes, words):
    with pytest.raises(FileFormatError, match=rf"x\.nrrd has a header that is not valid: {words}"):
        read_image(nrrd(tmp_path / "x.nrrd", **changes))


@pytest.mark.parametrize("name", ["../x.raw", "/dev/zero", "C:\\x.raw", "link.raw", "LIST\n../x.raw"])
@pytest.mark.parametrize("write", [meta, nrrd])
def test_voxels_outside_the_folder_are_refused(tmp_path, write, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "x.raw").write_bytes(VOXELS.tobytes())
    (folder / "link.raw").symlink_to("../x.raw")
    key = "ElementDataFile" if write is meta else "data_file"
    path = write(folder / ("x.mhd" if write is meta else "x.nhdr"), **{key: name})
    with pytest.raises(FileFormatError, match="looks for voxels outside its own folder") as caught:
        read_image(path)
    assert "side by side" in caught.value.hint


def test_plain_voxels_that_are_too_few_are_refused(tmp_path):
    path = meta(tmp_path / "x.mha")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match=r"x\.mha is truncated: 120 bytes expected, 119 found"):
        read_image(path)
    (tmp_path / "x.raw").write_bytes(VOXELS.tobytes()[:-1])
    with pytest.raises(FileFormatError, match=r"x\.raw is truncated: 120 bytes expected, 119 found"):
        read_image(nrrd(tmp_path / "x.nhdr", data_file="x.raw"))
