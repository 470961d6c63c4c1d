"""Work folders with runs that nobody had to train: thresholds as networks, over blobs."""

from pathlib import Path

import torch

from mambino.core.labels import Labels
from mambino.core.options import TrainOptions
from mambino.core.plan import Config, Plan
from mambino.core.provenance import Provenance
from mambino.core.records import write
from mambino.imageio.folders import open_dataset
from mambino.training.runs import Folder, Run
from mambino.weights.bundle import save
from tests.datasets import write_volumes
from tests.tiny import tiny_bundle, tiny_config

LABELS = Labels(names={"bright": (1,), "dark": (2,)})
GOOD, NOISY = 130.0, 109.0
"""Brightness above which a voxel is called bright: between the blob and the rest, or within the noise."""


def config(dim: int) -> Config:
    """Return how slices or volumes of the blobs are seen by the tiny network."""
    if dim == 3:
        return tiny_config(3, classes=3, spacing=(1.5, 1.0, 1.0))
    return tiny_config(2, classes=3, slice_axis=0)


def planned(folder: Path, *, cases: int = 6) -> Path:
    """Write blobs and a plan for them with the configurations 2d-tiny and 3d-tiny; return the work folder."""
    data, work = write_volumes(folder / "blobs", training=cases, test=1), folder / "work"
    work.mkdir()
    plan = Plan(
        dataset="blobs",
        folder=str(data),
        channels=("MRI",),
        labels=LABELS,
        device="cpu",
        default="3d-tiny",
        configs={f"{dim}d-tiny": config(dim) for dim in (2, 3)},
    )
    write(plan, work / "plan.json")
    return work


def trained(work: Path, dim: int, fold: int, *, folds: int = 2, above: float = GOOD, seed: int = 0, **changes) -> Path:
    """Write the run of a fold whose network calls voxels bright above a brightness; return its bundle."""
    held_out = open_dataset(work.parent / "blobs").folds(folds, 0)[fold]
    header = {"labels": LABELS, "channels": ("MRI",)} | changes
    provenance = Provenance(versions={"mambino": "0"}, dataset="blobs", held_out=held_out)
    bundle = tiny_bundle(config(dim), **{"provenance": provenance} | header)
    with torch.no_grad():
        layer = bundle.network.layer
        layer.weight.copy_(torch.tensor([0.0, 1.0, -1.0]).reshape(layer.weight.shape))
        layer.bias.copy_(torch.tensor([0.0, -above, 70.0]))
    run = Run(
        options=TrainOptions(fold=fold, folds=folds, seed=seed),
        name=f"{dim}d-tiny",
        config=config(dim),
        training=(),
        held_out=held_out,
    )
    folder = Folder(work / "runs" / f"{dim}d-tiny-{fold}")
    write(run, folder.options)
    return save(bundle, folder.model)
