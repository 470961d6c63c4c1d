"""Held-out cases segmented by the bundles that have not learnt from them, and their Dice, kept case by case."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mambino.core.dataset import Case, Dataset
from mambino.core.grid import check_same_place
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.core.records import read, record, replacing, write
from mambino.core.scratch import Room, in_memory
from mambino.evaluation.pairing import Masks
from mambino.evaluation.scoring import select
from mambino.imageio import mask_suffix, read_labels, write_labels
from mambino.imageio.folders import read_case_images, read_case_labels
from mambino.inference.case import room_for
from mambino.inference.cleaning import cleaned, voxel_size
from mambino.inference.joint import probabilities
from mambino.inference.ledger import digest_of, image_digest
from mambino.inference.precision import choose_precision
from mambino.metrics import overlap
from mambino.preprocessing.reduction import likeliest
from mambino.selection.entrants import Entrant
from mambino.selection.postprocessing import Way
from mambino.weights.bundle import Bundle, digest, load

REMAKE = "remove it to have it made again"


@record
class MaskScore:
    """How good the mask of one contender is.

    Attributes:
        key: digest of all that the mask depends on.
        sha256: of the mask.
        dice: of each structure; None where neither mask has it.
        ways: digest of the ways to clean that were tried on it; empty if none were.
        tried: Dice of each structure after each of them.
    """

    key: str
    sha256: str
    dice: dict[str, float | None]
    ways: str = ""
    tried: tuple[dict[str, float | None], ...] = ()


@record
class CaseScores:
    """What is known of one held-out case; a file in `best/cases/`.

    Attributes:
        format: version of this record.
        sizes: of each structure in the truth (ml; square mm in 2D, or pixels); those that it has.
        seconds: that the bundle of each configuration took (s).
        masks: of each contender.
    """

    format: int = 1
    sizes: dict[str, float]
    seconds: dict[str, float]
    masks: dict[str, MaskScore]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and with what contenders are compared.

    Attributes:
        folder: `best/` in the work folder.
        dataset: whose training cases are segmented.
        entrants: by name.
        contenders: the configurations of each, by its name.
        options: of predicting.
        device: where the networks run.
        digests: of bundles, as far as they are known.
    """

    folder: Path
    dataset: Dataset
    entrants: Mapping[str, Entrant]
    contenders: Mapping[str, tuple[str, ...]]
    options: PredictOptions
    device: torch.device
    digests: dict[Path, str] = field(default_factory=dict)

    def bundle(self, name: str, case: str) -> Path:
        """Return the bundle of a configuration that has not learnt from a case."""
        entrant = self.entrants[name]
        return entrant.bundles[entrant.held_out[case]]

    def mask(self, contender: str, case: Case) -> Path:
        """Return where the mask of a contender lies."""
        return self.folder / contender / (case.id + mask_suffix(case.images[0]))

    def record(self, case: Case) -> Path:
        """Return where what is known of a case lies."""
        return self.folder / "cases" / f"{case.id}.json"


def segmented(bench: Bench, cases: Sequence[Case]) -> Iterator[tuple[Case, CaseScores]]:
    """Yield each case with its scores, once the masks of all contenders are there; those that are stay.

    The networks of one fold are in memory at a time, so cases of one fold are best given together.
    """
    loaded: dict[Path, Bundle] = {}
    for case in cases:
        known = read(CaseScores, bench.record(case), REMAKE) if bench.record(case).is_file() else None
        todo = [name for name in bench.contenders if not _is_kept(bench, name, case, known)]
        if not todo and known:
            yield case, known
            continue
        paths = {bench.bundle(config, case.id) for name in todo for config in bench.contenders[name]}
        if not paths <= set(loaded):
            loaded = {path: load(path, str(bench.device)) for path in sorted(paths)}
        found = _segmented(bench, case, todo, loaded, known)
        write(found, bench.record(case))
        yield case, found


def tried(bench: Bench, contender: str, case: Case, known: CaseScores, given: Sequence[Way]) -> MaskScore:
    """Return the scores of a case with the Dice of each way to clean; those that are known stay."""
    labels = bench.dataset.labels
    names, before = tuple(labels.names), known.masks[contender]
    asked = [way.options(names) for way in given]
    words = hashlib.sha256(repr([(one.smallest, one.largest, one.fill) for one in asked]).encode()).hexdigest()
    if before.ways == words:
        return before
    mask, truth = read_labels(bench.mask(contender, case), labels), read_case_labels(case, bench.dataset)
    dice = tuple(dice_of(cleaned(mask, one), truth) for one in asked)
    after = replace(before, ways=words, tried=dice)
    write(replace(known, masks={**known.masks, contender: after}), bench.record(case))
    return after


def dice_of(made: Segmentation, truth: Segmentation) -> dict[str, float | None]:
    """Return the Dice of each structure of two masks on one grid, as `evaluate` does; None where neither has it."""
    masks, labels = Masks(made.array, truth.array, truth.grid), truth.labels
    return {
        name: overlap.dice(overlap.counts(*select(masks, numbers, labels.ignore)))
        for name, numbers in labels.names.items()
    }


def _is_kept(bench: Bench, name: str, case: Case, known: CaseScores | None) -> bool:
    """Tell whether the mask of a contender is there and was made from the same."""
    before, mask = known.masks.get(name) if known else None, bench.mask(name, case)
    return (
        before is not None
        and before.key == _key(bench, name, case)
        and mask.is_file()
        and digest_of([mask]) == before.sha256
    )


def _key(bench: Bench, name: str, case: Case) -> str:
    """Digest everything that the mask of a contender and its scores depend on."""
    paths = [bench.bundle(config, case.id) for config in bench.contenders[name]]
    for path in paths:
        if path not in bench.digests:
            bench.digests[path] = digest(path)
    seen = (
        [bench.digests[path] for path in paths],
        (bench.options.mirror, bench.options.overlap, bench.options.precision),
        image_digest(case),
        digest_of([case.label]) if case.label else "",
        repr(bench.dataset.labels),
        sorted((bench.dataset.codes or {}).items()),
    )
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _segmented(
    bench: Bench, case: Case, todo: Sequence[str], loaded: Mapping[Path, Bundle], known: CaseScores | None
) -> CaseScores:
    truth = read_case_labels(case, bench.dataset)
    masks, seconds = dict(known.masks if known else {}), dict(known.seconds if known else {})
    configs = list(dict.fromkeys(config for name in todo for config in bench.contenders[name]))
    bench.folder.mkdir(parents=True, exist_ok=True)
    with _room(bench, case, len(configs)) as room:
        image = read_case_images(case, bench.dataset.channels, f"the data set {bench.dataset.name} has", room)
        check_same_place(image.grid, truth.grid)
        shares = {}
        for config in configs:
            begin, bundle = time.perf_counter(), loaded[bench.bundle(config, case.id)]
            options = replace(bench.options, precision=choose_precision((bundle,), bench.options, bench.device))
            shares[config] = probabilities(image, (bundle,), options, bench.device, room)
            seconds[config] = round(time.perf_counter() - begin, 4)
        for name in todo:
            chosen = [shares[config] for config in bench.contenders[name]]
            made = likeliest(chosen, image.grid, truth.labels, room=room or in_memory)
            with replacing(bench.mask(name, case)) as part:
                write_labels(part, made, like=case.images[0])
                sha256 = digest_of([part])
            masks[name] = MaskScore(key=_key(bench, name, case), sha256=sha256, dice=dice_of(made, truth))
    return CaseScores(sizes=_sizes(truth, truth.labels), seconds=seconds, masks=masks)


@contextmanager
def _room(bench: Bench, case: Case, configs: int) -> Iterator[Room | None]:
    """Lend room for the probabilities of several configurations at once."""
    more = 4 * bench.dataset.labels.out_channels * configs
    with room_for(case, bench.folder, bench.options, more) as room:
        yield room


def _sizes(truth: Segmentation, labels: Labels) -> dict[str, float]:
    voxel = voxel_size(truth.grid)
    found = {name: int(np.isin(truth.array, numbers).sum()) * voxel for name, numbers in labels.names.items()}
    return {name: size for name, size in found.items() if size}
