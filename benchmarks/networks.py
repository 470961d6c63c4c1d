"""Whole networks: seconds and peak memory of inference and of a training step, beside nnU-Net's and MONAI's.

    python benchmarks/networks.py [--json FILE] [--rounds 3] [--threads 2] [--cases 512x512 256x256 128x128x128]
                                  [--directions forward step] [--only NAME ...] [--loop] [--twins]

Contenders: the networks of mambino in their published sizes; from their own packages (`pip install 'mambino[bench]'`)
nnU-Net's PlainConvUNet as it is planned for that image, SegResNet, and SwinUNETR of 24 and 48 features; and with
`--loop` the Mamba networks on a loop over the steps, as they run today without CUDA (minutes); with `--twins` Mamba
networks without Mamba, or with all of it but the recurrence, for what the scan costs. All in float32, one image,
random weights, their rounds interleaved, medians; freed memory is kept, for all. Peaks are those of a process of its
own for each network and direction, its weights included. One that would need more than `--memory` is left out and said
so.
"""

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from instruments.measuring import HEADER, Row, describe, interleaved, resident, rows_of, write
from instruments.scan_forms import loop_paths, loop_tokens
from torch import nn

from mambino.core.plan import NetworkSpec, Value
from mambino.models import build, segmenting
from mambino.models import describe as described
from mambino.models.cost import activation_bytes
from mambino.nn.device import keep_allocations

CLASSES = 3
MAMBA = ("lightm_unet", "vm_unet")
"""Those that --loop runs on a loop too."""
TWINS: dict[str, tuple[str, Value]] = {
    **dict.fromkeys(("umamba_bot", "umamba_enc", "swin_umamba"), ("mixer", "none")),
    **dict.fromkeys(("swin_umamba_dagger", "vm_unet"), ("scan", "identity")),
}
"""Those that --twins runs once more, with this option."""
LOOP, TWIN = " on the loop", " without the scan"


def main() -> None:
    """Measure every case and direction, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=["512x512", "256x256", "128x128x128"])
    parser.add_argument("--directions", nargs="+", default=["forward", "step"])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--twins", action="store_true")
    parser.add_argument("--memory", type=float, default=12.0, help="that a contender may need (GiB)")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # of other packages
    if options.peak:
        return print(peak(options.peak, options.cases[0], options.directions[0]))
    keep_allocations()
    describe()
    print(HEADER.format("image", "nnU-Net's PlainConvUNet"))
    rows: list[Row] = []
    for case in options.cases:
        for direction in options.directions:
            rows += measured(case, direction, options)
    return write(rows, options.json)


def measured(case: str, direction: str, options: argparse.Namespace) -> list[Row]:
    """Measure one kind of image one way."""
    calls, peaks = {}, {}
    for name in chosen(case, direction, options):
        calls[name] = prepared(name, case, direction)
        peaks[name] = peak_elsewhere(name, case, direction, options.threads)
    times = interleaved(calls, options.rounds, slow=20.0)
    against = PLAIN if PLAIN in times else next(iter(times))
    return rows_of(case, direction, options.threads, times, peaks, against)


def chosen(case: str, direction: str, options: argparse.Namespace) -> list[str]:
    """Return the contenders for an image that have the memory for it."""
    sides, names = sides_of(case), []
    looped = [name + LOOP for name in MAMBA if options.loop]
    twins = [name + TWIN for name in TWINS if options.twins]
    for name in (*segmenting(), *peers(), *looped, *twins):
        base = base_of(name)
        if options.only and base not in options.only and name not in peers():
            continue
        if name not in peers() and len(sides) not in described(base).dims:
            continue
        if name.endswith(LOOP) and direction == "step":
            continue  # each step of the loop makes a gradient as large as the sequence
        need = 0.0 if name in peers() else needed(base, sides, direction)
        if need > options.memory:
            print(f"| {case} | {direction} | | {name} | left out: {need:.1f} GiB | | |")
        else:
            names.append(name)
    return names


def needed(name: str, sides: tuple[int, ...], direction: str) -> float:
    """Estimate the memory of one of ours (GiB)."""
    return activation_bytes(spec(name, sides), sides, 1, training=direction == "step") / 2**30


def prepared(name: str, case: str, direction: str) -> Callable[[], object]:
    """Return what is timed."""
    sides = sides_of(case)
    torch.manual_seed(0)
    twin = dict([TWINS[base_of(name)]]) if name.endswith(TWIN) else {}
    network = (peers()[name](sides) if name in peers() else build(spec(base_of(name), sides, **twin))).eval()
    x = torch.randn(1, channels(sides), *sides)

    def forward() -> None:
        with torch.no_grad():
            network(x)

    def on_the_loop() -> None:
        with (
            mock.patch("mambino.nn.mamba.scan_tokens", loop_tokens),
            mock.patch("mambino.nn.ss2d.cross_scan", loop_paths),
            mock.patch("mambino.nn.mamba.TILE", 2**40),
        ):
            forward()

    def step() -> None:
        network.zero_grad()
        network(x).square().mean().backward()

    if name.endswith(LOOP):
        return on_the_loop
    return forward if direction == "forward" else step


def peak_elsewhere(name: str, case: str, direction: str, threads: int) -> float:
    """Return the peak of a process of its own (MB)."""
    words = [sys.executable, __file__, "--peak", name, "--cases", case, "--directions", direction]
    done = subprocess.run([*words, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def peak(name: str, case: str, direction: str) -> float:
    """Build a network, run it twice, and return the most memory that took (MB)."""
    peers()  # imported before the count begins
    keep_allocations()
    before = resident(reset=True)
    call = prepared(name, case, direction)
    call()
    if not name.endswith(LOOP):
        call()
    return resident() - before


def base_of(name: str) -> str:
    """Return the network that a contender of ours is."""
    return name.removesuffix(LOOP).removesuffix(TWIN)


def sides_of(case: str) -> tuple[int, ...]:
    return tuple(map(int, case.split("x")))


def channels(sides: tuple[int, ...]) -> int:
    """Return three in 2D, as of a photograph, and one in 3D."""
    return 3 if len(sides) == 2 else 1


def spec(name: str, sides: tuple[int, ...], **twin: Value) -> NetworkSpec:
    """Return one of ours in its published size."""
    options = {"unet": plan(sides)}.get(name, {}) | twin
    return NetworkSpec(name=name, dim=len(sides), in_channels=channels(sides), out_channels=CLASSES, options=options)


def plan(sides: tuple[int, ...]) -> dict[str, object]:
    """Return the stages that nnU-Net plans for an isotropic image of equal sides: down to four voxels."""
    stages = sides[0].bit_length() - 2 if len(sides) == 2 else 6
    most = 512 if len(sides) == 2 else 320
    return {"features": tuple(min(32 * 2**i, most) for i in range(stages))}


PLAIN = "PlainConvUNet (nnU-Net)"


def peers() -> dict[str, Callable[[tuple[int, ...]], nn.Module]]:
    """Return what other packages have, as far as they are installed."""
    try:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet
        from monai.networks.nets import SegResNet, SwinUNETR
    except ImportError:
        return {}

    def plain(sides: tuple[int, ...]) -> nn.Module:
        dim, features = len(sides), plan(sides)["features"]
        conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dim == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        return PlainConvUNet(
            channels(sides), len(features), features, conv, 3, (1,) + (2,) * (len(features) - 1), 2, CLASSES, 2,
            conv_bias=True, norm_op=norm, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True}, deep_supervision=False,
        )  # fmt: skip

    def swin(features: int) -> Callable[[tuple[int, ...]], nn.Module]:
        return lambda sides: SwinUNETR(
            in_channels=channels(sides), out_channels=CLASSES, feature_size=features, spatial_dims=len(sides)
        )

    return {
        PLAIN: plain,
        "SegResNet (MONAI)": lambda sides: SegResNet(
            spatial_dims=len(sides), init_filters=32, in_channels=channels(sides), out_channels=CLASSES,
            blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1),
        ),
        "SwinUNETR-24 (MONAI)": swin(24),
        "SwinUNETR-48 (MONAI)": swin(48),
    }  # fmt: skip


if __name__ == "__main__":
    main()
