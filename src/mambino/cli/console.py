"""What a person sees: tables, progress, errors; the only place that prints, catches and exits."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mambino.core.options import Progress
from mambino.errors import Error, ToldError

if TYPE_CHECKING:
    from rich.console import Console

    from mambino.training.loop import Epoch
    from mambino.training.pretraining.loop import PretrainEpoch

INTERRUPTED = 130
ISSUES = "https://github.com/mambino/mambino/issues"


def guard(action: Callable[[], int | None]) -> int:
    """Run a command; turn whatever it raises into what a person needs to read, and an exit code."""
    warnings.showwarning = _show_warning
    try:
        return action() or 0
    except ToldError as error:
        return error.exit_code
    except Error as error:
        complain(str(error), error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here (train: add --resume)")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - nobody reads any more; let the exit be quiet
        return 0
    except Exception:
        traceback.print_exc()
        complain("this is a bug in mambino, not in what you did", f"please report it with the lines above: {ISSUES}")
        return 1


def complain(message: str, hint: str = "") -> None:
    """Say on the error stream what is wrong and what to do next."""
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def say(text: str) -> None:
    """Print one line of result."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print one line on the way, which is no result."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table as it is, square brackets included; columns of numbers lean right."""
    from rich.table import Table
    from rich.text import Text

    rows = [[_cell(value) for value in row] for row in rows]
    heading = Text(title) if title else None
    shown = Table(title=heading, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[i]) for row in rows)
        shown.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    _console(sys.stdout).print(shown)


@contextmanager
def progress(verb: str) -> Iterator[Progress]:
    """Lend a callback that draws a bar on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn(verb, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    what = TextColumn("{task.description}", markup=False)  # names of cases are no markup
    shown = sys.stderr.isatty()
    bar = Bar(*columns, what, console=_console(sys.stderr), transient=True, disable=not shown)
    with bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        yield update


@contextmanager
def stages() -> Iterator[tuple[Callable[[str], None], Progress]]:
    """Lend a callback that announces each stage, and one that says every few seconds how far it is."""
    import time

    spoken = [time.monotonic()]

    def announce(stage: str) -> None:
        spoken[0] = time.monotonic()
        note(f"== {stage}")

    def update(done: int, total: int, what: str) -> None:
        if time.monotonic() - spoken[0] > 5 or done == total:
            spoken[0] = time.monotonic()
            note(f"   {done}/{total} {what}")

    yield announce, update


def show_epoch(epoch: "Epoch") -> None:
    """Print the line of one epoch: loss, Dice, time left, memory."""
    dice = f"Dice {epoch.dice:.4f}" if epoch.dice is not None else " " * 11
    best = f"best {epoch.best:.4f}" if epoch.best is not None else " " * 11
    note(
        f"epoch {epoch.number:4d}/{epoch.of}  loss {epoch.loss:7.4f}  {dice}  {best}  "
        f"{duration(epoch.seconds_left)} left  {epoch.memory_gib:.1f} GiB"
    )


def show_fold(run: str, fold: int, folds: int) -> None:
    """Announce a fold before it is trained."""
    note(f"== {run}: fold {fold}, {fold + 1} of {folds}")


def show_lesson(epoch: "PretrainEpoch") -> None:
    """Print the line of one epoch of pretraining: loss, share told right, time left."""
    note(
        f"epoch {epoch.number:4d}/{epoch.of}  loss {epoch.loss:7.4f}  told right {epoch.accuracy:6.1%}  "
        f"best {epoch.best:6.1%}  {duration(epoch.seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """Write a time as people do: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    note(f"warning: {message}")


def _console(stream: Any) -> "Console":
    from rich.console import Console

    width = None if stream.isatty() else 200
    return Console(file=stream, highlight=False, soft_wrap=width is not None, width=width)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text in ("-", "") or text.lstrip("-").replace(".", "", 1).replace("e-", "").isdigit()
