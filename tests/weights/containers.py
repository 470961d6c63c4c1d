"""State dicts and checkpoint files as authors write them, made without their code."""

import collections
import copyreg
import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.places import SHARED

KEYS = SHARED / "reference" / "keys"
INTEGERS = ("relative_position_index", "attn_mask")


def inventory(name: str) -> dict[str, list[int]]:
    """Return the names and shapes of a published checkpoint."""
    found: dict[str, list[int]] = json.loads(gzip.decompress((KEYS / f"{name}.json.gz").read_bytes()))
    return found


def zeros(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Return tensors of these shapes that all share one number."""
    return collections.OrderedDict((key, torch.zeros(1).expand(tuple(shape))) for key, shape in shapes.items())


def plan(dim: int, patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...], **settings: Any) -> dict[str, Any]:
    """Return a plan as nnU-Net writes it, of one configuration."""
    configuration = {
        "data_identifier": "nnUNetPlans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(side) for side in patch],
        "spacing": [1.5, 0.8, 0.8][-dim:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "pool_op_kernel_sizes": [list(stride) for stride in strides],
        **settings,
    }
    return {
        "dataset_name": "Dataset702_AbdomenMR",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.5, 0.8, 0.8],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"used": configuration},
        "foreground_intensity_properties_per_channel": {},
    }


def description(channels: int, classes: int) -> dict[str, Any]:
    """Return a dataset.json of so many channels and classes, background included."""
    return {
        "name": "AbdomenMR",
        "channel_names": {str(i): "MRI" for i in range(channels)},
        "labels": {"background": 0, **{f"organ {i}": i for i in range(1, classes)}},
        "file_ending": ".nii.gz",
        "numTraining": 60,
    }


def of_nnunet(state: dict[str, torch.Tensor], plans: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """Wrap weights as nnU-Net's trainer does: numpy scalars in the log, and what it was started with."""
    return {
        "network_weights": state,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": {"scale": 65536.0, "_growth_tracker": 0},
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.25)], "lrs": [0.01]},
        "_best_ema": np.float64(0.75),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans,
            "configuration": "used",
            "fold": 0,
            "dataset_json": described,
            "unpack_dataset": True,
            "device": torch.device("cuda", 0),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }


def of_vmamba(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Wrap weights as VMamba's training does: with a configuration of a class that is then gone."""
    module = types.ModuleType("yacs_that_is_gone")
    node = type("CfgNode", (dict,), {"__module__": module.__name__})
    module.CfgNode = node  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    config = node(MODEL=node(NAME="vssm_tiny"), DATA=[224])
    config.frozen = True  # type: ignore[attr-defined]
    return {"model": state, "optimizer": {}, "lr_scheduler": {}, "max_accuracy": 82.2, "epoch": 292, "config": config}


def forget() -> None:
    """Make the class of VMamba's configuration one that cannot be imported."""
    sys.modules.pop("yacs_that_is_gone", None)


class Payload:
    """Asks whoever unpickles it for a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Old:
    """Asks for a call through the protocol that copies objects of old classes."""

    def __reduce__(self) -> Any:
        return copyreg._reconstructor, (Path, object, None)  # type: ignore[attr-defined]
