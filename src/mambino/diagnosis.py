"""What can run on this machine, which path each operator takes here, and how fast it is."""

import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from mambino.core import machine
from mambino.core.records import record
from mambino.ops.selective_scan import native, portable
from mambino.ops.selective_scan.inputs import Inputs
from mambino.ops.selective_scan.operator import path, scan_operator

_PACKAGES = ("mambino", "torch", "numpy", "scipy", "nibabel", "blosc2", "safetensors", "SimpleITK")


@record
class OperatorPath:
    """How one operator runs on one device.

    Attributes:
        operator, device: which.
        path: an implementation that there is here.
        used: it is the one that a call takes.
        milliseconds: median of a few calls (ms).
        note: at which size, and what that means.
    """

    operator: str
    device: str
    path: str
    used: bool
    milliseconds: float
    note: str


@record
class Examination:
    """The answer of `doctor`."""

    versions: dict[str, str]
    machine: dict[str, str]
    paths: tuple[OperatorPath, ...]


def doctor() -> Examination:
    """Look at versions, processor, memory and devices, and time the operators on each; takes about two seconds."""
    found = {name: _version(name) for name in _PACKAGES}
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    if torch.backends.mps.is_available():
        devices.append("mps")
    return Examination(
        versions={"python": platform.python_version(), **{k: v for k, v in found.items() if v}},
        machine={
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": str(machine.cores()),
            "memory free": f"{machine.memory():.1f} GiB",
            "devices": ", ".join(devices),
        },
        paths=tuple(path for device in devices for path in (*_scans(device), *_convolutions(device))),
    )


def _scans(device: str, length: int = 4096, width: int = 64, states: int = 16) -> list[OperatorPath]:
    """Time the scan by the path that a call takes, and by every other one that there is here."""
    u, delta = torch.randn(2, 1, length, width, device=device)
    B, C = torch.randn(2, 1, length, 1, states, device=device)  # noqa: N806 - the paper's symbols
    A = -torch.rand(width, states, device=device)  # noqa: N806
    inputs = Inputs(u, delta, A, B, C, None, None, None, None, None, None)
    times = {name: _median(call, device) for name, call in _ways(inputs).items()}
    used = path(device)
    size = f"{length} steps x {width} channels x {states} states"
    return [
        OperatorPath(
            operator="selective scan",
            device=device,
            path=name,
            used=name == used,
            milliseconds=elapsed,
            note=f"{size}, {elapsed * 1e6 / (length * width * states):.2f} ns a state"
            if name == used
            else f"{elapsed / times[used]:.1f} times as long",
        )
        for name, elapsed in times.items()
    ]


def _ways(inputs: Inputs) -> dict[str, Callable[[], object]]:
    """Return each way to scan these inputs on their device, the one in use first."""
    device = inputs.u.device.type
    ways: dict[str, Callable[[], object]] = {path(device): partial(scan_operator, inputs, softplus=True)}
    if device == "cpu" and not native.missing():
        ways |= {f"native {name}": partial(_with_instructions, name, inputs) for name in native.instruction_sets()}
    plain = partial(portable.scan, inputs, softplus=True, keep=False)
    return ways if path(device) == "chunked torch" else ways | {"chunked torch": plain}


def _with_instructions(name: str, inputs: Inputs) -> None:
    before = native.instruction_set()
    native.use_instruction_set(name)
    try:
        native.scan(inputs, softplus=True, keep=False)
    finally:
        native.use_instruction_set(before)


def _convolutions(device: str) -> list[OperatorPath]:
    x = torch.randn(1, 16, 40, 56, 40, device=device)
    weight = torch.randn(16, 16, 3, 3, 3, device=device)
    kinds = {"float32": torch.float32, "bf16": torch.bfloat16}
    paths = []
    for name, kind in kinds.items():
        image, kernel = x.to(kind), weight.to(kind)
        elapsed = _median(partial(torch.nn.functional.conv3d, image, kernel, padding=1), device)
        note = "16 channels, 40x56x40"
        paths.append(
            OperatorPath(
                operator="3D convolution",
                device=device,
                path=f"torch {name}",
                used=True,
                milliseconds=elapsed,
                note=note,
            )
        )
    return paths


def _median(call: Callable[[], object], device: str, rounds: int = 5) -> float:
    """Return the median duration of a call after one to warm up (ms)."""
    times = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            start = time.perf_counter()
            call()
            if device != "cpu":
                torch.zeros(1, device=device).cpu()  # wait for the device
            times.append(time.perf_counter() - start)
    return sorted(times[1:])[rounds // 2] * 1e3


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device, not a path of ours
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
