"""What to predict with: best() compares what was trained on held-out cases, and chooses."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

from mambino.core.best import NAME, Best, Gain, Member
from mambino.core.dataset import Case, Dataset
from mambino.core.options import BestOptions, PredictOptions, Progress, silent
from mambino.core.plan import read_plan
from mambino.core.provenance import versions
from mambino.core.records import checked, write
from mambino.core.report import Statistic
from mambino.imageio import read_labels
from mambino.imageio.folders import open_dataset, read_case_labels
from mambino.inference import threads
from mambino.inference.cleaning import cleaned
from mambino.inference.memory import size_of
from mambino.nn.device import choose_device
from mambino.selection.comparing import Dice, case_means, compare, counted, reason, spread
from mambino.selection.entrants import Entrant, find_entrants, shared_cases
from mambino.selection.postprocessing import chosen_options, improves, proposals, ways
from mambino.selection.scores import Bench, CaseScores, dice_of, segmented, tried
from mambino.weights.bundle import digest

FEW = 50
"""Cases below which intervals are wide, and known to be approximate."""


def best(work: Path, options: BestOptions = BestOptions(), *, progress: Progress = silent) -> Best:
    """Choose what to predict with among all that was trained in a work folder, and how to clean the masks.

    Each held-out training case is segmented by the bundle that has not learnt from it, in full, as predict does it, and
    scored on its own grid. Compared are the configurations and every two of them, by the mean of their probabilities.
    Of those that no other is better than by more than the interval of the paired difference, the cheapest is
    chosen. For its masks, ways to clean are tried on each structure. Test cases are not looked at.

    Masks and scores are kept in `best/`, so that a comparison that was stopped goes on; what was chosen is written
    to `best.json`, which predict takes in place of bundles.

    Args:
        work: a work folder with trained runs.
        options: see `BestOptions`.
        progress: told how many cases are done, segmenting and cleaning.

    Returns:
        What was chosen, with the scores of every contender.

    Raises:
        DataError: there is no plan or data set, no complete run with held-out cases, no case that all configurations
            have held out, or a run has learnt from other data.
        OptionError: runs of a configuration do not belong together, or a device is missing.
        FileFormatError: an image, mask or record cannot be read, or the folder not be written to.
    """
    options, work = checked(options), Path(work)
    if options.memory is not None:
        size_of(options.memory)
    plan = read_plan(work)
    dataset = open_dataset(Path(plan.folder))
    entrants, notes = find_entrants(work, plan, dataset)
    wanted = shared_cases(entrants)
    by_name = {case.id: case for case in dataset.training}
    cases = [by_name[name] for name in wanted]
    bench = _bench(work, dataset, entrants, options)
    known: dict[str, CaseScores] = {}
    with threads(options.threads):
        progress(0, 2 * len(cases), cases[0].id)
        for case, found in segmented(bench, cases):
            known[case.id] = found
            progress(len(known), 2 * len(cases), case.id)
    patients = {case.id: case.patient or case.id for case in cases}
    contenders = compare(
        {name: {case: found.masks[name].dice for case, found in known.items()} for name in bench.contenders},
        bench.contenders,
        {name: _seconds(bench, name, known) for name in bench.contenders},
        patients,
    )
    chosen = next(one for one in contenders if one.chosen)
    gains, after = _cleaning(bench, chosen.name, cases, known, patients, progress)
    result = Best(
        dataset=plan.dataset,
        members=_members(bench, chosen.configs, work),
        mirror=options.mirror,
        cases=len(cases),
        contenders=contenders,
        gains=tuple(gains),
        cleaned=after,
        reason=reason(contenders),
        notes=(*notes, *_notes(entrants, dataset, cases)),
        versions=versions(),
    )
    write(result, work / NAME)
    progress(2 * len(cases), 2 * len(cases), "")
    return result


def _bench(work: Path, dataset: Dataset, entrants: Sequence[Entrant], options: BestOptions) -> Bench:
    names = [one.name for one in entrants]
    groups = [*((name,) for name in names), *combinations(names, 2)]
    return Bench(
        folder=work / "best",
        dataset=dataset,
        entrants={one.name: one for one in entrants},
        contenders={"+".join(group): group for group in groups},
        options=PredictOptions(
            mirror=options.mirror, memory=options.memory, precision=options.precision, device=options.device
        ),
        device=choose_device(options.device),
    )


def _seconds(bench: Bench, name: str, known: Mapping[str, CaseScores]) -> float:
    """Return the time a case with all bundles of a contender: that of one, measured, times their number (s)."""
    return sum(
        median(found.seconds[config] for found in known.values()) * len(bench.entrants[config].bundles)
        for config in bench.contenders[name]
    )


def _cleaning(
    bench: Bench,
    name: str,
    cases: Sequence[Case],
    known: Mapping[str, CaseScores],
    patients: Mapping[str, str],
    progress: Progress,
) -> tuple[list[Gain], Statistic]:
    """Return what cleaning gains, and the Dice with what is taken of it."""
    labels = bench.dataset.labels
    names = tuple(labels.names)
    before: Dice = {case.id: known[case.id].masks[name].dice for case in cases}
    given = ways({label: [size for one in known.values() if (size := one.sizes.get(label))] for label in names})
    found = {}
    for i, case in enumerate(cases):
        found[case.id] = tried(bench, name, case, known[case.id], given).tried
        progress(len(cases) + i, 2 * len(cases), case.id)
    scores: list[Dice] = [{case: dice[i] for case, dice in found.items()} for i in range(len(given))]
    gains: list[Gain] = []
    after = before
    for gains in proposals(scores, given, names, patients):
        after = _together(bench, name, cases, gains) if any(gain.taken for gain in gains) else before
        if improves(before, after, names):
            break
    values = counted({"before": before, "after": after})
    return gains, spread(case_means(values["after"]), patients)


def _together(bench: Bench, name: str, cases: Sequence[Case], gains: Sequence[Gain]) -> Dice:
    """Return the Dice of each case with all that is taken done at once."""
    asked, labels = chosen_options(gains), bench.dataset.labels
    return {
        case.id: dice_of(
            cleaned(read_labels(bench.mask(name, case), labels), asked), read_case_labels(case, bench.dataset)
        )
        for case in cases
    }


def _members(bench: Bench, configs: Sequence[str], work: Path) -> tuple[Member, ...]:
    return tuple(
        Member(config=config, fold=fold, bundle=path.relative_to(work), sha256=bench.digests.get(path) or digest(path))
        for config in configs
        for fold, path in sorted(bench.entrants[config].bundles.items())
    )


def _notes(entrants: Sequence[Entrant], dataset: Dataset, cases: Sequence[Case]) -> list[str]:
    """Say what the comparison rests on."""
    notes = []
    if len(cases) < len(dataset.training):
        notes.append(f"compared on the {len(cases)} of {len(dataset.training)} training cases that all have held out")
    if any(len(one.bundles) > 1 for one in entrants):
        notes.append(
            "each case was segmented by one bundle; predicting averages those of all folds, which is not scored"
        )
    if len({case.patient or case.id for case in cases}) < FEW:
        notes.append(f"intervals are known to hold from about {FEW} patients; with fewer they are approximate")
    return notes
