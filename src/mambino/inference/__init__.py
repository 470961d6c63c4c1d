"""Images to masks: predict()."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from pathlib import Path

import torch

from mambino.core.cluster import Caller
from mambino.core.dataset import Case
from mambino.core.machine import cores
from mambino.core.options import PredictOptions, Progress, silent
from mambino.core.provenance import versions
from mambino.core.records import checked, replacing, write
from mambino.core.threads import limited
from mambino.errors import DataError, Error, OptionError
from mambino.imageio import SUFFIXES, suffix
from mambino.imageio.dicom.concepts import read_codes
from mambino.imageio.inputs import find_images
from mambino.imageio.pairing import Problem
from mambino.inference.case import Desk, read_case, segment_case, set_up
from mambino.inference.cleaning import check_cleaning
from mambino.inference.elsewhere import Order, Parked, predict_elsewhere
from mambino.inference.ensemble import common_header
from mambino.inference.joint import Groups, expanded
from mambino.inference.ledger import (
    NAME,
    Entry,
    Predictions,
    digest_of,
    entries_in,
    failure,
    image_digest,
    merged,
    settled,
)
from mambino.inference.memory import size_of, taken
from mambino.inference.overlap import read_ahead, writer
from mambino.inference.results import Result, beside, mask_paths, named, write_result
from mambino.nn.device import choose_device, keep_allocations
from mambino.preprocessing.body import check_crop
from mambino.weights.bundle import digest, info


def predict(
    bundles: Path | Sequence[Path],
    inputs: Path | Sequence[Path],
    output: Path | None = None,
    options: PredictOptions = PredictOptions(),
    *,
    progress: Progress = silent,
) -> Predictions:
    """Segment images: one mask an image, on exactly its grid.

    Masks are named after their cases (`<case>.nii.gz` for volumes, `<case>.png` for pictures; `<case>.seg.dcm` with
    `options.format` "seg") and lie in `output`; `predict.json` beside them says how each was made and is brought
    up to date after each, so that a run that was stopped goes on where it was. A mask that the same bundles with
    the same options have made from the same image is kept. Any other mask is left alone unless `options.overwrite`.
    With `options.probabilities`, class probabilities are written to `output`/probabilities; with `options.uncertainty`
    maps to `output`/entropy and, of several members, `output`/mutual_information, and their means to the entries.

    A bad image, or one that is not there, does not stop the others: its entry has the status "failed" and says why.
    With `options.scheduler` the workers of a Dask cluster segment the images, each a task; names and record of the
    masks are given here, so that a case that was worked on twice has one mask and one entry.

    Args:
        bundles: one, or several whose logits are averaged; or a best.json, or the work folder that holds it: its
            bundles and its cleaning are used, and probabilities of different configurations are averaged.
        inputs: image files, or folders of images; channel files (`_0000`, ...) belong together. A folder, zip or
            DICOMDIR of DICOM is one case.
        output: folder for the masks; "predictions" in the current folder if None, for one image too.
        options: see `PredictOptions`.
        progress: called before each case and at the end.

    Returns:
        The entries of this run, sorted by case; files are paths that can be opened from here.

    Raises:
        OptionError: bundles that do not belong together, a label that they do not know, an output that is no
            folder, a missing device, a body to be found in pictures.
        WeightsError: a bundle cannot be used.
        DataError, FileFormatError: none of the inputs is an image to segment; the first says why.
        FileFormatError: the output folder cannot be written to, or the disk is full.
        ClusterError: there is no such scheduler, or its workers cannot do what they are given.
    """
    options = checked(options)
    if options.memory is not None:
        size_of(options.memory)
    groups, options = expanded(_paths(bundles), options)
    folder = _folder(output)
    device = choose_device("cpu" if options.scheduler else options.device)  # workers have devices of their own
    header, *_ = (common_header(group) for group in groups)
    files = tuple(path for group in groups for path in group)
    check_cleaning(options, header.labels)
    check_crop(options.crop, header.config)
    cases, problems = find_images(_paths(inputs), len(header.channels))
    masks = mask_paths(cases, folder, options.format)
    before = entries_in(folder)
    now = Predictions(
        bundles=tuple(map(digest, files)),
        networks=tuple(info(path).config.network.name for path in files),
        names=tuple(path.stem for path in files),
        options=named(options),
        codes=read_codes(options.codes, tuple(header.labels.names)) if options.format != "mask" else None,
        versions=versions(),
    )
    entries = _settled(cases, masks, before, now)

    def keep_record(*new: Entry) -> None:
        entries.update({entry.case: entry for entry in new})
        write(merged(replace(now, entries=tuple(entries.values())), before), folder / NAME)

    # Written before the network runs, it tells at once whether the folder can be written to.
    keep_record(*(_refusal(problem, before) for problem in problems))
    total = len(cases) + len(problems)
    todo = [case for case in cases if case.id not in entries]
    if todo and options.scheduler:
        orders = [Order(case, groups, masks[case.id], now, options, before.get(case.id)) for case in todo]
        predict_elsewhere(_made, orders, keep_record, lambda name: progress(len(entries), total, name))
        todo = []
    if todo:
        with threads(options.threads):
            desk = set_up(groups, options, device, folder)

            def finish(case: Case, result: Result | Error, begin: float) -> None:
                problem = (
                    result
                    if isinstance(result, Error)
                    else _saved(result, case, masks[case.id], begin, now, keep_record, precision=desk.options.precision)
                )
                if problem:
                    keep_record(failure(case.id, problem, before.get(case.id), time.perf_counter() - begin))

            _segment_all(
                todo, desk, finish, lambda number: progress(total - len(todo) + number, total, todo[number].id)
            )
    progress(total, total, "")
    return replace(now, entries=tuple(_from_here(entries[name], folder) for name in sorted(entries)))


def _segment_all(
    cases: Sequence[Case],
    desk: Desk,
    finish: Callable[[Case, Result | Error, float], None],
    progress: Callable[[int], None],
) -> None:
    """Segment cases; small ones are read and written while others go through the network."""
    small = {case.id for case in cases if desk.is_small(case)} if len(cases) > 1 else set()
    desk = replace(desk, beside=2 * max((taken(case.images) for case in cases if case.id in small), default=0.0))
    with (
        writer() as write,
        closing(read_ahead(cases, partial(read_case, desk=desk), lambda case: case.id in small)) as ready,
    ):
        for number in range(len(cases)):
            progress(number)
            case, read = next(ready)
            begin = time.perf_counter() - read.seconds
            made = partial(finish, case, segment_case(read, desk), begin)
            (write.later if case.id in small else write.now)(made)
            read.close()


def _made(order: Order, caller: Caller) -> Parked:
    """Segment one case on a worker of a cluster and leave its mask where the order says."""
    case, options, begin, kept = order.case, order.options, time.perf_counter(), list[Entry]()
    with threads(options.threads):
        desk = _kept(order.groups, order.now.bundles, options)
        read = read_case(case, replace(desk, folder=order.place))
        try:
            result = segment_case(read, desk)
            caller.check()
            parked = order.place / f"{uuid.uuid4().hex}-{order.mask.name}"
            precision = desk.options.precision
            problem = (
                result
                if isinstance(result, Error)
                else _saved(result, case, order.mask, begin, order.now, kept.append, place=parked, precision=precision)
            )
        finally:
            read.close()
    if problem:
        return Parked(failure(case.id, problem, order.before, time.perf_counter() - begin), None)
    return Parked(kept[0], parked)


@lru_cache(maxsize=1)
def _kept(groups: Groups, _digests: tuple[str, ...], options: PredictOptions) -> Desk:
    """Load bundles once for all the cases that a worker gets."""
    device = choose_device(options.device)
    return set_up(groups, options, device, Path())


def _saved(
    result: Result,
    case: Case,
    mask: Path,
    begin: float,
    now: Predictions,
    keep_record: Callable[[Entry], None],
    *,
    place: Path | None = None,
    precision: str,
) -> DataError | None:
    """Write the mask of a case, under another name if one is given; return why the format does not take it.

    A full disk ends the run, since the next case would meet it too.
    """
    try:
        # Recorded just before it gets its name: a run killed in between makes it again, and never disowns it.
        with replacing(place or mask) as part:
            write_result(part, mask, result, case, now)
            entry = Entry(
                case=case.id,
                status="made",
                file=Path(mask.name),
                seconds=round(time.perf_counter() - begin, 3),
                message=result.given.sentence,
                sha256=digest_of([part]),
                image=image_digest(case),
                made_by=now.made_by,
                doubt=result.doubt,
                voxels=prod(result.segmentation.grid.shape),
                precision=precision,
            )
            keep_record(entry)
    except DataError as error:
        return error
    return None


def _settled(
    cases: Sequence[Case], masks: dict[str, Path], before: dict[str, Entry], now: Predictions
) -> dict[str, Entry]:
    """Return the entries of the cases whose masks stay as they are."""
    found = {case.id: settled(case, masks[case.id], before.get(case.id), now.made_by) for case in cases}
    return {name: entry for name, entry in found.items() if entry and not _again(entry, masks[name], now.options)}


def _again(entry: Entry, mask: Path, options: PredictOptions) -> bool:
    """Tell whether a mask that is there is to be made again."""
    if entry.status == "untouched":
        return options.overwrite
    wanted = {"probabilities": options.probabilities, "entropy": options.uncertainty}
    return any(asked and not beside(mask, kind).exists() for kind, asked in wanted.items())


def _refusal(problem: Problem, before: dict[str, Entry]) -> Entry:
    """Return the entry of a case that cannot even be tried."""
    return failure(problem.case, DataError(problem.message, problem.remedy), before.get(problem.case))


def _folder(output: Path | None) -> Path:
    folder = Path("predictions") if output is None else Path(output)
    if folder.is_file() or (suffix(folder) in SUFFIXES and not folder.is_dir()):
        raise OptionError(f"the output must be a folder, got the file name {folder}", hint="leave the file name out")
    return folder


def _paths(given: Path | Sequence[Path]) -> tuple[Path, ...]:
    return (Path(given),) if isinstance(given, str | Path) else tuple(map(Path, given))


def _from_here(entry: Entry, folder: Path) -> Entry:
    return replace(entry, file=folder / entry.file) if entry.file else entry


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch so many threads inside the block; 0: one a core that this process may use."""
    keep_allocations()
    before = torch.get_num_threads()
    torch.set_num_threads(count or cores())
    try:
        with limited(count):
            yield
    finally:
        torch.set_num_threads(before)
