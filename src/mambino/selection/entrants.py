"""Which configurations were trained in a work folder, and which cases each of their runs has not learnt from."""

from dataclasses import dataclass
from pathlib import Path

from mambino.core.dataset import Dataset
from mambino.core.plan import Plan
from mambino.core.records import read
from mambino.errors import DataError, OptionError
from mambino.inference.ensemble import common_header
from mambino.training.runs import Folder, Run
from mambino.weights.bundle import info


@dataclass(frozen=True, slots=True)
class Entrant:
    """A configuration with complete runs.

    Attributes:
        name: of the configuration in the plan.
        folds: how many parts the cases were split into.
        bundles: of each fold that was trained.
        held_out: the fold that each case was held out of.
    """

    name: str
    folds: int
    bundles: dict[int, Path]
    held_out: dict[str, int]

    @property
    def missing(self) -> tuple[int, ...]:
        """Folds that were not trained."""
        return tuple(fold for fold in range(self.folds) if fold not in self.bundles)


def find_entrants(work: Path, plan: Plan, dataset: Dataset) -> tuple[tuple[Entrant, ...], tuple[str, ...]]:
    """Find the complete runs of a work folder.

    Returns:
        Configurations by name, and sentences on runs that are left out and folds that are missing.

    Raises:
        DataError: there is no complete run with held-out cases, or one has learnt from other data than the plan's.
        OptionError: runs of a configuration split the cases differently, or see images differently.
    """
    runs: dict[str, list[tuple[Run, Path]]] = {}
    notes = []
    places = work / "runs"
    for folder in map(Folder, sorted(places.iterdir()) if places.is_dir() else []):
        if not folder.options.is_file():
            continue
        run = read(Run, folder.options)
        if not folder.model.is_file():
            notes.append(f"{folder.path.name} is not complete and is left out")
        elif not run.held_out:
            notes.append(f"{folder.path.name} has learnt from every case, so nothing tells how good it is; left out")
        else:
            _check_data(folder, plan, dataset)
            runs.setdefault(run.name, []).append((run, folder.model))
    if not runs:
        raise DataError(
            f"{places} holds no complete run with held-out cases", hint=f"train: mambino train {work} --fold all-folds"
        )
    entrants = tuple(_entrant(name, runs[name]) for name in sorted(runs))
    notes += [
        f"{one.name}: of {one.folds} folds, {', '.join(map(str, one.missing))} {_verb(one.missing)} missing"
        for one in entrants
        if one.missing
    ]
    return entrants, tuple(notes)


def shared_cases(entrants: tuple[Entrant, ...]) -> tuple[str, ...]:
    """Return the cases that every configuration has held out once, fold by fold.

    Raises:
        DataError: there is none.
    """
    first, *others = entrants
    shared = [case for case in first.held_out if all(case in other.held_out for other in others)]
    if not shared:
        raise DataError(
            f"no case was held out by all of {', '.join(one.name for one in entrants)}, so nothing compares them",
            hint="train the same folds of each, with the same --folds and --seed",
        )
    return tuple(sorted(shared, key=lambda case: (*(one.held_out[case] for one in entrants), case)))


def _entrant(name: str, runs: list[tuple[Run, Path]]) -> Entrant:
    splits = sorted({(run.options.folds, run.options.seed) for run, _ in runs})
    if len(splits) > 1:
        (folds, seed), (others, other_seed), *_ = splits
        raise OptionError(
            f"runs of {name} split the cases differently: --folds {folds} --seed {seed} "
            f"and --folds {others} --seed {other_seed}",
            hint="remove the runs of one of them",
        )
    bundles, held_out = {}, {}
    for run, model in sorted(runs, key=lambda pair: int(pair[0].options.fold)):
        fold = int(run.options.fold)
        bundles[fold] = model
        held_out.update(dict.fromkeys(run.held_out, fold))
    common_header(tuple(bundles.values()))
    return Entrant(name, splits[0][0], bundles, held_out)


def _check_data(folder: Folder, plan: Plan, dataset: Dataset) -> None:
    """Refuse a run that has learnt from other data than those of the plan."""
    header = info(folder.model)
    for what, theirs, ours in (
        ("data set", header.provenance.dataset, plan.dataset),
        ("channels", header.channels, plan.channels),
        ("labels", header.labels.names, plan.labels.names),
    ):
        if theirs != ours:
            raise DataError(
                f"{folder.path} has learnt from other data than the plan's: its {what} {theirs}, the plan's {ours}",
                hint="remove the folder, or plan again in another work folder",
            )
    unknown = sorted(set(header.provenance.held_out) - {case.id for case in dataset.training})
    if unknown:
        raise DataError(
            f"{folder.path} held out {unknown[0]}, which is no training case of {dataset.folder}",
            hint="remove the folder and train again",
        )


def _verb(folds: tuple[int, ...]) -> str:
    return "is" if len(folds) == 1 else "are"
