"""A folder of images segmented by the same U-Net in nnU-Net and here: seconds, memory, and how far masks agree.

    python benchmarks/predict.py --peer PYTHON --model BUNDLE --images FOLDER [--truth FOLDER] [--json FILE]
        [--rounds 1]

PYTHON is an interpreter that has nnunetv2. The weights of the bundle, a `unet` in 3D, are written into nnU-Net's own
container with a plan that says the same: spacing, patch, intensities, resampling. Both are started as commands, with
windows that overlap by half and no mirroring, on all cores; nnU-Net with one process to prepare and one to export.
nnU-Net's folder is also converted back (`mambino convert`) and that bundle predicts, too. Memory is the largest
proportional share (PSS) of all processes of a command together (Linux).
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from instruments.measuring import describe

from mambino.core.plan import Config
from mambino.weights.bundle import Bundle, load

SIDE = Path(__file__).parent / "instruments" / "nnunet_side.py"
BACK = (
    (r"^encoder\.(\d+)\.", r"encoder.stages.\1.0.convs."),
    (r"^decoder\.stages\.(\d+)\.", r"decoder.stages.\1.convs."),
    (r"^decoder\.ups\.", "decoder.transpconvs."),
    (r"^decoder\.heads\.", "decoder.seg_layers."),
)
"""Our names of a U-Net's weights to those of nnU-Net's PlainConvUNet."""


def main() -> None:
    """Run all contenders, and print a table of costs and one of agreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="interpreter with nnunetv2")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        container = contained(load(options.model), folder / "nnunet", options.peer)
        converted = folder / "converted.safetensors"
        ours = [sys.executable, "-m", "mambino"]
        run([*ours, "convert", str(container), "-o", str(converted)])
        common = ["-i", str(options.images), "-m", str(container), "-f", "0", "--disable_tta", "-device", "cpu"]
        commands = {
            "nnunetv2": [options.peer, str(SIDE), "predict", *common, "-npp", "1", "-nps", "1"],
            "mambino": [*ours, "predict", str(options.model), str(options.images)],
            "mambino, converted": [*ours, "predict", str(converted), str(options.images)],
        }
        costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for number in range(options.rounds):
            for contender, command in commands.items():
                out = folder / f"{contender} {number}"
                costs[contender].append(run([*command, "-o", str(out)]))
        rows = shown(costs)
        last = {name: folder / f"{name} {options.rounds - 1}" for name in commands}
        agreement(last, options.truth)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def shown(costs: dict[str, list[tuple[float, float, float]]]) -> list[dict[str, object]]:
    """Print seconds, CPU seconds and memory, with ratios to nnU-Net's; return the rows."""
    print("\n| contender | s | CPU s | peak MB | nnU-Net takes |")
    print("|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for name, found in costs.items():
        wall, spent, peak = (statistics.median(values) for values in zip(*found, strict=True))
        rows.append({"contender": name, "s": wall, "cpu_s": spent, "peak_mb": peak})
        ratio = f"{rows[0]['s'] / wall:.2f}x the time, {rows[0]['peak_mb'] / peak:.2f}x the memory"
        print(f"| {name} | {wall:.1f} | {spent:.1f} | {peak:.0f} | {ratio if len(rows) > 1 else ''} |")
    return rows


def agreement(folders: dict[str, Path], truth: Path | None) -> None:
    """Print the lowest and the mean Dice of a case, over its structures, to nnU-Net's masks and to the truth."""
    print("\n| masks | against | lowest Dice of a case | mean |")
    print("|---|---|---|---|")
    pairs = [(name, "nnunetv2", folders["nnunetv2"]) for name in folders if name != "nnunetv2"]
    pairs += [(name, "the truth", truth) for name in folders if truth]
    for name, other, where in pairs:
        found = [dice(mask, where / mask.name) for mask in sorted(folders[name].glob("*.nii.gz"))]
        print(f"| {name} | {other} | {min(found):.4f} | {statistics.fmean(found):.4f} |")


def dice(one: Path, two: Path) -> float:
    """Return the mean Dice over the structures that either mask has."""
    a, b = (np.asarray(nibabel.load(path).dataobj) for path in (one, two))
    present = sorted(set(np.unique(a)) | set(np.unique(b)) - {0})
    scores = [2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum()) for n in present if n]
    return float(np.mean(scores)) if scores else 1.0


def run(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, CPU seconds and peak memory (MB)."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            peak[0] = max(peak[0], sum(map(share, family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said[-2000:]}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, spent, peak[0]


def environment() -> dict[str, str]:
    """Return the environment with the folders that nnU-Net wants named, none of which is used."""
    wanted = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    return os.environ | {name: tempfile.gettempdir() for name in wanted} | {"nnUNet_compile": "f"}


def family(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(n) for task in tasks for n in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(child))]


def share(pid: int) -> float:
    """Return the proportional share of memory of a process (MB)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def contained(bundle: Bundle, folder: Path, peer: str) -> Path:
    """Write a bundle as a trained model of nnU-Net's."""
    folder.mkdir()
    weights = {renamed(name): tensor for name, tensor in bundle.network.state_dict().items()}
    torch.save(weights, folder / "weights.pt")
    names = {"background": 0} | {name: group[0] for name, group in bundle.labels.names.items()}
    dataset = {
        "channel_names": {str(i): name for i, name in enumerate(bundle.channels)},
        "labels": names,
        "numTraining": bundle.provenance.cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(planned(bundle.config)))
    subprocess.run([peer, str(SIDE), "make", str(folder)], check=True, env=environment())
    return folder


def renamed(name: str) -> str:
    """Return nnU-Net's name of a tensor."""
    for pattern, other in BACK:
        name, count = re.subn(pattern, other, name)
        if count:
            break
    return name


def planned(config: Config) -> dict[str, object]:
    """Say a configuration in the words of nnU-Net's plans.json."""
    network, resample = config.network, config.resample
    if (network.name, config.dim, config.orientation, config.axes) != ("unet", 3, None, ()):
        raise SystemExit("only a unet in 3D that takes axes as they are stored can be written as nnU-Net's")
    options = network.options
    stages = len(options["features"])
    arguments = {
        "n_stages": stages,
        "features_per_stage": options["features"],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": options["kernels"],
        "strides": options["strides"],
        "n_conv_per_stage": options["convs"],
        "n_conv_per_stage_decoder": options["decoder_convs"],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    kwargs = {"is_seg": False, "order_z": resample.separate_order, "force_separate_z": None}
    resampling = {
        f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")
    } | {
        "resampling_fn_data_kwargs": kwargs | {"order": resample.image_order},
        "resampling_fn_seg_kwargs": kwargs | {"is_seg": True, "order": resample.label_order},
        "resampling_fn_probabilities_kwargs": kwargs | {"order": resample.label_order},
    }
    (scheme,) = config.normalise
    intensities = {
        "max": scheme.upper,
        "min": scheme.lower,
        "median": scheme.mean,
        "mean": scheme.mean,
        "std": scheme.std,
        "percentile_00_5": scheme.lower,
        "percentile_99_5": scheme.upper,
    }
    settings = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": config.batch,
        "patch_size": config.patch,
        "median_image_size_in_voxels": config.shape,
        "spacing": config.spacing,
        "normalization_schemes": [{"ct": "CTNormalization", "zscore": "ZScoreNormalization"}[scheme.scheme]],
        "use_mask_for_norm": [scheme.inside],
        "batch_dice": config.recipe.batch_dice,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **resampling,
    }
    return {
        "dataset_name": "Dataset001_same",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": config.spacing,
        "original_median_shape_after_transp": config.shape,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": settings},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


if __name__ == "__main__":
    main()
