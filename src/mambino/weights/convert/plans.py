"""nnU-Net's plan, which its checkpoints carry: how images are prepared, as our configuration says it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise, Resample
from mambino.core.recipe import Recipe
from mambino.errors import DataError, Error, WeightsError
from mambino.imageio.description import described
from mambino.models import divisor
from mambino.weights.convert.sizes import Hints

_RECIPE = Recipe(optimiser="sgd", rate=1e-2, weight_decay=3e-5, schedule="poly", epochs=1000, steps=250)
"""nnU-Net's own, which its networks and U-Mamba are trained with."""

_NO_DEPTH = 999.0  # spacing that nnU-Net gives the third axis of a picture, or so many times its largest
_SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore", "NoNormalization": "none"} | {
    "RGBTo01Normalization": "rgb"
}


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Say which file it is of, where a plan holds text in the place of numbers, or the like.

    Raises:
        WeightsError: the plan is not as nnU-Net writes it.
    """
    try:
        yield
    except Error:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise WeightsError(
            f"the plan of {path} is not as nnU-Net writes it: {error}", hint="compare it with the plans.json it is from"
        ) from None


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What a checkpoint of nnU-Net says beside its weights.

    Attributes:
        name: of the configuration.
        settings: of the configuration, what it inherits included.
        plans: the whole plan.
        description: what `dataset.json` held.
        mirror: axes that prediction may mirror.
    """

    name: str
    settings: Mapping[str, Any]
    plans: Mapping[str, Any]
    description: Mapping[str, Any]
    mirror: tuple[int, ...]

    @property
    def dataset(self) -> str:
        """Its name."""
        return str(self.plans.get("dataset_name") or self.description.get("name") or "")

    @property
    def hints(self) -> Hints:
        """What the network was built with that its weights do not show."""
        arguments = (self.settings.get("architecture") or {}).get("arch_kwargs") or {}
        strides = arguments.get("strides") or self.settings.get("pool_op_kernel_sizes") or ()
        dim = len(self.settings["patch_size"])
        return Hints(
            patch=tuple(int(side) for side in self.settings["patch_size"]),
            strides=tuple((s,) * dim if isinstance(s, int) else tuple(int(n) for n in s) for s in strides),
        )


def planned(beside: Mapping[str, Any], path: Path) -> Planned | None:
    """Find the plan in what a checkpoint holds beside its weights; None where there is none.

    Raises:
        WeightsError: the configuration is a cascade, or is not in its own plan.
    """
    arguments = beside.get("init_args")
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("plans"), Mapping):
        return None
    plans, name = arguments["plans"], str(arguments.get("configuration"))
    settings = _inherited(plans.get("configurations") or {}, name, path)
    if settings.get("previous_stage"):
        raise WeightsError(
            f"{path} is the second stage of a cascade: its configuration {name} takes the masks of "
            f"{settings['previous_stage']} as input, which a bundle cannot",
            hint="convert the configuration 3d_fullres, 3d_lowres or 2d",
        )
    _check_architecture(settings, path)
    mirror = beside.get("inference_allowed_mirroring_axes") or ()
    return Planned(name, settings, plans, arguments.get("dataset_json") or {}, tuple(int(axis) for axis in mirror))


_FIXED: dict[str, tuple[str, ...]] = {
    "norm_op": ("InstanceNorm2d", "InstanceNorm3d"),
    "nonlin": ("LeakyReLU",),
    "dropout_op": ("None",),
    "nonlin_first": ("False",),
}
"""What no shape of weights shows, and what it is in our networks; by the last part of its name."""


def _check_architecture(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse activations, normalisations and dropout other than those of our networks."""
    arguments = (settings.get("architecture") or {}).get("arch_kwargs") or {}
    for key, allowed in _FIXED.items():
        if key in arguments and str(arguments[key]).rpartition(".")[2] not in allowed:
            raise WeightsError(
                f"{path} has a network with {key} {arguments[key]}, but ours have {' or '.join(allowed)}",
            )
    norm, slope = arguments.get("norm_op_kwargs") or {}, arguments.get("nonlin_kwargs") or {}
    if norm.get("eps", 1e-5) != 1e-5 or slope.get("negative_slope", 0.01) != 0.01:
        raise WeightsError(
            f"{path} has a network with norm_op_kwargs {norm} and nonlin_kwargs {slope}, but ours have eps 1e-05 and a "
            "negative_slope of 0.01"
        )


def _inherited(configurations: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """Return the settings of a configuration over those that it inherits."""
    settings: dict[str, Any] = {}
    chain: list[str] = []
    while name not in chain:
        if name not in configurations:
            known = ", ".join(configurations) or "none"
            raise WeightsError(f"{path} has no configuration {name} in its plan; it has {known}")
        chain.append(name)
        settings = {**configurations[name], **settings}
        name = str(configurations[name].get("inherits_from", name))
    missing = [key for key in ("patch_size", "spacing") if not isinstance(settings.get(key), list | tuple)]
    if missing:
        raise WeightsError(f"the configuration {chain[0]} in the plan of {path} does not state {', '.join(missing)}")
    return settings


def labels_of(plan: Planned, path: Path) -> tuple[Labels, tuple[str, ...]]:
    """Return labels and names of channels.

    Raises:
        WeightsError: they are not stated, or in a way that is not understood.
    """
    facts = {key: value for key, value in plan.description.items() if key not in {"dataset", "patients"}}
    try:
        found = described(facts, path)
    except DataError as error:
        raise WeightsError(f"the data set of this checkpoint is not described well: {error}", error.hint) from None
    if found.codes is not None:
        raise WeightsError(f"{found.problems[0].message}, and outputs of a network cannot be renumbered")
    return found.labels, found.channels


def config_of(plan: Planned, network: NetworkSpec, path: Path) -> Config:
    """Say in our words how nnU-Net prepares images for this configuration.

    Raises:
        WeightsError: it does something that a configuration of ours cannot say.
    """
    settings = plan.settings
    dim = len(settings["patch_size"])
    order = tuple(int(axis) for axis in plan.plans.get("transpose_forward") or range(3))
    flat = _flat(plan.plans)
    if dim == 2 and order[1] > order[2]:
        raise WeightsError(f"{path} turns slices to the axes {order[1:]}, but a bundle keeps their order")
    return Config(
        dim=dim,
        spacing=tuple(float(step) for step in settings["spacing"]),
        slice_axis=order[0] if dim == 2 and not flat else None,
        axes=order if dim == 3 and order != (0, 1, 2) else (),
        normalise=_normalise(plan, network.in_channels, path),
        resample=_resample(settings, path),
        mirror=tuple(sorted(plan.mirror)),
        shape=_shape(settings),
        patch=_patch(settings["patch_size"], network),
        batch=int(settings.get("batch_size", 2)),
        network=network,
        recipe=_RECIPE if "features" in network.options else Recipe(),
    )


def _patch(planned: Sequence[int], network: NetworkSpec) -> tuple[int, ...]:
    """Return the next patch that the network takes, as the trainers of networks with other sides do."""
    own = network.options.get("patch")
    sides = cast(Sequence[int], own) if own else planned
    return tuple(-(-int(side) // step) * step for side, step in zip(sides, divisor(network), strict=True))


def _flat(plans: Mapping[str, Any]) -> bool:
    """Tell whether the images are pictures: nnU-Net gives them a third axis with one voxel of absurd size."""
    if str(plans.get("image_reader_writer", "")).startswith("NaturalImage2D"):
        return True
    spacing = [float(step) for step in plans.get("original_median_spacing_after_transp") or ()]
    return len(spacing) == 3 and spacing[0] >= _NO_DEPTH * 0.99 * max(1.0, *spacing[1:])


def _shape(settings: Mapping[str, Any]) -> tuple[int, ...]:
    dim = len(settings["patch_size"])
    median = [max(1, round(float(n))) for n in settings.get("median_image_size_in_voxels") or ()]
    return tuple(median[-dim:]) if len(median) >= dim else tuple(int(n) for n in settings["patch_size"])


def _normalise(plan: Planned, channels: int, path: Path) -> tuple[Normalise, ...]:
    schemes = plan.settings.get("normalization_schemes") or ()
    masks = plan.settings.get("use_mask_for_norm") or (False,) * len(schemes)
    properties = (
        plan.plans.get("foreground_intensity_properties_per_channel")
        or plan.plans.get("foreground_intensity_properties_by_modality")
        or {}
    )
    if len(schemes) != channels:
        raise WeightsError(f"{path} states {len(schemes)} ways to scale intensities for {channels} channels")
    return tuple(
        _scheme(str(scheme), bool(mask), properties.get(str(i), properties.get(i, {})), path)
        for i, (scheme, mask) in enumerate(zip(schemes, masks, strict=True))
    )


def _scheme(name: str, mask: bool, properties: Mapping[str, Any], path: Path) -> Normalise:
    if name not in _SCHEMES:
        raise WeightsError(
            f"{path} scales intensities by {name}, which a bundle cannot say; it knows {', '.join(_SCHEMES)}"
        )
    if name != "CTNormalization":
        return Normalise(scheme=cast(Any, _SCHEMES[name]), inside=mask and name == "ZScoreNormalization")
    names = ("mean", "std", "percentile_00_5", "percentile_99_5")
    missing = [key for key in names if not isinstance(properties.get(key), int | float)]
    if missing:
        raise WeightsError(f"{path} scales CT, but its plan does not state {', '.join(missing)} of the training set")
    mean, std, lower, upper = (float(properties[key]) for key in names)
    return Normalise(scheme="ct", mean=mean, std=std, lower=lower, upper=upper)


def _resample(settings: Mapping[str, Any], path: Path) -> Resample:
    """Say how images and scores move between grids; masks are resampled in training alone, as scores."""
    for what in ("data", "probabilities"):
        function = settings.get(f"resampling_fn_{what}", "resample_data_or_seg_to_shape")
        if function != "resample_data_or_seg_to_shape":
            raise WeightsError(
                f"{path} resamples {what} by {function}, which a bundle cannot say",
                hint="it knows nnU-Net's default, resample_data_or_seg_to_shape",
            )
    image = settings.get("resampling_fn_data_kwargs") or {}
    scores = settings.get("resampling_fn_probabilities_kwargs") or {}
    apart = [("auto", "yes", "no")[(None, True, False).index(k.get("force_separate_z"))] for k in (image, scores)]
    orders = [int(kwargs.get("order_z", 0)) for kwargs in (image, scores)]
    if apart[0] != apart[1] or orders[0] != orders[1]:
        raise WeightsError(
            f"{path} treats the coarse axis of images and of scores differently: {apart[0]}, order {orders[0]}, and "
            f"{apart[1]}, order {orders[1]}"
        )
    return Resample(
        image_order=int(image.get("order", 3)),
        label_order=int(scores.get("order", 1)),
        separate_axis=cast(Any, apart[0]),
        separate_order=orders[0],
    )
