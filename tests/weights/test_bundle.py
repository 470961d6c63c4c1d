"""A bundle comes back as it was saved, says what it is without torch, and is refused when it is anything else."""

import json
import struct
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mambino.core.records import dump
from mambino.errors import FileFormatError, WeightsError
from mambino.models import build
from mambino.weights import bundle as bundles
from mambino.weights.bundle import digest, header, load, save
from tests.tiny import know, saved, tiny_bundle, tiny_config


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_bundle_comes_back_as_it_was_saved(tmp_path, dim):
    config = tiny_config(dim, mirror=(0,), swap=((1, 2),), swap_axis=0, classes=3)
    bundle = tiny_bundle(config, temperature=1.5)
    back = load(saved(tmp_path, bundle))
    for field in ("config", "labels", "channels", "provenance", "temperature"):
        assert getattr(back, field) == getattr(bundle, field)
    assert not back.network.training
    before, after = bundle.network.state_dict(), back.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_equal_bundles_give_equal_files(tmp_path):
    first, second = (saved(tmp_path, tiny_bundle(), name) for name in "ab")
    assert digest(first) == digest(second)
    assert digest(first) != digest(saved(tmp_path, tiny_bundle(seed=1), "c"))


def test_the_header_says_all_but_the_weights(tmp_path):
    bundle = tiny_bundle()
    found = header(saved(tmp_path, bundle))
    assert (found.format, found.config, found.labels) == (1, bundle.config, bundle.labels)
    assert (found.parameters, len(found.sha256)) == (4, 64)


def test_the_header_is_read_without_torch(tmp_path):
    path = saved(tmp_path, tiny_bundle())
    code = (
        "import sys, pathlib; from mambino.weights.bundle import header;"
        "header(pathlib.Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_tied_weights_are_kept(tmp_path):
    config = tiny_config()
    config = replace(config, network=replace(config.network, options={"tied": True}))
    bundle = tiny_bundle(config)
    back = load(saved(tmp_path, bundle)).network
    assert torch.equal(back.layer.weight, bundle.network.layer.weight)
    assert back.other.weight is back.layer.weight


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_keep_their_values_in_narrow_types(tmp_path, kind):
    bundle = tiny_bundle()
    bundle.network.to(kind)
    back = load(saved(tmp_path, bundle))
    assert torch.equal(back.network.layer.weight.to(kind), bundle.network.layer.weight)


@pytest.mark.parametrize("place", ["weights", "config"])
def test_a_changed_byte_is_noticed(tmp_path, place):
    path = saved(tmp_path, tiny_bundle())
    content = bytearray(path.read_bytes())
    where = len(content) - 1 if place == "weights" else content.index(b"balls")
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"is damaged: the sha256 of its content is \w{12}, but it was written with \w{12}$"
    ):
        load(path)


@pytest.mark.parametrize(
    ("keep", "words"),
    [(-4, "is damaged or cut short: "), (100, "is not a bundle: it does not begin as a .safetensors"), (3, "is not a")],
)
def test_a_truncated_file_is_refused(tmp_path, keep, words):
    path = saved(tmp_path, tiny_bundle())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=words) as caught:
        load(path)
    assert "fetch or copy it again" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something", b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model.safetensors is not a bundle") as caught:
        header(path)
    assert "name the model.safetensors that train has written" in caught.value.hint


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_checkpoint_of_another_program_points_to_convert(tmp_path, suffix):
    path = tmp_path / f"checkpoint_final{suffix}"
    with pytest.raises(WeightsError, match=r"is a checkpoint of another program .* not a bundle") as caught:
        load(path)
    assert f"mambino convert {path}" in caught.value.hint


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_without_our_entry_are_refused_with_what_they_lack(tmp_path, metadata):
    path = tmp_path / "resnet.safetensors"
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, path, metadata)
    with pytest.raises(WeightsError, match=r"holds 2 tensors, but not the entry 'mambino' that says which network"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    for verb in (header, load, digest):
        with pytest.raises(WeightsError, match=r"nowhere.safetensors cannot be read: No such file") as caught:
            verb(tmp_path / "nowhere.safetensors")
        assert "train writes" in caught.value.hint


def test_a_later_format_is_refused_with_both_numbers(tmp_path):
    path = _described(tmp_path, {"format": 2, "something": "new"})
    with pytest.raises(FileFormatError, match=r"has format 2, but this version of mambino reads format 1") as caught:
        header(path)
    assert "use the version of mambino that wrote it" in caught.value.hint


def test_a_typo_in_the_header_is_named(tmp_path):
    known = json.loads(dump(header(saved(tmp_path, tiny_bundle()))))
    path = _described(tmp_path, {**known, "chanels": ["CT"]})
    with pytest.raises(FileFormatError, match=r"chanels: Unexpected keyword"):
        header(path)


def test_tensors_that_do_not_fit_are_listed(tmp_path, monkeypatch):
    path = saved(tmp_path, tiny_bundle())
    monkeypatch.setattr(bundles, "build", lambda _: torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(3))))
    words = (
        r"does not fit the network tiny: 6 tensors \(0.bias, 0.weight, 1.bias, 1.weight, 2.bias, ...\) missing, "
        r"3 tensors \(count, layer.bias, layer.weight\) unexpected"
    )
    with pytest.raises(WeightsError, match=words):
        load(path)


def test_tensors_of_other_shapes_are_listed(tmp_path, monkeypatch):
    path = saved(tmp_path, tiny_bundle())
    wide = tiny_bundle(tiny_config(channels=2)).network
    monkeypatch.setattr(bundles, "build", lambda _: wide)
    words = r"it holds layer.weight \(2, 1, 1, 1, 1\) where the network has \(2, 2, 1, 1, 1\)"
    with pytest.raises(WeightsError, match=words) as caught:
        load(path)
    assert "mambino info names it" in caught.value.hint


def test_a_bundle_of_a_network_larger_than_its_file_is_refused_before_that_is_made(tmp_path, monkeypatch):
    path = saved(tmp_path, tiny_bundle())
    made = []

    def watched(spec):
        made.append(torch.empty(0).device.type)
        return build(replace(spec, out_channels=2**14))

    monkeypatch.setattr(bundles, "build", watched)
    with pytest.raises(WeightsError, match=r"layer\.bias \(2,\) where the network has \(16384,\)"):
        load(path)
    assert made == ["meta"]


def test_a_failed_save_leaves_the_older_file(tmp_path, monkeypatch):
    path = saved(tmp_path, tiny_bundle())
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(FileFormatError, match="cannot be written: No space left on device"):
        save(tiny_bundle(seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_readers_of_safetensors_can_read_a_bundle(tmp_path):
    bundle = tiny_bundle()
    assert load_file(saved(tmp_path, bundle)).keys() == bundle.network.state_dict().keys()


def _described(folder, entry):
    text = json.dumps({"__metadata__": {"mambino": json.dumps(entry)}}).encode()
    path = folder / "described.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path
