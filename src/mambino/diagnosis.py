"""What can run on this machine, which path each operator takes here, and how fast it is."""

import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from mambino.core import machine
from mambino.core.records import record
from mambino.ops.selective_scan import selective_scan
from mambino.ops.selective_scan.operator import path

_PACKAGES = ("mambino", "torch", "numpy", "scipy", "nibabel", "blosc2", "safetensors", "SimpleITK")


@record
class OperatorPath:
    """How one operator runs on one device.

    Attributes:
        operator, device: which.
        path: the implementation that a call takes here.
        milliseconds: median of a few calls (ms).
        note: at which size, and what that means.
    """

    operator: str
    device: str
    path: str
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
        paths=tuple(path for device in devices for path in (_scan(device), *_convolutions(device))),
    )


def _scan(device: str, length: int = 4096, width: int = 64, states: int = 16) -> OperatorPath:
    u, delta = torch.randn(2, 1, width, length, device=device)
    B, C = torch.randn(2, 1, states, length, device=device)  # noqa: N806 - the paper's symbols
    A = -torch.rand(width, states, device=device)  # noqa: N806
    elapsed = _median(lambda: selective_scan(u, delta, A, B, C, softplus=True), device)
    each = elapsed * 1e6 / (length * width * states)
    note = f"{length} steps x {width} channels x {states} states; {each:.2f} ns a state"
    return OperatorPath(operator="selective scan", device=device, path=path(device), milliseconds=elapsed, note=note)


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
                operator="3D convolution", device=device, path=f"torch {name}", milliseconds=elapsed, note=note
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
