"""Trackers: what `log.jsonl` holds, sent to TensorBoard, MLflow or Weights & Biases as well.

The log stays the truth. A tracker that fails, or does not answer, is let go with a warning, and training goes on. What
is sent are numbers of epochs and plain values of the plan and of the options; no path, no name of a case.
"""

import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mambino.core.options import Tracker
from mambino.core.records import read, record, write
from mambino.errors import MambinoWarning, MissingExtraError

Numbers = Mapping[str, float]

PATIENCE = 60.0
"""Seconds that a tracker has for an epoch; one that takes longer is let go."""


@record
class Tracked:
    """What trackers know of a run already; `tracking.json` in its folder.

    Attributes:
        ids: of the run, by tracker.
        step: up to which numbers were sent. A run that goes back to an earlier state does not send steps twice.
    """

    ids: dict[str, str]
    step: int = 0


class Sink(Protocol):
    """Somewhere to send numbers to."""

    id: str

    def send(self, numbers: Numbers, step: int) -> None:
        """Send the numbers of an epoch."""

    def close(self) -> None:
        """Send what is left."""


@contextmanager
def tracked(
    names: tuple[Tracker, ...], folder: Path, title: str, facts: Mapping[str, Any]
) -> Iterator[Callable[[Any], None]]:
    """Lend a function that sends an epoch to all trackers; nothing is sent twice, also by a run that goes on.

    Args:
        names: of trackers.
        folder: of the run.
        title: of the run.
        facts: what the run was started with, plain values by name.

    Raises:
        MissingExtraError: a tracker is not installed.
    """
    path = folder / "tracking.json"
    known = read(Tracked, path) if path.exists() else Tracked(ids={})
    sinks: dict[str, Sink] = {}
    for name in names:
        made = _tried(name, partial(SINKS[name], folder, known.ids.get(name, ""), title, plain(facts)))
        if made is not None:
            sinks[name] = made
    if sinks:
        known = replace(known, ids=known.ids | {name: sink.id for name, sink in sinks.items()})
        write(known, path)

    def send(epoch: Any) -> None:
        nonlocal known
        if not sinks or epoch.step <= known.step:
            return
        # Written first: a run that is killed in between leaves a step out, and does not send it twice.
        known = replace(known, step=epoch.step)
        if _tried(" ".join(sinks), partial(write, known, path)) is None:
            sinks.clear()
        for one, sink in list(sinks.items()):
            if _tried(one, partial(_done, partial(sink.send, numbers_of(epoch), epoch.step))) is None:
                del sinks[one]

    try:
        yield send
    finally:
        for one, sink in sinks.items():
            _tried(one, sink.close)


def _done(call: Callable[[], None]) -> bool:
    call()
    return True


def numbers_of(epoch: Any) -> dict[str, float]:
    """Return the numbers of an epoch by name; those of structures as "structures/<name>".

    Not "dice/<name>": MLflow keeps "dice" as a file, and a file cannot be a folder as well.
    """
    found: dict[str, float] = {}
    for name, value in asdict(epoch).items():
        if isinstance(value, dict):
            found |= {f"structures/{_one_word(label)}": number for label, number in value.items() if number is not None}
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in {"number", "of", "step"}:
            found[name] = value
    return found


def plain(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under joined names: numbers, truth values and short text; no path."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= plain(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[prefix + name] = " ".join(str(one) for one in value if not isinstance(one, Path))
        elif value is not None and not isinstance(value, Path):
            found[prefix + name] = value
    return found


def _one_word(name: str) -> str:
    """Return a name as all trackers take it: MLflow refuses most signs, and a slash would make folders."""
    return re.sub(r"[^\w\-. ]", "_", name)


def _tried(name: str, call: Callable[[], Any]) -> Any:
    """Return what a tracker returns; warn and return None where it fails or takes too long.

    It is called in a thread of its own, which is left alone where a server does not answer.
    """
    found: list[Any] = []

    def work() -> None:
        try:
            found.extend((call(), None))
        except BaseException as error:
            found.extend((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    value, error = found or (None, TimeoutError(f"no answer for {PATIENCE:.4g} s"))
    if isinstance(error, MissingExtraError):
        raise error
    if error is not None:
        why = str(error).strip().splitlines()
        warnings.warn(
            f"nothing more is sent to {name}: {why[0] if why else type(error).__name__}; log.jsonl goes on",
            MambinoWarning,
            stacklevel=3,
        )
    return value


class TensorBoard:
    """Event files in `<run>/tensorboard`."""

    def __init__(self, folder: Path, known: str, title: str, facts: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
        except ImportError:
            raise _missing("tensorboard") from None
        self.id = "tensorboard"
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        if not known:
            rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
            self._writer.add_text(title, f"| option | value |\n|---|---|\n{rows}")

    def send(self, numbers: Numbers, step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run of the experiment "mambino", where MLFLOW_TRACKING_URI says."""

    def __init__(self, _folder: Path, known: str, title: str, facts: Mapping[str, Any]) -> None:
        try:
            from mlflow import entities  # noqa: PLC0415 - an extra
            from mlflow.tracking import MlflowClient  # noqa: PLC0415
        except ImportError:
            raise _missing("mlflow") from None
        self._client, self._entities = MlflowClient(), entities
        self.id = known or self._begun(title, facts)

    def _begun(self, title: str, facts: Mapping[str, Any]) -> str:
        experiment = self._client.get_experiment_by_name("mambino")
        place = experiment.experiment_id if experiment else self._client.create_experiment("mambino")
        run = str(self._client.create_run(place, run_name=title).info.run_id)
        params = [self._entities.Param(_one_word(name), str(value)[:500]) for name, value in facts.items()]
        for start in range(0, len(params), 100):  # MLflow takes no more at once, and no longer values
            self._client.log_batch(run, params=params[start : start + 100])
        return run

    def send(self, numbers: Numbers, step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in numbers.items()]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def close(self) -> None:
        self._client.set_terminated(self.id)


class Wandb:
    """A run of the project "mambino", offline where WANDB_MODE says so.

    W&B would send the command line, the host, git's state, installed packages and all that is printed, and with them
    paths and names of cases. All of it is turned off.
    """

    def __init__(self, folder: Path, known: str, title: str, facts: Mapping[str, Any]) -> None:
        try:
            import wandb  # noqa: PLC0415 - an extra
        except ImportError:
            raise _missing("wandb") from None
        self._run = wandb.init(
            project="mambino",
            name=title,
            id=known or None,
            resume="allow",
            config=dict(facts),
            dir=str(folder),
            # Its own 90 s end after we have let it go, and the program could not end before them.
            settings=wandb.Settings(**SILENT, init_timeout=PATIENCE / 2),
        )
        self.id = str(self._run.id)

    def send(self, numbers: Numbers, step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


SILENT: Mapping[str, Any] = {
    "console": "off",
    "host": "",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""What Weights & Biases is told not to collect."""

SINKS: Mapping[Tracker, Callable[[Path, str, str, Mapping[str, Any]], Sink]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
}


def _missing(name: str) -> MissingExtraError:
    return MissingExtraError(
        f"--log-to {name} needs {name}, which is not installed", hint=f"pip install mambino[{name}]"
    )
