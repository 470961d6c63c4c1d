"""Left and right: which mirror axis would exchange organs that are told apart by their side."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambino.core.fingerprint import Fingerprint
from mambino.core.labels import Labels
from mambino.planning.rules import Chosen

_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
CONSISTENT = 0.9  # of the cases must have the pair in the same order along the axis


def paired_names(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs (left, right) of names that are equal but for the word of a side.

    "left", "l" and "lt" and their counterparts are recognised in any case and at any place:
    left_parotid and right_parotid, "Lung L" and "Lung R", LtKidney and RtKidney.
    """
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = [word.lower() for word in _WORDS.findall(name)]
        for place, word in enumerate(words):
            if word in _SIDES:
                key = (*words[:place], "*", *words[place + 1 :])
                found.setdefault(key, {})[_SIDES[word]] = name
    return tuple((pair["left"], pair["right"]) for pair in found.values() if len(pair) == 2)


def mirror_axes(fingerprint: Fingerprint, labels: Labels) -> Chosen[tuple[int, ...]]:
    """Allow mirroring along every axis but the one that tells left from right, where labels come in pairs.

    Mirroring a body and exchanging the labels would be right only if the rest of it were symmetric, which
    hearts, livers and lungs are not; so the axis is dropped, in training and in testing.
    """
    axes = tuple(range(len(fingerprint.cases[0].shape)))
    pairs = paired_names(tuple(labels.names))
    if not pairs:
        return Chosen(axes, "no label is named after a side")
    axis = side_axis(fingerprint, labels, pairs)
    names = "; ".join(f"{left} and {right}" for left, right in pairs)
    why = f"without axis {axis.value}, along which mirroring would exchange {names}: {axis.why}"
    return Chosen(tuple(a for a in axes if a != axis.value), why)


def side_axis(fingerprint: Fingerprint, labels: Labels, pairs: Sequence[tuple[str, str]]) -> Chosen[int]:
    """Find the axis that separates the two of each pair.

    In a volume turned to RAS it is the last one, unless the masks clearly say otherwise. Elsewhere it is the
    axis along which the centres of the two differ most consistently.
    """
    steps = _steps(fingerprint, labels, pairs)
    named = len(fingerprint.cases[0].shape) - 1
    if not len(steps):
        return Chosen(named, "no mask holds both of a pair, and the last axis runs from left to right")
    agreement = np.maximum((steps > 0).mean(axis=0), (steps < 0).mean(axis=0))
    if fingerprint.orientation == "RAS" and agreement[named] >= CONSISTENT:
        return Chosen(named, f"it runs from left to right, and the masks agree in {agreement[named]:.0%} of the cases")
    distance = np.abs(np.median(steps, axis=0)) if agreement.max() >= CONSISTENT else np.abs(steps).mean(axis=0)
    best = int(np.where(agreement >= min(CONSISTENT, agreement.max()), distance, -1.0).argmax())
    return Chosen(best, f"their centres lie in the same order along it in {agreement[best]:.0%} of the cases")


def _steps(fingerprint: Fingerprint, labels: Labels, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """[pairs and cases, axis] way from the right one to the left one, as a share of the size of the image."""
    steps = []
    for case in fingerprint.cases:
        for left, right in pairs:
            centres = [case.centres.get(str(labels.names[name][0])) for name in (left, right)]
            if centres[0] is not None and centres[1] is not None:
                steps.append(np.subtract(centres[0], centres[1]))
    return np.array(steps)
