"""The prepared cases of a run: which ones to learn from and which ones to validate on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambino.core.dataset import Case, Dataset
from mambino.core.fingerprint import Fingerprint
from mambino.core.labels import Labels
from mambino.core.options import TrainOptions
from mambino.core.plan import Config
from mambino.core.records import read
from mambino.errors import DataError, OptionError
from mambino.preprocessing.case import data_side
from mambino.preprocessing.store import Store, StoredCase
from mambino.training.sampling import Readable


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Prepared cases, none of them in both parts."""

    training: Sequence[Readable]
    held_out: Sequence[Readable]


def material(work: Path, config: Config, options: TrainOptions) -> Material:
    """Open the prepared cases of a configuration and split them by the fold asked for.

    Raises:
        DataError: nothing is prepared for this dimension.
        OptionError: there is no such fold.
    """
    folder = work / "prepared" / f"{config.dim}d"
    store = Store(folder)
    ids = sorted(store.ids()) if folder.is_dir() else []
    if not ids:
        raise DataError(
            f"{folder} holds no prepared cases",
            hint=f"prepare them: mambino preprocess {work} --dims {config.dim}",
        )
    cases = {name: store.open(name) for name in ids}
    _check_prepared_for(work, config, list(cases.values()))
    held_out = _held_out(ids, store, options)
    return Material(
        training=[case for name, case in cases.items() if name not in held_out],
        held_out=[case for name, case in cases.items() if name in held_out],
    )


def images(cases: Sequence[Readable], config: Config) -> int:
    """Return how many images a network learns from: cases, or all their slices where it sees slices."""
    return len(cases) if config.slice_axis is None else sum(case.shape[0] for case in cases)


def _check_prepared_for(work: Path, config: Config, cases: Sequence[StoredCase]) -> None:
    """Refuse cases that another plan prepared, and a folder that lacks some."""
    again = f"prepare them: mambino preprocess {work} --dims {config.dim}"
    for case in cases:
        if case.facts.origin.data != data_side(config):
            raise DataError(f"case {case.id} was prepared with other settings than plan.json has now", hint=again)
    measured = work / "fingerprint.json"
    wanted = [facts.id for facts in read(Fingerprint, measured).cases] if measured.exists() else []
    missing = sorted(set(wanted) - {case.id for case in cases})
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} cases are not prepared, the first is {missing[0]}", hint=again
        )


def _held_out(ids: Sequence[str], store: Store, options: TrainOptions) -> set[str]:
    """Return the names of the cases of the fold; cases of one patient are never in two."""
    if isinstance(options.fold, str):
        return set()
    if options.fold >= options.folds:
        raise OptionError(
            f"there is no fold {options.fold} of {options.folds}; the first one is 0",
            hint=f"choose --fold 0 to {options.folds - 1}, or all",
        )
    known = tuple(Case(id=name, images=(), patient=store.patient(name)) for name in ids)
    dataset = Dataset(name="", folder=store.folder, channels=(), labels=Labels(names={"any": (1,)}), training=known)
    return set(dataset.folds(options.folds, options.seed)[options.fold])
