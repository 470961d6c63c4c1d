"""From the logits of a network to a mask file: seconds and memory, beside nnU-Net's export of the same logits.

    python benchmarks/export.py --peer PYTHON [--json FILE] [--size 400x512x512] [--classes 5 25] [--folder DIR]

PYTHON is an interpreter that has nnunetv2. Both start from one file of float32 logits at the spacing of the network,
four fifths of the size along each axis, and end with a compressed NIfTI mask. nnU-Net gets the logits as an array, as
its predictor hands them on, and reading them is not timed; here they are read slab by slab, as the network makes them,
and that is timed. The peak is that of the whole process, logits included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SPACING, FACTOR, ROWS = (1.0, 0.8, 0.8), 0.8, 16


def main() -> None:
    """Measure each number of classes with each contender, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="interpreter with nnunetv2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", default="400x512x512")
    parser.add_argument("--classes", type=int, nargs="+", default=[5, 25])
    parser.add_argument("--folder", type=Path, help="on a disk with room for the logits")
    parser.add_argument(
        "--measure", nargs=4, metavar=("CONTENDER", "SIZE", "CLASSES", "FOLDER"), help=argparse.SUPPRESS
    )
    parser.add_argument("--make", nargs=3, metavar=("SIZE", "CLASSES", "FOLDER"), help=argparse.SUPPRESS)
    given = sys.argv[1:]
    if given[:1] == ["--measure"]:
        contender, size, classes, folder = given[1:]
        measure({"mambino": ours, "nnunetv2": theirs}[contender], sides(size), int(classes), Path(folder))
        return
    if given[:1] == ["--make"]:
        make(sides(given[1]), int(given[2]), Path(given[3]))
        return
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    print("| volume | classes | contender | s | CPU s | peak MB | times mambino | voxels that differ |")
    print("|---|---|---|---|---|---|---|---|")
    rows = [row for classes in options.classes for row in compared(options, classes)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def compared(options: argparse.Namespace, classes: int) -> list[dict[str, object]]:
    """Measure both contenders on one file of logits, each in a process of its own."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        common = [options.size, str(classes), name]
        # In a process of its own: on Linux the peak memory of a process counts that of the one it came from.
        subprocess.run([sys.executable, __file__, "--make", *common], check=True)
        for contender, python in (("mambino", sys.executable), ("nnunetv2", options.peer)):
            row: dict[str, object] = {"case": options.size, "classes": classes, "contender": contender}
            done = subprocess.run(
                [python, __file__, "--measure", contender, *common], capture_output=True, text=True, check=False
            )
            if done.returncode:
                said = done.stderr.strip().splitlines()
                print(f"| {options.size} | {classes} | {contender} | ended with {done.returncode}: {said[-1:]} ||||")
                continue
            row |= json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            ratio = f"{row['s'] / rows[0]['s']:.1f}x time, {row['peak_mb'] / rows[0]['peak_mb']:.1f}x memory"
            print(
                f"| {options.size} | {classes} | {contender} | {row['s']:.1f} | {row['cpu_s']:.1f} "
                f"| {row['peak_mb']:.0f} | {ratio if len(rows) > 1 else ''} | {difference(Path(name), rows)} |",
                flush=True,
            )
    return rows


def sides(size: str) -> tuple[int, ...]:
    """Read 400x512x512."""
    return tuple(map(int, size.split("x")))


def coarse(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size that the network sees."""
    return tuple(round(FACTOR * side) for side in shape)


def make(shape: tuple[int, ...], classes: int, folder: Path) -> None:
    """Write smooth random logits, class by class."""
    import torch

    torch.manual_seed(0)
    size = coarse(shape)
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.float32, (classes, *size))
    for k in range(classes):
        few = 4 * torch.randn(1, 1, *(max(2, side // 24) for side in size))
        logits[k] = torch.nn.functional.interpolate(few, size, mode="trilinear")[0, 0]
    logits.flush()


def measure(export, shape: tuple[int, ...], classes: int, folder: Path) -> None:
    """Export once; print seconds and the peak of this process."""
    run = export(shape, classes, folder)
    begin, processor = time.perf_counter(), os.times()
    run()
    wall, now = time.perf_counter() - begin, os.times()
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    spent = sum(now[:4]) - sum(processor[:4])
    print(json.dumps({"s": wall, "cpu_s": spent, "peak_mb": max(own, children) / 1024}))


def ours(shape: tuple[int, ...], classes: int, folder: Path):
    """Return this package's way: rows of logits to labels, brick by brick, to a file."""
    import torch

    from mambino.core.grid import Grid
    from mambino.core.labels import Labels
    from mambino.core.plan import Config, NetworkSpec, Normalise
    from mambino.core.recipe import Recipe
    from mambino.imageio import write_labels
    from mambino.ops.windows import Slab
    from mambino.preprocessing.case import Prepared, restore

    torch.set_num_threads(os.cpu_count() or 1)
    grid = Grid(shape, np.diag([*SPACING, 1.0]))
    small = grid.resample(coarse(shape))
    labels = Labels(names={f"structure {n}": (n,) for n in range(1, classes)})
    config = Config(
        dim=3,
        spacing=small.spacing,
        crop=False,
        normalise=(Normalise(scheme="zscore"),),
        shape=(64,) * 3,
        patch=(64,) * 3,
        batch=1,
        network=NetworkSpec(name="unet", dim=3, in_channels=1, out_channels=classes, options={}),
        recipe=Recipe(),
    )
    prepared = Prepared(np.zeros((1, 1, 1, 1), np.float32), grid, grid, grid, small, (0, 1, 2), (), (0, 0, 0))
    logits = np.load(folder / "logits.npy", mmap_mode="r")
    start, plane, depth = logits.offset, int(np.prod(small.shape[1:])), small.shape[0]

    def slabs(_span):
        with (folder / "logits.npy").open("rb") as file:
            for first in range(0, depth, ROWS):
                rows = min(ROWS, depth - first)
                part = np.empty((classes, rows, *small.shape[1:]), np.float32)
                for k in range(classes):
                    file.seek(start + 4 * plane * (k * depth + first))
                    file.readinto(memoryview(part[k]).cast("B"))
                yield Slab(first, part)

    def run() -> None:
        mask = restore(slabs, prepared, labels, config)
        write_labels(folder / "mambino.nii.gz", mask)

    return run


def theirs(shape: tuple[int, ...], classes: int, folder: Path):
    """Return nnU-Net's, with the settings that its planner writes."""
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    small = coarse(shape)
    spacing = tuple(old * n / m for old, n, m in zip(SPACING, shape, small, strict=True))
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    plans = {
        "dataset_name": "Dataset001_logits",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "configurations": {
            "3d_fullres": {
                "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
                "spacing": list(spacing),
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": linear,
            }
        },
    }
    manager = PlansManager(plans)
    names = {"background": 0} | {f"structure {n}": n for n in range(1, classes)}
    dataset = {"labels": names, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    properties = {
        "spacing": SPACING,
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, side] for side in shape],
        "sitk_stuff": {"spacing": SPACING[::-1], "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).flatten())},
    }
    logits = np.load(folder / "logits.npy")
    configuration = manager.get_configuration("3d_fullres")
    return lambda: export_prediction_from_logits(
        logits, properties, configuration, manager, dataset, str(folder / "nnunetv2"), num_threads_torch=os.cpu_count()
    )


def difference(folder: Path, rows: list[dict[str, object]]) -> str:
    """Count the voxels in which the two masks differ."""
    if len(rows) < 2:
        return ""
    import nibabel

    one, two = (np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) for name in ("mambino", "nnunetv2"))
    same = two if one.shape == two.shape else two.transpose(2, 1, 0)
    return f"{(one != same).sum()} of {one.size}"


if __name__ == "__main__":
    main()
