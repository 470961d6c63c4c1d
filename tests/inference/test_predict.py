"""Predicting makes one mask an image, on its grid, goes on where it stopped, and leaves alone what is not its own."""

import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.core.plan import NetworkSpec, Normalise
from mambino.core.records import read
from mambino.errors import DataError, FileFormatError, OptionError, WeightsError
from mambino.imageio import read_image
from mambino.inference import predict
from mambino.inference.ledger import Predictions
from tests.tiny import bright_bundle, know, saved, tiny_bundle, tiny_config

AFFINE = np.array([[-1.0, 0, 0, 20], [0, 0, 1.25, -7], [0, 1.5, 0, 3], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


def ball(shape, seed=0):
    centre = np.random.default_rng(seed).uniform(0.3, 0.7, len(shape)) * np.array(shape)
    distance = sum((i - c) ** 2 for i, c in zip(np.indices(shape), centre, strict=True))
    return (distance < (min(shape) / 3) ** 2).astype(np.float32)


def volume(path: Path, seed=0, shape=(11, 13, 9)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(ball(shape, seed), AFFINE), path)
    return path


def picture(path: Path, seed=0, shape=(21, 30)) -> Path:
    Picture.fromarray((ball(shape, seed) * 255).astype(np.uint8)).save(path)
    return path


def statuses(made):
    return {entry.case: entry.status for entry in made.entries}


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path, bright_bundle())


@pytest.fixture
def images(tmp_path):
    for i in range(3):
        volume(tmp_path / "images" / f"case_{i}.nii.gz", i)
    return tmp_path / "images"


def test_a_volume_gets_its_mask_on_its_grid(tmp_path, model):
    image = volume(tmp_path / "scan.nii.gz")
    made = predict(model, image, tmp_path / "out")
    (entry,) = made.entries
    assert (entry.case, entry.status, entry.file) == ("scan", "made", tmp_path / "out" / "scan.nii.gz")
    given, mask = nib.load(image), nib.load(entry.file)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, given.affine)
    for code in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[code] == given.header[code]
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(given.dataobj))


@given(shape=st.tuples(*[st.integers(1, 19)] * 3), mirror=st.booleans(), slices=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mask_has_the_voxels_of_its_image_whatever_its_size(tmp_path, shape, mirror, slices, seed):
    config = tiny_config(3, spacing=(1.25, 1.5, 1.0), orientation="LIA", mirror=(0, 1))
    if slices:
        config = tiny_config(2, spacing=(1.5, 1.0), orientation="RAS", mirror=(1,), slice_axis=1)
    model, image = saved(tmp_path, bright_bundle(config)), volume(tmp_path / "scan.nii.gz", seed, shape)
    made = predict(model, image, tmp_path / "out", PredictOptions(mirror=mirror, overwrite=True))
    mask = nib.load(made.entries[0].file)
    assert mask.shape == shape
    np.testing.assert_array_equal(mask.affine, nib.load(image).affine)


def test_a_picture_gets_a_picture(tmp_path):
    model = saved(tmp_path, bright_bundle(tiny_config(2, normalise=(Normalise(scheme="rgb"),))))
    made = predict(model, picture(tmp_path / "photo.png"), tmp_path / "out")
    assert made.entries[0].file == tmp_path / "out" / "photo.png"
    np.testing.assert_array_equal(read_image(made.entries[0].file).array[0], ball((21, 30)))


def test_a_picture_is_scaled_by_its_own_range_where_the_bundle_says_so(tmp_path):
    model = saved(tmp_path, bright_bundle(tiny_config(2, normalise=(Normalise(scheme="range"),), crop=False)))
    Picture.fromarray((90 + 5 * ball((21, 30))).astype(np.uint8)).save(tmp_path / "faint.png")
    made = predict(model, tmp_path / "faint.png", tmp_path / "out")
    np.testing.assert_array_equal(read_image(made.entries[0].file).array[0], ball((21, 30)))


def test_a_2d_network_goes_over_the_slices_of_a_volume(tmp_path):
    config = tiny_config(2, spacing=(1.0, 1.5), slice_axis=1, orientation="RAS")
    image = volume(tmp_path / "scan.nii.gz")
    made = predict(saved(tmp_path, bright_bundle(config)), image, tmp_path / "out")
    mask = np.asarray(nib.load(made.entries[0].file).dataobj)
    assert (mask == np.asarray(nib.load(image).dataobj)).mean() > 0.97


def test_several_bundles_are_averaged(tmp_path, images):
    models = [saved(tmp_path, tiny_bundle(seed=seed), f"fold{seed}") for seed in range(2)]
    made = predict(models, images, tmp_path / "out")
    assert len(made.bundles) == 2
    assert set(statuses(made).values()) == {"made"}


def test_channel_files_belong_together(tmp_path):
    for i in range(2):
        volume(tmp_path / "images" / f"scan_000{i}.nii.gz", i)
    made = predict(saved(tmp_path, bright_bundle(tiny_config(channels=2))), tmp_path / "images", tmp_path / "out")
    assert statuses(made) == {"scan": "made"}


def test_without_an_output_masks_go_to_predictions_in_the_current_folder(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = predict(str(model), str(volume(tmp_path / "scan.nii.gz")))
    assert made.entries[0].file == Path("predictions/scan.nii.gz")
    assert (tmp_path / "predictions" / "predict.json").exists()


def test_the_record_says_how_each_mask_was_made(tmp_path, model, images):
    made = predict(model, images, tmp_path / "out", PredictOptions(overlap=0.25))
    kept = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert kept["bundles"] == list(made.bundles)
    assert kept["networks"] == list(made.networks) == ["tiny"]
    assert len(kept["bundles"][0]) == 64
    assert kept["options"]["overlap"] == 0.25
    assert {"mambino", "torch", "numpy", "python"} <= kept["versions"].keys()
    first = kept["entries"][0]
    assert (first["case"], first["status"], first["file"]) == ("case_0", "made", "case_0.nii.gz")
    assert first["seconds"] > 0
    assert len(first["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(kept)


def test_probabilities_are_written_beside_the_masks(tmp_path, model):
    image = volume(tmp_path / "scan.nii.gz")
    made = predict(model, image, tmp_path / "out", PredictOptions(probabilities=True))
    scores = np.asarray(nib.load(tmp_path / "out" / "probabilities" / "scan.nii.gz").dataobj)
    assert scores.shape == (11, 13, 9, 2)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores.argmax(-1), np.asarray(nib.load(made.entries[0].file).dataobj))
    (tmp_path / "out" / "probabilities" / "scan.nii.gz").unlink()
    assert statuses(predict(model, image, tmp_path / "out", PredictOptions(probabilities=True))) == {"scan": "made"}


def test_probabilities_of_a_picture_are_an_npz(tmp_path):
    model = saved(tmp_path, bright_bundle(tiny_config(2, normalise=(Normalise(scheme="rgb"),))))
    predict(model, picture(tmp_path / "photo.png"), tmp_path / "out", PredictOptions(probabilities=True))
    with np.load(tmp_path / "out" / "probabilities" / "photo.npz") as scores:
        assert scores["scores"].shape == (2, 21, 30)


def test_what_was_made_is_kept_and_costs_nothing(tmp_path, model, images, monkeypatch):
    predict(model, images, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.nii.gz")}
    monkeypatch.setattr("mambino.inference.case.load", None)
    again = predict(model, images, tmp_path / "out", PredictOptions(device="cpu", threads=1))
    assert set(statuses(again).values()) == {"kept"}
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.nii.gz")}
    assert set(statuses(predict(model, images, tmp_path / "out", PredictOptions(overwrite=True))).values()) == {"kept"}


def test_a_run_that_was_killed_goes_on(tmp_path, model, images):
    class Killed(BaseException):
        pass

    def kill(*step):
        if step[0] == 2:
            raise Killed

    with pytest.raises(Killed):
        predict(model, images, tmp_path / "out", progress=kill)
    made = predict(model, images, tmp_path / "out")
    assert statuses(made) == {"case_0": "kept", "case_1": "kept", "case_2": "made"}


def test_a_run_killed_between_record_and_mask_makes_it_again(tmp_path, model, images, monkeypatch):
    class Killed(BaseException):
        pass

    rename = Path.replace

    def kill(self, target):
        if Path(target).name == "case_1.nii.gz":
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(Killed):
            predict(model, images, tmp_path / "out")
    made = predict(model, images, tmp_path / "out")
    assert statuses(made) == {"case_0": "kept", "case_1": "made", "case_2": "made"}
    assert not [file for file in (tmp_path / "out").iterdir() if file.name.startswith(".part")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("bundle", "was made by another bundle or with other options"),
        ("options", "was made by another bundle or with other options"),
        ("image", "was made from another image of this name"),
        ("mask", "was changed since it was made"),
        ("record", "was not made by mambino"),
    ],
)
def test_a_mask_that_is_not_ours_is_left_alone_unless_it_may_be_overwritten(tmp_path, model, images, change, words):
    predict(model, images, tmp_path / "out")
    mask, options = tmp_path / "out" / "case_1.nii.gz", {}
    match change:
        case "bundle":
            model = saved(tmp_path, tiny_bundle(seed=5), "other")
        case "options":
            options = {"overlap": 0.25}
        case "image":
            volume(images / "case_1.nii.gz", seed=77)
        case "mask":
            mask.write_bytes(b"painted by hand")
        case "record":
            (tmp_path / "out" / "predict.json").unlink()
    content = mask.read_bytes()
    left = predict(model, images, tmp_path / "out", PredictOptions(**options)).entries[1]
    assert left.status == "untouched"
    assert words in left.message
    assert "--overwrite" in left.message
    assert mask.read_bytes() == content
    replaced = predict(model, images, tmp_path / "out", PredictOptions(overwrite=True, **options))
    assert statuses(replaced)["case_1"] == "made"


def test_the_first_bundle_knows_its_masks_again_after_another_has_left_them(tmp_path, model, images):
    predict(model, images, tmp_path / "out")
    predict(saved(tmp_path, tiny_bundle(seed=5), "other"), images, tmp_path / "out")
    assert set(statuses(predict(model, images, tmp_path / "out")).values()) == {"kept"}


def test_a_folder_can_be_filled_image_by_image(tmp_path, model, images):
    for i in range(3):
        made = predict(model, images / f"case_{i}.nii.gz", tmp_path / "out")
        assert statuses(made) == {f"case_{i}": "made"}
    assert len(read(Predictions, tmp_path / "out" / "predict.json").entries) == 3
    assert set(statuses(predict(model, images, tmp_path / "out")).values()) == {"kept"}


def test_a_truncated_image_does_not_stop_the_others(tmp_path, model, images):
    bad = images / "case_1.nii.gz"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    made = predict(model, images, tmp_path / "out")
    assert statuses(made) == {"case_0": "made", "case_1": "failed", "case_2": "made"}
    assert made.failed == ("case_1",)
    assert "case_1.nii.gz is truncated" in made.entries[1].message
    assert not (tmp_path / "out" / "case_1.nii.gz").exists()
    volume(bad, 1)
    assert statuses(predict(model, images, tmp_path / "out")) == {"case_0": "kept", "case_1": "made", "case_2": "kept"}


def test_what_is_not_there_does_not_stop_the_others(tmp_path, model):
    inputs = [volume(tmp_path / "good.nii.gz"), tmp_path / "nope.nii.gz"]
    steps = []
    made = predict(model, inputs, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert statuses(made) == {"good": "made", "nope": "failed"}
    assert made.failed == ("nope",)
    assert "nope.nii.gz cannot be read: No such file" in made.entries[1].message
    assert read(Predictions, tmp_path / "out" / "predict.json").failed == ("nope",)
    assert steps == [(1, 2, "good"), (2, 2, "")]
    volume(inputs[1], 1)
    assert statuses(predict(model, inputs, tmp_path / "out")) == {"good": "kept", "nope": "made"}


def test_a_case_with_another_number_of_channel_files_does_not_stop_the_others(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000"):
        volume(tmp_path / "images" / f"{name}.nii.gz")
    made = predict(saved(tmp_path, bright_bundle(tiny_config(channels=2))), tmp_path / "images", tmp_path / "out")
    assert statuses(made) == {"a": "made", "b": "failed"}
    assert "case b has 1 channel files (b_0000.nii.gz), 2 are needed, one for each channel" in made.entries[1].message
    assert "numbered _0000 to _0001" in made.entries[1].message


def test_a_failure_takes_the_time_that_it_took(tmp_path, model, images, monkeypatch):
    def slow(*_):
        time.sleep(0.05)
        raise DataError("too dark")

    predict(model, images / "case_0.nii.gz", tmp_path / "out")
    volume(images / "case_0.nii.gz", seed=9)
    (tmp_path / "out" / "case_0.nii.gz").unlink()
    monkeypatch.setattr("mambino.inference.case.prepare", slow)
    made = predict(model, images, tmp_path / "out")
    assert made.failed == ("case_0", "case_1", "case_2")
    assert all(0.05 <= entry.seconds < 5 for entry in made.entries)
    kept = read(Predictions, tmp_path / "out" / "predict.json").entries
    assert [entry.seconds for entry in kept] == [entry.seconds for entry in made.entries]


def test_colour_given_to_a_grey_network_is_named_with_both_numbers(tmp_path):
    Picture.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    made = predict(saved(tmp_path, bright_bundle(tiny_config(2))), tmp_path / "photo.png", tmp_path / "out")
    assert made.failed == ("photo",)
    words = "photo.png has 3 channels instead of 1, the number that the bundle takes (channel 0) (give images with the"
    assert words in made.entries[0].message


def test_a_picture_given_to_a_network_of_volumes_is_named(tmp_path, model):
    made = predict(model, picture(tmp_path / "photo.png"), tmp_path / "out")
    assert "the image has 2 axes (21, 30), the configuration takes images with 3" in made.entries[0].message


def test_progress_counts_to_the_end(tmp_path, model, images):
    seen = []
    predict(model, images, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert seen == [(0, 3, "case_0"), (1, 3, "case_1"), (2, 3, "case_2"), (3, 3, "")]


def test_the_number_of_threads_is_lent(tmp_path, model):
    before = torch.get_num_threads()
    seen = []
    image = volume(tmp_path / "scan.nii.gz")
    options = PredictOptions(threads=1)
    predict(model, image, tmp_path / "out", options, progress=lambda *_: seen.append(torch.get_num_threads()))
    assert seen[0] == 1
    assert torch.get_num_threads() == before


def test_an_empty_folder_is_refused(tmp_path, model):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        predict(model, tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_image_is_named(tmp_path, model):
    with pytest.raises(FileFormatError, match=r"nowhere\.nii\.gz"):
        predict(model, tmp_path / "nowhere.nii.gz", tmp_path / "out")


def test_an_unreadable_bundle_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"model.safetensors is not a bundle"):
        predict(tmp_path / "model.safetensors", volume(tmp_path / "scan.nii.gz"), tmp_path / "out")


def test_an_option_out_of_range_is_refused(tmp_path, model):
    with pytest.raises(OptionError, match=r"--overlap 1.5"):
        predict(model, volume(tmp_path / "scan.nii.gz"), tmp_path / "out", PredictOptions(overlap=1.5))


def test_an_output_that_is_a_file_is_refused(tmp_path, model):
    with pytest.raises(OptionError, match=r"the output must be a folder, got the file name .*mask.nii.gz"):
        predict(model, volume(tmp_path / "scan.nii.gz"), tmp_path / "mask.nii.gz")


def test_an_image_is_never_replaced_by_its_mask(tmp_path, model):
    image = volume(tmp_path / "scan.nii.gz")
    content = image.read_bytes()
    with pytest.raises(OptionError, match=r"scan.nii.gz would replace its own image"):
        predict(model, image, tmp_path, PredictOptions(overwrite=True))
    assert image.read_bytes() == content


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_network_runs(tmp_path, model, monkeypatch):
    monkeypatch.setattr("mambino.inference.case.load", None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileFormatError, match=r"predict.json cannot be written"):
        predict(model, volume(tmp_path / "scan.nii.gz"), tmp_path / "file" / "out")


def test_a_read_only_folder_is_refused_before_the_network_runs(tmp_path, model, monkeypatch):
    image = volume(tmp_path / "scan.nii.gz")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mambino.inference.case.load", None)
    monkeypatch.setattr("tempfile.mkstemp", refuse)  # the superuser, who may run this, may write anywhere
    with pytest.raises(FileFormatError, match=r"predict.json cannot be written: Permission denied"):
        predict(model, image, tmp_path / "out")


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(tmp_path, model, images, monkeypatch):
    rename = Path.replace

    def full(self, target):
        if Path(target).name == "case_1.nii.gz":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FileFormatError, match=r"case_1.nii.gz cannot be written: No space left"):
        predict(model, images, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["case_0.nii.gz", "predict.json"]


def test_a_damaged_record_is_refused(tmp_path, model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predict.json").write_text('{"format": "one"}')
    with pytest.raises(FileFormatError, match=r"predict.json is not a valid predictions: ") as caught:
        predict(model, volume(tmp_path / "scan.nii.gz"), tmp_path / "out")
    assert "choose another output folder" in caught.value.hint


@pytest.mark.parametrize("kind", ["volume", "slices", "picture"])
def test_a_real_network_goes_the_whole_way(tmp_path, kind):
    dim = 3 if kind == "volume" else 2
    options = {
        "features": (4, 8),
        "kernels": ((3,) * dim,) * 2,
        "strides": ((1,) * dim, (2,) * dim),
        "convs": (1, 1),
        "decoder_convs": (1,),
    }
    config = tiny_config(
        dim,
        normalise=(Normalise(scheme="zscore"),),
        spacing=(1.2,) * dim if kind != "picture" else (1.0, 1.0),
        slice_axis=2 if kind == "slices" else None,
        orientation=None if kind == "picture" else "LPS",
        mirror=(0, 1),
        crop=True,
        network=NetworkSpec(name="unet", dim=dim, in_channels=1, out_channels=3, options=options),
    )
    labels = Labels(names={"left": (1,), "right": (2,)})
    model = saved(tmp_path, tiny_bundle(config, labels=labels))
    image = picture(tmp_path / "scan.png") if kind == "picture" else volume(tmp_path / "scan.nii.gz")
    made = predict(model, image, tmp_path / "out", PredictOptions(mirror=True, probabilities=True))
    assert statuses(made) == {"scan": "made"}, made.entries[0].message
    given, mask = read_image(image), read_image(made.entries[0].file)
    assert mask.grid.close_to(given.grid)
    assert set(np.unique(mask.array)) <= {0, 1, 2}
