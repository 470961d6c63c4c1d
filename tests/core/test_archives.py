"""Archives are refused by what they say of themselves, or unpacked under names of ours."""

import zipfile

import pytest

from mambino.core import archives
from mambino.core.archives import check_archive, leaves, unpacked
from mambino.errors import FileFormatError

ROOM = 2**30


def made(path, members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_members_get_numbers_for_names(tmp_path):
    path = made(tmp_path / "a.zip", {"x/one": b"1", "y/": b"", "y/two": b"22"})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    files = unpacked(path, scratch)
    assert [file.relative_to(scratch).as_posix() for file in files] == ["000000", "000001"]
    assert [file.read_bytes() for file in files] == [b"1", b"22"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "C:\\x", "..\\x", "\\\\host\\share\\x"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    assert leaves(name)
    path = made(tmp_path / "a.zip", {"good": b"", name: b"x"})
    with pytest.raises(FileFormatError, match="names 1 files outside its own folder") as caught:
        unpacked(path, tmp_path)
    assert "meant to do harm" in caught.value.hint
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MOST_FILES", 1, "holds 2 files, at most 1 are unpacked"),
        ("MOST_BYTES", 10, "unpacks to 200000000 bytes, more than the 10 there is room for"),
        (None, None, r"unpacks to \d+ times its size, at most 200 times is unpacked"),
    ],
)
def test_bombs_are_refused_before_a_byte_is_unpacked(tmp_path, monkeypatch, limit, value, words):
    path = made(tmp_path / "a.zip", {"a": bytes(10**8), "b": bytes(10**8)})
    if limit:
        monkeypatch.setattr(archives, limit, value)
    with pytest.raises(FileFormatError, match=words):
        check_archive(path, ROOM)


def test_what_there_is_no_room_for_is_refused(tmp_path):
    path = made(tmp_path / "a.zip", {"a": b"12345"})
    with pytest.raises(FileFormatError, match="unpacks to 5 bytes, more than the 4 there is room for") as caught:
        check_archive(path, 4, "buy memory")
    assert caught.value.hint == "buy memory"


def test_a_member_that_is_larger_than_the_table_says_is_refused(tmp_path):
    path = made(tmp_path / "a.zip", {"a": b"123456789"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    table = data.index(b"PK\x01\x02")
    data[table + 24 : table + 28] = (3).to_bytes(4, "little")  # its unpacked size
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="cannot be unpacked: BadZipFile"):
        unpacked(path, tmp_path)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FileFormatError, match=r"a\.zip cannot be unpacked: BadZipFile"):
        check_archive(path, ROOM)
