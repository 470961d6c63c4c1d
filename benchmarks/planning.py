"""Compare plans with those of nnU-Net, for the same data sets and the same memory.

    python benchmarks/planning.py DATA PLANS

DATA holds the data sets, one folder each, in nnU-Net's raw layout. PLANS holds nnU-Net's plan of each as
`<name>.json`. They were made once by nnU-Net 2.8.1 in an environment of its own, so that this script needs no nnU-Net:

    ln -s DATA/<name> raw/Dataset00X_<name>
    export nnUNet_raw=raw nnUNet_preprocessed=pp nnUNet_results=res
    nnUNetv2_extract_fingerprint -d X -np 1
    nnUNetv2_plan_experiment -d X                  # its default: a GPU of 8 GB
    cp pp/Dataset00X_<name>/nnUNetPlans.json PLANS/<name>.json

nnU-Net sees voxels as stored, with the coarsest axis moved to the front; this package turns volumes to RAS. The
same axes are therefore compared in whichever order matches best.
"""

import argparse
import itertools
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambino.core.options import PlanOptions
from mambino.core.plan import Config, Plan
from mambino.planning import plan

GPU = PlanOptions(device="cuda", memory=8.0)
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RGBTo01Normalization": "rgb",
    "NoNormalization": "none",
}


@dataclass(frozen=True)
class Axis:
    """What a plan says of one axis."""

    spacing: float
    patch: int
    strides: tuple[int, ...]
    kernels: tuple[int, ...]

    @property
    def step(self) -> int:
        return math.prod(self.strides)


@dataclass(frozen=True)
class Side:
    """One planner's configuration."""

    axes: tuple[Axis, ...]
    batch: int
    schemes: tuple[str, ...]
    features: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """Both planners on one data set and dimension, their axes in matching order."""

    name: str
    ours: Side
    theirs: Side

    @property
    def same(self) -> dict[str, bool]:
        """What agrees; the patch when it differs by one step at most along each axis."""
        pairs = list(zip(self.ours.axes, self.theirs.axes, strict=True))
        return {
            "spacing": all(math.isclose(a.spacing, b.spacing, rel_tol=1e-3) for a, b in pairs),
            "intensity": self.ours.schemes == self.theirs.schemes,
            "stages": len(self.ours.features) == len(self.theirs.features)
            and self.ours.features == self.theirs.features,
            "strides": all((a.strides, a.kernels) == (b.strides, b.kernels) for a, b in pairs),
            "patch": all(abs(a.patch - b.patch) <= max(a.step, b.step) for a, b in pairs),
        }


def rows(data: Path, plans: Path) -> Iterator[Row]:
    """Plan every data set that has a plan of nnU-Net and yield both."""
    for path in sorted(plans.glob("*.json")):
        theirs = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            ours = plan(data / path.stem, Path(folder), GPU)
        for dim, name in ((3, "3d_fullres"), (2, "2d")):
            if f"{dim}d-unet" in ours.configs or name in theirs["configurations"]:
                yield matched(
                    f"{path.stem} {dim}d", side(ours, f"{dim}d-unet"), their_side(theirs["configurations"][name])
                )


def side(ours: Plan, name: str) -> Side:
    """Read one of our configurations."""
    config = ours.config(name)
    return Side(
        axes=tuple(_axes(config)), batch=config.batch, schemes=_schemes(config), features=_tuple(config, "features")
    )


def their_side(config: dict[str, Any]) -> Side:
    """Read one of nnU-Net's configurations."""
    network = config["architecture"]["arch_kwargs"]
    strides, kernels = zip(*network["strides"], strict=True), zip(*network["kernel_sizes"], strict=True)
    axes = zip(config["spacing"], config["patch_size"], strides, kernels, strict=True)
    inside = config["use_mask_for_norm"]
    schemes = [SCHEMES[s] + "*" * bool(m) for s, m in zip(config["normalization_schemes"], inside, strict=True)]
    return Side(
        tuple(Axis(*axis) for axis in axes), config["batch_size"], tuple(schemes), tuple(network["features_per_stage"])
    )


def matched(name: str, ours: Side, theirs: Side) -> Row:
    """Order our axes such that they differ least from theirs."""

    def distance(axes: Sequence[Axis]) -> float:
        pairs = zip(axes, theirs.axes, strict=True)
        return sum(abs(math.log(a.spacing / b.spacing)) * 1e6 + abs(a.patch - b.patch) for a, b in pairs)

    best = min(itertools.permutations(ours.axes), key=distance)
    return Row(name, Side(tuple(best), ours.batch, ours.schemes, ours.features), theirs)


HEADINGS = ("data set", "spacing", "intensity", "stages", "strides", "patch", "theirs", "batch", "theirs", "differs in")


def table(found: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield f"| {' | '.join(HEADINGS)} |"
    yield "|---" * len(HEADINGS) + "|"
    for row in found:
        cells = (
            row.name,
            " x ".join(f"{axis.spacing:.4g}" for axis in row.ours.axes),
            ", ".join(dict.fromkeys(row.ours.schemes)),
            len(row.ours.features),
            " x ".join(str(axis.step) for axis in row.ours.axes),
            _sizes(row.ours),
            _sizes(row.theirs),
            row.ours.batch,
            row.theirs.batch,
            ", ".join(name for name, same in row.same.items() if not same) or "nothing",
        )
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def _sizes(side: Side) -> str:
    return " x ".join(str(axis.patch) for axis in side.axes)


def _axes(config: Config) -> Iterator[Axis]:
    strides, kernels = zip(*_tuple(config, "strides"), strict=True), zip(*_tuple(config, "kernels"), strict=True)
    for axis in zip(config.spacing, config.patch, strides, kernels, strict=True):
        yield Axis(*axis)


def _schemes(config: Config) -> tuple[str, ...]:
    return tuple(channel.scheme + "*" * channel.inside for channel in config.normalise)


def _tuple(config: Config, option: str) -> Any:
    return config.network.options[option]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("plans", type=Path)
    arguments = parser.parse_args()
    for line in table(list(rows(arguments.data, arguments.plans))):
        print(line)


if __name__ == "__main__":
    main()
