"""The shared data sets are clean but for what docs/check.md explains, and a fault planted in a copy is found."""

import shutil

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from mambino.core.options import CheckOptions
from mambino.inspection import check
from tests.inspection.planting import change, draw, found, kinds, repaired, subset
from tests.places import DATA, ROOT, needs_shared

EXPLAINED = {"hippocampus": {"float mask"}, "brain_lgg_2d": {"empty mask"}}
SETS = (
    *("hippocampus", "cxr_lungs", "skin_ph2", "polyp_clinicdb", "nuclei_dsb2018", "em_isbi2012"),
    *("ct_headneck", "cardiac_acdc", "brain_lgg_2d", "brain_lgg_3d"),
)


@needs_shared
@pytest.mark.parametrize("name", SETS)
def test_part_of_each_clean_set_gives_what_the_docs_explain(name, tmp_path):
    findings = found(subset(DATA / name, tmp_path / name, 9, 3))
    assert kinds(findings) <= EXPLAINED.get(name, set())


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_the_whole_of_each_clean_set_gives_what_the_docs_explain(name):
    findings = check(DATA / name, CheckOptions(workers=2))
    assert kinds(findings) == EXPLAINED.get(name, set())
    assert findings.errors == findings.warnings == 0


@needs_shared
def test_faults_planted_in_real_volumes_are_found_and_repaired(tmp_path):
    folder = subset(DATA / "hippocampus", tmp_path / "set", 12, 4)
    masks, images = (sorted((folder / part).iterdir()) for part in ("labelsTr", "imagesTr"))
    tests = sorted((folder / "imagesTs").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:3000])
    masks[1].unlink()
    change(masks[2], lambda a: a[:-3])
    volume = nib.load(masks[3])
    array, affine = np.asarray(volume.dataobj), volume.affine @ np.diag([2.0, 1.0, 1.0, 1.0])
    masks[3].unlink()
    nib.save(nib.Nifti1Image(array, affine), masks[3])
    change(masks[4], lambda a: a * 3)
    change(masks[5], lambda a: a * 0.5, np.float32)
    change(images[6], lambda a: np.where(a > np.percentile(a, 99), np.nan, a), np.float32)
    change(images[7], lambda a: a * 0)
    shutil.copyfile(images[8], images[9])
    shutil.copyfile(tests[0], images[10])
    expected = {
        *("unreadable file", "missing partner", "mask shape", "mask affine", "undeclared label", "fractional mask"),
        *("not finite", "constant image", "duplicate image", "train and test"),
    }
    assert expected <= kinds(found(folder))
    repaired(folder, tmp_path / "copy")
    again = found(tmp_path / "copy")
    assert again.errors == 0
    assert kinds(again) <= {"constant image", "float mask"}


@needs_shared
def test_faults_planted_in_real_pictures_are_found_and_repaired(tmp_path):
    folder = subset(DATA / "skin_ph2", tmp_path / "set", 8, 2)
    masks = sorted((folder / "labelsTr").iterdir())
    change(masks[0], lambda a: a * 255)
    change(masks[1], lambda a: np.stack([a * 255, a * 0, a * 0], -1))
    change(masks[2], lambda a: a * 255)
    PIL.Image.open(masks[2]).save(tmp_path / "noisy.jpg", quality=60)
    draw(masks[2], np.array(PIL.Image.open(tmp_path / "noisy.jpg")))
    change(masks[3], lambda a: a * 0)
    change(masks[4], lambda a: a + 1)
    change(masks[5], lambda a: a[:-5])
    expected = {"0/255 mask", "colour mask", "noisy mask", "empty mask", "undeclared label", "mask shape"}
    assert kinds(found(folder)) == expected
    repaired(folder, tmp_path / "copy")
    assert kinds(found(tmp_path / "copy")) == {"empty mask"}


def test_the_docs_explain_every_kind():
    from typing import get_args

    from mambino.core.findings import Kind

    text = (ROOT / "docs" / "check.md").read_text()
    assert [kind for kind in get_args(Kind) if f"### {kind}\n" not in text] == []
