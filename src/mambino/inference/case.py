"""One case on its way: read and prepared, then segmented with what all cases share."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mambino.core.dataset import Case
from mambino.core.options import PredictOptions
from mambino.core.scratch import Room, in_memory, on_disk
from mambino.errors import Error
from mambino.imageio.inputs import Input, read_input
from mambino.inference.cleaning import cleaned
from mambino.inference.ensemble import logits, mean, members
from mambino.inference.joint import Groups, segment_jointly
from mambino.inference.memory import SMALL, allowance, fits, parts_of, stored, taken
from mambino.inference.precision import choose_precision
from mambino.inference.results import Result
from mambino.inference.uncertainty import doubt, maps
from mambino.ops.windows import Slab, Span
from mambino.preprocessing.case import Prepared, prepare, restore, restore_scores
from mambino.weights.bundle import Bundle, load


@dataclass(frozen=True, slots=True)
class Desk:
    """What all cases are segmented with.

    Attributes:
        ensembles: bundles in groups that look at images in one way.
        options: with the precision that was chosen.
        device: where the networks are.
        folder: where arrays go that memory has no room for.
        beside: bytes that others take while a small case goes through the network: one read, one written.
    """

    ensembles: tuple[tuple[Bundle, ...], ...]
    options: PredictOptions
    device: torch.device
    folder: Path
    beside: float = 0.0

    @property
    def more(self) -> int:
        """Bytes a voxel that the probabilities of several groups of bundles take."""
        return 4 * self.ensembles[0][0].labels.out_channels * len(self.ensembles) if len(self.ensembles) > 1 else 0

    def is_small(self, case: Case) -> bool:
        """Tell whether a case takes so little that the next one can be read, and the last one written, beside it."""
        large = self.options.probabilities or self.options.uncertainty or self.more > 0
        return not large and taken(case.images) <= SMALL * allowance(self.options.memory).bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """A case that was read, or why it was not; `seconds` are what that took, and `room` ends with `close`."""

    given: Input | Error
    prepared: Prepared | None
    room: Room | None
    close: Callable[[], None]
    seconds: float


def set_up(groups: Groups, options: PredictOptions, device: torch.device, folder: Path) -> Desk:
    """Load bundles and choose their precision."""
    ensembles = tuple(tuple(load(path, str(device)) for path in group) for group in groups)
    bundles = [bundle for group in ensembles for bundle in group]
    return Desk(ensembles, replace(options, precision=choose_precision(bundles, options, device)), device, folder)


def read_case(case: Case, desk: Desk) -> Ready:
    """Read a case and prepare it; joint groups of bundles prepare it in ways of their own."""
    bundle, options, stack = desk.ensembles[0][0], desk.options, ExitStack()
    begin = time.perf_counter()
    room = None
    try:
        room = stack.enter_context(room_for(case, desk.folder, options, desk.more))
        headers = options.format != "mask"
        given = read_input(case, bundle.channels, "the bundle takes", series=options.series, headers=headers, room=room)
        prepared = (
            prepare(given.image, bundle.config, room or in_memory, options.crop) if len(desk.ensembles) == 1 else None
        )
    except Error as error:
        return Ready(error, None, room, stack.close, time.perf_counter() - begin)
    except BaseException:
        stack.close()
        raise
    return Ready(given, prepared, room, stack.close, time.perf_counter() - begin)


def segment_case(read: Ready, desk: Desk) -> Result | Error:
    """Segment a case that was read; return what is wrong with it where something is."""
    if isinstance(read.given, Error):
        return read.given
    try:
        if read.prepared is None:
            return segment_jointly(read.given, desk.ensembles, desk.options, desk.device, read.room)
        return _segment(read.given, read.prepared, desk, read.room)
    except Error as error:
        return error


def _segment(given: Input, prepared: Prepared, desk: Desk, room: Room | None) -> Result:
    ensemble, options, device = desk.ensembles[0], desk.options, desk.device
    config, labels = ensemble[0].config, ensemble[0].labels

    def run(within: Span | None) -> Iterable[Slab]:
        return logits(ensemble, prepared.array, options, device, within)

    if options.uncertainty:
        return _doubted(given, prepared, ensemble, options, device)
    if options.probabilities:
        slabs = tuple(run(None))
        scores = restore_scores(lambda _: slabs, prepared, labels, config)
        mask = restore(lambda _: slabs, prepared, labels, config, room=room or in_memory)
        return Result(given, cleaned(mask, options), scores)
    allowed = allowance(options.memory)
    allowed = replace(allowed, bytes=allowed.bytes - desk.beside)
    parts = parts_of(prepared, ensemble, allowed, options.overlap) if device.type == "cpu" else []
    mask = restore(run, prepared, labels, config, parts=parts, room=room or in_memory)
    return Result(given, cleaned(mask, options), None)


def _doubted(
    given: Input, prepared: Prepared, ensemble: Sequence[Bundle], options: PredictOptions, device: torch.device
) -> Result:
    """Segment with the logits of each member at hand, so that the network runs no more often than without."""
    config, labels = ensemble[0].config, ensemble[0].labels
    temperatures, runs = zip(*members(ensemble, prepared.array, options, device), strict=True)
    kept = [tuple(run) for run in runs]
    together = tuple(mean(kept, temperatures))

    def shares(slabs: Iterable[Slab]) -> NDArray[np.float32]:
        return restore_scores(lambda _: slabs, prepared, labels, config)

    found = maps((shares(mean([slabs], [heat])) for slabs, heat in zip(kept, temperatures, strict=True)), labels)
    mask = cleaned(restore(lambda _: together, prepared, labels, config), options)
    unsure = doubt(found, mask, [bundle.calibration for bundle in ensemble])
    return Result(given, mask, shares(together) if options.probabilities else None, found, unsure)


@contextmanager
def room_for(case: Case, folder: Path, options: PredictOptions, more: int = 0) -> Iterator[Room | None]:
    """Lend room in a folder for the arrays of a case, `more` bytes a voxel; None where memory has it."""
    voxels, size = stored(case.images)
    if fits(voxels, size + more, allowance(options.memory)):
        yield None
        return
    with on_disk(folder) as room:
        yield room
