"""The commands that tell of networks, weights and this machine; none of them needs a work folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mambino.cli import console, tables
from mambino.core.options import named_values
from mambino.errors import OptionError

if TYPE_CHECKING:
    from mambino.core.provenance import Provenance
    from mambino.weights.bundle import BundleHeader

Json = Annotated[bool, Parameter(name="--json", negative="")]


def models(*, json: Json = False) -> None:
    """List the networks: dimensions, parameters counted and claimed, paper."""
    from mambino.models import list_models

    described = list_models()
    return tables.show_json(described) if json else tables.show_models(described)


def cost(
    model: str,
    /,
    *,
    size: str,
    dim: Literal[2, 3] | None = None,
    channels: int = 1,
    classes: int = 2,
    set: Annotated[tuple[str, ...], Parameter(name="--set")] = (),  # noqa: A002 - the name of the flag
    measure: bool = False,
    json: Json = False,
) -> None:
    """Count what a network costs for one image: parameters, operations by kind, memory; and what its paper claims.

    Args:
        model: name of the network.
        size: of the image, slowest axis first: 512x512, 128x128x128; one number is the side along every axis.
        dim: number of axes; as many as the size has if not given.
        channels: of the image.
        classes: of the masks, background included.
        set: options of the network, as in --set width=48 depths=2,2,2,2; the paper's values if not given.
        measure: also run it, forward and then a step of training, and measure the peak of memory; on Linux.
        json: print the counts as JSON.
    """
    from mambino.models.cost import cost as count_cost

    sides, options = _sides(size, dim), named_values(set)
    counted = count_cost(model, sides, channels=channels, classes=classes, options=options, measure=measure)
    return tables.show_json(counted) if json else tables.show_cost(counted)


def convert(
    file: Path,
    /,
    *,
    output: Path,
    model: str | None = None,
    entry: str | None = None,
    json: Json = False,
) -> None:
    """Turn a checkpoint that authors published, or that nnU-Net trained, into a bundle; runs nothing that it holds.

    Args:
        file: a checkpoint of torch or a .safetensors file; or a folder of nnU-Net with one trained fold.
        output: the bundle, a .safetensors file.
        model: the network that it must be; recognised if not given.
        entry: of the file, where it holds several networks: model, model_ema.
        json: print what came of it as JSON.
    """
    from mambino.weights.conversion import convert as convert_weights

    made = convert_weights(file, output, model=model, entry=entry)
    return tables.show_json(made) if json else tables.show_conversion(made)


def weights(*, json: Json = False) -> None:
    """List the weights that authors published: where to get them, licence, what is claimed and what we measured."""
    from mambino.weights.published import list_weights

    published = list_weights()
    return tables.show_json(published) if json else tables.show_weights(published)


def info(file: Path, /, *, json: Json = False) -> None:
    """Say what a bundle holds: network, data, labels, score and origin; loads no weights."""
    from mambino.weights.bundle import info as bundle_info

    header = bundle_info(file)
    if json:
        return tables.show_json(header)
    config, origin = header.config, header.provenance
    rows = [
        ("network", f"{config.network.name}, {config.dim}D"),
        ("options", ", ".join(f"{k}={v}" for k, v in config.network.options.items())),
        ("parameters", f"{header.parameters:,}"),
        ("channels", ", ".join(header.channels)),
        ("labels", ", ".join(header.labels.names)),
        ("spacing", tables.joined(config.spacing)),
        ("patch", tables.joined(config.patch)),
        ("trained on", _training(origin)),
        ("validation Dice", "-" if origin.score is None else f"{origin.score:.4f}"),
        ("temperature", _temperature(header)),
        ("bfloat16", "not compared" if header.half is None else f"Dice {header.half:.4f} to the masks in float32"),
        ("made with", ", ".join(f"{k} {v}" for k, v in origin.versions.items())),
    ]
    return console.table(["", ""], rows)


def doctor(*, json: Json = False) -> None:
    """Show what can run here: devices, the path each operator takes and how fast, memory, versions."""
    from mambino.diagnosis import doctor as examine

    examined = examine()
    if json:
        return tables.show_json(examined)
    console.table(["", ""], [*examined.versions.items(), *examined.machine.items()])
    rows = [(p.operator, p.device, p.path, "yes" if p.used else "", p.milliseconds, p.note) for p in examined.paths]
    return console.table(["operator", "device", "path", "used", "ms", ""], rows)


def _temperature(header: "BundleHeader") -> str:
    """Say what probabilities are made with, and what that was learnt from."""
    found = header.calibration
    if found is None:
        return f"{header.temperature:g}, not calibrated"
    trust = "" if found.threshold is None else f"; trusted from an expected Dice of {found.threshold:.3f}"
    return f"{header.temperature:g}, from {found.cases} cases held out{trust}"


def _training(origin: "Provenance") -> str:
    """Say what weights were learnt from, or which checkpoint they are from."""
    if origin.source:
        return f"{origin.dataset or 'not stated'}; converted from {origin.source}, licence {origin.licence}"
    return f"{origin.dataset}, {origin.cases} cases, {origin.steps} steps, {console.duration(origin.seconds)}"


def _sides(text: str, dim: int | None) -> tuple[int, ...]:
    """Read a size: numbers with x between them, or one number for all axes."""
    parts = text.lower().split("x")
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"a size is numbers with x between them, got {text!r}", hint="as in --size 512x512")
    sides = tuple(map(int, parts)) * (dim if dim and len(parts) == 1 else 1)
    if dim and len(sides) != dim:
        raise OptionError(f"--size {text} has {len(sides)} axes, but --dim is {dim}", hint="leave out --dim")
    return sides
