"""Bundles: a trained network and all that is needed to use it, in one .safetensors file.

The tensors are the weights; one entry of the file's metadata holds the rest as JSON. Nothing is
unpickled, and the header is read without torch.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambino.core.calibration import Calibration
from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec
from mambino.core.provenance import Provenance
from mambino.core.records import dump, from_json, parse, record, replacing
from mambino.errors import WeightsError
from mambino.models import build

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
_OTHER = "use the version of mambino that wrote it (mambino info names it), or train again"
_KEY = "mambino"
_PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".model")
_LONGEST = 100_000_000  # bytes of a header, the limit of the safetensors format


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A network with everything between a file and a mask.

    Attributes:
        network: with its weights, in eval mode.
        config: how images are prepared, and the network's name and options.
        labels: what its outputs mean.
        channels: names of its inputs, in order.
        provenance: where the weights are from.
        temperature: scores are divided by it before they become probabilities.
        calibration: what was learnt of these on held-out cases, where that was done.
        half: mean Dice between the masks in bfloat16 and those in float32, of held-out cases; None where not measured.
    """

    network: "nn.Module"
    config: Config
    labels: Labels
    channels: tuple[str, ...]
    provenance: Provenance
    temperature: float = 1.0
    calibration: Calibration | None = None
    half: float | None = None


@record
class BundleHeader:
    """All of a bundle but its weights.

    Attributes:
        format: version of this record.
        config, labels, channels, provenance, temperature, calibration, half: of the `Bundle`.
        parameters: of the network, shared ones once.
        sha256: of this header without the sum, and of all tensors.
    """

    format: int = FORMAT
    config: Config
    labels: Labels
    channels: tuple[str, ...]
    provenance: Provenance
    temperature: float = 1.0
    calibration: Calibration | None = None
    half: float | None = None
    parameters: int = 0
    sha256: str = ""


def save(bundle: Bundle, path: Path) -> Path:
    """Write a bundle, all of it or nothing; equal bundles give equal bytes.

    Raises:
        FileFormatError: the folder cannot be written to, or the disk is full.
    """
    from safetensors.torch import save as serialise

    # Tied weights are stored once for each of their names, so that every name of the network has its tensor.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in bundle.network.state_dict().items()}
    header = BundleHeader(
        config=bundle.config,
        labels=bundle.labels,
        channels=bundle.channels,
        provenance=bundle.provenance,
        temperature=bundle.temperature,
        calibration=bundle.calibration,
        half=bundle.half,
        parameters=sum(parameter.numel() for parameter in bundle.network.parameters()),
    )
    text = dump(header, indent=None)
    signed = replace(header, sha256=_sum(text, ((name, _bytes(tensors[name])) for name in sorted(tensors))))
    content = serialise(tensors, {_KEY: dump(signed, indent=None)})
    with replacing(path) as part:
        part.write_bytes(content)
    return path


def header(path: Path) -> BundleHeader:
    """Read what a bundle says of itself, without its weights and without torch.

    Raises:
        WeightsError: the file cannot be read or is no bundle.
        FileFormatError: its description has another format, or holds an unknown key or a wrong type.
    """
    return _described(_table(path), path)


info = header  # the verb of that name


def load(path: Path, device: str = "cpu") -> Bundle:
    """Build the network of a bundle and fill it: every tensor is used, every parameter is filled.

    Raises:
        WeightsError: the file is no bundle, is damaged, or does not fit the network it names.
        OptionError: this version does not know the network, or not with these options.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    table = _table(path)
    described = _described(table, path)
    content = path.read_bytes()
    try:
        tensors = deserialise(content)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or cut short: {error}", hint="fetch or copy it again") from None
    _check_sum(content, table, described, path)
    _check_fits(described.config.network, tensors, path)
    network = build(described.config.network)
    network.load_state_dict(tensors)
    return Bundle(
        network=network.to(device).eval(),
        config=described.config,
        labels=described.labels,
        channels=described.channels,
        provenance=described.provenance,
        temperature=described.temperature,
        calibration=described.calibration,
        half=described.half,
    )


def digest(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _table(path: Path) -> dict[str, Any]:
    """Read the table of contents of a safetensors file: 8 bytes with the length, then JSON."""
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path} is a checkpoint of another program ({path.suffix}), not a bundle (.safetensors)",
            hint=f"convert it once: mambino convert {path} -o model.safetensors",
        )
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
            text = file.read(length) if length < _LONGEST else b""
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        table = from_json(text)
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise WeightsError(
            f"{path} is not a bundle: it does not begin as a .safetensors file does, or is cut short",
            hint="fetch or copy it again, or name the model.safetensors that train has written",
        )
    return table


def _described(table: Mapping[str, Any], path: Path) -> BundleHeader:
    text = (table.get("__metadata__") or {}).get(_KEY)
    if text is None:
        raise WeightsError(
            f"{path} holds {len(table) - ('__metadata__' in table)} tensors, but not the entry {_KEY!r} that says "
            "which network they belong to and how images are prepared for it",
            hint=f"if the weights are of a known network, convert them: mambino convert {path} -o model.safetensors",
        )
    return parse(BundleHeader, text, str(path), hint="fetch or copy it again, or train again")


def _check_sum(content: bytes, table: Mapping[str, Any], described: BundleHeader, path: Path) -> None:
    text = table["__metadata__"][_KEY].replace(described.sha256, "")
    (length,) = struct.unpack("<Q", content[:8])
    body = memoryview(content)[8 + length :]
    ends = {name: entry["data_offsets"] for name, entry in table.items() if name != "__metadata__"}
    found = _sum(text, ((name, body[slice(*ends[name])]) for name in sorted(ends)))
    if found != described.sha256:
        raise WeightsError(
            f"{path} is damaged: the sha256 of its content is {found[:12]}, "
            f"but it was written with {described.sha256[:12] or 'none'}",
            hint="fetch or copy it again",
        )


def _sum(text: str, tensors: Iterable[tuple[str, Any]]) -> str:
    total = hashlib.sha256(text.encode())
    for name, content in tensors:
        total.update(name.encode())
        total.update(content)
    return total.hexdigest()


def _bytes(tensor: "Tensor") -> Any:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy()


def _check_fits(spec: NetworkSpec, tensors: Mapping[str, "Tensor"], path: Path) -> None:
    """Refuse weights of another network, before a network is made: no file takes more memory than its size."""
    import torch

    with torch.device("meta"):
        wanted, name = build(spec).state_dict(), spec.name
    missing, unexpected = sorted(wanted.keys() - tensors), sorted(tensors.keys() - wanted)
    if missing or unexpected:
        raise WeightsError(
            f"{path} does not fit the network {name}: {_listed(missing)} missing, {_listed(unexpected)} unexpected",
            hint=_OTHER,
        )
    shapes = [
        f"{key} {tuple(tensors[key].shape)} where the network has {tuple(value.shape)}"
        for key, value in wanted.items()
        if tensors[key].shape != value.shape
    ]
    if shapes:
        raise WeightsError(f"{path} does not fit the network {name}: it holds {_first(shapes)}", hint=_OTHER)


def _listed(keys: list[str]) -> str:
    return f"{len(keys)} tensors ({_first(keys)})" if keys else "none"


def _first(words: list[str]) -> str:
    return ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{path} cannot be read: {error.strerror}",
        hint="check the path; train writes WORK/runs/CONFIGURATION-FOLD/model.safetensors",
    )
