"""What runs in the interpreter that has nnunetv2: make a model folder of its kind, and predict with it.

    PYTHON nnunet_side.py make FOLDER            from FOLDER/weights.pt and FOLDER/plans.json
    PYTHON nnunet_side.py predict ARGUMENTS      nnUNetv2_predict_from_modelfolder

nnU-Net imports every trainer it has, one of which needs torchvision; where that was built for another torch, the
operators that it registers at import are declared here first.
"""

import importlib.util
import sys
from pathlib import Path

import torch

if importlib.util.find_spec("torchvision"):
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def make(folder: Path) -> None:
    """Write `fold_0/checkpoint_final.pth` as nnU-Net's trainer does: all names of its network, aliases included."""
    import json

    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plans, dataset = (json.loads((folder / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    weights = torch.load(folder / "weights.pt", weights_only=True)
    (name,) = plans["configurations"]
    architecture = plans["configurations"][name]["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        len(dataset["channel_names"]),
        len(dataset["labels"]),
        deep_supervision=True,
    )
    found = network.load_state_dict(weights, strict=False)
    own = {key for key in found.missing_keys if ".all_modules." not in key and not key.startswith("decoder.encoder.")}
    if own or found.unexpected_keys:
        raise SystemExit(f"the networks differ: {sorted(own)[:3]} are missing, {found.unexpected_keys[:3]} too many")
    (folder / "fold_0").mkdir(exist_ok=True)
    content = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": 0.0,
        "current_epoch": 1,
        "init_args": {"plans": plans, "configuration": name, "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

        del sys.argv[1]
        predict_entry_point_modelfolder()
