"""What a network costs: parameters, operations with the scan counted, memory of its activations.

Everything is found by running the network on tensors without data (torch's meta device), so that the
largest network takes a second and no memory.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import mambino.ops.causal_conv  # noqa: F401 - defines an operator that is counted
import mambino.ops.cross_scan  # noqa: F401 - as above
from mambino.core.plan import NetworkSpec
from mambino.models import build
from mambino.ops.selective_scan.inputs import Inputs

WEIGHT = Inputs._fields.index("W") - 3  # among the arguments of the scan after u, delta and A

# What the scan needs for itself, in sequences of the size of u: gradients that are summed over channels in parts.
_COPIES = {"mambino::selective_scan_backward": 1, "mambino::cross_scan_backward": 1}


@dataclass(frozen=True, slots=True)
class Operations:
    """Work of one pass forward with all heads, by the convention of the papers.

    Attributes:
        products: multiply-adds of convolutions, linear layers and matrix products; norms, activations,
            pooling and interpolation count nothing.
        scan: 9 n + 1 operations for each channel and token of a selective scan, one more with a gate, as VMamba counts.
    """

    products: int
    scan: int

    @property
    def total(self) -> int:
        """The sum that papers report, although it adds multiply-adds and single operations."""
        return self.products + self.scan


def parameters(network: nn.Module) -> int:
    """Count the parameters of a network, each tensor once."""
    return sum(parameter.numel() for parameter in {id(p): p for p in network.parameters()}.values())


def multiply_adds(spec: NetworkSpec, shape: tuple[int, ...]) -> Operations:
    """Count the operations of a network for one image of `shape` (voxels)."""
    scans: list[int] = []

    def scan(u: tuple[int, ...], _: Any, rates: tuple[int, ...], *others: Any, **__: Any) -> int:
        scans.append(math.prod(u) * (9 * rates[1] + 2))
        weight = others[WEIGHT]
        return 2 * math.prod(u) * weight[1] if weight else 0  # step sizes are a product of few numbers a token

    def cross_scan(u: tuple[int, ...], _: Any, rates: tuple[int, ...], *others: Any, **__: Any) -> int:
        paths = rates[0]
        rank: int = others[1][2]  # after D comes W
        scans.append(paths * math.prod(u) * (9 * rates[2] + 1))
        return 2 * paths * math.prod(u) * rank

    def convolution(x: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[1]

    network, x = _without_data(spec, shape, batch=1)
    mapping = {
        torch.ops.mambino.selective_scan: scan,
        torch.ops.mambino.cross_scan: cross_scan,
        torch.ops.mambino.causal_conv: convolution,
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with torch.no_grad(), counter:
        network.scales(x)
    return Operations(products=counter.get_total_flops() // 2, scan=sum(scans))


def activation_bytes(spec: NetworkSpec, patch: tuple[int, ...], batch: int, *, training: bool = True) -> int:
    """Estimate the peak of memory beside the weights in one step (bytes), in float32.

    It follows every tensor from its making to its end: forward alone, or forward and backward with the
    gradients of the weights. What libraries need for themselves inside an operation (mostly convolutions,
    some tens of percent) is not seen; optimisers keep one or two more copies of the weights.
    """
    network, x = _without_data(spec, patch, batch)
    with _Peak() as peak:
        if training:
            total = torch.stack([logits.square().mean() for logits in network.scales(x)]).sum()
            total.backward()  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                network(x)
    most: int = peak.bytes
    return most


def _without_data(spec: NetworkSpec, shape: tuple[int, ...], batch: int) -> tuple[Any, Tensor]:
    with torch.device("meta"):
        return build(spec), torch.empty(batch, spec.in_channels, *shape)


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storage of all tensors made while it is active that are still in use; remembers the peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._now = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        given = {x.untyped_storage() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(results):
            if isinstance(x, Tensor) and x.untyped_storage() not in given:
                self._follow(x.untyped_storage())
        copies = _COPIES.get(func.name().partition(".")[0], 0)
        inside = copies * max((x.nbytes for x in args if isinstance(x, Tensor)), default=0) if copies else 0
        self.bytes = max(self.bytes, self._now + inside)
        return results

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self._now += storage.nbytes()
        weakref.finalize(storage, self._release(storage.nbytes()))

    def _release(self, size: int) -> Callable[[], None]:
        def release() -> None:
            self._now -= size

        return release
