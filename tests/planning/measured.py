"""Fingerprints, data sets and prices made up for tests of planning."""

import json
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image

from mambino.core.dataset import Case, Dataset
from mambino.core.fingerprint import CaseFacts, Fingerprint, Intensity
from mambino.core.labels import Labels
from mambino.planning.timing import Cost

ONE = Labels(names={"organ": (1,)})
SIDES = Labels(names={"left_lung": (1,), "right_lung": (2,)})


def facts(number=0, *, shape=(36, 50, 35), cropped=None, spacing=(1.0, 1.0, 1.0), centres=None):
    """Return the facts of one case."""
    return CaseFacts(
        id=f"case{number}",
        shape=shape,
        cropped=cropped or shape,
        spacing=spacing,
        orientation="LPS" if len(shape) == 3 else "",
        counts={"0": 90, "1": 10},
        centres=centres or {},
    )


def fingerprint(cases, *, channels=1):
    """Return the fingerprint of cases."""
    volumes = len(cases[0].shape) == 3
    intensity = Intensity(
        mean=40.0, std=20.0, minimum=-900.0, maximum=2000.0, median=42.0, percentile_00_5=-100.0, percentile_99_5=300.0
    )
    return Fingerprint(
        source="",
        cases=tuple(cases),
        intensities=(intensity,) * channels,
        unit="mm" if volumes else "pixel",
        orientation="RAS" if volumes else None,
    )


def dataset(found, labels=ONE, channels=("MRI",)):
    """Return a data set without files, to go with a fingerprint."""
    cases = tuple(Case(id=case.id, images=(Path(f"{case.id}.png"),)) for case in found.cases)
    return Dataset(name="made_up", folder=Path("made_up"), channels=channels, labels=labels, training=cases)


def price(seconds=1e-6, memory=1000.0, parameters=100_000):
    """Return a clock by which every network costs the same for each feature of its first stage."""

    def cost(spec, patch):
        del patch
        width = spec.options.get("width") or spec.options["features"][0]
        return Cost(None if seconds is None else seconds * width, memory * width, parameters)

    return cost


def write_volumes(folder, count=3, shape=(12, 14, 10), affine=None, labels=None, channel="MRI"):
    """Write volumes in nnU-Net's layout, axes as in the file (fastest first); the mask is a box in each."""
    write_description(folder, labels or {"background": 0, "organ": 1}, channel, ".nii.gz")
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[2:6, 3:9, 2:7] = 1
        image = (rng.normal(100, 10, shape) + 50 * mask).astype(np.float32)
        for part, array in (("imagesTr", image), ("labelsTr", mask)):
            name = f"case{number}" + ("_0000" if part == "imagesTr" else "") + ".nii.gz"
            (folder / part).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), folder / part / name)
    return folder


def write_pictures(folder, count=4, shape=(40, 48)):
    """Write grey pictures in nnU-Net's layout."""
    write_description(folder, {"background": 0, "organ": 1}, "grey", ".png")
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[10:20, 12:30] = 1
        image = rng.integers(1, 200, shape).astype(np.uint8)
        for part, name, array in (("imagesTr", "_0000", image), ("labelsTr", "", mask)):
            (folder / part).mkdir(exist_ok=True)
            PIL.Image.fromarray(array).save(folder / part / f"case{number}{name}.png")
    return folder


def write_description(folder, labels, channel, ending):
    """Write dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {"channel_names": {"0": channel}, "labels": labels, "numTraining": 1, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(description))
