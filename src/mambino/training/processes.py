"""One process, or several that `torchrun` has started and that learn together: who is who, and sums over all of them.

Several processes minimise what one would. Each computes the whole loss, of which its own samples are a part: whatever a
loss sums over a batch goes through `whole`. Its gradient is then that of its own part, and the sum over processes is
the gradient. Small numbers that decide something (times, whether to stop) are told by gloo on the processor, tensors on
a GPU by nccl.
"""

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from mambino.errors import Error, MambinoWarning, OptionError, ToldError

T = TypeVar("T")

BUCKET = 1 << 23
"""Gradients that are summed in one message (numbers): 32 MiB, large enough that a message costs little by itself."""
PATIENCE = timedelta(seconds=5)
"""How long a process that fails waits for the first one to fail, too, and to tell of it."""


def whole(part: Tensor) -> Tensor:
    """Return the sum of `part` over all processes, the same in each; in one process `part` itself.

    Its gradient is that of this process's part alone: every process computes the same loss from the sum, so the
    gradients of all processes add up to that of the loss once, not once for each process.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return part
    total: Tensor = _Whole.apply(part)  # type: ignore[no-untyped-call]
    return total


class _Whole(torch.autograd.Function):
    """A sum over processes on the way in, nothing on the way back."""

    @staticmethod
    def forward(_ctx: Any, part: Tensor) -> Tensor:
        """Return the sum; `part` stays as it is."""
        return _reduced(part.detach().clone())

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient of the sum: that of each of its parts."""
        return gradient


@dataclass(frozen=True, slots=True)
class Processes:
    """Which process this is, and of how many; the first one writes.

    Attributes:
        rank: number of this process, from 0.
        count: how many learn together.
        here: how many of them are on this machine, and share its processor and memory.
    """

    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, shows and decides."""
        return self.rank == 0

    def share(self, values: Sequence[T]) -> Sequence[T]:
        """Return this process's part of some values; parts differ by one value at most."""
        return values[self.rank :: self.count]

    def joined(self, network: nn.Module) -> nn.Module:
        """Return a network whose gradients are the mean over all processes."""
        return network if self.count == 1 else nn.parallel.DistributedDataParallel(network)

    def summed(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes; it is changed in place."""
        return value if self.count == 1 else _reduced(value)

    def add_up(self, network: nn.Module) -> None:
        """Replace each gradient by its sum over all processes, in messages of `BUCKET` numbers."""
        if self.count == 1:
            return
        for gradients in _buckets([p.grad for p in network.parameters() if p.grad is not None]):
            total = _reduced(torch.cat([gradient.flatten() for gradient in gradients]))
            pieces = torch.split(total, [gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def each(self, number: float) -> list[float]:
        """Return a number of every process, in their order; all have to ask."""
        if self.count == 1:
            return [number]
        row = torch.zeros(self.count, dtype=torch.float64)
        row[self.rank] = number
        found: list[float] = _reduced(row).tolist()
        return found

    def each_text(self, text: str) -> list[str]:
        """Return a text of every process, in their order; all have to ask."""
        data = text.encode()
        longest = max(1, int(max(self.each(len(data)))))
        table = torch.zeros(self.count, longest, dtype=torch.uint8)
        table[self.rank, : len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        return [bytes(row).rstrip(b"\0").decode() for row in self.summed(table).tolist()]

    def clock(self) -> float:
        """Return the time of the first process (s), so that what follows from it is the same in all."""
        return self.each(time.perf_counter())[0]

    def wait(self) -> None:
        """Go on when every process has come here."""
        self.each(0.0)


ALONE = Processes()
"""The only process there is."""


def check_shares(all_: Processes, batch: int, network: nn.Module) -> None:
    """Refuse what several processes cannot learn together as one would.

    Raises:
        OptionError: a process would have no sample, or a layer of the network looks at the whole batch.
    """
    if batch < all_.count:
        raise OptionError(
            f"a batch of {batch} cannot be shared by {all_.count} processes",
            hint=f"start at most {batch} with torchrun --nproc-per-node, or raise `batch` in plan.json",
        )
    norms = [name for name, layer in network.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if all_.count > 1 and norms:
        raise OptionError(
            f"{norms[0]} normalises over a batch, of which each of {all_.count} processes would see only its part",
            hint="train this network in one process, or one with group or instance norms",
        )


def check_agreement(all_: Processes, what: str) -> None:
    """Refuse to go on where processes have read different things.

    Raises:
        OptionError: names the process that differs from the first.
    """
    found = all_.each_text(what)
    if other := [rank for rank, text in enumerate(found) if text != found[0]]:
        raise OptionError(
            f"process {other[0]} of {all_.count} has another plan, other cases or another state than the first",
            hint="all machines must see one work folder, and have one version of mambino",
        )


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that `torchrun` has started; without it there is one.

    A group that the caller has made already is joined as it is; it must serve the processor, too. Only the first
    process warns. Where all meet one error, only the first raises it, and the others `ToldError`.

    Raises:
        OptionError: more processes than GPUs, or a device that cannot be shared by processes.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Processes(distributed.get_rank(), distributed.get_world_size(), _here())
        return
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        yield ALONE
        return
    _take_device(device)
    store, rank, count = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # A program may train several times, and would else meet the addresses of the group before.
    store = PrefixStore(f"run {store.add(f'runs of {rank}', 1)}", store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        with warnings.catch_warnings():
            if rank:
                warnings.simplefilter("ignore", MambinoWarning)
            yield Processes(rank, count, _here())
    except (Error, KeyboardInterrupt) as error:
        if rank and _told(store):
            raise ToldError(f"process {rank} has ended as the first one has: {error}") from error
        if not rank:
            store.set("told", "yes")
        raise
    finally:
        distributed.destroy_process_group()


def refuse_several(verb: str) -> None:
    """Refuse what each process that `torchrun` has started would do once more.

    Raises:
        OptionError: names the verb and the number of processes.
    """
    count = (
        int(os.environ["WORLD_SIZE"]) if distributed.is_available() and distributed.is_torchelastic_launched() else 1
    )
    if count > 1:
        raise OptionError(
            f"{verb} was started in {count} processes, each of which would do all of it",
            hint="start it without torchrun; train and pretrain alone share their work",
        )


def speaks() -> bool:
    """Tell whether this process shows results: it is the only one, or the first that `torchrun` has started."""
    return not distributed.is_available() or not distributed.is_torchelastic_launched() or os.environ["RANK"] == "0"


def _here() -> int:
    """Return how many processes `torchrun` has started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _take_device(device: torch.device) -> None:
    """Take the GPU of this process."""
    if device.type not in ("cpu", "cuda"):
        raise OptionError(
            f"several processes learn together on cpu or cuda, not on {device.type}", hint="give --device cpu"
        )
    if device.type == "cuda":
        number, gpus = distributed.get_node_local_rank(), torch.cuda.device_count()
        if _here() > gpus:
            raise OptionError(
                f"{_here()} processes were started on a machine with {gpus} GPUs",
                hint=f"start at most {gpus} with torchrun --nproc-per-node, or give --device cpu",
            )
        torch.cuda.set_device(number)


def _told(store: PrefixStore) -> bool:
    """Tell whether the first process has failed as well."""
    try:
        store.wait(["told"], PATIENCE)
    except RuntimeError:
        return False
    return True


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield neighbours of one type, as many as a message takes."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.numel() > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket


def _reduced(value: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place.

    Raises:
        Error: a process has ended.
    """
    try:
        distributed.all_reduce(value)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        raise Error(
            f"another process of this run has ended or cannot be reached: {why}",
            hint="what it met is said by itself; the same command with --resume goes on from the last saved state",
        ) from error
    return value
