"""Reading a pickle runs nothing that it names: tensors and plain values come back, calls end the reading."""

import builtins
import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mambino.errors import WeightsError
from mambino.weights.pickles import Blank, Unpickler, read_pickle
from tests.weights.containers import Old, Payload, forget, of_vmamba


def written(tmp_path: Path, value: object, **how: object) -> Path:
    path = tmp_path / "file.pth"
    torch.save(value, path, **how)
    return path


def read(text: bytes) -> object:
    return Unpickler(io.BytesIO(text)).load()


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_tensors_come_back_from_both_formats(tmp_path, how):
    state = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict()
    state |= {
        "half": torch.arange(4).half(),
        "view": torch.arange(12.0).reshape(3, 4).T,
        "p": nn.Parameter(torch.ones(2)),
    }
    back = read_pickle(written(tmp_path, state, **how))
    assert list(back) == list(state)
    for key, value in state.items():
        assert torch.equal(back[key], value)
        assert back[key].dtype == value.dtype


def test_plain_values_and_numbers_of_numpy_come_back(tmp_path):
    value = {
        "numbers": [np.float64(0.1), np.float32(0.5), np.int64(-3), np.bool_(True), np.dtype(">f4").type(2)],
        "plain": (1, 2.5, "text", None, True, b"bytes", {"a": [1]}, {1, 2}, torch.Size([2, 3])),
        "ordered": OrderedDict(a=1),
    }
    back = read_pickle(written(tmp_path, value))
    assert back["numbers"] == [0.1, 0.5, -3, True, 2.0]
    assert back["plain"] == value["plain"]
    assert back["ordered"] == {"a": 1}


def test_objects_of_unknown_classes_become_blanks(tmp_path):
    path = written(tmp_path, of_vmamba({"w": torch.ones(1)}))
    forget()
    back = read_pickle(path)
    assert back["epoch"] == 292
    assert isinstance(back["config"], Blank)
    assert back["config"]["MODEL"]["NAME"] == "vssm_tiny"
    assert back["config"]["frozen"] is True
    other = read_pickle(written(tmp_path, {"path": Path("a"), "array": np.ones(3), "kind": torch.float32}))
    assert isinstance(other["array"], Blank)


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {mark}",)),
        (vars(builtins)["eval"], ("open('{mark}', 'w')",)),
        (builtins.exec, ("open('{mark}', 'w')",)),
        (builtins.getattr, (os, "system")),
        (Path.touch, (Path("{mark}"),)),
        (open, ("{mark}", "w")),
    ],
)
def test_a_call_is_refused_and_does_not_happen(tmp_path, how, function, arguments):
    mark = tmp_path / "mark"
    arguments = tuple(a.format(mark=mark) if isinstance(a, str) else a for a in arguments)
    if os in arguments:
        arguments = (Payload, "system")  # modules cannot be pickled
    path = written(tmp_path, {"model": {"w": torch.ones(1)}, "rest": Payload(function, *arguments)}, **how)
    with pytest.raises(WeightsError, match=r"asks for a call of .*, which no weights need: nothing of it was run"):
        read_pickle(path)
    assert not mark.exists()


def test_a_call_by_way_of_old_classes_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"asks for a call of copy_?reg\._reconstructor"):
        read_pickle(written(tmp_path, {"x": Old()}))


@pytest.mark.parametrize(
    "text",
    [
        b"cos\nsystem\n(S'touch mark'\ntR.",  # GLOBAL, REDUCE
        b"(S'touch mark'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch mark'\no.",  # OBJ
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
    ],
)
def test_every_instruction_that_calls_is_refused(text):
    with pytest.raises(pickle.UnpicklingError, match=r"system|encode"):
        read(text)


def test_functions_of_ours_cannot_be_changed():
    with pytest.raises(pickle.UnpicklingError, match="a change of a function"):
        read(b"ctorch._utils\n_rebuild_tensor_v2\n}S'__defaults__'\n(tsb.")
    kind = read(b"cos\nsystem\n.")
    assert issubclass(kind, Blank)
    assert kind is not os.system


def test_methods_of_what_comes_back_cannot_be_replaced():
    table = read(b"ccollections\nOrderedDict\n(tR(S'a'\nI1\nu}S'items'\ncos\nsystem\nsb.")
    assert list(table.items()) == [("a", 1)]
    blank = read(b"\x80\x02cgone\nThing\n)\x81}X\x05\x00\x00\x00itemscos\nsystem\nsb.")
    assert list(blank.items()) == list(blank.items())
    assert [*blank] == ["items"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint of torch"):
        read_pickle(path)
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    with pytest.raises(WeightsError, match="is a tar archive, as very old versions"):
        read_pickle(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_of_torchscript_is_refused(tmp_path):
    path = tmp_path / "file.pt"
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), path)
    with pytest.raises(WeightsError, match="is a TorchScript archive: a program, not weights"):
        read_pickle(path)


def test_a_file_cut_short_is_refused(tmp_path):
    path = written(tmp_path, {"w": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=r"file\.pth cannot be unpacked: BadZipFile"):
        read_pickle(path)
    path.write_bytes(b"\x80\x02nonsense")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint of torch"):
        read_pickle(path)


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_tensor_larger_than_what_is_stored_of_it_is_refused(tmp_path, how):
    path = written(tmp_path, {"w": torch.ones(4)}, **how)
    data = path.read_bytes()
    place = data.index(b"K\x04\x85")  # the size of the tensor, (4,)
    path.write_bytes(data[: place + 1] + b"\x40" + data[place + 2 :])
    with pytest.raises(WeightsError, match=r"a tensor of \(64,\) does not lie in the 4 numbers"):
        read_pickle(path)


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**25))
    with pytest.raises(WeightsError, match=r"unpacks to \d+ times its size"):
        read_pickle(path)
