"""A checkpoint of another program to a bundle: convert()."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambino.core.labels import Labels
from mambino.core.machine import memory
from mambino.core.plan import Config, NetworkSpec
from mambino.core.provenance import Provenance, versions
from mambino.core.records import from_json, record
from mambino.errors import OptionError, WeightsError
from mambino.models import build, describe
from mambino.weights.bundle import Bundle, digest, save
from mambino.weights.checkpoints import Checkpoint, read_checkpoint
from mambino.weights.convert import Source, load_state, recognise
from mambino.weights.convert.bare import assumed
from mambino.weights.convert.plans import Planned, config_of, labels_of, planned, understood
from mambino.weights.convert.rules import translated
from mambino.weights.convert.sizes import Hints, infer

_POINTWISE = (".in_proj.weight", ".out_proj.weight", ".fc1.weight", ".fc2.weight")
"""Layers that VMamba stores as matrices or as convolutions of one pixel."""


@record
class Conversion:
    """What came of a checkpoint.

    Attributes:
        bundle: the file written.
        source: the published network that the weights are of.
        entry: of the file, which was read.
        network: as the bundle has it.
        config: name of the configuration in the plan of the checkpoint; "" where it had none.
        parameters: of the network, each tensor once.
        dropped: how many tensors were left out, by reason.
        licence: of the published code and weights.
        sha256: of the checkpoint.
        check: what whoever uses the bundle must look at first.
    """

    bundle: Path
    source: str
    entry: str
    network: NetworkSpec
    config: str
    parameters: int
    dropped: dict[str, int]
    licence: str
    sha256: str
    check: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Setting:
    """How images are prepared for a network, and what its outputs mean."""

    config: Config
    labels: Labels
    channels: tuple[str, ...]
    dataset: str
    check: tuple[str, ...]


def convert(file: Path, output: Path, *, model: str | None = None, entry: str | None = None) -> Conversion:
    """Turn a checkpoint that authors published, or that nnU-Net trained, into a bundle.

    Only tensors and plain values are read; nothing in the file is run. Every tensor finds its place in the network, is
    another name of one that does, or is left out for a stated reason; else nothing is written.

    Args:
        file: a checkpoint; or a folder of nnU-Net with one trained fold.
        output: the bundle, a .safetensors file.
        model: the network of ours that it must be; recognised by its keys if None.
        entry: of the file, where it holds several networks ("model", "model_ema").

    Raises:
        WeightsError: the file cannot be read, asks for a call, is of no known network, or does not fit one; or its plan
            says what no configuration of ours can.
        OptionError: an output that is no .safetensors file, a network or an entry that the file does not hold.
        FileFormatError: the output cannot be written.
    """
    if output.suffix != ".safetensors":
        raise OptionError(f"a bundle is a .safetensors file, got {output}", hint=f"-o {output.stem}.safetensors")
    path = _file(file)
    checkpoint = read_checkpoint(path, entry)
    source = recognise(checkpoint.state)
    if model is not None and model != source.model:
        raise OptionError(f"{path} holds {source.model} ({source.name}), not {model}", hint="leave out --model")
    state = _flattened(checkpoint.state, source)
    with understood(path):
        plan = planned(_with_plan_beside(checkpoint.beside, path), path)
        hints = _hints(plan, state)
    ours, _ = translated(state, source)
    found = infer(source.model, {name: tuple(x.shape) for name, x in ours.items()}, hints)
    _check_room(found.spec, path)
    network = build(found.spec)
    dropped = load_state(network, state, source)
    spec, network, said = _with_background(found.spec, network, plan, path)
    with understood(path):
        setting = _setting(plan, spec, found.spec.out_channels, path)
    sha256 = digest(path)
    provenance = Provenance(
        dataset=setting.dataset,
        versions=versions(),
        licence=source.licence,
        source=f"{path.name}, sha256 {sha256}",
        dropped=dropped | dict.fromkeys(checkpoint.beside, "not weights"),
    )
    save(Bundle(network.eval(), setting.config, setting.labels, setting.channels, provenance), output)
    return Conversion(
        bundle=output,
        source=source.name,
        entry=checkpoint.entry,
        network=spec,
        config=plan.name if plan else "",
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        dropped=_grouped(dropped),
        licence=source.licence,
        sha256=sha256,
        check=(*said, *found.assumed, *setting.check, *_other_entries(checkpoint)),
    )


def _check_room(spec: NetworkSpec, path: Path) -> None:
    """Refuse a network that there is no memory for: a file of a few bytes may describe tensors of any size."""
    with torch.device("meta"):
        size = sum(x.numel() * x.element_size() for x in build(spec).state_dict().values()) / 2**30
    if 2 * size > memory():
        raise WeightsError(
            f"{path} describes a network of {size:.1f} GiB, this machine has {memory():.1f} GiB to spare",
            hint="convert it on a machine with more memory",
        )


def _file(given: Path) -> Path:
    """Return the checkpoint of a folder that nnU-Net has trained into; a file as it is."""
    if not given.is_dir():
        return given
    found = sorted(given.glob("fold_*/checkpoint_final.pth")) or sorted(given.glob("checkpoint_final.pth"))
    if len(found) != 1:
        shown = ", ".join(str(path.relative_to(given)) for path in found) or "none"
        raise OptionError(
            f"{given} must hold one checkpoint_final.pth, got {len(found)}: {shown}",
            hint="name one of them; bundles of several folds are averaged by predict",
        )
    return found[0]


def _with_plan_beside(beside: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add plans.json and dataset.json of nnU-Net's folder where the checkpoint itself does not hold them."""
    arguments = beside.get("init_args")
    folder = path.resolve().parent.parent
    files = [folder / name for name in ("plans.json", "dataset.json")]
    if (isinstance(arguments, dict) and "plans" in arguments) or not all(map(Path.is_file, files)):
        return beside
    try:
        plans, description = (from_json(file.read_text(encoding="utf-8")) for file in files)
    except (OSError, ValueError) as error:
        raise WeightsError(f"the plan beside {path} cannot be read: {error}") from None
    named = folder.name.rpartition("__")[2]
    found = {"plans": plans, "dataset_json": description, "configuration": named}
    return beside | {"init_args": found | (arguments if isinstance(arguments, dict) else {})}


def _hints(plan: Planned | None, state: dict[str, Tensor]) -> Hints:
    masks = tuple(tuple(x.shape) for key, x in state.items() if key.endswith("attn_mask"))
    return replace(plan.hints, masks=masks) if plan else Hints(masks=masks)


def _flattened(state: dict[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Make matrices of VMamba's convolutions of one pixel, as both are among the published files."""
    if not source.model.startswith("vmamba"):
        return state
    return {
        key: x.flatten(1) if x.dim() == 4 and x.shape[2:] == (1, 1) and key.endswith(_POINTWISE) else x
        for key, x in state.items()
    }


def _with_background(
    spec: NetworkSpec, network: nn.Module, plan: Planned | None, path: Path
) -> tuple[NetworkSpec, nn.Module, tuple[str, ...]]:
    """Give a network with one output a second one, of zeros: a softmax of both is the sigmoid of the one."""
    regions = plan is not None and labels_of(plan, path)[0].has_regions
    if spec.out_channels != 1 or regions or describe(spec.name).kind != "segmentation":
        return spec, network, ()
    wide = replace(spec, out_channels=2)
    other = build(wide)
    wanted = other.state_dict()
    state = {
        key: x if x.shape == wanted[key].shape else torch.cat([torch.zeros_like(x), x])
        for key, x in network.state_dict().items()
    }
    other.load_state_dict(state)
    return wide, other, ("its one output with a sigmoid is now two with a softmax: the same probabilities",)


def _setting(plan: Planned | None, spec: NetworkSpec, classes: int, path: Path) -> _Setting:
    if plan is None:
        bare = assumed(spec, classes)
        return _Setting(bare.config, bare.labels, bare.channels, "", bare.check)
    labels, channels = labels_of(plan, path)
    for what, stated, built in (
        ("outputs", labels.out_channels, spec.out_channels),
        ("channels", len(channels), spec.in_channels),
    ):
        if stated != built:
            raise WeightsError(f"the data set of {path} asks for {stated} {what}, but the weights have {built}")
    config = config_of(plan, spec, path)
    check = () if "features" in spec.options else ("how it was trained is not kept: the recipe is mambino's own",)
    return _Setting(config, labels, channels, plan.dataset, check)


def _grouped(dropped: dict[str, str]) -> dict[str, int]:
    """Count reasons; all other names of a tensor are one reason."""
    return dict(Counter("another name" if why.startswith("another name") else why for why in dropped.values()))


def _other_entries(checkpoint: Checkpoint) -> Iterable[str]:
    return (
        f"the weights are those under {checkpoint.entry}; the file also holds {other}: --entry {other} takes it"
        for other in checkpoint.others
    )
