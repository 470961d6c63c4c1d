"""Where weights and results come from: what a user needs to trust them and to make them again."""

import platform
from importlib.metadata import PackageNotFoundError, version

from mambino.core.records import record

NOT_FOR_CLINICAL_USE = "Not for clinical use."
"""Said by the command line, by reports and by every DICOM object; README and docs repeat it, which a test checks."""


@record
class Provenance:
    """The origin of a set of weights. Holds no path and nothing about a patient.

    Attributes:
        dataset: name of the data set learnt from.
        cases: how many training cases.
        held_out: names of the cases kept for validation.
        seed: of the run.
        steps: optimiser steps taken.
        seconds: of training.
        score: mean validation Dice when the weights were kept, where it was measured.
        accuracy: share of held-out pictures that a classifier told right, where it was measured.
        versions: of mambino, torch, numpy and Python.
        licence: of the weights, where stated.
        source: file name and sha256 of a converted checkpoint, else empty.
        dropped: keys of a converted checkpoint that were left out, with the reason.
    """

    dataset: str = ""
    cases: int = 0
    held_out: tuple[str, ...] = ()
    seed: int | None = None
    steps: int = 0
    seconds: float = 0.0
    score: float | None = None
    accuracy: float | None = None
    versions: dict[str, str]
    licence: str = ""
    source: str = ""
    dropped: dict[str, str] | None = None


@record
class Maker:
    """What made a result, for those who meet it elsewhere. Holds no path.

    Attributes:
        version: of mambino.
        bundles: name and sha256 of each bundle.
        networks: their networks.
    """

    version: str
    bundles: tuple[tuple[str, str], ...]
    networks: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, str]:
        """Name, sha256 and network of each bundle, in words."""
        found: dict[str, str] = {}
        for n, ((name, digest), network) in enumerate(zip(self.bundles, self.networks, strict=True), 1):
            found |= {f"bundle_{n}": name, f"sha256_{n}": digest, f"network_{n}": network}
        return found


def versions() -> dict[str, str]:
    """Return the versions that a result depends on: of mambino, torch, numpy and Python."""
    found = {"python": platform.python_version()}
    for name in ("mambino", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # numbers can be made without torch
            continue
    return found
