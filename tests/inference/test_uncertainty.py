"""Entropy and mutual information obey their laws, the expected Dice is what it says, and masks stay as they were."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.cli.app import dispatch
from mambino.core.calibration import Calibration
from mambino.core.grid import Grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.core.records import read
from mambino.inference import predict
from mambino.inference.ledger import Predictions
from mambino.inference.uncertainty import doubt, maps
from mambino.weights.bundle import load as load_bundle
from mambino.weights.bundle import save as save_bundle
from tests.tiny import know, saved, tiny_bundle, tiny_config


def organs(count):
    return Labels(names={f"organ {i}": (i,) for i in range(1, count + 1)})


REGIONS = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))


def shares(classes, seed, members=1, shape=(4, 5)):
    logits = np.random.default_rng(seed).normal(0, 3, (members, classes, *shape))
    powers = np.exp(logits)
    return [*(powers / powers.sum(1, keepdims=True)).astype(np.float32)]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_entropy_is_0_where_one_class_is_certain_and_log_k_where_all_are_equal(classes):
    certain = np.zeros((classes, 2, 3), np.float32)
    certain[1] = 1
    equal = np.full((classes, 2, 3), 1 / classes, np.float32)
    assert (maps([certain], organs(classes - 1)).entropy == 0).all()
    np.testing.assert_allclose(maps([equal], organs(classes - 1)).entropy, np.log(classes), rtol=1e-6)


def test_each_region_is_a_yes_or_no_of_its_own():
    array = np.array([[[0.5, 1.0, 0.0]], [[0.5, 0.0, 0.0]]], np.float32)
    np.testing.assert_allclose(maps([array], REGIONS).entropy, [[2 * np.log(2), 0, 0]], rtol=1e-6)


@given(classes=st.integers(2, 5), count=st.integers(2, 4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_mutual_information_lies_between_0_and_the_entropy(classes, count, seed):
    found = maps(shares(classes, seed, count), organs(classes - 1))
    assert found.mutual_information is not None
    assert (found.mutual_information >= 0).all()
    assert found.mutual_information.max() > 0.01
    assert (found.mutual_information <= found.entropy + 1e-6).all()


def test_members_that_agree_share_no_information_and_one_member_has_none():
    (one,) = shares(3, 0)
    np.testing.assert_allclose(maps([one, one, one], organs(2)).mutual_information, 0, atol=1e-6)
    assert maps([one], organs(2)).mutual_information is None


def test_members_that_are_certain_and_contradict_share_everything():
    yes = np.array([[[0.0]], [[1.0]]], np.float32)
    found = maps([yes, 1 - yes], organs(1))
    np.testing.assert_allclose([found.entropy, found.mutual_information], np.log(2), rtol=1e-6)


def test_the_expected_dice_is_that_of_masks_drawn_from_the_probabilities():
    draws = np.random.default_rng(0)
    inside = draws.uniform(0.05, 0.95, (60, 60)).astype(np.float32)
    mask = (inside > 0.5).astype(np.uint8)
    segmentation = Segmentation(mask, Grid(mask.shape, np.eye(3)), organs(1))
    found = doubt(maps([np.stack([1 - inside, inside])], organs(1)), segmentation).expected_dice
    truths = draws.random((200, *mask.shape)) < inside
    drawn = 2 * (truths & (mask > 0)).sum((1, 2)) / (truths.sum((1, 2)) + mask.sum())
    assert found == pytest.approx(drawn.mean(), abs=2e-3)


def test_doubt_of_an_empty_mask_is_that_of_the_whole_image():
    probabilities = np.full((2, 3, 3), 0.5, np.float32)
    empty = Segmentation(np.zeros((3, 3), np.uint8), Grid((3, 3), np.eye(3)), organs(1))
    found = doubt(maps([probabilities], organs(1)), empty)
    assert found.entropy == pytest.approx(np.log(2), abs=1e-6)
    assert (found.mutual_information, found.expected_dice) == (None, None)


def calibration(threshold, margin):
    return Calibration(
        cases=20, nll_before=1, nll_after=1, dice=0.8, expected_dice=0.8, threshold=threshold, margin=margin
    )


@pytest.mark.parametrize(
    ("learnt", "trusted", "at_least"),
    [
        ([], None, None),
        ([None], None, None),
        ([calibration(None, None)], None, None),
        ([calibration(0.5, 0.1)], True, 1.6 / 1.8 - 0.1),
        ([calibration(0.9, 0.1)], False, 1.6 / 1.8 - 0.1),
        ([calibration(0.5, 0.1), calibration(0.9, 0.2)], False, 1.6 / 1.8 - 0.2),  # the strictest of an ensemble
        ([calibration(0.5, 0.1), None], None, None),
    ],
)
def test_a_case_is_trusted_as_held_out_cases_have_taught(learnt, trusted, at_least):
    sure = np.zeros((2, 4, 4), np.float32)
    sure[1, :2] = 0.8
    sure[0] = 1 - sure[1]
    mask = (sure[1] > 0.5).astype(np.uint8)  # 2 * 0.8 / (0.8 + 1) is expected
    found = doubt(maps([sure], organs(1)), Segmentation(mask, Grid(mask.shape, np.eye(3)), organs(1)), learnt)
    assert found.expected_dice == pytest.approx(1.6 / 1.8, abs=1e-6)
    assert found.trusted is trusted
    assert found.dice_at_least == (None if at_least is None else pytest.approx(at_least, abs=1e-5))


def test_where_nothing_is_found_there_is_nothing_to_trust():
    probabilities = np.full((2, 3, 3), 0.5, np.float32)
    empty = Segmentation(np.zeros((3, 3), np.uint8), Grid((3, 3), np.eye(3)), organs(1))
    found = doubt(maps([probabilities], organs(1)), empty, [calibration(0.5, 0.1)])
    assert (found.trusted, found.dice_at_least) == (False, None)


@pytest.fixture
def case(tmp_path, monkeypatch):
    know(monkeypatch)
    config = tiny_config(classes=3, mirror=(0, 1, 2))
    models = [saved(tmp_path, tiny_bundle(config, seed), f"fold{seed}") for seed in (0, 1)]
    image = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(0, 3, (9, 11, 10)).astype(np.float32), np.eye(4)), image)
    return models, image


def load(path):
    return np.asarray(nib.load(path).dataobj)


def test_asking_how_sure_changes_no_mask_and_maps_follow_from_probabilities(case, tmp_path):
    models, image = case
    plain = predict(models, image, tmp_path / "plain").entries[0]
    options = PredictOptions(uncertainty=True, probabilities=True)
    asked = predict(models, image, tmp_path / "asked", options).entries[0]
    np.testing.assert_array_equal(load(plain.file), load(asked.file))
    members = [predict(m, image, tmp_path / m.stem, PredictOptions(probabilities=True)).entries[0] for m in models]
    shares = [np.moveaxis(load(e.file.parent / "probabilities" / e.file.name), -1, 0) for e in members]
    expected = maps(shares, organs(2))
    for kind in ("entropy", "mutual_information"):
        found = np.squeeze(load(tmp_path / "asked" / kind / "scan.nii.gz"))
        np.testing.assert_allclose(found, getattr(expected, kind), atol=1e-4)
    assert plain.doubt is None
    recorded = read(Predictions, tmp_path / "asked" / "predict.json").entries[0].doubt
    assert recorded == asked.doubt
    assert recorded.mutual_information > 0


def test_mirrored_copies_are_members_of_one_bundle(case, tmp_path):
    (model, _), image = case
    plain = predict(model, image, tmp_path / "plain", PredictOptions(mirror=True)).entries[0]
    asked = predict(model, image, tmp_path / "asked", PredictOptions(mirror=True, uncertainty=True)).entries[0]
    np.testing.assert_array_equal(load(plain.file), load(asked.file))
    # The network sees one voxel at a time, so that mirroring changes nothing and copies agree.
    assert asked.doubt.mutual_information == pytest.approx(0, abs=1e-5)
    assert asked.doubt.entropy > 0.01


def test_maps_that_are_gone_are_made_again(case, tmp_path):
    (model, _), image = case
    options = PredictOptions(uncertainty=True)
    assert [predict(model, image, tmp_path / "o", options).entries[0].status for _ in "12"] == ["made", "kept"]
    (tmp_path / "o" / "entropy" / "scan.nii.gz").unlink()
    assert predict(model, image, tmp_path / "o", options).entries[0].status == "made"
    assert not (tmp_path / "o" / "mutual_information").exists()


def test_a_case_that_is_not_to_be_trusted_is_named(case, tmp_path, capsys):
    (model, _), image = case
    bundle = load_bundle(model)
    for name, threshold in (("strict", 2.0), ("mild", 0.0)):
        save_bundle(replace(bundle, calibration=calibration(threshold, 0.1)), tmp_path / f"{name}.safetensors")
    for name, words in (("strict", "do not trust: scan (less sure than nine in ten held-out cases)"), ("mild", "")):
        dispatch(["predict", str(tmp_path / f"{name}.safetensors"), str(image), "-o", str(tmp_path / name),
                  "--uncertainty"])  # fmt: skip
        said = " ".join(capsys.readouterr().err.split())
        assert words in said
        assert ("do not trust" in said) is bool(words)
