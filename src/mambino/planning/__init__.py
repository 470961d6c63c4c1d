"""Choosing how images are prepared and what learns from them: from a data set to a plan."""

from pathlib import Path

from mambino.core.dataset import Dataset
from mambino.core.options import PlanOptions, Progress, silent
from mambino.core.plan import Plan
from mambino.core.records import checked, read, write
from mambino.errors import OptionError
from mambino.imageio.folders import open_dataset
from mambino.planning.measure import measured


def plan(data: Path, output: Path, options: PlanOptions = PlanOptions(), *, progress: Progress = silent) -> Plan:
    """Measure a data set once and decide how to learn from it.

    Writes `fingerprint.json`, which is kept as long as no file changes, and `plan.json`, which may be edited.

    Args:
        data: folder of the data set.
        output: work folder.
        options: the budget, and the network.
        progress: called after each case measured and each network timed.

    Raises:
        OptionError: `output` holds the plan of another data set, the network is not known, or it does not
            fit into the budget.
        DataError: the data set cannot be learnt from.
        FileFormatError: a file cannot be read or written.
    """
    options = checked(options)
    dataset = open_dataset(data)
    _refuse_other(dataset, output / "plan.json")
    fingerprint = measured(dataset, output / "fingerprint.json", workers=options.workers, progress=progress)
    # Processes that measure import this package; importing torch as well would cost each of them a second.
    from mambino.planning.choice import choose  # noqa: PLC0415

    chosen = choose(dataset, fingerprint, options, progress=progress)
    write(chosen, output / "plan.json")
    return chosen


def _refuse_other(dataset: Dataset, path: Path) -> None:
    """Refuse to replace the plan of another data set; one that has moved is still the same."""
    if not path.exists():
        return
    hint = f"correct it, or remove {path} to plan anew, or choose another output folder with -o"
    there = read(Plan, path, hint)
    folder = str(dataset.folder.resolve())
    if there.dataset != dataset.name or (there.folder != folder and Path(there.folder).is_dir()):
        raise OptionError(
            f"{path} is the plan of {there.dataset} in {there.folder}, not of {dataset.name} in {folder}",
            hint="choose another output folder with -o",
        )
