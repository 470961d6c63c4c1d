"""The whole path in one function: the file to read first."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mambino.core.dataset import Case, Dataset
from mambino.core.options import (
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
from mambino.core.report import Report
from mambino.errors import DataError
from mambino.evaluation import evaluate
from mambino.imageio import mask_suffix, write_labels
from mambino.imageio.folders import open_dataset, read_case_labels
from mambino.inference import predict
from mambino.inspection import check
from mambino.planning import plan
from mambino.preprocessing import preprocess
from mambino.training import train
from mambino.training.loop import Epoch
from mambino.weights.bundle import info


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
    training cases segments the test cases, or, where there are none, the held-out cases themselves.
    Started again with the same folders, it goes on where it stopped.

    Args:
        data: a data set with masks.
        work: where everything is written; see the README for what lies there.
        options: budgets and networks.
        on_stage: told the name of each stage as it begins.
        on_epoch: told each epoch of training.
        progress: told how far the other stages are.

    Raises:
        DataError: `check` found errors in the data.
    """
    options = checked(options)
    on_stage("check")
    refuse_errors(data, progress)
    on_stage("plan")
    planned = _plan_once(data, work, options, progress)
    names = chosen_configs(planned, options)
    on_stage("preprocess")
    dim: Literal[2, 3] = 2 if planned.config(names[0]).dim == 2 else 3
    preprocess(work, PreprocessOptions(dims=(dim,)), progress=progress)
    bundles = []
    for name in names:
        on_stage(f"train {name}")
        bundles.append(train(work, _train_options(work, name, options), on_epoch=on_epoch))
    best = max(bundles, key=lambda path: info(path).provenance.score or 0.0)
    on_stage("predict")
    images, truth = _test_material(open_dataset(data), best, work)
    made = predict(
        best,
        images,
        work / "predictions",
        PredictOptions(mirror=options.mirror, device=options.device),
        progress=progress,
    )
    if made.failed:
        raise DataError(f"{len(made.failed)} of {len(images)} images could not be segmented, first {made.failed[0]}")
    on_stage("evaluate")
    shown = EvaluateOptions(images=images[0].parent, labels=work / "plan.json", curves=best.parent / "log.jsonl")
    return evaluate(work / "predictions", truth, work / "report", shown, progress=progress)


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


def _plan_once(data: Path, work: Path, options: RunOptions, progress: Progress) -> Plan:
    """Plan, unless the same run has planned before: its plan may have been edited, and training follows it."""
    asked, kept = work / "run.json", work / "plan.json"
    if asked.exists() and kept.exists() and read(RunOptions, asked) == options:
        planned = read(Plan, kept)
        if Path(planned.folder).resolve() == data.resolve():
            return planned
    planned = plan(data, work, _plan_options(options), progress=progress)
    write(options, asked)
    return planned


def _plan_options(options: RunOptions) -> PlanOptions:
    model = options.models[0] if options.models else None
    return PlanOptions(
        memory=options.memory, params=options.params, minutes=options.minutes, device=options.device, model=model
    )


def _train_options(work: Path, name: str, options: RunOptions) -> TrainOptions:
    return TrainOptions(
        config=name,
        epochs=options.epochs,
        minutes=options.minutes,
        device=options.device,
        seed=options.seed,
        resume=(work / "runs" / f"{name}-0").exists(),
    )


def _test_material(dataset: Dataset, bundle: Path, work: Path) -> tuple[list[Path], Path]:
    """Return the images to segment and a folder with the truth for them, as label numbers."""
    cases = [case for case in dataset.test if case.label]
    if cases and dataset.codes is None:
        return _images(cases), _folder(cases)
    if not cases:
        held_out = info(bundle).provenance.held_out
        cases = [case for case in dataset.training if case.id in held_out]
    for case in cases:
        target = work / "truth" / (case.id + mask_suffix(case.images[0]))
        write_labels(target, read_case_labels(case, dataset), like=case.images[0])
    return _images(cases), work / "truth"


def _images(cases: list[Case]) -> list[Path]:
    return [path for case in cases for path in case.images]


def _folder(cases: list[Case]) -> Path:
    folders = {case.label.parent for case in cases if case.label}
    if len(folders) > 1:
        raise DataError(
            f"test masks lie in {len(folders)} folders, expected one: {', '.join(map(str, sorted(folders)))}"
        )
    return folders.pop()
