"""Trackers: what `log.jsonl` holds, sent to TensorBoard, MLflow or Weights & Biases as well.

The log stays the truth. A tracker that fails is let go with a warning, and training goes on. What is sent are numbers
of epochs and plain values of the plan and of the options; no path, no name of a case.
"""

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
        for sink, send_it in [(sink, partial(one.send, numbers_of(epoch), epoch.step)) for sink, one in sinks.items()]:
            if not _tried(sink, partial(_done, send_it)):
                del sinks[sink]
        known = replace(known, step=epoch.step)
        write(known, path)

    try:
        yield send
    finally:
        for sink, one in sinks.items():
            _tried(sink, one.close)


def _done(call: Callable[[], None]) -> bool:
    call()
    return True


def numbers_of(epoch: Any) -> dict[str, float]:
    """Return the numbers of an epoch by name; those of structures as "dice/<structure>"."""
    found: dict[str, float] = {}
    for name, value in asdict(epoch).items():
        if isinstance(value, dict):
            found |= {f"dice/{label}": number for label, number in value.items() if number is not None}
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
            found[prefix + name] = " ".join(map(str, value))
        elif value is not None and not isinstance(value, Path):
            found[prefix + name] = value
    return found


def _tried(name: str, call: Callable[[], Any]) -> Any:
    """Return what a tracker returns; warn and return None where it fails."""
    try:
        return call()
    except MissingExtraError:
        raise
    except Exception as error:
        why = str(error).strip().splitlines()
        warnings.warn(
            f"nothing more is sent to {name}: {why[0] if why else type(error).__name__}; log.jsonl goes on",
            MambinoWarning,
            stacklevel=3,
        )
        return None


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
            from mlflow.tracking import MlflowClient  # noqa: PLC0415 - an extra
        except ImportError:
            raise _missing("mlflow") from None
        self._client = MlflowClient()
        self.id = known or self._begun(title, facts)

    def _begun(self, title: str, facts: Mapping[str, Any]) -> str:
        experiment = self._client.get_experiment_by_name("mambino")
        place = experiment.experiment_id if experiment else self._client.create_experiment("mambino")
        run = str(self._client.create_run(place, run_name=title).info.run_id)
        for name, value in facts.items():
            self._client.log_param(run, name, value)
        return run

    def send(self, numbers: Numbers, step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self.id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self.id)


class Wandb:
    """A run of the project "mambino", offline where WANDB_MODE says so."""

    def __init__(self, folder: Path, known: str, title: str, facts: Mapping[str, Any]) -> None:
        try:
            import wandb  # noqa: PLC0415 - an extra
        except ImportError:
            raise _missing("wandb") from None
        self._run = wandb.init(
            project="mambino", name=title, id=known or None, resume="allow", config=dict(facts), dir=str(folder)
        )
        self.id = str(self._run.id)

    def send(self, numbers: Numbers, step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: Mapping[Tracker, Callable[[Path, str, str, Mapping[str, Any]], Sink]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
}


def _missing(name: str) -> MissingExtraError:
    return MissingExtraError(
        f"--log-to {name} needs {name}, which is not installed", hint=f"pip install mambino[{name}]"
    )
