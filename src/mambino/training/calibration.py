"""How far probabilities can be believed: a temperature, and when not to trust a case, learnt from held-out cases.

The temperature is that of Guo et al., "On calibration of modern neural networks" (ICML 2017): one number that logits
are divided by, so that no mask changes. Threshold and margin are quantiles with the correction of split conformal
prediction (Angelopoulos and Bates, arXiv 2107.07511, section 1): for a case that is like the held-out ones, the chance
to be flagged is a tenth at most, and so is that of a Dice lower than the expected one less the margin.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, exp, floor, log
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mambino.core import machine
from mambino.core.calibration import Calibration
from mambino.core.labels import Labels
from mambino.core.options import CalibrateOptions, Progress, silent
from mambino.core.records import checked, read
from mambino.errors import DataError
from mambino.metrics.expected import expected_dice
from mambino.metrics.overlap import counts, dice
from mambino.nn.device import choose_device, keep_allocations
from mambino.preprocessing.store import Store
from mambino.training.half import agreement
from mambino.training.precision import Precision
from mambino.training.runs import Folder, Run
from mambino.training.sampling import Readable
from mambino.training.validation import Look, look
from mambino.weights.bundle import Bundle, load, save

RARE = 0.1
"""Share of cases like the held-out ones that are flagged, or fall short by more than the margin, at most."""
FEWEST = ceil(1 / RARE) - 1
"""Cases of which a tenth can be told."""
SAMPLE = 20_000_000
"""Logits that are kept to fit the temperature to; voxels are drawn at random, equally many of each case."""
RANGE = (0.05, 20.0)
"""Temperatures that are looked at."""


def calibrate(run: Path, options: CalibrateOptions = CalibrateOptions(), *, progress: Progress = silent) -> Calibration:
    """Fit the temperature of a trained network on the cases that its run held out, and learn when not to trust it.

    Both are written into `run/model.safetensors`, which is replaced. Masks do not change; probabilities do, and
    `predict` with `uncertainty` then says of each case what Dice it has at least, and whether it is to be trusted.
    Where the device has bfloat16, it is also measured whether masks stay the same with it, as at the end of `train`.

    Args:
        run: folder of a complete run, `WORK/runs/<configuration>-<fold>`.
        options: where to compute.
        progress: told which case is looked at; each is, twice.

    Raises:
        DataError: the run held no case out, or one is no longer prepared.
        FileFormatError: the folder holds no run, or the bundle cannot be written.
        WeightsError: the run is not complete.
    """
    options, folder = checked(options), Folder(run)
    described, bundle = read(Run, folder.options), load(folder.model)
    cases = _held_out(described, Store(run.parent.parent / "prepared" / f"{described.config.dim}d"), run)
    precision = Precision(choose_device(options.device))
    bundle.network.to(precision.device)
    threads = torch.get_num_threads()
    keep_allocations()
    torch.set_num_threads(options.threads or machine.cores())
    try:
        temperature, found = _calibrated(bundle, cases, precision, progress)
        half = agreement(bundle, cases, precision.device) or bundle.half
    finally:
        torch.set_num_threads(threads)
    save(replace(bundle, temperature=temperature, calibration=found, half=half), folder.model)
    return found


def _held_out(run: Run, store: Store, folder: Path) -> list[Readable]:
    if not run.held_out:
        raise DataError(
            f"{folder} held out no case to calibrate on", hint="train a fold: --fold 0, in place of --fold all"
        )
    missing = sorted(set(run.held_out) - set(store.ids()))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(run.held_out)} held-out cases are not prepared, the first is {missing[0]}",
            hint=f"prepare them: mambino preprocess {folder.parent.parent} --dims {run.config.dim}",
        )
    return [store.open(name) for name in run.held_out]


def _calibrated(
    bundle: Bundle, cases: Sequence[Readable], precision: Precision, progress: Progress
) -> tuple[float, Calibration]:
    """Look at each case twice: first for the temperature, then for what is expected with it."""
    network, config, labels = bundle.network.eval(), bundle.config, bundle.labels
    total, kept = 2 * len(cases), []
    for number, case in enumerate(cases):
        progress(number, total, case.id)
        seen = look(network, case, config, labels, precision)
        kept.append(_drawn(seen, SAMPLE // (labels.out_channels * len(cases)), number))
    logits, numbers = np.concatenate([x for x, _ in kept]), np.concatenate([y for _, y in kept])
    temperature = fit_temperature(logits, numbers, labels)
    pairs = []
    for number, case in enumerate(cases, len(cases)):
        progress(number, total, case.id)
        pairs.append(_expected(look(network, case, config, labels, precision), temperature, labels))
    progress(total, total, "")
    expected, true = zip(*[(e, d) for e, d in pairs if d is not None], strict=True) if pairs else ((), ())
    threshold, margin = limits(expected, true)
    return temperature, Calibration(
        cases=len(true),
        nll_before=round(nll(logits, numbers, labels, 1.0), 6),
        nll_after=round(nll(logits, numbers, labels, temperature), 6),
        dice=round(float(np.mean(true)), 6),
        expected_dice=round(float(np.mean(expected)), 6),
        threshold=threshold,
        margin=margin,
    )


def limits(expected: Sequence[float], true: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the threshold of the expected Dice and the margin, of held-out cases; None of too few.

    With n cases the threshold is the `floor(RARE (n + 1))`-th smallest expected Dice: fewer are below it. The margin is
    the `ceil((1 - RARE) (n + 1))`-th smallest shortfall: expected less true.
    """
    n = len(true)
    if n < FEWEST:
        return None, None
    short = sorted(e - d for e, d in zip(expected, true, strict=True))
    margin = short[min(n, ceil((1 - RARE) * (n + 1))) - 1]
    return round(sorted(expected)[floor(RARE * (n + 1)) - 1], 6), round(margin, 6)


def fit_temperature(logits: NDArray[np.float32], numbers: NDArray[np.integer], labels: Labels) -> float:
    """Return the temperature within `RANGE` with the least negative log likelihood of label numbers, to four digits."""
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - takes 0.1 s that no other verb needs

    def loss(x: float) -> float:
        return nll(logits, numbers, labels, exp(x))

    found = minimize_scalar(loss, bounds=tuple(map(log, RANGE)), method="bounded", options={"xatol": 1e-5})
    return float(f"{exp(found.x):.4g}")


def nll(logits: NDArray[np.float32], numbers: NDArray[np.integer], labels: Labels, temperature: float) -> float:
    """Return the mean negative log likelihood of label numbers; of regions the sum over their yes and no."""
    cold = logits.astype(np.float64) / temperature
    if labels.has_regions:
        truth = np.stack([np.isin(numbers, group) for group in labels.names.values()], 1)
        return float((np.logaddexp(0, cold) - truth * cold).sum(1).mean())
    top = cold.max(1)
    own = np.take_along_axis(cold, _channels(numbers, labels)[:, None], 1)[:, 0]
    return float((np.log(np.exp(cold - top[:, None]).sum(1)) + top - own).mean())


def _channels(numbers: NDArray[np.integer], labels: Labels) -> NDArray[np.int64]:
    """Return the output of each label number; the background's is the first."""
    table = np.zeros(max(labels.numbers) + 1, np.int64)
    for channel, (number,) in enumerate(labels.names.values(), 1):
        table[number] = channel
    found: NDArray[np.int64] = table[numbers]
    return found


def _drawn(seen: Look, most: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Draw voxels that somebody annotated, without repeats: logits [n, k] and label numbers [n]."""
    places = np.flatnonzero(seen.valid)
    if len(places) > most:
        places = np.random.default_rng(seed).choice(places, max(1, most), replace=False)
    flat = seen.logits.flatten(1)[:, torch.from_numpy(places)]
    return flat.T.cpu().numpy(), seen.truth.reshape(-1)[places].astype(np.int16)


def _expected(seen: Look, temperature: float, labels: Labels) -> tuple[float, float | None]:
    """Return the Dice that is expected of a case, 0 where nothing was found, and the true one."""
    cold = seen.logits / temperature
    shares = (cold.sigmoid() if labels.has_regions else cold.softmax(0)[1:]).cpu().numpy() * seen.valid
    masks = [mask & seen.valid for mask in seen.masks(labels)]
    found = [
        dice(counts(mask, np.isin(seen.truth, group), seen.valid))
        for mask, group in zip(masks, labels.names.values(), strict=True)
    ]
    known = [value for value in found if value is not None]
    return expected_dice(shares, masks) or 0.0, float(np.mean(known)) if known else None
