"""The whole path in one function: the file to read first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mambino.core.dataset import Case, Dataset
from mambino.core.options import (
    CalibrateOptions,
    CheckOptions,
    EvaluateOptions,
    PlanOptions,
    PredictOptions,
    PreprocessOptions,
    Progress,
    RunOptions,
    TrainOptions,
    silent,
)
from mambino.core.plan import Plan
from mambino.core.records import checked, read, write
from mambino.core.report import Candidate, Choice, Report
from mambino.errors import DataError
from mambino.evaluation import evaluate
from mambino.imageio import mask_suffix, write_labels
from mambino.imageio.folders import open_dataset, read_case_labels
from mambino.inference import predict
from mambino.inspection import check
from mambino.planning import plan
from mambino.preprocessing import preprocess
from mambino.training import train_fold
from mambino.training.calibration import calibrate
from mambino.training.elsewhere import train_all
from mambino.training.loop import Epoch
from mambino.training.processes import refuse_several
from mambino.training.recipes import chosen_recipe
from mambino.weights.bundle import info

FOLDS = (5, 10)
"""Parts of the training cases, one of which is held out: the larger number where that leaves two patients or more."""


def run(
    data: Path,
    work: Path,
    options: RunOptions = RunOptions(),
    *,
    on_stage: Callable[[str], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    progress: Progress = silent,
) -> Report:
    """Go from a folder of images to masks, a score and a page.

    Each network of `options.models` is trained once; the one with the best validation Dice on held-out
    training cases is chosen. Where there are test cases with masks, every network segments them and is scored:
    the chosen one in `predictions/` and `report/`, another in `predictions-<configuration>/` and
    `report-<configuration>/`. Where there are none, the chosen one segments the held-out cases, and the report
    says so. Started again with the same folders, it goes on where it stopped.

    Args:
        data: a data set with masks.
        work: where everything is written; see the README for what lies there.
        options: budgets and networks.
        on_stage: told the name of each stage as it begins.
        on_epoch: told each epoch of training.
        progress: told how far the other stages are.

    Returns:
        The report of the chosen network; its `choice` has the scores of all.

    Raises:
        DataError: `check` found errors in the data.
        OptionError: several processes were started, or the recipe does not take the values asked for; or a network
            was trained in `work` by another recipe.
    """
    options = checked(options)
    refuse_several("run")
    on_stage("check")
    refuse_errors(data, progress)
    on_stage("plan")
    planned, dataset = _plan_once(data, work, options, progress), open_dataset(data)
    names = chosen_configs(planned, options)
    wanted = {name: _train_options(work, name, options, dataset) for name in names}
    refuse_recipes(planned, wanted)
    on_stage("preprocess")
    dim: Literal[2, 3] = 2 if planned.config(names[0]).dim == 2 else 3
    preprocess(work, PreprocessOptions(dims=(dim,), scheduler=options.scheduler), progress=progress)
    trained = _trained(work, wanted, options.scheduler, on_stage, on_epoch)
    material, choice = _compared(dataset, trained, work)
    if _is_to_be_calibrated(trained[choice.maker.config]):
        on_stage(f"calibrate {choice.maker.config}")
        calibrate(trained[choice.maker.config].parent, CalibrateOptions(device=options.device), progress=progress)
    others = [c for c in choice.candidates if not c.chosen and material.cases == "test"]
    for candidate in (choice.chosen, *others):
        on_stage(f"predict {candidate.config}")
        _segment(trained[candidate.config], material, _place(work, "predictions", candidate), options, progress)
    for candidate in (*others, choice.chosen):  # the chosen one last: its report has the scores of all
        on_stage(f"evaluate {candidate.config}")
        report = _score(trained[candidate.config], material, work, replace(choice, made_by=candidate.config), progress)
        choice = report.choice or choice
    return report


def _trained(
    work: Path,
    wanted: dict[str, TrainOptions],
    scheduler: str | None,
    on_stage: Callable[[str], None],
    on_epoch: Callable[[Epoch], None],
) -> dict[str, Path]:
    """Train networks one after the other; on a cluster all at once, each epoch under the name of its network."""
    if scheduler:
        runs = [(work, options) for options in wanted.values()]
        made = train_all(runs, scheduler, on_run=lambda run: on_stage(f"train {run}"), on_epoch=on_epoch)
        return dict(zip(wanted, made, strict=True))
    trained = {}
    for name, options in wanted.items():
        on_stage(f"train {name}")
        trained[name] = train_fold(work, options, on_epoch=on_epoch)
    return trained


def refuse_errors(data: Path, progress: Progress = silent) -> None:
    """Raise the first error that `check` finds in a data set."""
    findings = check(data, CheckOptions(), progress=progress)
    errors = [finding for finding in findings.findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        raise DataError(
            f"{data} has {len(errors)} errors, first: {first.case}: {first.message}",
            hint=f"mambino check {data} lists all of them; mambino check {data} --repair -o COPY mends a copy",
        )


def chosen_configs(planned: Plan, options: RunOptions) -> tuple[str, ...]:
    """Return the names of the configurations to train, one a network."""
    dim = options.dim or planned.config(planned.default).dim
    models = options.models or (planned.config(planned.default).network.name,)
    names = tuple(f"{dim}d-{model}" for model in models)
    for name in names:
        planned.config(name)
    return names


def refuse_recipes(planned: Plan, wanted: Mapping[str, TrainOptions]) -> None:
    """Refuse values of a recipe that training would refuse, before hours go into preparing cases."""
    for name, options in wanted.items():
        chosen_recipe(planned.config(name), planned.labels, 1, options)


def _is_to_be_calibrated(bundle: Path) -> bool:
    """Tell whether cases were held out, and nothing was learnt of them yet."""
    header = info(bundle)
    return header.calibration is None and bool(header.provenance.held_out)


def _plan_once(data: Path, work: Path, options: RunOptions, progress: Progress) -> Plan:
    """Plan, unless the same run has planned before: its plan may have been edited, and training follows it."""
    asked, kept = work / "run.json", work / "plan.json"
    options = _what_plans(options)
    if asked.exists() and kept.exists() and _what_plans(read(RunOptions, asked)) == options:
        planned = read(Plan, kept)
        if Path(planned.folder).resolve() == data.resolve():
            return planned
    planned = plan(data, work, _plan_options(options), progress=progress)
    write(options, asked)
    return planned


def _what_plans(options: RunOptions) -> RunOptions:
    """Return the options without those that no plan depends on: where to run, what to tell, and how to learn."""
    return replace(options, scheduler=None, log_to=(), recipe="default", set=(), loss=())


def _plan_options(options: RunOptions) -> PlanOptions:
    model = options.models[0] if options.models else None
    return PlanOptions(
        memory=options.memory, params=options.params, minutes=options.minutes, device=options.device, model=model
    )


def _train_options(work: Path, name: str, options: RunOptions, dataset: Dataset) -> TrainOptions:
    patients = len({case.patient or case.id for case in dataset.training})
    few, many = FOLDS
    return TrainOptions(
        config=name,
        folds=many if patients >= 2 * many else few,
        epochs=options.epochs,
        minutes=options.minutes,
        device=options.device,
        seed=options.seed,
        recipe=options.recipe,
        set=options.set,
        loss=options.loss,
        log_to=options.log_to,
        resume=(work / "runs" / f"{name}-0").exists(),
    )


@dataclass(frozen=True, slots=True)
class _Material:
    """Images to segment, the folder of their masks, and what they are to the networks."""

    images: list[Path]
    truth: Path
    cases: Literal["test", "held out"]


def _compared(dataset: Dataset, trained: dict[str, Path], work: Path) -> tuple[_Material, Choice]:
    """Choose a network by its Dice on held-out cases, and find what to score it on."""
    headers = {name: info(bundle) for name, bundle in trained.items()}
    best = max(headers, key=lambda name: headers[name].provenance.score or 0.0)
    material = _test_material(dataset, headers[best].provenance.held_out, work)
    candidates = tuple(
        Candidate(
            config=name,
            network=header.config.network.name,
            parameters=header.parameters,
            validation=header.provenance.score,
            chosen=name == best,
        )
        for name, header in headers.items()
    )
    return material, Choice(cases=material.cases, made_by=best, candidates=candidates)


def _test_material(dataset: Dataset, held_out: tuple[str, ...], work: Path) -> _Material:
    """Return the images to segment and a folder with the truth for them, as label numbers."""
    tested = [case for case in dataset.test if case.label]
    if tested and dataset.codes is None:
        return _Material(_images(tested), _folder(tested), "test")
    cases = tested or [case for case in dataset.training if case.id in held_out]
    for case in cases:
        target = work / "truth" / (case.id + mask_suffix(case.images[0]))
        write_labels(target, read_case_labels(case, dataset), like=case.images[0])
    return _Material(_images(cases), work / "truth", "test" if tested else "held out")


def _segment(bundle: Path, material: _Material, folder: Path, options: RunOptions, progress: Progress) -> None:
    """Segment all images; masks that other weights have left in the folder are made again."""
    chosen = PredictOptions(mirror=options.mirror, device=options.device, overwrite=True, scheduler=options.scheduler)
    failed = predict(bundle, material.images, folder, chosen, progress=progress).failed
    if failed:
        raise DataError(f"{len(failed)} of {len(material.images)} images could not be segmented, first {failed[0]}")


def _score(bundle: Path, material: _Material, work: Path, choice: Choice, progress: Progress) -> Report:
    """Compare the masks of one network with the truth."""
    made, output = (_place(work, kind, choice.maker) for kind in ("predictions", "report"))
    images, curves = material.images[0].parent, bundle.parent / "log.jsonl"
    options = EvaluateOptions(images=images, labels=work / "plan.json", curves=curves)
    return evaluate(made, material.truth, output, options, choice=choice, progress=progress)


def _place(work: Path, kind: str, candidate: Candidate) -> Path:
    """Return where masks or report of a network lie: the chosen one's need no further name."""
    return work / (kind if candidate.chosen else f"{kind}-{candidate.config}")


def _images(cases: list[Case]) -> list[Path]:
    return [path for case in cases for path in case.images]


def _folder(cases: list[Case]) -> Path:
    folders = {case.label.parent for case in cases if case.label}
    if len(folders) > 1:
        raise DataError(
            f"test masks lie in {len(folders)} folders, expected one: {', '.join(map(str, sorted(folders)))}"
        )
    return folders.pop()
