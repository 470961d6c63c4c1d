"""The commands. Each one parses, calls the function of the same name, and prints."""

import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml

from mambino.cli import console, tables
from mambino.cli.defaults import check_file, take_file
from mambino.cli.knowledge import Json, convert, cost, doctor, info, models, weights
from mambino.core.best import find_best
from mambino.core.options import (
    BestOptions,
    CalibrateOptions,
    CheckOptions,
    EvaluateOptions,
    PlanOptions,
    PredictOptions,
    PreprocessOptions,
    PretrainOptions,
    RunOptions,
    TrainOptions,
)
from mambino.core.provenance import NOT_FOR_CLINICAL_USE
from mambino.errors import OptionError

Flat = Parameter(name="*")

app = App(
    name="mambino",
    help=f"Mamba U-Nets that segment medical images on any machine. {NOT_FOR_CLINICAL_USE}",
    version_flags=["--version"],
    help_epilogue="--options FILE.toml, anywhere on the line, gives defaults for flags: a table a command, "
    "as in [train] and below it minutes = 30. Flags win.",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(
        negative="",
        show_default=True,
        consume_multiple=True,
        short_alias=lambda field, _: "-o" if field.name == "output" else None,
    ),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(console.guard(lambda: dispatch(sys.argv[1:] if arguments is None else arguments)))


def dispatch(arguments: list[str]) -> int | None:
    """Parse and run one command; `--options FILE.toml`, wherever it stands, gives defaults for its flags.

    Raises:
        OptionError: `--options` without a file.
        FileFormatError: the file cannot be read, is not TOML, or has a table of no command.
    """
    arguments, file = take_file(arguments)
    app.config = ()
    if file:
        check_file(file, commands=set(app))
        app.config = (Toml(file, must_exist=True),)
    try:
        return app(arguments, exit_on_error=False, print_error=False, result_action="return_value")  # type: ignore[no-any-return]
    except CycloptsError as error:
        console.complain(str(error).strip(), "mambino --help, or mambino COMMAND --help, lists what there is")
        return 2


@app.command
def check(data: Path, /, options: Annotated[CheckOptions, Flat] = CheckOptions(), *, json: Json = False) -> int:
    """Look at every file of a data set and report what would go wrong later."""
    from mambino.inspection import check as check_dataset

    with console.progress("check") as progress:
        findings = check_dataset(data, options, progress=progress)
    if json:
        tables.show_json(findings)
    else:
        tables.show_findings(findings)
    return 3 if findings.errors and not findings.copy else 0


@app.command
def plan(
    data: Path,
    /,
    *,
    output: Path,
    options: Annotated[PlanOptions, Flat] = PlanOptions(),
    explain: bool = False,
    json: Json = False,
) -> None:
    """Measure a data set and choose how to prepare, learn and segment it; write OUTPUT/plan.json.

    Args:
        output: the work folder.
        explain: print every number with its reason.
        json: print the plan as JSON.
    """
    from mambino.planning import plan as make_plan

    with console.progress("plan") as progress:
        planned = make_plan(data, output, options, progress=progress)
    if json:
        return tables.show_json(planned)
    if explain:
        console.table(
            ["configuration", "what", "value", "why"], [(r.config, r.field, r.value, r.why) for r in planned.reasons]
        )
    rows = []
    for name, c in planned.configs.items():
        mark = "*" if name == planned.default else ""
        step = c.step or "not timed"
        rows.append((
            name + mark,
            tables.joined(c.spacing),
            tables.joined(c.patch),
            c.batch,
            c.normalise[0].scheme,
            c.memory,
            step,
        ))
    console.table(["configuration", "spacing", "patch", "batch", "intensity", "GiB", "s a step"], rows)
    return console.say(f"plan written to {output / 'plan.json'} (* is the default; --explain gives the reasons)")


@app.command
def preprocess(
    work: Path, /, options: Annotated[PreprocessOptions, Flat] = PreprocessOptions(), *, json: Json = False
) -> None:
    """Crop, resample, normalise and store every training case of a planned data set."""
    from mambino.preprocessing import preprocess as prepare_all

    with console.progress("preprocess") as progress:
        folder = prepare_all(work, options, progress=progress)
    _print_path(folder, json, "prepared")


@app.command
def train(work: Path, /, options: Annotated[TrainOptions, Flat] = TrainOptions(), *, json: Json = False) -> None:
    """Train a network on prepared cases; Ctrl-C saves, --resume goes on."""
    from mambino.training import train as train_network
    from mambino.training.processes import speaks

    made = train_network(
        work, options, on_epoch=console.show_epoch, on_init=tables.show_start, on_fold=console.show_fold
    )
    if speaks():
        _print_path(made, json, "models" if isinstance(made, tuple) else "model")


@app.command
def pretrain(
    folder: Path, /, *, output: Path, options: Annotated[PretrainOptions, Flat] = PretrainOptions(), json: Json = False
) -> None:
    """Teach an encoder to tell pictures in folders by class, for train --init; Ctrl-C saves, --resume goes on.

    Args:
        folder: FOLDER/train/CLASS/*.png and FOLDER/val/CLASS/*.png; or FOLDER/CLASS/*.png, some of them held out.
        output: folder of the run.
        json: print the path as JSON.
    """
    from mambino.training.pretraining import pretrain as pretrain_network
    from mambino.training.processes import speaks

    model = pretrain_network(folder, output, options, on_epoch=console.show_lesson)
    if speaks():
        _print_path(model, json, "model")


@app.command
def calibrate(
    folder: Path, /, options: Annotated[CalibrateOptions, Flat] = CalibrateOptions(), *, json: Json = False
) -> None:
    """Fit the temperature of a trained network on the cases held out, and learn when not to trust a prediction.

    Args:
        folder: of a complete run, WORK/runs/CONFIGURATION-FOLD; its bundle is replaced.
        json: print what was learnt as JSON.
    """
    from mambino.training.calibration import calibrate as calibrate_run

    with console.progress("calibrate") as progress:
        found = calibrate_run(folder, options, progress=progress)
    return tables.show_json(found) if json else tables.show_calibration(found)


@app.command
def predict(
    *files: Path,
    output: Path | None = None,
    options: Annotated[PredictOptions, Flat] = PredictOptions(),
    json: Json = False,
) -> int:
    """Segment images: mambino predict MODEL.safetensors [MORE MODELS] IMAGE|FOLDER [...].

    Args:
        files: one or more bundles (.safetensors), averaged, or the best.json of a work folder; then images or folders
            of images.
        output: folder for the masks; "predictions" in the current folder if not given.
        json: print what was done as JSON.
    """
    from mambino.inference import predict as segment

    bundles = [path for path in files if path.suffix == ".safetensors" or find_best(path)]
    images = [path for path in files if path not in bundles]
    if not bundles or not images:
        raise OptionError(
            f"predict needs at least one bundle (.safetensors) and one image, got {len(bundles)} and {len(images)}"
        )
    begin = time.perf_counter()
    with console.progress("predict") as progress:
        made = segment(bundles, images, output, options, progress=progress)
    seconds = time.perf_counter() - begin
    if json:
        tables.show_json(made)
    else:
        rows = [(e.case, e.status, e.file, e.seconds, e.message) for e in made.entries]
        console.table(["case", "status", "mask", "seconds", ""], rows)
        tables.show_speed(made.entries, seconds)
    for entry in made.entries:
        if entry.status == "failed":
            console.note(f"{entry.case}: {entry.message}")
    if made.doubtful:
        console.note(f"do not trust: {', '.join(made.doubtful)} (less sure than nine in ten held-out cases)")
    return _complain_of(made.failed, "could not be segmented")


@app.command
def evaluate(
    predictions: Path,
    truth: Path,
    /,
    *,
    output: Path,
    options: Annotated[EvaluateOptions, Flat] = EvaluateOptions(),
    json: Json = False,
) -> int:
    """Compare two folders of masks; write cases.csv, report.json and report.html to OUTPUT.

    Args:
        predictions: masks to judge.
        truth: masks to judge them by, with the same names.
        output: the report's folder.
        json: print the report as JSON.
    """
    from mambino.evaluation import evaluate as compare_masks

    with console.progress("evaluate") as progress:
        report = compare_masks(predictions, truth, output, options, progress=progress)
    tables.show_report(report, output, json)
    return _complain_of(report.missing, "have no prediction and are not in the means")


@app.command
def run(
    data: Path,
    /,
    *,
    output: Path,
    options: Annotated[RunOptions, Flat] = RunOptions(),
    json: Json = False,
) -> None:
    """Do the whole path: check, plan, preprocess, train, predict, evaluate.

    Of several networks the one with the best Dice on held-out training cases is chosen.

    Args:
        data: a data set with masks.
        output: the work folder.
        json: print the report as JSON, with the scores of all networks.
    """
    from mambino.workflow import run as run_all

    with console.stages() as (on_stage, progress):
        report = run_all(data, output, options, on_stage=on_stage, on_epoch=console.show_epoch, progress=progress)
    tables.show_report(report, output / "report", json)


@app.command
def best(work: Path, /, options: Annotated[BestOptions, Flat] = BestOptions(), *, json: Json = False) -> None:
    """Say which of all that was trained to predict with, and why: folds, 2D and 3D, ensembles, cleaning.

    Held-out training cases alone decide. Writes WORK/best.json, which predict takes in place of bundles.
    """
    from mambino.selection import best as choose_best

    with console.progress("best") as progress:
        chosen = choose_best(work, options, progress=progress)
    return tables.show_json(chosen) if json else tables.show_best(chosen, work)


def _complain_of(cases: tuple[str, ...], what: str) -> int:
    if not cases:
        return 0
    console.complain(f"{len(cases)} cases {what}: {', '.join(cases[:5])}{' …' if len(cases) > 5 else ''}")
    return 3


def _print_path(path: Path | tuple[Path, ...], json: bool, what: str) -> None:
    import json as text

    if json:
        return console.say(text.dumps({what: str(path) if isinstance(path, Path) else [*map(str, path)]}))
    return console.say(f"{what}: {path}" if isinstance(path, Path) else "\n".join([f"{what}:", *map(str, path)]))


for command in (models, cost, convert, weights, info, doctor):
    app.command(command)
