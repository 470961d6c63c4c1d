"""Many cases on several machines: workers segment, and whoever called names the masks and keeps the record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mambino.core.cluster import Caller, ClusterError, clear, meeting_place, tasks
from mambino.core.dataset import Case
from mambino.core.options import PredictOptions
from mambino.core.records import unwritable
from mambino.inference.ledger import Entry, Predictions, failure


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is told.

    Attributes:
        case: its files under names that all machines know, as all files here.
        groups: the bundles, in groups that look at images in one way.
        mask: the name that it will get.
        now: what the record says of all cases.
        options: of `predict`, without a scheduler.
        before: what the record had of this case.
        place: for masks that have no name yet.
    """

    case: Case
    groups: tuple[tuple[Path, ...], ...]
    mask: Path
    now: Predictions
    options: PredictOptions
    before: Entry | None
    place: Path = Path()


@dataclass(frozen=True, slots=True)
class Parked:
    """What a worker answers: the entry of a case, and where its mask waits for its name; None where there is none."""

    entry: Entry
    mask: Path | None


def predict_elsewhere(
    work: Callable[[Order, Caller], Parked],
    orders: Sequence[Order],
    keep_record: Callable[[Entry], None],
    progress: Callable[[str], None],
) -> None:
    """Have workers of a cluster segment cases; record each mask just before it gets its name, as `predict` does here.

    A case may be segmented twice, where a worker dies before it can say that it has done so. Each time makes a mask of
    its own, and the one that is answered for gets the name.

    Args:
        work: segments one case on a worker.
        orders: with options that name a scheduler.
        keep_record: told each entry.
        progress: told the name of each case that has ended.

    Raises:
        ClusterError: as `tasks` does.
        Error: whatever `work` raises.
    """
    folder, scheduler = orders[0].mask.parent.absolute(), orders[0].options.scheduler or ""
    clear(folder)
    progress("")
    with meeting_place(folder) as place:
        named = {f"case {order.case.id}": _seen_from_elsewhere(order, place) for order in orders}
        with tasks(scheduler, work, named, place) as ended:
            for name, answer in ended:
                _settle(answer, named[name], keep_record)
                progress(named[name].case.id)


def _seen_from_elsewhere(order: Order, place: Path) -> Order:
    case = replace(order.case, images=tuple(path.absolute() for path in order.case.images))
    groups = tuple(tuple(path.absolute() for path in group) for group in order.groups)
    options = replace(order.options, scheduler=None)
    return replace(order, case=case, groups=groups, mask=order.mask.absolute(), options=options, place=place)


def _settle(answer: Parked | ClusterError, order: Order, keep_record: Callable[[Entry], None]) -> None:
    if isinstance(answer, ClusterError):
        return keep_record(failure(order.case.id, answer, order.before))
    keep_record(answer.entry)
    if answer.mask:
        try:
            answer.mask.replace(order.mask)
        except OSError as error:
            raise unwritable(order.mask, error) from None
    return None
