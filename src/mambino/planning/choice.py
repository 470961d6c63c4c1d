"""From a fingerprint and a budget to a plan: every value chosen, each with its reason."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mambino.core.dataset import Dataset
from mambino.core.fingerprint import Fingerprint
from mambino.core.options import PlanOptions, Progress, silent
from mambino.core.plan import Config, Normalise, Plan, Reason, Resample
from mambino.errors import OptionError
from mambino.models import describe, names, segmenting
from mambino.planning import rules
from mambino.planning.budget import Budget, make_budget
from mambino.planning.intensity import normalise
from mambino.planning.networks import PLANNED
from mambino.planning.recipe import Reasons, make_recipe
from mambino.planning.rules import Chosen
from mambino.planning.sides import mirror_axes, paired_names
from mambino.planning.sizing import Fit, Problem, fit
from mambino.planning.timing import Clock, clock

LEFT_RIGHT = 2  # the axis of a volume turned to RAS that runs from left to right


@dataclass(frozen=True, slots=True)
class View:
    """How one dimension of network sees the data; all networks of that dimension share it.

    Attributes:
        spacing, shape: of a median case on the grid of the network.
        slice_axis: that a 2D network on volumes takes its slices along.
        mirror: axes of the patch that may be mirrored.
        voxels: of all training cases.
        reasons: for all of it.
    """

    dim: int
    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    orientation: str | None
    slice_axis: int | None
    normalise: tuple[Normalise, ...]
    mirror: Chosen[tuple[int, ...]]
    voxels: float
    reasons: tuple[Reason, ...]


def choose(
    dataset: Dataset,
    fingerprint: Fingerprint,
    options: PlanOptions,
    *,
    measure: Clock | None = None,
    progress: Progress = silent,
) -> Plan:
    """Make the plan.

    Args:
        dataset: what was measured.
        fingerprint: its measurements.
        options: the budget, and the network.
        measure: says what a step costs; the clock of the device if not given.
        progress: called after each network timed.

    Raises:
        OptionError: the network is not known, or does not fit into the budget.
    """
    networks = _networks(options.model)
    budget = make_budget(options)
    measure = measure or clock(budget.device)
    spacing = rules.target_spacing(fingerprint)
    dims = rules.dimensions(fingerprint, rules.median_shape(fingerprint, spacing.value))
    default = f"{dims.value[0]}d-{options.model or PLANNED[0]}"
    configs: dict[str, Config] = {}
    reasons = [
        _reason("", "default", default, dims.why),
        _reason("", "device", budget.device, budget.assumed or "given"),
    ]
    views = [_view(dim, dataset, fingerprint, spacing, budget) for dim in dims.value]
    reasons += [reason for view in views for reason in view.reasons]
    for view, network in itertools.product(views, networks):
        name = f"{view.dim}d-{network}"
        try:
            configs[name], why = _config(network, view, dataset, budget, measure)
        except OptionError as error:
            if name == default:
                raise
            why = (_reason(name, "network", "left out", str(error)),)
        reasons += why
        progress(len(configs), len(views) * len(networks), name)
    return Plan(
        dataset=dataset.name,
        folder=str(dataset.folder.resolve()),
        channels=dataset.channels,
        labels=dataset.labels,
        device=budget.device,
        minutes=budget.minutes,
        default=default,
        configs=configs,
        reasons=tuple(reasons),
    )


def _networks(model: str | None) -> tuple[str, ...]:
    if model is not None and model not in names():
        raise OptionError(f"there is no network {model!r}", hint=f"choose from {', '.join(segmenting())}")
    if model is not None and (kind := describe(model).kind) != "segmentation":
        raise OptionError(
            f"{model} is a {kind}: it gives no masks, so nothing can be planned for it",
            hint=f"choose from {', '.join(segmenting())}",
        )
    return PLANNED if model is None or model in PLANNED else (*PLANNED, model)


def _view(
    dim: int, dataset: Dataset, fingerprint: Fingerprint, target: Chosen[tuple[float, ...]], budget: Budget
) -> View:
    """Decide all that happens to an image before a network sees it."""
    spacing, whole = target.value, rules.median_shape(fingerprint, target.value)
    cases, sliced = len(fingerprint.cases), dim < len(spacing)
    cut = rules.slice_axis(spacing, whole) if sliced else None
    kept = [axis for axis in range(len(spacing)) if cut is None or axis != cut.value]
    slices = whole[cut.value] if cut else 1
    affordable = rules.affordable_spacing(
        [spacing[a] for a in kept], [whole[a] for a in kept], round(cases * slices), budget.core_seconds
    )
    coarse = list(spacing)
    for axis, value in zip(kept, affordable.value, strict=True):
        coarse[axis] = value
    shape = rules.median_shape(fingerprint, coarse)
    mirror = mirror_axes(fingerprint, dataset.labels)
    orientation = rules.recorded_orientation(fingerprint)
    schemes = normalise(dataset.channels, fingerprint)
    why = "; ".join(filter(None, (target.why, affordable.why)))
    prefix = f"{dim}d"
    reasons = [
        _reason(prefix, "orientation", orientation.value, orientation.why),
        _reason(prefix, "spacing", _plain(affordable.value), f"{why} ({fingerprint.unit})"),
        _reason(prefix, "shape", _plain(shape[a] for a in kept), "median of the cases at this spacing, after cropping"),
        *([_reason(prefix, "slice_axis", cut.value, cut.why)] if cut else []),
        *_normalise_reasons(prefix, dataset.channels, schemes),
        _reason(prefix, "resample", "spline order 3, masks 1", "nnU-Net's; a coarse axis is resampled by itself"),
    ]
    return View(
        dim=dim,
        spacing=affordable.value,
        shape=tuple(shape[a] for a in kept),
        orientation=orientation.value,
        slice_axis=cut.value if cut else None,
        normalise=tuple(scheme.value for scheme in schemes),
        mirror=Chosen(tuple(kept.index(a) for a in mirror.value if a in kept), mirror.why),
        voxels=math.prod(shape) * cases,
        reasons=tuple(reasons),
    )


def _config(
    network: str, view: View, dataset: Dataset, budget: Budget, measure: Clock
) -> tuple[Config, tuple[Reason, ...]]:
    """Choose the network, its patch and batch, and how it is trained."""
    problem = Problem(
        dim=view.dim,
        channels=len(dataset.channels),
        classes=dataset.labels.out_channels,
        spacing=view.spacing,
        shape=view.shape,
        voxels=view.voxels,
    )
    fitted = fit(network, problem, budget, measure)
    recipe, why = make_recipe(network, problem, fitted, budget)
    mirror = view.mirror if budget.seconds is None else _natural_mirror(view, dataset)
    config = Config(
        dim=view.dim,
        spacing=view.spacing,
        orientation=view.orientation,
        slice_axis=view.slice_axis,
        normalise=view.normalise,
        resample=Resample(),
        mirror=mirror.value,
        shape=tuple(round(n) for n in view.shape),
        patch=fitted.patch.value,
        batch=fitted.batch.value,
        network=fitted.spec.value,
        recipe=recipe,
        memory=fitted.memory.value,
        step=fitted.step.value,
    )
    name = f"{view.dim}d-{network}"
    mirrored = _reason(name, "mirror", mirror.value, mirror.why)
    return config, (*_fit_reasons(name, fitted), *_recipe_reasons(name, config, why), mirrored)


def _natural_mirror(view: View, dataset: Dataset) -> Chosen[tuple[int, ...]]:
    """Keep only mirror images that could be real: a short training has no steps for views that never come."""
    why = "a short training has no steps for views that never come"
    if view.orientation is not None:
        left_right = view.dim - 1
        kept = tuple(axis for axis in view.mirror.value if axis == left_right and view.slice_axis != LEFT_RIGHT)
        return Chosen(kept, f"of the body, left and right alone look alike, and {why}; {view.mirror.why}")
    if paired_names(tuple(dataset.labels.names)):
        return Chosen((), f"labels named after a side show that the images stand upright, and {why}")
    return view.mirror


def _fit_reasons(name: str, fitted: Fit) -> tuple[Reason, ...]:
    spec = fitted.spec.value
    strides = spec.options.get("strides")
    stages = [_reason(name, "stages", len(strides), f"strides {strides}")] if isinstance(strides, tuple) else []
    return (
        _reason(name, "network", spec.name, fitted.spec.why),
        *stages,
        _reason(name, "patch", fitted.patch.value, fitted.patch.why),
        _reason(name, "batch", fitted.batch.value, fitted.batch.why),
        _reason(name, "memory", f"{fitted.memory.value:.2f} GiB", fitted.memory.why),
        _reason(name, "step", f"{fitted.step.value:.3f} s", fitted.step.why),
    )


def _recipe_reasons(name: str, config: Config, why: Reasons) -> tuple[Reason, ...]:
    recipe, epoch = config.recipe, config.step * config.recipe.steps
    return (
        _reason(name, "optimiser", recipe.optimiser, why["optimiser"]),
        _reason(
            name,
            "rate",
            f"{recipe.rate:g}, {recipe.schedule}, rising over the first {recipe.warmup:.0%} of the steps",
            why["rate"],
        ),
        _reason(name, "weight_decay", recipe.weight_decay, why["weight_decay"]),
        _reason(name, "clip", recipe.clip, why["clip"]),
        _reason(
            name,
            "length",
            f"{recipe.epochs} epochs of {recipe.steps} steps",
            f"about {epoch:.0f} s an epoch on this device" if epoch else "not timed: the device is not on this machine",
        ),
        _reason(name, "augmentation", recipe.augmentation, why["augmentation"]),
        _reason(name, "foreground", recipe.foreground, why["foreground"]),
        _reason(name, "deep_supervision", "yes" if recipe.deep_supervision else "no", why["deep_supervision"]),
    )


def _normalise_reasons(
    prefix: str, channels: Sequence[str], schemes: Sequence[Chosen[Normalise]]
) -> tuple[Reason, ...]:
    """One reason for all channels where they agree, else one a channel."""
    if len({scheme.value for scheme in schemes}) == 1:
        return (_reason(prefix, "normalise", _scheme(schemes[0].value), f"{', '.join(channels)}: {schemes[0].why}"),)
    return tuple(
        _reason(prefix, f"normalise.{channel}", _scheme(scheme.value), scheme.why)
        for channel, scheme in zip(channels, schemes, strict=True)
    )


def _scheme(scheme: Normalise) -> str:
    if scheme.scheme == "ct":
        return f"ct: clip to {scheme.lower:.4g} … {scheme.upper:.4g}, mean {scheme.mean:.4g}, std {scheme.std:.4g}"
    return scheme.scheme + (" over non-zero voxels" if scheme.inside else "")


def _plain(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _reason(config: str, field: str, value: object, why: str) -> Reason:
    return Reason(config=config, field=field, value=str(value), why=why)
