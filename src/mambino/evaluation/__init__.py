"""Two folders of masks to scores and a page: evaluate()."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from mambino.core.machine import cores
from mambino.core.options import EvaluateOptions, Progress, silent
from mambino.core.records import checked, dump, write_texts
from mambino.core.report import Choice, Report, Score
from mambino.errors import DataError
from mambino.evaluation.naming import Declared, declared, find_model
from mambino.evaluation.overlay import Overlay, find_images, overlay
from mambino.evaluation.page import page, read_curves
from mambino.evaluation.pairing import Pair, pair_up, read_pair
from mambino.evaluation.report import assemble, csv_text, examples
from mambino.evaluation.scoring import score_pair

# Starting processes costs about a second each; less work than this (s) is done by this one.
_WORTH_A_POOL = 3.0


def evaluate(
    predictions: Path,
    truth: Path,
    output: Path,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    choice: Choice | None = None,
    progress: Progress = silent,
) -> Report:
    """Compare two folders of masks; write cases.csv, report.json and report.html, all three or none.

    Masks are paired by name. A truth without a prediction is listed in `Report.missing` and in the page, and is in
    no mean: a caller that wants it to count must treat a report with missing cases as failed.

    Args:
        predictions: folder of masks to judge; formats may differ from those of the truth.
        truth: folder of masks to judge them by.
        output: folder for the report.
        options: tolerance, names of the labels, and what the page shows besides.
        choice: from which networks the one that made the predictions was chosen, where that is known.
        progress: told how many cases are done.

    Raises:
        DataError: a folder is empty, no case is in both, or the masks of a case differ in shape or place.
        FileFormatError: a mask, or a file named in the options, cannot be read; or the output not be written.
    """
    options = checked(options)
    if options.images and not options.images.is_dir():
        raise DataError(f"{options.images} is not a folder", hint="name the folder that holds the images")
    pairs, missing, extra = pair_up(predictions, truth)
    known = declared(options.labels, truth, pairs)
    training = read_curves(options.curves) if options.curves else ()
    model, expected, notes = find_model(predictions, [pair.case for pair in pairs])
    scores = _score(pairs, known, options, progress)
    report = assemble(
        scores, tuple(known.structures.labels.names), options, dataset=known.dataset, model=model, expected=expected
    )
    report = replace(report, missing=missing, extra=extra, notes=notes + report.notes)
    report = replace(report, choice=choice.scored(report.dice) if choice else None)
    shown = [(rank, _draw(pair, known, options)) for rank, pair in _chosen(report, pairs)]
    write_texts({
        output / "cases.csv": csv_text(report),
        output / "report.json": dump(report) + "\n",
        output / "report.html": page(report, shown, training),
    })
    return report


def _score(pairs: Sequence[Pair], known: Declared, options: EvaluateOptions, progress: Progress) -> tuple[Score, ...]:
    scores: list[Score] = []
    for i, found in enumerate(_scored(pairs, known, options)):
        progress(i + 1, len(pairs), pairs[i].case)
        scores += found
    return tuple(scores)


def _scored(pairs: Sequence[Pair], known: Declared, options: EvaluateOptions) -> Iterator[tuple[Score, ...]]:
    """Score the cases in order; the second tells whether the others are worth starting processes for."""
    work = partial(score_pair, structures=known.structures, options=options)
    begin = 0.0
    for pair in pairs[:2]:  # the first imports what reads its format
        begin = time.perf_counter()
        yield work(pair)
    seconds = (time.perf_counter() - begin) * len(pairs[2:])
    workers = min(options.workers or cores(), len(pairs[2:]))
    if workers < 2 or seconds < _WORTH_A_POOL:
        yield from map(work, pairs[2:])
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, pairs[2:])


def _chosen(report: Report, pairs: Sequence[Pair]) -> list[tuple[str, Pair]]:
    by_name = {pair.case: pair for pair in pairs}
    return [(rank, by_name[case]) for rank, case in examples(report)]


def _draw(pair: Pair, known: Declared, options: EvaluateOptions) -> Overlay:
    images = find_images(options.images, pair.case) if options.images else ()
    return overlay(pair.case, read_pair(pair, known.structures), known.structures.labels, images)
