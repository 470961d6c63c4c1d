"""What is known of the masks besides their voxels: names of labels and of the data set, and what made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambino.core import records
from mambino.core.plan import Plan
from mambino.core.report import Expected, Model
from mambino.errors import DataError, FileFormatError
from mambino.evaluation.pairing import Pair, Structures
from mambino.imageio.description import describe
from mambino.imageio.folders import open_dataset
from mambino.imageio.masks import find_labels
from mambino.weights import bundle


@dataclass(frozen=True, slots=True)
class Declared:
    """What is to be scored, and the name of the data set, empty if not known."""

    structures: Structures
    dataset: str = ""


def declared(given: Path | None, truth: Path, pairs: Sequence[Pair]) -> Declared:
    """Return what `given` declares, or the dataset.json beside the truths; else what the masks themselves hold.

    Args:
        given: dataset.json, plan.json, a bundle, or the folder of a data set.
        truth: folder of truths.
        pairs: whose numbers name themselves where nothing else does.

    Raises:
        FileFormatError: the file cannot be read.
        DataError: it declares no labels, or all masks are empty.
    """
    beside = truth.resolve().parent / "dataset.json"
    if given is None:
        return _described(beside) if beside.is_file() else Declared(_undeclared(pairs))
    if given.is_dir():
        return _described(given / "dataset.json") if (given / "dataset.json").is_file() else _opened(given)
    if given.suffix == ".safetensors":
        header = bundle.header(given)
        return Declared(Structures(header.labels), header.provenance.dataset)
    if "configs" in _json(given):
        plan = records.read(Plan, given)
        return Declared(Structures(plan.labels), plan.dataset)
    return _described(given)


def find_model(predictions: Path, cases: Sequence[str]) -> tuple[Model | None, tuple[Expected, ...], tuple[str, ...]]:
    """Return what made the predictions of `cases`, how sure it was of each, and what a reader must know of it.

    All come from the record that `predict` leaves beside its masks; without one there is nothing to tell.

    Raises:
        FileFormatError: the record is damaged.
    """
    path = predictions / "predict.json"
    if not path.is_file():
        return None, (), ()
    made = _json(path)
    try:
        model, notes = _model(made, cases)
        return model, _expected(made, cases), notes
    except (TypeError, KeyError, AttributeError):
        raise FileFormatError(f"{path} is no record of predictions", "predict again, or remove it") from None


def _model(made: dict[str, Any], cases: Sequence[str]) -> tuple[Model, tuple[str, ...]]:
    entries = {entry["case"]: entry for entry in made.get("entries", ()) if entry.get("case") in set(cases)}
    by = {entry.get("made_by", "") for entry in entries.values()}
    foreign = len(cases) - sum(bool(entry.get("made_by")) for entry in entries.values())
    notes = []
    if foreign:
        notes.append(f"{foreign} of {len(cases)} predictions were not made by the model named here.")
    if len(by - {""}) > 1:
        notes.append("The predictions were made by several models, or with several options.")
    options = {name.replace("_", " "): _said(value) for name, value in made.get("options", {}).items()}
    bundles, networks = tuple(made.get("bundles", ())), tuple(made.get("networks", ()))
    return Model(bundles=bundles, networks=networks, options=options), tuple(notes)


def _expected(made: dict[str, Any], cases: Sequence[str]) -> tuple[Expected, ...]:
    """Leave out masks that have changed since, of which the record knows no more than that they are there."""
    entries = {entry["case"]: entry for entry in made.get("entries", ()) if entry.get("status") in {"made", "kept"}}
    doubts = {case: entries[case]["doubt"] for case in cases if entries.get(case, {}).get("doubt")}
    return tuple(
        Expected(
            case=case,
            dice=_number(doubt.get("expected_dice")),
            at_least=_number(doubt.get("dice_at_least")),
            trusted=None if doubt.get("trusted") is None else bool(doubt["trusted"]),
        )
        for case, doubt in doubts.items()
    )


def _number(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise TypeError(value)
    return float(value)


def _said(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _described(path: Path) -> Declared:
    found = describe(path)
    structures = Structures(found.labels, found.codes, (found.codes,))
    return Declared(structures, found.name or path.resolve().parent.name)


def _opened(folder: Path) -> Declared:
    """A plain folder: predictions hold label numbers, or the same values as its masks."""
    found = open_dataset(folder)
    return Declared(Structures(found.labels, found.codes, (None, found.codes)), found.name)


def _undeclared(pairs: Sequence[Pair]) -> Structures:
    """Let numbers name themselves; where both sides know but one structure, its number may differ."""
    made, true = [pair.prediction for pair in pairs], [pair.truth for pair in pairs]
    try:
        expected, codes, _ = find_labels(true)
        predicted, predicted_codes, _ = find_labels(made)
    except DataError:  # one side is empty
        both, codes, _ = find_labels([*made, *true])
        return Structures(both, codes, (codes,))
    if len(expected.names) == len(predicted.names) == 1:
        return Structures(expected, codes, (predicted_codes,))
    both, codes, _ = find_labels([*made, *true])
    return Structures(both, codes, (codes,))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = records.from_json(path.read_bytes())
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FileFormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise FileFormatError(f"{path} holds no JSON object, but a {type(content).__name__}")
    return content
