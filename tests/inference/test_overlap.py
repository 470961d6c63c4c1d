"""What is read ahead and written behind changes nothing but when things happen."""

import threading

import nibabel
import numpy as np
import pytest

from mambino import inference
from mambino.core.options import PredictOptions
from mambino.core.records import read
from mambino.errors import FileFormatError
from mambino.inference import case as cases
from mambino.inference import predict
from mambino.inference.ledger import Predictions
from mambino.inference.memory import COPIES, PACKED, Allowance, taken
from mambino.inference.overlap import read_ahead, writer
from tests.tiny import bright_bundle, know, saved, tiny_config


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


def test_the_next_item_is_read_while_the_caller_works_on_this_one():
    begun = {name: threading.Event() for name in "abc"}

    def load(name):
        begun[name].set()
        return name.upper()

    seen = []
    for name, found in read_ahead("abc", load, lambda _: True):
        following = chr(ord(name) + 1)
        assert following not in begun or begun[following].wait(10)
        seen.append((name, found))
    assert seen == [("a", "A"), ("b", "B"), ("c", "C")]


def test_items_that_may_not_be_beside_others_are_read_when_their_turn_comes():
    begun = []
    for name, _ in read_ahead("abLcd", begun.append, lambda name: name != "L"):
        if name in "bL":  # neither L beside b, nor c beside L
            assert begun[-1] == name
    assert begun == list("abLcd")


def test_what_reading_raises_is_raised_in_its_turn():
    def load(number):
        return 1 // number

    found = read_ahead([1, 0, 1], load, lambda _: True)
    assert next(found) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_writer_works_in_order_and_has_done_all_at_the_end():
    done = []
    with writer() as write:
        for number in range(20):
            (write.later if number % 3 else write.now)(lambda number=number: done.append(number))
    assert done == list(range(20))


def test_what_writing_raises_comes_with_the_next_thing_to_write():
    def full():
        raise OSError("full")

    done = []

    def told():
        with writer() as write:
            write.later(full)
            write.later(lambda: done.append(1))

    with pytest.raises(OSError, match="full"):
        told()
    assert done == []


def volumes(folder, count=4):
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        voxels = random.random((12, 10 + number, 9)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"case_{number}.nii.gz")
    return folder


def test_a_case_is_read_while_another_one_goes_through_the_network(tmp_path, monkeypatch):
    reading, original = threading.Event(), cases.read_input

    def noted(case, *given, **named):
        if case.id == "case_1":
            reading.set()
        return original(case, *given, **named)

    def waits(*given):
        assert reading.wait(10)  # case 0 would wait for ever if case 1 were read after it
        return inner(*given)

    inner = cases.logits
    monkeypatch.setattr(cases, "read_input", noted)
    monkeypatch.setattr(cases, "logits", waits)
    made = predict(saved(tmp_path, bright_bundle()), volumes(tmp_path / "images"), tmp_path / "out")
    assert [entry.status for entry in made.entries] == ["made"] * 4


def test_alone_or_beside_others_a_case_gets_the_same_mask(tmp_path, monkeypatch):
    model, images = saved(tmp_path, bright_bundle()), volumes(tmp_path / "images")
    predict(model, images, tmp_path / "beside")
    monkeypatch.setattr(cases.Desk, "is_small", lambda *_: False)
    alone = predict(model, images, tmp_path / "alone")
    for entry in alone.entries:
        one, two = (nibabel.load(tmp_path / folder / entry.file.name) for folder in ("beside", "alone"))
        assert np.array_equal(one.dataobj, two.dataobj)
        assert len(np.unique(one.dataobj)) == 2
        assert entry.voxels == np.prod(one.shape)
        assert entry.precision == "float32"


def test_a_full_disk_ends_the_run_and_masks_before_it_are_on_record(tmp_path, monkeypatch):
    original = inference.write_result

    def full(part, mask, *given):
        if mask.name == "case_2.nii.gz":
            raise FileFormatError("the disk is full")
        return original(part, mask, *given)

    monkeypatch.setattr(inference, "write_result", full)
    with pytest.raises(FileFormatError, match="the disk is full"):
        predict(saved(tmp_path, bright_bundle()), volumes(tmp_path / "images"), tmp_path / "out")
    kept = read(Predictions, tmp_path / "out" / "predict.json").entries
    assert [entry.case for entry in kept if entry.status == "made"] == ["case_0", "case_1"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["case_0.nii.gz", "case_1.nii.gz"]


def test_probabilities_are_never_held_beside_another_case(tmp_path, monkeypatch):
    found, original = [], cases.Desk.is_small
    monkeypatch.setattr(cases.Desk, "is_small", lambda *given: found.append(original(*given)) or found[-1])
    model, images = saved(tmp_path, bright_bundle(tiny_config())), volumes(tmp_path / "i")
    predict(model, images, tmp_path / "o", PredictOptions(probabilities=True))
    assert found == [False] * 4
    predict(model, images, tmp_path / "p")
    assert found[4:] == [True] * 4


def test_what_is_beside_a_case_is_kept_free_for_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cases, "allowance", lambda _: Allowance(1e9))
    monkeypatch.setattr(cases, "parts_of", lambda *given: seen.append(given[2].bytes) or [])
    model, images = saved(tmp_path, bright_bundle()), volumes(tmp_path / "i")
    predict(model, images, tmp_path / "all")
    predict(model, images / "case_3.nii.gz", tmp_path / "one")
    largest = 12 * 13 * 9 * (4 + COPIES)
    assert seen == [1e9 - 2 * largest] * 4 + [1e9]


def test_a_file_whose_header_is_not_read_counts_by_its_bytes(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "a.dcm").write_bytes(bytes(100))
    (tmp_path / "b.png").write_bytes(bytes(10))
    assert taken((tmp_path / "series", tmp_path / "b.png")) == PACKED * 110
