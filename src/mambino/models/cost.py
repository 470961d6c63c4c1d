"""What a network costs: parameters, operations with the scan counted, memory of its activations.

Everything is found by running the network on tensors without data (torch's meta device), so that the
largest network takes a second and no memory.
"""

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import mambino.ops.causal_conv  # noqa: F401 - these define operators that are counted
import mambino.ops.cross_scan  # noqa: F401
from mambino.core.plan import NetworkSpec, Value
from mambino.core.records import record
from mambino.errors import OptionError
from mambino.models import build, describe, options_of
from mambino.models.claims import Claim, claims
from mambino.models.measuring import Measured, peaks
from mambino.ops.selective_scan.inputs import Inputs

WEIGHT = Inputs._fields.index("W") - 3  # among the arguments of the scan after u, delta and A

_KIND = {
    "aten.convolution": "convolutions",
    "mambino.causal_conv": "convolutions",
    "aten.mm": "linear",
    "aten.addmm": "linear",
    "mambino.selective_scan": "linear",  # beside the scan itself: the products that step sizes are made of
    "mambino.cross_scan": "linear",
}
"""Kinds of layers by operator; all others that multiply are attention: products of batches of matrices."""

# What the scan needs for itself, in sequences of the size of u: gradients that are summed over channels in parts.
_COPIES = {"mambino::selective_scan_backward": 1, "mambino::cross_scan_backward": 1}


@record
class Operations:
    """Work of one pass forward with all heads; biases, norms, activations, pooling and interpolation count nothing.

    Attributes:
        convolutions: their multiply-adds, those of the convolution before a scan among them.
        linear: multiply-adds of linear layers, those that make a scan's coefficients among them.
        attention: multiply-adds of products of two activations: queries with keys, weights with values.
        scan: operations of selective scans as VMamba counts them: 9 b l d n + b l d, and b l d with a gate, for a
            batch of b, l tokens, d channels and n states; of a scan along several paths, once for each path.
        scan_exact: operations that the recurrence takes, each product, sum and exponential one: 7 b l d n + 2 b l d,
            and b l d with a gate. For every state delta A, its exponential, (delta u) B, the decay of h, its sum,
            C h and its sum (one sum fewer a channel, for which delta u is made); D u is a product and a sum.
    """

    convolutions: int
    linear: int
    attention: int
    scan: int
    scan_exact: int

    @property
    def products(self) -> int:
        """All multiply-adds: what papers without scans report as FLOPs."""
        return self.convolutions + self.linear + self.attention

    @property
    def total(self) -> int:
        """The sum that papers report, although it adds multiply-adds and single operations."""
        return self.products + self.scan


@record
class Cost:
    """What a network costs for one image, beside what its paper claims.

    Attributes:
        network: what was counted.
        size: of the image (voxels).
        parameters: of the network, each tensor once.
        operations: of one pass forward.
        inference: peak of memory beside the weights (bytes), float32; see `activation_bytes`.
        training: the same for a step forward and backward, with the gradients of the weights.
        measured: peaks of memory that were measured, beside those counted; nothing if not asked for.
        claims: what is stated of this network in print, for which options and sizes.
        claimed: the parameters among it, in words.
        counted: parameters that we count with these.
        note: why they differ, or what else to know.
    """

    network: NetworkSpec
    size: tuple[int, ...]
    parameters: int
    operations: Operations
    inference: int
    training: int
    measured: Measured | None
    claims: tuple[Claim, ...]
    claimed: str
    counted: str
    note: str


def cost(
    model: str,
    size: tuple[int, ...],
    *,
    channels: int = 1,
    classes: int = 2,
    options: Mapping[str, Value] | None = None,
    measure: bool = False,
) -> Cost:
    """Count what a network costs for one image of `size` (voxels, slowest axis first).

    A network for images of one size is built for this size.

    Args:
        model: its name.
        size: 2 or 3 sides.
        channels, classes: of images and logits.
        options: of the network; what is left out has the paper's value.
        measure: also run it, forward and then a step of training, each in a process of its own, and measure the
            peak of memory; on Linux.

    Raises:
        OptionError: there is no such network, or not with these options or axes; or memory cannot be measured.
        ShapeError: the network does not take images of this size.
    """
    if len(size) not in {2, 3} or min(size) < 1:
        raise OptionError(f"an image has 2 or 3 sides of at least one voxel, got {size}", hint="as in --size 256x256")
    given = dict(options or {})
    if "patch" in options_of(model):
        given = {"patch": size, **given}
    spec = NetworkSpec(name=model, dim=len(size), in_channels=channels, out_channels=classes, options=given)
    held, operations = count(spec, size)
    said = describe(model)
    return Cost(
        network=spec,
        size=size,
        parameters=held,
        operations=operations,
        inference=activation_bytes(spec, size, 1, training=False),
        training=activation_bytes(spec, size, 1),
        measured=peaks(spec, size) if measure else None,
        claims=claims(model),
        claimed=said.claimed,
        counted=said.counted,
        note=said.note,
    )


def parameters(network: nn.Module) -> int:
    """Count the parameters of a network, each tensor once."""
    return sum(parameter.numel() for parameter in {id(p): p for p in network.parameters()}.values())


def multiply_adds(spec: NetworkSpec, shape: tuple[int, ...]) -> Operations:
    """Count the operations of a network for one image of `shape` (voxels)."""
    return count(spec, shape)[1]


def count(spec: NetworkSpec, shape: tuple[int, ...]) -> tuple[int, Operations]:
    """Count the parameters of a network, each tensor once, and its operations for one image of `shape` (voxels)."""
    scans: list[tuple[int, int]] = []

    def scan(u: tuple[int, ...], _: Any, rates: tuple[int, ...], *others: Any, **__: Any) -> int:
        scans.append(_recurrence(math.prod(u), rates[1], gate=True))
        weight = others[WEIGHT]
        return 2 * math.prod(u) * weight[1] if weight else 0  # step sizes are a product of few numbers a token

    def cross_scan(u: tuple[int, ...], _: Any, rates: tuple[int, ...], *others: Any, **__: Any) -> int:
        paths = rates[0]
        rank: int = others[1][2]  # after D comes W
        scans.append(_recurrence(paths * math.prod(u), rates[2], gate=False))
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
    kinds = dict.fromkeys(("convolutions", "linear", "attention"), 0)
    for operator, work in counter.get_flop_counts().get("Global", {}).items():
        kinds[_KIND.get(str(operator), "attention")] += work // 2
    papers, exact = (sum(column) for column in zip(*scans, strict=True)) if scans else (0, 0)
    return parameters(network), Operations(**kinds, scan=papers, scan_exact=exact)


def _recurrence(channels: int, states: int, *, gate: bool) -> tuple[int, int]:
    """Count the operations of a scan over tokens times `channels`: VMamba's convention, and exactly."""
    return channels * (9 * states + 1 + gate), channels * (7 * states + 2 + gate)


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


def end_layers(spec: NetworkSpec, patch: tuple[int, ...]) -> tuple[str, str]:
    """Return the names of the first and of the last convolution or matrix that a patch goes through."""
    network, x = _without_data(spec, patch, 1)
    called: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, _ConvNd | nn.Linear):
            module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        network(x)
    return called[0], called[-1]


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
